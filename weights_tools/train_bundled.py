"""Train the network that ships in the package: repvgg_nano on CIFAR-10, with PyTorch on a CPU.

    python -m weights_tools.train_bundled --data DATA.zip --checkpoint RUN.pt --out OUT.safetensors

The archive holds JPEG files as train/<class>/<name>.jpg and test/<class>/<name>.jpg. The test
images are only counted right or wrong once, after the last epoch; choose settings with
`--holdout 5000`, which sets training images aside. A run that was stopped goes on from its
checkpoint.

The recipe: Muon (orthogonalised momentum, Jordan et al. 2024) for the kernels, whose norms are kept
fixed because a batch norm follows each; AdamW for batch norms and classifier; both rates rise
linearly for one epoch and then fall linearly to zero. Crops of 24, then 28, then 32 pixels, a third
of the epochs each, random flips, one square blanked out of each image, label smoothing. No
augmentation at evaluation.
"""

from __future__ import annotations

import argparse
import io
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import npvgg
from npvgg.config import expand
from npvgg.hub.pretrained import BUNDLED, pretrained_cfg
from npvgg.variants import VARIANTS

NAME, TAG = BUNDLED.split(".")
CFG = pretrained_cfg(NAME, TAG)


# --- Data -----------------------------------------------------------------------------------------


def read_images(archive: Path, part: str) -> tuple[Tensor, Tensor]:
    """Decode one part of the archive: (N, 3, 32, 32) uint8, and class indices (N,)."""
    names = CFG["label_names"]
    pixels, classes = [], []
    with zipfile.ZipFile(archive) as file:
        for entry in sorted(file.namelist()):
            folders = entry.split("/")
            if len(folders) >= 3 and folders[-3] == part and folders[-1]:
                image = Image.open(io.BytesIO(file.read(entry))).convert("RGB")
                pixels.append(np.asarray(image))
                classes.append(names.index(folders[-2]))
    if not pixels:
        raise SystemExit(f"--data: expected {part}/<class>/<file> in {archive}, found none")
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2), torch.tensor(classes)


def normalised(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(CFG[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (pixels.float() / 255 - mean) / std


def augmented(padded: Tensor, crop: int, cutout: float) -> Tensor:
    """Cut one random window out of each padded image, mirror half of them, and blank one square
    of each, `cutout` of the window's side wide, centred anywhere inside.
    """
    n, _, height, width = padded.shape
    rows = torch.randint(height - crop + 1, (n, 1)) + torch.arange(crop)
    columns = torch.randint(width - crop + 1, (n, 1)) + torch.arange(crop)
    columns = torch.where(torch.rand(n, 1) < 0.5, columns, columns.flip(1))
    image = torch.arange(n).view(n, 1, 1)
    windows = padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
    along = torch.arange(crop)
    centre = torch.randint(crop, (2, n, 1))
    near = (along - centre).abs() * 2 < round(cutout * crop)
    windows[near[0, :, :, None] & near[1, :, None, :]] = 0
    return windows.permute(0, 3, 1, 2)


# --- Network, under timm's names ------------------------------------------------------------------


class ConvNorm(nn.Module):
    def __init__(self, in_chs: int, out_chs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chs, out_chs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_chs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class Block(nn.Module):
    def __init__(self, in_chs: int, out_chs: int, stride: int) -> None:
        super().__init__()
        self.identity = nn.BatchNorm2d(out_chs) if in_chs == out_chs and stride == 1 else None
        self.conv_kxk = ConvNorm(in_chs, out_chs, 3, stride)
        self.conv_1x1 = ConvNorm(in_chs, out_chs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv_kxk(x) + self.conv_1x1(x)
        return F.relu(out if self.identity is None else out + self.identity(x))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential()
        for spec in expand(VARIANTS[NAME]):
            block = Block(spec.in_chs, spec.out_chs, spec.stride)
            if spec.name == "stem":
                self.stem = block
                continue
            _, stage, _ = spec.name.split(".")
            if len(self.stages) == int(stage):
                self.stages.append(nn.Sequential())
            self.stages[int(stage)].append(block)
        self.head = nn.ModuleDict(
            {"fc": nn.Linear(VARIANTS[NAME].num_features, CFG["num_classes"])}
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head["fc"](self.stages(self.stem(x)).mean((2, 3)))


# --- Optimiser ------------------------------------------------------------------------------------


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose step, as a matrix (out, in·k·k), is replaced by its nearest
    orthogonal matrix; kernels are kept at the norm √out.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers".
    """

    def __init__(self, kernels: list[nn.Parameter], lr: float, momentum: float) -> None:
        super().__init__(kernels, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for kernel in group["params"]:
                velocity = self.state[kernel].setdefault("velocity", torch.zeros_like(kernel))
                velocity.mul_(group["momentum"]).add_(kernel.grad)
                step = kernel.grad.add(velocity, alpha=group["momentum"])
                kernel.mul_(len(kernel) ** 0.5 / kernel.norm())
                kernel.sub_(orthogonalised(step.flatten(1)).view_as(kernel), alpha=group["lr"])


def orthogonalised(matrix: Tensor, steps: int = 3) -> Tensor:
    """Push all singular values towards 1 by a quintic Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = (matrix / (matrix.norm() + 1e-7)).bfloat16()
    tall = len(x) > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).float()


# --- Training -------------------------------------------------------------------------------------


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    pixels, classes = read_images(args.data, "train")
    order = torch.randperm(len(pixels))
    kept, held = order[args.holdout :], order[: args.holdout]
    pad = 4
    padded = F.pad(normalised(pixels), (pad,) * 4, mode="reflect")

    net = Network().to(memory_format=torch.channels_last)
    kernels = [p for p in net.parameters() if p.ndim == 4]
    others = [p for p in net.parameters() if p.ndim != 4]
    muon = Muon(kernels, args.lr, momentum=0.6)
    adam = torch.optim.AdamW(others, args.lr_other, betas=(0.9, 0.99), weight_decay=0.0)
    steps_per_epoch = len(kept) // args.batch_size
    total = args.epochs * steps_per_epoch
    warmup = steps_per_epoch  # one epoch
    forward = torch.compile(net) if args.compile else net
    start = 0
    if args.checkpoint and args.checkpoint.exists():
        state = torch.load(args.checkpoint, weights_only=True)
        net.load_state_dict(state["net"])
        muon.load_state_dict(state["muon"])
        adam.load_state_dict(state["adam"])
        torch.set_rng_state(state["rng"])
        start = state["epoch"]

    for epoch in range(start, args.until or args.epochs):
        began, losses = time.monotonic(), []
        crop = (24, 28, 32)[min(2, 3 * epoch // args.epochs)] if args.progressive else 32
        edge = pad if crop < 28 else pad // 2 if crop < 32 else 0  # small windows stay inside
        window = padded[:, :, edge : 40 - edge, edge : 40 - edge]
        net.train()
        for i, batch in enumerate(kept[torch.randperm(len(kept))].split(args.batch_size)):
            if len(batch) < args.batch_size:
                continue
            step = epoch * steps_per_epoch + i
            rate = min((step + 1) / warmup, (total - step) / (total - warmup))
            muon.param_groups[0]["lr"] = args.lr * rate
            adam.param_groups[0]["lr"] = args.lr_other * rate
            x = augmented(window[batch], crop, args.cutout)
            with torch.autocast("cpu", torch.bfloat16):
                logits = forward(x.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float(), classes[batch], label_smoothing=args.smoothing)
            net.zero_grad()
            loss.backward()
            muon.step()
            adam.step()
            losses.append(loss.item())
        seconds = time.monotonic() - began
        line = f"epoch {epoch + 1}/{args.epochs}: crop {crop}, loss {np.mean(losses):.4f}"
        if args.holdout:
            line += f", hold-out {evaluate(net, pixels[held], classes[held]):.2%}"
        print(f"{line}, {seconds:.1f} s, {len(kept) / seconds:.0f} images/s", flush=True)
        if args.checkpoint:
            state = {"net": net.state_dict(), "muon": muon.state_dict(), "adam": adam.state_dict()}
            state |= {"rng": torch.get_rng_state()}
            save_checkpoint(args.checkpoint, {**state, "epoch": epoch + 1})

    if args.until:
        return
    if not args.holdout:
        test = evaluate(net, *read_images(args.data, "test"))
        print(f"train {evaluate(net, pixels, classes):.2%}, test {test:.2%}", flush=True)
    if args.out:
        write(net, args.out)


def evaluate(net: Network, pixels: Tensor, classes: Tensor) -> float:
    """Return the share of images whose class comes first, in float32."""
    net.eval()
    with torch.no_grad():
        right = [
            (net(normalised(x)).argmax(1) == y).sum().item()
            for x, y in zip(pixels.split(1000), classes.split(1000), strict=True)
        ]
    return sum(right) / len(classes)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def write(net: Network, path: Path) -> None:
    """Write the three branches in half precision, with npvgg's metadata."""
    tensors = {
        name: tensor.float().contiguous().numpy().astype(np.float16)
        for name, tensor in net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    model = npvgg.create_model(BUNDLED, weights=tensors, reparameterize=False)
    model.save(path, form="train", dtype="float16")
    print(f"wrote {path}: {path.stat().st_size:,} bytes", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="zip archive of the images")
    parser.add_argument("--out", type=Path, help="safetensors file to write")
    parser.add_argument("--checkpoint", type=Path, help="file to go on from")
    parser.add_argument("--epochs", type=int, default=32)
    parser.add_argument("--until", type=int, help="stop after this epoch, with its checkpoint")
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--lr", type=float, default=0.12, help="of Muon")
    parser.add_argument("--lr-other", type=float, default=4e-3, help="of AdamW")
    parser.add_argument("--smoothing", type=float, default=0.1)
    parser.add_argument(
        "--cutout", type=float, default=0.375, help="side, as a share of the crop's"
    )
    parser.add_argument("--holdout", type=int, default=0, help="training images to set aside")
    parser.add_argument(
        "--compile", action="store_true", help="by torch.compile; needs a C++ compiler"
    )
    parser.add_argument("--progressive", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
