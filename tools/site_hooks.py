"""What mkdocs.yml cannot say: pages that lie outside docs/, links out of it, and the pages of the API.

Pages that people read in a clone stay where they are; the site has copies, and links between them work in
both. The API is read from the source by griffe, without importing it; a public name without a docstring
ends the build.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
REPOSITORY = (
    ""  # address of the source, once there is one: files that are no pages are linked there
)

# Page of the site -> the file that it is.
COPIED = {
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "results/index.md": "results/README.md",
    "results/benchmarks.md": "benchmarks/README.md",
    "results/gpu.md": "benchmarks/gpu.md",
    **{
        f"results/{path.name}": f"jax_bridges/shipped/{path.name}"
        for path in sorted((ROOT / "jax_bridges" / "shipped").glob("*.md"))
    },
    **{
        f"examples/{path.stem}.md": f"examples/{path.name}"
        for path in sorted((ROOT / "examples").glob("*.ipynb"))
    },
    **{
        f"results/{path.name}": f"results/{path.name}"
        for path in sorted((ROOT / "results").glob("*.md"))
        if path.name != "README.md"
    },
}

# Page of the API -> its title, and the modules on it.
API = {
    "face": ("jax_bridges", ["jax_bridges", "jax_bridges.trained"]),
    "run": (
        "Run",
        [
            "jax_bridges.main",
            "jax_bridges.config",
            "jax_bridges.configurations",
            "jax_bridges.report",
        ],
    ),
    "restore": ("Restore", ["jax_bridges.restoring.restorer", "jax_bridges.restoring.prior"]),
    "bridges": ("Bridges", ["jax_bridges.bridges"]),
    "samplers": ("Samplers", ["jax_bridges.samplers"]),
    "times": ("Times", ["jax_bridges.times"]),
    "corruptions": ("Corruptions", ["jax_bridges.corruptions"]),
    "denoisers": (
        "Denoisers",
        ["jax_bridges.preconditioning", "jax_bridges.scalings", "jax_bridges.wiener"],
    ),
    "losses": ("Losses", ["jax_bridges.losses", "jax_bridges.corrupted_losses"]),
    "distillation": ("Distillation", ["jax_bridges.distillation"]),
    "methods": (
        "Methods",
        ["jax_bridges.training.methods.base", "jax_bridges.training.methods"],
    ),
    "training": (
        "Training",
        [
            "jax_bridges.training.system",
            "jax_bridges.training.state",
            "jax_bridges.training.optimizers",
        ],
    ),
    "zero_shot": ("Solvers of a prior", ["jax_bridges.zero_shot"]),
    "data": ("Data", ["jax_bridges.data", "jax_bridges.data.source"]),
    "metrics": ("Metrics", ["jax_bridges.metrics.metric", "jax_bridges.metrics"]),
    "keys": ("Randomness", ["jax_bridges.keys"]),
    "choices": ("Choices by name", ["jax_bridges.choices", "jax_bridges.schema"]),
}


def public(module: griffe.Module) -> list[Any]:
    """What a module offers: the names of `__all__`, else those without an underscore that it defines."""
    if module.exports is not None:
        names = [str(name) for name in module.exports]
    else:
        names = [
            name
            for name, member in module.members.items()
            if not name.startswith("_") and not member.is_alias and not member.is_module
        ]
    return [module[name] for name in names]


def undocumented(module: griffe.Module) -> list[str]:
    """Dotted names that a module offers without a docstring.

    Constants say what they are in a comment; a method that fills in what its base declares needs none.
    """
    bare = []
    for found in public(module):
        found = found.final_target if found.is_alias else found
        if not (found.is_function or found.is_class):
            continue
        if not found.has_docstring:
            bare.append(found.path)
        if found.is_class and not found.bases:
            bare += [
                member.path
                for name, member in found.members.items()
                if member.is_function and not name.startswith("_") and not member.has_docstring
            ]
    return bare


def api_pages() -> dict[str, str]:
    """Address -> Markdown of the pages of the API; PluginError where something is not documented."""
    package = griffe.load("jax_bridges", search_paths=[ROOT], resolve_aliases=True)
    pages, bare = {}, []
    overview = ["# API", "", "By module; every name here has its shapes, ranges and errors.", ""]
    for page, (title, modules) in API.items():
        lines = [f"# {title}", ""]
        for name in modules:
            module: Any = (
                package if name == package.name else package[name.removeprefix("jax_bridges.")]
            )
            bare += undocumented(module)
            lines += [f"## `{name}`", "", f"::: {name}", "    options:", "      heading_level: 3"]
            told = [found for found in public(module) if not found.is_attribute or found.docstring]
            lines += ["      members:", *(f"        - {found.name}" for found in told), ""]
            first = (module.docstring.value if module.docstring else "").split("\n")[0]
            overview.append(f"- [`{name}`]({page}.md): {first}")
        pages[f"api/{page}.md"] = "\n".join(lines)
    if bare:
        raise PluginError("Public names without a docstring: " + ", ".join(sorted(set(bare))))
    pages["api/index.md"] = "\n".join(overview) + "\n"
    return pages


def relinked(markdown: str, source: str, page: str) -> str:
    """The links of a file, as they are on the site.

    Args:
      markdown: its text, whose links are relative to `source`.
      source: its path in the repository.
      page: its path on the site.
    """
    places = {file: address for address, file in COPIED.items()}

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match.groups()
        if re.match(r"[a-z]+:|#", target) or not target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path in places:
            address = places[path]
        elif path.startswith("docs/"):
            address = path.removeprefix("docs/")
        elif (ROOT / path).exists():  # a file of the source, which is no page
            return f"[{text}]({REPOSITORY}{path})" if REPOSITORY else text
        else:
            raise PluginError(f"{source}: there is no {path}.")
        return f"[{text}]({os.path.relpath(address, posixpath.dirname(page) or '.')}{anchor or ''})"

    return re.sub(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]*)(#[^)\s]*)?\)", link, markdown)


def read(path: str) -> str:
    """A file as Markdown; of a notebook its text and its code, one after the other."""
    text = (ROOT / path).read_text()
    if not path.endswith(".ipynb"):
        return text
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join([*parts, f"*This page is the notebook `{path}`.*"]) + "\n"


def add_left_out(nav: list[Any], pages: list[str]) -> None:
    """Puts pages that the navigation does not name at its end: those of docs/ at the guide's."""

    def named(part: Any) -> list[str]:
        if isinstance(part, str):
            return [part]
        inner = part.values() if isinstance(part, dict) else part
        return [page for each in inner for page in named(each)]

    known = named(nav)
    sections = {title: part for entry in nav for title, part in entry.items()}
    for page in pages:
        section = sections.get("Results" if page.startswith("results/") else "Guide")
        if page not in known and isinstance(section, list):
            section.append(page)


def on_config(config):
    """Lists all pages in the navigation."""
    add_left_out(
        config.nav, [*(path.name for path in sorted((ROOT / "docs").glob("*.md"))), *COPIED]
    )
    for entry in config.nav:
        for part in next(iter(entry.values())) if isinstance(entry, dict) else ():
            if isinstance(part, dict) and part.get("API") == "api/index.md":
                titles = [{title: f"api/{page}.md"} for page, (title, _) in API.items()]
                part["API"] = [{"Overview": "api/index.md"}, *titles]
    return config


def on_files(files: Files, config) -> Files:
    """Adds the pages that are not in docs/."""
    made = {page: read(path) for page, path in COPIED.items()} | api_pages()
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Mends the links of a page."""
    address = page.file.src_uri
    if address.startswith("api/"):
        return markdown
    return relinked(markdown, COPIED.get(address, f"docs/{address}"), address)
