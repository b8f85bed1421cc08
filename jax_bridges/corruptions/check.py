"""What a corruption cannot take, said before anything is built or compiled."""

import jax
import jax.numpy as jnp

from jax_bridges.corruptions.base import Corruption


def check_task(corruption: Corruption, paired_data: bool, height: int, width: int) -> None:
    """Refuses data that a corruption cannot be applied to, in the corruption's own words.

    Nothing is computed but what every later use keeps, such as the bank of masks.

    Args:
      corruption: of the task.
      paired_data: x_T comes with the data.
      height, width: of the images, in pixels.

    Raises:
      ValueError: pairs for a corruption that makes x_T itself, or the reverse; a size that it cannot
        take, such as one that the factor of super-resolution does not divide.
      FileNotFoundError: a mask file that is not there.
    """
    if paired_data != corruption.paired:
        name = type(corruption).__name__
        raise ValueError(
            f"The data bring x_T with them, so {name} would never be applied: set corruption.name to "
            "'paired', or take data without pairs."
            if paired_data
            else "corruption.name is 'paired', but the data bring no x_T: take paired data, or name "
            "the corruption that makes x_T."
        )
    if not paired_data:
        image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
        jax.eval_shape(corruption, image, keys)
