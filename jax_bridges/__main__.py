"""The console script, and `python -m jax_bridges`: as `python -m jax_bridges.main`."""

from jax_bridges.starting import begin


def entry() -> None:
    """Says that it starts, then imports the rest, which takes seconds."""
    begin()
    from jax_bridges.main import entry

    entry()


if __name__ == "__main__":
    entry()
