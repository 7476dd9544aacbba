"""Runs a tool without a network: in a network namespace of its own that has only a loopback device."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

# Tools report their use, and check for newer versions of themselves, unless one of these is set.
QUIET = {
    "CI": "1",
    "DO_NOT_TRACK": "1",
    "NO_UPDATE_NOTIFIER": "1",
    "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true",
    "REDOCLY_TELEMETRY": "off",
    "SCARF_ANALYTICS": "false",
}
ISOLATED = ["unshare", "--net", *(["--map-root-user"] if os.geteuid() else [])]
SETUP = 'ip link set lo up && exec "$@"'


def run_offline(
    command: Sequence[str | Path], question: str = "", *, seconds: int = 60, env: dict[str, str] | None = None
) -> str:
    """Run a command with `question` on its standard input; return what it prints.

    Fails if it ends with another status than 0 within `seconds`. Skips the test where no namespace can be made.
    """
    if reason := _unavailable():
        pytest.skip(reason)
    done = subprocess.run(
        [*ISOLATED, "sh", "-c", SETUP, "sh", *command],
        input=question,
        env={**os.environ, **QUIET, **(env or {})},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@cache
def _unavailable() -> str:
    for program in ("unshare", "ip"):
        if not shutil.which(program):
            return f"there is no program {program} to run a tool without a network"
    done = subprocess.run([*ISOLATED, "sh", "-c", SETUP, "sh", "true"], capture_output=True, text=True, check=False)
    return f"no network namespace can be made: {done.stderr.strip()}" if done.returncode else ""
