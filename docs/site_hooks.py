"""What the site needs besides the pages: files outside this folder that they link to, and the repository's address.

Pages link to them as they lie in the repository, ``../notebooks/NAME.ipynb``, so that the links work there as well.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

PROJECT = Path(__file__).resolve().parent.parent
OUTSIDE = ("notebooks/*.ipynb", "images/*.png", "CONTRIBUTING.md", "CHANGELOG.md")
FOLDER = "project"  # where they lie in the site


def on_config(config: Any) -> Any:
    """Read the repository's address from the one place where it stands."""
    config.repo_url = re.search(r'^Repository = "(.*)"', (PROJECT / "pyproject.toml").read_text(), re.M)[1]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the files outside."""
    for pattern in OUTSIDE:
        for path in sorted(PROJECT.glob(pattern)):
            name = f"{FOLDER}/{path.relative_to(PROJECT).as_posix()}"
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links to the files outside lead to where they lie in the site."""
    if page.file.src_uri.startswith(f"{FOLDER}/"):
        return re.sub(r"\]\((docs/)", "](../", markdown)
    return re.sub(r"\]\(\.\./", f"]({FOLDER}/", markdown)


class Examples(griffe.Extension):
    """Have doctests under ``Example:`` rendered as code, which griffe does under ``Examples:`` alone."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)
