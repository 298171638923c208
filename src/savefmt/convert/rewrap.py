"""The same stream behind another envelope, in place of the old file."""

from __future__ import annotations

import contextlib
import os

from savefmt.convert.conversion import Conversion
from savefmt.convert.planning import TargetForm
from savefmt.format.envelope import Envelope
from savefmt.image import SaveImage
from savefmt.model import IOOptions, Layout, OnProgress
from savefmt.writing.clones import CannotShareError
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
    if image.layout is Layout.SEQUENTIAL and io.clone:
        grain = os.fstatvfs(original.descriptor).f_bsize
        aligned = envelope.with_stream_at(image.stored_offset, grain)
        with contextlib.suppress(CannotShareError):
            return _replace(image, aligned, original, io, progress, sharing=True)
    return _replace(image, envelope, original, io, progress)


def _replace(
    image: SaveImage,
    envelope: Envelope,
    original: Original,
    io: IOOptions,
    progress: OnProgress | None,
    *,
    sharing: bool = False,
) -> list[str]:
    target = TargetForm(image.layout, image.codec, envelope, ())
    conversion = Conversion(image, os.fspath(original.place.path), target, io, progress)
    conversion.original = original
    conversion.sharing = sharing
    conversion.run()
    return conversion.notes
