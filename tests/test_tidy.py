"""What keeps the house in order: who may import whom, where SQL stands, how long things may get, what is pinned.

Read from the source with `ast`; nothing is imported. A rule that a change breaks on purpose is changed here, in the
same commit, with the reason.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import balance
from tests.running import ROOT

# Each part, and exactly the parts of ours that it imports. A part is a module, or a package taken as a whole.
IMPORTS = {
    "server": {"app", "config", "embedded", "log_limit", "migrate", "outage", "session", "start_line", "stop_signals"},
    "start_line": {"balance", "protocol"},  # the version stands in the package
    "stop_signals": set(),
    "app": {
        "config",
        "contract",
        "cors",
        "docs",
        "listener",
        "outage",
        "places",
        "pool",
        "protocol",
        "realtime",
        "rest",
        "service",
        "session",
        "short_post",
        "store",
        "threads",
        "turns",
        "web",
        "writer",
    },
    "realtime": {"cors", "http_connection", "protocol", "saving", "service", "snapshot", "turns", "web"},
    "rest": {"compression", "cors", "protocol", "service", "snapshot", "turns", "web"},
    "short_post": {"cors", "protocol", "rest", "saving", "service", "turns", "web"},
    "web": {"cors", "protocol", "turns"},
    "cors": set(),
    "service": {"places", "pool", "protocol", "saving", "sharing", "snapshot", "store", "threads", "writer"},
    "saving": {"snapshot"},
    "sharing": set(),
    "threads": set(),
    "turns": {"addresses"},
    "addresses": set(),
    "writer": {"appender", "pool", "saving", "snapshot", "store", "threads"},
    "appender": {"pool", "saving", "snapshot", "store", "threads"},
    "store": {"pool", "protocol", "snapshot"},
    "pool": {"database_check", "migrate", "outage", "protocol", "session"},
    "database_check": {"session"},
    "session": set(),
    "outage": set(),
    "snapshot": {"protocol"},
    "contract": {"compression", "places", "protocol", "rest"},
    "listener": {"http_connection", "turns"},
    "http_connection": {"http_errors", "protocol", "targets"},
    "http_errors": {"protocol", "web"},
    "targets": {"protocol"},
    "compression": set(),
    "log_limit": set(),
    "places": {"addresses", "protocol"},
    "docs": {"protocol"},
    "config": {"cors", "protocol"},  # which refuses a host or an origin that could never match
    "migrate": {"session"},
    "embedded": set(),
    "balance": set(),
    "protocol": set(),
}
# Each library that has a place, and the parts where it may be imported.
LIBRARIES = {
    # start_line reads URLs as libpq does
    "psycopg": {"session", "database_check", "pool", "store", "migrate", "embedded", "start_line"},
    "psycopg_pool": {"pool"},
    "tornado": {
        *("server", "app", "docs", "listener", "rest", "short_post", "web", "realtime"),
        *("http_connection", "http_errors", "targets"),
    },
    "socketio": {"realtime"},
    "engineio": {"realtime"},
    "idna": {"cors"},
    "jsonschema": {"protocol"},
    "jsonschema_rs": {"protocol"},
    "msgspec": {"docs", "protocol", "snapshot"},
}
# Of these the service takes no more than the name says.
NAMES = {
    ("service", "pool"): {"StoreUnavailable"},
    ("writer", "pool"): {"StoreUnavailable"},
    ("writer", "store"): {"Appended", "Position"},
    ("appender", "pool"): {"StoreUnavailable"},
    ("appender", "store"): {"Appended"},
    ("service", "store"): {"Position", "Store"},
    ("pool", "migrate"): {"check_schema"},
    ("store", "protocol"): {"Encoded", "dumps"},
    ("pool", "protocol"): {"Encoded"},
}
# The one SQL text that is not written beside what runs it: the files of sql/.
SQL_FROM_ELSEWHERE = {("migrate", "migration.text.encode()")}

FILES = [ROOT / "server.py", *sorted((ROOT / "balance").rglob("*.py")), *sorted((ROOT / "protocol").rglob("*.py"))]
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 400


def part_of(dotted: str) -> str:
    """Name the part that a module belongs to: balance.realtime.engine is of realtime."""
    first, *more = dotted.split(".")
    return more[0] if first == "balance" and more else first


def read(path: Path) -> tuple[str, ast.Module]:
    """The part a file belongs to, and its syntax tree."""
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return part_of(dotted), ast.parse(path.read_text("utf-8"))


TREES = {path: read(path) for path in FILES}


def imports(tree: ast.Module) -> Iterator[tuple[str, set[str]]]:
    """Every module that is imported anywhere in a file, and the names taken from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, attributes(tree, alias.asname or alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            if node.module == "balance":
                yield from ((f"balance.{alias.name}", set[str]()) for alias in node.names)
            else:
                yield str(node.module), {alias.name for alias in node.names}


def attributes(tree: ast.Module, name: str) -> set[str]:
    """What is taken of a module that was imported whole: `protocol.dumps` takes dumps."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == name}


def check_none(found: list[str]) -> None:
    """Check that nothing was found, and say each thing that was, on a line of its own."""
    assert not found, "\n" + "\n".join(found)


def test_each_part_imports_exactly_the_parts_it_should() -> None:
    found: dict[str, set[str]] = {part: set() for part, _ in TREES.values()}
    for part, tree in TREES.values():
        ours = {
            part_of(name) for name, _ in imports(tree) if name.partition(".")[0] in ("balance", "protocol", "server")
        }
        found[part] |= ours - {part}
    assert found == IMPORTS


def test_imports_run_one_way() -> None:
    tuple(TopologicalSorter(IMPORTS).static_order())  # raises CycleError


@pytest.mark.parametrize(("user", "used"), NAMES, ids="-".join)
def test_a_part_takes_no_more_of_another_than_it_should(user: str, used: str) -> None:
    taken = [
        names for part, tree in TREES.values() if part == user for name, names in imports(tree) if part_of(name) == used
    ]
    assert set().union(*taken) == NAMES[user, used]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_imported_only_where_it_has_its_place(library: str) -> None:
    users = {part for part, tree in TREES.values() for name, _ in imports(tree) if name.partition(".")[0] == library}
    assert users <= LIBRARIES[library]


def test_every_module_says_what_it_is_for_and_is_not_long() -> None:
    found = [f"{path}: no docstring" for path, (_, tree) in TREES.items() if not ast.get_docstring(tree)]
    for path in FILES:
        lines = len(path.read_text("utf-8").splitlines())
        if lines >= FILE_LINES_MAX:
            found.append(f"{path}: {lines} lines")
    check_none(found)


def test_no_function_is_long() -> None:
    functions = [
        (path, node)
        for path, (_, tree) in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    check_none([
        f"{path}:{node.lineno}: {node.name}"
        for path, node in functions
        if (node.end_lineno or 0) - node.lineno + 1 >= FUNCTION_LINES_MAX
    ])  # fmt: skip


def literals(tree: ast.Module) -> set[str]:
    """The names that stand for SQL written out in the file: constants, and parameters that take only such."""
    names = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.arg)
            and node.annotation is not None
            and ast.unparse(node.annotation) == "LiteralString"
        ):
            names.add(node.arg)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_sql_is_whole_text_and_never_put_together() -> None:
    found, calls = [], 0
    for path, (part, tree) in TREES.items():
        whole = literals(tree)
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr.startswith("execute")
            ):
                calls += 1
                sql = node.args[0]
                written = isinstance(sql, ast.Constant) or (isinstance(sql, ast.Name) and sql.id in whole)
                if not written and (part, ast.unparse(sql)) not in SQL_FROM_ELSEWHERE:
                    found.append(f"{path}:{node.lineno}: {ast.unparse(sql)}")
    assert calls > 10, "the calls are found by their name"
    check_none(found)


def test_no_sql_reads_whatever_columns_there_are() -> None:
    texts = [*FILES, *(ROOT / "sql").glob("*.sql")]
    check_none([str(path) for path in texts if re.search(r"select\s+\*", path.read_text("utf-8"), re.IGNORECASE)])


@pytest.mark.parametrize("name", ["requirements.txt", "tests/requirements.txt"])
def test_every_requirement_says_which_version_is_too_new(name: str) -> None:
    lines = [line.strip() for line in (ROOT / name).read_text("utf-8").splitlines()]
    wanted = [line for line in lines if line and not line.startswith(("#", "-r"))]
    check_none([line for line in wanted if not re.fullmatch(r"[a-z0-9-]+(\[[a-z,]+\])?(>=[0-9.]+,)?<[0-9.]+", line)])


def test_the_migrations_are_numbered_without_a_gap_and_begin_with_why_and_what_they_lock() -> None:
    files = sorted((ROOT / "sql").iterdir())
    assert [file.name[:5] for file in files] == [f"{number:04}_" for number in range(1, len(files) + 1)]
    for file in files:
        head = re.match(r"(--.*\n)+", file.read_text("utf-8"))
        assert head, file.name
        assert "Why:" in head[0], file.name
        assert "Locks:" in head[0], file.name


def test_the_version_that_the_start_prints_is_that_of_the_project() -> None:
    assert balance.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
