"""Change the head of an image where it stands."""

from __future__ import annotations

import os

from savefmt.errors import ImageIOError
from savefmt.format.envelope import Envelope
from savefmt.model import StrPath
from savefmt.native.file import File
from savefmt.writing.inuse import refuse_in_use


def write_envelope(path: StrPath, envelope: Envelope) -> None:
    """Write header and documents in one piece: the stream behind them stays untouched.

    Parameters
    ----------
    path : str or os.PathLike
        The image.
    envelope : Envelope
        As long as the one that is there.

    Raises
    ------
    ImageIOError
        If the file cannot be written.
    """
    refuse_in_use(path)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise ImageIOError.from_os(error, path=path) from error
    try:
        with File(fd, path=path, write=True) as file:
            file.write(envelope.pack(), 0)
            file.sync()
    finally:
        os.close(fd)
