"""The same stream behind another envelope, in place of the old file."""

from __future__ import annotations

import contextlib
import os

from savefmt.convert.conversion import Conversion
from savefmt.convert.planning import TargetForm
from savefmt.format.envelope import Envelope
from savefmt.image import SaveImage
from savefmt.model import IOOptions, OnProgress


def rewrap(
    image: SaveImage, envelope: Envelope, io: IOOptions, progress: OnProgress | None
) -> None:
    """Replace an image by one with another envelope and the same stream.

    Mode and owner of the file stay what they were, as far as the caller may set them.

    Parameters
    ----------
    image : SaveImage
        The one to replace.
    envelope : Envelope
        Of any length.
    io, progress
        As everywhere.
    """
    status = os.stat(image.filename)
    target = TargetForm(image.layout, image.codec, envelope, ())
    conversion = Conversion(image, os.fspath(image.filename), target, io, progress)
    conversion.overwrite = True
    conversion.run()
    os.chmod(image.filename, status.st_mode & 0o7777)
    # Without root the file is the caller's now, as after any editor.
    with contextlib.suppress(PermissionError):
        os.chown(image.filename, status.st_uid, status.st_gid)
