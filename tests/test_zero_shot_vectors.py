"""Zero-shot solvers against trajectories of the official programs (golden/zero_shot_make.py)."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.bridges.diffusion import DDPM, Levels, linear_betas, respaced_steps, table_levels
from jax_bridges.corruptions import Colorize, Identity, InpaintMask, SuperResolution, WalshHadamard
from jax_bridges.corruptions.superres import low_pass
from jax_bridges.zero_shot import (
    count_calls,
    jump_schedule,
    solve_ddnm,
    solve_ddnm_plus,
    solve_ddnm_simple,
    solve_ddrm,
    solve_dps,
    solve_pigdm,
)
from jax_bridges.zero_shot.ddnm_simple import ddnm_simple_step
from jax_bridges.zero_shot.dps import dps_step
from jax_bridges.zero_shot.repaint import repaint_step
from jax_bridges.zero_shot.steps import predict, travel_back, walk
from tests.support.shipped import shipped_basis

pytestmark = pytest.mark.usefixtures("float64")

FILE = np.load(pathlib.Path(__file__).parent / "golden" / "zero_shot.npz")
ALPHA_BAR = np.cumprod(1 - linear_betas())
HOLE = 1 - FILE["mask"][None, :, :, None].astype(np.float32)
POOL = SuperResolution(kind="pool", factor=4)


def denoiser(alpha_bar, learned=False):
    """The analytic network of the vectors, eps = 0.3 x + 1e-5 t with t an index (v = 0.1 x)."""

    def denoise(x, t):
        a = jnp.asarray(alpha_bar)[t.astype(int)]
        x0 = (x - jnp.sqrt(1 - a) * (0.3 * x + 1e-5 * t)) / jnp.sqrt(a)
        return (x0, 0.5 * (0.1 * x + 1)) if learned else x0

    return denoise


DENOISE = denoiser(ALPHA_BAR)


def strided(count, alpha_bar=ALPHA_BAR):
    entries = np.arange(count)[::-1] * (len(alpha_bar) // count)
    return table_levels(alpha_bar, entries, entries.astype(float))


def one_step(alpha_bar, t):
    """The step from table entry t of `alpha_bar`, as the last or not the first of a walk."""
    levels = table_levels(alpha_bar, np.arange(t, -1, -1), np.arange(t, -1, -1.0))
    first = Levels(*(v[:2] for v in levels))
    return jax.tree.map(lambda v: v[0], walk(first, jnp.zeros(1)))._replace(
        first=jnp.asarray(False), last=jnp.asarray(t == 0)
    )


def close(out, expected, tolerance=1e-4):
    np.testing.assert_allclose(out, expected, atol=tolerance * np.abs(expected).max(), rtol=0)


def f64(name):
    return jnp.asarray(FILE[name], jnp.float64)


def cut(array):
    return np.asarray(array, np.float64)[:, :8, :8]


def test_schedules_are_exact():
    for T, length, repeat in ((100, 10, 3), (100, 2, 2), (10, 2, 2), (10, 1, 3), (250, 10, 10)):
        assert jump_schedule(T, length, repeat) == FILE[f"jump_T{T}_l{length}_r{repeat}"].tolist()
    calls = {
        (100, 1, 1): 100, (100, 1, 3): 298, (100, 2, 2): 198, (100, 10, 3): 280,
        (250, 10, 3): 730, (250, 10, 10): 2410,
    }  # fmt: skip
    for (T, length, repeat), expected in calls.items():
        assert count_calls(T, (length, repeat)) == expected
        assert walk(strided(T), jnp.zeros(1), (length, repeat)).t.shape == (expected,)
    for count in (100, 250, 25):
        np.testing.assert_array_equal(respaced_steps(count), FILE[f"respace_{count}_t"])
    np.testing.assert_allclose(ALPHA_BAR[::37], FILE["abar"], rtol=1e-12)
    np.testing.assert_allclose(DDPM.create().levels(100).t[:2] * 999, [990, 980])
    np.testing.assert_allclose(DDPM.create().levels(600).t[:2] * 999, [998, 996])  # no divisor
    np.testing.assert_allclose(DDPM.create().levels(100, "respaced").t[[0, -2]] * 999, [999, 0])


# -- DDNM -----------------------------------------------------------------------------------------


def replay(noise, start, jumps=None):
    """Draw 0 is `start`, 1 + 2k step k's noise, 2 + 2k its jump's, of noises in official order."""
    table = [start]
    order = jumps or [False] * len(noise)
    for i, is_jump in enumerate(order):
        if not is_jump:
            table += [noise[i : i + 1], jnp.zeros_like(start)]
        else:  # one draw a unit step up, of which the last one counts
            table[-1] = noise[i : i + 1]
    return lambda draw: jnp.stack(table)[draw]


def up_steps(T, travel):
    path = jump_schedule(T, *travel)
    return [b > a for a, b in zip(path, path[1:], strict=False)]


def test_ddnm_is_the_official_one():
    keys = replay(f64("ddnm_sr4/noise"), cut(FILE["xT"]))
    out = solve_ddnm(DENOISE, POOL, f64("ddnm_sr4/y"), 0.0, strided(10), keys)
    close(out, FILE["ddnm_sr4/x_final"])
    hole = InpaintMask(mask=cut(HOLE))
    y, travel = f64("ddnm_inpaint_travel/y"), (2, 2)
    keys = replay(f64("ddnm_inpaint_travel/noise"), cut(FILE["xT"]), up_steps(5, travel))
    shipped = {"travel": travel, "travel_as_shipped": True}
    out = solve_ddnm(DENOISE, hole, y, 0.0, strided(5), keys, **shipped)
    close(out, FILE["ddnm_inpaint_travel/x_final"])
    published = solve_ddnm(DENOISE, hole, y, 0.0, strided(5), keys, travel=travel)
    assert jnp.abs(published - out).max() > 0.1


def test_ddnm_plus_is_the_official_one_for_inpainting():
    hole = InpaintMask(mask=cut(HOLE))
    keys = replay(f64("ddnmp_inpaint_n/noise"), cut(FILE["xT"]))
    out = solve_ddnm_plus(DENOISE, hole, f64("ddnmp_inpaint_n/y"), 0.4, strided(5), keys)
    close(out, FILE["ddnmp_inpaint_n/x_final"])


def test_ddnm_plus_is_the_official_one_for_super_resolution_as_shipped():
    shipped = shipped_basis(POOL, 8, 8, small=FILE["lambda/pool_v"])
    keys = replay(f64("ddnmp_sr4_n/noise"), cut(FILE["xT"]))
    y = f64("ddnmp_sr4_n/y")
    out = solve_ddnm_plus(DENOISE, POOL, y, 0.4, strided(10), keys, shipped=shipped)
    close(out, FILE["ddnmp_sr4_n/x_final"])
    assert jnp.abs(solve_ddnm_plus(DENOISE, POOL, y, 0.4, strided(10), keys) - out).max() > 0.1


WALSH = WalshHadamard(ratio=0.25, order=tuple(FILE["wh_perm"].tolist()))
SHIPPED = {
    "sr_avg4": (POOL, shipped_basis(POOL, 32, 32, small=FILE["lambda/pool_v"])),
    "color": (
        Colorize(),
        shipped_basis(Colorize(), 32, 32, small=FILE["lambda/colour_v"]),
    ),
    "cs_wh4": (WALSH, shipped_basis(WALSH, 32, 32)),
    "inpaint": (InpaintMask(mask=HOLE), None),
    "denoise": (Identity(), None),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_lambda_and_noise_of_ddnm_plus(name):
    """The two maps of DDNM+, read off one step of the solver: it is affine in y, z and e."""
    operator, shipped = SHIPPED[name]
    vec, z, eps = (f64(f"lambda/{k}") for k in ("vec", "z", "eps"))
    flat = operator.forward(vec)

    @jax.jit
    def one(x0, e, z, y, alpha, sigma):
        """x_1 of a step from x = 0.6 x0 + 0.8 e, so that x0 and e are what is predicted."""
        start = 0.6 * x0 + 0.8 * e
        levels = Levels(jnp.zeros(2), jnp.stack([0.6, alpha]), jnp.stack([0.8, sigma]))
        return solve_ddnm_plus(
            lambda x, t: x0, operator, y, 0.4, levels,
            lambda draw: jnp.stack([start, z])[draw], shipped=shipped,
        )  # fmt: skip

    zero, inside = jnp.zeros_like(vec), operator.project(vec)
    for i, target in enumerate(FILE["lambda/t_next"]):
        a = 1.0 if target < 0 else ALPHA_BAR[target]
        level = jnp.asarray(a**0.5), jnp.asarray((1 - a) ** 0.5)
        # x = a (x0 - Lambda A^+ (A x0 - y)): with x0 = 0 and y = A vec, a Lambda (P vec).
        gain = one(zero, zero, zero, flat, *level) / a**0.5
        close((gain + vec - inside)[:, ::5, ::5], FILE[f"lambda/{name}"][i : i + 1])
        noise = one(zero, eps, z, jnp.zeros_like(flat), *level)
        if target >= 0:  # the last step has none
            close(noise[:, ::5, ::5], FILE[f"lambda_noise/{name}"][i : i + 1])


def test_clean_noise_has_the_right_spread_where_the_shipped_one_scrambles():
    operator, shipped = SHIPPED["cs_wh4"]
    e = f64("lambda/eps")
    levels = Levels(np.zeros(2), np.array([0.6, 0.8]), np.array([0.8, 0.6]))

    def run(basis):
        return solve_ddnm_plus(
            lambda x, t: jnp.zeros_like(x), operator, operator.forward(0 * e), 0.1, levels,
            lambda draw: jnp.stack([0.8 * e, 0 * e])[draw], shipped=basis,
        )  # fmt: skip

    rest = e - operator.project(e)
    clean = run(None)
    close(clean, 0.6 * np.sqrt(1 - 0.85**2) * rest, 1e-10)
    assert np.corrcoef(run(shipped).ravel(), rest.ravel())[0, 1] < 0.2


@pytest.mark.parametrize(
    ("tag", "operator", "sigma", "levels", "travel"),
    [
        ("color_s0", Colorize(weights=(1 / 3,) * 3), 0.0, 5, (1, 1)),
        ("inpaint_s0.2", InpaintMask(mask=cut(HOLE)), 0.4, 5, (2, 2)),
        ("deno_s0.2", Identity(), 0.4, 5, (1, 1)),
    ],
)
def test_simplified_program(tag, operator, sigma, levels, travel):
    y = operator.forward(cut(FILE["x"]))
    noise = f64(f"simplified/{tag}/noise")
    out = solve_ddnm_simple(
        DENOISE, operator, y, sigma, strided(levels),
        replay(noise, f64("simplified/xT"), up_steps(levels, travel)),
        form="simplified", travel=travel, travel_as_shipped=True,
    )  # fmt: skip
    close(jnp.clip((out[0] + 1) / 2, 0, 1), FILE[f"simplified/{tag}/final"])


def test_ddpm_form_of_hq_demo():
    alpha_bar = np.cumprod(1 - FILE["betas100"].astype(np.float64))
    x, y = f64("repaint/x_t"), f64("hq/y")
    for level in (0.0, 0.4):
        for t in (99, 51, 3, 0):
            step = one_step(alpha_bar, t)
            x0, _ = predict(denoiser(alpha_bar), x, step.t, clip=True)
            residual = POOL.pinv(POOL.forward(x0) - y)
            tag = f"hq/sy{level:g}/t{t}"
            z = f64(f"{tag}/noise")
            out = ddnm_simple_step(x, x0, residual, level, z, step, "hq_demo", 0.0)
            close(out, FILE[f"{tag}/sample"])
            paper = ddnm_simple_step(x, x0, residual, level, z, step, "paper", 0.0)
            if level == 0.0:  # the missing parentheses do nothing there
                close(paper, FILE[f"{tag}/sample"])


# -- DDRM, PiGDM, DPS -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "operator"),
    [
        ("ddrm_sr4_n", POOL),
        ("ddrm_inpaint_n", InpaintMask(mask=cut(HOLE))),
        ("ddrm_color_n", Colorize()),
    ],
)
def test_ddrm_is_the_official_one(tag, operator):
    noise, seq = f64(f"{tag}/noise"), FILE[f"{tag}/seq"][::-1]
    levels = table_levels(ALPHA_BAR, seq, seq.astype(float))
    out = solve_ddrm(
        DENOISE, operator, f64(f"{tag}/y"), 0.1, levels, lambda draw: noise[draw][None]
    )
    close(out, FILE[f"{tag}/final"])


@pytest.mark.parametrize("tag", ["pigdm_sr4", "pigdm_inpaint_noawd"])
def test_pigdm_is_the_one_of_red_diff(tag):
    noise, ts = f64(f"{tag}/noise"), FILE[f"{tag}/ts"][::-1]
    awd = bool(FILE[f"{tag}/awd"])
    operator = POOL if "sr4" in tag else InpaintMask(mask=cut(HOLE))
    out = solve_pigdm(
        DENOISE, operator, f64(f"{tag}/y"), 0.0, table_levels(ALPHA_BAR, ts, ts.astype(float)),
        lambda draw: noise[draw][None], eta=float(FILE[f"{tag}/eta"]),
        guidance="adaptive" if awd else "plain", weight=float(FILE[f"{tag}/grad_term_weight"]),
        start_at_pinv=True,
    )  # fmt: skip
    close(out, FILE[f"{tag}/final"])


def test_dps_of_red_diff():
    tag = "reddps_inpaint_nonorig"
    noise, ts = f64(f"{tag}/noise"), FILE[f"{tag}/ts"][::-1]
    out = solve_dps(
        DENOISE, InpaintMask(mask=cut(HOLE)), f64(f"{tag}/y"), 0.0,
        table_levels(ALPHA_BAR, ts, ts.astype(float)), lambda draw: noise[draw][None],
        scale=float(FILE[f"{tag}/grad_term_weight"]), misfit="squared",
        eta=float(FILE[f"{tag}/eta"]), clip=False, start_at_pinv=True,
    )  # fmt: skip
    close(out, FILE[f"{tag}/final"])


def test_dps_step_is_the_official_one():
    out = dps_step(
        denoiser(ALPHA_BAR, learned=True), POOL, f64("dps_sr4/y"), f64("dps_sr4/x_t"),
        f64("dps_sr4/noise"), one_step(ALPHA_BAR, 500), scale=float(FILE["dps_sr4/scale"]),
    )  # fmt: skip
    close(out[:, ::3, ::3], FILE["dps_sr4/x_out"])


def test_dps_moves_against_the_gradient_of_each_misfit():
    """Against jax.grad of the formulas, with a denoiser that is not linear."""
    x, y, noise = f64("dps_sr4/x_t"), f64("dps_sr4/y"), f64("dps_sr4/noise")
    step = one_step(ALPHA_BAR, 300)

    def denoise(x, t):
        return jnp.tanh(0.7 * x + 0.2 * jnp.roll(x, 1, 2))

    def misfit(power):
        gap = lambda x: y - POOL.forward(denoise(x, step.t))  # noqa: E731
        return jax.grad(lambda x: (gap(x) ** 2).sum() ** (power / 2))(x)

    args, still = (denoise, POOL, y, x, noise, step), 1e-300
    start = dps_step(*args, scale=still)
    norm = misfit(1)
    length = jnp.sqrt(((y - POOL.forward(denoise(x, step.t))) ** 2).sum())
    for name, want in (
        ("norm", norm),
        ("squared_by_norm", misfit(2) / length),
        ("squared", step.alpha * step.alpha_to * misfit(2)),
    ):
        close(start - dps_step(*args, scale=0.3, misfit=name), 0.3 * want, 1e-9)
    close(misfit(2) / length, 2 * norm, 1e-9)  # RED-diff's is twice the official one


# -- RePaint, ILVR ----------------------------------------------------------------------------------


def test_repaint_step_is_the_official_one():
    alpha_bar = np.cumprod(1 - FILE["betas250"].astype(np.float64))
    hole = InpaintMask(mask=1 - f64("repaint/mask")[..., :1])
    x, known = f64("repaint/x_t"), hole.forward(cut(FILE["x"]))
    for t in (249, 120, 0):
        out = repaint_step(
            denoiser(alpha_bar, learned=True), hole, known, x, f64(f"repaint/t{t}/noise_step"),
            f64(f"repaint/t{t}/noise_gt"), one_step(alpha_bar, t),
        )  # fmt: skip
        close(out, FILE[f"repaint/t{t}/sample"])
    # One step up, q(x_121 | x_120), is the official undo.
    up = one_step(alpha_bar, 121)
    step = up._replace(
        alpha_to=up.alpha_to, sigma_to=up.sigma_to, alpha_up=up.alpha, sigma_up=up.sigma
    )
    close(travel_back(x, step, f64("repaint/undo_noise")), FILE["repaint/undo"])


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_low_pass_is_ilvrs(factor):
    close(low_pass(f64("x"), factor)[:, ::3, ::3], FILE[f"ilvr/{factor}"], 1e-5)
