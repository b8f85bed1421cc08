"""Your own pairs, two folders of images matched by name:

    python -m jax_bridges.main --config=configs/folder_pairs.py \
        --config.data.path=CLEAN --config.data.path_xT=CORRUPTED
"""

from jax_bridges.config import base_config


def get_config(variant: str = ""):
    """Variants: "" (64x64, a small network)."""
    if variant:
        raise ValueError(f"configs/folder_pairs.py has no variant '{variant}'.")
    config = base_config()
    config.task = "folder_pairs"
    config.data.name = "pairs"
    config.data.size = 64
    config.data.on_bad_file = "skip"
    config.data.rotate = False
    config.corruption = {"name": "paired"}
    return config
