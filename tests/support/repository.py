"""The text files of this repository, for the tests that read all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").exists())
SUFFIXES = {
    *(".css", ".d.ts", ".html", ".js", ".json", ".md", ".mjs", ".py", ".sql", ".toml", ".ts", ".txt"),
    *(".yaml", ".yml"),
}
NAMES = {".editorconfig", "justfile", "run"}  # text files without a suffix
IGNORED_FOLDERS = {
    *(".git", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".venv", "__pycache__"),
    *("build", "data", "dist", "node_modules"),
}
GENERATED = {"package-lock.json"}


def text_files(folder: Path = ROOT) -> Iterator[Path]:
    """Yield each text file of a folder and below it that a person writes, in the order of the paths."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in IGNORED_FOLDERS and not name.endswith(".egg-info"))
        for name in sorted(names):
            path = Path(parent, name)
            if name not in GENERATED and (path.suffix in SUFFIXES or name in NAMES):
                yield path


def located(path: Path, line: int) -> str:
    """Return the start of a finding: the path from the root, and the line, counted from 1."""
    return f"{path.relative_to(ROOT)}:{line}"
