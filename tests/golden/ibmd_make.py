"""How ibmd.npz was made: a copy, of what test_ibmd_official.py reads, of the numbers of IBMD's official code.

    python tests/golden/ibmd_make.py REFERENCE.npz

REFERENCE.npz comes from running bluebluecard/IBMD@58b2773 (ngushchin/IBMD of 2026-01-12) itself, unmodified
training loops on toy networks, in float64 with torch 2.13.0: its variables as they were when it called the
optimisers. Draws were fed and saved. Left out here are its float32 run and the run of its slip, a backward
pass that sees the teacher's raw weights.

Keys: PART_p_PLAYER_NAME are a player's parameters, PART_WHO_... the update of WHO (phi: the bridge net; gen:
the generator), with parts sr (4x super-resolution and JPEG), att (the same with x_t attached), inp
(inpainting with I2SB), vp and i2, i2m (DDBM's), traj and vp_traj (whole loops). Images are [..., C, H, W].
"""

import sys
from pathlib import Path

import numpy as np

LEFT_OUT = (
    "_f32",
    "slip_",
    "_F_",
    "G_out",
    "grad_G",
    "before_paste",
    "masked",
    "xs_mse",
    "roll_x",
    "roll_t",
)

if __name__ == "__main__":
    reference = np.load(sys.argv[1])
    kept = [key for key in reference.files if not any(part in key for part in LEFT_OUT)]
    np.savez_compressed(Path(__file__).parent / "ibmd.npz", **{key: reference[key] for key in kept})
