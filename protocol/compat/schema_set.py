"""A set of schemas, read from a folder or from a bundle, with the references among them resolved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import jsonschema_rs

from protocol import codec
from protocol.compat.branches import Schema
from protocol.errors import MalformedJson

_IN_BUNDLE = "#/definitions/"
# They restrict nothing. `default` is not among them: it changes what the receiver assumes for an absent field.
_ANNOTATIONS = {"$id", "$schema", "$comment", "title", "description", "examples", "definitions"}
_BY_NAME = {"properties", "patternProperties", "dependencies"}
_VALUES = {"const", "enum", "default"}


class UnreadableSetError(ValueError):
    """A set of schemas cannot be read; the message is one line with the file and the reason."""


class InlinedSet:
    """Schemas by name, each `$ref` replaced by the schema that it refers to, without annotations.

    Raises ValueError if a schema refers to itself or to a schema that is not in the set.
    """

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self._schemas = schemas
        self._names = {_id(name, schema): name for name, schema in schemas.items()}
        self._inlined: dict[str, Schema] = {}
        self.referenced: set[str] = set()
        """The names of the schemas that another one refers to."""
        for name in schemas:
            self.schema(name)

    def schema(self, name: str, parents: tuple[str, ...] = ()) -> Schema:
        """Return a schema; `parents` are the schemas whose references led to it."""
        if name in parents:
            raise ValueError(f"{name} refers to itself")
        if name not in self._inlined:
            schema = self._schemas[name]
            self._inlined[name] = self._inline(schema, _id(name, schema), (*parents, name))
        return self._inlined[name]

    def _inline(self, value: Any, base: str, parents: tuple[str, ...]) -> Any:
        if isinstance(value, list):
            return [self._inline(item, base, parents) for item in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            part = self._resolve(value["$ref"], base, parents)
            return {"allOf": [part], "default": value["default"]} if "default" in value else part
        inlined = {}
        for keyword, item in value.items():
            if keyword in _BY_NAME:
                inlined[keyword] = {name: self._inline(inner, base, parents) for name, inner in item.items()}
            elif keyword not in _ANNOTATIONS:
                inlined[keyword] = item if keyword in _VALUES else self._inline(item, base, parents)
        return inlined

    def _resolve(self, reference: str, base: str, parents: tuple[str, ...]) -> Schema:
        name = self._names.get(urljoin(base, reference))
        if name is None:
            raise ValueError(f"{parents[-1]} refers to {reference}, which is not in the set")
        self.referenced.add(name)
        return self.schema(name, parents)


def _id(name: str, schema: Schema) -> str:
    return str(schema.get("$id", f"{name}.json")) if isinstance(schema, dict) else f"{name}.json"


def read_set(path: str | Path) -> dict[str, Schema]:
    """Read schemas by name: every *.json file of a folder, or the `definitions` of a bundle.

    Raises UnreadableSetError if there are none, if one is not a schema, or if one refers to itself or to a schema that
    is not in the set.
    """
    path = Path(path)
    if path.is_dir():
        schemas = {file.stem: _read(file) for file in sorted(path.glob("*.json"))}
    else:
        bundle = _read(path)
        schemas = _to_files(bundle.get("definitions", {})) if isinstance(bundle, dict) else {}
    if not schemas:
        raise UnreadableSetError(f"{path}: contains no schemas")
    try:
        InlinedSet(schemas)
    except ValueError as error:
        raise UnreadableSetError(f"{path}: {error}") from error
    return schemas


def _read(file: Path) -> Schema:
    try:
        schema: Schema = codec.loads(file.read_bytes())
        jsonschema_rs.meta.validate(schema)
    except (OSError, MalformedJson) as error:
        reason = error.strerror if isinstance(error, OSError) else error.reason
        raise UnreadableSetError(f"{file}: {reason}") from error
    except ValueError as error:
        raise UnreadableSetError(f"{file}: is not a schema: {str(error).splitlines()[0]}") from error
    return schema


def _to_files(value: Any) -> Any:
    """Replace each reference within a bundle by a reference to the file of that name."""
    if isinstance(value, dict):
        is_within = str(value.get("$ref")).startswith(_IN_BUNDLE)
        inner = {key: _to_files(item) for key, item in value.items()}
        return inner | {"$ref": f"{value['$ref'].removeprefix(_IN_BUNDLE)}.json"} if is_within else inner
    return [_to_files(item) for item in value] if isinstance(value, list) else value
