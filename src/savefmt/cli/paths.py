"""Arguments that name files: the dash, and names of descriptors."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable

_DESCRIPTOR = r"/dev/fd/(\d+)|/proc/(?:self|thread-self)/fd/(\d+)"


def path_argument(*, dash: str) -> Callable[[str], str]:
    """Return the parser of one file name, as an argument's type.

    Parameters
    ----------
    dash : str
        Why it may not be ``-``; empty where that is standard input or output.

    Returns
    -------
    callable
        Returns the name, or refuses it.
    """

    def path(text: str) -> str:
        if not text:
            raise argparse.ArgumentTypeError("the name of a file is empty")
        if text == "-" and dash:
            raise argparse.ArgumentTypeError(f"{dash}; write ./- for a file of that name")
        _refuse_closed(text)
        return text

    return path


def _refuse_closed(path: str) -> None:
    """Refuse a descriptor that is not open: the next file that we open would be meant by it."""
    match = re.fullmatch(_DESCRIPTOR, os.path.normpath(path)) if "fd" in path else None
    if match is not None and not is_open(int(match[1] or match[2])):
        raise argparse.ArgumentTypeError(f"{path}: this descriptor is not open")


def is_open(fd: int) -> bool:
    """Whether a number is that of an open descriptor."""
    try:
        os.fstat(fd)
    except (OSError, OverflowError):
        return False
    return True
