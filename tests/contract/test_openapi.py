"""The OpenAPI document describes every operation of the tables, and the tools that read it find no error."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openapi_spec_validator
import pytest

import protocol
from protocol.operation import JSON
from protocol.operations import ASYNCAPI, EXPORT, FEED, OPENAPI, STREAM
from tests.support.contract_documents import DOCUMENTS, OPEN, resolve
from tests.support.node import FOLDER, node, node_modules
from tests.support.offline import run_offline
from tests.support.service import SNAPSHOTS, Database, Process

# No waiting. OpenAPI cannot describe that one parameter, `epoch`, is required with another one, that `asset` and
# `digits` are for one format, and that `from` is before `to`.
SCHEMATHESIS = f"""
[[operations]]
include-path = "{FEED}"
parameters = {{ wait = 0 }}
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "403", "409", "410", "5xx"]

[[operations]]
include-path = "{EXPORT}"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "403", "5xx"]
"""
# By schemathesis, which would wait for the end of a stream, and writes no lines of JSON.
UNTESTED = {"getStream", "importSnapshots"}


def test_openapi_is_valid() -> None:
    openapi_spec_validator.validate(OPEN)


def test_openapi_describes_every_operation_with_its_errors_and_headers() -> None:
    described = {(method.upper(), path) for path, methods in OPEN["paths"].items() for method in methods}
    table = {(operation.method, operation.path) for operation in protocol.OPERATIONS.values()}
    assert described == table | {("HEAD", path) for method, path in table if method == "GET"}
    for operation in protocol.OPERATIONS.values():
        entry = OPEN["paths"][operation.path][operation.method.lower()]
        assert entry["operationId"] == operation.id
        statuses = {str(status) for status in operation.responses} | {str(error.status) for error in operation.errors}
        assert set(entry["responses"]) == statuses
        assert entry["x-errors"] == [error.code for error in operation.errors]
        for error in operation.errors:
            response = resolve(entry["responses"][str(error.status)], OPEN)
            content = response["content"]["application/json"]
            assert content["schema"] == {"$ref": "#/components/schemas/ErrorReply"}
            assert content["examples"][error.code]["value"] == error.as_example()
            assert ("Retry-After" in response["headers"]) == error.temporary
            assert all(header["required"] for header in response["headers"].values())
        for status, expected in operation.responses.items():
            assert set(entry["responses"][str(status)]["headers"]) == set(expected.headers)
        for name in operation.parameters.values():
            wanted = set(protocol.schema(name)["properties"])
            assert wanted <= {parameter["name"] for parameter in entry["parameters"]}


def test_every_example_in_openapi_is_valid() -> None:
    seen = 0
    for operation in protocol.OPERATIONS.values():
        entry = OPEN["paths"][operation.path][operation.method.lower()]
        contents = [
            (reply.schema, entry["responses"][str(status)].get("content", {}))
            for status, reply in operation.responses.items()
        ]
        contents.append(
            (operation.body if operation.body_type == JSON else None, entry.get("requestBody", {}).get("content", {}))
        )
        for name, content in contents:
            for media in content.values():
                assert media["examples"], operation.id
                for example in media["examples"].values():
                    if name is not None:
                        protocol.check(name, example["value"])
                    seen += 1
        for parameter in entry["parameters"]:
            (name,) = [name for name in operation.parameters.values() if parameter["name"] in properties(name)]
            for example in parameter["examples"].values():
                others = next(iter(protocol.schema(name)["examples"]))
                protocol.check(name, {**others, parameter["name"]: example["value"]})
            assert parameter["required"] == (parameter["name"] in protocol.schema(name).get("required", ()))
    assert seen >= 10


def properties(name: str) -> dict[str, Any]:
    return dict(protocol.schema(name)["properties"])


def test_the_operations_are_those_of_the_specification_and_the_contract() -> None:
    assert {(one.method, one.path) for one in protocol.OPERATIONS.values()} == {
        ("POST", "/api/balance/snapshot"),
        ("GET", "/api/balance/snapshot"),
        ("GET", "/api/balance/snapshot/{id}"),
        ("GET", "/api/balance/feed"),
        ("GET", "/api/balance/latest"),
        ("GET", "/api/balance/stream"),
        ("POST", "/api/balance/ticket"),
        ("GET", "/api/balance/export"),
        ("POST", "/api/balance/import"),
        ("GET", "/api/protocol/v1"),
        ("GET", "/api/protocol/v1/{name}.json"),
        ("GET", "/api/protocol/v1/types.d.ts"),
        ("GET", "/api/openapi.json"),
        ("GET", "/api/asyncapi.json"),
        ("GET", "/livez"),
        ("GET", "/readyz"),
        ("GET", "/healthz"),
        ("GET", "/version"),
        ("GET", "/metrics"),
    }


def test_openapi_describes_the_events_of_the_stream() -> None:
    (media_type, stream), *others = OPEN["paths"][STREAM]["get"]["responses"]["200"]["content"].items()
    assert (media_type, others) == ("text/event-stream", [])
    blocks = stream["examples"]["example1"]["value"].removesuffix("\n\n").split("\n\n")
    shown = [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]
    assert {one["event"] for one in shown} == set(stream["x-events"]) - {"bye"}
    for one in shown:
        title = stream["x-events"][one["event"]]["$ref"].rpartition("/")[2]
        (name,) = [name for name in protocol.names() if protocol.schema(name)["title"] == title]
        protocol.check(name, protocol.loads(one["data"]))
        if "id" in one:
            protocol.check("position_token", one["id"])


def schemathesis(url: str, examples: int, folder: Path) -> str:
    """Run every check of schemathesis against a server and its own document; return the report."""
    (folder / "schemathesis.toml").write_text(SCHEMATHESIS, "utf-8")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", url + OPENAPI, "--checks", "all", "--mode", "all"),
            *("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", str(examples), "--seed", "1"),
            *("--generation-database", "none", "--no-color"),
            *(f"--exclude-path={protocol.OPERATIONS[id_].path}" for id_ in UNTESTED),
        ],
        cwd=folder,  # it writes files there
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("examples", [10, pytest.param(300, marks=pytest.mark.slow)])
def test_schemathesis_finds_nothing(
    processes: Callable[..., Process], database: Database, tmp_path: Path, examples: int
) -> None:
    process = processes("--port=0", DATABASE_URL=database.url)
    report = schemathesis(process.url(), examples, tmp_path)
    assert "No issues found" in report
    served = [operation for operation in protocol.OPERATIONS.values() if operation.id not in UNTESTED]
    tested = sum(2 if operation.method == "GET" else 1 for operation in served)
    assert f"Tested: {tested - 1}" in report, "all except the document that it reads itself"
    assert process.terminate() == 0
    assert not process.stderr


def test_linters_find_no_error_and_fetch_nothing(tmp_path: Path) -> None:
    """Redocly, Spectral and swagger-parser resolve references, also in examples: an unreachable address is an error."""
    files = [tmp_path / "openapi.json", tmp_path / "asyncapi.json"]
    for file, address in zip(files, (OPENAPI, ASYNCAPI), strict=True):
        file.write_bytes(DOCUMENTS[address].data)
    node_modules()
    assert run_offline([node(), FOLDER / "read-documents.mjs", *files]) == ""
    broken = json.loads(files[0].read_bytes())
    del broken["security"]
    broken["paths"][SNAPSHOTS]["get"]["x-example"] = {"$ref": "http://127.0.0.1:1/pong.json"}  # refused at once
    files[0].write_text(json.dumps(broken))
    found = run_offline([node(), FOLDER / "read-documents.mjs", *files])
    assert {json.loads(line)[0] for line in found.splitlines()} == {"redocly", "spectral", "swagger-parser"}
