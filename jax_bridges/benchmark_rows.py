"""What the benchmark leaves: a table of its rows."""

from __future__ import annotations

from jax_bridges.measured import markdown_table

COLUMNS = {
    "network": lambda row: row["name"],
    "dtype": lambda row: row["dtype"],
    "what": lambda row: row["what"],
    "images": lambda row: str(row["images"]),
    "ms": lambda row: f"{1e3 * row['seconds']:.4g}",
    "images/s": lambda row: f"{row['images_per_second']:.4g}",
    "TFLOP/s": lambda row: f"{row['tflops']:.3g}",
    "of matmul": lambda row: f"{100 * row['tflops'] / row['matmul_tflops']:.0f} %",
    "of peak": lambda row: f"{100 * row['tflops'] / row['peak_tflops']:.0f} %",
    "compile s": lambda row: f"{row['compile']:.0f}",
}


def format_rows(rows: list[dict]) -> str:
    """The rows as a Markdown table, without the share of a peak that is not given."""
    columns = {k: v for k, v in COLUMNS.items() if k != "of peak" or rows[0].get("peak_tflops")}
    cells = [[show(row) for show in columns.values()] for row in rows]
    return markdown_table(list(columns), cells, ("network", "dtype", "what"))
