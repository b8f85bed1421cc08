"""Operations of a function, counted from what JAX has traced of it: no backend is asked.

XLA counts them too (`Lowered.cost_analysis`), but on a CPU alone: backends that are plugins, those of
GPUs and TPUs, say nothing. And XLA counts the body of a loop once, however often it runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

# What moves or makes values without computing any; random bits are integers.
_FREE = frozenset(
    "bitcast_convert_type broadcast_in_dim concatenate copy copy_p device_put dynamic_slice "
    "dynamic_update_slice empty expand_dims full gather iota optimization_barrier pad pvary "
    "random_bits random_fold_in random_seed random_split random_unwrap random_wrap reshape rev scatter "
    "sharding_constraint slice split squeeze stop_gradient threefry2x32 transpose".split()
)
# XLA counts these apart, for a processor has units of its own for them.
_TRANSCENDENTAL = frozenset(
    "acos acosh asin asinh atan atan2 atanh cbrt cos cosh erf erf_inv erfc exp exp2 expm1 lgamma log "
    "log1p pow rsqrt sin sinh sqrt tan tanh".split()
)


def count_flops(function: Callable, *args: Any) -> float:
    """Floating-point operations of `function(*args)` by XLA's rules, but with every turn of a loop.

    A product and a sum are two operations; products with the zeros of a convolution's padding are none.
    Exponentials and the like, random bits, and what only moves values are not counted. Of branches the
    dearest counts, of a loop whose length is not known (`while_loop`) one turn, of a function that is
    spread by `shard_map` all devices.

    Args:
      args: arrays or shapes (`jax.ShapeDtypeStruct`).
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Jaxpr) -> float:
    return math.fsum(_operations(eqn) for eqn in jaxpr.eqns)


def _operations(eqn: Any) -> float:
    name = eqn.primitive.name
    if name in _RULES:
        return _RULES[name](eqn)
    inner = [_count(jaxpr) for jaxpr in inside(eqn.params)]
    if inner:
        return sum(inner)
    if name in _FREE or name in _TRANSCENDENTAL:
        return 0.0
    if name.startswith(("reduce_", "arg")) and "axes" in eqn.params:
        return float(_size(eqn.invars[0]) - _size(eqn.outvars[0]))
    return float(_size(eqn.outvars[0])) if eqn.outvars else 0.0  # one a value


def inside(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """The functions that an operation calls, each once."""
    for value in params.values():
        for each in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(each, ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, Jaxpr):
                yield each


def _size(value: Any) -> int:
    return math.prod(value.aval.shape)


# -- operations that are more than one a value ----------------------------------------------------
def _dot(eqn: Any) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    return 2.0 * _size(eqn.outvars[0]) * math.prod(shape[axis] for axis in contracted)


def _convolution(eqn: Any) -> float:
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    lhs, rhs, out = (v.aval.shape for v in (*eqn.invars, *eqn.outvars))
    batch, features = (lhs[axis] for axis in numbers.lhs_spec[:2])
    products = batch * features * rhs[numbers.rhs_spec[0]]
    products /= params["feature_group_count"] * params["batch_group_count"]
    axes = zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)
    steps = (params[key] for key in ("window_strides", "padding", "lhs_dilation", "rhs_dilation"))
    for (i, k, o), stride, (low, _), spread, dilation in zip(axes, *steps, strict=True):
        places = np.arange(out[o])[:, None] * stride - low + np.arange(rhs[k]) * dilation
        met = (places >= 0) & (places < lhs[i] * spread) & (places % spread == 0)
        products *= int(
            met.sum()
        )  # places where the kernel meets a value, no zero between or around
    return 2.0 * products


def _window(eqn: Any) -> float:
    return float(_size(eqn.outvars[0]) * (math.prod(eqn.params["window_dimensions"]) - 1))


def _power(eqn: Any) -> float:
    """Repeated squaring, and a division for a negative power."""
    y = abs(eqn.params["y"])
    products = max(y.bit_length() + y.bit_count() - 2, 0)
    return float(_size(eqn.outvars[0]) * (products + (eqn.params["y"] < 0)))


def _attention(eqn: Any) -> float:
    """cuDNN's, forward: two products for each pair of positions and, as XLA's, about six more."""
    (batch, queries, heads, depth), keys = eqn.invars[0].aval.shape, eqn.invars[1].aval.shape[1]
    return float(batch * heads * queries * keys * (4 * depth + 6))


_RULES: dict[str, Callable[[Any], float]] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "integer_pow": _power,
    "logistic": lambda eqn: 3.0 * _size(eqn.outvars[0]),  # 1 / (1 + exp(-x)), its exponential apart
    "reduce_window_max": _window,
    "reduce_window_min": _window,
    "reduce_window_sum": _window,
    "scatter-add": lambda eqn: float(_size(eqn.invars[2])),
    "scan": lambda eqn: eqn.params["length"] * _count(eqn.params["jaxpr"].jaxpr),
    "cond": lambda eqn: max(_count(branch.jaxpr) for branch in eqn.params["branches"]),
    "shard_map": lambda eqn: eqn.params["mesh"].size * sum(map(_count, inside(eqn.params))),
    "dot_product_attention_fwd_wrapper": _attention,
}
