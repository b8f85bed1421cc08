"""Paint a satellite view from a relief map (real pairs): `--config=configs/relief_to_satellite.py`."""

from jax_bridges.config import base_config


def get_config(variant: str = ""):
    """Variants: "" (32x32 tiles of the Earth, minutes on a laptop)."""
    if variant:
        raise ValueError(f"configs/relief_to_satellite.py has no variant '{variant}'.")
    config = base_config()
    config.task = "relief_to_satellite"
    config.data.name = "earth_relief"
    config.data.rotate = False  # relief is shaded as if lit from the north-west
    config.data.flip = False
    config.corruption = {"name": "paired"}
    return config
