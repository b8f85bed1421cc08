"""Makes em_baselines.npz out of the reference vectors em.npz: `python em_baselines_make.py FOLDER`.

The vectors were recorded from the official programs of Ambient Diffusion, SURE-Score and Ambient Laws.
Here they are images NHWC, without what no test reads: the networks' inputs and answers, call by call.
"""

import pathlib
import sys

import numpy as np

FOLDERS = ("amb", "sure", "tweedie")
LEFT_OUT = ("net_in", "net_out")
OUT = {}

with np.load(pathlib.Path(sys.argv[1]) / "em.npz") as file:
    for name in file.files:
        folder, _, rest = name.partition("/")
        group, _, key = rest.partition("/")
        sampled = group in ("sampler", "sampler_guided", "adps")
        if folder not in FOLDERS or key in LEFT_OUT:
            continue
        if sampled and key == "noise":  # drawn, and multiplied by 0
            continue
        value = file[name]
        if value.ndim >= 4:
            value = np.moveaxis(value, -3, -1)
        OUT[name] = value

np.savez_compressed(pathlib.Path(__file__).parent / "em_baselines.npz", **OUT)
