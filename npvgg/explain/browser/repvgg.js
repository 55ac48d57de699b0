"use strict";
// RepVGG in plain JavaScript: a photo's pixels in, logits out. Read it from top to bottom.
//
// Letters: N images are taken one by one; C c input channel, K k output channel, H W input size,
// P Q p q output row and column, r s row and column of a kernel.
// A map is {shape: [C, H, W], data: Float32Array}. Sums are made in float64, as JavaScript counts,
// and rounded once to float32 where they are stored.

const repvgg = (() => {
  // --- Weights -----------------------------------------------------------------------------------

  // A safetensors file: 8 bytes of length, JSON, numbers. → {tensors: {name: {shape, data}}, metadata}
  function readSafetensors(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const length = Number(view.getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
    const metadata = header.__metadata__ ?? {};
    delete header.__metadata__;
    const tensors = {};
    for (const [name, { dtype, shape, data_offsets: [begin, end] }] of Object.entries(header)) {
      const size = { F32: 4, F16: 2 }[dtype];
      if (!size) throw new Error(`${name}: expected F32 or F16, got ${dtype}`);
      const data = new Float32Array((end - begin) / size);
      for (let i = 0, at = 8 + length + begin; i < data.length; i++, at += size) {
        data[i] = size === 4 ? view.getFloat32(at, true) : half(view.getUint16(at, true));
      }
      tensors[name] = { shape, data };
    }
    return { tensors, metadata };
  }

  // The number that 16 bits stand for: sign, 5 bits of exponent, 10 of fraction.
  function half(bits) {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
  }

  // The blocks of a configuration, in the order in which they run.
  function blocksOf(config) {
    for (const [key, plain] of Object.entries({ act_layer: "relu", global_pool: "avg", attn_layer: null })) {
      if (config[key] !== plain) throw new Error(`${key}: expected ${plain}, got ${config[key]}`);
    }
    const eps = config.bn_eps ?? 1e-5;
    const blocks = [{ name: "stem", stride: config.stem_stride, groups: 1, eps }];
    config.depths.forEach((depth, stage) => {
      for (let index = 0; index < depth; index++) {
        blocks.push({
          name: `stages.${stage}.${index}`,
          stride: index ? 1 : config.strides[stage],
          groups: index % 2 ? config.groups : 1,
          eps,
        });
      }
    });
    return blocks;
  }

  // --- Operations --------------------------------------------------------------------------------

  // y[k,p,q] = b[k] + Σ x[c, p·stride + r − padding, q·stride + s − padding] · w[k,c,r,s]
  function conv2d(x, weight, bias, stride, groups) {
    const [C, H, W] = x.shape, [K, perGroup, R] = weight.shape, padding = (R - 1) / 2;
    const P = Math.floor((H + 2 * padding - R) / stride) + 1;
    const Q = Math.floor((W + 2 * padding - R) / stride) + 1;
    const width = W + 2 * padding, plane = (H + 2 * padding) * width;
    const padded = new Float64Array(C * plane + stride); // zeros around each channel
    for (let c = 0; c < C; c++) {
      for (let h = 0; h < H; h++) {
        padded.set(x.data.subarray((c * H + h) * W, (c * H + h + 1) * W),
          c * plane + (h + padding) * width + padding);
      }
    }
    const y = new Float32Array(K * P * Q), sums = new Float64Array(P * Q), w = weight.data;
    for (let k = 0; k < K; k++) {
      sums.fill(bias ? bias[k] : 0);
      const first = Math.floor(k / (K / groups)) * perGroup;
      for (let c = 0; c < perGroup; c++) {
        const from = (first + c) * plane, at = (k * perGroup + c) * R * R;
        if (R === 3) addWindows(sums, padded, from, width, w, at, P, Q, stride);
        else addPixels(sums, padded, from, width, w[at], P, Q, stride);
      }
      y.set(sums, k * P * Q);
    }
    return { shape: [K, P, Q], data: y };
  }

  // Add one input channel's part of a 3×3 convolution: nine products for each output. A window is
  // the one before it, moved on: at stride 1 six of its nine numbers are at hand already.
  function addWindows(sums, x, from, width, w, at, P, Q, stride) {
    const w0 = w[at], w1 = w[at + 1], w2 = w[at + 2], w3 = w[at + 3], w4 = w[at + 4];
    const w5 = w[at + 5], w6 = w[at + 6], w7 = w[at + 7], w8 = w[at + 8];
    for (let p = 0, out = 0; p < P; p++) {
      let a = from + p * stride * width, b = a + width, c = b + width;
      let a0 = x[a], a1 = x[a + 1], b0 = x[b], b1 = x[b + 1], c0 = x[c], c1 = x[c + 1];
      for (const end = out + Q; out < end; out++) {
        const a2 = x[a + 2], b2 = x[b + 2], c2 = x[c + 2];
        sums[out] += a0 * w0 + a1 * w1 + a2 * w2
          + b0 * w3 + b1 * w4 + b2 * w5
          + c0 * w6 + c1 * w7 + c2 * w8;
        a += stride; b += stride; c += stride;
        if (stride === 1) {
          a0 = a1; a1 = a2; b0 = b1; b1 = b2; c0 = c1; c1 = c2;
        } else {
          a0 = x[a]; a1 = x[a + 1]; b0 = x[b]; b1 = x[b + 1]; c0 = x[c]; c1 = x[c + 1];
        }
      }
    }
  }

  // The same of a 1×1 convolution.
  function addPixels(sums, x, from, width, w, P, Q, stride) {
    for (let p = 0, out = 0; p < P; p++) {
      let a = from + p * stride * width;
      for (let q = 0; q < Q; q++, out++, a += stride) sums[out] += x[a] * w;
    }
  }

  // y = (x − mean) · γ / √(var + eps) + β, channel by channel
  function batchNorm(x, { mean, variance, gamma, beta, eps }) {
    const [K, P, Q] = x.shape, y = new Float32Array(x.data.length);
    for (let k = 0, i = 0; k < K; k++) {
      const t = gamma[k] / Math.sqrt(variance[k] + eps);
      for (const end = i + P * Q; i < end; i++) y[i] = (x.data[i] - mean[k]) * t + beta[k];
    }
    return { shape: x.shape, data: y };
  }

  const add = (a, b) => ({ shape: a.shape, data: a.data.map((v, i) => v + b.data[i]) });
  const relu = (x) => ({ shape: x.shape, data: x.data.map((v) => (v < 0 ? 0 : v)) });

  // Each channel's mean.
  function pool(x) {
    const [C, H, W] = x.shape, y = new Float32Array(C);
    for (let c = 0; c < C; c++) {
      let sum = 0;
      for (let i = 0; i < H * W; i++) sum += x.data[c * H * W + i];
      y[c] = sum / (H * W);
    }
    return y;
  }

  // y[k] = b[k] + Σ_c x[c] · w[k,c]
  function linear(x, weight, bias) {
    return Float32Array.from(bias, (b, k) => {
      let sum = b;
      for (let c = 0; c < x.length; c++) sum += x[c] * weight.data[k * x.length + c];
      return sum;
    });
  }

  // --- The network -------------------------------------------------------------------------------

  function norm(tensors, name, eps) {
    const of = (what) => tensors[`${name}.${what}`].data;
    const [mean, variance] = [of("running_mean"), of("running_var")];
    return { gamma: of("weight"), beta: of("bias"), mean, variance, eps };
  }

  const hasIdentity = (tensors, block) => `${block.name}.identity.weight` in tensors;

  // A block as it is trained. `keep` is called with every tensor and its name.
  function branches(x, block, tensors, keep = () => {}) {
    const { name, stride, groups, eps } = block;
    const kept = (what, y) => { keep(`${name}.${what}`, y); return y; };
    let y = null;
    for (const branch of ["conv_kxk", "conv_1x1"]) {
      const weight = tensors[`${name}.${branch}.conv.weight`];
      const z = kept(`${branch}.conv`, conv2d(x, weight, null, stride, groups));
      const normed = kept(`${branch}.bn`, batchNorm(z, norm(tensors, `${name}.${branch}.bn`, eps)));
      y = y ? add(y, normed) : normed;
    }
    if (hasIdentity(tensors, block)) {
      y = add(y, kept("identity", batchNorm(x, norm(tensors, `${name}.identity`, eps))));
    }
    return relu(kept("sum", y));
  }

  // The one convolution that a block's branches fold into; `which`: those that are taken.
  function fold(block, tensors, which = ["conv_kxk", "conv_1x1", "identity"]) {
    const { name, eps } = block, shape = tensors[`${name}.conv_kxk.conv.weight`].shape;
    const [K, C] = shape, w = new Float64Array(K * C * 9), b = new Float64Array(K);
    for (const branch of which) {
      if (branch === "identity" && !hasIdentity(tensors, block)) continue;
      const n = norm(tensors, `${name}.${branch}${branch === "identity" ? "" : ".bn"}`, eps);
      const kernel = tensors[`${name}.${branch}.conv.weight`]?.data;
      for (let k = 0; k < K; k++) {
        const t = n.gamma[k] / Math.sqrt(n.variance[k] + eps);
        b[k] += n.beta[k] - n.mean[k] * t;
        if (branch === "identity") w[(k * C + (k % C)) * 9 + 4] += t;
        for (let c = 0; kernel && c < C; c++) {
          const at = k * C + c;
          if (branch === "conv_1x1") w[at * 9 + 4] += kernel[at] * t;
          else for (let i = 0; i < 9; i++) w[at * 9 + i] += kernel[at * 9 + i] * t;
        }
      }
    }
    return { weight: { shape, data: Float32Array.from(w) }, bias: Float32Array.from(b) };
  }

  // Run a network: blocks, each with `run(x, keep)`, then mean and classifier.
  function forward(x, blocks, tensors, keep = () => {}) {
    for (const block of blocks) {
      x = block.run(x, keep);
      keep(block.name, x);
    }
    const pooled = pool(x);
    keep("pool", { shape: [pooled.length], data: pooled });
    const logits = linear(pooled, tensors["head.fc.weight"], tensors["head.fc.bias"].data);
    keep("logits", { shape: [logits.length], data: logits });
    return logits;
  }

  const asTrained = (block, tensors) => ({ ...block, run: (x, keep) => branches(x, block, tensors, keep) });

  function asDeployed(block, { weight, bias }) {
    const run = (x, keep) => {
      const y = conv2d(x, weight, bias, block.stride, block.groups);
      keep(`${block.name}.reparam_conv`, y);
      return relu(y);
    };
    return { ...block, weight, bias, run };
  }

  function probabilities(logits) {
    if (logits.length === 1) return [1 / (1 + Math.exp(-logits[0]))];  // of the one class
    const powers = logits.map((v) => Math.exp(v - Math.max(...logits)));
    const sum = powers.reduce((a, b) => a + b);
    return powers.map((v) => v / sum);
  }

  // --- The photo ---------------------------------------------------------------------------------

  // Pillow's bilinear resize of bytes, (H, W, 3): a triangle as wide as the scale, in integers of 22
  // bits behind the point; columns first, rounded to bytes, then rows.
  // (Pillow 13 takes rows first for photos that are over twice as tall as wide.)
  function resize(pixels, [H, W], [height, width]) {
    const across = windows(W, width), down = windows(H, height);
    const between = new Uint8ClampedArray(H * width * 3), out = new Uint8ClampedArray(height * width * 3);
    for (let h = 0; h < H; h++) {
      across.forEach(({ from, weights }, w) => {
        for (let c = 0; c < 3; c++) {
          let sum = 1 << 21;
          weights.forEach((k, i) => { sum += pixels[(h * W + from + i) * 3 + c] * k; });
          between[(h * width + w) * 3 + c] = Math.floor(sum / (1 << 22));
        }
      });
    }
    down.forEach(({ from, weights }, h) => {
      for (let i = 0; i < width * 3; i++) {
        let sum = 1 << 21;
        weights.forEach((k, j) => { sum += between[(from + j) * width * 3 + i] * k; });
        out[h * width * 3 + i] = Math.floor(sum / (1 << 22));
      }
    });
    return out;
  }

  // Which input pixels each output pixel reads along a side, and how much of each.
  function windows(size, target) {
    const scale = size / target, support = Math.max(scale, 1);
    return Array.from({ length: target }, (_, i) => {
      const centre = (i + 0.5) * scale;
      const from = Math.max(0, Math.trunc(centre - support + 0.5));
      const to = Math.min(size, Math.trunc(centre + support + 0.5));
      const weights = Array.from({ length: to - from }, (_, j) =>
        Math.max(0, 1 - Math.abs((from + j - centre + 0.5) * (1 / support))));
      const sum = weights.reduce((a, b) => a + b);
      return { from, weights: weights.map((v) => Math.floor(v / sum * (1 << 22) + 0.5)) };
    });
  }

  // The evaluation transform: the short side to size / crop_pct, the centre cropped, normalised.
  function preprocess(pixels, [H, W], { size, crop_pct: pct, mean, std }) {
    const short = Math.floor(size / pct), long = Math.trunc(short * Math.max(H, W) / Math.min(H, W));
    const [height, width] = W <= H ? [long, short] : [short, long];
    const small = H === height && W === width ? pixels : resize(pixels, [H, W], [height, width]);
    const offset = (side) => halfToEven((side - size) / 2);
    const top = offset(height), left = offset(width);
    const data = new Float32Array(3 * size * size), seen = new Uint8ClampedArray(3 * size * size);
    const f = Math.fround;
    for (let c = 0; c < 3; c++) {
      for (let h = 0; h < size; h++) {
        for (let w = 0; w < size; w++) {
          const byte = small[((top + h) * width + left + w) * 3 + c];
          seen[(h * size + w) * 3 + c] = byte;
          data[(c * size + h) * size + w] = f(f(f(byte / 255) - f(mean[c])) / f(std[c]));
        }
      }
    }
    return { x: { shape: [3, size, size], data }, seen };
  }

  function halfToEven(value) {
    const down = Math.floor(value);
    if (value - down !== 0.5) return Math.round(value);
    return down % 2 ? down + 1 : down;
  }

  return {
    readSafetensors, blocksOf, conv2d, batchNorm, branches, fold, forward, asTrained, asDeployed,
    probabilities, resize, preprocess,
  };
})();

if (typeof module !== "undefined") module.exports = repvgg;
