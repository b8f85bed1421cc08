"""Which options of the benchmark go together, and what they are where they are not given."""

from __future__ import annotations

import argparse

from jax_bridges.command_flags import refuse_given
from jax_bridges.schema import COUNT, TEXT, Setting, number, whole

OF_PLANS = ("devices", "compile", "topology", "slices")
OF_MEASUREMENTS = ("nfe", "repeats", "peak_tflops", "json")
# Their defaults are not the parser's, so that one that is not read can be told from one not given.
OPTIONS = (
    Setting("network", "unet", TEXT, "one or several networks, with commas"),
    Setting("nfe", 10, COUNT, "calls of the teacher's sampler"),
    Setting("repeats", 5, COUNT, "the median of so many is reported"),
    Setting("peak_tflops", 0.0, number(least=0), "what one device can do, if it is known"),
    Setting("json", "benchmark.json", TEXT, "file of the results"),
    Setting("devices", 0, whole(least=0), "with --plan: pretend so many; 0: those there"),
    Setting("topology", "", TEXT, "with --plan: compile for a TPU that is not there, as v5e:4x4"),
    Setting(
        "slices", 1, COUNT, "with --topology: so many of them, joined by the data centre's network"
    ),
)


def complete_options(options: argparse.Namespace, configured: bool) -> None:
    """Refuses options that would not be read, and fills in those that were not given.

    Args:
      options: as parsed; changed in place.
      configured: whether there is a --config.

    Raises:
      ValueError: an option of the other kind of work, two that say the same, --plan without
        --config, or a number that cannot be.
    """
    if options.plan:
        if not configured:
            raise ValueError("--plan needs --config, e.g. --config=inpaint:imagenet256_i2sb.")
        refuse_given(options, OF_MEASUREMENTS, "is for measuring: leave it out with --plan.")
        if options.topology and options.devices:
            raise ValueError("--topology says how many devices there are: leave --devices out.")
        if not options.topology:
            refuse_given(options, ("slices",), "goes with --topology: give both, or leave it out.")
    else:
        refuse_given(options, OF_PLANS, "goes with --plan: give both, or leave it out.")
    if configured:
        refuse_given(options, ("network",), "and --config both name a network: give one of them.")
    for row in OPTIONS:
        if getattr(options, row.key) is None:
            setattr(options, row.key, row.default)
        row.check(getattr(options, row.key), f"--{row.key.replace('_', '-')}")
