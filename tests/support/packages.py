"""The packages of this repository, built, and installed in environments outside the tree."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.repository import ROOT

SOURCES = {"balance": ROOT, "protocol": ROOT / "protocol"}
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def build_wheel(source: Path, folder: Path) -> Path:
    """Build the wheel of a source tree or of an sdist into an empty folder, by the tools of this environment."""
    subprocess.run([*PIP, "wheel", "--no-build-isolation", "--no-deps", f"--wheel-dir={folder}", source], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def build_sdist(source: Path, folder: Path) -> Path:
    """Build the sdist of a source tree into an empty folder, by the tools of this environment."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder], cwd=source, check=True)
    (sdist,) = folder.glob("*.tar.gz")
    return sdist


class Environment:
    """A virtual environment that holds a wheel and exactly the packages on which it depends.

    These are links to those of the environment of the tests, so that nothing is downloaded.
    """

    def __init__(self, folder: Path, wheel: Path) -> None:
        venv.create(folder, symlinks=True)
        self.programs = folder / "bin"
        self.python = self.programs / "python"
        subprocess.run([*PIP, "--python", self.python, "install", "--no-index", "--no-deps", wheel], check=True)
        scheme = {"base": str(folder), "platbase": str(folder)}
        self.site_packages = Path(sysconfig.get_path("purelib", "venv", scheme))
        (info,) = self.site_packages.glob("*.dist-info")
        requirements = (info / "METADATA").read_text("utf-8").partition("\n\n")[0].splitlines()
        marked = [line.removeprefix("Requires-Dist: ") for line in requirements if line.startswith("Requires-Dist: ")]
        for name in dependencies(map(Requirement, marked)):
            self._link(name)

    def run(self, *command: str | Path, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment to its end; `input` is for its standard input."""
        program, *arguments = command
        command = (self.programs / program, *arguments)
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False, **more)

    def _link(self, name: str) -> None:
        installed = distribution(name)
        for top in {file.parts[0] for file in installed.files or ()} - {"..", "__pycache__"}:
            (self.site_packages / top).symlink_to(installed.locate_file(top))


def dependencies(wanted: Iterable[Requirement]) -> set[str]:
    """Return the names of the installed distributions that fulfil the requirements, and of those that these require."""
    found: set[tuple[str, str]] = set()
    pending = list(wanted)
    while pending:
        one = pending.pop()
        name = canonicalize_name(one.name)
        for extra in {"", *one.extras} - {extra for known, extra in found if known == name}:
            found.add((name, extra))
            for text in distribution(name).requires or ():
                further = Requirement(text)
                if further.marker is None or further.marker.evaluate({"extra": extra}):
                    pending.append(further)
    return {name for name, _ in found}
