"""The documents of the contract: served at the addresses of the index, and written by `python -m protocol write`.

The server, the repository and a written folder have the same bytes. Every web page may read them; they have strong
ETags, and are sent again only if they have changed.
"""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import protocol
from protocol import registry
from protocol.documents import Document
from protocol.operations import ASYNCAPI, CONTRACT, OPENAPI
from tests.support.contract_documents import ASYNC, DOCUMENTS, OPEN
from tests.support.repository import ROOT
from tests.support.service import SNAPSHOTS, MakeService, Service

FOREIGN = "https://dashboard.example"


# Served


async def test_every_schema_is_served_as_the_text_of_its_file(service: Service) -> None:
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
async def test_a_document_is_compressed_for_a_client_that_accepts_gzip(service: Service, accepted: str) -> None:
    plain = await service.request("GET", CONTRACT)
    zipped = await service.request("GET", CONTRACT, Accept_Encoding=accepted)
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(zipped.raw) == plain.raw
    assert zipped.headers["ETag"] != plain.headers["ETag"], "a strong ETag identifies bytes"
    assert zipped.headers["Vary"] == plain.headers["Vary"] == "Accept-Encoding, Origin"
    known = {"If_None_Match": zipped.headers["ETag"]}
    assert (await service.request("GET", CONTRACT, Accept_Encoding=accepted, **known)).status == 304


@pytest.mark.parametrize(
    "accepted", ["", "identity", "gzip;q=0", "br, gzip; q=0.000, deflate", "xgzip", "gzipped", "gzip;q=0, *"]
)
async def test_a_document_is_not_compressed_for_any_other_client(service: Service, accepted: str) -> None:
    answer = await service.request("GET", CONTRACT, Accept_Encoding=accepted)
    assert "Content-Encoding" not in answer.headers
    assert answer.body["success"]


def test_an_etag_identifies_one_content() -> None:
    one, other = (Document("/a", "a", "text/plain", data) for data in (b"a", b"b"))
    assert one.etag != other.etag
    assert len({document.etag for document in DOCUMENTS.values()}) == len(DOCUMENTS)


async def test_every_web_page_may_read_the_contract_and_only_the_contract(service: Service) -> None:
    for address in (CONTRACT, f"{CONTRACT}pong.json", OPENAPI, f"{CONTRACT}nothing.json"):
        answer = await service.request("GET", address, Origin=FOREIGN)
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Access-Control-Expose-Headers"] == "ETag, Retry-After, X-Request-Id"
        asked = {"Access_Control_Request_Method": "GET", "Access_Control_Request_Headers": "if-none-match"}
        preflight = await service.request("OPTIONS", address, Origin=FOREIGN, **asked)
        assert preflight.status == 204
        assert preflight.headers["Access-Control-Allow-Origin"] == "*"
        assert preflight.headers["Access-Control-Allow-Headers"] == "If-None-Match"
    assert (await service.request("GET", SNAPSHOTS, Origin=FOREIGN)).status == 403


async def test_an_address_without_a_document_is_not_found(service: Service) -> None:
    missing = await service.request("GET", f"{CONTRACT}nothing.json")
    assert (missing.status, missing.body["code"]) == (404, "not_found")
    assert missing.headers["Cache-Control"] == "no-store"
    posted = await service.request("POST", OPENAPI, {})
    assert (posted.status, posted.body["code"]) == (405, "method_not_allowed")
    assert posted.headers["Allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.expects_log("the database cannot be reached")
async def test_the_contract_is_served_without_a_database(make_service: MakeService) -> None:
    service = await make_service(database_url="postgresql://127.0.0.1:1/none")
    assert (await service.get()).status == 503
    assert (await service.request("GET", CONTRACT)).status == 200


async def test_documents_and_snapshots_have_limiters_of_their_own(make_service: MakeService) -> None:
    service = await make_service(reads_in_flight_max=1)
    with service.app.document_limiter.slot("127.0.0.1"):
        refused = await service.request("GET", OPENAPI)
        assert (await service.get()).status == 200, "slow readers of documents do not delay readers of snapshots"
    assert (refused.status, refused.body["code"]) == (503, "busy")
    with service.app.service.read_limiter.slot("127.0.0.1"):
        assert (await service.get()).status == 503
        assert (await service.request("GET", OPENAPI)).status == 200, "and the reverse"


async def test_the_documents_state_the_limits_of_their_server(make_service: MakeService) -> None:
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


# Written


def bundled(schema: Any) -> Any:
    """Return a schema as in the bundle: each reference leads to a definition, without keywords beside it."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return {"$ref": f"#/definitions/{schema['$ref'].removesuffix('.json')}"}
        return {key: bundled(item) for key, item in schema.items()}
    return [bundled(item) for item in schema] if isinstance(schema, list) else schema


def test_the_bundle_has_every_schema_and_refers_only_to_itself() -> None:
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


def test_write_makes_files_of_the_same_documents(tmp_path: Path) -> None:
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


def test_write_reports_in_one_line_a_file_that_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "protocol", "write", tmp_path / "file"],
        cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("python -m protocol: error: ")


def test_the_document_of_a_schema_is_the_text_of_its_file() -> None:
    for name in protocol.names():
        assert registry.text(name).encode() == DOCUMENTS[f"{CONTRACT}{name}.json"].data


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
    """Yield every example in a document, at any depth."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from [item] if key in ("example", "examples") else examples(item)
    elif isinstance(value, list):
        for item in value:
            yield from examples(item)
