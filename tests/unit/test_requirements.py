"""The requirements agree: ranges, pins, hashes, and the dependencies that the packages declare."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import balance
import protocol
from tests.support.repository import ROOT

PINS, LOCK = "constraints.txt", "requirements.lock"
RANGES = ["requirements.txt", "tests/requirements.txt", "examples/requirements.txt"]


def requirements(name: str) -> Iterator[Requirement]:
    """Yield the requirements of a file, without options of pip and without hashes."""
    for line in (ROOT / name).read_text("utf-8").splitlines():
        text = line.strip().removesuffix("\\")
        if text and not text.startswith(("#", "-")):
            yield Requirement(text)


def project(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / name).read_text("utf-8"))


def pins(name: str) -> dict[str, str]:
    """Return the version of each package that a generated file names."""
    return {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in requirements(name)}


@pytest.mark.parametrize("name", RANGES)
def test_the_pin_of_each_requirement_is_within_its_range(name: str) -> None:
    pinned = pins(PINS)
    wrong = [str(one) for one in requirements(name) if not one.specifier.contains(pinned[canonicalize_name(one.name)])]
    assert wrong == [], "run .ci/lock"


def test_the_python_examples_install_the_versions_that_the_tests_run() -> None:
    shipped, tested = [
        {one.name: one.specifier for one in requirements(name)}
        for name in ("examples/requirements.txt", "tests/requirements.txt")
    ]
    assert shipped.items() <= tested.items()


def test_what_the_python_examples_import_is_required_by_its_name() -> None:
    required = {canonicalize_name(one.name): one.extras for one in requirements("examples/requirements.txt")}
    trees = [ast.parse(file.read_text("utf-8")) for file in (ROOT / "examples").glob("*.py")]
    imported = {
        one.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Import) for one in node.names
    }
    imported |= {node.module or "" for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names
    distributions = packages_distributions()
    assert {canonicalize_name(distributions[module][0]) for module in modules} == required.keys()
    assert not any(required.values()), "the pip of Python 3.11 does not find each spelling of an extra"


def test_production_has_the_versions_that_are_tested() -> None:
    assert pins(LOCK).items() <= pins(PINS).items(), "run .ci/lock"
    assert {canonicalize_name(one.name) for one in requirements("requirements.txt")} <= pins(LOCK).keys()


def test_each_package_of_production_has_hashes() -> None:
    entries = re.split(r"\n(?=\w)", (ROOT / LOCK).read_text("utf-8"))[1:]  # the first part is the comment
    assert len(entries) == len(pins(LOCK))
    assert [one for one in entries if "--hash=sha256:" not in one] == []


@pytest.mark.parametrize("name", [PINS, LOCK])
def test_a_generated_file_names_its_command_and_no_machine(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    assert text.splitlines()[1].startswith("#    .ci/lock")
    assert not re.search(r"^ *-(?!-hash=sha256:[0-9a-f]{64})|[:@]//| @ ", text, re.MULTILINE)


def test_the_contract_alone_asks_for_the_ranges_of_the_service() -> None:
    own = project("protocol/pyproject.toml")["project"]["dependencies"]
    assert set(map(Requirement, own)) <= set(requirements("requirements.txt"))


def test_the_tests_have_what_builds_the_packages() -> None:
    for name in ("pyproject.toml", "protocol/pyproject.toml"):
        assert set(map(Requirement, project(name)["build-system"]["requires"])) <= set(requirements(RANGES[1]))


def test_both_packages_have_one_version() -> None:
    assert protocol.__version__ == balance.__version__
