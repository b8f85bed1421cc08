"""scikit-image's filters that take noise away, at many strengths, and which of them is best."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator

import numpy as np

from tools.measure_holes import Images, decibels, errors_of

Filter = Callable[[Images], Images]  # of uint8 pictures [H, W, 3]
# Levels of noise that a filter is set to.
STRENGTHS = (2, 3, 4, 6, 8, 11, 15, 20, 25, 32, 40, 50, 65, 85, 110, 145)


def filters() -> dict[str, Callable[[np.ndarray, float], np.ndarray]]:
    """Name -> filter of a picture in [0, 1] for noise of a standard deviation in the same units."""
    from skimage import restoration  # pyright: ignore[reportMissingImports]

    def tv(image, std):
        return restoration.denoise_tv_chambolle(image, weight=std, channel_axis=-1)

    def bilateral(image, std):
        return restoration.denoise_bilateral(
            image, sigma_color=2 * std, sigma_spatial=1.5, channel_axis=-1
        )

    def nl_means(image, std):
        return restoration.denoise_nl_means(
            image, h=0.8 * std, sigma=std, patch_size=5, patch_distance=6, channel_axis=-1
        )

    def wavelet(image, std):
        return restoration.denoise_wavelet(
            image, sigma=std, convert2ycbcr=True, rescale_sigma=True, channel_axis=-1
        )

    found = {"tv_chambolle": tv, "bilateral": bilateral, "nl_means": nl_means}
    return found | ({"wavelet": wavelet} if importlib.util.find_spec("pywt") else {})


def candidates() -> Iterator[tuple[str, float, Filter]]:
    """(filter, strength in levels, what it makes of pictures)."""
    for name, apply in filters().items():
        for strength in STRENGTHS:

            def answer(images, apply=apply, strength=strength):
                found = [apply(image / 255.0, strength / 255) for image in images]
                return [np.rint(255 * image).clip(0, 255).astype(np.uint8) for image in found]

            yield name, strength, answer


def best_classical(lost: Images, truth: Images) -> tuple[str, Filter]:
    """The filter of the highest mean PSNR, and its name with its strength.

    A filter's strengths are tried from the weakest until two in a row were worse than its best.
    """
    best, worse, of = (-np.inf, "", None), 0, ""
    peak, everywhere = -np.inf, [np.ones(image.shape[:2], bool) for image in truth]
    for name, strength, answer in candidates():
        if name != of:
            of, worse, peak = name, 0, -np.inf
        if worse == 2:
            continue
        sums, counts = errors_of(truth, answer(lost), everywhere)
        value = decibels(sums / counts)
        peak, worse = (value, 0) if value > peak else (peak, worse + 1)
        if value > best[0]:
            best = value, f"{name} {strength:g}", answer
    assert best[2] is not None
    return best[1], best[2]
