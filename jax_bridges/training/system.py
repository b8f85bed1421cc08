"""The one place where a bridge, a task and networks meet: it hands out denoisers and generators."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jax_bridges.bridges import Bridge, expand, make_bridge
from jax_bridges.corruptions import keep_known, make_corruption
from jax_bridges.keys import AugmentDraw, Stream, example_keys, fold, randint
from jax_bridges.models import PatchCritic, make_network, mask_input, network_settings
from jax_bridges.preconditioning import make_preconditioning, precondition
from jax_bridges.typing import Array, ArrayOrPair, Denoiser, Generator, PyTree

_Predict = TypeVar("_Predict", bound=Callable[..., ArrayOrPair])


@dataclasses.dataclass(frozen=True)
class Pair:
    """A batch ready for the mathematics, all float32 in [-1, 1].

    x0, xT: `[B, H, W, C]`; mask: `[B, H, W, 1]`, 1 in the hole, or None; keys: `[B]`; label: `[B]`
    class numbers for class-conditional networks, or None; answer: `[B]` numbers of further answers that an
    evaluation asks of a sampler, or None; counted: `[B, H, W, 1]`, 1 at pixels of x_0 that a training may
    learn from, or None: all.
    """

    x0: Array
    xT: Array
    mask: Array | None
    keys: Array
    label: Array | None = None
    answer: Array | None = None
    counted: Array | None = None

    @property
    def sampling_keys(self) -> Array:
        """Keys `[B]` of an evaluation's sampler: an answer's own, all else of the pair being the same."""
        if self.answer is None:
            return fold(self.keys, Stream.SAMPLE)
        return fold(fold(self.keys, Stream.ANSWER), self.answer)


@dataclasses.dataclass(frozen=True)
class System:
    """A bridge, its preconditioning, the task's corruption, and the networks.

    Attributes:
      networks: player -> its network. "teacher" is always there, and those that the method of
        `config.distill` asks for: "generator", the student, has a noise input besides.
      keep_known: a denoiser returns known pixels unchanged; the loss then counts the hole alone.
      flip, rotate: augmentations that x_0 and x_T share.
      size: (H, W) of the images.
      z_scale: standard deviation of the noise that the student's network is fed, at T.
      z_fade: at t it is that times `(t / T)^z_fade`.
    """

    bridge: Bridge
    preconditioning: Any
    corruption: Any
    networks: dict[str, Any]
    keep_known: bool
    flip: bool
    rotate: bool
    size: tuple[int, int]
    z_scale: float = 1.0
    z_fade: float = 0.0
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
        from jax_bridges.training.methods import find_method  # they are made of systems

        method, distill = find_method(config.distill)
        return cls(
            bridge=make_bridge(**config.bridge),
            preconditioning=make_preconditioning(**config.preconditioning),
            corruption=make_corruption(**config.corruption),
            networks={
                player: own if isinstance(own, nn.Module) else make_network(name, **network, **own)
                for player, own in ({"teacher": {}} | method.networks(distill)).items()
            },
            keep_known=config.keep_known,
            flip=config.data.flip,
            rotate=config.data.rotate,
            size=image_size(config.data.size),
            z_scale=distill.z_scale,
            z_fade=distill.get("z_fade", 0.0),  # older runs do not say it
        )

    # -- networks --------------------------------------------------------------------------------
    @property
    def teacher(self) -> Any:
        """The teacher's network."""
        return self.networks["teacher"]

    @property
    def student(self) -> Any:
        """The generator's network."""
        return self.networks["generator"]

    def init(self, key: Array, player: str) -> PyTree:
        """Fresh parameters of a player's network."""
        network = self.networks[player]
        image = jnp.zeros((1, *self.size, self.channels))
        if isinstance(network, PatchCritic):
            return network.init(key, image, jnp.zeros((1,)), image)["params"]
        z = jnp.zeros((1, *self.size, network.z_channels)) if network.z_channels else None
        mark = {"mark": jnp.zeros((1, n))} if (n := network.mark_channels) else {}
        told = mark | mask_input(network, image[..., :1])
        label = jnp.zeros((1,), jnp.int32)
        return network.init(key, image, jnp.zeros((1,)), image, z, label, **told)["params"]

    def denoiser(
        self,
        params: PyTree,
        pair: Pair,
        player: str = "teacher",
        *,
        mark: Array | None = None,
        dropout: Array | None = None,
    ) -> Denoiser:
        """The denoiser `x0_hat = denoise(x_t, t, x_T)` of a player's parameters.

        Args:
          pair: the images it will be called with: their known pixels and labels are built in.
          mark: `[B, mark_channels]`, what the network is told of each image besides, if it listens.
          dropout: a key turns dropout on.
        """
        told = self._mask(player, pair) | ({} if mark is None else {"mark": mark})
        rngs = None if dropout is None else {"dropout": dropout}

        def network(x, c_noise, xT, z):
            del z
            train = rngs is not None
            return self.networks[player].apply(
                {"params": params}, x, c_noise, xT, None, pair.label, train, rngs=rngs, **told
            )

        return self.known(precondition(network, self.bridge, self.preconditioning), pair)

    def generator(
        self, params: PyTree, pair: Pair, *, dropout: Array | None = None, temperature: float = 1.0
    ) -> Generator:
        """The student `x0_hat = generate(x_t, t, x_T, z)` of a generator's parameters.

        It takes as many of z's channels as it has inputs for, and `temperature` times what z_scale says of
        them. A key turns dropout on, with other masks at other times.
        """

        told = self._mask("generator", pair)

        def generate(xt, t, xT, z):
            rngs, scale = None, temperature * self.z_scale
            if self.z_fade:
                scale *= (expand(t, xt) / self.bridge.T) ** self.z_fade
            if dropout is not None:
                rngs = {"dropout": jax.random.fold_in(dropout, _thousandths(t, self.bridge.T))}

            def network(x, c_noise, xT, z):
                z = scale * z[..., : self.student.z_channels]
                train = rngs is not None
                return self.student.apply(
                    {"params": params}, x, c_noise, xT, z, pair.label, train, rngs=rngs, **told
                )

            return precondition(network, self.bridge, self.preconditioning)(xt, t, xT, z)

        return self.known(generate, pair)

    def _mask(self, player: str, pair: Pair) -> dict[str, Array | None]:
        """The hole, for a network that sees it."""
        return mask_input(self.networks[player], pair.mask)

    def known(self, predict: _Predict, pair: Pair) -> _Predict:
        """`predict` with known pixels returned as they are in x_T, where the task is so."""
        if pair.mask is None or not self.keep_known:
            return predict

        def wrapped(xt, t, xT, *z):
            return keep_known(predict(xt, t, xT, *z), xT, pair.mask)

        return cast(_Predict, wrapped)

    # -- data --------------------------------------------------------------------------------------
    def prepare(self, batch: dict[str, Array], key: Array, augment: bool) -> Pair:
        """From images to a corrupted pair, inside the jitted step.

        Args:
          batch: "x0" `[B, H, W, C]` uint8, or floats in [-1, 1], "index" `[B]`; "xT" where the data are
            paired, "label" `[B]` where they have classes, "answer" `[B]` for
            further answers, "counted" `[B, H, W, 1]` where not all pixels of x_0 count.
          key: of the stage; an example's key is `fold_in(key, index)`.
          augment: flips and rotates x_0, x_T and what counts alike.
        """
        keys = example_keys(key, batch["index"])
        x0 = _to_float(batch["x0"])
        xT = _to_float(batch["xT"]) if "xT" in batch else None
        counted = batch.get("counted")
        if augment:
            x0, (xT, counted) = self._augment(x0, (xT, counted), fold(keys, Stream.AUGMENT))
        told = batch.get("label"), batch.get("answer"), counted
        if xT is not None:
            return Pair(x0, xT, None, keys, *told)
        corrupted = self.corruption(x0, fold(keys, Stream.CORRUPT))
        return Pair(x0, corrupted.xT, corrupted.mask, keys, *told)

    def _augment(
        self, x0: Array, others: Sequence[Array | None], keys: Array
    ) -> tuple[Array, list[Array | None]]:
        """x_0 and what belongs to it, `[B, H, W, any]`, all flipped and turned alike."""
        given = [x0, *(image for image in others if image is not None)]
        both = jnp.concatenate(given, axis=-1)
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
        ends = np.cumsum([image.shape[-1] for image in given])[:-1]
        first, *rest = jnp.split(both, ends, axis=-1)
        parts = iter(rest)
        return first, [None if image is None else next(parts) for image in others]


def _thousandths(t: Array, T: float) -> Array:
    """A number for a time, of the first example."""
    return jnp.rint(1000.0 * jnp.ravel(t)[0] / T).astype(jnp.uint32)


def image_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """(H, W) of `config.data.size`, which is one number for squares."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _to_float(image: Array) -> Array:
    image = jnp.asarray(image)
    if image.dtype != jnp.uint8:
        return image.astype(jnp.float32)
    return image.astype(jnp.float32) / 127.5 - 1.0
