"""The round trip through the user's editor, which only one command needs."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from savefmt.errors import UnsupportedError


def write_draft(text: bytes) -> Path:
    """Put text into a file that only the user may read.

    Parameters
    ----------
    text : bytes
        What to edit.

    Returns
    -------
    Path
        The file, which the caller removes.
    """
    with tempfile.NamedTemporaryFile(prefix="savefmt-", suffix=".xml", delete=False) as file:
        file.write(text)
        return Path(file.name)


def run(draft: Path) -> int:
    """Run ``$VISUAL``, else ``$EDITOR``, else vi.

    Parameters
    ----------
    draft : Path
        The file to edit.

    Returns
    -------
    int
        The editor's exit code.

    Raises
    ------
    OSError
        The program cannot be started.
    UnsupportedError
        There is no such program, or the variable holds no command.
    """
    for variable in ("VISUAL", "EDITOR"):
        try:
            command = shlex.split(os.environ.get(variable, ""))
        except ValueError as error:
            raise UnsupportedError(f"${variable} is not a command: {error}") from error
        if command:
            break
    else:
        command = ["vi"]
    try:
        return subprocess.run([*command, str(draft)], check=False).returncode
    except FileNotFoundError as error:
        raise UnsupportedError(
            f"the editor {command[0]} is not here; let $VISUAL or $EDITOR name another"
        ) from error


def ask_again() -> bool:
    """Ask whether to edit once more; nobody at the terminal means no.

    Returns
    -------
    bool
        Whether the user said yes.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        return False
    try:
        return input("Edit again? [y/n] ").strip().lower().startswith("y")
    except EOFError:
        return False
