"""An ordinary image of a guest that ran on another image's pages."""

from __future__ import annotations

import os
import re

from savefmt.convert.conversion import Conversion
from savefmt.convert.planning import ConversionRequest, choose_form
from savefmt.errors import ConversionError, located
from savefmt.frozen import replace
from savefmt.image import SaveImage
from savefmt.instant.cloning import ID_PREFIX
from savefmt.instant.domainedit import without_arguments
from savefmt.model import IOOptions, Layout, OnProgress, StrPath
from savefmt.native.pages import SumKey
from savefmt.reports import ConversionReport
from savefmt.writing.imagefile import check_image_output
from savefmt.writing.volumes import require_apart

_OURS = re.compile(
    rf"memory-backend-file,id={re.escape(ID_PREFIX)}.*|memory-backend={re.escape(ID_PREFIX)}.*"
)


def detach(
    image: StrPath,
    target: StrPath,
    *,
    overwrite: bool = False,
    verify: bool = False,
    dry_run: bool = False,
    io: IOOptions = IOOptions(),
    progress: OnProgress | None = None,
) -> ConversionReport:
    """Make an ordinary, sparse image of a thin one, or of what a clone was saved to later.

    Parameters
    ----------
    image : str or os.PathLike
        A thin image, or the save of a guest that ran on one.
    target : str or os.PathLike
        Gets all memory, the blocks by their own names, and XML without our command line.
    overwrite, verify, dry_run, io, progress
        As for `savefmt.convert`.

    Returns
    -------
    ConversionReport
        What was done.

    Raises
    ------
    ConversionError
        If nothing in the image names another.
    """
    check_image_output(target, overwrite=overwrite)
    with SaveImage(image, io=io) as saved:
        for read in (saved, saved.base):
            if read is not None:
                require_apart(read.source.path, target)
        renamed = tuple(
            (block.idstr, block.idstr.removeprefix(ID_PREFIX))
            for block in saved.head.blocks.blocks
            if block.idstr.startswith(ID_PREFIX)
        )
        envelope, changes = saved.envelope, []
        if envelope is not None:
            xml = without_arguments(envelope.xml, lambda word: bool(_OURS.fullmatch(word)))
            if xml != envelope.xml:
                envelope = envelope.with_xml(xml, fit=False)
                changes.append("the command line that mapped another image is gone from the XML")
        changes += [f"the block {new!r} has its name back" for _, new in renamed]
        if saved.base is not None:
            changes.append(f"memory taken from {os.fspath(saved.base.filename)}")
        if not changes:
            raise ConversionError(
                "this image does not depend on another image, so there is nothing to detach"
            )
        request = ConversionRequest(Layout.MAPPED_RAM, None, None, False, False)
        form = choose_form(request, envelope, saved.layout, saved.codec)
        form = replace(form, names=renamed, changes=(*form.changes, *changes))
        work = Conversion(saved, os.fspath(target), form, io, progress)
        work.overwrite = overwrite
        work.verify_key = SumKey.fixed() if verify else None
        with located(saved.filename):
            return work.dry_run() if dry_run else work.run()
