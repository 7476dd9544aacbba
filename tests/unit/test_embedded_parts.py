"""Decisions of the embedded PostgreSQL that need no server: settings, names, texts of its log, address, errors."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from balance.storage.embedded import EmbeddedError, server_log
from balance.storage.embedded.data_directory import one_line_errors
from balance.storage.embedded.files import printable
from balance.storage.embedded.settings import SETTINGS, SOCKET_NAME
from balance.storage.embedded.socket_folder import SOCKET_PATH_BYTES_MAX, socket_folder, socket_url


@pytest.mark.parametrize("name", ["fsync", "full_page_writes", "synchronous_commit", "restart_after_crash"])
def test_settings_on_which_saved_means_on_disk_are_on(name: str) -> None:
    assert SETTINGS[name] == "on"


def test_it_listens_on_no_tcp_port_and_logs_no_statement() -> None:
    assert SETTINGS["listen_addresses"] == ""
    assert SETTINGS["log_statement"] == "none"
    assert SETTINGS["log_min_error_statement"] == "panic"
    assert SETTINGS["log_error_verbosity"] == "terse"
    assert f".s.PGSQL.{SETTINGS['port']}" == SOCKET_NAME


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'postgres: could not find "x"\n', 'could not find "x"'),
        (b"2025 [1] LOG:  starting\n2025 [1] FATAL:  lock file exists\n", "lock file exists"),
        (b"creating ... initdb: error: no space left\n", "no space left"),
        (b"\xff\n", "�"),
        (b"", "failed"),
    ],
)
def test_the_reason_of_a_failed_program_is_its_first_error(text: bytes, expected: str) -> None:
    assert server_log.reason(text) == expected


def test_the_cause_of_an_end_is_not_a_session_that_ended() -> None:
    text = (
        "1 PANIC:  could not write to file: No space left on device\n"
        "1 FATAL:  the database system is in recovery mode\n"
        "1 FATAL:  terminating connection due to administrator command\n"
    )
    assert server_log.CAUSE.findall(text) == ["could not write to file: No space left on device"]


@pytest.mark.parametrize(
    ("pgdata", "is_private"),
    [
        ("/data/postgresql", False),
        ("/data/é/postgresql", False),
        ("/" + "x" * (SOCKET_PATH_BYTES_MAX - len(SOCKET_NAME) - 2), False),
        ("/" + "x" * (SOCKET_PATH_BYTES_MAX - len(SOCKET_NAME) - 1), True),
        ("/a,b/postgresql", True),
        (os.fsdecode(b"/\xff/postgresql"), True),
    ],
    ids=ascii,
)
def test_the_socket_is_in_pgdata_if_that_can_be_its_address(pgdata: str, is_private: bool) -> None:
    folder = socket_folder(Path(pgdata))
    assert (folder != Path(pgdata)) == is_private
    assert folder == socket_folder(Path(pgdata)), "the same for every process"
    assert len(os.fsencode(folder / SOCKET_NAME)) <= SOCKET_PATH_BYTES_MAX


def test_the_url_names_the_socket_and_has_a_password_that_is_not_searched_for() -> None:
    options = conninfo_to_dict(socket_url(Path("/data/a b&c=d"), "balance"))
    assert options == {
        "dbname": "balance",
        "host": "/data/a b&c=d",
        "password": "unused",
        "port": "5432",
        "user": "postgres",
    }


@pytest.mark.parametrize(
    ("path", "expected"),
    [(b"/a b/\xc3\xa9", "/a b/é"), (b"/a\nb", r"/a\nb"), (b"/\xff", r"/\xff"), (b"/\x1b[31m", r"/\x1b[31m")],
)
def test_a_path_is_printed_as_one_line(path: bytes, expected: str) -> None:
    assert printable(Path(os.fsdecode(path))) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (EmbeddedError("it does not start"), "it does not start"),
        (
            FileNotFoundError(2, "No such file or directory", "/data/postgresql"),
            "postgresql: No such file or directory",
        ),
        (NotADirectoryError(20, "Not a directory", "/data"), "Not a directory"),
        (OSError(28, "No space left on device", "/other/file"), "/other/file: No space left on device"),
        (PermissionError(13, "Permission denied", "/data"), f"Permission denied for user {os.geteuid()}"),
        (psycopg.OperationalError("two\n  lines"), "two lines"),
    ],
    ids=repr,
)
def test_an_error_becomes_one_line_that_names_the_data_directory_once(error: Exception, expected: str) -> None:
    with pytest.raises(EmbeddedError) as caught, one_line_errors(Path("/data")):
        raise error
    assert str(caught.value) == f"data directory /data: {expected}"
    assert caught.value.__cause__ is error


def test_an_interruption_is_not_converted() -> None:
    with pytest.raises(KeyboardInterrupt), one_line_errors(Path("/data")):
        raise KeyboardInterrupt
