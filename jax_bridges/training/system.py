"""The one place where a bridge, a task and networks meet: it hands out denoisers and generators."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jax_bridges.bridges import Bridge, make_bridge
from jax_bridges.corruptions import keep_known, make_corruption
from jax_bridges.keys import AugmentDraw, Keys, Stream, example_keys, fold, randint
from jax_bridges.models import make_network, network_settings
from jax_bridges.preconditioning import make_preconditioning, precondition
from jax_bridges.training.settings import distill_settings
from jax_bridges.typing import Array, Denoiser, Generator, PyTree


@dataclasses.dataclass(frozen=True)
class Pair:
    """A batch ready for the mathematics, all float32 in [-1, 1].

    x0, xT: `[B, H, W, C]`; mask: `[B, H, W, 1]`, 1 in the hole, or None; keys: `[B]`; label: `[B]`
    class numbers for class-conditional networks, or None.
    """

    x0: Array
    xT: Array
    mask: Array | None
    keys: Keys
    label: Array | None = None


@dataclasses.dataclass(frozen=True)
class System:
    """A bridge, its preconditioning, the task's corruption, and the networks.

    Attributes:
      teacher: network of the teacher.
      student: the same network with the generator's noise input.
      bridge_net: the same network, told by extra inputs which of the student's calls made x_0.
      keep_known: a denoiser returns known pixels unchanged; the loss then counts the hole alone.
      flip, rotate: augmentations that x_0 and x_T share.
      size: (H, W) of the images.
      z_scale: standard deviation of the noise that the student's network is fed.
    """

    bridge: Bridge
    preconditioning: Any
    corruption: Any
    teacher: Any
    student: Any
    bridge_net: Any
    keep_known: bool
    flip: bool
    rotate: bool
    size: tuple[int, int]
    z_scale: float = 1.0
    channels: int = 3

    @classmethod
    def create(cls, config) -> System:
        """Builds all parts from a configuration; errors name the part and what it takes.

        Args:
          config: complete (jax_bridges/config.py); a run's config.json, read as it is, will do.
        """
        if not isinstance(config, ConfigDict):
            config = ConfigDict(config)
        parts = ("data", "network", "bridge", "preconditioning", "corruption", "distill")
        lacking = [part for part in (*parts, "keep_known") if part not in config]
        if lacking:
            raise ValueError(
                f"This configuration has no {', '.join(lacking)}: start from config.base_config(), or from "
                "a run's config.json (an import's says what its network is, and no more)."
            )
        network_settings(config.network)
        network = dict(config.network)
        name = network.pop("name")
        distill = distill_settings(config.distill)
        return cls(
            bridge=make_bridge(**config.bridge),
            preconditioning=make_preconditioning(**config.preconditioning),
            corruption=make_corruption(**config.corruption),
            teacher=make_network(name, **network),
            student=make_network(name, **network, z_channels=distill.z_channels),
            bridge_net=make_network(name, **network, z_channels=told_calls(distill) - 1),
            keep_known=config.keep_known,
            flip=config.data.flip,
            rotate=config.data.rotate,
            size=image_size(config.data.size),
            z_scale=distill.z_scale,
        )

    # -- networks --------------------------------------------------------------------------------
    def init(self, key: Array, network: Any) -> PyTree:
        """Fresh parameters of `self.teacher`, `self.student` or `self.bridge_net`."""
        image = jnp.zeros((1, *self.size, self.channels))
        z = jnp.zeros((1, *self.size, network.z_channels)) if network.z_channels else None
        label = jnp.zeros((1,), jnp.int32)
        return network.init(key, image, jnp.zeros((1,)), image, z, label)["params"]

    def denoiser(self, params: PyTree, pair: Pair, dropout: Array | None = None) -> Denoiser:
        """The denoiser `x0_hat = denoise(x_t, t, x_T)` of a teacher's parameters.

        Args:
          pair: the images it will be called with: their known pixels and labels are built in.
          dropout: a key turns dropout on.
        """
        rngs = None if dropout is None else {"dropout": dropout}

        def network(x, c_noise, xT, z):
            del z
            train = rngs is not None
            return self.teacher.apply(
                {"params": params}, x, c_noise, xT, None, pair.label, train, rngs=rngs
            )

        return self.known(precondition(network, self.bridge, self.preconditioning), pair)

    def generator(self, params: PyTree, pair: Pair) -> Generator:
        """The student `x0_hat = generate(x_t, t, x_T, z)` of a generator's parameters."""

        def network(x, c_noise, xT, z):
            return self.student.apply(
                {"params": params}, x, c_noise, xT, self.z_scale * z, pair.label
            )

        return self.known(precondition(network, self.bridge, self.preconditioning), pair)

    def bridge_denoiser(self, params: PyTree, pair: Pair, call: Array) -> Denoiser:
        """The denoiser of a bridge net's parameters.

        Args:
          call: `[B]` int, which of the student's calls made x_0; the network is told, if it listens.
        """
        told = self.bridge_net.z_channels

        def network(x, c_noise, xT, z):
            del z
            mark = None
            if told:
                # One channel a call, all ones where it was this one; the first call has no channel.
                one_hot = jax.nn.one_hot(call - 1, told, dtype=x.dtype)
                mark = jnp.broadcast_to(one_hot[:, None, None, :], (*x.shape[:3], told))
            return self.bridge_net.apply({"params": params}, x, c_noise, xT, mark, pair.label)

        return self.known(precondition(network, self.bridge, self.preconditioning), pair)

    def known(self, predict, pair: Pair):
        """`predict` with known pixels returned as they are in x_T, where the task is so."""
        if pair.mask is None or not self.keep_known:
            return predict

        def wrapped(xt, t, xT, *z):
            return keep_known(predict(xt, t, xT, *z), xT, pair.mask)

        return wrapped

    # -- data --------------------------------------------------------------------------------------
    def prepare(self, batch: dict[str, Array], key: Array, augment: bool) -> Pair:
        """From uint8 images to a corrupted pair, inside the jitted step.

        Args:
          batch: "x0" `[B, H, W, C]` uint8, "index" `[B]`; "xT" where the data are paired, "label" `[B]`
            where they have classes.
          key: of the stage; an example's key is `fold_in(key, index)`.
          augment: flips and rotates x_0 and x_T alike.
        """
        keys = example_keys(key, batch["index"])
        x0 = _to_float(batch["x0"])
        xT = _to_float(batch["xT"]) if "xT" in batch else None
        if augment:
            x0, xT = self._augment(x0, xT, fold(keys, Stream.AUGMENT))
        if xT is not None:
            return Pair(x0, xT, None, keys, batch.get("label"))
        corrupted = self.corruption(x0, fold(keys, Stream.CORRUPT))
        return Pair(x0, corrupted.xT, corrupted.mask, keys, batch.get("label"))

    def _augment(self, x0: Array, xT: Array | None, keys: Array) -> tuple[Array, Array | None]:
        both = x0 if xT is None else jnp.concatenate([x0, xT], axis=-1)
        if self.flip:
            chosen = randint(keys, AugmentDraw.FLIP, 2).astype(bool)[:, None, None, None]
            both = jnp.where(chosen, both[:, :, ::-1], both)
        if self.rotate:
            turns = randint(keys, AugmentDraw.TURNS, 4)
            both = jax.vmap(
                lambda image, k: jax.lax.switch(
                    k, [lambda a, r=r: jnp.rot90(a, r) for r in range(4)], image
                )
            )(both, turns)
        return (
            (both, None) if xT is None else (both[..., : self.channels], both[..., self.channels :])
        )


def told_calls(distill) -> int:
    """Of how many of the student's calls the bridge net is told (1: it is told nothing).

    One bridge net for the answers of all calls would match only their mixture: a blurred first call
    would be made up for by an over-dispersed last one.
    """
    if distill.get("method", "ibmd") != "ibmd":  # there is no bridge net
        return 1
    told = distill.bridge_net_sees_call and distill.roll_out == "random"
    return distill.student_steps if told else 1


def image_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """(H, W) of `config.data.size`, which is one number for squares."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _to_float(image: Array) -> Array:
    return image.astype(jnp.float32) / 127.5 - 1.0
