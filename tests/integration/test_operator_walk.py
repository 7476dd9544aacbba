"""The operator's walk, deploy/walk.sh: from the installation to the upgrade, each step checked by the script itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.packages import Environment
from tests.support.repository import ROOT

WALK = ROOT / "deploy" / "walk.sh"
WALK_S_MAX = 300
OLD = Path("/usr/lib/postgresql/15/bin")
STEPS = ["install", "token", "save", "list", "metrics", "stream", "backup", "kill", "restore", "prune", "upgrade"]


def walk(folder: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the walk with a folder for its files, which it has to leave empty."""
    done = subprocess.run(
        [WALK, *arguments],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": "", **environment},
        capture_output=True,
        text=True,
        timeout=WALK_S_MAX,
        check=False,
    )
    assert list(folder.iterdir()) == []
    return done


def test_the_walk_of_an_operator_succeeds_step_by_step(installation: Environment, tmp_path: Path) -> None:
    done = walk(tmp_path, installation.programs, OLD_PROGRAMS=str(OLD), BALANCE_PORT="an operator's own service")
    assert (done.returncode, done.stderr) == (0, ""), done
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == STEPS
    if OLD.is_dir():
        assert "PostgreSQL 15 to " in lines[-1]


def test_a_walk_without_an_old_postgresql_skips_its_upgrade(tmp_path: Path) -> None:
    """Its last step alone, from the script: a whole walk more would prove nothing."""
    text = WALK.read_text()
    step = text[text.index("old_programs=${OLD_PROGRAMS") : text.index("data=$work/old")]
    script = f'print_step() {{ printf \'%-8s %s\\n\' "$1" "$2"; }}\n{step}\necho not skipped'
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, "-euo", "pipefail", "-c", script],
        env={"PATH": "/nowhere:/usr/bin:/bin", "OLD_PROGRAMS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "upgrade  skipped: there are no programs of PostgreSQL 15 on this machine (OLD_PROGRAMS)\n"


def test_a_walk_that_fails_ends_with_the_reason_and_leaves_nothing(installation: Environment, tmp_path: Path) -> None:
    programs = tmp_path.parent / f"{tmp_path.name}-programs"
    programs.mkdir()
    scripts = {"python": f'exec {installation.python} "$@"', "balance-server": "echo the reason >&2; exit 1"}
    for name, line in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    done = walk(tmp_path, programs)
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["install"]
    assert done.stderr == "walk: token create operator\nthe reason\n"


@pytest.mark.slow
def test_the_walk_installs_the_service_by_itself(tmp_path: Path) -> None:
    done = walk(tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done
