"""`plain_update` accepts only updates that are valid against the schema, and reads the content that `loads` reads."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import protocol
from protocol import registry
from protocol.plain_update import _onchain, _onsite, read_plain_update
from tests.support.strategies import UPDATE, examples, mutated_updates


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")], ids=["as-javascript-writes", "as-python-writes"])
@pytest.mark.parametrize("update", [*protocol.schema("balance_update")["examples"], UPDATE])
def test_an_update_as_bots_send_it_is_validated_while_it_is_decoded(update, separators):
    text = json.dumps(protocol.loads(protocol.dumps(update)), separators=separators, default=float)
    assert type(protocol.decode_update(text)) is protocol.ValidatedUpdate
    assert_same_content(text)


def test_any_other_text_is_decoded_as_loads_does():
    assert protocol.decode_update('{"a":1.50}') == {"a": Decimal("1.50")}
    assert type(protocol.decode_update('{"a":1.50}')) is dict
    with pytest.raises(protocol.MalformedJson):
        protocol.decode_update("{")


@pytest.mark.parametrize(
    ("field", "is_plain"),
    [
        *(('"pid":0', True), ('"pid":9007199254740991', True), ('"pid":-1', False), ('"pid":9007199254740992', False)),
        *(('"ts":"2025-11-07T00:45:08Z"', True), ('"ts":"2025-11-07"', False), ('"ts":""', False)),
        *(('"id":"019a5bb2-4a1b-7c3e-9f10-2b6d8e4f7a51"', True), ('"id":"019a5bb2"', False), ('"id":""', False)),
        *(('"pid":null,"ts":null,"id":null', True), ('"pid":1.0', False), ('"later":1', False)),
    ],
)
def test_an_optional_field_is_plain_if_it_is_valid(field, is_plain):
    text = f'{{"onchain":{{"rlb":1,"usdt":1}},"onsite":{{"rlb":1,"usd":1}},{field}}}'
    assert (read_plain_update(text) is not None) == is_plain
    assert_same_content(text)


def assert_same_content(text: str) -> None:
    """Assert that a text that is a plain update is valid against the schema, and has the same content for `loads`."""
    plain = read_plain_update(text)
    if plain is None:
        return
    update = protocol.loads(text)
    assert next(registry.slow_validator("balance_update").iter_errors(update), None) is None
    assert protocol.loads(protocol.dumps(plain)) == {"pid": None, "ts": None, "id": None, **update}
    for ledger in ("onchain", "onsite"):
        assert b" " not in bytes(plain[ledger])
        assert list(protocol.loads(bytes(plain[ledger]))) == sorted(sorted(update[ledger]), key=len)


@settings(max_examples=examples(300))
@given(mutated_updates())
def test_a_plain_update_is_valid_and_has_the_content_of_its_text(update):
    assert_same_content(protocol.dumps(update))
    assert_same_content(protocol.dumps({field: update[field] for field in sorted(update)}))


PLAIN_LEDGERS = b'"onchain":{"rlb":1,"usdt":1},"onsite":{"rlb":1,"usd":1}}'


@pytest.mark.parametrize(
    "before",
    [b'"onchain":"\xff",', b'"onchain":"\\ud800",', b'"\xff":1,'],
    ids=["no-utf8", "half-a-surrogate", "no-utf8-in-a-name"],
)
def test_a_field_that_a_later_one_replaces_is_validated_too(before):
    text = b"{" + before + PLAIN_LEDGERS
    with pytest.raises(protocol.ServiceError):
        protocol.check("balance_update", protocol.loads(text))
    assert read_plain_update(text) is None


@settings(max_examples=examples(500))
@given(st.data())
def test_no_text_that_is_invalid_is_a_plain_update(data):
    text = protocol.dumps(UPDATE)
    for _ in range(data.draw(st.integers(1, 3))):
        at, cut = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 3))
        text = text[:at] + data.draw(st.text('0123456789[]{}",:.-+eE/ab_\\ ', max_size=3)) + text[at + cut :]
    assert_same_content(text)


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
    assert_same_content(text)


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
    assert_same_content(text)


@pytest.mark.parametrize(("ledger", "text"), [(_onchain, '{"rlb":1.5,"usdt":0}'), (_onsite, '{"rlb":1.5,"usd":0}')])
def test_the_required_assets_without_spaces_are_read_by_the_quick_pattern(ledger, text):
    assert ledger._usual.fullmatch(text.encode())
