"""The console script, and `python -m jax_bridges`: one name for all commands.

    jax_bridges --config=inpaint             trains, distils, evaluates; --helpfull: all settings
    jax_bridges restore MODEL IN... OUT      restores pictures of any size
    jax_bridges paint                        the same, on a page in a browser
    jax_bridges measure IMAGES TARGETS       PSNR, SSIM, LPIPS, Fréchet distances of two folders
    jax_bridges table RUN...                 tables and plots of runs, for papers
    jax_bridges reference OUT                statistics of a data set, for Fréchet distances
    jax_bridges pack FOLDER OUT              many images into few large files
    jax_bridges import_torch FILE WORKDIR    a released PyTorch checkpoint as a teacher or a prior
    jax_bridges export RUN FILE              a student in one file, for other programs
    jax_bridges benchmark                    how fast it runs here, and what a run would cost
    jax_bridges settings WORD                settings with the word in their name, and what they mean
    jax_bridges --version

Each is `python -m jax_bridges.COMMAND` too, and has --help.
"""

import os
import runpy
import sys

from jax_bridges.starting import begin

COMMANDS = (
    "restore", "paint", "measure", "table", "reference", "pack", "import_torch", "export",
    "benchmark", "settings",
)  # fmt: skip


def entry() -> None:
    """Does what the first argument names; a training says that it starts, then imports what takes seconds."""
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    if first in COMMANDS:
        del sys.argv[1]
        runpy.run_module(f"jax_bridges.{first}", run_name="__main__", alter_sys=True)
        return
    if first in ("", "--help", "-h", "help"):
        try:
            print((__doc__ or "").partition("\n\n")[2].rstrip(), flush=True)
        except BrokenPipeError:  # `| head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    if not first.startswith("-"):
        from jax_bridges.hints import did_you_mean

        hint = did_you_mean(first, COMMANDS)
        sys.exit(f"error: Unknown command '{first}': one of {', '.join(COMMANDS)}.{hint}")
    begin()
    from jax_bridges.main import entry

    entry()


if __name__ == "__main__":
    entry()
