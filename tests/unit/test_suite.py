"""The structure of the tests: kinds in folders, what is shared in support, and names that fit a line of a report."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.support.mutants import LIST
from tests.support.order import SLOW_FILES
from tests.support.repository import ROOT, text_files

KINDS = {"unit", "integration", "faults", "contract", "browser"}
TREES = {path: ast.parse(path.read_text("utf-8")) for path in text_files(ROOT / "tests") if path.suffix == ".py"}
TESTS = {path: tree for path, tree in TREES.items() if path.name.startswith("test_")}
# Modules of support that start a service or a database, and fixtures of conftest that do.
STARTS_SOMETHING = {"tests.support.service", "tests.support.shared_service", "tests.support.postgres"}
NAME_MAX = 80
FIXTURES = {"postgres", "private_postgres", "pristine", "template", "database", "make_service", "service", "processes"}


def modules(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports, wherever the import is in it."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names))


def reached(path: Path) -> set[str]:
    """Return the modules of the tests that a file imports, and those that they import."""
    found: set[str] = set()
    waiting = [path]
    while waiting:
        for module in set(modules(waiting.pop())) - found:
            file = ROOT / f"{module.replace('.', '/')}.py"
            if module.startswith("tests.") and file in TREES:
                found.add(module)
                waiting.append(file)
    return found


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the functions of a file."""
    yield from (node for node in ast.walk(TREES[path]) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_test_module_is_in_the_folder_of_its_kind() -> None:
    assert {path.parent.relative_to(ROOT / "tests").as_posix() for path in TESTS} == KINDS


def test_each_file_that_runs_first_exists_once() -> None:
    assert [name for name in SLOW_FILES if ROOT / "tests" / name not in TESTS] == []
    assert len(set(SLOW_FILES)) == len(SLOW_FILES)


def test_no_name_of_a_test_is_long() -> None:
    names = {(path, one.name) for path in TESTS for one in functions(path) if one.name.startswith("test_")}
    found = [f"{path}: {name}: {len(name)} characters" for path, name in sorted(names) if len(name) > NAME_MAX]
    assert not found, "\n".join(found)


def test_no_test_module_is_imported() -> None:
    found = [
        f"{path}: {module}"
        for path in TREES
        for module in modules(path)
        if any(part.startswith("test_") or part == "conftest" for part in module.split(".")) and "tests" in module
    ]
    assert not found, "\n".join(found)


def test_unit_tests_need_no_service_and_no_database() -> None:
    unit = [path for path in TESTS if path.parent.name == "unit"]
    found = [f"{path}: {module}" for path in unit for module in reached(path) & STARTS_SOMETHING]
    arguments = [(path, one.name, arg.arg) for path in unit for one in functions(path) for arg in one.args.args]
    found += [f"{path}: {name}: {arg}" for path, name, arg in arguments if name.startswith("test") and arg in FIXTURES]
    assert not found, "\n".join(found)


def test_a_coroutine_test_marks_itself_only_for_another_timeout() -> None:
    nodes = [(path, node) for path in TESTS for node in ast.walk(TREES[path])]
    called = {id(node.func) for _, node in nodes if isinstance(node, ast.Call)}
    found = [
        f"{path}:{node.lineno}"
        for path, node in nodes
        if isinstance(node, ast.Attribute) and node.attr == "gen_test" and id(node) not in called
    ]
    assert not found, "\n".join(found)


def test_each_change_of_the_mutation_tests_fits_one_text() -> None:
    changes = tomllib.loads(LIST.read_text("utf-8"))["changes"]
    found = [
        f"{count} times in {one['module']}: {one['before']!r}"
        for one in changes
        if (count := (ROOT / one["module"]).read_text("utf-8").count(one["before"])) != 1
    ]
    assert not found, "\n".join(found)
    assert len({(one["module"], one["before"], one["after"]) for one in changes}) == len(changes)
