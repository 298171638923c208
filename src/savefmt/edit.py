"""Change an image's XML, cookie or run state, as `virsh save-image-edit` does, offline."""

from __future__ import annotations

import os

from savefmt.errors import ConversionError, CorruptError, ImageChangedError, UnsupportedError
from savefmt.format.abi import running_abi_changes
from savefmt.format.domain import check_document, parse_domain
from savefmt.format.envelope import Envelope
from savefmt.image import SaveImage
from savefmt.model import IOOptions, OnProgress, StrPath
from savefmt.progress import Meter
from savefmt.reports import EditReport
from savefmt.writing.inplace import Original


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
        As it is in the image, without the NUL.

    Raises
    ------
    UnsupportedError
        If the image is a bare stream, or has no cookie.
    """
    with SaveImage(path, strict=False, follow=False) as image:
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
    expected: bytes | None = None,
    dry_run: bool = False,
    io: IOOptions = IOOptions(),
    progress: OnProgress | None = None,
) -> EditReport:
    """Replace the domain XML or the cookie, and say whether the guest resumes.

    A change inside of one sector is written in place.  Any other makes a new file, which
    takes the image's name, owner, mode and attributes when it is complete: with the same
    stream behind the header where the documents fit, else with the stream moved to make
    room.

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
    expected : bytes, optional
        The document that the new one was made from; another one in the image is refused.
    dry_run : bool
        Tell what would change, and write nothing.
    io, progress
        For writing a new file.

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
    ImageChangedError
        If the image was changed or replaced meanwhile.
    """
    with SaveImage(path, io=io, follow=False) as image:
        old = _envelope(image)
        if image.outer != "raw":
            raise ConversionError(
                f"the file as a whole is compressed with {image.outer}; convert it first",
                path=path,
            )
        if not image.is_own_file:
            raise ConversionError(
                "the image is part of another file, which savefmt does not change; take it "
                "out with `savefmt convert` first",
                path=path,
            )
        if expected is not None and expected != (old.cookie if cookie else old.xml):
            raise ImageChangedError(
                "the document in the image has changed since it was read for editing; begin again",
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
        moved = len(new.data) != len(old.data)
        if dry_run:
            return EditReport(os.fspath(path), True, moved, tuple(changes), dry_run=True)
        with Original(path, image.file.state) as original:
            if moved:
                from savefmt.convert.rewrap import rewrap  # all of conversion, seldom needed

                changes += rewrap(image, new, original, io, progress)
            else:
                changes += original.rewrite(old.pack(), new.pack(), Meter(progress))
        return EditReport(os.fspath(path), True, moved, tuple(changes))


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
    if check_abi and _is_readable(old.xml, changes):
        refused = running_abi_changes(old.xml, document)
        if refused:
            raise ConversionError(
                "the new XML changes what the saved guest sees of its machine: "
                + "; ".join(refused)
            )
    changes.append("domain XML replaced")
    return _fit(old, document, old.cookie)


def _is_readable(xml: bytes, changes: list[str]) -> bool:
    try:
        parse_domain(xml)
    except CorruptError:
        changes.append("the old XML could not be read, so the new one was not compared with it")
        return False
    return True


def _fit(old: Envelope, xml: bytes, cookie: bytes | None) -> Envelope:
    try:
        return old.with_xml(xml, cookie, fit=True)
    except ConversionError:
        return old.with_xml(xml, cookie, fit=False)
