"""How each paper measures, by name: from floats to pixels, resizing, splits and units.

`config.evaluate.protocol` picks one. A number is only comparable with a published one under the
same protocol, on the same data, with as many images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jax_bridges.metrics.image import psnr, ssim, structural_similarity, to_uint8
from jax_bridges.metrics.resize import bilinear_torch


def truncate(x):
    """Floats [-1, 1] to uint8 by (x + 1) 127.5, clipped and truncated, in float32 and without the
    guard of `to_uint8`: of the 256 levels, 63 that came from a picture fall by one, as they do in
    the papers' code."""
    if x.dtype == jnp.uint8:
        return x
    return jnp.nan_to_num(jnp.clip((x.astype(jnp.float32) + 1) * 127.5, 0, 255)).astype(jnp.uint8)


def round_half_up(x):
    """Floats [-1, 1] to uint8 as torchvision's `save_image`: 255 (x + 1) / 2 + 1/2, truncated."""
    if x.dtype == jnp.uint8:
        return x
    levels = (x.astype(jnp.float32) + 1) / 2 * 255 + 0.5
    return jnp.nan_to_num(jnp.clip(levels, 0, 255)).astype(jnp.uint8)


def float_image(x):
    """Floats clipped to [-1, 1], and uint8 scaled to it; float32."""
    if x.dtype == jnp.uint8:
        return x.astype(jnp.float32) / 127.5 - 1
    return jnp.nan_to_num(jnp.clip(x.astype(jnp.float32), -1, 1))


_DDBM_BATCH = 128  # its range is that of a batch, so batches are part of the protocol


def _ddbm_batches(images, targets):
    """Pairs of batches in [-1, 1], below 256 pixels enlarged to 224 first, as DDBM's evaluator."""
    for start in range(0, len(images), _DDBM_BATCH):
        pair = [float_image(jnp.asarray(v[start : start + _DDBM_BATCH])) for v in (images, targets)]
        if pair[0].shape[2] < 256:
            pair = [bilinear_torch(v, 224) for v in pair]
        yield pair


def ddbm_psnr(images, targets) -> np.ndarray:
    """dB, one value a batch of 128: torchmetrics' PSNR on [-1, 1] with the range of the batch's
    targets and zero, as it infers one. (Newer versions take 3.0 where none is given.)"""
    values = []
    for x, y in _ddbm_batches(images, targets):
        span = max(float(y.max()), 0.0) - min(float(y.min()), 0.0)
        mse = max(float(jnp.square(x - y).mean()), 1e-10)
        values.append(10 * np.log10(span**2 / mse))
    return np.array(values)


def ddbm_ssim(images, targets) -> np.ndarray:
    """One value a batch of 128: torchmetrics' SSIM on [-1, 1] with the range of the batch, over
    the windows that lie inside the image. (Newer versions count reflected borders too.)"""
    values = []
    for x, y in _ddbm_batches(images, targets):
        span = max(float(x.max() - x.min()), float(y.max() - y.min()))
        values.append(float(structural_similarity(x, y, span).mean()))
    return np.array(values)


def ddnm_psnr(images, targets) -> np.ndarray:
    """dB, [N]: 10 log10(1 / mse) of floats clipped to [0, 1], not quantised."""
    x, y = (np.asarray(float_image(jnp.asarray(v)), np.float64) for v in (images, targets))
    mse = np.square((x - y) / 2).mean((1, 2, 3))
    return -10 * np.log10(np.maximum(mse, 1e-10))


class Protocol(NamedTuple):
    """One way to measure.

    Attributes:
      keep: inside the jitted sampler, from floats [-1, 1] to what the metrics get.
      pixels: from that to uint8, for pictures and feature networks.
      fid, inception: conventions of `inception.RESIZES` for the FID and for the IS.
      psnr, ssim: `(images, targets) -> values` of what `keep` gave and uint8 targets.
      batch: images of which PSNR and SSIM give one value, which is the protocol's; 0: each image has its own.
      lpips_size: side to which smaller images are enlarged for LPIPS; 0: none.
      about: one line for the report.
    """

    keep: Callable
    pixels: Callable
    fid: str
    inception: str
    psnr: Callable
    ssim: Callable
    lpips_size: int
    about: str
    batch: int = 0


PROTOCOLS = {
    "own": Protocol(
        to_uint8, to_uint8, "legacy_pytorch", "legacy_tensorflow", psnr, ssim, 0,
        "pixels truncated with a guard, so that known pixels come back as they were; PSNR, SSIM and "
        "LPIPS on them; FID legacy_pytorch; IS by splits of 5000",
    ),
    "i2sb": Protocol(
        truncate, truncate, "legacy_pytorch", "legacy_tensorflow", psnr, ssim, 0,
        "I2SB (arXiv 2302.05872): pixels truncated; FID legacy_pytorch, of 50,000 images (4x "
        "super-resolution, against ADM's statistics of the training set) or of its list of 10,000 "
        "(against the validation set); CA by ResNet-50 V1 at 224 x 224, bicubic",
    ),
    "ddbm": Protocol(
        truncate, truncate, "legacy_tensorflow", "legacy_tensorflow", ddbm_psnr, ddbm_ssim, 224,
        "DDBM (arXiv 2309.16948), and DBIM's translation: pixels truncated; FID and IS "
        "legacy_tensorflow, splits of 5000, on all training pairs; LPIPS VGG, PSNR and SSIM on "
        "[-1, 1] by batches of 128, images below 256 pixels enlarged to 224 first",
        batch=_DDBM_BATCH,
    ),
    "dbim": Protocol(
        truncate, truncate, "legacy_pytorch", "legacy_tensorflow", psnr, ssim, 0,
        "DBIM's ImageNet inpainting (arXiv 2405.15885): I2SB's FID and CA on its list of 10,000, "
        "and DDBM's IS (for its translation take ddbm)",
    ),
    "ddnm": Protocol(
        float_image, round_half_up, "legacy_pytorch", "legacy_tensorflow", ddnm_psnr, ssim, 0,
        "DDNM (arXiv 2212.00490): PSNR of unquantised floats in [0, 1]; SSIM and FID of pictures as "
        "torchvision saves them (rounded), 1000 images; its scripts for SSIM, FID and consistency "
        "are not published",
    ),
}  # fmt: skip
