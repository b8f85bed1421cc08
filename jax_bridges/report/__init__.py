"""What a run shows of itself: results.json, tables, pictures, curves and one HTML report."""

from jax_bridges.report.curves import chart, quality_chart, save_svg, step_chart
from jax_bridges.report.differences import Difference, Measured, no_worse
from jax_bridges.report.headline import headline
from jax_bridges.report.html import build_report
from jax_bridges.report.pictures import grid, save_png, to_png_bytes
from jax_bridges.report.published import load_published, published_rows, published_tasks
from jax_bridges.report.results import read_measured, read_metrics, read_results, write_results
from jax_bridges.report.row import Row
from jax_bridges.report.table import format_table

__all__ = [
    "Difference",
    "Measured",
    "Row",
    "build_report",
    "chart",
    "format_table",
    "grid",
    "headline",
    "load_published",
    "no_worse",
    "published_rows",
    "published_tasks",
    "quality_chart",
    "read_measured",
    "read_metrics",
    "read_results",
    "save_png",
    "save_svg",
    "step_chart",
    "to_png_bytes",
    "write_results",
]
