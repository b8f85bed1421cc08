"""The ADM UNet in plain PyTorch, to be timed beside models/adm.py; nothing else uses torch.

`python -m tools.compare_torch` runs both on the same weights (extra `bench`), and benchmarks/gpu.sh
does on a GPU, training and `torch.compile` included. This writes a file of random weights, to be
imported as a published one is:

    python -m tools.torch_unet ddbm_e2h64 e2h.pt
    python -m jax_bridges.import_torch e2h.pt teacher --as=ddbm --schedule=vp

float32 or autocast, written from the rules that models/adm.py follows; parameters have the
released files' names, order and shapes. tests/test_torch_unet.py compares the two.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F
except ModuleNotFoundError:
    if __name__ != "__main__":
        raise
    sys.exit("error: PyTorch is not installed: pip install 'jax_bridges[bench]'")

from jax_bridges.benchmark_weights import random_params
from jax_bridges.choices import look_up
from jax_bridges.command import Parser, run_command
from jax_bridges.import_torch.names import abstract_params, flax_to_torch
from jax_bridges.models import ADM, make_network
from jax_bridges.models.adm import ADM_PRESETS

# Of images and of kernels in memory.
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def up(h: Tensor) -> Tensor:
    """Nearest neighbour, twice the size."""
    return F.interpolate(h, scale_factor=2, mode="nearest")


def down(h: Tensor) -> Tensor:
    """2x2 mean."""
    return F.avg_pool2d(h, 2)


def norm(channels: int) -> nn.GroupNorm:
    """32 groups, as everywhere in ADM."""
    return nn.GroupNorm(32, channels, eps=1e-5)


class ResBlock(nn.Module):
    """Two convolutions beside a skip; the embedding scales and shifts, or is added."""

    def __init__(self, c: ADM, channels: int, out: int, resample=None):
        super().__init__()
        self.scale_shift, self.resample = c.scale_shift_norm, resample
        wide = 2 * out if c.scale_shift_norm else out
        conv = nn.Conv2d(channels, out, 3, padding=1)
        self.in_layers = nn.Sequential(norm(channels), nn.SiLU(), conv)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * c.model_channels, wide))
        last = (nn.Dropout(c.dropout), nn.Conv2d(out, out, 3, padding=1))
        self.out_layers = nn.Sequential(norm(out), nn.SiLU(), *last)
        self.skip_connection = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[1](self.in_layers[0](x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.in_layers[2](h)
        e = self.emb_layers(emb)[:, :, None, None]
        first, rest = self.out_layers[0], self.out_layers[1:]
        if self.scale_shift:
            scale, shift = e.chunk(2, dim=1)
            h = rest(first(h) * (1 + scale) + shift)
        else:
            h = rest(first(h + e))
        return self.skip_connection(x) + h


class Attention(nn.Module):
    """Self-attention over all pixels, in either order of the channels of qkv."""

    def __init__(self, c: ADM, channels: int):
        super().__init__()
        self.heads = channels // c.head_channels if c.head_channels else c.num_heads
        self.new_order = c.new_attention_order
        self.norm = norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        b, channels, *_ = x.shape
        qkv = self.qkv(self.norm(x).flatten(2))
        if self.new_order:
            q, k, v = qkv.view(b, 3, self.heads, channels // self.heads, -1).mT.unbind(1)
        else:
            q, k, v = qkv.view(b, self.heads, 3, channels // self.heads, -1).mT.unbind(2)
        h = F.scaled_dot_product_attention(q, k, v).mT.reshape(b, channels, -1)
        return x + self.proj_out(h).view(x.shape)


class Resize(nn.Module):
    """The plain way to double (`conv`) or halve (`op`) the size."""

    def __init__(self, channels: int, doubles: bool):
        super().__init__()
        if doubles:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        else:
            self.op = nn.Conv2d(channels, channels, 3, padding=1, stride=2)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.conv(up(x)) if hasattr(self, "conv") else self.op(x)


class TorchADM(nn.Module):
    """`F = net(x, c_noise, xT, y)`, NCHW, of the architecture of an `ADM`.

    Takes no noise z: it is a teacher. See models/adm.py for shapes and meanings.
    """

    def __init__(self, c: ADM):
        super().__init__()
        self.c, base = c, c.model_channels

        def resize(channels: int, doubles: bool) -> nn.Module:
            if c.resblock_updown:
                return ResBlock(c, channels, channels, up if doubles else down)
            return Resize(channels, doubles)

        def block(channels: int, out: int, ds: int) -> nn.ModuleList:
            attention = [Attention(c, out)] if ds in c.attention_ds else []
            return nn.ModuleList([ResBlock(c, channels, out), *attention])

        layers = (nn.Linear(base, 4 * base), nn.SiLU(), nn.Linear(4 * base, 4 * base))
        self.time_embed = nn.Sequential(*layers)
        if c.num_classes:
            self.label_emb = nn.Embedding(c.num_classes, 4 * base)
        widths = [int(mult * base) for mult in c.channel_mult]
        h, inputs = widths[0], c.in_channels * (2 if c.conditional else 1)
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(inputs, h, 3, padding=1)])])
        skips = [h]
        for level, width in enumerate(widths):
            if level:
                self.input_blocks.append(nn.ModuleList([resize(h, doubles=False)]))
                skips.append(h)
            for _ in range(c.num_res_blocks):
                self.input_blocks.append(block(h, width, 2**level))
                skips.append(h := width)
        self.middle_block = nn.ModuleList([ResBlock(c, h, h), Attention(c, h), ResBlock(c, h, h)])
        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for k in range(c.num_res_blocks + 1):
                modules = block(h + skips.pop(), width, 2**level)
                if level and k == c.num_res_blocks:
                    modules.append(resize(width, doubles=True))
                self.output_blocks.append(modules)
                h = width
        self.out = nn.Sequential(norm(h), nn.SiLU(), nn.Conv2d(h, c.out_channels, 3, padding=1))

    def forward(
        self, x: Tensor, c_noise: Tensor, xT: Tensor | None = None, y: Tensor | None = None
    ) -> Tensor:
        """x, xT `[B, C, H, W]`, c_noise `[B]`, y `[B]` -> F `[B, out_channels, H, W]`."""
        half = self.c.model_channels // 2
        steps = torch.arange(half, dtype=torch.float32, device=x.device)
        angles = c_noise[:, None] * torch.exp(-math.log(10000.0) / half * steps)
        emb = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1))
        if self.c.num_classes:
            emb = emb + self.label_emb(y)

        def through(modules: nn.ModuleList, h: Tensor) -> Tensor:
            for module in modules:
                h = module(h, emb)
            return h

        h = self.input_blocks[0][0](torch.cat([x, xT], dim=1) if self.c.conditional else x)
        skips = [h]
        for modules in self.input_blocks[1:]:
            skips.append(h := through(modules, h))
        h = through(self.middle_block, h)
        for modules in self.output_blocks:
            h = through(modules, torch.cat([h, skips.pop()], dim=1))
        return self.out(h)


def torch_network(
    net: ADM,
    weights: Mapping[str, np.ndarray],
    device: str = "cpu",
    layout: str = "NCHW",
    compiled: bool = False,
) -> nn.Module:
    """The network of `net`'s architecture on these weights, on the device.

    Args:
      net: the flax network.
      weights: its state dict, from `import_torch.names.flax_to_torch`.
      device: "cpu" or "cuda".
      layout: of images and kernels in memory, a key of LAYOUTS.
      compiled: by `torch.compile`, at its first call.
    """
    with torch.device("meta"):  # no time goes into weights that are replaced
        model = TorchADM(net)
    model.load_state_dict({k: torch.tensor(a) for k, a in weights.items()}, assign=True)
    model = model.to(device, memory_format=look_up("layout", LAYOUTS, layout))
    return torch.compile(model, dynamic=False) if compiled else model


def torch_images(images: np.ndarray, device: str = "cpu", layout: str = "NCHW") -> Tensor:
    """`[B, H, W, C]` -> a tensor `[B, C, H, W]` on the device."""
    tensor = torch.tensor(images, device=device).movedim(3, 1)
    return tensor.contiguous(memory_format=look_up("layout", LAYOUTS, layout))


def torch_forward(
    net: ADM,
    weights: Mapping[str, np.ndarray],
    inputs: tuple[Any, ...],
    device: str = "cpu",
    bfloat16: bool = False,
    layout: str = "NCHW",
    compiled: bool = False,
) -> Callable[[], Tensor]:
    """`call() -> F`, `[B, H, W, C]` float32: a forward pass on what lies on the device, waited for.

    Args:
      net, weights, device, layout, compiled: as of `torch_network`.
      inputs: x, c_noise, xT, y, as `ADM` takes them; what this network does not take may be None.
      bfloat16: autocast, PyTorch's way to mixed precision.
    """
    model = torch_network(net, weights, device, layout, compiled).eval()
    x, t, xT, y = inputs
    given = [torch_images(x, device, layout), torch.tensor(t, device=device)]
    given.append(torch_images(xT, device, layout) if net.conditional else None)
    given.append(torch.tensor(y, device=device) if net.num_classes else None)

    @torch.no_grad()
    def call() -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            out = model(*given)
        if device == "cuda":
            torch.cuda.synchronize()
        return out.float().movedim(1, 3)

    return call


def write_random(preset: str, path: str, seed: int = 0, **settings: Any) -> None:
    """Writes random weights of a preset under the released names; those that start at 0 too.

    Args:
      preset: a key of ADM_PRESETS.
      path: of the .pt file, a flat state dict, as DDBM and DBIM publish theirs.
      seed: of the draws.
      settings: of `ADM`, where they shall differ from the preset's.
    """
    config = {**look_up("preset", ADM_PRESETS, preset), **settings}
    make_network("adm", **config)  # says which setting is none
    weights = flax_to_torch(random_params(abstract_params(config), seed), config)
    torch.save({name: torch.tensor(array) for name, array in weights.items()}, path)


def _setting(pair: str) -> tuple[str, Any]:
    name, _, value = pair.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        raise ValueError(f"--set {pair}: give KEY=VALUE with a JSON value.") from None


def main() -> int:
    """Entry point; returns the exit status."""

    def work():
        prog = "python -m tools.torch_unet"
        parser = Parser(prog=prog, description="Writes random ADM weights, to time an import.")
        parser.add_argument("preset", help=", ".join(ADM_PRESETS))
        parser.add_argument("path", help="file to write, e.g. e2h.pt")
        text = "KEY=VALUE of ADM, VALUE as JSON, where it shall differ from the preset's"
        parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)
        options = parser.parse_args()
        write_random(options.preset, options.path, **dict(map(_setting, options.set)))

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
