"""Makes old.tar.xz: `PYTHONPATH=. python PATH/old_make.py` at the root of a checkout of commit a011160.

Its code then writes what later versions must open (tests/test_old_folders.py): a finished run of toy size,
its data, an import, and the base configuration.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from jax_bridges.import_torch.writer import write_safetensors

from jax_bridges.config import base_config
from jax_bridges.import_torch.names import torch_layout
from jax_bridges.import_torch.workdir import ddbm_settings, import_workdir
from jax_bridges.main import run

HERE = Path(__file__).parent.resolve()


def images() -> np.ndarray:
    """Ramps of colour, [12, 8, 8, 3] uint8: small when packed."""
    ramp = np.add.outer(np.arange(8), np.arange(8)) * 8
    return np.stack([np.stack([ramp + 9 * i, ramp, ramp.T + 60], -1) for i in range(12)]).astype(
        np.uint8
    )


def get_config():
    """The smallest run that has everything in it; its paths lead from the working folder."""
    config = base_config()
    config.task = "old"
    config.data.update(dict(name="arrays", path="images.npz", size=8, test_fraction=0.5))
    config.network.update(dict(widths=(2,), patch=1, groups=1))
    config.train.update(dict(steps=2, batch=4))
    config.distill.update(dict(steps=2, batch=4, bridge_updates=1, student_steps=2))
    config.evaluate.update(
        dict(images=4, batch=4, teacher_nfe=(1,), student_nfe=(1,), pictures=2, metrics=("psnr",))
    )
    config.log_every = 1
    config.checkpoints_kept = 1
    return config


def main():
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.chdir(tempfile.mkdtemp())
    Path("whole").mkdir()
    os.chdir("whole")
    np.savez("images.npz", image=images())
    run(get_config(), "run")
    (Path("run") / "report.html").unlink()  # made again from the rest
    shutil.rmtree(Path("run") / "plots", ignore_errors=True)
    for events in Path("run").rglob("events.out*"):
        events.unlink()
    small = dict(model_channels=32, num_res_blocks=1, channel_mult=(1, 2), attention_ds=(2,))
    layout = torch_layout({**small, "head_channels": 32, "conditional": True}, 4)
    weights = {k: np.full(s, i / 64, np.float32) for i, (k, s) in enumerate(layout.items())}
    file = write_safetensors(Path("weights.safetensors"), weights)
    settings = ddbm_settings("vp")
    import_workdir(file, "ddbm", "import", settings, options={"head_channels": 32})
    file.unlink()
    Path("base.json").write_text(json.dumps(json.loads(base_config().to_json()), indent=1) + "\n")
    shutil.make_archive(str(HERE / "old"), "xztar", ".")


if __name__ == "__main__":
    main()
