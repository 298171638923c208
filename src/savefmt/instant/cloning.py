"""Many guests from one image: each gets a thin stream, and a script or XML that starts it."""

from __future__ import annotations

import os
import shlex
import time
import uuid as uuids
from collections.abc import Iterator, Sequence

from savefmt.errors import ConversionError, ImageIOError
from savefmt.format.domain import Element, read_elements
from savefmt.format.envelope import Envelope
from savefmt.image import SaveImage
from savefmt.instant.backends import MappedBlock, mappable
from savefmt.instant.domainedit import with_arguments, with_texts
from savefmt.instant.onimage import refuse_unmappable
from savefmt.instant.outcomes import ClonedGuest, CloneReport
from savefmt.instant.startcommand import backend, instant_command
from savefmt.instant.thinstream import thin_stream
from savefmt.model import IOOptions, StrPath
from savefmt.qemu.restoring import pages_file
from savefmt.reading.thinbase import mark_of
from savefmt.writing.inuse import note_thin
from savefmt.writing.output import OutputFile, check_target

ID_PREFIX = "savefmt-"
"""libvirt makes a back end by the block's own name, so ours has another."""

MAX_COUNT = 4096
_NETWORK = ("virtio-net", "e1000", "rtl8139", "pcnet", "vmxnet3", "ne2k", "igb", "tulip")
_SHARED = ("vhostuser", "virtiofs", "vhost-user")


def clone(
    image: StrPath,
    folder: StrPath,
    *,
    count: int = 1,
    binary: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    io: IOOptions = IOOptions(),
) -> CloneReport:
    """Prepare guests that run on an image, for QEMU alone.

    Parameters
    ----------
    image : str or os.PathLike
        A mapped-ram image.  It must stay as it is while they run.
    folder : str or os.PathLike
        Gets a thin image and a script for each; made if absent.
    count : int
        How many guests.
    binary : str, optional
        The QEMU that the scripts start; by default the guest's architecture tells.
    overwrite : bool
        Replace files of the same names.
    dry_run : bool
        Write nothing, and report what would be made.
    io : IOOptions
        How the image is read.

    Returns
    -------
    CloneReport
        What was made.

    Raises
    ------
    ConversionError
        If a guest cannot run on the image.
    """
    began = time.monotonic()
    with SaveImage(image, io=io) as saved:
        blocks = _prepare(saved, count)
        place = _Place(folder, overwrite=overwrite, dry_run=dry_run)
        stream = b"".join(_thin(saved, blocks, {}, io, wake=_ran(saved)))
        guests = []
        for number in range(count):
            guest = _guest(saved, place.path, number)
            place.write(guest.image, stream, 0o600)
            assert guest.script is not None
            place.write(guest.script, os.fsencode(_script(saved, guest, binary)), 0o700)
            guests.append(guest)
        noted = [dry_run or note_thin(pages_file(saved), guest.image) for guest in guests]
        remarks = [*_must_differ(saved), *([] if all(noted) else [_UNNOTED])]
        return _report(saved, blocks, guests, stream, began, remarks)


def clone_for_libvirt(
    image: StrPath,
    folder: StrPath,
    *,
    count: int = 1,
    name: str | None = None,
    uuid: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    io: IOOptions = IOOptions(),
) -> CloneReport:
    """Prepare guests that run on an image, for ``virsh restore``.

    Parameters
    ----------
    image : str or os.PathLike
        A mapped-ram image of libvirt's.  It must stay as it is while they run.
    folder : str or os.PathLike
        Gets a thin image for each; made if absent.
    count : int
        How many guests.
    name : str, optional
        Of the guest, of several with a number behind it; by default the saved one's and
        ``-clone``.
    uuid : str, optional
        Of a single guest; by default each gets a new one.
    overwrite, dry_run, io
        As for `clone`.

    Returns
    -------
    CloneReport
        What was made.

    Raises
    ------
    ConversionError
        If such a guest cannot run on the image.
    """
    began = time.monotonic()
    if uuid is not None and count != 1:
        raise ConversionError("several guests cannot have the same UUID; leave it out")
    with SaveImage(image, io=io) as saved:
        envelope, elements = _domain(saved)
        _refuse_numa(elements)
        _refuse_unwritable(name or "", pages_file(saved))
        blocks = (_main_memory(_prepare(saved, count)),)
        place = _Place(folder, overwrite=overwrite, dry_run=dry_run)
        stem = name or f"{saved.domain.name if saved.domain else 'guest'}-clone"
        names = {block.idstr: ID_PREFIX + block.idstr for block in blocks}
        stream = b"".join(_thin(saved, blocks, names, io))
        guests = []
        for number in range(count):
            own = stem if count == 1 else f"{stem}{number}"
            identity = str(uuids.UUID(uuid)) if uuid else str(uuids.uuid4())
            path = os.path.join(place.path, f"{_file_name(own, number)}.save")
            head = _envelope(envelope, pages_file(saved), blocks, own, identity)
            place.write(path, head.pack() + stream, 0o600)
            guests.append(ClonedGuest(own, identity, path))
        noted = [dry_run or note_thin(pages_file(saved), guest.image) for guest in guests]
        remarks = [
            *_must_differ(saved),
            *_labels(pages_file(saved)),
            *_unshareable(elements),
            *([] if all(noted) else [_UNNOTED]),
        ]
        return _report(saved, blocks, guests, stream, began, remarks)


_UNNOTED = "the file system cannot record that the image is needed: take care not to change it"


def _prepare(image: SaveImage, count: int) -> tuple[MappedBlock, ...]:
    if not 1 <= count <= MAX_COUNT:
        raise ConversionError(f"{count} clones make no sense; ask for 1 to {MAX_COUNT}")
    refuse_unmappable(image)
    return mappable(image)


class _Place:
    """The folder that the guests' files go to; made if absent."""

    def __init__(self, folder: StrPath, *, overwrite: bool, dry_run: bool) -> None:
        self.path = os.path.realpath(folder)
        self._overwrite = overwrite
        self._dry_run = dry_run
        if os.path.lexists(self.path) and not os.path.isdir(self.path):
            raise ConversionError(
                "this is no folder, and the guests' files need one; name another", path=folder
            )
        if dry_run:
            return
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
        except OSError as error:
            raise ImageIOError.from_os(error, path=folder) from error

    def write(self, path: str, data: bytes, mode: int) -> None:
        """Write one of them, or see that it could be."""
        if self._dry_run:
            if os.path.isdir(self.path):
                check_target(path, overwrite=self._overwrite)
            return
        with OutputFile(path, overwrite=self._overwrite, direct=False) as output:
            output.file.write(data, 0)
            output.set_mode(mode)
            output.commit(warn=True)


def _thin(
    image: SaveImage,
    blocks: Sequence[MappedBlock],
    names: dict[str, str],
    io: IOOptions,
    *,
    wake: bool = False,
) -> Iterator[bytes]:
    base = image.base or image
    pairs = tuple((names.get(block.idstr, block.idstr), block.idstr) for block in blocks)
    mapped = {block.idstr for block in blocks}
    mark = mark_of(base, pairs)
    for piece in thin_stream(image, mapped, io, names=names, mark=mark, wake=wake):
        yield bytes(piece)


def _ran(image: SaveImage) -> bool:
    return image.envelope is not None and bool(image.envelope.was_running)


def _report(
    image: SaveImage,
    blocks: Sequence[MappedBlock],
    guests: Sequence[ClonedGuest],
    stream: bytes,
    began: float,
    remarks: Sequence[str],
) -> CloneReport:
    return CloneReport(
        base=os.path.realpath(pages_file(image)),
        guests=tuple(guests),
        mapped_length=sum(block.length for block in blocks),
        thin_length=len(stream),
        seconds=time.monotonic() - began,
        remarks=tuple(remarks),
    )


# QEMU alone.


def _guest(image: SaveImage, place: str, number: int) -> ClonedGuest:
    name = f"clone-{number}"
    kept = image.configuration.uuid if image.configuration else None
    identity = uuids.UUID(bytes=kept) if kept else uuids.uuid4()  # QEMU compares one it was sent
    stem = os.path.join(place, name)
    return ClonedGuest(name, str(identity), f"{stem}.thin", f"{stem}.sh")


def _script(image: SaveImage, guest: ClonedGuest, binary: str | None) -> str:
    """Return a shell script that starts a guest; what comes from the image is quoted."""
    skeleton = instant_command(image, devices=False)
    program = skeleton.words[0]
    if binary is not None:  # the script runs in its own folder
        program = (os.path.abspath(binary) if os.sep in binary else binary,)
    own = {
        "-name": f"guest={guest.name}",
        "-uuid": guest.uuid,
        "-incoming": f"file:{guest.name}.thin",
        "-qmp": f"unix:{guest.name}.qmp,server=on,wait=off",
    }
    lines = []
    for word in (program, *skeleton.words[1:]):
        if word[0] in own or (word == ("-S",) and _ran(image)):
            continue
        lines.append(" ".join(map(shlex.quote, word)))
    lines += [f"{option} {shlex.quote(value)}" for option, value in own.items()]
    told = "".join(f"# {_one_line(remark)}\n" for remark in skeleton.remarks)
    return (
        "#!/bin/sh\n"
        "# Starts a guest on the pages of a saved one.  Disks, networks and other devices are\n"
        "# yours to give, as options of QEMU behind the script's name.\n"
        f"{told}"
        'cd "$(dirname "$0")" || exit\n'
        "exec " + " \\\n  ".join(lines) + ' \\\n  "$@"\n'
    )


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


# libvirt.


def _domain(image: SaveImage) -> tuple[Envelope, list[Element]]:
    if image.envelope is None:
        raise ConversionError(
            "a bare stream has no domain XML, which libvirt needs; leave --libvirt out",
            path=image.path,
        )
    return image.envelope, read_elements(image.envelope.xml, "domain", 0, deepest=6)


def _refuse_numa(elements: Sequence[Element]) -> None:
    if any(element.path == ("domain", "cpu", "numa", "cell") for element in elements):
        raise ConversionError(
            "the guest has NUMA nodes, and libvirt makes a back end for each of them, which a "
            "clone cannot replace; leave --libvirt out"
        )


def _main_memory(blocks: Sequence[MappedBlock]) -> MappedBlock:
    """Return the machine's own memory; libvirt cannot be kept from making other back ends."""
    for block in blocks:
        if block.idstr.startswith(ID_PREFIX):
            raise ConversionError(
                "this image was saved from a clone, and its XML maps another one; make it an "
                "ordinary image first, with savefmt detach"
            )
        if block.idstr.endswith(".ram"):
            return block
    raise ConversionError("the machine's own memory is not among the blocks that can be mapped")


def _refuse_unwritable(*texts: str) -> None:
    """Refuse what no XML can hold."""
    for text in texts:
        # A surrogate, which stands for a byte that is not UTF-8, is not printable either.
        if not text.isprintable():
            raise ConversionError(
                f"libvirt's XML cannot hold the name {text!a}; take printable characters"
            )


def _file_name(name: str, number: int) -> str:
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name)
    return safe.lstrip(".")[:200] or f"clone-{number}"


def _envelope(
    envelope: Envelope, path: str, blocks: Sequence[MappedBlock], name: str, identity: str
) -> Envelope:
    """Return the header of a clone: its own identity, and QEMU's memory from the base."""
    texts: dict[tuple[str, ...], str] = {
        ("domain", "name"): name,
        ("domain", "uuid"): identity,
        ("domain", "genid"): str(uuids.uuid4()),
    }
    xml = with_texts(envelope.xml, texts)
    words: list[str] = []
    for block in blocks:
        own = ID_PREFIX + block.idstr
        words += ["-object", backend(block, os.path.realpath(path), id=own)]
        words += ["-machine", f"memory-backend={own}"]
    version = min(envelope.version, 2)
    sequential = envelope.with_stream(version=version, format=0, features=0)
    return sequential.with_xml(with_arguments(xml, words), fit=False)


# What to know.


def _must_differ(image: SaveImage) -> Iterator[str]:
    names = {section.idstr for section in image.sections or ()}
    if any(kind in name for name in names for kind in _NETWORK):
        yield (
            "all clones wake with the saved guest's MAC and IP addresses: keep them on networks of "
            "their own, or change these in the guest"
        )
    if any("vmgenid" in name for name in names):
        yield "each guest needs a vmgenid of its own, which tells it that it was cloned"
    if image.configuration is not None and image.configuration.uuid:
        yield "the stream holds the guest's UUID (x-validate-uuid), so all clones must keep it"
    yield "disks that clones write must be their own, such as an overlay each over the saved one's"


def _labels(path: str) -> Iterator[str]:
    yield (
        f"libvirt labels no file that only a command line names: QEMU's user must be able to read "
        f"{path}; AppArmor wants it in /etc/apparmor.d/abstractions/libvirt-qemu, SELinux "
        "the type virt_content_t"
    )


def _unshareable(elements: Sequence[Element]) -> Iterator[str]:
    kinds = {element.attributes.get("type", "") for element in elements}
    drivers = {e.attributes.get("type", "") for e in elements if e.path[-1] == "driver"}
    if (kinds | drivers) & set(_SHARED):
        yield "vhost-user needs shared memory, which a mapped image is not: those devices will fail"
    if any(element.path == ("domain", "devices", "hostdev") for element in elements):
        yield "VFIO pins all memory, so nothing is saved with such a device"
