"""The published pairs as sets of TensorFlow Datasets, for those who want them prepared once.

    pip install 'jax_bridges[tfds]'
    python -m jax_bridges.data.builders edges2handbags/64px MANUAL_DIR DATA_DIR
    python -m jax_bridges.data.builders diode_normals/256px MANUAL_DIR DATA_DIR

MANUAL_DIR holds the unpacked files of the authors, as told in `edges2handbags.py` and `diode.py`.
Afterwards no TensorFlow is needed to read them:

    data.name=tfds:edges2handbags/64px data.path=DATA_DIR data.xT_key=edges
    data.name=tfds:diode_normals/256px data.path=DATA_DIR data.xT_key=normals

Images are stored as PNG at the size in the name: reading that size gives bit for bit what the
plain sources `edges2handbags` and `diode_normals` give. Nothing else of the package imports this.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tensorflow_datasets as tfds

from jax_bridges.data.diode import open_diode_normals
from jax_bridges.data.edges2handbags import open_edges2handbags
from jax_bridges.data.files import FileSource
from jax_bridges.data.source import resolve


def _sizes(*sizes: int) -> list[tfds.core.BuilderConfig]:
    return [tfds.core.BuilderConfig(name=f"{n}px", description=f"{n} x {n} pixels.") for n in sizes]


# The base, which has no types, takes the keyword.
class PairsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
    """Writes what a plain source reads: features "image" (x0) and `XT_KEY` (xT)."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = Path(__file__).parent
    HOMEPAGE: str
    XT_KEY: str
    OPEN: Callable[[SimpleNamespace], FileSource]

    def _info(self) -> tfds.core.DatasetInfo:
        side = int(self.builder_config.name.removesuffix("px"))
        image = tfds.features.Image(shape=(side, side, 3), encoding_format="png")
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict({"image": image, self.XT_KEY: image}),
            supervised_keys=(self.XT_KEY, "image"),
            homepage=self.HOMEPAGE,
        )

    def _split_generators(self, dl_manager) -> dict[str, Any]:
        folder = dl_manager.manual_dir
        return {
            "train": self._generate_examples(folder, "train"),
            "validation": self._generate_examples(folder, "test"),
        }

    def _generate_examples(self, folder, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        side = self.info.features["image"].shape[0]
        config = SimpleNamespace(name=self.name, path=str(folder), size=side)
        source = type(self).OPEN(resolve(config, split))
        for i in range(len(source)):
            example = source[i]
            yield source.names[i], {"image": example["x0"], self.XT_KEY: example["xT"]}


class Edges2handbags(PairsBuilder):
    """Photographs of handbags and their edges (pix2pix, arXiv 1611.07004)."""

    name = "edges2handbags"
    BUILDER_CONFIGS = _sizes(64, 256)
    XT_KEY = "edges"
    OPEN = staticmethod(open_edges2handbags)
    HOMEPAGE = "https://github.com/phillipi/pix2pix"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Unpack edges2handbags.tar.gz of pix2pix; manual_dir is the folder with train/ and val/."
    )


class DiodeNormals(PairsBuilder):
    """Outdoor photographs and their surface normals (DIODE, arXiv 1908.00463)."""

    name = "diode_normals"
    BUILDER_CONFIGS = _sizes(256, 64)
    XT_KEY = "normals"
    OPEN = staticmethod(open_diode_normals)
    HOMEPAGE = "https://diode-dataset.org"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Unpack train.tar.gz, val.tar.gz, train_normals.tar.gz, val_normals.tar.gz and (optional) "
        "data_list.zip of DIODE into one folder, manual_dir."
    )


def prepare(name: str, manual_dir: str, data_dir: str) -> None:
    """Prepares "SET/SIZEpx" in `data_dir`, in the format that can be read at random.

    Needs TensorFlow. Raises what the plain source raises for files that are missing or bad.
    """
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=manual_dir)
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Prepares a published set for TFDS.")
    parser.add_argument("name", help="edges2handbags/64px, edges2handbags/256px, diode_normals/...")
    parser.add_argument("manual_dir", help="folder of the unpacked files of the authors")
    parser.add_argument("data_dir", help="folder of TFDS to write to")
    prepare(**vars(parser.parse_args()))
