"""Makes adm_oracle.npz: the ADM UNet once more, in plain torch, NCHW, written from the rules.

Not run by the tests. Its results were checked against runs of the official code (I2SB, DDBM, ADM:
outputs and activations to 6e-7, gradient norms to 2e-6); the cases here are wider.

    python tests/golden/adm_make.py            # needs torch
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from tests.golden.adm_weights import weight

CASES = {
    # ADM-512's half-width first level; legacy attention.
    "legacy_updown": dict(
        **dict(in_channels=3, out_channels=6, model_channels=64, num_res_blocks=2),
        **dict(channel_mult=[0.5, 1, 1.5], attention_ds=[2, 4], head_channels=16),
        **dict(new_attention_order=False, scale_shift_norm=True, resblock_updown=True),
    ),
    # DDBM's order and concatenation, with labels.
    "new_conditional": dict(
        **dict(in_channels=3, out_channels=3, model_channels=32, num_res_blocks=1, num_classes=7),
        **dict(channel_mult=[1, 2], attention_ds=[2], head_channels=16, conditional=True),
        **dict(new_attention_order=True, scale_shift_norm=True, resblock_updown=True),
    ),
    # 64 channels, so that a norm after `h + e` does not cancel the embedding (as 32 would).
    "plain": dict(
        **dict(in_channels=3, out_channels=3, model_channels=64, num_res_blocks=1),
        **dict(channel_mult=[1, 1], attention_ds=[2], head_channels=None, num_heads=4),
        **dict(new_attention_order=False, scale_shift_norm=False, resblock_updown=False),
    ),
}


def unet(w, c, x, t, y=None, acts=None):
    """F [B, C, H, W]; `w(name, *shape)` gives a parameter."""
    acts = {} if acts is None else acts
    base = c["model_channels"]

    def affine(name, *shape):
        return w(name + ".weight", *shape), w(name + ".bias", shape[0])

    def conv(h, name, out, size=3, **kw):
        return F.conv2d(h, *affine(name, out, h.shape[1], size, size), padding=size // 2, **kw)

    def norm(h, name):
        return F.group_norm(h, 32, *affine(name, h.shape[1]), eps=1e-5)

    def res(h, name, out, resample=None):
        x = h
        h = F.silu(norm(h, name + ".in_layers.0"))
        if resample == "up":
            h, x = (F.interpolate(a, scale_factor=2, mode="nearest") for a in (h, x))
        if resample == "down":
            h, x = (F.avg_pool2d(a, 2) for a in (h, x))
        h = conv(h, name + ".in_layers.2", out)
        wide = 2 * out if c["scale_shift_norm"] else out
        e = F.linear(F.silu(emb), *affine(name + ".emb_layers.1", wide, 4 * base))[:, :, None, None]
        if c["scale_shift_norm"]:
            scale, shift = e.chunk(2, 1)
            h = norm(h, name + ".out_layers.0") * (1 + scale) + shift
        else:
            h = norm(h + e, name + ".out_layers.0")
        h = conv(F.silu(h), name + ".out_layers.3", out)
        return h + (x if x.shape[1] == out else conv(x, name + ".skip_connection", out, 1))

    def attention(x, name):
        b, ch, *_ = x.shape
        heads = ch // c["head_channels"] if c["head_channels"] else c["num_heads"]
        h = norm(x, name + ".norm").flatten(2)
        qkv = F.conv1d(h, *affine(name + ".qkv", 3 * ch, ch, 1))
        parts = []
        for head in range(heads):
            d = ch // heads
            starts = [
                (k * heads + head if c["new_attention_order"] else head * 3 + k) * d
                for k in range(3)
            ]
            q, k, v = (qkv[:, s : s + d] for s in starts)
            a = torch.softmax(torch.einsum("bct,bcs->bts", q, k) / math.sqrt(d), -1)
            parts.append(torch.einsum("bts,bcs->bct", a, v))
        h = F.conv1d(torch.cat(parts, 1), *affine(name + ".proj_out", ch, ch, 1))
        return x + h.reshape(x.shape)

    def resize(h, name, way):
        if c["resblock_updown"]:
            return res(h, name, h.shape[1], way)
        if way == "down":
            return conv(h, name + ".op", h.shape[1], stride=2)
        return conv(F.interpolate(h, scale_factor=2, mode="nearest"), name + ".conv", h.shape[1])

    half = base // 2
    angle = t[:, None] * torch.exp(
        -math.log(10000) * torch.arange(half, dtype=torch.float32) / half
    )
    emb = torch.cat([angle.cos(), angle.sin()], 1)
    emb = F.silu(F.linear(emb, *affine("time_embed.0", 4 * base, base)))
    emb = acts["time_embed"] = F.linear(emb, *affine("time_embed.2", 4 * base, 4 * base))
    if y is not None:
        emb = emb + w("label_emb.weight", c["num_classes"], 4 * base)[y]

    widths = [int(m * base) for m in c["channel_mult"]]
    h = acts["input_blocks.0"] = conv(x, "input_blocks.0.0", widths[0])
    hs = [h]
    for level, width in enumerate(widths):
        ds = 2**level
        for _ in range(c["num_res_blocks"]):
            h = res(h, f"input_blocks.{len(hs)}.0", width)
            if ds in c["attention_ds"]:
                h = attention(h, f"input_blocks.{len(hs)}.1")
            acts[f"input_blocks.{len(hs)}"] = h
            hs.append(h)
        if level < len(widths) - 1:
            h = acts[f"input_blocks.{len(hs)}"] = resize(h, f"input_blocks.{len(hs)}.0", "down")
            hs.append(h)
    h = res(h, "middle_block.0", width)
    h = attention(h, "middle_block.1")
    h = acts["middle_block"] = res(h, "middle_block.2", width)
    i = 0
    for level in reversed(range(len(widths))):
        for k in range(c["num_res_blocks"] + 1):
            j = 1
            h = res(torch.cat([h, hs.pop()], 1), f"output_blocks.{i}.0", widths[level])
            if 2**level in c["attention_ds"]:
                h, j = attention(h, f"output_blocks.{i}.1"), 2
            if level and k == c["num_res_blocks"]:
                h = resize(h, f"output_blocks.{i}.{j}", "up")
            acts[f"output_blocks.{i}"] = h
            i += 1
    return conv(F.silu(norm(h, "out.0")), "out.2", c["out_channels"])


def main():
    arrays = {}
    for case, c in CASES.items():
        rng = np.random.RandomState(7)
        channels = 2 * c["in_channels"] if c.get("conditional") else c["in_channels"]
        x = rng.standard_normal((2, channels, 8, 16)).astype(np.float32)
        t = np.array([-1234.5, 0.7] if c.get("conditional") else [0.1, 500.6], np.float32)
        y = np.array([3, 6]) if c.get("num_classes") else None
        params = {}

        def w(name, *shape, params=params):
            if name not in params:
                params[name] = torch.tensor(weight(name, shape), requires_grad=True)
            return params[name]

        label = None if y is None else torch.tensor(y)
        acts = {}
        out = unet(w, c, torch.tensor(x), torch.tensor(t), label, acts)
        grads = torch.autograd.grad((out**2).mean(), list(params.values()))
        arrays |= {f"{case}/args_json": json.dumps(c), f"{case}/in/x": x, f"{case}/in/timesteps": t}
        if y is not None:
            arrays[f"{case}/in/y"] = y
        arrays[f"{case}/out"] = out.detach().numpy()
        for name, a in acts.items():
            a = a.detach().numpy()
            arrays[f"{case}/act/{name}"] = a[:1, :, ::4, ::4] if a.ndim == 4 else a
        norms = {n: float(g.norm()) for n, g in zip(params, grads, strict=True)}
        arrays[f"{case}/grad_norms_json"] = json.dumps(norms)
    np.savez_compressed(Path(__file__).with_name("adm_oracle.npz"), **arrays)


if __name__ == "__main__":
    main()
