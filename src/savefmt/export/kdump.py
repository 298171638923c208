"""kdump-compressed files, by makedumpfile from an ELF core."""

from __future__ import annotations

import shutil
import subprocess

from savefmt.errors import ConversionError, UnsupportedError
from savefmt.writing.nameless import own_path

PROGRAM = "makedumpfile"
_LAST_LINES = 400


def find_program() -> str:
    """Return makedumpfile.

    Raises
    ------
    UnsupportedError
        If it is not installed.
    """
    found = shutil.which(PROGRAM)
    if found is None:
        raise UnsupportedError(
            f"kdump files are written by {PROGRAM}, which is not installed; "
            "install it, or use -O elf"
        )
    return found


def compress(core: int, target: int) -> None:
    """Turn an ELF core into a kdump file, zero pages left out and the others compressed.

    Parameters
    ----------
    core : int
        Descriptor of one in the universal layout.
    target : int
        Descriptor of an empty file.

    Raises
    ------
    ConversionError
        With what makedumpfile said: it needs VMCOREINFO.
    """
    command = [find_program(), "--message-level", "4", "-c", "-d", "1", "-f"]
    result = subprocess.run(
        [*command, own_path(core), own_path(target)],
        pass_fds=(core, target),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if result.returncode:
        said = " ".join(result.stdout.decode(errors="replace").split())[-_LAST_LINES:]
        raise ConversionError(
            f"{PROGRAM} failed with code {result.returncode}: {said or 'no reason given'}"
        )
