"""`read_set` reads a folder or a bundle, and names the file and the reason if it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

import protocol
from protocol.bundle import bundle
from protocol.compat.diff import diff
from protocol.compat.schema_set import UnreadableSetError, read_set
from tests.support.repository import ROOT

CURRENT = ROOT / "protocol/schemas"


def test_a_set_is_a_folder_or_a_bundle(tmp_path: Path) -> None:
    file = tmp_path / "bundle.json"
    file.write_text(protocol.dumps(bundle()), "utf-8")
    assert read_set(CURRENT) == {name: protocol.schema(name) for name in protocol.names()}
    assert set(read_set(file)) == set(protocol.names())
    assert diff(read_set(file), read_set(CURRENT)) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "No such file or directory"),
        ("{", "is not valid JSON"),
        ("{}", "contains no schemas"),
        ("[]", "is not a schema"),
        ('{"type": "text"}', "is not a schema"),
        ('{"definitions": {"a": {"$ref": "b.json"}}}', "a refers to b.json, which is not in the set"),
        ('{"definitions": {"a": {"items": {"$ref": "a.json"}}}}', "a refers to itself"),
    ],
)
def test_an_unreadable_file_is_rejected_in_one_line_with_the_reason(
    tmp_path: Path, text: str | None, reason: str
) -> None:
    file = tmp_path / "bundle.json"
    if text is not None:
        file.write_text(text, "utf-8")
    with pytest.raises(UnreadableSetError) as caught:
        read_set(file)
    assert str(caught.value).startswith(f"{file}: {reason}")
    assert "\n" not in str(caught.value)


def test_an_empty_folder_and_an_invalid_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSetError, match=f"{tmp_path}: contains no schemas"):
        read_set(tmp_path)
    (tmp_path / "pong.json").write_text("nothing", "utf-8")
    with pytest.raises(UnreadableSetError, match=f"{tmp_path}/pong.json: is not valid JSON"):
        read_set(tmp_path)
