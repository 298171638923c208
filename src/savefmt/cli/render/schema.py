"""JSON Schemas of what the commands print, made from the types of what they print."""

from __future__ import annotations

import enum
import types
from collections.abc import Mapping, Sequence
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from savefmt.cli.render.document import SCHEMA, Documents, Hex, Hexadecimal, Keywords
from savefmt.cli.render.failure import ErrorValues

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SIMPLE = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    types.NoneType: "null",
}


def schema_of(command: str, documents: Documents) -> dict[str, Any]:
    """Make the schema of a command's JSON.

    Parameters
    ----------
    command : str
        Its name.
    documents : tuple of mappings and classes
        Every form that its result can take; the one with an error is added.

    Returns
    -------
    dict
        By JSON Schema, draft 2020-12.
    """
    maker = _Maker()
    forms = [maker.form(document) for document in (*documents, {"error": ErrorValues})]
    return {
        "$schema": _DIALECT,
        "title": f"savefmt {command} --output=json",
        "anyOf": forms,
        "$defs": dict(sorted(maker.definitions.items())),
    }


class _Maker:
    """Turns types into schemas, each class once."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}
        self._hexadecimal: Hexadecimal | None = None
        self._homes: dict[str, type] = {}

    def form(self, document: Mapping[str, Any] | type) -> dict[str, Any]:
        """Describe a whole document."""
        members = _members(document) if isinstance(document, type) else document
        return self._object({"schema": Annotated[int, Keywords(const=SCHEMA)], **members})

    def _object(self, members: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {name: self._member(name, kind) for name, kind in members.items()},
            "required": [n for n, kind in members.items() if get_origin(kind) is not NotRequired],
        }

    def _member(self, name: str, kind: Any) -> dict[str, Any]:
        outer = self._hexadecimal
        if outer is not None and name in outer.decimal:
            self._hexadecimal = None
        schema = self._schema(kind)
        self._hexadecimal = outer
        return schema

    def _schema(self, kind: Any) -> dict[str, Any]:
        if kind is int and self._hexadecimal is not None:
            return self._schema(Hex)
        if kind in _SIMPLE:
            return {"type": _SIMPLE[kind]}
        if kind is Any:
            return {}
        if get_origin(kind) is not None:
            return self._composed(kind, get_args(kind))
        if issubclass(kind, enum.Enum):
            return {"enum": [member.value for member in kind]}
        return self._class(kind)

    def _composed(self, kind: Any, parts: tuple[Any, ...]) -> dict[str, Any]:
        origin = get_origin(kind)
        if origin is Annotated:
            return self._annotated(*parts)
        if origin is NotRequired:
            return self._schema(parts[0])
        if origin is Literal:
            return {"enum": list(parts)}
        if origin in (Union, types.UnionType):
            return _any_of([self._schema(part) for part in parts])
        if issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self._schema(parts[1])}
        if issubclass(origin, tuple) and parts[-1] is not Ellipsis:
            items = [self._schema(part) for part in parts]
            return {"type": "array", "prefixItems": items, "minItems": len(items), "items": False}
        if issubclass(origin, Sequence):
            return {"type": "array", "items": self._schema(parts[0])}
        raise TypeError(f"no JSON is known for {kind}")

    def _annotated(self, kind: Any, *notes: Any) -> dict[str, Any]:
        outer = self._hexadecimal
        more: dict[str, object] = {}
        for note in notes:
            if isinstance(note, Hexadecimal):
                self._hexadecimal = note
            elif isinstance(note, Keywords):
                more |= note.keywords
        schema = self._schema(kind)
        self._hexadecimal = outer
        return {**schema, **more}

    def _class(self, kind: type) -> dict[str, Any]:
        """Refer to a class, which is described once."""
        name = kind.__name__.removesuffix("Values")
        if self._homes.setdefault(name, kind) is not kind:
            raise TypeError(f"two classes would be called {name}")
        if name not in self.definitions:
            self.definitions[name] = {}  # it may hold itself
            self.definitions[name] = self._object(_members(kind))
        return {"$ref": f"#/$defs/{name}"}


def _members(kind: type) -> dict[str, Any]:
    """Return what an instance prints, by name."""
    hints = get_type_hints(kind, include_extras=True)
    if is_typeddict(kind):
        return hints
    fields: tuple[str, ...] = kind.__match_args__  # type: ignore[attr-defined]
    computed: tuple[str, ...] = getattr(kind, "COMPUTED", ())
    for name in computed:
        hints[name] = get_type_hints(vars(kind)[name].fget, include_extras=True)["return"]
    return {name: hints[name] for name in (*fields, *computed)}


def _any_of(choices: list[dict[str, Any]]) -> dict[str, Any]:
    """Join schemas, those of plain types in one word."""
    if all(choice.keys() == {"type"} for choice in choices):
        return {"type": [choice["type"] for choice in choices]}
    return {"anyOf": choices}
