"""What IBMD reads, the keys of `config.distill`, and which of them go together."""

from __future__ import annotations

from dataclasses import replace

from jax_bridges.bridges import Bridge
from jax_bridges.corruptions import Corruption
from jax_bridges.schema import COUNT, DECAY, FLAG, Choice, Setting, number, under
from jax_bridges.times import student_grid
from jax_bridges.training.methods.ibmd_answers import ROLL_OUTS
from jax_bridges.training.optimizers import SETTINGS as OPTIMIZER
from jax_bridges.training.optimizers import check_optimizer
from jax_bridges.training.settings import BATCH, EMA, MAX_SKIPPED, MICROBATCHES, Z_CHANNELS
from jax_bridges.training.steps import HOLE_MEAN, TIMES, WEIGHT, WEIGHT_MAX

# Where x_t lies: on the bridge to x_T, or to the point at which the trained call was made.
XT_FROM = ("source", "call")
CALL_PER = ("example", "microbatch")
Z_PER = ("call", "chain")
STARTS = ("average", "raw")
CRITIC_SEES = ("xt", "x0")

# fmt: off
# The bridge net must know the generator's answers, for what it misses of them the generator takes for a
# reward of diversity: so the generator waits, and moves less.
SETTINGS = (
    Setting("steps", 400, COUNT, "Updates of the generator."),
    BATCH,
    MICROBATCHES,
    Setting("bridge_updates", 3, COUNT, "L: updates of the bridge net before one of the generator."),
    Setting("student_steps", 4, COUNT, "N: calls the student is trained for; any fewer work too."),
    Setting("roll_out", "random", Choice(ROLL_OUTS), "How x_0 is made: random by one of the N calls, at what "
            "those before it lead to; renoised by one of them, on the bridge to what all N lead to; "
            "chain by all N, with the gradient of the last; chain_through with that of all."),
    Setting("first_call", 0.75, number(above=0, most=1),
            "Roll-outs random and renoised: share of examples at the first call, the hardest one."),
    Setting("call_per", "microbatch", Choice(CALL_PER), "The same: a call is drawn for each example, or for "
            "a whole microbatch, and calls that it does not need are not made; results then depend on "
            "microbatches."),
    Setting("chain_ema", False, FLAG, "The calls before the trained one are the averaged generator's."),
    Setting("ancestral", False, FLAG, "The student moves as I2SB's sampler does: by the posterior from x_T "
            "itself on, and its answer is the state at t_min, not its last prediction."),
    Setting("first_time", 0.97, number(above=0, most=1),
            "Share of T where the first call is made: at 1 it sees x_T itself, as in the paper; below, x_T "
            "under the bridge's noise, and starts with texture, not with its teacher's blur."),
    Setting("bridge_net_sees_call", True, FLAG, "Roll-outs random and renoised: that net is told which call "
            "made x_0."),
    Z_CHANNELS,
    Setting("z_scale", 4.0, number(least=0),
            "Standard deviation of that input, whose weights start at 0 and must grow."),
    Setting("z_fade", 0.0, number(least=0), "At t it is that times (t / T)^z_fade: later calls, whose "
            "x_t has noise of its own, are fed less."),
    Setting("temperature", 1.0, number(least=0), "Of sampling: z has that share of the spread that it was "
            "trained with. What the bridge net misses is paid for as diversity, and a student makes too much "
            "of it: below 1 is less of it and fewer bad answers. May change after training."),
    Setting("z_per", "call", Choice(Z_PER), "Each call has a z of its own, or all of a chain have one."),
    Setting("start", "average", Choice(STARTS), "The generator starts from the teacher's average or from its "
            "raw weights; its own average from the teacher's."),
    Setting("bridge_start", "average", Choice(STARTS), "The same of the bridge net."),
    Setting("dropout", False, FLAG, "The generator has its network's dropout in its own updates."),
    Setting("bridge_dropout", False, FLAG, "The bridge net has it in its own."),
    replace(TIMES, meaning="Law of the times t of both losses."),
    Setting("xt_from", "source", Choice(XT_FROM), "x_t of both losses lies between x_0 and x_T, or between "
            "x_0 and the point at which the trained call made it, at a time before that call's."),
    replace(WEIGHT, meaning="lambda(t) of the generator's loss, as of train."),
    WEIGHT_MAX,
    Setting("weight_tilt", 0.0, number(), "p: the generator's lambda is multiplied by 10^(p (1 - t / T))."),
    Setting("detach_xt", True, FLAG, "x_t is a constant to the generator's gradient: no backward pass of "
            "teacher and bridge net, a cheaper step (IBMD's released one-step I2SB runs; the paper: not)."),
    Setting("inner_weight", 1.0, number(least=0, most=1), "r, of the bridge net's term in the generator's "
            "loss, which pays for diversity; 1: IBMD. A little below 1 it pays less for what the bridge net "
            "has not learnt, and the teacher pulls back what drifts."),
    Setting("clamp", False, FLAG, "Both losses see x_0 clamped to [-1, 1], as it is given out, and the "
            "gradient passes as if it were not: beyond, a teacher that believes x_t drives it further out."),
    Setting("normalize", True, FLAG, "Divide the generator's loss by its detached |x0* - x0|."),
    replace(WEIGHT, key="bridge_weight", default="inverse_sigma",
            meaning="lambda(t) of the bridge net's loss."),
    replace(WEIGHT_MAX, key="bridge_weight_max"),
    replace(HOLE_MEAN, meaning="The bridge net's loss is a mean over the hole alone, as of train; the "
            "generator's as well, where it is not normalised."),
    Setting("real_alpha", 1.0, number(above=0, most=1), "RealUID's alpha: share of the bridge net's loss at "
            "generated images, the rest at real ones; 1: IBMD, which sees none."),
    Setting("real_beta", 1.0, number(above=0, most=1), "RealUID's beta, about as large as alpha."),
    Setting("gan_weight", 0.0, number(least=0), "Of a critic's term in the generator's loss; 0: no critic."),
    Setting("critic_sees", "xt", Choice(CRITIC_SEES), "The critic tells generated from real x_t, or x_0."),
    Setting("critic_channels", 64, COUNT, "Channels of its first layer."),
    Setting("critic_layers", 3, COUNT, "Its layers of stride 2."),
    EMA,
    Setting("ema_warmup", True, FLAG, "Both averages follow closely at first; False: as slowly as ever."),
    Setting("bridge_ema", 0.95, DECAY, "Decay of the bridge net's average, which the generator's loss sees; "
            "0: the net itself, as in Alg. 1."),
    MAX_SKIPPED,
    *under("optimizer", OPTIMIZER, learning_rate=5e-5, delay=0.2, warmup=20, b1=0.0, b2=0.95),
    *under("bridge_optimizer", OPTIMIZER, learning_rate=3e-4, b1=0.0, warmup=60),
    *under("critic_optimizer", OPTIMIZER, learning_rate=3e-4, b1=0.0, warmup=0),
)
# fmt: on


def starts_raw(settings) -> bool:
    """Whether a player starts from the teacher's raw weights."""
    return "raw" in (settings.start, settings.bridge_start)


def check(settings, bridge: Bridge, corruption: Corruption) -> None:
    """ValueError for settings that cannot run, with their keys; each is in its range."""
    for player in ("bridge_optimizer", "critic_optimizer"):
        check_optimizer(settings[player], f"distill.{player}")
    grid = student_grid(bridge, settings.student_steps)
    later = float(grid[1] if len(grid) > 1 else bridge.t_min) / float(bridge.T)
    if not later < settings.first_time:
        raise ValueError(
            f"distill.first_time is {settings.first_time}: it must be above {later:.3g}, the time of the "
            "next call, in units of T."
        )
    if settings.ancestral and settings.first_time < 1:
        raise ValueError(
            f"distill.ancestral steps on from the first call's input, which at distill.first_time "
            f"{settings.first_time} is no state of the bridge: set that to 1, or ancestral to False."
        )
    noisy = not bridge.deterministic and (settings.first_time < 1 or not bridge.pinned)
    if not (settings.z_channels or noisy or corruption.fills == "noise"):
        raise ValueError(
            "A student without z has no randomness at its first call: set distill.z_channels to 3, "
            "distill.first_time to 0.97, or corruption.fill to 'noise' for inpainting."
        )
    if settings.real_alpha == 1 and settings.real_beta != 1:
        raise ValueError(
            f"distill.real_beta is {settings.real_beta} at distill.real_alpha 1, where no real images are "
            "used: set it to 1 too, or real_alpha below 1."
        )
