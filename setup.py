"""What setup.cfg cannot say: configs/, at the top of a clone, lies within the package once installed."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["jax_bridges*"]), "jax_bridges.configs"],
    package_dir={"jax_bridges.configs": "configs"},
)
