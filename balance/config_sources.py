"""Where the texts of the settings come from: variables of the environment, and a file.

The file is TOML, one flat table: `port = 4000`, `hosts = ["balance.example.com"]`. A text in it has the form that it
has in a flag. What is not a setting is refused with the nearest name, since a name with a mistake would have no effect.

Every SourceError is one line that names the setting, the variable or the file. It never has a value.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

PREFIX = "BALANCE_"
URL, URL_FILE = "database_url", "database_url_file"
# Kubernetes sets these for each Service of the namespace, here for one that is called balance.
KUBERNETES = re.compile(r"BALANCE_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT\w*|PORT_\d+_\w+)")

# The example clients read these (docs/clients.md), and may run in the shell of an operator.
CLIENT_VARIABLES = frozenset({"BALANCE_TOKEN", "BALANCE_URL"})


class SourceError(Exception):
    """A variable or a file cannot be used; the text is one line."""


class Given(NamedTuple):
    """A setting that is given."""

    text: str
    source: str
    """For a person: `variable BALANCE_PORT`."""


Settings = dict[str, Given]
"""By the name of the setting."""


def read_variables(names: Mapping[str, str], environment: Mapping[str, str]) -> Settings:
    """Return the texts of settings in the environment; `names` has the setting of each variable.

    An empty variable is ignored. Raises SourceError for one that begins with BALANCE_ and is not of a setting, nor
    one of CLIENT_VARIABLES.
    """
    given = {variable: text for variable, text in environment.items() if text}
    for variable in sorted(given):
        if variable.startswith(PREFIX) and variable not in names and variable not in CLIENT_VARIABLES:
            hint = nearest(variable, names)
            if KUBERNETES.fullmatch(variable):
                hint = "; Kubernetes sets it for a Service called balance: set enableServiceLinks: false"
            raise SourceError(f"{variable}: is not a setting{hint}")
    return {name: Given(given[one], f"variable {one}") for one, name in names.items() if one in given}


def read_file(path: str, names: Collection[str]) -> Settings:
    """Return the texts of settings in a file. Raises SourceError."""
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SourceError(f"--config: {path}: is not TOML: {_position(error)}") from None  # it may quote a password
    except UnicodeDecodeError:
        raise SourceError(f"--config: {path}: is not UTF-8") from None
    except OSError as error:
        raise SourceError(f"--config: {path}: {error.strerror}") from error
    return {name: Given(_to_text(path, name, value, names), f"file {path}") for name, value in table.items()}


def merge(*sources: Settings) -> Settings:
    """Return the settings of several sources, of which the later ones precede.

    The URL of the database may be in a file of its own: of the two settings for it, the one of the last source counts.
    Raises SourceError if a source has both, and if that file cannot be read.
    """
    merged: Settings = {}
    for source in sources:
        if source.keys() >= {URL, URL_FILE}:
            raise SourceError("--database-url-file: --database-url is given too; leave one of them out")
        if not source.keys().isdisjoint((URL, URL_FILE)):
            merged.pop(URL, None)
            merged.pop(URL_FILE, None)
        merged |= source
    if URL_FILE in merged:
        path = merged[URL_FILE].text
        merged[URL] = Given(_read_line(path), f"file {path}")
    return merged


def _read_line(path: str) -> str:
    """Return the only line of the file with the URL of the database. Raises SourceError."""
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise SourceError(f"--database-url-file: {path}: is not UTF-8") from None
    except OSError as error:
        raise SourceError(f"--database-url-file: {path}: {error.strerror}") from error
    if not text or "\n" in text:
        raise SourceError(f"--database-url-file: {path}: must have one line, the URL")
    return text


def nearest(name: str, known: Collection[str]) -> str:
    """Return a question for the end of an error: the known name that is most like this one, if any is."""
    found = get_close_matches(name, known, n=1, cutoff=0.7)
    return f"; did you mean {found[0]}?" if found else ""


def _to_text(path: str, name: str, value: Any, names: Collection[str]) -> str:
    """Return the value of a setting as a flag has it. Raises SourceError."""
    if name not in names:
        hint = nearest(name.lower().replace("-", "_"), names)
        raise SourceError(f"--config: {path}: {name!r} is not a setting{hint}")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return ",".join(value)
    if isinstance(value, int | str):
        return str(value)
    raise SourceError(f"--config: {path}: {name}: must be a whole number, a text or a list of texts")


def _position(error: tomllib.TOMLDecodeError) -> str:
    found = re.search(r"at (line \d+, column \d+|end of document)", str(error))
    return f"see {found[1]}" if found else "it cannot be read"
