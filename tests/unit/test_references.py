"""Nothing in this repository refers to a document, a file or a heading that the repository does not have.

Each test lists all its findings with file and line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

from tests.support.repository import ROOT, located, text_files

SPEC = ROOT / "docs" / "spec.md"
PITFALLS = ROOT / "docs" / "library-pitfalls.md"
CHANGELOG = ROOT / "CHANGELOG.md"  # may name files that are gone

DOCUMENT = re.compile(r"\b[A-Z][A-Z_-]+\.(?:md|rst|txt)\b")
ISSUE = re.compile(r"\bissues? #?\d+\b", re.IGNORECASE)
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
CODE_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
SUFFIX = r"(?:css|html|js|json|md|mjs|py|sql|toml|ts|txt)"
# A path in running text; its first folder is one of this repository. The characters before exclude URLs.
PATH = re.compile(
    rf"(?<![\w./@<>{{}}-])(?:balance|bench|docs|examples|protocol|sql|tests)/[\w./*-]*[\w*]\.{SUFFIX}\b(?![\w/])"
)
FILE_NAME = re.compile(rf"[\w.-]+\.{SUFFIX}")
# A path within a package, as documents abbreviate it: `realtime/engine.py`, `schemas/amount.json`.
INNER_PATH = re.compile(rf"[a-z_]+(?:/[\w.*-]+)+\.{SUFFIX}")
# Names that a document locates in a file: `INSERT` and `LOCK_FEED` in `balance/storage/store.py`.
LOCATED = re.compile(r"((?:`\w+`(?:, | and | or )?)+) (?:in|of) `([\w/.-]+\.py)`")
FOLDER_PATH = re.compile(r"(?:balance|bench|docs|examples|protocol|sql|tests)(?:/[\w-]+)*/")
PITFALL = re.compile(r"\bT([1-9][0-9]?)\b")
ROW = re.compile(r"^\| T([0-9]+) \|.*`-k (t[0-9]+_)` \|$", re.MULTILINE)

FILES = sorted(text_files())
MARKDOWN = [path for path in FILES if path.suffix == ".md"]


@cache
def tracked() -> tuple[str, ...]:
    """Return every text file of the repository as a path from the root."""
    return tuple(path.relative_to(ROOT).as_posix() for path in FILES)


def matches(path: Path, regex: re.Pattern[str]) -> Iterator[tuple[int, re.Match[str]]]:
    """Yield each match in a file and its line, counted from 1."""
    text = path.read_text("utf-8")
    yield from ((text.count("\n", 0, match.start()) + 1, match) for match in regex.finditer(text))


def exists(reference: str) -> bool:
    """Return whether a path from the root names files of the repository; `*` means any name."""
    if "*" in reference:
        return any(fnmatch(path, reference) for path in tracked())
    return (ROOT / reference).is_file()


def ends_a_path(reference: str) -> bool:
    """Return whether a file of the repository has this path, or a path that ends in it; `*` means any name."""
    return any(fnmatch(path, reference) or fnmatch(path, f"*/{reference}") for path in tracked())


def check_none(found: list[str]) -> None:
    """Fail with each finding on a line of its own."""
    if found:
        pytest.fail(f"{len(found)} references lead nowhere\n" + "\n".join(found), pytrace=False)


def test_each_document_that_is_named_exists() -> None:
    names = {path.rpartition("/")[2] for path in tracked()}
    check_none([
        f"{located(path, line)}: {match[0]}"
        for path in FILES
        for line, match in matches(path, DOCUMENT)
        if match[0] not in names
    ])  # fmt: skip


def test_no_text_refers_to_an_issue() -> None:
    check_none([f"{located(path, line)}: {match[0]}" for path in FILES for line, match in matches(path, ISSUE)])


def test_each_path_in_a_text_exists() -> None:
    check_none([
        f"{located(path, line)}: {match[0]}"
        for path in FILES
        if path != CHANGELOG
        for line, match in matches(path, PATH)
        if not exists(match[0])
    ])  # fmt: skip


def test_each_relative_link_leads_to_a_file_and_a_heading() -> None:
    found = []
    for path in MARKDOWN:
        for line, match in matches(path, LINK):
            target, _, heading = match[1].partition("#")
            if "://" in target or target.startswith("mailto:"):
                continue
            file = (path.parent / target).resolve() if target else path
            if not file.exists() or (heading and heading not in headings(file)):
                found.append(f"{located(path, line)}: {match[1]}")
    check_none(found)


@cache
def headings(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings of a document."""
    text = FENCE.sub("", path.read_text("utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_each_file_that_a_document_names_in_code_marks_exists() -> None:
    found = []
    for path in MARKDOWN:
        if path == CHANGELOG:
            continue
        for line, match in matches(path, CODE_SPAN):
            name = match[1]
            is_file = (FILE_NAME.fullmatch(name) or INNER_PATH.fullmatch(name)) and not PATH.fullmatch(name)
            if (is_file and name.endswith((".py", ".md", ".sql")) and not ends_a_path(name)) or (
                FOLDER_PATH.fullmatch(name) and not (ROOT / name).is_dir()
            ):
                found.append(f"{located(path, line)}: {name}")
    check_none(found)


def test_each_name_that_a_document_locates_in_a_file_is_defined_there() -> None:
    found = []
    for path in MARKDOWN:
        if path == CHANGELOG:
            continue
        for line, match in matches(path, LOCATED):
            code = "\n".join(one.read_text("utf-8") for one in FILES if f"/{one.as_posix()}".endswith(f"/{match[2]}"))
            for name in re.findall(r"\w+", match[1].replace(" and ", " ").replace(" or ", " ")):
                if not re.search(rf"(?:\b(?:def|class) {name}\b)|^ *(?:self\.)?{name}(?::.*)? = ", code, re.MULTILINE):
                    found.append(f"{located(path, line)}: {name} in {match[2]}")
    check_none(found)


def test_the_tests_run_the_code_of_the_specification() -> None:
    blocks = re.findall(r"^```javascript\n(.*?)^```$", SPEC.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    copies = "\n".join(path.read_text("utf-8") for path in FILES if re.fullmatch(r"(?:seed|spec)-.+\.js", path.name))
    assert len(blocks) > 1
    assert [block for block in blocks if block not in copies] == []


def test_each_pitfall_that_is_cited_is_documented_and_has_tests() -> None:
    rows = dict(ROW.findall(PITFALLS.read_text("utf-8")))
    tests = [path for path in FILES if path.name.startswith("test_library_") or path.name.startswith("test_traps_")]
    assert tests, "the tests of the pitfalls are found by their names"
    found = [
        f"{located(path, line)}: T{match[1]} is not a row of {PITFALLS.relative_to(ROOT)}"
        for path in tests
        for line, match in matches(path, PITFALL)
        if match[1] not in rows
    ]
    code = "\n".join(path.read_text("utf-8") for path in tests)
    for number, prefix in rows.items():
        for kind in ("stock_", "(?!stock_)"):
            if not re.search(rf"^(?:async )?def test_{prefix}{kind}", code, re.MULTILINE):
                found.append(f"{PITFALLS.relative_to(ROOT)}: T{number} has no test_{prefix}{kind}…")
        assert prefix == f"t{number}_"
    check_none(found)


def test_a_line_of_the_changelog_has_at_most_120_characters() -> None:
    lines = CHANGELOG.read_text("utf-8").splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


def test_operators_read_one_form_of_each_command() -> None:
    """It is `python server.py`, as the beginning of docs/operations.md explains."""
    other_form = re.compile(r"\S+/python3? server\.py|python3 server\.py")
    assert [match[0] for _, match in matches(ROOT / "docs" / "operations.md", other_form)] == []
