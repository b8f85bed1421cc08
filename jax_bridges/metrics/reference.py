"""Mean and covariance of features over hosts, and in files."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np

from jax_bridges import hosts
from jax_bridges.io.atomic import write_atomic
from jax_bridges.io.bucket import place
from jax_bridges.metrics.frechet import Moments


def over_hosts(mine: Moments | None, dimensions: int) -> Moments:
    """Of the features of all processes together, the same on each; call it on all of them.

    Args:
      mine: of this process's features [N, D]; None where it has none.
      dimensions: D.

    Raises:
      ValueError: fewer than 2 features in all.
    """
    packed = np.zeros(1 + dimensions * (1 + dimensions))
    if mine is not None:
        assert mine.count is not None  # of features, not of published statistics
        packed = np.concatenate([[float(mine.count)], mine.mean, mine.square().reshape(-1)])
    whole = None
    for each in hosts.gather(packed[None]):
        count, mean, root = np.split(each, [1, 1 + dimensions])
        if count[0]:
            part = Moments(int(count[0]), mean, root.reshape(dimensions, dimensions))
            whole = part if whole is None else whole.joined(part)
    if whole is None or whole.count is None or whole.count < 2:
        raise ValueError(f"Moments need 2 features or more, not {whole.count if whole else 0}.")
    return whole


def save_statistics(path: str | os.PathLike, moments: Moments, **about: str) -> None:
    """To an .npz file, whole or not at all: "mu" and "sigma", as pytorch-fid has them, and "count".

    Args:
      path: of the file.
      moments: of a known number of features.
      about: further strings to keep, such as `resize`; see `statistics_resize`.
    """
    file = io.BytesIO()
    whole: dict[str, Any] = {
        "mu": moments.mean, "sigma": moments.covariance, "count": moments.count, **about,
    }  # fmt: skip
    np.savez(file, **whole)
    write_atomic(path, file.getvalue())


def statistics_resize(path: str | os.PathLike) -> str:
    """Under which convention the images were resized, if the file says so; else ""."""
    with place(path).open("rb") as file, np.load(file) as saved:
        return str(saved["resize"]) if "resize" in saved.files else ""


def load_statistics(path: str | os.PathLike) -> Moments:
    """Reference statistics from an .npz file, of any of these kinds:

    - of pytorch-fid, clean-fid, ADM and I2SB: "mu" [D] and "sigma" [D, D], of an unknown number of
      images; ADM's "mu_s", "sigma_s" and images "arr_0" are left alone;
    - of DDBM and DBIM: the same with "act" [N, D], which tells the number of images;
    - `save_statistics`'s: the same with "count";
    - features alone, as "act" or "pool_3" [N, D].

    Raises FileNotFoundError; ValueError for another file, and for one of images without statistics.
    """
    path = place(path)
    try:
        with path.open("rb") as file, np.load(file) as saved:
            keys = set(saved.files)
            acts = next((saved[k] for k in ("act", "pool_3") if k in keys), None)
            if {"mu", "sigma"} <= keys:
                mean, covariance = saved["mu"], saved["sigma"]
                if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
                    raise ValueError(f"mu is {mean.shape} and sigma {covariance.shape}")
                if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
                    raise ValueError("mu or sigma is not finite")
                count = int(saved["count"]) if "count" in keys else None
                return Moments.from_covariance(
                    count if acts is None else len(acts), mean, covariance
                )
            if acts is not None:
                return Moments.of(acts)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file of reference statistics.") from None
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
        raise ValueError(f"{path}: not an .npz file of reference statistics ({error}).") from None
    held = ", ".join(sorted(keys)) or "nothing"
    raise ValueError(
        f"{path}: holds {held}, and neither statistics ('mu' and 'sigma') nor features ('act' or "
        "'pool_3'): of images alone, compute the features first."
    )
