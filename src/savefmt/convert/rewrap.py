"""The same stream behind another envelope, in place of the old file."""

from __future__ import annotations

import os

from savefmt.convert.conversion import Conversion
from savefmt.convert.planning import TargetForm
from savefmt.format.envelope import Envelope
from savefmt.image import SaveImage
from savefmt.model import IOOptions, OnProgress
from savefmt.writing.inplace import Original


def rewrap(
    image: SaveImage,
    envelope: Envelope,
    original: Original,
    io: IOOptions,
    progress: OnProgress | None,
) -> list[str]:
    """Replace an image by one with another envelope and the same stream.

    Parameters
    ----------
    image : SaveImage
        The one to replace.
    envelope : Envelope
        Of any length.
    original : Original
        Its file.
    io, progress
        As everywhere.

    Returns
    -------
    list of str
        What is worth telling, in words.
    """
    target = TargetForm(image.layout, image.codec, envelope, ())
    conversion = Conversion(image, os.fspath(original.place.path), target, io, progress)
    conversion.original = original
    conversion.run()
    return conversion.notes
