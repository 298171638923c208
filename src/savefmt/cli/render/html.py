"""Pages of HTML that need nothing else, and in which nothing from an image runs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from savefmt.cli.render.plain import brief_size, duration, plain, size
from savefmt.errors import MissingPackageError
from savefmt.frozen import dataclass
from savefmt.report.dossier import Missing


@dataclass(frozen=True, slots=True)
class Making:
    """How a page was made, so that it can be made again."""

    version: str
    command: str
    made: str
    seconds: float


def page(
    template: str, filters: Mapping[str, Callable[..., Any]], *, script: str = "", **values: object
) -> bytes:
    """Make a page.

    Nothing in it is fetched, and nothing runs but our own script, if there is one: its policy
    forbids all else.  What is printed is escaped, and its control characters are shown.

    Parameters
    ----------
    template : str
        Name of a file here, which extends ``page.html``.
    filters : mapping of str to callable
        For the template.
    script : str
        Name of a file here.
    **values
        For the template.

    Returns
    -------
    bytes
        HTML in UTF-8.

    Raises
    ------
    UnsupportedError
        If Jinja2 is not installed.
    """
    environment = _environment()
    environment.filters |= filters
    style, code = _read("report.css"), _read(script) if script else ""
    text: str = environment.get_template(template).render(
        style=style, style_hash=_hashed(style), script=code, script_hash=_hashed(code), **values
    )
    return text.encode()


def _hashed(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _environment() -> Any:
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined
    except ImportError as error:
        raise MissingPackageError("savefmt report", "jinja2", "report") from error
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(_read),
    )
    environment.filters |= {"size": size, "brief": brief_size, "duration": duration}
    environment.tests["missing"] = lambda part: isinstance(part, Missing)
    return environment


def _visible(value: object) -> object:
    """Show the control characters in all that is printed, except in text that is marked as safe."""
    return value if hasattr(value, "__html__") else plain(str(value))


def _read(name: str) -> str:
    return files("savefmt.cli.render").joinpath(name).read_text(encoding="utf-8")
