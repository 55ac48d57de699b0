"use strict";
// The live page: what is shown and clicked. The network itself is repvgg.js.

const settings = JSON.parse(document.getElementById("settings").textContent);
const encoded = document.getElementById("weights").textContent.trim();
const { tensors, metadata } =
  repvgg.readSafetensors(Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0)));
const specs = repvgg.blocksOf(JSON.parse(metadata["npvgg.config"]));

const state = { blocks: [], x: null, maps: new Map(), block: 0, channel: 0, at: [0, 0] };
const byId = (id) => document.getElementById(id);
const written = (v) => Number(v).toPrecision(5);

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// --- Running it ----------------------------------------------------------------------------------

function chosenBranches() {
  return [...document.querySelectorAll("#branches input:checked")].map((box) => box.value);
}

function foldAll() {
  const which = chosenBranches();
  state.blocks = specs.map((spec) => repvgg.asDeployed(spec, repvgg.fold(spec, tensors, which)));
}

function classify() {
  if (!state.x) return;
  state.maps = new Map();
  const start = performance.now();
  const logits = repvgg.forward(state.x, state.blocks, tensors, (name, y) => state.maps.set(name, y));
  const took = performance.now() - start;
  const probabilities = repvgg.probabilities(Array.from(logits));
  const order = probabilities.map((_, k) => k).sort((a, b) => probabilities[b] - probabilities[a]);
  byId("classes").replaceChildren(...order.slice(0, 5).map((k) => {
    const row = document.createElement("tr");
    const bar = element("progress", "", { max: 1, value: probabilities[k], "aria-label": settings.labels[k] });
    const cell = document.createElement("td");
    cell.append(bar);
    row.append(element("th", settings.labels[k], { scope: "row" }),
      element("td", `${(100 * probabilities[k]).toFixed(2)} %`), element("td", logits[k].toFixed(4)), cell);
    return row;
  }));
  byId("answer").textContent =
    `${settings.labels[order[0]]}, ${(100 * probabilities[order[0]]).toFixed(2)} %`;
  byId("time").textContent = `${took.toFixed(0)} ms`;
  showBlock();
}

// --- The photo -----------------------------------------------------------------------------------

async function take(blob) {
  let image;
  try {
    image = await createImageBitmap(blob, { premultiplyAlpha: "none", colorSpaceConversion: "none" });
  } catch {
    byId("answer").textContent = "this file is no photo that the browser opens";
    return;
  }
  const canvas = new OffscreenCanvas(image.width, image.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const rgba = context.getImageData(0, 0, image.width, image.height).data;
  const rgb = new Uint8ClampedArray(image.width * image.height * 3);
  for (let i = 0, j = 0; j < rgb.length; i += 4, j += 3) {
    rgb[j] = rgba[i];
    rgb[j + 1] = rgba[i + 1];
    rgb[j + 2] = rgba[i + 2];
  }
  const { x, seen } = repvgg.preprocess(rgb, [image.height, image.width], settings);
  state.x = x;
  paint(byId("seen"), settings.size, settings.size, (i) => [seen[3 * i], seen[3 * i + 1], seen[3 * i + 2]]);
  classify();
}

// --- Maps ----------------------------------------------------------------------------------------

function paint(canvas, width, height, colour) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) image.data.set([...colour(i), 255], 4 * i);
  context.putImageData(image, 0, 0);
}

// White at zero, over orange to brown: the upper half of the scale of the other pages.
function colourOf(share) {
  const place = Math.min(Math.max(share, 0), 1) * 2, left = Math.min(Math.floor(place), 1);
  const [from, to] = settings.scale.slice(left, left + 2);
  return from.map((v, i) => Math.round(v + (to[i] - v) * (place - left)));
}

function mapOf(block) {
  return state.maps.get(state.blocks[block].name);
}

function largestOf(map) {
  return map.data.reduce((a, b) => Math.max(a, b), 1e-9);
}

function showBlock() {
  const map = mapOf(state.block), [K, P, Q] = map.shape, largest = largestOf(map);
  state.channel = Math.min(state.channel, K - 1);
  byId("shape").textContent = `${K} channels of ${P}×${Q} numbers, the largest ${written(largest)}`;
  byId("maps").replaceChildren(...Array.from({ length: K }, (_, k) => {
    const canvas = document.createElement("canvas");
    paint(canvas, Q, P, (i) => colourOf(map.data[k * P * Q + i] / largest));
    const button = element("button", "", { type: "button", title: `channel ${k}`, "aria-label": `channel ${k}` });
    button.append(canvas);
    button.addEventListener("click", () => { state.channel = k; state.at = strongest(map, k); showChannel(); });
    return button;
  }));
  state.at = strongest(map, state.channel);
  showChannel();
}

function strongest(map, k) {
  const [, P, Q] = map.shape, part = map.data.subarray(k * P * Q, (k + 1) * P * Q);
  const i = part.indexOf(part.reduce((a, b) => Math.max(a, b)));
  return [Math.floor(i / Q), i % Q];
}

function showChannel() {
  const map = mapOf(state.block), [, P, Q] = map.shape, k = state.channel, largest = largestOf(map);
  [...byId("maps").children].forEach((button, i) => button.setAttribute("aria-pressed", i === k));
  const [p, q] = state.at;
  paint(byId("channel"), Q, P, (i) =>
    (i === p * Q + q ? [0, 90, 200] : colourOf(map.data[k * P * Q + i] / largest)));
  takeApart();
}

// --- One number ----------------------------------------------------------------------------------

function takeApart() {
  const block = state.blocks[state.block], k = state.channel, [p, q] = state.at;
  const x = state.block ? mapOf(state.block - 1) : state.x, [, H, W] = x.shape;
  const perGroup = block.weight.shape[1], first = Math.floor(k / (block.weight.shape[0] / block.groups)) * perGroup;
  const parts = Array.from({ length: perGroup }, (_, c) => {
    let sum = 0, centre = 0;
    for (let r = 0; r < 3; r++) {
      for (let s = 0; s < 3; s++) {
        const h = p * block.stride + r - 1, w = q * block.stride + s - 1;
        if (h < 0 || h >= H || w < 0 || w >= W) continue;
        const value = x.data[((first + c) * H + h) * W + w];
        sum += value * block.weight.data[(k * perGroup + c) * 9 + 3 * r + s];
        if (r === 1 && s === 1) centre = value;
      }
    }
    return { c: first + c, sum, centre, weight: block.weight.data[(k * perGroup + c) * 9 + 4] };
  });
  const total = parts.reduce((sum, part) => sum + part.sum, 0), bias = block.bias[k];
  const most = [...parts].sort((a, b) => Math.abs(b.sum) - Math.abs(a.sum)).slice(0, 6);
  byId("parts").replaceChildren(...most.map((part) => {
    const row = document.createElement("tr");
    row.append(element("th", `channel ${part.c}`, { scope: "row" }),
      ...[part.centre, part.weight, part.sum].map((v) => element("td", written(v))));
    return row;
  }));
  const [P, Q] = mapOf(state.block).shape.slice(1);
  const value = mapOf(state.block).data[(k * P + p) * Q + q];
  byId("sum").textContent =
    `${block.name}, channel ${k}, row ${p}, column ${q}: ${perGroup * 9} products sum to ${written(total)}; ` +
    `with the bias ${written(bias)} that is ${written(total + bias)}; ReLU makes it ${written(value)}.`;
}

// --- What is clicked -----------------------------------------------------------------------------

specs.forEach((spec, i) => byId("blocks").append(element("option", spec.name, { value: i })));
byId("blocks").addEventListener("change", (event) => { state.block = Number(event.target.value); showBlock(); });
byId("branches").addEventListener("change", () => { foldAll(); classify(); });
byId("file").addEventListener("change", (event) => { if (event.target.files[0]) take(event.target.files[0]); });
byId("channel").addEventListener("click", (event) => {
  const [P, Q] = mapOf(state.block).shape.slice(1), box = event.target.getBoundingClientRect();
  const place = (at, start, size, count) => Math.min(count - 1, Math.max(0, Math.floor((at - start) / size * count)));
  state.at = [place(event.clientY, box.top, box.height, P), place(event.clientX, box.left, box.width, Q)];
  showChannel();
});
byId("channel").addEventListener("keydown", (event) => {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!step) return;
  event.preventDefault();
  const [P, Q] = mapOf(state.block).shape.slice(1);
  state.at = [Math.min(P - 1, Math.max(0, state.at[0] + step[0])), Math.min(Q - 1, Math.max(0, state.at[1] + step[1]))];
  showChannel();
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (file) take(file);
});

foldAll();
const example = Uint8Array.from(atob(settings.example), (c) => c.charCodeAt(0));
take(new Blob([example]));
