"""The rules of alarms, and their grammar.

    rule        = [scope] amount (comparison | drop) | [pids] "silent" duration
    scope       = "pid" NUMBER | "sum"
    pids        = "pid" NUMBER | "any" "pid"
    amount      = ("onchain." | "onsite.") ASSET
    comparison  = ("<" | "<=" | ">" | ">=") DECIMAL ["for" duration]
    drop        = "drops" DECIMAL "%" "in" duration
    duration    = NUMBER ("s" | "m" | "h" | "d")

Without a scope a rule is about the account: the latest snapshot, whatever its pid.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from protocol import schema

UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
DURATION_S_MAX = 30 * 86_400

TOKEN = re.compile(r"<=|>=|[<>=]|[^\s<>=]+")
PID = re.compile(r"[0-9]{1,16}")
PID_MAX = schema("balance_update")["properties"]["pid"]["maximum"]
AMOUNT = re.compile(rf"(onchain|onsite)\.({schema('asset_name')['pattern'][1:-1]})")
COMPARISON = re.compile(r"[<>]=?")
DECIMAL = re.compile(r"[0-9]{1,100}(?:\.[0-9]{1,100})?")
PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,10})?)%")
DURATION = re.compile(r"([1-9][0-9]{0,7})([smhd])")


class RuleError(Exception):
    """A rule cannot be read; the text is one line, with the position of what is wrong."""


@dataclass(frozen=True)
class Scope:
    """The snapshots that a rule is about: those of one pid, the sum of all pids, or else all of the account."""

    pid: int | None = None
    is_sum: bool = False


@dataclass(frozen=True)
class Threshold:
    """An amount is less or more than a limit, all the time for `hold_s` seconds."""

    text: str
    scope: Scope
    ledger: str
    asset: str
    comparison: str
    limit: Decimal
    hold_s: int


@dataclass(frozen=True)
class Drop:
    """An amount is `percent` below the largest that was in force within `within_s` seconds."""

    text: str
    scope: Scope
    ledger: str
    asset: str
    percent: Decimal
    within_s: int


@dataclass(frozen=True)
class Silence:
    """No snapshot was received for `after_s` seconds: of one pid, of any one, or of the account."""

    text: str
    pid: int | None
    is_of_each_pid: bool
    after_s: int


Rule = Threshold | Drop | Silence


def parse_rules(texts: Iterable[str]) -> list[Rule]:
    """Read rules, of which none may be given twice. Raises RuleError."""
    rules: dict[str, Rule] = {}
    for text in texts:
        rule = parse_rule(text)
        if rule.text in rules:
            raise RuleError(f"{text!r} is given twice")
        rules[rule.text] = rule
    return list(rules.values())


def parse_rule(text: str) -> Rule:
    """Read one rule; its `text` is the normalised one. Raises RuleError."""
    reader = _Reader(text)
    scope, is_of_each_pid = Scope(), False
    if reader.accept("pid"):
        scope = Scope(pid=_pid(reader))
    elif reader.accept("sum"):
        scope = Scope(is_sum=True)
    elif reader.accept("any"):
        reader.expect(re.compile("pid"), "pid")
        is_of_each_pid = True
    if not scope.is_sum and reader.accept("silent"):
        after_s = _duration(reader)
        return Silence(reader.end(), scope.pid, is_of_each_pid, after_s)
    if is_of_each_pid:
        raise reader.error("silent")
    return _amount_rule(reader, scope)


def _amount_rule(reader: _Reader, scope: Scope) -> Rule:
    is_first = not (scope.is_sum or scope.pid is not None)
    ledger, asset = reader.expect(
        AMOUNT, "an amount such as onchain.usdt" + (", pid, sum, any or silent" if is_first else "")
    ).groups()
    if reader.accept("drops"):
        percent = Decimal(reader.expect(PERCENT, "a percentage such as 10%")[1])
        if not 0 < percent <= 100:
            raise reader.error("a percentage over 0% and up to 100%", again=True)
        reader.expect(re.compile("in"), "in")
        within_s = _duration(reader)
        return Drop(reader.end(), scope, ledger, asset, percent, within_s)
    comparison = reader.expect(COMPARISON, "<, <=, >, >= or drops")[0]
    limit = Decimal(reader.expect(DECIMAL, "a number such as 1000")[0])
    hold_s = _duration(reader) if reader.accept("for") else 0
    return Threshold(reader.end(), scope, ledger, asset, comparison, limit, hold_s)


def _pid(reader: _Reader) -> int:
    pid = int(reader.expect(PID, "a process id")[0])
    if pid > PID_MAX:
        raise reader.error(f"a process id up to {PID_MAX}", again=True)
    return pid


def _duration(reader: _Reader) -> int:
    number, unit = reader.expect(DURATION, "a time such as 90s, 10m, 1h or 2d").groups()
    seconds = int(number) * UNITS_S[unit]
    if seconds > DURATION_S_MAX:
        raise reader.error("a time up to 30d", again=True)
    return seconds


class _Reader:
    """The words of a rule, one after the other."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._found = list(TOKEN.finditer(text))
        self._next = 0

    def accept(self, word: str) -> bool:
        """Return whether the next word is this one, and then go on behind it."""
        is_next = self._next < len(self._found) and self._found[self._next][0] == word
        self._next += is_next
        return is_next

    def expect(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        """Return the match of the next word, and go on behind it. Raises RuleError if it does not match."""
        if self._next < len(self._found) and (found := pattern.fullmatch(self._found[self._next][0])):
            self._next += 1
            return found
        raise self.error(what)

    def end(self) -> str:
        """Return the normalised text of the rule. Raises RuleError if something follows."""
        if self._next < len(self._found):
            raise self.error("the end")
        return " ".join(found[0] for found in self._found)

    def error(self, what: str, *, again: bool = False) -> RuleError:
        """Return the error of the next word, or with `again` of the one before it."""
        at = self._next - again
        if at >= len(self._found):
            return RuleError(f"{self._text!r}: expected {what} after its last character")
        found = self._found[at]
        return RuleError(f"{self._text!r}: expected {what} at character {found.start() + 1}, not {found[0]!r}")
