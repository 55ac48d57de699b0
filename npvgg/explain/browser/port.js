"use strict";
// How to test your port:  node port.js PACK OUT
//
// PACK is a folder by `npvgg conformance`; this runs its network on its input, and writes every
// tensor on the way into OUT, as raw float32 with shapes.json. Then `npvgg compare PACK OUT` says
// whether they are right.

const fs = require("fs");
const path = require("path");
const repvgg = require("./repvgg.js");

const [pack, out] = process.argv.slice(2);
const read = (name) => repvgg.readSafetensors(new Uint8Array(fs.readFileSync(path.join(pack, name))));

const manifest = JSON.parse(fs.readFileSync(path.join(pack, "manifest.json"), "utf8"));
const { tensors } = read(`weights.${manifest.form}.safetensors`);
const input = read("tensors.safetensors").tensors.input;
const wanted = new Set(manifest.tensors.map((tensor) => tensor.name));

const blocks = repvgg.blocksOf(manifest.config).map((block) => {
  if (manifest.form === "train") return repvgg.asTrained(block, tensors);
  const weight = tensors[`${block.name}.reparam_conv.weight`];
  return repvgg.asDeployed(block, { weight, bias: tensors[`${block.name}.reparam_conv.bias`].data });
});

const shapes = {};
function keep(name, { shape, data }) {
  if (!wanted.has(name)) return;
  shapes[name] = [1, ...shape];
  fs.writeFileSync(path.join(out, `${name}.f32`), Buffer.from(data.buffer, data.byteOffset, data.byteLength));
}

fs.mkdirSync(out, { recursive: true });
const x = { shape: input.shape.slice(1), data: input.data };
keep("input", x);
repvgg.forward(x, blocks, tensors, keep);
fs.writeFileSync(path.join(out, "shapes.json"), JSON.stringify(shapes));
