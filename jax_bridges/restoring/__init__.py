"""What `jax_bridges.restore` is made of: pictures, holes, tiles, jobs and models.

A picture of any kind becomes float tiles of the size a model was trained at, and the model's
answers become one picture again; known pixels never leave the integers they were read as.
"""

from jax_bridges.restoring.holes import find_hole, parse_box
from jax_bridges.restoring.pictures import Picture, read_picture
from jax_bridges.restoring.sheets import before_and_after, sample_sheet
from jax_bridges.tiling import seam_jump

__all__ = [
    "Picture",
    "before_and_after",
    "find_hole",
    "parse_box",
    "read_picture",
    "sample_sheet",
    "seam_jump",
]
