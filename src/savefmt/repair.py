"""Repairs of an image that do not change the guest in it: each has a name, and runs on request.

Nothing is written before the repaired image was checked and found better.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress

from savefmt.check import check
from savefmt.errors import ConversionError, FormatError, UnsupportedError
from savefmt.format.envelope import FORMATS, HEADER_LENGTH, MAGIC_FINISHED
from savefmt.frozen import replace
from savefmt.image import SaveImage
from savefmt.model import (
    CheckLevel,
    IOOptions,
    Layout,
    OnProgress,
    Repair,
    Severity,
    StrPath,
)
from savefmt.native.file import File
from savefmt.progress import Meter
from savefmt.reading.patched import Patch, Patched
from savefmt.reading.source import Source, find_source, open_file
from savefmt.reading.trueheader import find_true_header, put_numbers, read_numbers
from savefmt.reports import CheckReport, Offer, RepairReport
from savefmt.writing.inplace import Change, Original, copy_changed, fits_in_place
from savefmt.writing.inuse import refuse_in_use
from savefmt.writing.output import OutputFile, check_target
from savefmt.writing.volumes import same_content

ALL = "all"
"""The name for every repair except the one that only the person who saved the guest can judge."""

_TO_BE_NAMED = frozenset({Repair.MAGIC})

_NUMBERS: Mapping[Repair, tuple[str, ...]] = {
    Repair.LENGTH: ("data_len",),
    Repair.FORMAT: ("version", "format", "features"),
    Repair.COOKIE: ("cookie",),
}
_IN_HEADER = frozenset({Repair.MAGIC, *_NUMBERS})
_WORD_LENGTH, _WORD_BITS = 8, 64
_INCOMPLETE = "envelope.incomplete"
_TRAILING = "stream.trailing-data"


def repair(
    path: StrPath,
    target: StrPath | None = None,
    *,
    fixes: Iterable[str] = (),
    overwrite: bool = False,
    dry_run: bool = False,
    io: IOOptions = IOOptions(),
    progress: OnProgress | None = None,
) -> RepairReport:
    """Put right what the rest of an image shows to be wrong, or list what could be.

    A change inside of one sector is written in place.  Any other makes a new file, which takes
    the image's name, owner, mode and attributes when it is complete.

    Parameters
    ----------
    path : str or os.PathLike
        The image, a file of its own.
    target : str or os.PathLike, optional
        Leave the image as it is, and write this file.
    fixes : iterable of str
        Values of `Repair`, or ``all`` for every repair that is offered except ``magic``, which
        must be named. An empty `fixes` only lists the repairs.
    overwrite : bool
        Replace the target.
    dry_run : bool
        Only tell what would be done, and write nothing.
    io, progress
        For reading the image: it is read completely before and after the repair.

    Returns
    -------
    RepairReport
        What can be repaired, what was, and what is left.

    Raises
    ------
    ConversionError
        If a repair cannot be made, or the image would not be better for it.
    ImageChangedError
        If the image was changed or replaced meanwhile.
    NotASaveImageError, ImageIOError
        As for `check`.
    """
    source = find_source(path)
    if source.is_part:
        raise ConversionError(
            "savefmt repairs only an image that is a file of its own; take the image out with "
            "`savefmt convert` first",
            path=path,
        )
    name = os.fspath(source.path)
    if target is not None and _is_same(name, target):
        raise ConversionError(
            "DST is the image itself; leave DST out to repair the image in place", path=target
        )
    fixes = frozenset(fixes)
    if target is not None:
        check_target(target, overwrite=overwrite)
    elif fixes:
        refuse_in_use(name)
    with open_file(source, io) as file:
        before = _walk(source, io, progress)
        work = _Work(source, file, before, io)
        offers = work.offers()
        made = _chosen(fixes, offers, before, path)
        if target is not None and not made:
            raise ConversionError("there is nothing to repair, so no copy was written", path=path)
        if not made:
            return RepairReport(name, name, offers, (), before.findings)
        changes, end = work.changes(made), work.end(made)
        repaired = Patched(tuple(Patch(one.offset, one.new) for one in changes), end)
        after = _walk(replace(source, repaired=repaired), io, progress)
        _require_better(before, after, made, path)
        notes = (
            [] if dry_run else _write(file, name, target, changes, end, overwrite, Meter(progress))
        )
        return RepairReport(
            name,
            name if target is None else os.fspath(target),
            offers,
            made,
            after.findings,
            target is None and not fits_in_place(changes, end),
            tuple(notes),
            dry_run,
        )


def _write(
    file: File,
    name: str,
    target: StrPath | None,
    changes: Sequence[Change],
    end: int | None,
    overwrite: bool,
    meter: Meter,
) -> list[str]:
    """Make the changes, and return what is worth telling."""
    if target is None:
        with Original(name, file.state) as original:
            return original.change(changes, meter, length=end)
    with OutputFile(target, overwrite=overwrite) as output:
        copy_changed(file.descriptor, output, changes, meter, length=end)
        file.require_unchanged()
        output.commit()
        return output.notes


def _is_same(path: StrPath, target: StrPath) -> bool:
    try:
        return same_content(os.stat(path), os.stat(target))
    except OSError:
        return False


def _walk(source: Source, io: IOOptions, progress: OnProgress | None) -> CheckReport:
    """Check to the end; the pages of a mapped-ram image have no framing that could be wrong."""
    level = CheckLevel.FULL
    with (
        suppress(FormatError, UnsupportedError),
        SaveImage(source, strict=False, follow=False) as image,
    ):
        if image.layout is Layout.MAPPED_RAM:
            level = CheckLevel.QUICK
    return check(source, level=level, io=io, progress=progress)


def _chosen(
    fixes: frozenset[str], offers: Sequence[Offer], before: CheckReport, path: StrPath
) -> tuple[Repair, ...]:
    """Return the repairs that were asked for, in the order of the file."""
    offered = {offer.repair for offer in offers}
    wanted = offered - _TO_BE_NAMED if ALL in fixes else set()
    for name in sorted(fixes - {ALL}):
        one = Repair(name)
        if one not in offered:
            raise ConversionError(f"{name} is not repaired: {_why_not(one, before)}", path=path)
        wanted = {*wanted, one}
    return tuple(one for one in Repair if one in wanted)


def _why_not(wanted: Repair, before: CheckReport) -> str:
    codes = {finding.code: finding for finding in before.findings}
    if wanted is Repair.MAGIC and _INCOMPLETE in codes:
        return codes[_INCOMPLETE].advice
    if wanted is Repair.TRAILING and _TRAILING in codes:
        return "an image on a device, or inside another file, cannot be made shorter"
    return "nothing of that kind is wrong, or nothing shows what is right"


def _require_better(
    before: CheckReport, after: CheckReport, made: Collection[Repair], path: StrPath
) -> None:
    """Refuse what leaves the fault, or brings another one to light."""
    errors = {one.code for one in before.findings if one.severity is Severity.ERROR}
    for one in after.findings:
        if one.repair in made or (one.severity is Severity.ERROR and one.code not in errors):
            raise ConversionError(
                "the repair would not make the image better, so the image was left as it is: "
                f"{one.message} [{one.code}]",
                path=path,
            )


class _Work:
    """Knows what each repair changes in one file."""

    def __init__(self, source: Source, file: File, before: CheckReport, io: IOOptions) -> None:
        self._source = source
        self._file = file
        self._findings = before.findings
        self._io = io
        self._head = file.read(min(HEADER_LENGTH, file.length), 0)
        right = find_true_header(file.read, file.length)
        self._right = self._head if right is None else right.data
        self._offered = {one.repair for one in self._findings if one.repair is not None}
        self._bits = self._stray_bits() if Repair.STRAY_BITS in self._offered else {}

    def offers(self) -> tuple[Offer, ...]:
        """Return all repairs that can be made, in the order of the file."""
        return tuple(
            Offer(
                one,
                tuple(dict.fromkeys(f.code for f in self._findings if f.repair is one)),
                self._words(one),
                self._count(one),
            )
            for one in Repair
            if one in self._offered
        )

    def changes(self, made: Collection[Repair]) -> list[Change]:
        """Return the bytes that some repairs change."""
        found = []
        head = self._with(made)
        if head != self._head:
            at = [number for number in range(HEADER_LENGTH) if head[number] != self._head[number]]
            start, end = at[0], at[-1] + 1
            found.append(Change(start, self._head[start:end], head[start:end]))
        if Repair.STRAY_BITS in made:
            found += self._bits.values()
        return sorted(found, key=lambda change: change.offset)

    def end(self, made: Collection[Repair]) -> int | None:
        """Return where the file ends after some repairs, None if where it does."""
        if Repair.TRAILING not in made:
            return None
        return next(f.offset for f in self._findings if f.repair is Repair.TRAILING)

    def _with(self, made: Collection[Repair]) -> bytes:
        """Return the header with some repairs made."""
        if not _IN_HEADER & set(made):
            return self._head
        numbers = read_numbers(self._right)
        names = [name for one in made for name in _NUMBERS.get(one, ())]
        head = put_numbers(self._head, {name: numbers[name] for name in names})
        if Repair.MAGIC in made:
            head = MAGIC_FINISHED + head[len(MAGIC_FINISHED) :]
        return head

    def _count(self, one: Repair) -> int:
        """Count the bytes that a repair changes or cuts off."""
        end = self.end({one})
        if end is not None:
            return self._file.length - end
        changed = 0
        for change in self.changes({one}):
            changed += sum(old != new for old, new in zip(change.old, change.new, strict=True))
        return changed

    def _words(self, one: Repair) -> str:
        """Say what a repair would change."""
        if one is Repair.TRAILING:
            return "what follows the stream is cut off"
        if one is Repair.STRAY_BITS:
            names = ", ".join(repr(name) for name in self._bits)
            return f"the bits behind the last page are cleared in the bitmap of {names}"
        if one is Repair.MAGIC:
            return "the header says that the save has finished"
        old, new = read_numbers(self._head), read_numbers(self._right)
        if one is Repair.LENGTH:
            return (
                f"the header says that {new['data_len']} bytes come before the stream, "
                f"not {old['data_len']}"
            )
        if one is Repair.COOKIE:
            return f"the header tells of {_cookie(new)}, not of {_cookie(old)}"
        version = f" and version {new['version']}" if new["version"] != old["version"] else ""
        return f"the header says {_format(new)}{version}, not {_format(old)}"

    def _stray_bits(self) -> dict[str, Change]:
        """Return for each block with such bits the word of its bitmap that they are in."""
        head = self._with(self._offered)
        source = replace(self._source, repaired=Patched(()).with_header(head))
        found = {}
        with SaveImage(source, io=self._io, strict=False, follow=False) as image:
            stream = image.mapped
            for block in stream.blocks.blocks:
                if block.header is None or block.ignored or not block.page_count % _WORD_BITS:
                    continue
                at = block.header.bitmap_offset + block.bitmap_length - _WORD_LENGTH
                old = self._file.read(_WORD_LENGTH, at)
                mask = (1 << block.page_count % _WORD_BITS) - 1
                number = int.from_bytes(old, stream.byte_order) & mask
                new = number.to_bytes(_WORD_LENGTH, stream.byte_order)
                if new != old:
                    found[block.idstr] = Change(at, old, new)
        return found


def _format(numbers: Mapping[str, int]) -> str:
    number = numbers["format"]
    return f"format {number} ({FORMATS.get(number, 'unknown')})"


def _cookie(numbers: Mapping[str, int]) -> str:
    place = numbers["cookie"]
    return f"a cookie at {place}" if place else "no cookie"
