"""The tests leave no shared memory of the servers that they kill: a machine has room for a limited number."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.embedded import kill_server, start_postgres
from tests.support.shared_memory import AGE_S_MIN, SEGMENTS, files_of, orphans, remove
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(not SEGMENTS.exists(), reason="this system does not list its shared memory")


def segment_of(data: Path) -> int:
    """Return the id of the segment of a server."""
    return int((data / "postgresql" / "postmaster.pid").read_text().splitlines()[6].split()[1])


def test_what_a_killed_server_leaves_is_removed_and_a_running_one_keeps_its_own(tmp_path: Path) -> None:
    folders = [tmp_path / "killed", tmp_path / "running"]
    servers = [start_postgres(folder) for folder in folders]
    killed, running = [segment_of(folder) for folder in folders]
    files = {segment: files_of(segment) for segment in (killed, running)}
    assert all(path.exists() for paths in files.values() for path in paths)
    kill_server(folders[0])
    # A process that has closed its last file, which held the lock of the server, is not a zombie yet.
    wait_until(lambda: killed in orphans(0))
    assert killed not in orphans(AGE_S_MIN), "a server may still be started for it"
    assert running not in orphans(0)
    remove(killed)
    assert killed not in orphans(0)
    assert [path.exists() for path in files[killed]] == [False] * len(files[killed])
    assert files_of(running) == files[running] != []
    assert all(path.exists() for path in files[running])
    for server in servers:
        server.stop()
