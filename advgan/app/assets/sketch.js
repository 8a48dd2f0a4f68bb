// A field to draw a digit on, examples to choose from, a place for a picture. Every image goes to
// onImage(url, finished) as a data URL; finished is false while a line is being drawn.
function createSketch(root, onImage) {
  const canvas = root.querySelector("canvas"), file = root.querySelector("input[type=file]");
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const draws = canvas.dataset.draw === "yes";
  let empty = true, last = null;

  function clear() {
    pen.fillStyle = "black";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    empty = true;
  }

  function show(url) {
    const image = new Image();
    image.onload = () => {
      clear();
      const scale = Math.min(canvas.width / image.width, canvas.height / image.height);
      const [width, height] = [image.width * scale, image.height * scale];
      pen.imageSmoothingEnabled = scale < 1;
      pen.drawImage(image, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
    };
    image.src = url;
    empty = false;
    root.dataset.drawn = "no";
  }

  function position(event) {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
  }

  function line(event) {
    const next = position(event);
    pen.beginPath();
    pen.moveTo(...last);
    pen.lineTo(...next);
    pen.stroke();
    last = next;
  }

  function read(picked) {
    const reader = new FileReader();
    reader.onload = () => { show(reader.result); onImage(reader.result, true); };
    reader.readAsDataURL(picked);
  }

  if (draws) {
    Object.assign(pen, { lineWidth: 22, lineCap: "round", lineJoin: "round", strokeStyle: "white" });
    canvas.addEventListener("pointerdown", (event) => {
      if (root.dataset.drawn !== "yes") clear();
      root.dataset.drawn = "yes";
      canvas.setPointerCapture(event.pointerId);
      last = position(event);
      line(event);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (last === null) return;
      line(event);
      onImage(canvas.toDataURL(), false);
    });
    canvas.addEventListener("pointerup", () => {
      if (last === null) return;
      last = null;
      onImage(canvas.toDataURL(), true);
    });
    root.querySelector(".clear").addEventListener("click", () => { clear(); onImage(canvas.toDataURL(), true); });
  }
  for (const image of root.querySelectorAll(".examples img")) {
    image.addEventListener("click", () => { show(image.src); onImage(image.src, true); });
  }
  file.addEventListener("change", () => { if (file.files.length) read(file.files[0]); file.value = ""; });
  root.addEventListener("dragover", (event) => event.preventDefault());
  root.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) read(event.dataTransfer.files[0]);
  });
  clear();
  const first = root.querySelector(".examples img.first");
  if (first) show(first.src);
}
