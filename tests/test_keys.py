"""The ledger of randomness: no two purposes draw the same bits, in any program of a run or a restoration."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jax_bridges.acts.compare_prior import prior_sampler
from jax_bridges.acts.zero_shot import restorer
from jax_bridges.bridges import make_bridge
from jax_bridges.corruptions import InpaintCenter, Mixture, SuperResolution, make_corruption
from jax_bridges.distillation import roll_out_random
from jax_bridges.keys import (
    ONLY,
    PictureStream,
    Purpose,
    SampleStream,
    Stream,
    example_keys,
    fold,
    normal,
    randint,
    uniform,
)
from jax_bridges.restore import PriorRestorer
from jax_bridges.restoring.models import noise_field, tile_source
from jax_bridges.samplers import SAMPLERS, sample_ancestral, sample_consistency, sample_few_step
from jax_bridges.stages.distill import distill
from jax_bridges.stages.jobs import student_sampler, teacher_sampler
from jax_bridges.stages.log import NoLog
from jax_bridges.stages.run import Run, StopSignal
from jax_bridges.stages.train import STEPS, train
from jax_bridges.training.methods.ibmd_answers import ROLL_OUTS, Rolling
from jax_bridges.training.parallel import Parallel
from jax_bridges.training.system import Pair, System
from jax_bridges.zero_shot import (
    SOLVERS,
    make_method,
    measure,
    solve_hierarchical,
    solve_mask_shift,
)
from tests.support.ledger import Ledger
from tests.support.restorers import TILE, photograph, save_player, tiny
from tests.support.toy import image_batch, same, small_config

# Sees the noise of its step at each of the step's three calls.
HEUN = "samplers/heun.py:sample_heun.<locals>.call"
# On bridges whose x_T is noisy, the booting noise is that noise.
ECSI = "samplers/ecsi.py:sample_ecsi"
DBIM = "samplers/dbim.py:run_rows"
# The trained call is one of those that lead to it, again with a gradient, and so has its z.
SAME_Z = ("few_step.py:z_noise",)
XT = jnp.zeros((3, 4, 4, 3))


def some_keys(count=3):
    return example_keys(jax.random.key(0), jnp.arange(count))


class Scale(nn.Module):
    """The smallest network: one number, and dropout."""

    z_channels: int = 0
    mark_channels: int = 0
    conditional: bool = False
    dropout: float = 0.0
    num_classes: int = 0

    @nn.compact
    def __call__(self, x, c_noise, xT=None, z=None, label=None, train=False, mark=None):
        del c_noise, xT, label, mark
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = x * self.param("scale", nn.initializers.ones, ())
        if self.z_channels:
            x += self.param("z_in", nn.initializers.zeros, ()) * z
        return x


class Alone(Parallel):
    """One device, whose programs may be part of larger ones."""

    def step(self, step, batch_axis=0):
        return lambda state, frozen, batch, key: step(state, frozen, batch, key, same)

    def map(self, function):
        return function


def small_run(tmp_path, bridge=None, **changes) -> Run:
    """A run of the smallest networks."""
    config = small_config(**changes)
    config.bridge = ConfigDict(bridge or config.bridge)
    system = System.create(config)
    nets = {
        player: net if player == "critic" else Scale(net.z_channels, net.mark_channels, dropout=0.5)
        for player, net in system.networks.items()
    }
    system = dataclasses.replace(system, rotate=True, networks=nets)
    alone = Alone(**vars(Parallel.create("fsdp", devices=jax.devices()[:1])))
    return Run(config, tmp_path, system, alone, None, None, NoLog(), StopSignal())


def scale_params(net):
    return {"scale": jnp.ones(())} | ({"z_in": jnp.zeros(())} if net.z_channels else {})


# -- the recorder finds what it is for ---------------------------------------------------------------


def rolling(generate, bridge, xT, times, keys, first_call):
    """Of one bridge and no system."""
    return Rolling(
        SimpleNamespace(bridge=bridge), Pair(xT, xT, None, keys), generate, generate, times,
        fold(keys, Stream.CALL), False, first_call, {"one_z": False, "ancestral": False},
    )  # fmt: skip


def old_random(r):
    """The choice of a call as it was until it had a stream of its own."""
    steps = len(r.times)
    later = randint(r.student, 4, max(steps - 1, 1)) + 1
    call = jnp.where((uniform(r.student, 3) < r.first_call) | (steps == 1), 0, later)
    return roll_out_random(r.generate, r.system.bridge, r.pair.xT, r.times, r.student, call), call


@pytest.mark.parametrize("calls", [2, 3])
def test_the_recorder_finds_the_old_collision(monkeypatch, calls):
    """`uniform(keys, 3)` was the noise of the first input of 2 calls, and of the third of 3 and more."""
    generate, bridge = lambda xt, t, xT, z: 0.3 * xt + z, make_bridge("brownian")
    times = jnp.linspace(0.9, 0.2, calls)

    def roll_out(make):
        return lambda keys: make(rolling(generate, bridge, XT, times, keys, 0.5))

    Ledger().run(monkeypatch, roll_out(ROLL_OUTS["random"]), some_keys()).check(*SAME_Z)
    with pytest.raises(AssertionError, match="test and samplers/few_step.py|few_step.* and test"):
        Ledger().run(monkeypatch, roll_out(old_random), some_keys()).check(*SAME_Z)


def test_the_recorder_finds_two_kinds_of_one_draw_and_a_drawn_parent(monkeypatch):
    def two_kinds(keys):
        normal(keys, ONLY, XT)
        uniform(keys, ONLY)

    def parent(keys):
        normal(keys, ONLY, XT)
        normal(fold(keys, ONLY), ONLY, XT)

    with pytest.raises(AssertionError, match="one key is drawn from by test and test"):
        Ledger().run(monkeypatch, two_kinds, some_keys()).check()
    with pytest.raises(AssertionError, match="test draws from a key that others come from"):
        Ledger().run(monkeypatch, parent, some_keys()).check()
    with pytest.raises(AssertionError, match="nothing"):
        Ledger().run(monkeypatch, lambda keys: None, some_keys()).check()


def test_the_call_says_nothing_about_its_input():
    """Examples trained at a later call have noise of mean 0 there (it was above 0.67 in one pixel)."""
    count, calls, bridge = 20_000, 4, make_bridge("brownian")
    xT, times = jnp.zeros((count, 1, 1, 1)), jnp.linspace(1.0, 0.25, calls)

    def generate(xt, t, xT, z):
        return 0.5 * xt

    answer, call = jax.jit(
        lambda keys: ROLL_OUTS["random"](rolling(generate, bridge, xT, times, keys, 0.4))
    )(some_keys(count))
    x0 = answer.x0
    share = np.bincount(call, minlength=calls) / count
    np.testing.assert_allclose(share, [0.4, 0.2, 0.2, 0.2], atol=4.5 * 0.5 / count**0.5)
    for k in range(1, calls):
        own = np.asarray(x0[call == k]).ravel()
        assert abs(own.mean()) < 4.5 * own.std() / len(own) ** 0.5 and own.std() > 0.01


# -- programs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SAMPLERS, "redraw", "consistency"])
def test_a_sampler(monkeypatch, name):
    """On a bridge whose start is drawn, too."""
    bridge = make_bridge("resshift")

    def denoise(x, t, xT):
        return 0.5 * x

    def sample(keys):
        if name == "redraw":
            times = jnp.linspace(bridge.T, bridge.t_min, 5)
            sample_ancestral(denoise, bridge, XT, times, keys, redraw_mask=jnp.ones((3, 4, 4, 1)))
        elif name == "consistency":
            sample_consistency(denoise, bridge, XT, jnp.linspace(0.9, 0.1, 4), keys)
        else:
            SAMPLERS[name](denoise, bridge, XT, 6, keys)

    Ledger().run(monkeypatch, sample, some_keys()).check(HEUN, DBIM, ECSI)


@pytest.mark.parametrize("name", sorted(set(SOLVERS) - {"pinv"}))
def test_a_solver(monkeypatch, name):
    """With all that its settings make it draw; and what is made of it: two scales, and tiles."""
    prior, operator = make_bridge("ddpm"), SuperResolution(kind="pool", factor=2)
    knobs = {"ddnm": {"travel": (2, 2)}, "repaint": {"travel": (2, 2)}, "sdedit": {"repeats": 3}}
    operator, levels = InpaintCenter() if name == "repaint" else operator, prior.levels(5)

    def solve(keys):
        y = measure(operator, XT, 0.1, fold(keys, SampleStream.MEASURE))
        args = (lambda x, t: 0.5 * x, operator, y, 0.1, levels, fold(keys, SampleStream.SOLVE))
        SOLVERS[name].solve(*args, **knobs.get(name, {}))

    Ledger().run(monkeypatch, solve, some_keys()).check()


@pytest.mark.parametrize("solve", [solve_hierarchical, solve_mask_shift])
def test_a_solver_of_large_pictures(monkeypatch, solve):
    levels, operator, x = make_bridge("ddpm").levels(3), InpaintCenter(), jnp.zeros((2, 8, 8, 3))
    knobs = {"factor": 2} if solve is solve_hierarchical else {"tile": 4, "stride": 2}

    def program(keys):
        solve(lambda x, t: 0.5 * x, operator, operator.forward(x), 0.0, levels, keys, **knobs)

    Ledger().run(monkeypatch, program, some_keys(2)).check()


TRAINING = {
    "bridge": {},
    "reflow": {"bridge": {"name": "brownian", "deterministic": True}},
    "dsbm": {"bridge": {"name": "brownian"}, "train.rounds": 3},
    "cbd": {"distill.method": "cbd"},
    "cbt": {"distill.method": "cbt"},
    "random": {"distill.student_steps": 4},
    "chain": {"distill.roll_out": "chain", "distill.student_steps": 3},
    "chain_through": {"distill.roll_out": "chain_through", "distill.student_steps": 3},
    "renoised": {
        "distill.roll_out": "renoised", "distill.student_steps": 3, "distill.xt_from": "call",
        "distill.dropout": True, "distill.bridge_dropout": True, "distill.first_time": 0.9,
    },
    "everything": {
        "distill.student_steps": 4, "distill.call_per": "microbatch", "distill.z_per": "chain",
        "distill.real_alpha": 0.9, "distill.real_beta": 0.9, "distill.gan_weight": 0.1,
        "distill.critic_channels": 4, "distill.critic_layers": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", TRAINING)
def test_a_training_step(monkeypatch, tmp_path, name):
    """From first parameters to the end of a step, whose microbatches and augmentations draw as well."""
    run = small_run(tmp_path, **TRAINING[name])
    for module in ("training.steps", "training.methods.ibmd", "distillation.roll_outs"):
        monkeypatch.setattr(f"jax_bridges.{module}.unroll_gradients", lambda turns: 1)
    params, batch = scale_params(run.system.teacher), image_batch(4)
    if name in STEPS:
        run.config.train.update(dict(steps=9, microbatches=2, simulation_steps=3, mode=name))
        stage = train(run)
    else:
        run.config.distill.microbatches = 2
        stage = distill(run, params)
        if len(stage.batch_shape) > 1:
            batch = {k: v.reshape(3, 4, *v.shape[1:]) for k, v in image_batch(12).items()}

    def program(init, key):
        state = stage.make_state(init, params)
        # The fourth step: of DSBM's second round, whose starts are simulated.
        stage.step(state.replace(step=state.step + 3), params, batch, key)

    ledger = Ledger().run(monkeypatch, program, run.key(stage.init), run.key(stage.draws))
    ledger.check(*SAME_Z)
    assert ledger.keys("_augment") and ledger.keys("corruptions/") and ledger.keys("flax:params")
    assert bool(ledger.keys("flax:dropout")) == (name in ("bridge", "renoised"))
    assert bool(ledger.keys("samplers/sde")) == (name == "dsbm")
    drawn = name in ("random", "renoised", "everything")
    assert bool(ledger.keys("ibmd_answers.py:Rolling.call")) == drawn


def test_a_mixture(monkeypatch):
    """Of all corruptions that draw, two of them twice, in a mixture of its own."""
    parts = [
        make_corruption("inpaint_center"),
        make_corruption("inpaint_freeform", count=3),
        make_corruption("inpaint_random", fill="noise"),
        make_corruption("colorize", noise_std=1.0),
        make_corruption("denoise"),
        make_corruption("inpaint_holes", count=3),
        make_corruption("photo_file", noise=(0.1, 0.2), written=0.5, factors=(1, 2)),
    ]
    mixture = Mixture(parts=(*parts, Mixture(parts=parts[:2])))
    ledger = Ledger().run(monkeypatch, lambda keys: mixture(XT, keys), some_keys()).check()
    # Noise of ten parts, four choices of a mask, two of a part and one of a factor, four numbers that say
    # where one of the masks lies, and six of each of two files, for each of three examples.
    assert len(ledger.drawn) == 3 * (10 + 4 + 2 + 1 + 4 + 2 * 6)


def test_the_programs_of_a_run(monkeypatch, tmp_path):
    """First parameters, both stages and the evaluation of the same images share no key; rows share theirs."""
    run = small_run(tmp_path, **{"distill.method": "cbt"})
    system, batch = run.system, image_batch(2)
    teacher, student = (scale_params(net) for net in (system.teacher, system.student))
    prior = dataclasses.replace(system, bridge=make_bridge("ddpm"))
    method = make_method("ddrm", prior.bridge, {}, 3)
    operator = SuperResolution(kind="pool", factor=2)
    pooled = dataclasses.replace(system, corruption=operator)
    rows = [
        (teacher_sampler(run, 5, "ancestral"), teacher),
        (teacher_sampler(run, 5, "heun"), teacher),
        (student_sampler(run, 3), student),
        (restorer(dataclasses.replace(run, system=prior), operator, 0.1, method), (teacher, None)),
        (prior_sampler(dataclasses.replace(run, system=pooled), prior, method), teacher),
    ]
    ledgers = {"evaluation": Ledger()}
    for sample, params in rows:
        row = Ledger().run(
            monkeypatch, lambda key: sample(params, batch, key), run.key(Purpose.EVALUATE)
        )
        for key, places in row.check(HEUN).drawn.items():
            ledgers["evaluation"].drawn[key] += places
    corrupted = ledgers["evaluation"].keys("corruptions/")
    sampled = ledgers["evaluation"].keys("samplers/") | ledgers["evaluation"].keys("zero_shot/")
    assert len(corrupted) == 2 and len(sampled) > 20 and not corrupted & sampled

    for stage in (train(run), distill(run, teacher)):
        ledgers[f"start of {stage.name}"] = Ledger().run(
            monkeypatch, lambda key: stage.make_state(key, teacher), run.key(stage.init)
        )
        state = jax.eval_shape(stage.make_state, run.key(stage.init), teacher)
        state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
        ledgers[stage.name] = Ledger().run(
            monkeypatch, lambda key: stage.step(state, teacher, batch, key), run.key(stage.draws)
        )
    owner = {}
    for name, ledger in ledgers.items():
        for key in ledger.drawn:
            assert key not in owner, f"{name} draws from a key of {owner[key]}"
            owner[key] = name
    assert set(owner.values()) == set(ledgers)


def test_a_restored_picture_of_a_prior(monkeypatch, tmp_path):
    """The noise of a simulated measurement is none of the solver's, of no sample."""
    config = tiny(corruption={"name": "identity"}, keep_known=False)
    config.bridge, config.preconditioning = {"name": "ddpm"}, {"name": "unit_variance"}
    config.network.conditional = False
    save_player(tmp_path, "train", "teacher", System.create(config), config.to_dict(), spread=0.04)
    restorer = PriorRestorer(
        tmp_path, "ddrm", "superres:kind=pool,factor=2", sigma_y=0.1, nfe=2, simulate=True
    )
    ledger = Ledger()
    with ledger.recording(monkeypatch):
        for sample in (0, 1):
            restorer(photograph(TILE, TILE), sample=sample)
    ledger.check("zero_shot/steps.py:measure")
    assert len(ledger.keys("zero_shot/steps.py:measure")) == 1
    assert len(ledger.drawn) == 1 + 2 * 3  # of either sample the start and two steps


def test_tiles_of_a_bridge(monkeypatch):
    """A pixel of a sample has noise of its own for the hole and for each draw of the sampler."""
    image, size, calls = jnp.zeros((2, 3, 2, 3)), (3, 2), 2
    hole, bridge = make_corruption("inpaint_center", fill="noise"), make_bridge("brownian")

    def program(key):
        noise = noise_field(key, jnp.arange(2), jnp.asarray([[0, 0], [-1, 5]]), size)
        xT = tile_source(hole, image, jnp.ones((2, *size), bool), noise)
        times = jnp.linspace(0.9, 0.4, calls)
        sample_few_step(lambda x, t, xT, z: x + z, bridge, xT, times, noise(PictureStream.STEPS))

    ledger = Ledger().run(monkeypatch, program, jax.random.key(0)).check()
    draws = (
        1 + 1 + 2 * calls
    )  # the hole, the first input, and of each call z and the noise before it
    assert len(ledger.drawn) == 2 * 3 * 2 * draws
