"""Every message of the contract has a schema, and every schema is documented and read alike by all validators."""

from __future__ import annotations

import datetime
import re

import jsonschema_rs
import pytest

import protocol
from protocol import ERRORS, EVENTS, InvalidPayload, PositionPruned, PositionUnknown, check, registry
from protocol.check import _MESSAGES

EPOCH = "3f0c8b52-6a1d-4e7b-9d53-0c2f7a9be614"
NO_LINE_FEED = {"pattern": "\\n"}
REQUESTS = [
    *("balance_update", "connect_auth", "feed_query", "get_path", "latest_query", "list_query", "schema_path"),
    *("export_query", "import_line", "series_query", "stream_query"),
]
REPLIES = [
    *("balance_ack", "balance_error", "balance_snapshot", "connect_error", "connected", "contract_reply"),
    *("error_reply", "feed_reply", "get_reply", "latest_reply", "list_reply", "pong", "problem_details", "save_reply"),
    "series_reply",
    *("snapshot", "stream_bye", "stream_connected", "stream_ping", "health_reply", "ticket_reply", "version_reply"),
    *("import_refusal", "import_reply", "import_result"),
]


def rejection(name: str, payload: object) -> str:
    """Return the error of a payload that `check` must reject."""
    with pytest.raises(InvalidPayload) as caught:
        check(name, payload)
    return str(caught.value)


def subschemas(schema: object):
    """Yield every schema within a schema, itself first."""
    if isinstance(schema, dict):
        yield schema
        for keyword, value in schema.items():
            if keyword == "properties":
                for inner in value.values():
                    yield from subschemas(inner)
            elif keyword in ("additionalProperties", "propertyNames", "items", "not"):
                yield from subschemas(value)
            elif keyword in ("anyOf", "allOf"):
                for inner in value:
                    yield from subschemas(inner)


# The schemas


@pytest.mark.parametrize("name", protocol.names())
class TestEverySchema:
    def test_has_an_id_a_title_a_description_and_examples_that_pass(self, name):
        schema = protocol.schema(name)
        assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
        assert schema["$id"] == f"https://balance-snapshot.example/v1/{name}.json"
        assert schema["title"] == name.title().replace("_", "")
        assert schema["description"].endswith(".")
        for example in schema["examples"]:
            check(name, example)
        assert schema["examples"]

    def test_explains_every_property_with_examples_that_pass(self, name):
        whole = protocol.schema(name)
        rule = [*subschemas(whole["not"])] if "properties" in whole.get("not", {}) else []  # between fields
        for schema in subschemas(whole):
            for field, inner in schema.get("properties", {}).items() if schema not in rule else ():
                if inner is True:
                    continue
                assert inner["description"].endswith("."), field
                assert inner["examples"], field
                bare = jsonschema_rs.Draft7Validator(
                    inner,
                    registry=registry._FAST_REFERENCES,
                    base_uri=protocol.schema(name)["$id"],
                )
                for example in inner["examples"]:
                    assert bare.is_valid(example), field

    def test_has_nothing_beside_a_ref_that_validates(self, name):
        for schema in subschemas(protocol.schema(name)):
            if "$ref" in schema:
                assert set(schema) <= {"$ref", "description", "examples"}
                assert schema["$ref"].removesuffix(".json") in protocol.names()

    def test_uses_only_keywords_that_draft_07_and_2020_12_read_alike(self, name):
        alike = {
            *("$schema", "$id", "$ref", "title", "description", "examples", "default"),
            *("type", "const", "enum", "anyOf", "allOf", "not", "pattern"),
            *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
            *("required", "properties", "additionalProperties", "propertyNames", "maxProperties", "items", "maxItems"),
        }
        for schema in subschemas(protocol.schema(name)):
            assert set(schema) <= alike

    def test_has_a_message_for_every_pattern(self, name):
        for schema in subschemas(protocol.schema(name)):
            assert "pattern" not in schema or schema.get("title") in _MESSAGES or schema == NO_LINE_FEED

    def test_has_patterns_that_every_engine_reads_alike(self, name):
        # No look-around (RE2 and Rust have none), no \d \w \s (some engines match Unicode), and one `$`, at the end,
        # with a second pattern against a line feed (some libraries replace each `$` by \Z). No repetition in another,
        # and at most 25: libraries that guard against patterns of exponential time reject more.
        for schema in subschemas(protocol.schema(name)):
            if schema.get("pattern", "\\n") != "\\n":
                assert not re.search(r"\(\?[^:]|\\(?!\.|x24)|\)[*+?{]", schema["pattern"])
                assert len(re.findall(r"[*+{]|(?<!\()\?", schema["pattern"])) <= 25
                assert (schema["pattern"][0], schema["pattern"].find("$")) == ("^", len(schema["pattern"]) - 1)
                assert schema["not"] == NO_LINE_FEED


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_rejects_an_unknown_field(name):
    for example in protocol.schema(name)["examples"]:
        if example is not None:
            assert rejection(name, {**example, "later": 1}) == "later: is not a known field"


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_or_event_may_gain_fields_and_lose_none(name):
    for example in protocol.schema(name)["examples"]:
        check(name, {**example, "later": {"than": "now"}})
    example = protocol.schema(name)["examples"][0]
    for field in example:
        assert rejection(name, {key: example[key] for key in example if key != field}) == f"{field}: is required"


def test_every_payload_schema_is_a_request_a_reply_a_part_or_ping():
    parts = {"amount", "asset_name", "cursor", "document_headers", "error_code", "onchain", "onsite", "ping"}
    parts |= {"contract_entry", "contract_index", "list_order", "list_pagination", "saved_snapshot"}
    parts |= {"timestamp", "utc_timestamp", "uuid", "stream_headers", "position_token", "recovery_offset"}
    parts |= {"bye_reason", "durability", "feed_after", "feed_head", "feed_slice", "latest", "position_reason"}
    parts |= {"health_problem", "health_state", "ticket", "versions"}
    parts |= {"export_digits", "export_format", "ledger_asset"}
    parts |= {"instant_range", "ledger_asset", "left_out", "series", "series_amounts", "series_epoch", "series_line"}
    assert {*REQUESTS, *REPLIES, *parts} == set(protocol.names())


def test_the_date_pattern_knows_the_calendar():
    pattern = re.compile(protocol.schema("timestamp")["pattern"])
    for year in (*range(1000, 3000, 100), *range(1995, 2030), 2999):
        for month in range(14):
            for day in (0, 1, 9, 10, 19, 20, 28, 29, 30, 31, 32):
                try:
                    real = bool(datetime.date(year, month, day))
                except ValueError:
                    real = False
                assert bool(pattern.search(f"{year:04}-{month:02}-{day:02}T00:00:00Z")) == real


# The tables


def test_every_event_has_its_schema_and_is_answered_by_server_events():
    assert set(EVENTS) == {
        *("balance:update", "ping"),
        *("connected", "balance:snapshot", "balance:ack", "balance:error", "pong"),
    }
    for name, event in EVENTS.items():
        assert (event.name, event.schema) == (name, name.replace(":", "_"))
        assert event.schema in protocol.names()
        assert (event.direction == "client_to_server") == bool(event.answered_by)
        for answer in event.answered_by:
            assert EVENTS[answer].direction == "server_to_client"


def test_the_table_of_errors_is_the_closed_list_of_the_schema():
    assert list(ERRORS) == [*protocol.schema("error_code")["enum"]]
    assert {code: error.status for code, error in ERRORS.items()} == {
        "malformed_json": 400,
        "invalid_payload": 400,
        "conflict": 409,
        "position_unknown": 409,
        "position_pruned": 410,
        "unauthorized": 401,
        "forbidden": 403,
        "not_found": 404,
        "method_not_allowed": 405,
        "payload_too_large": 413,
        "unsupported_media_type": 415,
        "misdirected_request": 421,
        "request_timeout": 408,
        "headers_too_large": 431,
        "rate_limited": 429,
        "busy": 503,
        "unavailable": 503,
        "internal_error": 500,
    }


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_every_error_has_a_message_a_body_and_a_wait_if_temporary(error):
    assert error.temporary == (error.status in (429, 503)) == (error.retry_after_s is not None)
    assert re.fullmatch(r"[A-Z][^\n]*[^.\n]", error.message())
    check("error_reply", error.as_example())
    check("balance_error", error.as_example())


@pytest.mark.parametrize("error", [error for code, error in ERRORS.items() if not code.startswith("position_")])
def test_an_error_has_the_default_message_or_a_path_and_a_reason(error):
    assert str(error()) == error.message()
    assert str(error("is bad", "a.b")) == "a.b: is bad"
    assert str(error("is bad")) == "is bad"
    for raised in (error(), error("is bad", "a.b")):
        assert raised.body() == {"success": False, "error": str(raised), "code": error.code}


def test_the_error_of_a_position_has_the_fields_by_which_a_client_goes_on():
    unknown = PositionUnknown("diverged", EPOCH, 1000, 990).body()
    assert unknown == {
        "success": False,
        "error": "after: is of another history of this feed; what was seen up to seq 990 is good",
        "code": "position_unknown",
        "reason": "diverged",
        "epoch": EPOCH,
        "head": 1000,
        "goodUntil": 990,
    }
    assert str(PositionUnknown("ahead", EPOCH, 1000)) == "after: is past the end of the feed, seq 1000"
    other = PositionUnknown("other_feed", EPOCH, 0)
    assert str(other) == "epoch: is not one of this feed"
    assert "goodUntil" not in other.body(), "it is unknown"
    assert PositionPruned(500).body()["first"] == 500
    assert [unknown, PositionPruned(500).body()] == protocol.schema("error_reply")["examples"][1:3]
