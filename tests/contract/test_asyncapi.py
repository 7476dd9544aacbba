"""The AsyncAPI document describes every event of the tables, and its types are those that code generators need."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import protocol
from protocol import events
from protocol.operations import ASYNCAPI
from tests.support.contract_documents import ASYNC, DOCUMENTS, OPEN, resolve
from tests.support.node import FOLDER, ask_node
from tests.support.service import Service


def test_the_asyncapi_parser_finds_no_error_and_no_warning() -> None:
    found = [
        json.loads(line) for line in ask_node(FOLDER / "asyncapi.mjs", DOCUMENTS[ASYNCAPI].data.decode()).splitlines()
    ]
    assert [diagnostic for diagnostic in found if diagnostic[0] < 2] == []
    assert {diagnostic[1] for diagnostic in found} <= {"asyncapi-latest-version"}, "more tools read 3.0 than 3.1"


def test_the_asyncapi_parser_would_find_an_error() -> None:
    broken = json.loads(DOCUMENTS[ASYNCAPI].data)
    broken["components"]["messages"]["pong"]["examples"] = [{"payload": {"timestamp": 1}}]
    del broken["operations"]["ping"]["action"]
    found = [json.loads(line) for line in ask_node(FOLDER / "asyncapi.mjs", json.dumps(broken)).splitlines()]
    assert any(diagnostic[0] == 0 for diagnostic in found)


def test_asyncapi_describes_every_event_with_its_answers_and_errors() -> None:
    messages = {message["name"]: message for message in ASYNC["components"]["messages"].values()}
    assert set(messages) == {*protocol.EVENTS, "connect", "connect_error"}
    by_event = {operation["title"]: operation for operation in ASYNC["operations"].values()}
    for event in (*protocol.EVENTS.values(), events.CONNECT):
        operation = by_event[event.name]
        assert operation["action"] == ("receive" if event.direction == "client_to_server" else "send")
        answers = [resolve(message, ASYNC)["name"] for message in operation.get("reply", {}).get("messages", [])]
        assert answers == list(event.answered_by)
        check_errors(operation.get("x-errors", []), event.errors)
        message = messages[event.name]
        assert message["payload"] == {"$ref": f"#/components/schemas/{protocol.schema(event.schema)['title']}"}
        offset = {"$ref": f"#/components/schemas/{protocol.schema(event.offset)['title']}"} if event.offset else None
        assert message.get("x-offset") == offset
        for example in message["examples"]:
            protocol.check(event.schema, example["payload"])


def check_errors(described: list[dict[str, Any]], errors: tuple[type[protocol.ServiceError], ...]) -> None:
    assert [(one["code"], one["status"], one["temporary"], one.get("retryAfter")) for one in described] == [
        (error.code, error.status, error.temporary, error.retry_after_s) for error in errors
    ]


def test_asyncapi_describes_the_handshake_and_its_errors() -> None:
    channel, server = ASYNC["channels"]["root"], ASYNC["servers"]["this"]
    check_errors(channel["x-handshake-errors"], events.HANDSHAKE_ERRORS)
    assert channel["address"] == "/"
    assert channel["bindings"]["ws"]["query"]["properties"]["EIO"]["const"] == "4"
    assert server["x-socketio"]["auth"] == {"$ref": "#/components/schemas/ConnectAuth"}
    sizes = {one["title"]: one.get("x-bytes-max") for one in ASYNC["operations"].values()}
    assert {name for name, size in sizes.items() if size == 16_384} == {"connect", "balance:update", "ping"}


async def test_asyncapi_states_the_path_heartbeat_and_protocol_of_the_server(service: Service) -> None:
    server = ASYNC["servers"]["this"]
    assert (server["pathname"], server["x-socketio"]["path"]) == ("/api/socket.io", "/api/socket.io")
    answer = await service.request(
        "GET", f"{server['pathname']}/?EIO={server['x-socketio']['engineioProtocol']}&transport=polling"
    )
    opened = json.loads(answer.raw[1:])
    assert opened["pingInterval"] == server["x-heartbeat"]["intervalSeconds"] * 1000
    assert opened["pingTimeout"] == server["x-heartbeat"]["timeoutSeconds"] * 1000


@pytest.mark.parametrize("document", [OPEN, ASYNC], ids=["openapi", "asyncapi"])
def test_every_number_has_a_format_and_every_object_a_name(document: dict[str, Any]) -> None:
    kinds: Counter[str] = Counter()
    for title, component in document["components"]["schemas"].items():
        for schema in subschemas(component):
            types = schema.get("type", [])
            for kind in [types] if isinstance(types, str) else types:
                kinds[kind] += 1
                assert schema.get("format") == {"integer": "int64", "number": "double"}.get(kind, schema.get("format"))
                assert kind != "boolean" or "const" not in schema, "openapi-generator makes it a string"
            assert "type" not in schema.get("not", {}), "Modelina removes it from the type of the whole"
            assert schema is component or "properties" not in schema, f"an object without a name in {title}"
    assert min(kinds["integer"], kinds["number"], kinds["boolean"], kinds["object"]) >= 1
    text = json.dumps(document)
    assert {title for title in document["components"]["schemas"] if f'schemas/{title}"' not in text} == set()


def subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield every schema within a schema, itself first."""
    if isinstance(schema, dict):
        yield schema
        inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", ()), *schema.get("allOf", ())]
        for each in (*inner, *(schema.get(keyword) for keyword in ("items", "additionalProperties", "propertyNames"))):
            yield from subschemas(each)
