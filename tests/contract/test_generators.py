"""What other people's generators make of the contract: clients that save and read, named types, and no digit lost.

The generators run without a network; the clients that they make call a server on loopback.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import protocol
from protocol.documents import documents
from tests.support.generators import PROJECT, openapi_generator, python, run_npm_tool, run_python_tool, run_script
from tests.support.node import node, node_modules
from tests.support.service import Database, Process

pytestmark = pytest.mark.slow  # the generators take minutes to install, and seconds each to run

UPDATE = """{
    "pid": 9007199254740991,
    "onchain": {"rlb": 100074.99978, "usdt": 3000000000, "USDT.e": 0.1, "BTC/USDT:USDT": 12},
    "onsite": {"rlb": 101132.407627, "usd": 7646.96, "$wif": 1e-7}
}"""
ONSITE = {"rlb": 101132.407627, "usd": 7646.96, "$wif": 1e-7}
TITLES = {protocol.schema(name)["title"] for name in protocol.names()}
CLIENT_S_MAX = 60


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every document of the contract."""
    folder = tmp_path_factory.mktemp("contract")
    for document in documents().values():
        file = folder / document.file
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(document.data)
    return folder


@pytest.fixture
def url(processes: Callable[..., Process], database: Database) -> str:
    """The address of a server."""
    return processes("--port=0", DATABASE_URL=database.url).url()


def run_client(command: list[str | Path], env: dict[str, str] | None = None) -> str:
    """Run a generated client; return what it prints."""
    done = subprocess.run(
        command, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=CLIENT_S_MAX, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def check_saved(printed: str, database: Database) -> None:
    """Check that a client read from every answer what it had sent, and that it is what was saved."""
    assert json.loads(printed) == [ONSITE] * 3
    (row,) = database.rows("SELECT onchain::text, onsite::text FROM balance_snapshot WHERE seq = 1")
    for ledger in ("onchain", "onsite"):
        assert protocol.loads(row[ledger]) == protocol.loads(UPDATE)[ledger]


# Clients of REST


def test_the_python_client_of_openapi_generator_saves_and_reads_to_the_last_digit(
    url: str, database: Database, contract: Path, tmp_path: Path
) -> None:
    openapi_generator("python", contract / "openapi.json", tmp_path)
    client = [python(), PROJECT / "openapi_generator_client.py", url, UPDATE]
    check_saved(run_client(client, {"PYTHONPATH": str(tmp_path)}), database)
    assert {file.stem for file in (tmp_path / "openapi_client" / "models").glob("[a-z]*.py")} <= set(protocol.names())


def test_the_client_of_openapi_python_client_saves_and_reads_to_the_last_digit(
    url: str, database: Database, contract: Path, tmp_path: Path
) -> None:
    document, made = contract / "openapi.json", tmp_path / "made"
    run_python_tool("openapi-python-client", "generate", "--path", document, "--output-path", made, "--meta", "setup")
    client = [python(), PROJECT / "openapi_python_client.py", url, UPDATE]
    check_saved(run_client(client, {"PYTHONPATH": str(made)}), database)


def test_the_client_of_openapi_typescript_compiles_saves_and_reads_to_the_last_digit(
    url: str, database: Database, contract: Path, tmp_path: Path
) -> None:
    run_npm_tool("openapi-typescript", "bin/cli.js", contract / "openapi.json", "--output", tmp_path / "schema.d.ts")
    (tmp_path / "client.ts").write_text((PROJECT / "typed-client.ts").read_text("utf-8"), "utf-8")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "node_modules").symlink_to(node_modules(PROJECT))
    options = ["--strict", "--module", "nodenext", "--target", "es2022", "--skipLibCheck"]
    run_npm_tool("typescript", "bin/tsc", *options, tmp_path / "client.ts")
    check_saved(run_client([node(), tmp_path / "client.js", url, UPDATE]), database)


def fields(folder: Path, pattern: str) -> dict[str, set[str]]:
    """The types of the fields in generated files, by the name of the field in lower case."""
    found: dict[str, set[str]] = {}
    for file in folder.rglob("*"):
        if file.suffix in (".go", ".java", ".rs", ".cs"):
            for match in re.finditer(pattern, file.read_text("utf-8"), re.MULTILINE):
                found.setdefault(match["name"].lower(), set()).add(match["type"])
    return found


GO, JAVA = r"^\t(?P<name>[A-Z]\w+) (?P<type>\S+) `json:", r"^  private (?P<type>\w+) (?P<name>\w+);"
RUST = r"^    pub (?P<name>\w+): (?P<type>\S+),"
CSHARP = r"^        public (?P<type>\w+\??) (?P<name>[A-Z]\w+) \{"


@pytest.mark.parametrize(
    ("language", "pattern", "amount", "integer", "truth", "more"),
    [
        ("go", GO, "float64", "int64", "bool", ()),
        ("java", JAVA, "Double", "Long", "Boolean", ()),
        ("java", JAVA, "BigDecimal", "Long", "Boolean", ("--type-mappings=double=BigDecimal",)),
        ("rust", RUST, "f64", "i64", "bool", ()),
        ("csharp", CSHARP, "double", "long", "bool", ()),
    ],
    ids=["go", "java", "java-with-all-digits", "rust", "csharp"],
)
def test_openapi_generator_makes_doubles_and_64_bit_integers(
    language: str, pattern: str, amount: str, integer: str, truth: str, more: tuple[str, ...],
    contract: Path, tmp_path: Path,
) -> None:  # fmt: skip
    openapi_generator(language, contract / "openapi.json", tmp_path, *more)
    found = fields(tmp_path, pattern)
    assert found["rlb"] == found["usdt"] == found["usd"] == {amount}
    assert found["seq"] == found["limit"] == found["offset"] == {integer}
    assert found["success"] == {truth}


def test_prism_mocks_the_service_and_judges_updates_as_it_does(contract: Path) -> None:
    wrong = UPDATE.replace("7646.96", "1e-31")
    listed, schema, saved, refused = map(
        json.loads, run_script("prism.mjs", contract / "openapi.json", UPDATE, wrong).splitlines()
    )
    assert [listed[0], schema[0], saved[0], refused[0]] == [200, 200, 200, 400]
    protocol.check("list_reply", listed[1])
    protocol.check("save_reply", saved[1])
    assert refused[1]["code"] == "invalid_payload"


# Types of the schemas


def check_names(names: list[str], allowed: set[str], wanted: set[str]) -> None:
    """Check that every type of the contract is there once under its title, and none under an invented name."""
    assert len(set(names)) == len(names)
    assert wanted <= set(names) <= wanted | allowed


def test_datamodel_code_generator_names_every_type_and_its_models_lose_nothing(contract: Path, tmp_path: Path) -> None:
    models = tmp_path / "models.py"
    kind = ["--output-model-type", "pydantic_v2.BaseModel", "--formatters", "builtin"]
    for file, source in (("openapi.json", "openapi"), ("bundle.json", "jsonschema")):
        run_python_tool(
            "datamodel-codegen", "--input", contract / file, "--input-file-type", source, "--output", models, *kind
        )
        names = re.findall(r"^class (\w+)\(", models.read_text("utf-8"), re.MULTILINE)
        assert len(names) > 15
        wanted = {"BalanceUpdate", "ListPagination", "SavedSnapshot", "ErrorReply"}
        check_names(names, {"Bundle", "PidItem", *TITLES}, wanted)
    examples = [
        (str(protocol.schema(name)["title"]), protocol.dumps(example))
        for name in ("balance_update", "save_reply", "list_reply", "balance_error", "connected")
        for example in protocol.schema(name)["examples"]
    ]
    payloads = [("BalanceUpdate", UPDATE), *examples, ("BalanceUpdate", '{"onchain": {}}')]
    printed = run_client([python(), PROJECT / "pydantic_round_trip.py", tmp_path, json.dumps(payloads)]).splitlines()
    assert [json.loads(line) for line in printed] == [*(json.loads(text) for _, text in payloads[:-1]), None]


def test_orval_names_every_type_and_every_refusal_is_an_error_reply(contract: Path, tmp_path: Path) -> None:
    file = tmp_path / "client.ts"
    run_npm_tool(
        "orval", "dist/bin/orval.js", "--input", contract / "openapi.json", "--output", file, "--client", "fetch"
    )
    text = file.read_text("utf-8")
    shared = re.findall(r"^export type (Error\d+Response) = ([\w |]+);", text, re.MULTILINE)
    assert {type_ for _, type_ in shared} == {"ErrorReply | ProblemDetails"}
    interfaces = re.findall(r"^export interface (\w+)", text, re.MULTILINE)
    check_names(interfaces, TITLES, {"ListPagination", "SavedSnapshot", "ContractEntry", "ErrorReply", "Onchain"})


def test_quicktype_reads_the_bundle(contract: Path) -> None:
    source = f"{contract / 'bundle.json'}#/definitions/"
    made = run_npm_tool("quicktype", "dist/index.js", "--src-lang", "schema", "--lang", "ts", "--just-types", source)
    names = re.findall(r"^export (?:interface|type) (\w+)", made, re.MULTILINE)
    wanted = {"BalanceUpdate", "ListPagination", "SavedSnapshot", "ErrorReply"}
    check_names(names, {"BalanceACK", "By", "FeedAfterEnum", *TITLES}, wanted)  # it names some by their field


def test_modelina_finds_a_type_for_every_field(contract: Path) -> None:
    made: dict[str, Any] = json.loads(run_script("modelina.mjs", contract / "asyncapi.json"))
    unknown = re.findall(r"^.*\bany\b.*$", made["typescript"], re.MULTILINE)
    # What an open object may have beside its fields, and the payload of ping, which is anything.
    assert {line.strip() for line in unknown} == {"additionalProperties?: Map<string, any>;", "type Ping = any;"}
    assert re.findall(r"^  (?:Rlb|Usdt?) (\S+)", made["go"], re.MULTILINE) == ["float64"] * 4
    assert set(re.findall(r"^  private (\w+) seq;", made["java"], re.MULTILINE)) == {"long"}
