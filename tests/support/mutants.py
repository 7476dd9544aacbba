"""Mutation tests: do the tests of a module fail when a detail of its code is changed?

    python -m tests.support.mutants              every group of tests/mutants.toml
    python -m tests.support.mutants contract     one group

The package is in tests/requirements-mutants.txt. tests/mutants.toml has the groups of modules, each with the tests that
cover it, and the mutants that survive for a reason. The exit status is 1 if another mutant survives, or if an entry of
that list belongs to no survivor.

mutmut makes the mutants and tests them, in a copy of the working tree. mypy runs first: `just check` rejects a mutant
with a type error. mutmut tests each mutant in a process that is forked after the import of the code. This is quick, but
does not test code that runs during the import. So each mutant that is not rejected is tested again in a new process.
Statements outside of functions, and functions with a decorator, are not mutated. For these, which include all SQL, the
list has changes written by hand; each is tested in a new process too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import pytest

from tests.support.repository import ROOT

LIST = ROOT / "tests" / "mutants.toml"
PACKAGES = ("balance", "protocol")
REJECTED = {"killed", "caught by type check"}
PLUGINS = ["-p", "no:schemathesis", "-p", "no:xdist", "-p", "tests.support.mutants"]
# A mutant may have an endless loop. Its tests may last this many times as long as without it, and these seconds more.
TIMES_MAX, MORE_S_MAX = 4, 20
DATABASE_S_MAX = 60  # instead of MORE_S_MAX, since each process makes a database
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a folder


class Survivor(NamedTuple):
    """A mutant that no test rejects: its function, and the changed lines before and after the change."""

    function: str
    before: str
    after: str

    def __str__(self) -> str:
        pairs = [f"{key} = {json.dumps(text, ensure_ascii=False)}" for key, text in self._asdict().items()]
        return "\n".join(["[[survivors]]", *pairs, 'reason = ""', ""])


def pytest_configure(config: pytest.Config) -> None:
    """Let a property test end at its first failure (this module is a plugin of the pytest that tests a mutant)."""
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile("mutants", hypothesis.settings(), phases=phases)
    hypothesis.settings.load_profile("mutants")


def main(arguments: list[str] | None = None) -> int:
    """Test the mutants of some groups; print the survivors without a reason and the reasons without a survivor."""
    listed = tomllib.loads(LIST.read_text("utf-8"))
    parser = argparse.ArgumentParser(prog="python -m tests.support.mutants", description="Test the mutants of modules.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"{', '.join(listed['groups'])}; default: all")
    chosen = parser.parse_args(arguments).groups or list(listed["groups"])
    if unknown := set(chosen) - set(listed["groups"]):
        parser.error(f"no such group: {', '.join(sorted(unknown))}")
    entries = listed.get("survivors", [])
    if not all(one["reason"] for one in entries):
        parser.error(f"{LIST}: an entry has no reason")
    explained = {Survivor(one["function"], one["before"], one["after"]) for one in entries}
    failed = False
    for name in chosen:
        group = listed["groups"][name]
        changes = [one for one in listed.get("changes", []) if one["group"] == name]
        with environment(group) as variables, mutated_tree(group, variables) as tree:
            survivors = set(survivors_in(tree, group, changes, variables))
        modules = tuple(f"{module.removesuffix('.py').replace('/', '.')}." for module in group["modules"])
        tested = set(map(survivor_of, changes))
        stale = {one for one in explained if one in tested or one.function.startswith(modules)} - survivors
        print(f"{name}: survivors with a reason: {len(survivors & explained)}")
        failed |= report(f"{name}: survivors without a reason", survivors - explained)
        failed |= report(f"{name}: reasons without a survivor", stale)
    return 1 if failed else 0


def report(title: str, found: Iterable[Survivor]) -> bool:
    """Print survivors as entries of the list; return whether there are any."""
    lines = sorted(map(str, found))
    print(f"{title}: {len(lines)}", *lines, sep="\n")
    return bool(lines)


@contextmanager
def environment(group: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Give the environment of the tests; a group with `database = true` gets one PostgreSQL for all its mutants.

    Its data is in memory where that is possible: the tests make many databases.
    """
    if not group.get("database") or "TEST_DATABASE_URL" in os.environ:
        yield dict(os.environ)
        return
    from balance.storage.embedded import EmbeddedPostgres  # not at the top: as a plugin this module imports no mutants

    with (
        tempfile.TemporaryDirectory(prefix="balance-mutants-data-", dir=MEMORY) as folder,
        EmbeddedPostgres.start(Path(folder)) as server,
    ):
        yield {**os.environ, "TEST_DATABASE_URL": server.url}


@contextmanager
def mutated_tree(group: dict[str, Any], variables: dict[str, str]) -> Iterator[Path]:
    """Copy the working tree, run mutmut in the copy, and give the copy with the results.

    A group without modules has no mutants, only changes: for these the copy is where mutmut would put its own.
    """
    with tempfile.TemporaryDirectory(prefix="balance-mutants-") as folder:
        tree = Path(folder)
        copy = tree if group["modules"] else tree / "mutants"
        tracked = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.split("\0")  # fmt: skip
        for name in filter(None, tracked):
            if (ROOT / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, copy / name)
        if group["modules"]:
            with (tree / "pyproject.toml").open("a") as file:
                file.write(configuration(group, sorted({name.partition("/")[0] for name in tracked if name})))
            run_mutmut(tree, variables)
        yield tree


def run_mutmut(tree: Path, variables: dict[str, str]) -> None:
    """Make and test the mutants; mutmut shows its progress on the terminal of the caller."""
    done = subprocess.run([sys.executable, "-m", "mutmut", "run"], cwd=tree, env=variables, check=False)
    print()
    if not any((tree / "mutants").rglob("*.meta")) or done.returncode:
        raise SystemExit(f"mutmut failed with status {done.returncode}: do the tests of the group pass?")


def configuration(group: dict[str, Any], top: list[str]) -> str:
    """Write the section of pyproject.toml that configures mutmut for a group."""
    options = {
        "source_paths": list(PACKAGES),
        "only_mutate": group["modules"],
        "also_copy": [name for name in top if name not in PACKAGES],
        "pytest_add_cli_args": PLUGINS,
        "pytest_add_cli_args_test_selection": group["tests"],
        "type_check_command": [sys.executable, "-m", "mypy", "--no-warn-unused-ignores", "--output=json"],
        "timeout_multiplier": float(TIMES_MAX),
        "timeout_constant": MORE_S_MAX / TIMES_MAX,  # mutmut adds it before it multiplies
    }
    if group.get("database"):
        # A process that had threads and connections cannot be forked reliably, so each mutant is imported in a new one.
        options |= {"process_isolation": "forkserver", "forkserver_warmup": "none"}
        options["timeout_constant"] = DATABASE_S_MAX / TIMES_MAX
    return "\n[tool.mutmut]\n" + "".join(f"{key} = {value!r}\n" for key, value in options.items())


def survivors_in(
    tree: Path, group: dict[str, Any], changes: list[dict[str, str]], variables: dict[str, str]
) -> Iterator[Survivor]:
    """Yield each mutant and each change of a tree that no type check and no test rejects, also not in a new process."""
    tests = group["tests"]
    started_at = time.monotonic()
    if is_rejected(tree, "", tests, variables):
        raise SystemExit("the tests fail without a mutant")
    seconds_max = TIMES_MAX * (time.monotonic() - started_at) + MORE_S_MAX
    shown = mutmut(tree, "results", "--all", "true") if group["modules"] else ""
    results = [line.strip().partition(": ") for line in shown.splitlines()]
    names = [name for name, _, status in results if status not in REJECTED]
    print(f"{len(results)} mutants, of which {len(names)} are tested again in new processes; {len(changes)} changes")
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        rejected = executor.map(lambda name: is_rejected(tree, name, tests, variables, seconds_max), names)
        for name in (name for name, is_dead in zip(names, rejected, strict=True) if not is_dead):
            yield survivor(name, mutmut(tree, "show", name))
    for change in changes:
        module, before, after = change["module"], change["before"], change["after"]
        with changed(tree / "mutants" / module, before, after):
            if not is_rejected(tree, "", tests, variables, seconds_max, label=survivor_of(change)):
                yield survivor_of(change)


def survivor_of(change: dict[str, str]) -> Survivor:
    """Return what the list would have for a change that no test rejects."""
    return Survivor(change["module"].removesuffix(".py").replace("/", "."), change["before"], change["after"])


@contextmanager
def changed(file: Path, before: str, after: str) -> Iterator[None]:
    """Replace a text of a file within the block."""
    original = file.read_text("utf-8")
    if before not in original:
        raise SystemExit(f"{file.name} does not have the text {before!r}")
    file.write_text(original.replace(before, after), "utf-8")
    try:
        yield
    finally:
        file.write_text(original, "utf-8")


def is_rejected(
    tree: Path,
    name: str,
    tests: list[str],
    variables: dict[str, str],
    seconds_max: float | None = None,
    label: object = None,
) -> bool:
    """Return whether a test fails in a process that imports the mutant; an endless loop is a failure.

    A change has no name; `label` is what is printed of it.
    """
    command = [sys.executable, "-m", "pytest", "-x", *PLUGINS, *tests]
    variables = {**variables, "MUTANT_UNDER_TEST": name}
    try:
        done = subprocess.run(
            command, cwd=tree / "mutants", env=variables, capture_output=True, timeout=seconds_max, check=False
        )
    except subprocess.TimeoutExpired:
        print(f"rejected by the time limit: {name or label}")  # on a loaded machine it may survive
        return True
    return done.returncode != 0


def survivor(name: str, shown: str) -> Survivor:
    """Read a mutant from its difference to the original, as mutmut prints it."""
    changes: dict[str, list[str]] = {"-": [], "+": []}
    for line in shown.splitlines():
        if line[:1] in changes and not line.startswith(("---", "+++")):
            changes[line[0]].append(line[1:].strip())
    module, _, mangled = name.rpartition("__mutmut_")[0].rpartition(".")
    function = mangled.removeprefix("x").removeprefix("_" if "ǁ" not in mangled else "ǁ").replace("ǁ", ".")
    return Survivor(f"{module}.{function}", " ".join(changes["-"]), " ".join(changes["+"]))


def mutmut(tree: Path, *arguments: str) -> str:
    """Run a command of mutmut that prints results."""
    command = [sys.executable, "-m", "mutmut", *arguments]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the copy and the database are removed
    sys.exit(main())
