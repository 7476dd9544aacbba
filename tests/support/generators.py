"""The code generators that the slow tests hold the contract to: packages of npm and of PyPI, installed once.

Installed for each content of tests/js/generators/package-lock.json and requirements.txt; later runs need no network.
"""

from __future__ import annotations

import shutil
import subprocess
import venv
from functools import cache
from pathlib import Path

import pytest

from tests.support.node import FOLDER, install_once, node, node_modules
from tests.support.offline import run_offline

PROJECT = FOLDER / "generators"
INSTALL_S_MAX = 600
GENERATE_S_MAX = 180  # openapi-generator, on a busy machine


def run_npm_tool(package: str, program: str, *args: str | Path) -> str:
    """Run a program of an npm package without a network; return what it prints."""
    return run_offline([node(), node_modules(PROJECT) / package / program, *args], seconds=GENERATE_S_MAX)


def run_script(name: str, *args: str | Path) -> str:
    """Run a script of tests/js/generators without a network; return what it prints."""
    node_modules(PROJECT)
    return run_offline([node(), PROJECT / name, *args], seconds=GENERATE_S_MAX)


def run_python_tool(program: str, *args: str | Path) -> str:
    """Run a program of a Python package without a network; return what it prints."""
    return run_offline([python().parent / program, *args], seconds=GENERATE_S_MAX)


def openapi_generator(language: str, document: Path, target: Path, *more: str) -> None:
    """Generate a client by openapi-generator. Skips the test where there is no Java."""
    if not shutil.which("java"):
        pytest.skip("there is no Java to run openapi-generator on")
    run_python_tool(
        "openapi-generator-cli", "generate", "-g", language, "-i", document, "-o", target,
        "--global-property", "apiTests=false,modelTests=false", *more,
    )  # fmt: skip


@cache
def python() -> Path:
    """Return the Python that has the packages of requirements.txt, in a virtual environment of its own.

    Safe to call from several processes at once. Raises RuntimeError with pip's own words if it fails.
    """
    folder, requirements = PROJECT / ".venv", PROJECT / "requirements.txt"

    def install() -> None:
        venv.create(folder, clear=True, with_pip=True)
        done = subprocess.run(
            [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INSTALL_S_MAX, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"pip install failed:\n{done.stderr[-4000:]}")

    install_once(requirements, folder, install)
    return folder / "bin" / "python"
