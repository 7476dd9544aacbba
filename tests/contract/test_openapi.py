"""The OpenAPI document describes every operation of the tables, and the tools that read it find no error."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import openapi_spec_validator
import pytest

import protocol
from balance.auth import Role
from balance.rate_limit import BURST_S
from protocol.headers import HEADERS, RATE_LIMIT, REQUEST_ID
from protocol.operation import JSON
from protocol.operations import ASYNCAPI, EXPORT, FEED, LATEST, METRICS, OPENAPI, SERIES, STREAM
from tests.support.access import add_token, bearer
from tests.support.clock import Clock
from tests.support.contract_documents import DOCUMENTS, OPEN, resolve
from tests.support.node import FOLDER, node, node_modules
from tests.support.offline import run_offline
from tests.support.payloads import UPDATE
from tests.support.service import SNAPSHOTS, Database, MakeService, Process

# No waiting. OpenAPI cannot describe that one parameter, `epoch`, is required with another one, that `asset` and
# `digits` are for one format, and that `from` is before `to`.
SCHEMATHESIS = f"""
[[operations]]
include-path = "{FEED}"
parameters = {{ wait = 0 }}
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "403", "409", "410", "5xx"]

[[operations]]
include-path = "{EXPORT}"
warnings = false
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "403", "5xx"]

# OpenAPI cannot describe that `from` is before `to`, and `by` excludes `sum`; so most random queries are refused.
[[operations]]
include-path = "{SERIES}"
warnings = false
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
        for status, expected in operation.responses.items():
            assert set(entry["responses"][str(status)]["headers"]) == {*expected.headers, REQUEST_ID}
        for name in operation.parameters.values():
            wanted = set(protocol.schema(name)["properties"])
            assert wanted <= {parameter["name"] for parameter in entry["parameters"] if "name" in parameter}


def test_openapi_describes_each_header_once_and_every_operation_refers_to_it() -> None:
    assert set(OPEN["components"]["headers"]) == set(HEADERS)
    for methods in OPEN["paths"].values():
        for entry in methods.values():
            assert {"$ref": f"#/components/parameters/{REQUEST_ID}"} in entry["parameters"]
            for status, reply in entry["responses"].items():
                headers = (resolve(reply, OPEN) if "$ref" in reply else reply)["headers"]
                assert headers == {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
                assert REQUEST_ID in headers
                assert ("WWW-Authenticate" in headers) == (status in ("401", "403"))
                assert int(status) < 400 or set(RATE_LIMIT) <= set(headers)


async def test_real_responses_have_the_headers_that_openapi_describes(make_service: MakeService) -> None:
    service = await make_service(saves_per_s_max=1, failed_logins_per_s_max=1)
    for name in ("saves", "failed_logins"):
        getattr(service.app.rate_limits, name).clock = Clock()
    tokens = {role: await add_token(service, role) for role in (Role.READER, Role.WRITER)}
    seen = set()
    requests: list[tuple[str, str, str, Any, dict[str, str]]] = [
        ("GET", LATEST, LATEST, None, bearer(tokens[Role.READER])),
        ("HEAD", LATEST, LATEST, None, bearer(tokens[Role.READER])),
        ("GET", EXPORT, EXPORT, None, bearer(tokens[Role.READER])),
        ("GET", OPENAPI, OPENAPI, None, {}),
        ("GET", SNAPSHOTS + "/{id}", f"{SNAPSHOTS}/{uuid4()}", None, bearer(tokens[Role.READER])),
        ("POST", SNAPSHOTS, SNAPSHOTS, UPDATE, bearer(tokens[Role.READER])),
        ("POST", SNAPSHOTS, SNAPSHOTS, UPDATE, bearer(tokens[Role.WRITER])),
        ("GET", METRICS, METRICS, None, bearer(tokens[Role.WRITER])),
        ("GET", STREAM, f"{STREAM}?unknown", None, bearer(tokens[Role.READER])),
        ("GET", SNAPSHOTS, SNAPSHOTS, None, {}),
        *[("POST", SNAPSHOTS, SNAPSHOTS, {}, bearer(tokens[Role.WRITER]))] * BURST_S,
        *[("GET", LATEST, LATEST, None, bearer("guess"))] * (BURST_S + 1),
    ]
    for method, path, target, body, headers in requests:
        reply = await service.request(method, target, body, X_Request_Id="bot-7.1042", **headers)
        response = OPEN["paths"][path][method.lower()]["responses"][str(reply.status)]
        described = (resolve(response, OPEN) if "$ref" in response else response)["headers"]
        needed = {name for name in described if OPEN["components"]["headers"][name]["required"]}
        sent = {name for name in HEADERS if name in reply.headers}
        assert needed <= sent <= set(described), (method, target, reply.status)
        assert reply.headers[REQUEST_ID] == "bot-7.1042"
        seen |= {reply.status} | sent
    assert seen >= {200, 201, 400, 401, 403, 404, 429, *HEADERS}


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
            if "$ref" in parameter:
                continue
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
        ("GET", "/api/balance/series"),
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


@pytest.mark.parametrize("examples", [5, pytest.param(300, marks=pytest.mark.slow)])
def test_schemathesis_finds_nothing(
    processes: Callable[..., Process], database: Database, tmp_path: Path, examples: int
) -> None:
    process = processes("--port=0", DATABASE_URL=database.url)
    report = schemathesis(process.url(), examples, tmp_path)
    assert "No issues found" in report, report
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
