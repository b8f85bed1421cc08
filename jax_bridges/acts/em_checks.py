"""What a round of EM is chosen and checked by without a clean image: the misfit, and the samples' spread."""

from __future__ import annotations

from typing import Any

MISFIT, SPREAD = (
    (0.7, 1.3),
    (0.8, 1.25),
)  # misfit / sigma_y, and spread from round to round, of health
ENOUGH = 1.1  # times sigma_y^2: a misfit that explains the noise, and no more


def choose_scale(misfits: dict[float, float], sigma_y: float) -> float:
    """The scale of dps, by the mean squared misfit of each.

    Without noise the one of the least misfit (EMDiffusion, arXiv 2407.01014, eq. 12); with noise that
    criterion would reproduce it, so the smallest scale whose misfit is no more than the noise's.
    """
    least = min(misfits, key=lambda scale: misfits[scale])
    if not sigma_y:
        return least
    return min((s for s, m in misfits.items() if m <= ENOUGH * sigma_y**2), default=least)


def health(sigma_y: float, told: dict[str, Any], spread_before: float | None) -> list[str]:
    """Sentences for what a sound E-step does not show."""
    found = []
    ratio = told["misfit"] / sigma_y if sigma_y else None
    if ratio is not None and not MISFIT[0] <= ratio <= MISFIT[1]:
        word = "keeps the noise of" if ratio < 1 else "does not explain"
        found.append(
            f"its misfit is {ratio:.2f} sigma_y and should be 1: the E-step {word} the observations."
        )
    if spread_before:
        change = told["spread"] / spread_before
        if not SPREAD[0] <= change <= SPREAD[1]:
            found.append(
                f"the spread of its samples is {change:.2f} of the round's before: a sampler that loses or "
                "makes variance does so in each round; take more levels."
            )
    return found
