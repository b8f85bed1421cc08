"""Paint a photograph from the normals of its surfaces (DIODE, outdoor):

    python -m jax_bridges.main --config=configs/normals_to_image.py --config.data.path=DIODE

DIODE is the folder that holds the unpacked train/ and val/ with their normals (data/diode.py). The
variants are the two rows of IBMD's Table 7 on it with DDBM's teacher, two calls and one. Published
and inferred settings: jax_bridges/papers.py.
"""

from functools import partial

from jax_bridges import papers
from jax_bridges.choices import look_up
from jax_bridges.config import base_config

VARIANTS = {
    "diode256": partial(papers.ddbm_diode, calls=2, updates=500),
    "diode256_nfe1": partial(papers.ddbm_diode, calls=1, updates=3700),
}


def get_config(variant: str = ""):
    """Variants: "" (64x64, a small network) and those of VARIANTS."""
    config = base_config()
    config.task = "normals_to_image"
    if variant:
        look_up("variant of configs/normals_to_image.py", VARIANTS, variant)(config)
        config.task = f"normals_to_image_{variant}"
        return config
    config.data.name = "diode_normals"
    config.data.size = 64
    config.corruption = {"name": "paired"}
    return config
