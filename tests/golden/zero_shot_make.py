"""Makes zero_shot.npz out of the reference vectors zs_*.npz: `python zero_shot_make.py FOLDER`.

The vectors were recorded from the official programs. Here they are brought into this project's
layout (NHWC; y as the operators have it; noises as images) and cut to the 8 x 8 top left pixels
wherever operator and network act on each block by itself, which keeps the file small.
"""

import pathlib
import sys

import numpy as np

SOURCE = pathlib.Path(sys.argv[1])
OUT = {}


def load(name):
    with np.load(SOURCE / f"zs_{name}.npz") as file:
        return {key: file[key] for key in file.files}


def nhwc(a, side=32):
    return np.asarray(a).reshape(-1, 3, side, side).transpose(0, 2, 3, 1)


def put(name, value, crop=None):
    value = np.asarray(value)
    OUT[name] = value[..., :crop, :crop, :] if crop else value


def known_pixels(y, mask):
    image = np.zeros((1, 32, 32, 3), np.float32)
    image[0, mask > 0] = y.reshape(-1, 3)
    return image


def pooled(y):
    return nhwc(y, 8)


# -- the right singular bases of the official operators: spectral vectors [N, 3072] to images -----


def v_pool(vectors, small):
    vectors = vectors.reshape(len(vectors), -1)
    patches = np.zeros((len(vectors), 3, 64, 16))
    patches[..., 0] = vectors[:, :192].reshape(-1, 3, 64)
    for i in range(15):
        patches[..., i + 1] = vectors[:, 192 + i :: 15].reshape(-1, 3, 64)
    patches = (patches @ small.T).reshape(-1, 3, 8, 8, 4, 4)
    return nhwc(patches.transpose(0, 1, 2, 4, 3, 5))


def v_colour(vectors, small):
    return nhwc(np.einsum("ij,njp->nip", small, vectors.reshape(len(vectors), 3, 1024)))


def v_mask(vectors, missing):
    kept = np.setdiff1d(np.arange(3072), missing)
    out = np.zeros((len(vectors), 3072))
    out[:, np.append(kept, missing)] = vectors.reshape(len(vectors), -1)
    return out.reshape(-1, 32, 32, 3)


# -- operators ------------------------------------------------------------------------------------
ops = load("ops32")
mask, perm = ops["mask"], ops["wh_perm"]
put("x", nhwc(ops["x"]))
put("mask", mask.astype(np.uint8))
put("wh_perm", perm.astype(np.int16))
put("ynoise", ops["ynoise"])
for name in (
    "sr_avg4", "sr_bicubic4", "sr_bicubic2", "inpaint", "color", "cs_wh4"
):  # fmt: skip
    put(f"{name}/y", ops[f"{name}/y"])
    for key in ("Apinv_ynoisy", "AtA_x"):
        put(f"{name}/{key}", nhwc(ops[f"{name}/{key}"])[:, ::3, ::3])
    s = np.sort(ops[f"{name}/singulars"])[::-1]
    put(f"{name}/singulars", s[::16])
for name in ("deblur_uni", "deblur_gauss", "deblur_aniso"):
    put(f"{name}/y_fixed", nhwc(ops[f"{name}/y_fixed_layout"])[:, ::3, ::3])
    s = np.sort(ops[f"{name}/singulars"])[::-1]
    put(f"{name}/singulars", s[::16])
missing = ops["missing_indices_hwc"]

# -- DDNM -----------------------------------------------------------------------------------------
traj, lam = load("ddnm_traj32"), load("lambda32")
assert (traj["mask"] == mask).all() and (traj["wh_perm"] == perm).all()
for tag, y in {
    "ddnm_sr4": pooled, "ddnm_inpaint_travel": lambda y: known_pixels(y, mask),
    "ddnmp_sr4_n": pooled, "ddnmp_inpaint_n": lambda y: known_pixels(y, mask),
}.items():  # fmt: skip
    y = y(traj[f"{tag}/y"])
    put(f"{tag}/y", y, 2 if "sr4" in tag else 8)
    put(f"{tag}/x_final", nhwc(traj[f"{tag}/x_final"]), 8)
    put(f"{tag}/noise", nhwc(traj[f"{tag}/noise"]), 8)
put("xT", nhwc(traj["xT"]), 8)
for op in ("sr_avg4", "color", "cs_wh4", "inpaint", "denoise"):
    put(f"lambda/{op}", nhwc(lam[f"{op}/Lambda"])[:, ::5, ::5])
    put(f"lambda_noise/{op}", nhwc(lam[f"{op}/Lambda_noise"])[:, ::5, ::5])
for key in ("vec", "z", "eps"):
    put(f"lambda/{key}", nhwc(lam[key]))
put("lambda/t_next", lam["t_next"])
put("lambda/pool_v", lam["sr_avg4/V_small"])
put("lambda/colour_v", lam["color/V_small"])

simple = load("ddnm_simplified32")
for tag in ("color_s0", "inpaint_s0.2", "deno_s0.2"):
    put(f"simplified/{tag}/noise", nhwc(simple[f"{tag}/noise"]), 8)
    put(f"simplified/{tag}/final", simple[f"{tag}/final_img01_clamped"].transpose(1, 2, 0), 8)
put("simplified/xT", nhwc(simple["xT"]), 8)

# -- DDRM -----------------------------------------------------------------------------------------
ddrm = load("ddrm32")
sigma_bar = np.sqrt(1 / np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)) - 1)
for tag, rotate, y in (
    ("ddrm_sr4_n", lambda v: v_pool(v, ddrm["sr4/V_small"]), pooled),
    ("ddrm_inpaint_n", lambda v: v_mask(v, missing), lambda y: known_pixels(y, mask)),
    (
        "ddrm_color_n",
        lambda v: v_colour(v, ddrm["color/V_small"]),
        lambda y: y.reshape(1, 32, 32, 1),
    ),
):
    s, seq, sigma0 = (ddrm[f"{tag}/{k}"] for k in ("singulars", "seq", "sigma0"))
    noises = [ddrm["xT"].reshape(1, -1)]
    for k, target in enumerate([*seq[::-1][1:], None]):
        rho = 0.0 if target is None else sigma_bar[target]
        z = ddrm[f"{tag}/noise_{k:02d}_C"].astype(np.float64).reshape(1, -1).copy()
        z[:, : len(s)] = ddrm[f"{tag}/noise_{k:02d}_B"]
        small = np.flatnonzero(s * rho < sigma0)
        z[:, small] = ddrm[f"{tag}/noise_{k:02d}_A"]
        noises.append(z)
    put(f"{tag}/noise", rotate(np.concatenate(noises)).astype(np.float32), 8)
    put(f"{tag}/y", y(ddrm[f"{tag}/y"]), 2 if "sr4" in tag else 8)
    put(f"{tag}/seq", seq)
    put(f"{tag}/start", nhwc(ddrm[f"{tag}/xs"])[:1], 8)
    put(f"{tag}/final", nhwc(ddrm[f"{tag}/xs"])[-1:], 8)

# -- PiGDM and DPS --------------------------------------------------------------------------------
guided = load("guided32")
for tag in ("pigdm_sr4", "pigdm_inpaint_noawd"):
    y = guided[f"{tag}/y"]
    put(
        f"{tag}/y",
        pooled(y) if "sr4" in tag else known_pixels(y, guided["mask"]),
        2 if "sr4" in tag else 8,
    )
    put(f"{tag}/noise", nhwc(guided[f"{tag}/noise_init_then_steps"]), 8)
    put(f"{tag}/final", nhwc(guided[f"{tag}/xs"])[-1:], 8)
    for key in ("ts", "eta", "grad_term_weight", "awd"):
        put(f"{tag}/{key}", guided[f"{tag}/{key}"])
tag = "reddps_inpaint_nonorig"
put(f"{tag}/y", known_pixels(guided[f"{tag}/y"], guided["mask"]), 8)
put(f"{tag}/noise", nhwc(guided[f"{tag}/noise_init_then_steps"]), 8)
put(f"{tag}/final", nhwc(guided[f"{tag}/xs"])[-1:], 8)
for key in ("ts", "eta", "grad_term_weight"):
    put(f"{tag}/{key}", guided[f"{tag}/{key}"])
put("dps_sr4/y", nhwc(guided["dps_sr4/y"], 8))
for key in ("x_t", "noise"):
    put(f"dps_sr4/{key}", nhwc(guided[f"dps_sr4/t500/{key}"]))
put("dps_sr4/x_out", nhwc(guided["dps_sr4/t500/x_out"])[:, ::3, ::3])
put("dps_sr4/scale", guided["dps_sr4/t500/scale"])

# -- RePaint, ILVR, DDNM's DDPM form --------------------------------------------------------------
other = load("repaint_ilvr_hq32")
put("repaint/mask", nhwc(other["mask"]), 8)
put("repaint/x_t", nhwc(other["x_t"]), 8)
for t in (249, 120, 0):
    for key in ("noise_step", "noise_gt", "sample"):
        put(f"repaint/t{t}/{key}", nhwc(other[f"repaint/t{t}/{key}"]), 8)
put("repaint/undo", nhwc(other["repaint/undo_t121"]), 8)
put("repaint/undo_noise", nhwc(other["repaint/undo_noise"]), 8)
put("betas250", other["betas250"].astype(np.float32))
for n in (2, 4, 8):
    put(f"ilvr/{n}", nhwc(other[f"ilvr/updown{n}"])[:, ::3, ::3])
put("hq/y", nhwc(other["hq/y"], 8), 2)
put("betas100", other["betas100"].astype(np.float32))
for level in ("sy0", "sy0.4"):
    for t in (99, 51, 3, 0):
        for key in ("noise", "sample"):
            put(f"hq/{level}/t{t}/{key}", nhwc(other[f"hq/{level}/t{t}/{key}"]), 8)

schedules = load("schedules")
for key in ("jump_T100_l10_r3", "jump_T100_l2_r2", "jump_T10_l2_r2", "jump_T10_l1_r3"):
    put(key, schedules[key].astype(np.int16))
put("jump_T250_l10_r10", schedules["jump_T250_l10_r10"].astype(np.int16))
for key in ("respace_100_t", "respace_250_t", "respace_25_t"):
    put(key, schedules[key].astype(np.int16))
put("abar", schedules["abar_f64"][::37])

np.savez_compressed(pathlib.Path(__file__).parent / "zero_shot.npz", **OUT)
