"""What the tests of report/ share: the rows of a run as results.json holds them, and a parser of its page."""

import json
from html.parser import HTMLParser

import numpy as np

from jax_bridges.report import Row, save_png, write_results

ROWS = [
    dict(model="student", sampler="few_step", nfe=1, images=512, psnr=31.5, fd_lite0_hole=12.3)
    | dict(seconds_per_image=0.0021),
    dict(model="source", sampler="-", nfe=0, images=512, psnr=12.0, fd_lite0_hole=310.0),
    dict(model="teacher", sampler="ode", nfe=100, images=512, psnr=30.125, fd_lite0_hole=12.81)
    | dict(seconds_per_image=0.1827),
    dict(model="teacher", sampler="ode", nfe=1, images=512, psnr=32.25, fd_lite0_hole=17.8)
    | dict(seconds_per_image=0.0021),
]


def read(rows=ROWS):
    return [Row.read(row) for row in rows]


def results_of(rows=ROWS, **more):
    return plain_results(read(rows), **more)


def plain_results(rows=ROWS, **more):
    measured = dict(
        images=512,
        size=[64, 64],
        command="python main.py --config=configs/inpaint.py",
        machine="2 CPU cores",
        date="2026-11-21T05:28:00",
        versions={"jax": "0.10.2"},
        region="hole 16x16 + margin 2",
    )
    return dict(
        title="Earth", task="inpaint", dataset="earth", measured=measured, rows=rows, **more
    )


def colour(rgb, size=4):
    return np.full((1, size, size, 3), rgb, np.uint8)


class Page(HTMLParser):
    """Fails on tags that do not nest; gathers the results table, images and text."""

    VOID = {"meta", "img", "input", "br", "link"}

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.images, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "img" and "src" in attributes:
            self.images.append(attributes)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> does not close what is open"

    def handle_data(self, data):
        if "style" in self.open or "script" in self.open:
            return
        self.text += data
        if "td" in self.open:
            self.rows[-1].append(data)


def finished_run(tmp_path):
    """A finished run with a hostile title, a published row and a log cut by a kill."""
    for name, rgb in (("source", 0), ("student", 128), ("target", 255)):
        save_png(tmp_path / f"samples/{name}.png", colour((rgb, 1, 2))[0])
    save_png(tmp_path / "samples/train-9.png", colour((9, 9, 9))[0])
    save_png(tmp_path / "samples/train-10.png", colour((10, 10, 10))[0])
    published = dict(model="I2SB", sampler="-", nfe=1000, source="published", fid=4.9)
    results = results_of(
        [*ROWS, published | {"reference": "a <paper>"}],
        pictures=["samples/target.png", "samples/gone.png"],
        comparisons=[
            {
                "label": 'tile "1"',
                "images": {n: f"samples/{n}.png" for n in ("source", "student", "target")},
            },
            {"label": "tile 2", "images": {"source": "samples/target.png", "target": "x.png"}},
        ],
    )
    results["title"] = "<script>alert('x')</script> & more"
    write_results(tmp_path / "results.json", results)
    lines = [
        {"stage": "train", "step": s, "loss": 1 / s, "images_per_second": 50} for s in range(1, 60)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"stage": "train", "step": 60, "lo'
    (tmp_path / "metrics.jsonl").write_text(text)
    config = {"seed": 0, "distill": {"steps": 200, "generator": {"rate": 1e-4}}, "note": "<b>"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path
