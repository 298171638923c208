"""The commands, one module each."""

from __future__ import annotations

import importlib
from types import ModuleType

NAMES = (
    *("info", "check", "compat", "needs", "convert", "compare", "xml", "salvage", "repair"),
    *("devices", "regs", "memmap", "read", "vtop"),
    *("search", "strings", "hash", "stats", "map", "os", "linux"),
    *("export", "mount", "report", "plugins", "save", "restore", "prepare", "clone", "detach"),
    *("fleet", "plan", "config", "bench", "schema", "completion"),
)
"""In the order of the help; each is the name of a module and of its command."""

ALIASES = {
    "save-image-dumpxml": "xml",
    "save-image-define": "xml",
    "save-image-edit": "xml",
}
"""Further commands, and whose module has them."""


def load(module: str) -> ModuleType:
    """Import a command's module.

    Parameters
    ----------
    module : str
        One of `NAMES`.

    Returns
    -------
    module
        With ``add`` and, where the command prints JSON, ``documents``.
    """
    return importlib.import_module(f"savefmt.cli.commands.{module}")
