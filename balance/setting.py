"""One setting: how it is declared, its names, and how its text becomes a value.

`balance.config` has the settings themselves.
"""

from __future__ import annotations

import re
from dataclasses import Field, field
from pathlib import Path
from typing import Any

from balance.config_sources import PREFIX, URL, URL_FILE

SWITCH = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}


class ConfigError(Exception):
    """A setting cannot be used; the text is one line."""

    def __init__(self, text: str, name: str = "") -> None:
        """Make the error of the setting `name`, if it is of one."""
        super().__init__(text)
        self.name = name


def setting(
    default: Any,
    text: str,
    low: int | None = None,
    high: int | None = None,
    choices: tuple[str, ...] = (),
    **more: Any,
) -> Any:
    """Declare a setting: its default, one line of help, and its choices or the lowest and the highest number."""
    return field(default=default, metadata={"help": text, "low": low, "high": high, "choices": choices}, **more)


def flag(one: Field[Any]) -> str:
    """Return the flag of a setting: `--body-bytes-max`."""
    return "--" + one.name.replace("_", "-")


def variable(one: Field[Any]) -> str:
    """Return the environment variable of a setting: `BALANCE_BODY_BYTES_MAX`; of the database, `DATABASE_URL`."""
    return one.name.upper() if one.name in (URL, URL_FILE) else PREFIX + one.name.upper()


def parse(one: Field[Any], text: str) -> Any:
    """Return the value of a setting that is given as a text. Raises ConfigError."""
    if isinstance(one.default, bool):
        if text.lower() not in SWITCH:
            raise ConfigError(f"{flag(one)}: {text!r} is neither yes nor no", one.name)
        return SWITCH[text.lower()]
    if isinstance(one.default, int):
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            raise ConfigError(f"{flag(one)}: {text!r} is not a whole number", one.name)
        return int(text)
    if isinstance(one.default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if isinstance(one.default, Path):
        if not text:
            raise ConfigError(f"{flag(one)}: must not be empty", one.name)  # it would be the current folder
        return Path(text)
    return text


def check_value(one: Field[Any], value: Any) -> None:
    """Check that a value is within the limits, or among the choices, of its setting. Raises ConfigError."""
    low, high, choices = one.metadata["low"], one.metadata["high"], one.metadata["choices"]
    if low is not None and not low <= value <= high:
        raise ConfigError(f"{flag(one)}: {value} is not between {low} and {high}", one.name)
    if choices and value not in choices:
        raise ConfigError(f"{flag(one)}: {value!r} is not one of {', '.join(choices)}", one.name)


def to_help(one: Field[Any]) -> str:
    """Return the help of a setting, with its default."""
    return f"{one.metadata['help']} [{_shown(one.default)}]".replace("%", "%%")  # argparse formats it


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return ",".join(default) if isinstance(default, tuple) else str(default)
