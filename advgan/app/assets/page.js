// The attack in the browser: classifier and generator in onnxruntime-web. FILES and SETTINGS are in models.js.
const UNTARGETED = -1, MEASURE_MS = 300, MOST_PASSES = 200;
const element = (id) => document.getElementById(id);

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// From file:// nothing can be fetched: the module and the WebAssembly are in runtime.js.
async function loadSessions() {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = (await unpacked(RUNTIME.wasm)).buffer;
  const module = new Blob([await unpacked(RUNTIME.mjs)], { type: "text/javascript" });
  ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(module) };
  const classifier = await ort.InferenceSession.create(await unpacked(FILES.classifier));
  return { classifier, generator: await ort.InferenceSession.create(await unpacked(FILES.generator)) };
}

function softmax(logits) {
  const most = Math.max(...logits), powers = Array.from(logits, (value) => Math.exp(value - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((value) => value / sum);
}

const images = (x) => new ort.Tensor("float32", x, [1, ...SETTINGS.shape]);

async function logitsOf(sessions, x) {
  return (await sessions.classifier.run({ x: images(x) })).logits.data;
}

// What the generator is given beside the image: all that it takes.
function conditions(label, eps, target) {
  const long = (value) => new ort.Tensor("int64", BigInt64Array.of(BigInt(value)), [1]);
  return {
    eps: new ort.Tensor("float32", Float32Array.of(eps), [1]),
    ...(SETTINGS.labels ? { y: long(label) } : {}),
    ...(SETTINGS.classes ? { y_target: long(target) } : {}),
    ...(SETTINGS.z.length ? { z: new ort.Tensor("float32", Float32Array.from(SETTINGS.z), [1, SETTINGS.z.length]) } : {}),
  };
}

const argmax = (values) => values.reduce((best, value, i) => (value > values[best] ? i : best), 0);

async function attack(sessions, x, eps, target) {
  const before = Array.from(await logitsOf(sessions, x));
  const inputs = { x: images(x), ...conditions(argmax(before), eps, target) };
  const pass = async () => (await sessions.generator.run(inputs)).x_adv.data;
  const adversarial = await pass();
  return { x, adversarial, before, after: Array.from(await logitsOf(sessions, adversarial)), eps, target, pass };
}

// Passes one after the other for MEASURE_MS, or until `stop`: how many, and how many fit in a second.
async function measure(pass, stop = () => false) {
  await pass();  // warms up
  const began = performance.now();
  let passes = 0;
  do {
    await pass();
    passes++;
  } while (performance.now() - began < MEASURE_MS && passes < MOST_PASSES && !stop());
  return { passes, rate: (1000 * passes) / (performance.now() - began) };
}

function paint(id, x, toLevel) {
  const [channels, height, width] = SETTINGS.shape, canvas = element(id);
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const pixels = new ImageData(width, height), plane = width * height;
  for (let i = 0; i < plane; i++) {
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = toLevel(x[(channels === 1 ? 0 : c) * plane + i]);
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function bars(id, logits) {
  const probabilities = softmax(logits);
  const order = probabilities.map((_, i) => i).sort((a, b) => probabilities[b] - probabilities[a]).slice(0, 5);
  element(id).replaceChildren(...order.map((label) => {
    const row = document.createElement("tr"), [name, bar, value] = [0, 1, 2].map(() => row.insertCell());
    name.textContent = SETTINGS.names[label];
    bar.className = "bar";
    bar.append(Object.assign(document.createElement("i"), { style: `width:${100 * probabilities[label]}%` }));
    value.textContent = `${(100 * probabilities[label]).toFixed(1)} %`;
    return row;
  }));
}

function verdict(text, kind = "") {
  element("verdict").textContent = text;
  element("verdict").className = `verdict ${kind}`;
}

const short = (value) => String(Number(value.toPrecision(3)));

function show(result, steps) {
  const { x, adversarial, before, after, eps, target } = result;
  const delta = adversarial.map((value, i) => value - x[i]);
  const largest = delta.reduce((most, value) => Math.max(most, Math.abs(value)), 0), l2 = Math.hypot(...delta);
  const scale = SETTINGS.norm === "linf" ? eps : Math.max(largest, 1e-6);
  paint("input", x, (value) => Math.round(value * 255));
  paint("delta", delta, (value) => Math.round((0.5 + value / (2 * scale)) * 255));
  paint("adversarial", adversarial, (value) => Math.round(value * 255));
  element("input-text").textContent = steps.join("; ") || "the picture";
  element("factor").textContent = `\u00d7 ${Number((1 / (2 * scale)).toPrecision(2))}`;
  element("delta-text").textContent = `grey: 0, white: +${short(scale)}, black: -${short(scale)}`;
  const sizes = [`largest change of a pixel ${short(largest)}`, `l2 norm ${short(l2)}`];
  if (SETTINGS.norm === "l2") sizes.reverse();
  element("adversarial-text").textContent = `${sizes[0]} (at most eps = ${short(eps)}); ${sizes[1]}`;
  bars("before", before);
  bars("after", after);
  const [was, is] = [argmax(before), argmax(after)], [from, to] = [SETTINGS.names[was], SETTINGS.names[is]];
  const aim = target === UNTARGETED ? "" : `, target class ${SETTINGS.names[target]}`;
  if (was === target) return verdict(`The image is of the target class ${from} already: choose another`);
  const success = target === UNTARGETED ? is !== was : is === target;
  verdict(`The classifier is ${success ? "" : "not "}fooled: ${from} \u2192 ${to}${aim}`, success ? "success" : "failure");
}

function showSpeed({ passes, rate }) {
  element("speed").innerHTML = `One pass of the generator: <b>${(1000 / rate).toFixed(1)} ms</b>, <b>${Math.round(rate)} passes a
    second</b>, measured now over ${passes} ${passes === 1 ? "pass" : "passes"}.`;
}

function setUpControls(update) {
  const slider = element("eps"), goal = element("goal"), { eps, norm, levels } = SETTINGS;
  const step = levels ? 1 / 255 : 10 ** Math.floor(Math.log10(eps) - 1);
  Object.assign(slider, { min: step, max: eps, step: "any", value: eps });
  const rounded = () => Math.min(Math.round(slider.value / step) * step, eps);
  element("eps-name").textContent = norm === "linf" ? "largest change of a pixel (black 0, white 1)" : "l2 norm of the change";
  const options = SETTINGS.targets.map((target) =>
    new Option(target === UNTARGETED ? "any other class (untargeted)" : SETTINGS.names[target], target));
  goal.replaceChildren(...options);
  goal.disabled = options.length === 1;
  const read = () => {
    const value = rounded();
    element("eps-value").textContent = levels ? `${Math.round(value * 255)}/255` : short(value);
    return { eps: value, target: Number(goal.value) };
  };
  for (const control of [slider, goal]) control.addEventListener("input", () => { read(); update(); });
  return read;
}

async function start() {
  const sessions = await loadSessions();
  let url = null, busy = false, again = false;

  async function update() {
    again = busy;
    if (busy || url === null) return;
    busy = true;
    try {
      const [x, steps] = await modelInput(url, SETTINGS), { eps, target } = read();
      const result = await attack(sessions, x, eps, target);
      show(result, steps);
      if (!again) showSpeed(await measure(result.pass, () => again));
    } catch (error) {
      verdict(error instanceof DOMException ? "This picture cannot be read." : error.message);
    }
    busy = false;
    if (again) update();
  }

  const read = setUpControls(update);
  read();
  createSketch(document.querySelector(".sketch"), (image) => { url = image; update(); });
  const first = document.querySelector(".examples img.first");
  element("note").textContent = SETTINGS.note;
  verdict("Drop a picture, or choose a file.");
  if (first) url = first.src;
  await update();
  window.advgan = { attack: (x, eps, target) => attack(sessions, Float32Array.from(x), eps, target), modelInput, measure };
}

start().catch((error) => verdict(`This browser cannot run the networks: ${error.message}`));
