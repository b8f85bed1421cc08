"""Which options of the benchmark go together, and what they are where they are not given."""

from __future__ import annotations

import argparse

from jax_bridges.command_flags import refuse_given

OF_PLANS = ("devices", "compile", "topology")
OF_MEASUREMENTS = ("nfe", "repeats", "peak_tflops", "json")
# Not the parser's, so that an option that is not read can be told from one that was not given.
DEFAULTS = {
    "network": "unet", "nfe": 10, "repeats": 5, "peak_tflops": 0.0, "json": "benchmark.json",
    "devices": 0, "topology": "",
}  # fmt: skip


def complete_options(options: argparse.Namespace, configured: bool) -> None:
    """Refuses options that would not be read, and fills in those that were not given.

    Args:
      options: as parsed; changed in place.
      configured: whether there is a --config.

    Raises:
      ValueError: an option of the other kind of work, two that say the same, --plan without
        --config, or a number of calls or repeats below 1.
    """
    if options.plan:
        if not configured:
            raise ValueError("--plan needs --config, e.g. configs/inpaint.py:imagenet256_i2sb.")
        refuse_given(options, OF_MEASUREMENTS, "is for measuring: leave it out with --plan.")
        if options.topology and options.devices:
            raise ValueError("--topology says how many devices there are: leave --devices out.")
    else:
        refuse_given(options, OF_PLANS, "goes with --plan: give both, or leave it out.")
    if configured:
        refuse_given(options, ("network",), "and --config both name a network: give one of them.")
    for name, value in DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    for name in ("nfe", "repeats"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name}={getattr(options, name)}: it must be at least 1.")
