"""JSON documents held against the schema that `savefmt schema` prints."""

from __future__ import annotations

import json
from typing import Any

from jsonschema import Draft202012Validator

from savefmt.cli.commands import load
from savefmt.cli.render.schema import schema_of


def valid(command: str, text: str) -> Any:
    """Parse a document; it must have the members that its schema knows, and no others.

    Parameters
    ----------
    command : str
        The command that printed it.
    text : str
        The document.

    Returns
    -------
    object
        What it holds.
    """
    schema = schema_of(command, load(command).documents())
    Draft202012Validator.check_schema(schema)
    document = json.loads(text)
    Draft202012Validator(closed(schema)).validate(document)
    return document


def closed(schema: Any) -> Any:
    """Forbid members that a schema does not name, which a real one must leave open."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {key: closed(item) for key, item in schema.items()}
    return {**parts, "additionalProperties": False} if "properties" in schema else parts
