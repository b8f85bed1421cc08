"""The results as Markdown: a table for each machine and set of versions."""

from __future__ import annotations

from collections.abc import Callable

from jax_bridges.measured import markdown_table

MISSING = "–"
# How the twin of a PyTorch row is called.
TWINS = {"_torch_compiled": "_jax", "_torch": "_jax"}


def markdown(lines: list[dict]) -> str:
    """All lines of a file of results; those of one machine and set of versions together."""
    groups: dict[str, list[dict]] = {}
    for line in lines:
        groups.setdefault(heading(line), []).append(line)
    return "\n".join(f"{head}\n\n{table(group, lines)}\n" for head, group in groups.items())


def heading(line: dict) -> str:
    """The machine, the versions and the size that a line is of."""
    about = line["machine"]
    gpu = [about["device"]]
    if about["driver"]:
        gpu += [f"{about['device_gib']} GiB, driver {about['driver']}", about["cpu"]]
    versions = ", ".join(f"{name} {version}" for name, version in line["versions"].items())
    size = "toy size" if line["size"] == "toy" else "full size"
    return f"**{', '.join(gpu)}, {about['cores']} cores; {size}; {versions}**"


def table(group: list[dict], lines: list[dict]) -> str:
    """A Markdown table of `group`; shares and differences refer to other lines of the same device."""
    columns: dict[str, Callable[[dict], str]] = {
        "row": lambda line: line["what"],
        "images": lambda line: _text(line, "images", "d"),
        "ms": lambda line: _text(line, "seconds", ",.0f" if _long(line) else ".4g", 1e3),
        "images/s": lambda line: _text(line, "images_per_second", ".4g"),
        "TFLOP/s": lambda line: _text(line, "tflops", ".3g"),
        "of JAX's products": lambda line: share(line, lines, "products_jax"),
        "of PyTorch's": lambda line: share(line, lines, "products_torch"),
        "compile s": lambda line: _text(line, "compile_seconds", ".0f"),
        "GiB": lambda line: _text(line, "memory_gib", ".3g"),
        "difference": lambda line: difference(line, lines),
        "date": lambda line: line["date"][:10],
        "remarks": remarks,
    }
    words = ("row", "date", "remarks")
    rows = [[show(line) for show in columns.values()] for line in group]
    return markdown_table(list(columns), rows, words)


def share(line: dict, lines: list[dict], products: str) -> str:
    """The line's rate as a share of a framework's own matrix products on the same device."""
    whole = _beside(line, lines, products)
    if not whole or "tflops" not in line or line["row"].startswith("products"):
        return MISSING
    return f"{100 * line['tflops'] / whole['tflops']:.0f} %"


def difference(line: dict, lines: list[dict]) -> str:
    """How far PyTorch's output, or loss and gradient, is from ours, relative to PyTorch's."""
    if "difference" in line:
        return f"{line['difference']:.2g}"
    ending = next((e for e in TWINS if line["row"].endswith(e)), None)
    twin = ending and _beside(line, lines, line["row"].removesuffix(ending) + TWINS[ending])
    if not twin or "loss" not in line or "loss" not in twin:
        return MISSING
    pairs = [(line[key], twin[key]) for key in ("loss", "gradient_norm")]
    return f"{max(abs(theirs - ours) / abs(theirs) for theirs, ours in pairs):.2g}"


def remarks(line: dict) -> str:
    """Why there is no figure, or what the row itself remarks."""
    if line["status"] != "ok":
        return f"{line['status']}: {line['error']}"
    return "; ".join(line.get("remarks", []))


def _beside(line: dict, lines: list[dict], name: str) -> dict | None:
    """The measured line of that name, of the same device and size."""
    for other in lines:
        same = other["machine"]["device"] == line["machine"]["device"]
        if other["row"] == name and same and other["size"] == line["size"]:
            return other if other["status"] == "ok" else None
    return None


def _long(line: dict) -> bool:
    return line.get("seconds", 0) >= 10


def _text(line: dict, key: str, how: str, factor: float = 1) -> str:
    value = line.get(key)
    return MISSING if value is None else format(value * factor, how)
