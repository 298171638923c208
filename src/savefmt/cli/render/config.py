"""What ``savefmt config show`` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypedDict

from savefmt.cli.render.plain import plain
from savefmt.compat.config import SETTINGS, Config, Value


class SettingValues(TypedDict):
    """A setting's value, and the file, variable or default that it comes from."""

    value: Value
    origin: str


def config_lines(config: Config) -> Iterator[str]:
    """Show every setting as a line of TOML, with its origin.

    Parameters
    ----------
    config : Config
        What `savefmt.compat.config.load` returned.

    Yields
    ------
    str
        One line; together they are a valid file.
    """
    width = max(len(_assignment(s.name, config.values[s.name])) for s in SETTINGS)
    for setting in SETTINGS:
        line = _assignment(setting.name, config.values[setting.name])
        yield f"{line:<{width}}  # {plain(config.origins[setting.name])}: {setting.meaning}"


def _assignment(name: str, value: Value) -> str:
    return f"# {name} is not set" if value is None else f"{name} = {_toml(value)}"


def _toml(value: str | int | bool | Sequence[str]) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return f'"{value}"'
    return f"[{', '.join(map(_toml, value))}]"
