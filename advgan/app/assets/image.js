// A picture as the input of the classifier: the same steps as advgan/app/digits.py and advgan/data/model_input.py.
// An image is {width, height, planes}: one Float64Array for each channel, row by row.
const SIDE = 28, BOX = 20, CENTRE = 14, INK = 0.2, CONTRAST = 0.1;

// Rounds halves to even, as Python does.
function round(value) {
  const nearest = Math.round(value);
  return nearest - value === 0.5 && nearest % 2 ? nearest - 1 : nearest;
}

// Resampling by a triangle that is wide enough to average where pixels become fewer (Pillow's BILINEAR), along one side.
function weights(from, size, start, length) {
  const scale = length / size, support = Math.max(scale, 1), rows = [];
  for (let i = 0; i < size; i++) {
    const centre = start + (i + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - support + 0.5));
    const end = Math.min(from, Math.floor(centre + support + 0.5));
    const row = [];
    for (let j = first; j < end; j++) row.push(Math.max(0, 1 - Math.abs((j + 0.5 - centre) / support)));
    const sum = row.reduce((a, b) => a + b, 0);
    rows.push({ first, values: row.map((value) => value / sum) });
  }
  return rows;
}

function resample(image, width, height, box = [0, 0, image.width, image.height]) {
  const [left, top, boxWidth, boxHeight] = box;
  const columns = weights(image.width, width, left, boxWidth), rows = weights(image.height, height, top, boxHeight);
  const planes = image.planes.map((plane) => {
    const narrow = new Float64Array(width * image.height), result = new Float64Array(width * height);
    for (let y = 0; y < image.height; y++) {
      columns.forEach(({ first, values }, x) => {
        let sum = 0;
        values.forEach((value, j) => { sum += value * plane[y * image.width + first + j]; });
        narrow[y * width + x] = sum;
      });
    }
    rows.forEach(({ first, values }, y) => {
      values.forEach((value, j) => {
        for (let x = 0; x < width; x++) result[y * width + x] += value * narrow[(first + j) * width + x];
      });
    });
    return result;
  });
  return { width, height, planes };
}

function crop(image, left, top, width, height) {
  const planes = image.planes.map((plane) => {
    const part = new Float64Array(width * height);
    for (let y = 0; y < height; y++) {
      part.set(plane.subarray((top + y) * image.width + left, (top + y) * image.width + left + width), y * width);
    }
    return part;
  });
  return { width, height, planes };
}

function median(values) {
  const sorted = Float64Array.from(values).sort(), middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function frame({ width, height, planes: [plane] }) {
  const values = [...plane.subarray(0, width), ...plane.subarray((height - 1) * width)];
  for (let y = 0; y < height; y++) values.push(plane[y * width], plane[y * width + width - 1]);
  return values;
}

// A grey image of one digit in the form of MNIST, and what was done to it; throws where there is no digit.
function mnistForm(image) {
  const steps = [];
  let grey = image.planes[0], background = median(frame(image));
  if (background > 0.5) {
    grey = grey.map((value) => 1 - value);
    background = 1 - background;
    steps.push("inverted to light on dark");
  }
  let ink = grey.map((value) => Math.max(value - background, 0));
  const most = ink.reduce((a, b) => Math.max(a, b), 0);
  if (most < CONTRAST) throw new Error("Draw a digit, or choose one.");
  if (image.width === SIDE && image.height === SIDE && !steps.length) return [image, ["28 x 28 pixels: unchanged"]];
  ink = ink.map((value) => (value / most > INK ? value / most : 0));
  let [left, right, top, bottom] = [image.width, -1, image.height, -1];
  ink.forEach((value, i) => {
    if (!value) return;
    const x = i % image.width, y = (i - x) / image.width;
    [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
  });
  const [width, height] = [right - left + 1, bottom - top + 1], scale = BOX / Math.max(width, height);
  const sides = [width, height].map((side) => Math.max(1, round(side * scale)));
  const digit = resample(crop({ ...image, planes: [ink] }, left, top, width, height), ...sides);
  return [centred(digit), [...steps, "scaled to a box of 20 x 20 pixels", "centre of mass moved to the middle"]];
}

function centred({ width, height, planes: [plane] }) {
  const most = plane.reduce((a, b) => Math.max(a, b), 0), field = new Float64Array(SIDE * SIDE);
  let [total, massX, massY] = [0, 0, 0];
  plane.forEach((value, i) => { total += value; massX += value * (i % width); massY += value * Math.floor(i / width); });
  const left = Math.min(Math.max(round(CENTRE - massX / total), 0), SIDE - width);
  const top = Math.min(Math.max(round(CENTRE - massY / total), 0), SIDE - height);
  plane.forEach((value, i) => { field[(top + Math.floor(i / width)) * SIDE + left + (i % width)] = value / most; });
  return { width: SIDE, height: SIDE, planes: [field] };
}

// Resized and cropped around the centre, rounded to 8 bits.
function fitted(image, width, height, resize) {
  let result;
  if (resize === null) {
    const scale = Math.min(image.width / width, image.height / height), box = [width * scale, height * scale];
    result = resample(image, width, height, [(image.width - box[0]) / 2, (image.height - box[1]) / 2, ...box]);
  } else {
    const short = Math.min(image.width, image.height);
    const sides = [image.width, image.height].map((side) => Math.floor((resize * side) / short));
    const [left, top] = [round((sides[0] - width) / 2), round((sides[1] - height) / 2)];
    result = crop(resample(image, ...sides), left, top, width, height);
  }
  return { ...result, planes: result.planes.map((plane) => plane.map((value) => Math.round(value * 255) / 255)) };
}

// The pixels of a picture, grey (ITU-R 601, as Pillow) or red, green and blue, in [0, 1].
async function readPicture(url, channels) {
  const picture = new Image();
  picture.src = url;
  await picture.decode();
  const canvas = new OffscreenCanvas(picture.naturalWidth, picture.naturalHeight), pen = canvas.getContext("2d");
  pen.fillStyle = "white";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(picture, 0, 0);
  const { data, width, height } = pen.getImageData(0, 0, canvas.width, canvas.height);
  const planes = Array.from({ length: channels }, () => new Float64Array(width * height));
  for (let i = 0; i < width * height; i++) {
    const [red, green, blue] = data.subarray(4 * i, 4 * i + 3);
    if (channels === 1) planes[0][i] = ((red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16) / 255;
    else [red, green, blue].forEach((value, c) => { planes[c][i] = value / 255; });
  }
  return { width, height, planes };
}

// Input of the classifier (c, h, w) as Float32Array, and what was done to the picture.
async function modelInput(url, { shape: [channels, height, width], digits, resize }) {
  const picture = await readPicture(url, channels);
  const [image, steps] = digits
    ? mnistForm(picture)
    : picture.width === width && picture.height === height && resize === null
      ? [picture, []]
      : [fitted(picture, width, height, resize), ["resized and cropped in this browser"]];
  const x = new Float32Array(channels * height * width);
  image.planes.forEach((plane, c) => x.set(plane, c * height * width));
  return [x, steps];
}
