"""What client teams take away: schemas, bundle, types, OpenAPI and AsyncAPI, served at the addresses they name.

Pinned: the same bytes on the server, in the repository and in the folder that `python -m protocol write` fills; strong
ETags and 304; open to every web page; whatever the tables of `protocol` say stands in the documents; and the tools that
read such documents find nothing wrong with them.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openapi_spec_validator
import pytest

import protocol
from protocol import documents as contract
from protocol import events, registry
from protocol.operations import ASYNCAPI, CONTRACT, OPENAPI
from tests.support.node import FOLDER, ask_node, node, node_modules
from tests.support.offline import run_offline
from tests.support.repository import ROOT
from tests.support.service import SNAPSHOTS, Database, MakeService, Process, Service

DOCUMENTS = contract.documents()
OPEN: dict[str, Any] = json.loads(DOCUMENTS[OPENAPI].data)
ASYNC: dict[str, Any] = json.loads(DOCUMENTS[ASYNCAPI].data)
FOREIGN = "https://dashboard.example"


# Served


async def test_every_schema_is_served_under_its_name_as_it_stands_in_its_file(service: Service) -> None:
    for name in protocol.names():
        answer = await service.request("GET", f"{CONTRACT}{name}.json")
        assert answer.status == 200
        assert answer.raw == (ROOT / "protocol" / "schemas" / f"{name}.json").read_bytes()
        assert answer.headers["Content-Type"] == "application/schema+json"


async def test_the_index_leads_to_every_document(service: Service) -> None:
    answer = await service.request("GET", CONTRACT)
    assert answer.headers["Content-Type"] == "application/json"
    index = answer.body["data"]
    assert [schema["name"] for schema in index["schemas"]] == protocol.names()
    addresses = {schema["url"] for schema in index["schemas"]} | {index[key] for key in ("bundle", "types")}
    addresses |= {index["openapi"], index["asyncapi"]}
    assert addresses | {CONTRACT} == set(DOCUMENTS)
    for address in (*addresses, index["docs"]):
        found = await service.request("GET", address)
        assert found.status == 200, address
    assert (await service.request("GET", CONTRACT.rstrip("/"))).raw == answer.raw


@pytest.mark.parametrize("address", [CONTRACT, f"{CONTRACT}bundle.json", f"{CONTRACT}types.d.ts", OPENAPI, ASYNCAPI])
async def test_a_document_is_sent_again_only_when_it_has_changed(service: Service, address: str) -> None:
    first = await service.request("GET", address)
    etag = first.headers["ETag"]
    assert etag.startswith('"'), "a strong one"
    assert first.headers["Cache-Control"] == "no-cache"
    for known in (etag, f'"x", {etag}', f"W/{etag}", "*"):
        again = await service.request("GET", address, If_None_Match=known)
        assert (again.status, again.raw, again.headers["ETag"]) == (304, b"", etag)
    changed = await service.request("GET", address, If_None_Match='"x"')
    assert (changed.status, changed.raw) == (200, first.raw)
    head = await service.request("HEAD", address)
    assert (head.status, head.raw, head.headers["ETag"]) == (200, b"", etag)
    assert head.headers["Content-Length"] == str(len(first.raw))


@pytest.mark.parametrize("accepted", ["gzip", "deflate, GZIP;q=0.5", "br;q=1.0, *", "gzip;q=1, *;q=0"])
async def test_a_document_is_compressed_for_who_takes_that(service: Service, accepted: str) -> None:
    plain = await service.request("GET", CONTRACT)
    zipped = await service.request("GET", CONTRACT, Accept_Encoding=accepted)
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(zipped.raw) == plain.raw
    assert zipped.headers["ETag"] != plain.headers["ETag"], "a strong ETag names the very bytes"
    assert zipped.headers["Vary"] == plain.headers["Vary"] == "Accept-Encoding, Origin"
    known = {"If_None_Match": zipped.headers["ETag"]}
    assert (await service.request("GET", CONTRACT, Accept_Encoding=accepted, **known)).status == 304


@pytest.mark.parametrize(
    "accepted", ["", "identity", "gzip;q=0", "br, gzip; q=0.000, deflate", "xgzip", "gzipped", "gzip;q=0, *"]
)
async def test_a_document_is_not_compressed_for_who_does_not_take_that(service: Service, accepted: str) -> None:
    answer = await service.request("GET", CONTRACT, Accept_Encoding=accepted)
    assert "Content-Encoding" not in answer.headers
    assert answer.body["success"]


def test_an_etag_names_one_content() -> None:
    one, other = (contract.Document("/a", "a", "text/plain", data) for data in (b"a", b"b"))
    assert one.etag != other.etag
    assert len({document.etag for document in DOCUMENTS.values()}) == len(DOCUMENTS)


async def test_every_web_page_may_read_the_contract_and_only_the_contract(service: Service) -> None:
    for address in (CONTRACT, f"{CONTRACT}pong.json", OPENAPI, f"{CONTRACT}nothing.json"):
        answer = await service.request("GET", address, Origin=FOREIGN)
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Access-Control-Expose-Headers"] == "ETag, Retry-After"
        asked = {"Access_Control_Request_Method": "GET", "Access_Control_Request_Headers": "if-none-match"}
        preflight = await service.request("OPTIONS", address, Origin=FOREIGN, **asked)
        assert preflight.status == 204
        assert preflight.headers["Access-Control-Allow-Origin"] == "*"
        assert preflight.headers["Access-Control-Allow-Headers"] == "If-None-Match"
    assert (await service.request("GET", SNAPSHOTS, Origin=FOREIGN)).status == 403


async def test_what_is_no_document_is_refused_as_everywhere(service: Service) -> None:
    missing = await service.request("GET", f"{CONTRACT}nothing.json")
    assert (missing.status, missing.body["code"]) == (404, "not_found")
    assert missing.headers["Cache-Control"] == "no-store"
    posted = await service.request("POST", OPENAPI, {})
    assert (posted.status, posted.body["code"]) == (405, "method_not_allowed")
    assert posted.headers["Allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.expects_log("the database cannot be reached")
async def test_the_contract_is_there_while_the_database_is_not(make_service: MakeService) -> None:
    service = await make_service(database_url="postgresql://127.0.0.1:1/none")
    assert (await service.get()).status == 503
    assert (await service.request("GET", CONTRACT)).status == 200


async def test_documents_that_are_not_read_take_no_more_places_than_there_are(make_service: MakeService) -> None:
    service = await make_service(reads_in_flight_max=1)
    with service.app.document_limiter.take("127.0.0.1"):
        refused = await service.request("GET", OPENAPI)
        assert (await service.get()).status == 200, "who reads documents keeps nobody from the snapshots"
    assert (refused.status, refused.body["code"]) == (503, "busy")
    with service.app.service.reads.take("127.0.0.1"):
        assert (await service.get()).status == 503
        assert (await service.request("GET", OPENAPI)).status == 200, "nor the other way round"


# OpenAPI


def test_openapi_is_valid() -> None:
    openapi_spec_validator.validate(OPEN)


def test_openapi_describes_every_operation_with_all_its_errors_examples_and_headers() -> None:
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
            told = response["content"]["application/json"]
            assert told["schema"] == {"$ref": "#/components/schemas/ErrorReply"}
            assert told["examples"][error.code]["value"] == error.as_example()
            assert ("Retry-After" in response["headers"]) == error.temporary
            assert all(header["required"] for header in response["headers"].values())
        for status, reply in operation.responses.items():
            assert set(entry["responses"][str(status)]["headers"]) == set(reply.headers)
        for name in operation.parameters.values():
            wanted = set(protocol.schema(name)["properties"])
            assert wanted <= {parameter["name"] for parameter in entry["parameters"]}


def test_every_example_in_openapi_fits_its_schema() -> None:
    seen = 0
    for operation in protocol.OPERATIONS.values():
        entry = OPEN["paths"][operation.path][operation.method.lower()]
        contents = [
            (reply.schema, entry["responses"][str(status)].get("content", {}))
            for status, reply in operation.responses.items()
        ]
        contents.append((operation.body, entry.get("requestBody", {}).get("content", {})))
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


def test_the_operations_are_those_of_the_seed_and_of_the_contract() -> None:
    assert {(one.method, one.path) for one in protocol.OPERATIONS.values()} == {
        ("POST", "/api/balance/snapshot"),
        ("GET", "/api/balance/snapshot"),
        ("GET", "/api/balance/snapshot/{id}"),
        ("GET", "/api/protocol/v1"),
        ("GET", "/api/protocol/v1/{name}.json"),
        ("GET", "/api/protocol/v1/types.d.ts"),
        ("GET", "/api/openapi.json"),
        ("GET", "/api/asyncapi.json"),
    }


def schemathesis(url: str, examples: int, folder: Path) -> str:
    """Run schemathesis against a server from its own document, with every check there is; return its report."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", url + OPENAPI, "--checks", "all", "--mode", "all"),
            *("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", str(examples), "--seed", "1"),
            *("--generation-database", "none", "--no-color"),
        ],
        cwd=folder,  # where it leaves what it remembers
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
    tested = sum(2 if operation.method == "GET" else 1 for operation in protocol.OPERATIONS.values())
    assert f"Tested: {tested - 1}" in report, "all but the document that it reads itself"
    assert process.terminate() == 0
    assert not process.stderr


def test_redocly_spectral_and_swagger_parser_find_no_error_and_fetch_nothing(tmp_path: Path) -> None:
    """They follow references, also in examples: an address that cannot be reached is an error."""
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


def test_no_document_refers_to_an_address_outside_itself() -> None:
    for document in DOCUMENTS.values():
        hosts = set(re.findall(rb"https?://([^/\s\"'`<>]+)", document.data))
        assert hosts <= {b"balance-snapshot.example", b"json-schema.org", b"127.0.0.1:3000", b"{address}"}, (
            document.path
        )
    for address in (OPENAPI, ASYNCAPI, f"{CONTRACT}bundle.json"):
        text = DOCUMENTS[address].data.decode()
        assert re.findall(r'"\$ref": "(?!#/)', text) == []
        assert text.count('"$id"') == (1 if address.endswith("bundle.json") else 0)
    for value in examples([OPEN, ASYNC, *map(protocol.schema, protocol.names())]):
        assert not re.search(r'"\$(ref|id)"', protocol.dumps(value))


def examples(value: Any) -> Iterator[Any]:
    """Every example in a document, at any depth."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from [item] if key in ("example", "examples") else examples(item)
    elif isinstance(value, list):
        for item in value:
            yield from examples(item)


@pytest.mark.parametrize("document", [OPEN, ASYNC], ids=["openapi", "asyncapi"])
def test_code_generators_find_the_size_of_each_number_and_the_name_of_each_object(document: dict[str, Any]) -> None:
    kinds: Counter[str] = Counter()
    for title, component in document["components"]["schemas"].items():
        for schema in subschemas(component):
            types = schema.get("type", [])
            for kind in [types] if isinstance(types, str) else types:
                kinds[kind] += 1
                assert schema.get("format") == {"integer": "int64", "number": "double"}.get(kind, schema.get("format"))
                assert kind != "boolean" or "const" not in schema, "openapi-generator takes it for a text"
            assert "type" not in schema.get("not", {}), "Modelina takes it away from the type of the whole"
            assert schema is component or "properties" not in schema, f"an object without a name in {title}"
    assert min(kinds["integer"], kinds["number"], kinds["boolean"], kinds["object"]) >= 1
    text = json.dumps(document)
    assert {title for title in document["components"]["schemas"] if f'schemas/{title}"' not in text} == set()


def subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    """Every schema within a schema, itself first."""
    if isinstance(schema, dict):
        yield schema
        inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", ()), *schema.get("allOf", ())]
        for each in (*inner, *(schema.get(keyword) for keyword in ("items", "additionalProperties", "propertyNames"))):
            yield from subschemas(each)


# AsyncAPI


def test_the_asyncapi_projects_own_parser_finds_no_error_and_no_warning() -> None:
    found = [
        json.loads(line) for line in ask_node(FOLDER / "asyncapi.mjs", DOCUMENTS[ASYNCAPI].data.decode()).splitlines()
    ]
    assert [diagnostic for diagnostic in found if diagnostic[0] < 2] == []
    assert {diagnostic[1] for diagnostic in found} <= {"asyncapi-latest-version"}, "3.0, which more tools read than 3.1"


def test_the_asyncapi_parser_would_find_an_error() -> None:
    broken = json.loads(DOCUMENTS[ASYNCAPI].data)
    broken["components"]["messages"]["pong"]["examples"] = [{"payload": {"timestamp": 1}}]
    del broken["operations"]["ping"]["action"]
    found = [json.loads(line) for line in ask_node(FOLDER / "asyncapi.mjs", json.dumps(broken)).splitlines()]
    assert any(diagnostic[0] == 0 for diagnostic in found)


def test_asyncapi_describes_every_event_by_its_direction_its_answer_and_its_errors() -> None:
    messages = {message["name"]: message for message in ASYNC["components"]["messages"].values()}
    assert set(messages) == {*protocol.EVENTS, "connect", "connect_error"}
    by_event = {operation["title"]: operation for operation in ASYNC["operations"].values()}
    for event in (*protocol.EVENTS.values(), events.CONNECT):
        operation = by_event[event.name]
        assert operation["action"] == ("receive" if event.direction == "client_to_server" else "send")
        answers = [resolve(message)["name"] for message in operation.get("reply", {}).get("messages", [])]
        assert answers == list(event.answered_by)
        check_errors(operation.get("x-errors", []), event.errors)
        message = messages[event.name]
        assert message["payload"] == {"$ref": f"#/components/schemas/{protocol.schema(event.schema)['title']}"}
        for example in message["examples"]:
            protocol.check(event.schema, example["payload"])


def check_errors(told: list[dict[str, Any]], errors: tuple[type[protocol.ServiceError], ...]) -> None:
    assert [(one["code"], one["status"], one["temporary"], one.get("retryAfter")) for one in told] == [
        (error.code, error.status, error.temporary, error.retry_after_s) for error in errors
    ]


def test_asyncapi_says_how_a_connection_begins_and_may_be_refused() -> None:
    channel, server = ASYNC["channels"]["root"], ASYNC["servers"]["this"]
    check_errors(channel["x-handshake-errors"], events.HANDSHAKE_ERRORS)
    assert channel["address"] == "/"
    assert channel["bindings"]["ws"]["query"]["properties"]["EIO"]["const"] == "4"
    assert server["x-socketio"]["auth"] == {"$ref": "#/components/schemas/ConnectAuth"}
    sizes = {one["title"]: one.get("x-bytes-max") for one in ASYNC["operations"].values()}
    assert {name for name, size in sizes.items() if size == 16_384} == {"connect", "balance:update", "ping"}


async def test_the_documents_tell_the_limits_of_the_server_that_serves_them(make_service: MakeService) -> None:
    service = await make_service(body_bytes_max=1024, ping_interval_s=5, ping_timeout_s=3)
    rest, socket = [(await service.request("GET", address)).body for address in (OPENAPI, ASYNCAPI)]
    body = rest["paths"][SNAPSHOTS]["post"]["requestBody"]
    assert body["x-bytes-max"] == 1024
    assert body["description"].startswith("At most 1,024 bytes")
    heartbeat = socket["servers"]["this"]["x-heartbeat"]
    assert (heartbeat["intervalSeconds"], heartbeat["timeoutSeconds"]) == (5, 3)
    assert {one["x-bytes-max"] for one in socket["operations"].values() if "x-bytes-max" in one} == {1024}
    page = (await service.request("GET", "/api/docs/events")).raw.decode()
    assert "every 5 s" in page
    assert "1,024 bytes" in page.replace("\n", " ")


async def test_every_document_answers_with_and_without_a_slash(service: Service) -> None:
    for address in (CONTRACT, "/api/docs", "/api/docs/docs.css", OPENAPI, f"{CONTRACT}pong.json"):
        plain, slash = [await service.request("GET", address.rstrip("/") + end) for end in ("", "/")]
        assert plain.status == slash.status == 200, address
        assert plain.raw == slash.raw
    assert (await service.request("GET", "/api/protocol/v1/%70ong.json")).status == 200
    for address in (f"{OPENAPI}//", "/api/openapiXjson", "/api/protocol/v1%2Fpong.json"):
        assert (await service.request("GET", address)).status == 404, address


def resolve(reference: dict[str, str], document: dict[str, Any] = ASYNC) -> Any:
    """What a reference within a document leads to."""
    found: Any = document
    for step in reference["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return resolve(found, document) if "$ref" in found else found


async def test_asyncapi_tells_the_path_the_heartbeat_and_the_protocol_that_the_server_has(service: Service) -> None:
    server = ASYNC["servers"]["this"]
    assert (server["pathname"], server["x-socketio"]["path"]) == ("/api/socket.io", "/api/socket.io")
    answer = await service.request(
        "GET", f"{server['pathname']}/?EIO={server['x-socketio']['engineioProtocol']}&transport=polling"
    )
    opened = json.loads(answer.raw[1:])
    assert opened["pingInterval"] == server["x-heartbeat"]["intervalSeconds"] * 1000
    assert opened["pingTimeout"] == server["x-heartbeat"]["timeoutSeconds"] * 1000


# Taken away


def bundled(schema: Any) -> Any:
    """A schema as it stands in the bundle: each reference leads to a definition, with nothing beside it."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return {"$ref": f"#/definitions/{schema['$ref'].removesuffix('.json')}"}
        return {key: bundled(item) for key, item in schema.items()}
    return [bundled(item) for item in schema] if isinstance(schema, list) else schema


def test_the_bundle_holds_every_schema_and_refers_only_to_itself() -> None:
    data = DOCUMENTS[f"{CONTRACT}bundle.json"].data
    bundle = protocol.loads(data)
    assert set(bundle["definitions"]) == set(protocol.names())
    for name in protocol.names():
        schema = protocol.schema(name)
        assert bundle["definitions"][name] == bundled(
            {key: schema[key] for key in schema if key not in ("$id", "$schema")}
        )
    assert bundle["$id"] == protocol.schema("pong")["$id"].replace("pong", "bundle")
    assert data.count(b'"$id"') == 1


def test_the_shell_writes_the_same_documents_to_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "contract"
    done = subprocess.run(
        [sys.executable, "-m", "protocol", "write", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    written = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert written == {document.file: document.data for document in DOCUMENTS.values()}
    assert {"bundle.json", "openapi.json", "asyncapi.json", "types.d.ts", "schemas/pong.json"} <= set(written)
    assert len(done.stdout.splitlines()) == len(written)


def test_the_shell_says_in_one_line_where_it_can_not_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "protocol", "write", tmp_path / "file"],
        cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("python -m protocol: error: ")


def test_what_stands_in_a_document_is_the_schemas_own_text() -> None:
    for name in protocol.names():
        assert registry.text(name).encode() == DOCUMENTS[f"{CONTRACT}{name}.json"].data
