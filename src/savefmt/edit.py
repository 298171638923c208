"""Change an image's XML, cookie or run state, as `virsh save-image-edit` does, offline."""

from __future__ import annotations

import os

from savefmt.errors import ConversionError, UnsupportedError
from savefmt.format.domain import check_document, parse_domain, running_abi_changes
from savefmt.format.envelope import Envelope
from savefmt.image import SaveImage
from savefmt.model import IOOptions, OnProgress, StrPath
from savefmt.reports import EditReport
from savefmt.writing.inplace import write_envelope


def dump_xml(path: StrPath, *, cookie: bool = False) -> bytes:
    """Return the domain XML of an image.

    Parameters
    ----------
    path : str or os.PathLike
        The image.
    cookie : bool
        Return libvirt's cookie instead.

    Returns
    -------
    bytes
        As it stands in the image, without the NUL.

    Raises
    ------
    UnsupportedError
        If the image is a bare stream, or has no cookie.
    """
    with SaveImage(path, follow=False) as image:
        envelope = _envelope(image)
        if not cookie:
            return envelope.xml
        if envelope.cookie is None:
            raise UnsupportedError("the image has no cookie", path=path)
        return envelope.cookie


def set_xml(
    path: StrPath,
    xml: bytes | None,
    *,
    cookie: bool = False,
    running: bool | None = None,
    check_abi: bool = True,
    io: IOOptions = IOOptions(),
    progress: OnProgress | None = None,
) -> EditReport:
    """Replace the domain XML or the cookie, and say whether the guest resumes.

    What fits is written in place.  What does not gets room: the stream moves, in a new
    file that takes the image's name when it is complete.

    Parameters
    ----------
    path : str or os.PathLike
        The image.
    xml : bytes or None
        The new document; None keeps it.
    cookie : bool
        `xml` is the cookie.
    running : bool, optional
        Resume after restore, or stay paused.
    check_abi : bool
        Refuse what would change the guest's view of its machine (format.md 2.11).
    io, progress
        For moving the stream.

    Returns
    -------
    EditReport
        What changed.

    Raises
    ------
    ConversionError
        If the change would break the guest.
    CorruptError
        If the new document is not well-formed.
    """
    with SaveImage(path, io=io, follow=False) as image:
        old = _envelope(image)
        if image.packing.outer != "raw":
            raise ConversionError(
                f"the file as a whole is compressed with {image.packing.outer}; convert it first",
                path=path,
            )
        changes: list[str] = []
        new = old
        if xml is not None:
            new = _with_document(old, xml.rstrip(b"\0"), cookie, check_abi, changes)
        if running is not None and running != bool(old.was_running):
            new = new.with_running(running)
            changes.append("the guest will " + ("resume" if running else "stay paused"))
        if not changes:
            return EditReport(os.fspath(path), changed=False)
        if len(new.data) == len(old.data):
            write_envelope(image.filename, new)
            return EditReport(os.fspath(path), True, False, tuple(changes))
        from savefmt.convert.rewrap import rewrap  # all of conversion, and seldom needed

        rewrap(image, new, io, progress)
        return EditReport(os.fspath(path), True, True, tuple(changes))


def _envelope(image: SaveImage) -> Envelope:
    if image.envelope is None:
        raise UnsupportedError("a bare stream has no domain XML", path=image.path)
    return image.envelope


def _with_document(
    old: Envelope, document: bytes, cookie: bool, check_abi: bool, changes: list[str]
) -> Envelope:
    if cookie:
        check_document(document, "cookie")
        if document == old.cookie:
            return old
        changes.append("cookie replaced")
        return _fit(old, old.xml, document)
    parse_domain(document)
    if document == old.xml:
        return old
    if check_abi:
        refused = running_abi_changes(old.xml, document)
        if refused:
            raise ConversionError(
                "the new XML changes what the saved guest sees of its machine: "
                + "; ".join(refused)
            )
    changes.append("domain XML replaced")
    return _fit(old, document, old.cookie)


def _fit(old: Envelope, xml: bytes, cookie: bytes | None) -> Envelope:
    try:
        return old.with_xml(xml, cookie, fit=True)
    except ConversionError:
        return old.with_xml(xml, cookie, fit=False)
