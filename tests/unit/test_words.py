"""No name, comment or text of this repository has a banned word.

The table in the section "Banned words" of docs/glossary.md is the list: each row has the words, the replacements and a
regular expression. The expression is applied to text in lower case, without line breaks, comment marks and backticks.
Names are split into words: `test_read_timeout` becomes "test read timeout", and `ReadTimeout` becomes "read timeout".
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.repository import ROOT, located, text_files

GLOSSARY = ROOT / "docs" / "glossary.md"
HEADING = "\n## Banned words\n"
# From these headings on, a document has the banned words themselves, or the names of modules that had them.
UNCHECKED = {GLOSSARY: HEADING, ROOT / "CHANGELOG.md": "\n### Moved modules\n"}
# Texts that never change: the client's own, released contracts, and migrations, whose checksums databases store.
FIXED = re.compile(r"docs/spec\.md|tests/(?:.+/)?(?:(?:seed|spec)-[a-z-]+\.js|released/.+)|sql/.+")
TOP = "."
FOLDERS = (TOP, *sorted({path.relative_to(ROOT).parts[0] for path in text_files() if path.parent != ROOT} - {"sql"}))
CELL = re.compile(r"(?<!\\)\|")
INDENT = re.compile(r"^\s*(?:(?:#+|//+|/\*+|\*+|--|<!--)(?:\s+|$))?")
CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Banned(NamedTuple):
    """A row of the table."""

    word: str
    instead: str
    pattern: re.Pattern[str]


@cache
def table() -> tuple[Banned, ...]:
    """Read the table of the glossary."""
    _, found, section = GLOSSARY.read_text("utf-8").partition(HEADING)
    assert found, f"{GLOSSARY} has no section {HEADING.strip()}"
    rows = [line for line in section.split("\n## ")[0].splitlines() if line.startswith("|")][2:]
    return tuple(_banned(row) for row in rows)


def _banned(row: str) -> Banned:
    _, word, instead, pattern, _ = [cell.strip().replace("\\|", "|") for cell in CELL.split(row)]
    return Banned(word, instead, re.compile(pattern.strip("`")))


def findings(path: Path) -> Iterator[str]:
    """Yield a line for each banned word in a file: where it is, the word, and what to write instead."""
    text = path.read_text("utf-8")
    if path in UNCHECKED:
        text = text.partition(UNCHECKED[path])[0]
    yield from (f"{located(path, line)}: {word} → {instead}" for line, word, instead in search(text))


def search(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line, the text and the replacement of each banned word, in the order of the lines."""
    lines = [plain(line) for line in text.splitlines()]
    starts, start = [], 0
    for line in lines:
        starts.append(start)
        start += len(line) + 1
    joined = " ".join(lines)
    found = {(match.start(), match[0], row.instead) for row in table() for match in row.pattern.finditer(joined)}
    yield from ((bisect_right(starts, at), word, instead) for at, word, instead in sorted(found))


def plain(line: str) -> str:
    """Remove the indent and the comment mark of a line, split its names into words, and convert it to lower case."""
    text = CAMEL.sub(" ", INDENT.sub("", line)).replace("_", " ").replace("`", "").replace("None", "null")
    return re.sub(r"\s+", " ", text).strip().lower()


def is_fixed(path: Path) -> bool:
    """Return whether a file never changes, so that its words are not checked."""
    return FIXED.fullmatch(path.relative_to(ROOT).as_posix()) is not None


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_banned_word(folder: str) -> None:
    paths = [path for path in text_files(ROOT / folder) if folder != TOP or path.parent == ROOT]
    found = [line for path in paths if not is_fixed(path) for line in findings(path)]
    if found:
        pytest.fail(f"{len(found)} banned words (docs/glossary.md)\n" + "\n".join(found), pytrace=False)


@pytest.mark.parametrize("row", table(), ids=lambda row: row.word)
def test_each_pattern_finds_its_word_and_not_its_replacement(row: Banned) -> None:
    for word in row.word.split(", "):
        assert row.pattern.search(plain(word)), f"{word} is not found by {row.pattern.pattern}"
    for word in row.instead.split(", "):
        assert not list(search(word)), f"{word} is banned itself"


@pytest.mark.parametrize(
    "text",
    [
        *("always", "a gateway", "half way", "in the same way", "on its way", "either way", "by way of a proxy"),
        *("file.exchange()", "hearth", "outdoors", "broad", "standby", "understand", "standalone", "stands alone"),
        *("in place", "takes place", "a placeholder", "replaced", "two decimal places", "there is no gap"),
        *("is no longer sent", "a client who pays", "those who watch", "an essay", "cannot", "cutting edge"),
        *("taken in order", "the history", "a group of columns"),
    ],
)
def test_ordinary_words_pass(text: str) -> None:
    assert list(search(text)) == []


def test_a_word_is_found_in_names_and_across_lines() -> None:
    name = "out" + "box"
    text = f"fine\n\nclass Has{name.title()}Inside:\n    # it can\n    # not be read\ndef test_{name}_name():"
    assert [line for line, _, _ in search(text)] == [3, 4, 6]
