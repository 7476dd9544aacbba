"""The file of a backup: what is written is read again, byte by byte, and nothing else is accepted."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from balance.storage import whole_file as module
from balance.storage.backup_file import BLOCK_BYTES, BackupError, BackupWriter, Header, Report, check, opened, written

HEADER = Header([(1, "0001_a.sql", "ab"), (2, "0002_b.sql", "cd")], "epoch é", 9, 3, "2025-11-07", "1.0", "18.1")
COLUMNS = ["seq", "pid2", "a_b"]
ROWS = [b"1\t\\N\tx\n", b"2\t7\t\\\\n\xc3\xa9\n", b"\\\\.\t\t\n"]
TEXT = b"""{"format": "balance-backup", "version": 1, "schema": [[1, "0001_a.sql", "ab"], [2, "0002_b.sql", "cd"]], \
"epoch": "epoch \\u00e9", "last_seq": 9, "rows": 3, "made_at": "2025-11-07", "program": "1.0", "postgresql": "18.1"}
COPY balance_feed (seq, pid2, a_b) FROM stdin;
""" + b"".join(ROWS) + b"""\\.
COPY balance_token (seq) FROM stdin;
\\.
"""  # fmt: skip
LAST = b'{"rows": 3, "sha256": "%s"}\n' % hashlib.sha256(TEXT).hexdigest().encode()
DAMAGED, TRUNCATED = (
    "the backup is damaged, and nothing was changed",
    "the backup is truncated, and nothing was changed",
)
OTHER = "is not a backup of this program"


def ignore(_done: int, _total: int) -> None: ...


def write(path: Path, rows: Iterator[bytes] | None = None, report: Report = ignore) -> None:
    with written(path, HEADER) as writer:
        writer.write_table("balance_feed", COLUMNS, rows or iter(ROWS), report)
        writer.write_table("balance_token", ["seq"], iter(()), ignore)


def read(path: Path, report: Report = ignore) -> tuple[Header, list[tuple[str, list[str], list[bytes]]]]:
    with opened(path, report) as reader:
        return reader.header, [(name, columns, list(blocks)) for name, columns, blocks in reader.tables()]


def with_checksum(text: bytes, rows: int = 3) -> bytes:
    """Return the bytes of a file with a text, whose last line is right."""
    last = b'{"rows": %d, "sha256": "%s"}\n' % (rows, hashlib.sha256(text).hexdigest().encode())
    return gzip.compress(text + last)


def refusal(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(BackupError) as refused:
        check(path, ignore)
    return str(refused.value).removeprefix(f"{path}: ")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "one.backup"


def test_the_file_is_the_documented_text(path: Path) -> None:
    write(path)
    assert gzip.decompress(path.read_bytes()) == TEXT + LAST
    assert read(path) == (
        HEADER, [("balance_feed", COLUMNS, [b"".join(ROWS)]), ("balance_token", ["seq"], [b""])]
    )  # fmt: skip
    assert check(path, ignore) == HEADER


def test_rows_are_written_and_read_in_blocks_with_their_progress(path: Path) -> None:
    row = b"x" * (BLOCK_BYTES // 4 - 1) + b"\n"
    assert BLOCK_BYTES == 262_144
    reports: list[tuple[int, int]] = []
    write(path, iter([row] * 9), lambda *counts: reports.append(counts))
    assert reports == [(4, 0), (8, 0), (9, 9)]
    reports.clear()
    _, ((_, _, blocks), _) = read(path, lambda *counts: reports.append(counts))
    assert list(map(len, blocks)) == [BLOCK_BYTES, BLOCK_BYTES, len(row)]
    size = path.stat().st_size
    assert [total for _, total in reports] == [size] * 4
    done = [bytes_ for bytes_, _ in reports]
    assert done == sorted(done)
    assert 0 < done[0] <= done[-1] <= size
    assert json.loads(gzip.decompress(path.read_bytes()).splitlines()[-1])["rows"] == 9


def test_a_block_ends_with_the_row_that_fills_it(path: Path) -> None:
    row, tiny, reports = b"x" * (BLOCK_BYTES // 4 - 1) + b"\n", b"1\n", list[tuple[int, int]]()
    write(path, iter([row[1:], row, row, row, tiny] * 2), lambda *counts: reports.append(counts))
    assert reports == [(5, 0), (10, 0), (10, 10)]
    _, ((_, _, blocks), _) = read(path)
    assert list(map(len, blocks)) == [BLOCK_BYTES + 1] * 2 + [0]
    reports.clear()
    check(path, lambda *counts: reports.append(counts))
    assert len(reports) == 4


def test_each_row_is_copied_at_once(path: Path) -> None:
    """The buffer of a row may be used again for the next one."""

    def rows() -> Iterator[Any]:
        buffer = bytearray(b"0\n")
        for digit in b"123":
            buffer[0] = digit
            yield buffer

    write(path, rows())
    assert read(path)[1][0][2] == [b"1\n2\n3\n"]


# Written completely or not at all


def test_a_file_is_private_and_on_disk_before_it_has_its_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"before")
    partial, synced = path.with_name("one.backup.partial"), list[tuple[bool, bytes]]()
    partial.write_bytes(b"left by a killed process" * 1000)
    partial.chmod(0o644)
    fsync = os.fsync

    def note(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synced.append((is_folder, path.read_bytes() if is_folder else partial.read_bytes()))
        fsync(descriptor)

    monkeypatch.setattr(module.os, "fsync", note)
    write(path)
    assert [is_folder for is_folder, _ in synced] == [False, True]
    assert synced[0][1] == synced[1][1] == path.read_bytes()
    assert gzip.decompress(path.read_bytes()) == TEXT + LAST
    assert not partial.exists()
    path.unlink()
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_empty_file_has_nothing_of_what_a_killed_process_left(path: Path) -> None:
    path.with_name("one.backup.partial").write_bytes(b"left")
    with module.whole_file(path):
        pass
    assert path.read_bytes() == b""


def test_a_file_that_is_not_completed_is_removed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"before")
    for error in (KeyboardInterrupt(), ValueError()):
        with pytest.raises(type(error)), written(path, HEADER):
            raise error
        assert path.read_bytes() == b"before"
        assert list(path.parent.iterdir()) == [path]

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module.os, "fsync", fail)
        with pytest.raises(BackupError) as refused:
            write(path)
        assert str(refused.value) == f"{path}: cannot be written: No space left on device"
    monkeypatch.setattr(BackupWriter, "finish", lambda _: (_ for _ in ()).throw(OSError("no text")))
    with pytest.raises(BackupError, match=r"one.backup: cannot be written: no text$"):
        write(path)
    assert path.read_bytes() == b"before"
    assert list(path.parent.iterdir()) == [path]


def test_the_second_of_two_backups_to_one_file_is_refused_and_the_first_is_complete(path: Path) -> None:
    with written(path, HEADER) as writer:
        with pytest.raises(BackupError) as refused:
            write(path)
        assert str(refused.value) == f"{path}: cannot be written: another process writes one.backup.partial"
        writer.write_table("balance_feed", COLUMNS, iter(ROWS), ignore)
        writer.write_table("balance_token", ["seq"], iter(()), ignore)
    assert gzip.decompress(path.read_bytes()) == TEXT + LAST
    write(path)


@pytest.mark.parametrize("begins_again", [False, True])
def test_a_backup_that_was_completed_before_the_lock_is_not_emptied(
    path: Path, monkeypatch: pytest.MonkeyPatch, begins_again: bool
) -> None:
    partial, flock = path.with_name("one.backup.partial"), module.fcntl.flock

    def complete_then_lock(file: Any, operation: int) -> None:
        partial.rename(path)
        if begins_again:
            partial.write_bytes(b"a third one")
        flock(file, operation)

    partial.write_bytes(b"complete")
    monkeypatch.setattr(module.fcntl, "flock", complete_then_lock)
    with pytest.raises(BackupError, match=r"one.backup: cannot be written: another process writes one.backup.partial$"):
        write(path)
    assert path.read_bytes() == b"complete"
    assert partial.exists() == begins_again


def test_a_file_system_without_locks_gets_a_backup(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", fail)
    write(path)
    assert check(path, ignore) == HEADER


def test_a_link_under_the_name_of_the_file_is_not_followed(path: Path) -> None:
    target = path.with_name("target")
    path.with_name("one.backup.partial").symlink_to(target)
    with pytest.raises(BackupError, match=r"cannot be written: Too many levels of symbolic links$"):
        write(path)
    assert not target.exists()


# What is not what was written


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _: gzip.compress(TEXT), TRUNCATED),
        (lambda _: gzip.compress(TEXT + LAST[:-1]), TRUNCATED),
        (lambda _: gzip.compress(TEXT[:-3] + LAST), TRUNCATED),
        (lambda data: data[:-1], TRUNCATED),
        (lambda data: data[:-9], TRUNCATED),
        (lambda data: data[: len(data) // 2], OTHER),
        (lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:], DAMAGED),
        (lambda data: data + b"x", DAMAGED),
        (lambda data: data + gzip.compress(b"x"), DAMAGED),
        (lambda _: gzip.compress(TEXT.replace(b"\t7\t", b"\t8\t") + LAST), DAMAGED),
        (lambda _: gzip.compress(TEXT.replace(b"1.0", b"1.1") + LAST), DAMAGED),
        (lambda _: gzip.compress(TEXT.replace(b"a_b)", b"a_c)") + LAST), DAMAGED),
        (lambda _: gzip.compress(TEXT + LAST.replace(b"3", b"4", 1)), DAMAGED),
        (lambda _: gzip.compress(TEXT + b"[]\n"), DAMAGED),
        (lambda _: gzip.compress(TEXT + b"no JSON\n"), DAMAGED),
        (lambda _: gzip.compress(TEXT + b"{}\n"), DAMAGED),
        (lambda _: with_checksum(TEXT, 4), DAMAGED),
        (lambda _: with_checksum(TEXT.replace(b"COPY balance_token", b"COPY Balance_token")), DAMAGED),
        (lambda _: with_checksum(TEXT.replace(b"(seq)", b"(seq); DROP TABLE x; (seq)")), DAMAGED),
        (lambda _: with_checksum(TEXT.replace(b", a_b)", b', a"b)')), DAMAGED),
        (lambda _: with_checksum(TEXT.replace(b'"epoch": ', b'"else": ')), DAMAGED),
        (lambda _: with_checksum(TEXT.replace(b'"epoch": ', b'"more": 1, "epoch": ')), DAMAGED),
        (lambda _: with_checksum(TEXT.replace(b'[1, "0001_a.sql", "ab"]', b"7")), DAMAGED),
        (lambda _: with_checksum(TEXT.replace(b'[1, "0001_a.sql", "ab"]', b'["0001_a.sql", "ab"]')), DAMAGED),
        (lambda _: with_checksum(TEXT.replace(b'[1, "0001_a.sql", "ab"]', b"{}")), DAMAGED),
        (lambda _: with_checksum(TEXT.replace(b'"version": 1', b'"version": 2')), "was made by a newer version of this "
         "program: update the program"),
        (lambda _: with_checksum(TEXT.replace(b'"version": 1, ', b"")), "was made by a newer version of this "
         "program: update the program"),
        (lambda _: with_checksum(TEXT.replace(b"balance-backup", b"balance-other")), OTHER),
        (lambda _: with_checksum(TEXT.replace(b'"format": "balance-backup", ', b"")), OTHER),
        (lambda _: gzip.compress(b"[1]\n" + TEXT), OTHER),
        (lambda _: gzip.compress(b"[" * 100_000 + b"\n"), OTHER),
        (lambda _: gzip.compress(b""), OTHER),
        (lambda _: gzip.compress(TEXT[:20]), OTHER),
        (lambda _: b"", OTHER),
        (lambda _: b"PGDMP", OTHER),
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_was_written_is_refused(
    path: Path, change: Callable[[bytes], bytes], reason: str
) -> None:
    assert refusal(path, change(with_checksum(TEXT))) == reason


def test_a_flipped_bit_anywhere_is_found(path: Path) -> None:
    data = with_checksum(TEXT)
    # gzip does not check all of its first ten bytes, nor the bits that fill the last byte before its checksum.
    for position in {*range(10, len(data))} - {len(data) - 9}:
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
        with pytest.raises(BackupError):
            check(path, ignore)


def test_a_file_that_cannot_be_read_is_one_line(path: Path) -> None:
    with pytest.raises(BackupError) as refused:
        check(path, ignore)
    assert str(refused.value) == f"{path}: cannot be read: No such file or directory"
    with pytest.raises(BackupError, match=r": cannot be read: Is a directory$"):
        check(path.parent, ignore)


def test_what_is_not_a_regular_file_is_refused_and_never_replaced(path: Path) -> None:
    folder, pipe, link = path.parent, path.with_name("pipe"), path.with_name("link")
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    (loop := path.with_name("loop")).symlink_to(loop)
    for refused in (pipe, link, folder):
        with pytest.raises(BackupError, match=r": cannot be written: is not a regular file$"):
            write(refused)
    with pytest.raises(BackupError, match=r"/loop: cannot be written: Too many levels of symbolic links$"):
        write(loop)
    assert sorted(one.name for one in folder.iterdir()) == ["link", "loop", "pipe"]
    assert stat.S_ISFIFO(pipe.lstat().st_mode)


def test_a_pipe_by_the_number_of_its_descriptor_is_refused() -> None:
    read, written_to = os.pipe()
    try:
        with pytest.raises(BackupError, match=r"is not a regular file$"):
            write(Path(f"/dev/fd/{written_to}"))
    finally:
        os.close(read)
        os.close(written_to)


def test_of_a_link_the_file_to_which_it_leads_is_written(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to("one.backup")
    for _ in range(2):  # the second time there is a file
        write(link)
        assert os.readlink(link) == "one.backup"
        assert gzip.decompress(path.read_bytes()) == TEXT + LAST
        path.write_bytes(b"before")
    assert sorted(one.name for one in path.parent.iterdir()) == ["link", "one.backup"]
