"""The grammar of the rules of alarms."""

from __future__ import annotations

from decimal import Decimal

import pytest

from balance.alarms.rules import Drop, Rule, RuleError, Scope, Silence, Threshold, parse_rule, parse_rules

ACCOUNT = Scope()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (
            "onchain.usdt < 1000 for 60s",
            Threshold("onchain.usdt < 1000 for 60s", ACCOUNT, "onchain", "usdt", "<", Decimal(1000), 60),
        ),
        (
            "  pid 7  onsite.usd<=5.50",
            Threshold("pid 7 onsite.usd <= 5.50", Scope(pid=7), "onsite", "usd", "<=", Decimal("5.50"), 0),
        ),
        (
            "sum onchain.BTC/USDT:USDT > 0",
            Threshold(
                "sum onchain.BTC/USDT:USDT > 0", Scope(is_sum=True), "onchain", "BTC/USDT:USDT", ">", Decimal(0), 0
            ),
        ),
        (
            "onchain.$wif >= 1 for 30d",
            Threshold("onchain.$wif >= 1 for 30d", ACCOUNT, "onchain", "$wif", ">=", Decimal(1), 2_592_000),
        ),
        (
            "onchain.usdt drops 10% in 1h",
            Drop("onchain.usdt drops 10% in 1h", ACCOUNT, "onchain", "usdt", Decimal(10), 3_600),
        ),
        (
            "sum onsite.usd drops 0.5% in 2d",
            Drop("sum onsite.usd drops 0.5% in 2d", Scope(is_sum=True), "onsite", "usd", Decimal("0.5"), 172_800),
        ),
        ("pid 7 silent 120s", Silence("pid 7 silent 120s", 7, False, 120)),
        ("any pid silent 10m", Silence("any pid silent 10m", None, True, 600)),
        ("silent 1h", Silence("silent 1h", None, False, 3_600)),
    ],
)
def test_a_rule_is_read_with_any_spaces(text: str, rule: Rule) -> None:
    assert parse_rule(text) == rule
    assert parse_rule(rule.text) == rule


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "'': expected an amount such as onchain.usdt, pid, sum, any or silent after its last character"),
        ("usdt < 5", "at character 1, not 'usdt'"),
        ("onchain.-x < 5", "at character 1, not 'onchain.-x'"),
        ("onchain.usdt", "expected <, <=, >, >= or drops after its last character"),
        ("onchain.usdt = 5", "expected <, <=, >, >= or drops at character 14, not '='"),
        ("onchain.usdt < -5", "expected a number such as 1000 at character 16, not '-5'"),
        ("onchain.usdt < 1e3", "expected a number such as 1000 at character 16, not '1e3'"),
        ("onchain.usdt < 5 for 60", "expected a time such as 90s, 10m, 1h or 2d at character 22, not '60'"),
        ("onchain.usdt < 5 for 0s", "expected a time such as 90s, 10m, 1h or 2d at character 22, not '0s'"),
        ("onchain.usdt < 5 for 31d", "expected a time up to 30d at character 22, not '31d'"),
        ("onchain.usdt < 5 soon", "expected the end at character 18, not 'soon'"),
        ("onchain.usdt drops 10 in 1h", "expected a percentage such as 10% at character 20, not '10'"),
        ("onchain.usdt drops 0% in 1h", "expected a percentage over 0% and up to 100% at character 20, not '0%'"),
        ("onchain.usdt drops 101% in 1h", "expected a percentage over 0% and up to 100% at character 20"),
        ("onchain.usdt drops 10% for 1h", "expected in at character 24, not 'for'"),
        ("pid x silent 5s", "expected a process id at character 5, not 'x'"),
        ("pid 9007199254740992 silent 5s", "expected a process id up to 9007199254740991 at character 5"),
        ("pid 7 loud", "expected an amount such as onchain.usdt at character 7, not 'loud'"),
        ("any 7 silent 5s", "expected pid at character 5, not '7'"),
        ("any pid onchain.usdt < 5", "expected silent at character 9, not 'onchain.usdt'"),
        ("sum silent 5s", "expected an amount such as onchain.usdt at character 5, not 'silent'"),
        ("silent", "expected a time such as 90s, 10m, 1h or 2d after its last character"),
    ],
)
def test_what_is_wrong_is_named_with_its_position(text: str, error: str) -> None:
    with pytest.raises(RuleError) as caught:
        parse_rule(text)
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rule_that_is_given_twice_is_refused_however_it_is_written() -> None:
    with pytest.raises(RuleError, match="is given twice"):
        parse_rules(["silent 5s", "onchain.usdt < 5", " onchain.usdt<5"])
