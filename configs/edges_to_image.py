"""Paint a photograph from its edges; the small task takes any folder of photographs:

    python -m jax_bridges.main --config=configs/edges_to_image.py --config.data.path=PHOTOGRAPHS

The variants are the two rows of IBMD's Table 7 on Edges2Handbags with DDBM's teacher, two calls and
one, and need `--config.data.path=FOLDER` of the unpacked edges2handbags.tar.gz. Published and
inferred settings: jax_bridges/papers.py.
"""

from functools import partial

from jax_bridges import papers
from jax_bridges.choices import look_up
from jax_bridges.config import base_config

VARIANTS = {
    "handbags64": partial(papers.ddbm_handbags, calls=2, updates=300),
    "handbags64_nfe1": partial(papers.ddbm_handbags, calls=1, updates=14_000),
}


def get_config(variant: str = ""):
    """Variants: "" (64x64, a small network, edges by Canny's detector) and those of VARIANTS."""
    config = base_config()
    config.task = "edges_to_image"
    if variant:
        look_up("variant of configs/edges_to_image.py", VARIANTS, variant)(config)
        config.task = f"edges_to_image_{variant}"
        return config
    config.data.name = "edges"
    config.data.size = 64
    config.data.on_bad_file = "skip"
    config.corruption = {"name": "paired"}
    return config
