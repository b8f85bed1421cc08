"""A teacher's step of training in plain PyTorch: our loss on our numbers, AdamW, moving average."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jax_bridges.stages.run import Run
from jax_bridges.training.optimizers import ema_update, make_schedule
from tools.torch_unet import torch_images, torch_network

SCHEDULED = 100  # steps that a step can be called for


def make_step(
    run: Run,
    weights: Mapping[str, np.ndarray],
    batch: Mapping[str, np.ndarray],
    device: str = "cpu",
    bfloat16: bool = False,
    layout: str = "NCHW",
    compiled: bool = False,
) -> Callable[[], dict]:
    """`step() -> {"loss", "gradient_norm"}`: an update on the same batch each time, waited for.

    Bridge matching with scalings in x0-form, its mean over pixels and examples. A gradient that is
    not finite is not looked for, as ours is; clipping and dropout there are none in the problem.

    Args:
      batch: from `teacher_batch.first_batch`.
      device, layout, compiled: as of `torch_unet.torch_network`.
      bfloat16: autocast.

    Attributes of the step:
      model: the network; ema: its averaged parameters, in the order of `model.parameters()`.
    """
    system, config = run.system, run.config.train
    model = torch_network(system.teacher, weights, device, layout).train()
    network = torch.compile(model, dynamic=False) if compiled else model
    images = ("x0", "xT", "xt", "mask")
    b = {
        name: torch_images(array, device, layout) if name in images else _column(array, device)
        for name, array in batch.items()
    }
    c_noise, label = (b[k].flatten() if k in b else None for k in ("c_noise", "label"))
    c = config.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=c.learning_rate, betas=(c.b1, c.b2), eps=c.eps,
        weight_decay=c.weight_decay, fused=True,
    )  # fmt: skip
    # Tables, so that JAX has no part in a step.
    count = jnp.arange(SCHEDULED)
    rates = np.asarray(jax.vmap(make_schedule(c, config.steps))(count))
    shares = jax.vmap(lambda k: ema_update(jnp.zeros(()), jnp.ones(()), k, config.ema))(count)
    shares = np.asarray(shares)
    params = list(model.parameters())
    ema = [p.detach().clone() for p in params]
    done = 0

    def step() -> dict:
        nonlocal done
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            xT = b["xT"] if system.teacher.conditional else None
            answer = network(b["c_in"] * b["xt"], c_noise, xT, label)
        x0 = b["c_skip"] * b["xt"] + b["c_out"] * answer.float()
        x0 = torch.where(b["mask"] > 0, x0, b["xT"])
        loss = (b["weight"].flatten() * ((x0 - b["x0"]) ** 2).mean((1, 2, 3))).mean()
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in params])
        for group in optimizer.param_groups:
            group["lr"] = float(rates[done])
        optimizer.step()
        torch._foreach_lerp_(ema, [p.detach() for p in params], float(shares[done]))
        done += 1
        if device == "cuda":
            torch.cuda.synchronize()
        return {"loss": loss.detach(), "gradient_norm": norm}

    step.model, step.ema = model, ema
    return step


def _column(array: np.ndarray, device: str) -> torch.Tensor:
    """`[B]` -> `[B, 1, 1, 1]`."""
    return torch.tensor(array, device=device)[:, None, None, None]
