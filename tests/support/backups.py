"""Snapshots in a database, its backup in a file, and the restore of one."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path

from balance.snapshot import Snapshot
from balance.storage.backup import back_up
from balance.storage.backup_file import Header
from balance.storage.pool import Pool
from balance.storage.restore import Restored, check_backup, restore
from balance.storage.store import Store
from protocol import Encoded
from tests.support.feed import ONSITE
from tests.support.service import Database

NOW = datetime(2025, 11, 7, 0, 45, 8, 603001, UTC)
ONCHAIN = Encoded('{"rlb":0.000000000000000000000000000001,"usdt":100074.99978,"a.b:/-$":1}')


def save(database: Database, *pids: int | None, received_at: datetime = NOW) -> None:
    """Save a snapshot of each pid, by a service that ends then."""
    store = Store(Pool(database.url, pool_max=2, pool_wait_ms_max=5000, statement_ms_max=5000))
    store.open()
    store.append([Snapshot(str(uuid.uuid4()), NOW, pid, ONCHAIN, ONSITE, received_at) for pid in pids])
    store.close()


def write(database: Database, path: Path) -> Header:
    """Write a backup; return its header."""
    return back_up(database.url, path, "1", lambda _done, _total: None)


def read(database: Database, path: Path, *, replace: bool = False) -> Restored:
    """Restore a backup."""
    backup = check_backup(path, lambda *_: None)
    return restore(database.url, backup, replace=replace, report_load=lambda *_: None, report_index=lambda *_: None)
