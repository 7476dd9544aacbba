"""The folder of the migrations, and a database that cannot be reached; no test has a server."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

import pytest

from balance.storage import migrate as module
from balance.storage.migrate import Migration, SchemaError, migrate, read_migrations

NUMBERS = "the numbers in {folder} must be 0001, 0002, …: "
NOT_NAMED = "in {folder} is not named like 0001_create_balance_snapshot.sql"
ONE = "CREATE TABLE one (n int);"
TWO = "CREATE TABLE two (n int);"


def test_migrations_are_read_in_order_with_the_checksums_of_their_texts(tmp_path: Path) -> None:
    texts = {"0002_drop_one.sql": b"-- \xc3\xa9\r\nDROP TABLE one;", "0001_create_one.sql": ONE.encode()}
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)
    (tmp_path / "README.md").write_text("not a migration")
    two = "-- é\nDROP TABLE one;"
    assert read_migrations(tmp_path) == [
        Migration(1, "0001_create_one.sql", ONE, hashlib.sha256(ONE.encode()).hexdigest()),
        Migration(2, "0002_drop_one.sql", two, hashlib.sha256(two.encode()).hexdigest()),
    ]


@pytest.mark.parametrize(
    ("files", "text"),
    [
        pytest.param({}, "there are no migrations in {folder}", id="nothing"),
        pytest.param({"0001_one.sql": ONE, "0003_two.sql": TWO}, f"{NUMBERS}0003 is there and 0002 is not", id="gap"),
        pytest.param({"0002_two.sql": TWO}, f"{NUMBERS}0002 is there and 0001 is not", id="no first"),
        pytest.param({"0001_one.sql": ONE, "0001_two.sql": TWO}, f"{NUMBERS}0001 is there twice", id="duplicate"),
        pytest.param({"0000_one.sql": ONE}, f"{NUMBERS}0000 is there twice", id="zero"),
        pytest.param({"1_one.sql": ONE}, f"1_one.sql {NOT_NAMED}", id="short number"),
        pytest.param({"one.sql": ONE}, f"one.sql {NOT_NAMED}", id="no number"),
    ],
)
def test_a_folder_that_is_not_a_history_is_refused_before_anything_is_applied(
    tmp_path: Path, files: dict[str, str], text: str
) -> None:
    for name, sql in files.items():
        (tmp_path / name).write_text(sql)
    with pytest.raises(SchemaError) as caught:
        migrate("no conninfo", tmp_path)
    assert str(caught.value) == text.replace("{folder}", str(tmp_path))


@pytest.mark.parametrize(("made", "expected"), [("package/sql", "package/sql"), ("package", "sql")])
def test_the_migrations_are_in_the_package_if_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str, expected: str
) -> None:
    (tmp_path / made).mkdir(parents=True)
    monkeypatch.setattr(resources, "files", {"balance": tmp_path / "package"}.__getitem__)
    assert module._sql_folder() == tmp_path / expected


def test_a_server_that_is_not_there_is_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=f"^the database cannot be reached: .*{tmp_path}") as caught:
        migrate(f"host={tmp_path} dbname=x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("conninfo", ["postgresql://me:se%cret@host/x", "host=x se%cret", "postgresql://[se%cret"])
def test_an_invalid_conninfo_is_refused_and_not_shown(conninfo: str) -> None:
    with pytest.raises(SchemaError, match="DATABASE_URL") as caught:
        migrate(conninfo)
    assert "cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
