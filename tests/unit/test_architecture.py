"""The structure of the code: layers, circles, libraries, SQL, sizes and pinned versions.

Read from the source with `ast`; nothing is imported. A rule that a change breaks on purpose is changed here, in the
same commit, with the reason.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pytest

from tests.support.repository import ROOT

# Each part, and exactly the parts that it imports. A part is a package of balance/, or a module beside the packages.
IMPORTS = {
    "server": {"entry"},
    "entry": {"cli", "process"},
    "cli": {"commands", "config", "config_sources", "process", "program", "setting", "storage"},
    "commands": {
        *("access", "alarms", "app", "auth", "balance", "config", "process", "protocol", "rate_limit"),
        *("setting", "storage", "transfer", "web"),
    },
    "alarms": {"position", "protocol"},  # a client of the feed, which knows the service by its address alone
    "app": {
        *("access", "aio", "config", "database", "feed", "health", "metrics", "rate_limit", "realtime", "request_log"),
        *("routes", "service", "storage", "transfer", "web"),
    },
    "routes": {
        *("access", "aio", "config", "health", "metrics", "protocol", "realtime", "request_log", "service"),
        *("transfer", "web"),
    },
    "metrics": {
        *("aio", "balance", "config", "feed", "health", "protocol", "realtime", "refusals", "service", "storage"),
        *("web",),
    },
    "database": {"aio", "config", "pruner", "storage"},
    "pruner": {"storage"},
    "realtime": {
        *("access", "aio", "auth", "config", "feed", "open_connection", "position", "protocol", "rate_limit"),
        *("refusals", "request_context", "request_log", "service", "snapshot", "web"),
    },
    "web": {
        *("access", "aio", "auth", "balance", "config", "feed", "health", "host_names", "open_connection", "position"),
        *("protocol", "rate_limit", "refusals", "request_context", "request_log", "service", "snapshot", "transfer"),
    },
    "transfer": {"aio", "feed", "position", "protocol", "snapshot", "storage"},
    "rate_limit": {"config", "protocol"},
    "health": {"aio", "database", "feed", "service", "storage"},
    "service": {"aio", "feed", "ids", "position", "protocol", "refusals", "series", "snapshot", "storage"},
    "series": {"protocol", "snapshot", "storage"},
    "feed": {"aio", "position", "protocol", "snapshot", "storage"},
    "storage": {"position", "program", "protocol", "snapshot"},
    "snapshot": {"protocol"},
    "position": {"protocol"},
    "access": {"aio", "auth", "config", "host_names", "program", "protocol", "rate_limit", "setting", "storage"},
    "auth": {"protocol"},
    "refusals": {"protocol"},
    "config": {"config_sources", "host_names", "keep_time", "program", "protocol", "setting"},
    "setting": {"config_sources"},
    "config_sources": set(),
    "host_names": set(),
    "keep_time": set(),
    "aio": set(),
    "ids": set(),
    "process": {"balance", "protocol", "request_log"},  # the version is in the package itself
    "program": set(),
    "open_connection": {"request_context"},
    "request_context": {"auth"},
    "request_log": {"request_context"},
    "balance": set(),
    "protocol": set(),
}
# Parts that import only some modules of another.
MODULES = {
    ("entry", "process"): {"stop_signals"},
    ("cli", "storage"): {"connect", "embedded", "migrate"},
    ("commands", "web"): {"tls"},
    ("realtime", "web"): {"base", "http_connection", "request_stream", "watcher_limit"},
    ("access", "storage"): {"errors", "token_store"},
    ("service", "storage"): {"errors", "feed_store", "series_query", "series_store", "store"},
    ("series", "storage"): {"series_query"},
    ("feed", "storage"): {"append", "errors", "feed_store", "pipeline"},
}
# Each library that one layer hides, and the parts or modules that may import it.
LIBRARIES = {
    "psycopg": {"storage", "process.start_line"},  # the start line reads URLs as libpq does
    "psycopg_pool": {"storage.pool"},
    "tornado": {"alarms.http_client", "commands.serve", "routes", "web", "realtime"},
    "socketio": {"realtime"},
    "engineio": {"realtime"},
    "jwt": {"access.jwt"},
    "idna": {"host_names"},
    "prometheus_client": {"metrics"},
    "jsonschema": {"protocol"},
    "jsonschema_rs": {"protocol"},
    "msgspec": {"web.pages", "protocol", "snapshot"},
}
# Of these modules no other names are used.
NAMES = {
    ("service", "storage.errors"): {"StoreUnavailable"},
    ("service", "storage.store"): {"Store"},
    ("feed.writer", "storage.errors"): {"StoreUnavailable"},
    ("feed.writer", "storage.append"): {"Appended"},
    ("feed.batcher", "storage.errors"): {"StoreUnavailable"},
    ("feed.batcher", "storage.append"): {"Appended"},
    ("feed.batcher", "storage.pipeline"): {"Outcome"},
    ("feed.tail", "storage.errors"): {"STOPPING", "StoreUnavailable"},
    ("feed.tail", "storage.append"): {"Appended"},
    ("storage.pool", "storage.migrate"): {"check_schema"},
    ("storage.append", "protocol"): {"dumps", "encode"},
    ("storage.store", "protocol"): {"Encoded"},
    ("storage.database_session", "protocol"): {"Encoded"},
}
# SQL that is not written beside the call that runs it: the files of sql/, and two statements that do without the
# timeline where the server does not allow it to be read.
SQL_FROM_ELSEWHERE = {
    ("storage.session_settings", "INHERITED_SETTINGS"),  # with STANDBYS in it
    ("storage.migrate", "migration.text.encode()"),
    ("storage.bulk_load", "SQL(definition)"),  # written by PostgreSQL
    ("storage.bulk_load", "statement"),  # with names of tables, schemas and roles in it
    ("storage.append", "expected.name"),
    ("storage.append", "expected.statement(INSERT)"),
    ("storage.append", "expected.statement(INSERT_OR_COMMIT_AT_ONCE)"),
    ("storage.append", "expected.statement(LOCK_EXPECTED)"),
}

FILES = [ROOT / "server.py", *sorted((ROOT / "balance").rglob("*.py")), *sorted((ROOT / "protocol").rglob("*.py"))]
FUNCTION_LINES_MAX = 60
FUNCTION_LINES_MEDIAN_MAX = 8
FILE_LINES_MAX = 300


class Import(NamedTuple):
    """An import of a module, and the names that are used of it."""

    module: str
    names: set[str]


def name_of(path: Path) -> str:
    """Name the module of a file as the tables do: balance/feed/writer.py is feed.writer, balance/app.py is app."""
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return dotted.removeprefix("balance.")


TREES = {name_of(path): ast.parse(path.read_text("utf-8")) for path in FILES}
MODULE_NAMES = set(TREES)


def part_of(module: str) -> str:
    """Name the part that a module belongs to: feed.writer is of feed."""
    return module.partition(".")[0]


def is_within(module: str, owners: set[str]) -> bool:
    """Return whether a module is one of `owners`, or within a package that is."""
    return any(module == owner or module.startswith(f"{owner}.") for owner in owners)


def imports(tree: ast.Module) -> Iterator[Import]:
    """Yield every import of a file, wherever it is in it; `from package import module` is an import of the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name.removeprefix("balance."), attributes(tree, alias.asname or alias.name))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            module = str(node.module).removeprefix("balance.")
            names = {alias.name for alias in node.names}
            inner = {name for name in names if f"{module}.{name}".removeprefix("balance.") in MODULE_NAMES}
            yield from (Import(f"{module}.{name}".removeprefix("balance."), set()) for name in sorted(inner))
            if names - inner:
                yield Import(module, names - inner)


def attributes(tree: ast.Module, name: str) -> set[str]:
    """Return what is used of a module that was imported whole: `protocol.dumps` uses dumps."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == name}


def own_imports(module: str) -> Iterator[Import]:
    """Yield the imports of a module that are of this repository."""
    return (one for one in imports(TREES[module]) if one.module in MODULE_NAMES)


def check_none(found: list[str]) -> None:
    """Check that nothing was found, and name each finding on a line of its own."""
    assert not found, "\n" + "\n".join(found)


def test_each_part_imports_exactly_the_parts_of_its_row() -> None:
    found: dict[str, set[str]] = {part_of(module): set() for module in TREES}
    for module in TREES:
        found[part_of(module)] |= {part_of(one.module) for one in own_imports(module)} - {part_of(module)}
    assert found == IMPORTS


def test_imports_between_parts_run_one_way() -> None:
    tuple(TopologicalSorter(IMPORTS).static_order())  # raises CycleError


def test_no_circle_exists_among_modules() -> None:
    edges = {module: {one.module for one in own_imports(module)} - {module} for module in TREES}
    tuple(TopologicalSorter(edges).static_order())  # raises CycleError


@pytest.mark.parametrize(("user", "used"), MODULES, ids="-".join)
def test_a_part_imports_only_some_modules_of_another(user: str, used: str) -> None:
    modules = {one.module for module in TREES if part_of(module) == user for one in own_imports(module)}
    found = {module.split(".")[1] for module in modules if module.startswith(f"{used}.")}
    assert found == MODULES[user, used]


@pytest.mark.parametrize(("user", "used"), NAMES, ids="-".join)
def test_a_module_uses_only_some_names_of_another(user: str, used: str) -> None:
    names = [one.names for one in own_imports(user) if one.module == used]
    assert set().union(*names) == NAMES[user, used]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_imported_only_in_its_layer(library: str) -> None:
    users = {module for module, tree in TREES.items() for one in imports(tree) if part_of(one.module) == library}
    check_none([user for user in sorted(users) if not is_within(user, LIBRARIES[library])])


def test_every_module_has_a_docstring_and_is_not_long() -> None:
    found = [f"{module}: no docstring" for module, tree in TREES.items() if not ast.get_docstring(tree)]
    for path in FILES:
        lines = len(path.read_text("utf-8").splitlines())
        if lines > FILE_LINES_MAX:
            found.append(f"{path}: {lines} lines")
    check_none(found)


def test_functions_are_short() -> None:
    lines = {
        f"{module}:{node.lineno}: {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    check_none([f"{name}: {count} lines" for name, count in lines.items() if count > FUNCTION_LINES_MAX])
    assert median(lines.values()) <= FUNCTION_LINES_MEDIAN_MAX


def literals(tree: ast.Module) -> set[str]:
    """Return the names of SQL written out in a file: constants, and parameters of type LiteralString."""
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
    for module, tree in TREES.items():
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
                if not written and (module, ast.unparse(sql)) not in SQL_FROM_ELSEWHERE:
                    found.append(f"{module}:{node.lineno}: {ast.unparse(sql)}")
    assert calls > 10, "the calls are found by their name"
    check_none(found)


def test_no_sql_selects_all_columns() -> None:
    texts = [*FILES, *(ROOT / "sql").glob("*.sql")]
    check_none([str(path) for path in texts if re.search(r"select\s+\*", path.read_text("utf-8"), re.IGNORECASE)])


@pytest.mark.parametrize("name", ["requirements.txt", "tests/requirements.txt"])
def test_every_requirement_names_the_version_that_is_too_new(name: str) -> None:
    lines = [line.strip() for line in (ROOT / name).read_text("utf-8").splitlines()]
    wanted = [line for line in lines if line and not line.startswith(("#", "-"))]
    check_none([line for line in wanted if not re.fullmatch(r"[a-z0-9-]+(\[[a-z,]+\])?(>=[0-9.]+,)?<[0-9.]+", line)])


def test_migrations_are_numbered_without_a_gap_and_begin_with_reason_and_locks() -> None:
    files = sorted((ROOT / "sql").iterdir())
    assert [file.name[:5] for file in files] == [f"{number:04}_" for number in range(1, len(files) + 1)]
    for file in files:
        head = re.match(r"(--.*\n)+", file.read_text("utf-8"))
        assert head, file.name
        assert "Why:" in head[0], file.name
        assert "Locks:" in head[0], file.name
