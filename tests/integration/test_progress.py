"""The progress of a command is shown on a terminal, and keeps off a pipe."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from balance.process.progress import progress_bar
from tests.support.history import append_history
from tests.support.repository import ROOT
from tests.support.service import Database


def test_a_command_shows_its_progress_on_a_terminal_and_its_result_on_stdout(
    database: Database, tmp_path: Path
) -> None:
    pytest.importorskip("tqdm", reason="the environment was made before requirements.txt had tqdm")
    append_history(database, 20_000)
    terminal, other = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "server.py"), "backup", str(tmp_path / "one")],
        env={**os.environ, "DATABASE_URL": database.url, "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=other,
    )
    os.close(other)
    shown = b""
    try:
        while data := os.read(terminal, 65_536):
            shown += data
    except OSError:  # on Linux, the end of a terminal is an error
        pass
    os.close(terminal)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b"written: " in shown
    assert b"20.0k snapshots" in shown or b"/20.0k" in shown
    assert output.startswith(str(tmp_path / "one").encode() + b": 20000 snapshots up to seq 20000, ")


def test_nothing_is_shown_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar("read", "B") as bar:
        bar.show(1, 2)
    assert capfd.readouterr() == ("", "")
