"""The properties of an image that decide who can load it."""

from __future__ import annotations

from typing import Self

from savefmt.compat.armregisters import saved_registers
from savefmt.compat.machines import Machine
from savefmt.compat.releases import fact
from savefmt.compat.relics import has_compressed_pages
from savefmt.format.hardware import Hardware
from savefmt.format.stream import Command
from savefmt.frozen import dataclass, replace
from savefmt.guest.needs import read_hardware
from savefmt.image import SaveImage
from savefmt.model import IOOptions, Layout, OnProgress
from savefmt.progress import Meter
from savefmt.reading.visitors import SkimVisitor, pass_over

SWITCHOVER_START = 11
"""The command that QEMU before 10.0 does not know (format.md 3.5)."""

POSTCOPY_ADVISE = 3


@dataclass(frozen=True, slots=True)
class Form:
    """The part that a conversion can change.

    Attributes
    ----------
    version : int or None
        Of libvirt's header; None for a bare stream.
    layout : Layout
        Of the stream.
    codec : str
        ``raw`` or the name of the compression.
    switchover : bool
        Whether the stream holds command 11.
    mislabelled : bool
        Whether the header tells another layout than the stream.
    """

    version: int | None
    layout: Layout
    codec: str
    switchover: bool = False
    mislabelled: bool = False

    @property
    def mapped(self) -> bool:
        """Whether the layout is mapped-ram."""
        return self.layout is Layout.MAPPED_RAM

    @property
    def name(self) -> str:
        """What ``-O`` calls it."""
        return "sparse" if self.mapped else self.codec


@dataclass(frozen=True, slots=True)
class Traits:
    """All that the rules look at.

    Attributes
    ----------
    form : Form
        What a conversion can change.
    machine : Machine
        As the stream names it, or else the XML; an empty name if neither names it.
    configured : bool
        Whether the stream has a configuration section.
    capabilities : frozenset of str
        As the stream lists them.
    finished : bool
        False with libvirt's "Part" magic.
    has_cookie, has_uuid, has_bitmaps : bool
        Cookie in the envelope; UUID and dirty bitmaps in the stream.
    unused : bool
        Whether spare words of the header are in use.
    sections : frozenset of str
        Device sections, as far as they are known.
    compressed_pages : bool
        Whether QEMU itself has compressed pages one by one.
    without_ht : bool
        Whether the processor had several cores or threads in a socket, and not the feature ht.
    virtio_video : bool
        Whether the primary video device is virtio and nothing tells which of the two on x86 it
        is.
    registers : frozenset of int
        System registers of Arm's vCPUs, as far as they are known.
    cuts : tuple of (int, int)
        Where in the decompressed file command 11 is: start and end.
    """

    form: Form
    machine: Machine
    configured: bool = True
    capabilities: frozenset[str] = frozenset()
    finished: bool = True
    has_cookie: bool = False
    has_uuid: bool = False
    has_bitmaps: bool = False
    unused: bool = False
    sections: frozenset[str] = frozenset()
    compressed_pages: bool = False
    without_ht: bool = False
    virtio_video: bool = False
    registers: frozenset[int] = frozenset()
    cuts: tuple[tuple[int, int], ...] = ()

    def shaped(self, form: Form) -> Self:
        """The same guest in another form."""
        return replace(self, form=form)


def examine(
    image: SaveImage, *, io: IOOptions = IOOptions(), progress: OnProgress | None = None
) -> Traits:
    """Gather what decides who can load an image.

    The headers tell nearly all, and of sequential images the first pages.  Only where the
    machine type has no version of QEMU's own is one read whole, to find command 11:
    versioned machines have it from 10.0 on, and a QEMU that has those knows the command.

    Parameters
    ----------
    image : SaveImage
        Of any form; one opened with ``strict=False`` may be unfinished.
    io, progress
        For that reading.

    Returns
    -------
    Traits
        For `savefmt.compat.verdict.judge`.
    """
    image.require_machine()
    if image.base is not None:  # who loads it gets the thin stream
        with SaveImage(image.filename, io=io, strict=False, follow=False) as thin:
            return examine(thin, io=io, progress=progress)
    envelope = image.envelope
    machine = Machine.parse(_machine_name(image))
    compressed = _may_have_compressed(image, machine) and has_compressed_pages(image)
    # The one went before the other came.
    cuts = () if compressed else find_switchover(image, machine, io, progress)
    configuration = image.configuration
    hardware = read_hardware(image, [])
    return Traits(
        form=Form(
            version=envelope.version if envelope else None,
            layout=image.layout,
            codec=image.codec,
            switchover=bool(cuts),
            mislabelled=image.mislabelled,
        ),
        machine=machine,
        configured=configuration is not None,
        capabilities=image.capabilities,
        finished=envelope is None or envelope.finished,
        has_cookie=bool(envelope and envelope.cookie),
        has_uuid=bool(configuration and configuration.uuid),
        has_bitmaps=any(map(_announces_bitmaps, image.head.commands)),
        unused=bool(envelope and any(envelope.unused)),
        sections=_section_names(image),
        compressed_pages=compressed,
        without_ht=_lacks_ht(hardware),
        virtio_video=_is_x86(hardware)
        and hardware.video == "virtio"
        and hardware.video_device is None,
        registers=_registers(image, machine),
        cuts=cuts,
    )


def _registers(image: SaveImage, machine: Machine) -> frozenset[int]:
    """Look where it costs no pass over the image."""
    return saved_registers(image) if machine.may_be_arm and image.sections else frozenset()


def _is_x86(hardware: Hardware) -> bool:
    return hardware.architecture in ("x86_64", "i686")


def _lacks_ht(hardware: Hardware) -> bool:
    """Whether libvirt compared the features, and QEMU before 10.0 told none (or no) ht."""
    had = dict(hardware.cpu_features)
    return _is_x86(hardware) and bool(had) and hardware.socket_cpus > 1 and not had.get("ht", False)


def _machine_name(image: SaveImage) -> str:
    """The stream's word, or that of the XML: machine types before 2.4 send none."""
    return image.machine or (image.domain.machine or "" if image.domain is not None else "")


def find_switchover(
    image: SaveImage, machine: Machine, io: IOOptions, progress: OnProgress | None
) -> tuple[tuple[int, int], ...]:
    """Tell where command 11 is in the decompressed file, if that can matter."""
    if image.layout is Layout.MAPPED_RAM:
        return tuple(
            (command.offset, command.offset + len(command.pack()))
            for command in image.mapped.commands
            if command.number == SWITCHOVER_START
        )
    if machine.is_upstream:
        return ()
    visitor = _CommandVisitor(image)
    pass_over(image, visitor, io, Meter(progress, 0, "looking for commands"))
    return tuple(visitor.places)


class _CommandVisitor(SkimVisitor):
    """Notes where command 11 stands."""

    def __init__(self, image: SaveImage) -> None:
        super().__init__(image.filename)
        self.places: list[tuple[int, int]] = []

    def command(self, command: Command) -> None:
        """Note the place of one."""
        if command.number == SWITCHOVER_START:
            self.places.append((command.offset, command.offset + len(command.pack())))


def _may_have_compressed(image: SaveImage, machine: Machine) -> bool:
    if image.layout is not Layout.SEQUENTIAL:
        return False
    gone = fact("qemu", "compress").until
    newer = machine.version is not None and gone is not None and machine.version >= gone
    return not (machine.is_upstream and newer)


def _announces_bitmaps(command: Command) -> bool:
    """An empty POSTCOPY_ADVISE comes with dirty bitmaps (format.md 3.5)."""
    return command.number == POSTCOPY_ADVISE and not command.data


def _section_names(image: SaveImage) -> frozenset[str]:
    return frozenset(image.head.early).union(section.idstr for section in image.sections or ())
