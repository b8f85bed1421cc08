"""Makes em.npz out of the reference vectors em.npz and zs_rozet.npz: `python em_make.py FOLDER`.

They were recorded from the official programs. Here is what tests of the E-step, the M-step and exact EM
need of them; images are brought to NHWC, vectors of D numbers are images `[N, D, 1, 1]`, and masks are
1 where something is missing.
"""

import pathlib
import sys

import numpy as np

SOURCE = pathlib.Path(sys.argv[1])
EM, ROZET = (np.load(SOURCE / name) for name in ("em.npz", "zs_rozet.npz"))
OUT = {}


def nhwc(a):
    return np.moveaxis(np.asarray(a), -3, -1)


def column(a):
    return np.asarray(a)[..., None, None]


for task in ("inpaint", "denoise"):
    for variance in ("small", "range"):
        name = f"emd/{task}_{variance}"
        for key in ("m", "v", "xT", "y", "x_final", "noise_step"):
            OUT[f"{name}/{key}"] = nhwc(EM[f"{name}/{key}"])
        OUT[f"{name}/scale"] = EM[f"{name}/scale"]
        if task == "inpaint":
            OUT[f"{name}/mask"] = 1 - nhwc(EM[f"{name}/kept"])
for key in ("params", "ema", "t", "loss", "grad"):
    OUT[f"emd/mstep/{key}"] = EM[f"emd/mstep/{key}"]
for key in ("x0", "noise"):
    OUT[f"emd/mstep/{key}"] = nhwc(EM[f"emd/mstep/{key}"])
for name in ("ddpm_cg1", "ddpm_cg3", "ddim_cg3"):
    for key in ("mu", "cov_D", "cov_U", "sigma_y", "start_mean"):
        OUT[f"roz/{name}/{key}"] = EM[f"roz/{name}/{key}"]
    for key in ("y", "z", "eps", "x_final"):
        OUT[f"roz/{name}/{key}"] = column(EM[f"roz/{name}/{key}"])
    OUT[f"roz/{name}/mask"] = column(1 - EM[f"roz/{name}/A"])
for key in ("x_samples", "mu", "cov"):
    OUT[f"roz/moments/{key}"] = EM[f"roz/moments/{key}"].astype(np.float32)
OUT["roz/moments/rank"] = EM["roz/moments/rank"]
for task in ("inpaint", "denoise"):
    OUT[f"emd/scale_grid_{task}"] = EM[f"emd/scale_grid_{task}"]
for key in ("mu_x", "cov_D", "cov_U"):
    OUT[f"post/{key}"] = ROZET[key]
OUT["post/mask"], OUT["post/y"] = column(1 - ROZET["mask"]), column(ROZET["y"])
for level in ("s50", "s1", "s0.05"):
    for key in ("xt", "gauss_denoise", "post_tweedie_cg1", "post_covx_cg1", "post_tweedie_cg50"):
        OUT[f"post/{level}/{key}"] = column(ROZET[f"{level}/{key}"])
for key in ("A", "y", "sigma_y", "mu", "cov", "loglik", "mu_fixed", "cov_fixed"):
    OUT[f"exact/{key}"] = EM[f"exact/mask_em/{key}"]
OUT["exact/scalar"] = EM["exact/scalar_denoise/var"]
np.savez_compressed(pathlib.Path(__file__).parent / "em.npz", **OUT)
