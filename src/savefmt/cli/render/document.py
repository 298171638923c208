"""What every JSON document has in common: the schema's number, results and errors as values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from savefmt.errors import SavefmtError
from savefmt.model import SCHEMA as SCHEMA

if TYPE_CHECKING:
    from savefmt.cli.render.failure import ErrorValues

Documents = tuple[Mapping[str, Any] | type, ...]
"""What a command may print with ``-j``: for each form its members and their types.

A class stands for its own members, and so does one line of ``--output=jsonl``.
"""


class Hexadecimal:
    """Says of a type, in `Annotated`, that its numbers are printed as `Hex`.

    Parameters
    ----------
    *decimal : str
        Members of it that are numbers all the same.
    """

    def __init__(self, *decimal: str) -> None:
        self.decimal = decimal


class Keywords:
    """Adds keywords of JSON Schema to a type, in `Annotated`.

    Parameters
    ----------
    **keywords
        Such as ``pattern``.
    """

    def __init__(self, **keywords: object) -> None:
        self.keywords = keywords


Hex = Annotated[str, Keywords(pattern="^-?0x[0-9a-f]+$")]
"""A number as text, such as ``0x1f``, since many readers of JSON round it to 53 bits."""


def values(result: Any) -> Any:
    """Turn a result of the library into what JSON can hold.

    Parameters
    ----------
    result : dataclass instance, named tuple, collection or scalar
        A result, or a part of one.

    Returns
    -------
    object
        Plain values under the names of the Python API, with the properties that a class
        lists as `COMPUTED`.
    """
    if isinstance(result, os.PathLike):
        return str(result)
    kind = type(result)
    names: tuple[str, ...] | None = getattr(kind, "__match_args__", None)
    if names is not None:
        computed: tuple[str, ...] = getattr(kind, "COMPUTED", ())
        return {name: values(getattr(result, name)) for name in (*names, *computed)}
    if isinstance(result, (list, tuple)):
        return [values(item) for item in result]
    if isinstance(result, Mapping):
        return {key: values(item) for key, item in result.items()}
    return result


def json_text(value: Any, indent: int | None = None) -> str:
    """Write JSON in ASCII, so that no terminal obeys it; DEL is the one control left."""
    import json

    return json.dumps(value, indent=indent).replace("\x7f", "\\u007f")


def document_text(indent: int | None = 2, **members: object) -> str:
    """Return one JSON document: results, or collections of them, by name.

    Parameters
    ----------
    indent : int, optional
        None puts all on one line.
    **members
        What is in it.

    Returns
    -------
    str
        With the number of the schema, without a newline at the end.
    """
    return json_text({"schema": SCHEMA, **values(members)}, indent)


def error_values(error: SavefmtError | OSError, path: str | None = None) -> ErrorValues:
    """Turn an error into what JSON can hold.

    Parameters
    ----------
    error : SavefmtError or OSError
        What went wrong.
    path : str, optional
        Used where the error names no file.

    Returns
    -------
    ErrorValues
        Its class, its words and its place.
    """
    if isinstance(error, SavefmtError):
        named, message, offset = error.path, error.message, error.offset
    else:
        named, message, offset = error.filename, error.strerror or str(error), None
    if named is None and path is not None:
        named = str(path)
    return {
        "type": type(error).__name__,
        "message": message,
        "path": None if named is None else os.fsdecode(named),
        "offset": offset,
        "errno": getattr(error, "errno", None) or None,
    }
