"""`loads` and `dumps` keep numbers exact, accept and write only valid JSON, and raise only the documented errors."""

import json
import subprocess
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol import MalformedJson, dumps, loads
from tests.support.node import node

exact = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.decimals(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=5)
    ),
    max_leaves=20,
)


def rejection(text: str | bytes) -> str:
    """Return the error of a text that `loads` must reject."""
    with pytest.raises(MalformedJson) as caught:
        loads(text)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "100074.99978",
        "0.1",
        "1.50",
        "1234567890123456789012345678901234567890.5",
        "0.000000000000000000000000000001",
        "-0.0",
        "1." + "123456789" * 500,
    ],
)
def test_a_number_with_a_point_is_a_decimal_with_every_digit(text):
    number = loads(text)
    assert type(number) is Decimal
    assert loads(dumps(number)).as_tuple() == number.as_tuple() == Decimal(text).as_tuple()
    assert "E" in dumps(number) or dumps(number) == text


@pytest.mark.parametrize("digits", [1, 19, 20, 40, 4299, 4300, 4301, 5000, 16000])
def test_an_integer_of_any_length_keeps_every_digit(digits):
    for text in ("7" * digits, "-" + "7" * digits):
        assert dumps(loads(text)) == text


@given(exact)
def test_a_value_that_is_written_is_read_unchanged(value):
    text = dumps(value)
    back = loads(text)
    assert back == value
    assert dumps(back) == text
    assert json.loads(text, parse_float=Decimal) == value  # another reader reads the same value


@given(st.text() | st.binary())
@example('"\\ud800"')
@example('["\\ud800",' + "1" * 5000 + "]")
@example(b"\xff")
@example("1e99999999999999999999,")
def test_any_text_is_read_and_written_again_or_is_malformed_json(data):
    try:
        value = loads(data)
    except MalformedJson:
        return
    assert loads(dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1e400", "1E+400"),
        ("1e-9999", "1E-9999"),
        ("1e99999999999999999999", "1E+999999999999999999"),
        ("-1e99999999999999999999", "-1E+999999999999999999"),
        ("-25.5e-99999999999999999999", "-1E-999999999999999999"),
        ("0e99999999999999999999", "0"),
        ("-0.0e-99999999999999999999", "-0.0"),
        ("1" * 4301, "1" * 4301),
    ],
)
def test_a_number_beyond_every_float_is_read_for_the_schema_to_reject(text, number):
    for wrapped in (f'{{"a":[{text}]}}', f'{{"a":[{text}]}}'.encode()):
        (read,) = loads(wrapped)["a"]
        assert str(read) == number


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "nan", "1e5000NaN"])
@pytest.mark.parametrize("beside", ["1", "1e99999999999999999999", "1" * 5000])
def test_nan_and_infinity_are_not_read(word, beside):
    assert rejection(f"[{beside},{word}]") == "payload: is not valid JSON"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), *map(Decimal, ("NaN", "-Infinity"))])
def test_nan_and_infinity_are_not_written(number):
    for value in (number, [number], {"a": ({"b": number},)}):
        with pytest.raises(ValueError, match="is not JSON"):
            dumps(value)
    assert dumps({"NaN": None, "Infinity": "NaN"}) == '{"NaN":null,"Infinity":"NaN"}'


def test_half_a_surrogate_pair_is_neither_read_nor_written():
    wide = "1" * 5000
    for text in ('"\\ud800"', '"\\udc00\\ud800"', '{"\\udfff":1}', f'["\\ud800",{wide}]', f'[{wide},"\\ud800"]'):
        assert rejection(text) == "payload: is not valid JSON"
    assert rejection('"\ud800"') == "payload: is not valid UTF-8"
    assert loads('"\\ud83d\\ude00"') == "😀"
    with pytest.raises(ValueError, match="surrogates not allowed"):
        dumps("\ud800")


@pytest.mark.parametrize("beside", [b"1", b"1e99999999999999999999", b"1" * 5000])
def test_bytes_that_are_not_utf_8_are_rejected(beside):
    assert rejection(b"[" + beside + b',"\xff"]') == "payload: is not valid UTF-8"


@pytest.mark.parametrize("beside", ["1", "1e99999999999999999999", "1" * 5000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_two_hundred_levels_are_read_and_no_more(opening, closing, beside):
    assert loads(opening * 200 + beside + closing * 200)
    for levels in (201, 1000, 5000, 100_000):
        assert rejection(opening * levels + beside + closing * levels) == "payload: is nested too deeply"


def test_nesting_beside_a_number_beyond_every_decimal_is_limited_too():
    for levels in (201, 1000, 100_000):
        assert (
            rejection("[1e99999999999999999999," + "[" * levels + "]" * levels + "]") == "payload: is nested too deeply"
        )


@pytest.mark.parametrize("beside", ["1", "1e99999999999999999999"])
def test_an_integer_is_an_int_up_to_the_limit_of_python(beside):
    assert [type(number) for number in loads(f"[{beside},7,{'7' * 4300},{'7' * 4301}]")[1:]] == [int, int, Decimal]


def test_finite_numbers_are_written_beside_null():
    assert dumps([None, 1.5, -0.5, Decimal("1.50"), {"a": (2.5,)}]) == '[null,1.5,-0.5,1.50,{"a":[2.5]}]'


def test_of_duplicate_names_the_last_one_counts():
    for beside in ("1", "1e99999999999999999999"):
        assert loads(f'{{"a":1,"b":{beside},"a":2}}')["a"] == 2


def test_a_byte_order_mark_and_utf_16_are_not_json():
    for data in (
        b"\xef\xbb\xbf1",
        "\ufeff1",
        "1".encode("utf-16"),
        "[1e99999999999999999999]".encode("utf-16"),
    ):
        assert rejection(data) == "payload: is not valid JSON"


def test_python_socketio_can_use_the_module_as_json():
    assert dumps(["balance:update", {"a": Decimal("1.50")}], separators=(",", ":")) == ('["balance:update",{"a":1.50}]')
    assert loads("1.50", parse_float=float) == Decimal("1.50")
    assert issubclass(MalformedJson, ValueError)


def test_a_uuid_is_written_as_text():
    assert dumps(UUID(int=7)) == '"00000000-0000-0000-0000-000000000007"'


def test_javascript_reads_every_form_of_a_decimal():
    numbers = ["1E+5", "0E-7", "-0", "-0.0", "1E-30", "1E+30", "1E+400", "12.50", "1E-999999999999999999"]
    text = dumps([Decimal(number) for number in numbers])
    done = subprocess.run(
        [node(), "-p", "JSON.parse(require('fs').readFileSync(0)).length"],
        input=text.encode(),
        capture_output=True,
        check=True,
    )
    assert done.stdout.strip() == str(len(numbers)).encode()
