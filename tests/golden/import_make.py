"""Makes import_i2sb.pt: `python import_make.py`, with torch and jax_bridges importable.

The layout of I2SB's `latest.pt` with a tiny network. Every tensor is a window of one storage of
1024 numbers, which keeps the file at 32 KB and is what torch writes for views.
"""

from collections import OrderedDict
from pathlib import Path

import torch

from jax_bridges.import_torch.names import torch_layout

NETWORK = {
    "model_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2), "attention_ds": (2,),
    "head_channels": 32,
}  # fmt: skip


def main():
    layout = torch_layout(NETWORK)
    base = torch.randn(1024, generator=torch.Generator().manual_seed(0)) / 8

    def window(number, shape):
        strides = [3, 2, 1, 1][: len(shape)]
        return base.as_strided(shape, strides, number % 64)

    net = OrderedDict(
        ("diffusion_model." + name, window(i, shape))
        for i, (name, shape) in enumerate(layout.items())
    )
    ema = {
        "decay": 0.99,
        "num_updates": 7,
        "shadow_params": [window(i + 20, shape) for i, shape in enumerate(layout.values())],
        "collected_params": None,
    }
    torch.save(
        {"net": net, "ema": ema, "optimizer": {"state": {}, "param_groups": []}, "sched": {}},
        Path(__file__).with_name("import_i2sb.pt"),
    )


if __name__ == "__main__":
    main()
