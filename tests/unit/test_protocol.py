"""The contract of `protocol/`: every message has a schema, every refusal a code, a path and a plain reason."""

import base64
import datetime
import json
import pathlib
import re
import shutil
import subprocess
import sys
from collections import deque
from decimal import Decimal

import jsonschema
import jsonschema_rs
import pytest
import referencing
import referencing.jsonschema
from hypothesis import given, settings
from hypothesis import strategies as st

import protocol
from protocol import (
    ERRORS,
    EVENTS,
    InvalidPayload,
    PayloadTooLarge,
    ServiceError,
    check,
    dumps,
    loads,
    registry,
)
from protocol.check import _MESSAGES, _suits_fast_validator, to_path
from protocol.plain_update import read_plain_update
from protocol.violations import first_violation

ROOT = pathlib.Path(__file__).parent.parent.parent
GROUPS = loads((ROOT / "tests/cases/balance_update.json").read_bytes())
CASES = [
    pytest.param(case, id=f"{group['description']}: {case['description']}")
    for group in GROUPS
    for case in group["tests"]
]
UPDATE = {
    "ts": "2025-11-07T00:45:08.603Z",
    "pid": 1132978,
    "onchain": {"rlb": Decimal("100074.99978"), "usdt": Decimal("7656.36")},
    "onsite": {"rlb": Decimal("101132.407627"), "usd": Decimal("7646.96")},
}
NO_LINE_FEED = {"pattern": "\\n"}
REQUESTS = ["balance_update", "connect_auth", "get_path", "list_query", "schema_path"]
REPLIES = [
    "balance_ack",
    "balance_error",
    "balance_snapshot",
    "connect_error",
    "connected",
    "contract_reply",
    "error_reply",
    "get_reply",
    "list_reply",
    "pong",
    "save_reply",
    "snapshot",
]


def refusal(name: str, payload: object) -> str:
    """Return what `check` says about a payload it must refuse."""
    with pytest.raises(InvalidPayload) as caught:
        check(name, payload)
    return str(caught.value)


def body(case: dict) -> bytes:
    """Return the bytes a case stands for."""
    if "base64" in case:
        return base64.b64decode(case["base64"])
    return (case["json"] if "json" in case else dumps(case["data"])).encode()


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
        for schema in subschemas(protocol.schema(name)):
            for field, inner in schema.get("properties", {}).items():
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
            *("required", "properties", "additionalProperties", "propertyNames", "maxProperties", "items"),
        }
        for schema in subschemas(protocol.schema(name)):
            assert set(schema) <= alike

    def test_has_words_for_every_pattern(self, name):
        for schema in subschemas(protocol.schema(name)):
            assert "pattern" not in schema or schema.get("title") in _MESSAGES or schema == NO_LINE_FEED

    def test_has_patterns_that_every_engine_reads_alike(self, name):
        # No look-around (RE2, Rust), no \d \w \s (Unicode in some), a `$` that stops at no line feed and none elsewhere
        # (some libraries replace each by \Z). No repetition within another, and at most 25 of them: libraries that
        # guard against patterns of exponential time refuse more.
        for schema in subschemas(protocol.schema(name)):
            if schema.get("pattern", "\\n") != "\\n":
                assert not re.search(r"\(\?[^:]|\\(?!\.|x24)|\)[*+?{]", schema["pattern"])
                assert len(re.findall(r"[*+{]|(?<!\()\?", schema["pattern"])) <= 25
                assert (schema["pattern"][0], schema["pattern"].find("$")) == ("^", len(schema["pattern"]) - 1)
                assert schema["not"] == NO_LINE_FEED


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_refuses_what_it_does_not_know(name):
    for example in protocol.schema(name)["examples"]:
        if example is not None:
            assert refusal(name, {**example, "later": 1}) == "later: is not a known field"


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_or_event_may_grow_fields_and_lose_none(name):
    for example in protocol.schema(name)["examples"]:
        check(name, {**example, "later": {"than": "now"}})
    example = protocol.schema(name)["examples"][0]
    for field in example:
        assert refusal(name, {key: example[key] for key in example if key != field}) == f"{field}: is required"


def test_every_payload_schema_is_a_request_a_reply_a_part_or_ping():
    parts = {"amount", "asset_name", "cursor", "document_headers", "error_code", "onchain", "onsite", "ping"}
    parts |= {"contract_entry", "contract_index", "list_order", "list_pagination", "saved_snapshot"}
    parts |= {"timestamp", "utc_timestamp", "uuid"}
    assert {*REQUESTS, *REPLIES, *parts} == set(protocol.names())


# The tables


def test_every_event_has_a_schema_named_after_it_and_an_answer_that_is_an_event_to_the_client():
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


def test_the_table_of_errors_is_the_closed_list_that_the_schema_names():
    assert list(ERRORS) == [*protocol.schema("error_code")["enum"]]
    assert {code: error.status for code, error in ERRORS.items()} == {
        "malformed_json": 400,
        "invalid_payload": 400,
        "conflict": 409,
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
def test_every_error_has_a_message_a_body_and_a_wait_if_it_is_temporary(error):
    assert error.temporary == (error.status in (429, 503)) == (error.retry_after_s is not None)
    assert str(error()) == error.message()
    assert re.fullmatch(r"[A-Z][^\n]*[^.\n]", error.message())
    assert str(error("is bad", "a.b")) == "a.b: is bad"
    assert str(error("is bad")) == "is bad"
    for raised in (error(), error("is bad", "a.b")):
        assert raised.body() == {"success": False, "error": str(raised), "code": error.code}
        check("error_reply", raised.body())
        check("balance_error", raised.body())


# The cases


@pytest.mark.parametrize("case", CASES)
def test_case(case):
    raw = body(case)
    try:
        if len(raw) > 16_384:  # what the transports do before they decode
            raise PayloadTooLarge("is larger than 16384 bytes", "payload")
        check("balance_update", loads(raw))
        verdict = {"valid": True}
    except ServiceError as error:
        verdict = {"valid": False, "error": str(error), "code": error.code}
    assert verdict == {key: case[key] for key in ("valid", "error", "code") if key in case}


def test_every_case_is_well_formed_and_told_apart_by_its_description():
    for group in GROUPS:
        descriptions = [case["description"] for case in group["tests"]]
        assert len(set(descriptions)) == len(descriptions)
        for case in group["tests"]:
            assert len({"data", "json", "base64"} & set(case)) == 1
            assert set(case) >= {"description", "valid"} | (set() if case["valid"] else {"error", "code"})
            assert ("base64" not in case) or case["rest_only"]
    assert len(CASES) >= 80


def test_draft_2020_12_reads_the_schemas_the_same():
    draft = referencing.jsonschema.DRAFT202012
    uri = "https://json-schema.org/draft/2020-12/schema"
    schemas = [{**protocol.schema(name), "$schema": uri} for name in protocol.names()]
    known = referencing.Registry().with_resources((each["$id"], draft.create_resource(each)) for each in schemas)
    newer = jsonschema.Draft202012Validator(
        next(each for each in schemas if each["title"] == "BalanceUpdate"), registry=known
    )
    for case in (param.values[0] for param in CASES):
        if "data" in case:
            assert newer.is_valid(case["data"]) == case["valid"], case["description"]


# The two validators

numbers = st.one_of(
    st.integers(-2, 2),
    st.integers(-(10**31), 10**31),
    st.integers(2**53 - 2, 2**53 + 2),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.sampled_from(
        [
            *(
                "1e30",
                "1.0000000000000000000000000000000000001e30",
                "999999999999999999999999999999.9",
                "1e31",
                "1e-30",
                "-0.0",
            ),
            *("0.99999999999999999999999999999999999999e-30", "1e-31"),
            *("1e400", "-1e400", "1e-9999", "0e-9999", "1.0", "1e3", "1.5"),
        ]
    ).map(Decimal),
)
texts = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["rlb", "usdt", "usd", "ts", "pid", "id", "onchain", "onsite", "btc", "BTC", "BTC/USDT:USDT", "$wif", "btc\n"]
    ),
    st.from_regex(protocol.schema("timestamp")["pattern"]),
    st.from_regex(protocol.schema("uuid")["pattern"]),
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)


@st.composite
def mutated_updates(draw):
    """A valid update in which a few fields were replaced, added or taken away."""
    update = {**UPDATE, "onchain": dict(UPDATE["onchain"]), "onsite": dict(UPDATE["onsite"])}
    for _ in range(draw(st.integers(0, 3))):
        holder = draw(st.sampled_from([update, *(v for v in update.values() if isinstance(v, dict))]))
        field = draw(st.sampled_from([*holder, "id", "btc"]) | texts)
        if draw(st.booleans()):
            holder[field] = draw(values)
        else:
            holder.pop(field, None)
    return update


def assert_one_verdict(name: str, payload: object) -> None:
    """Assert that slow, fast (where it is asked), the search for a fault and `check` agree."""
    slow = next(registry.slow_validator(name).iter_errors(payload), None) is None
    assert (first_violation(name, payload) is None) == slow
    if _suits_fast_validator(payload):
        assert registry.is_valid(registry.fast_validator(name), payload) == slow
    if slow:
        check(name, payload)
    else:
        assert refusal(name, payload).startswith(f"{best_path(name, payload)}: ")


def best_path(name: str, payload: object) -> str:
    """Find the path of the error to report among all errors that jsonschema finds."""
    ranks, found = ["additionalProperties", "required", "type"], []
    errors = deque(registry.slow_validator(name).iter_errors(payload))
    while errors:
        error = errors.popleft()
        errors.extend(inner for inner in error.context or () if inner.validator_value != "null")
        path = tuple(error.absolute_path)
        if error.validator == "required":
            path = (*path, next(field for field in error.validator_value if field not in error.instance))
        elif error.validator == "additionalProperties":
            path = (*path, min(set(error.instance) - set(error.schema["properties"])))
        elif "propertyNames" in error.absolute_schema_path:
            path = (*path, error.instance)
        if not error.context:
            rank = ranks.index(error.validator) if error.validator in ranks else len(ranks)
            found.append((len(path), rank, path))
    return to_path(min(found)[2])


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")], ids=["as-javascript-writes", "as-python-writes"])
@pytest.mark.parametrize("update", [*protocol.schema("balance_update")["examples"], UPDATE])
def test_the_updates_that_bots_send_are_read_and_checked_at_once(update, separators):
    text = json.dumps(protocol.loads(protocol.dumps(update)), separators=separators, default=float)
    assert type(protocol.decode_update(text)) is protocol.ValidatedUpdate


def assert_read_alike(text: str) -> None:
    """Assert that a text which is read as a plain update fits the schema, and says the same read the long way."""
    plain = read_plain_update(text)
    if plain is None:
        return
    update = protocol.loads(text)
    assert next(registry.slow_validator("balance_update").iter_errors(update), None) is None
    assert protocol.loads(protocol.dumps(plain)) == {"pid": None, "ts": None, "id": None, **update}
    for ledger in ("onchain", "onsite"):
        assert b" " not in bytes(plain[ledger])
        assert list(protocol.loads(bytes(plain[ledger]))) == sorted(sorted(update[ledger]), key=len)


@settings(max_examples=300, deadline=None)
@given(mutated_updates())
def test_what_is_read_at_once_fits_the_schema_and_says_the_same(update):
    assert_read_alike(protocol.dumps(update))
    assert_read_alike(protocol.dumps({field: update[field] for field in sorted(update)}))


PLAIN_LEDGERS = b'"onchain":{"rlb":1,"usdt":1},"onsite":{"rlb":1,"usd":1}}'


@pytest.mark.parametrize(
    "before",
    [b'"onchain":"\xff",', b'"onchain":"\\ud800",', b'"\xff":1,'],
    ids=["no-utf8", "half-a-surrogate", "no-utf8-in-a-name"],
)
def test_what_a_later_field_of_the_same_name_hides_is_looked_at_all_the_same(before):
    text = b"{" + before + PLAIN_LEDGERS
    with pytest.raises(protocol.ServiceError):
        protocol.check("balance_update", protocol.loads(text))
    with pytest.raises(protocol.ServiceError):
        protocol.check("balance_update", protocol.decode_update(text))


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_no_text_is_read_at_once_that_does_not_fit_the_schema(data):
    text = protocol.dumps(UPDATE)
    for _ in range(data.draw(st.integers(1, 3))):
        at, cut = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 3))
        text = text[:at] + data.draw(st.text('0123456789[]{}",:.-+eE/ab_\\ ', max_size=3)) + text[at + cut :]
    assert_read_alike(text)


@pytest.mark.parametrize(
    ("amount", "is_plain"),
    [
        ("0", True),
        ("0." + "0" * 29, True),
        ("0." + "0" * 28 + "1", True),
        ("9" * 30 + "." + "9" * 29, True),
        ("1" + "0" * 30, False),
        ("0." + "0" * 29 + "1", False),
        ("1e5", False),
        ("-0", False),
        ("01", False),
        ("1.", False),
        ("١", False),
    ],
)
def test_an_amount_is_plain_if_its_digits_alone_show_that_it_is_valid(amount, is_plain):
    text = f'{{"onchain":{{"rlb":{amount},"usdt":1}},"onsite":{{"rlb":1,"usd":1}}}}'
    assert (read_plain_update(text) is not None) == is_plain
    assert_read_alike(text)


@pytest.mark.parametrize(
    ("ledger", "is_plain"),
    [
        ('{"rlb":1,"usdt":2}', True),
        ('{"rlb": 1, "usdt": 2}', True),
        ('{"rlb":1,"usdt":2,"aaaaa":3}', True),
        ('{"a":3,"rlb":1,"usdt":2}', True),
        ('{"rlb":1,"USDT":3,"usdt":2,"USDT.e":4,"BTC/USDT:USDT":5}', True),
        ('{"rlb":1,"usdt":2,"USDT":3}', False),
        ('{"usdt":2,"rlb":1}', False),
        ('{"rlb":1,"rlb":1,"usdt":2}', False),
        ('{"rlb":1,"usdt":2,"r lb":3}', False),
        ('{"rlb":1}', False),
        ('{"rlb":1 ,"usdt":2}', False),
        ('{"rlb":1,"usdt":2,' + ",".join(f'"a{number:04}":1' for number in range(62)) + "}", True),
        ('{"rlb":1,"usdt":2,' + ",".join(f'"a{number:04}":1' for number in range(63)) + "}", False),
        ("{}", False),
        ("[]", False),
        ("null", False),
    ],
)
def test_a_ledger_is_plain_if_it_lists_each_asset_once_in_server_order(ledger, is_plain):
    text = f'{{"onchain":{ledger},"onsite":{{"rlb":1,"usd":1}}}}'
    assert (read_plain_update(text) is not None) == is_plain
    assert_read_alike(text)


@settings(max_examples=200, deadline=None)
@given(mutated_updates())
def test_fast_and_slow_agree_on_mutated_updates(update):
    assert_one_verdict("balance_update", update)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(protocol.names()), values)
def test_fast_and_slow_agree_on_any_json_for_any_schema(name, payload):
    assert_one_verdict(name, payload)


@settings(max_examples=400, deadline=None)
@given(numbers)
def test_an_amount_is_accepted_if_and_only_if_it_is_0_or_from_1e_minus_30_to_1e30(number):
    if number == 0 or Decimal("1e-30") <= number <= 10**30:
        check("amount", number)
    else:
        assert refusal("amount", number).startswith("payload: must be ")


@pytest.mark.parametrize("number", ["1.00000000000000000000000000000000001e30", "1000000000000000000000000000000.1"])
def test_jsonschema_rs_alone_would_let_a_number_above_1e30_through(number):
    assert registry.fast_validator("amount").is_valid(Decimal(number)), "no longer: `_suits_fast_validator` may go"
    assert refusal("amount", Decimal(number)) == "payload: must be at most 1e30"


def test_the_patterns_say_what_a_format_would():
    for name, format_ in {"timestamp": "date-time", "utc_timestamp": "date-time", "uuid": "uuid"}.items():
        schema = {**protocol.schema(name), "format": format_}
        strict = jsonschema_rs.Draft7Validator(schema, validate_formats=True)
        good = [c.values[0]["data"] for c in CASES if c.values[0]["valid"] and "data" in c.values[0]]
        texts = [text for update in good for text in update.values() if isinstance(text, str)]
        for text in texts:
            assert strict.is_valid(text) == registry.fast_validator(name).is_valid(text), text


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


# The messages


@settings(max_examples=100, deadline=None)
@given(mutated_updates())
def test_an_error_is_one_short_printable_line_without_a_trace_of_python(update):
    if next(registry.slow_validator("balance_update").iter_errors(update), None):
        text = refusal("balance_update", update)
        assert text.isprintable()
        assert len(text) < 400
        assert not re.search(r"Decimal|None|True|False|dict|\bint\b|float|<|>", text.partition(": ")[2])


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ({"limit": 0}, "limit: must be at least 1"),
        ({"limit": 1001}, "limit: must be at most 1000"),
        ({"limit": "abc"}, "limit: must be an integer, not a string"),
        ({"limit": Decimal("1.5")}, "limit: must be an integer, not 1.5"),
        ({"offset": -1}, "offset: must be at least 0"),
        ({"offset": 1000001}, "offset: must be at most 1000000"),
        ({"cursor": "x"}, "cursor: must be the `next` of an earlier page"),
        ({"cursor": "1_1\n"}, "cursor: must be the `next` of an earlier page"),
        ({"page": 2}, "page: is not a known field"),
        ({"pid": -1}, "pid: must be at least 0"),
    ],
)
def test_a_bad_query_is_refused_with_its_path(query, error):
    assert refusal("list_query", query) == error


def test_a_bad_date_in_a_query_and_a_bad_id_in_a_path_are_refused_as_in_an_update():
    assert refusal("list_query", {"from": "x"}) == refusal("balance_update", {**UPDATE, "ts": "x"}).replace(
        "ts:", "from:"
    )
    assert refusal("get_path", {"id": "x"}) == refusal("balance_update", {**UPDATE, "id": "x"})


def test_an_error_deep_in_a_reply_has_its_whole_path():
    reply = loads(dumps(protocol.schema("list_reply")["examples"][0]))
    reply["data"][0]["onchain"]["rlb"] = "1"
    assert refusal("list_reply", reply) == "data.0.onchain.rlb: must be a number, not a string"


def test_nan_is_no_number_even_if_python_hands_it_over():
    for nan in (float("nan"), float("inf"), Decimal("NaN"), Decimal("sNaN"), Decimal("-Infinity")):
        assert refusal("balance_update", {**UPDATE, "onchain": {"rlb": nan, "usdt": 1}}).startswith(
            "onchain.rlb: must be a number, not "
        )


def test_the_same_error_is_told_in_every_process():
    # jsonschema walks a set of names, whose order hangs on the hash seed.
    code = (
        "from protocol import check, InvalidPayload\n"
        "try: check('onchain', {'rlb': 1, 'usdt': 1, **{f'a{i}': -1 for i in range(50)}})\n"
        "except InvalidPayload as error: print(error)"
    )
    for seed in ("0", "1", "2"):
        assert python("-c", code, PYTHONHASHSEED=seed).stdout == "a0: must be at least 0\n"


def test_an_unknown_schema_is_the_callers_bug():
    for call in (lambda: check("nothing", {}), lambda: protocol.schema("nothing")):
        with pytest.raises(KeyError):
            call()


# Standing alone, and the shell


def python(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run this Python at the top of the repository and return what came of it."""
    return subprocess.run(
        [sys.executable, *arguments],
        check=False,
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        cwd=ROOT,
        env={"PYTHONIOENCODING": "utf-8", "PYTHONDONTWRITEBYTECODE": "1", **environment},
        timeout=30,
    )


def test_protocol_stands_alone():
    code = (
        "import sys, protocol, protocol.__main__\n"
        "print({name.partition('.')[0] for name in sys.modules}"
        " & {'balance', 'tornado', 'socketio', 'engineio', 'psycopg', 'psycopg_pool'})"
    )
    assert python("-c", code).stdout == "set()\n"


def test_the_shell_lists_all_schemas():
    done = python("-m", "protocol", "list")
    assert (done.returncode, done.stdout.split()) == (0, protocol.names())


def test_the_shell_shows_a_schema_as_it_stands_in_its_file():
    done = python("-m", "protocol", "show", "amount")
    assert (done.returncode, done.stdout) == (0, (ROOT / "protocol/schemas/amount.json").read_text())
    assert json.loads(done.stdout)["title"] == "Amount"


def test_the_shell_checks_a_file_and_standard_input(tmp_path):
    file = tmp_path / "update.json"
    file.write_text(dumps(UPDATE))
    for arguments, stdin in (((str(file),), ""), (("-",), dumps(UPDATE)), ((), dumps(UPDATE))):
        done = python("-m", "protocol", "check", "balance_update", *arguments, stdin=stdin)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("stdin", "error"),
    [
        ("{}", "onchain: is required"),
        ("{", "payload: is not valid JSON"),
        (dumps({**UPDATE, "é\n": 1}), '"\\u00e9\\n": is not a known field'),
    ],
)
def test_the_shell_refuses_with_the_path_on_stderr_and_status_1(stdin, error):
    done = python("-m", "protocol", "check", "balance_update", stdin=stdin)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", error + "\n")


@pytest.mark.parametrize(
    "arguments", [(), ("dance",), ("show",), ("show", "nothing"), ("check", "amount", "no/such/file")]
)
def test_the_shell_answers_wrong_usage_with_status_2(arguments):
    done = python("-m", "protocol", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: python -m protocol" in done.stderr


def test_the_shell_says_what_a_change_breaks(tmp_path):
    new = tmp_path / "new"
    shutil.copytree(ROOT / "protocol/schemas", new)
    (new / "pong.json").write_text((new / "pong.json").read_text().replace('["timestamp"]', "[]"))
    done = python("-m", "protocol", "diff", "protocol/schemas", str(new))
    line = "breaks receivers: pong: timestamp: was required, is optional\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, line, "")
    same = python("-m", "protocol", "diff", "protocol/schemas", "protocol/schemas")
    assert (same.returncode, same.stdout, same.stderr) == (0, "", "")
    missing = python("-m", "protocol", "diff", "protocol/schemas", "nowhere")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr.endswith("error: nowhere: No such file or directory\n")
