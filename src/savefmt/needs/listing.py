"""What a guest needs besides its image: programs, processor, memory, what its XML names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from savefmt.compat.ask import QemuAnswers, ask, has_kvm, started
from savefmt.compat.cpufit import cpu_lack
from savefmt.compat.host import (
    accelerator_of,
    available_memory,
    installed_libvirt,
    trusted_emulator,
)
from savefmt.compat.releases import Reader
from savefmt.compat.rules import obstacles
from savefmt.compat.traits import Traits, examine
from savefmt.errors import ConversionError, SavefmtError
from savefmt.format.envelope import HEADER_LENGTH
from savefmt.format.hardware import Hardware
from savefmt.format.outside import EMULATOR, Kind, outside_of
from savefmt.guest.needs import read_hardware
from savefmt.image import SaveImage
from savefmt.model import IOOptions, OnProgress, StrPath
from savefmt.needs.looking import Looker, layers_of
from savefmt.qemu.command import emulator_of
from savefmt.reports import Need, NeedsReport, Presence

HERE, MISSING, UNKNOWN = Presence.HERE, Presence.MISSING, Presence.UNKNOWN


def needs(
    source: StrPath | SaveImage,
    *,
    look: bool = True,
    binary: str | None = None,
    timeout: float = 10.0,
    io: IOOptions = IOOptions(),
    progress: OnProgress | None = None,
) -> NeedsReport:
    """List what a guest needs in addition to its image, and which of these things are missing here.

    Parameters
    ----------
    source : str, os.PathLike or SaveImage
        The image.  Its writer chose the names in it: they are looked up, and the headers of
        qcow2 disks are read.
    look : bool
        Look whether this host has it.
    binary : str, optional
        A QEMU program instead of the one that the XML names.  It is run.
    timeout : float
        Seconds for QEMU to answer.
    io, progress
        For an image that must be read whole to be judged.

    Returns
    -------
    NeedsReport
        Everything once.

    Raises
    ------
    FormatError
        If the image is damaged.
    """
    if not isinstance(source, SaveImage):
        with SaveImage(source, io=io) as image:
            return needs(image, look=look, binary=binary, timeout=timeout, io=io, progress=progress)
    wanted = _Wanted(source, look, binary, timeout)
    traits = examine(source, io=io, progress=progress)
    name = source.domain.name if source.domain is not None else None
    found = (*wanted.programs(traits), *wanted.outside())
    return NeedsReport(str(source.path), name or "", look, found)


class _Wanted:
    """Looks through one image.

    Parameters
    ----------
    image, look, binary, timeout
        As for `needs`.
    """

    def __init__(self, image: SaveImage, look: bool, binary: str | None, timeout: float) -> None:
        self._image, self._look = image, look
        self._binary, self._timeout = binary, timeout
        self._memory = sum(b.used_length for b in image.blocks.values() if not b.ignored)

    # Programs, and what they can give

    def programs(self, traits: Traits) -> Iterator[Need]:
        """Yield libvirt, QEMU, and what they must be able to."""
        if self._image.envelope is not None:
            yield self._libvirt(traits)
            if traits.form.codec != "raw":
                there = self._look and shutil.which(traits.form.codec) is not None
                presence = (HERE if there else MISSING) if self._look else UNKNOWN
                yield Need(Kind.PROGRAM, traits.form.codec, "decompression", presence)
        yield from self._qemu(traits)
        yield self._room()

    def _libvirt(self, traits: Traits) -> Need:
        release = installed_libvirt() if self._look else None
        if release is None:
            return Need(Kind.PROGRAM, "libvirt", "restore", MISSING if self._look else UNKNOWN)
        blocked = _blocked(traits, Reader("libvirt", release))
        return Need(Kind.PROGRAM, "libvirt", "restore", MISSING if blocked else HERE, blocked)

    def _qemu(self, traits: Traits) -> Iterator[Need]:
        hardware = read_hardware(self._image, [])
        machine = traits.machine.name
        program, presence, reason = self._program()
        answers: QemuAnswers | None = None
        lack: str | None = None
        kvm = False
        if presence is HERE and self._look:
            accelerator = accelerator_of(self._image)
            try:
                with started(program, accelerator=accelerator, timeout=self._timeout) as monitor:
                    answers, kvm = ask(monitor), has_kvm(monitor)
                    lack = cpu_lack(monitor, hardware)
            except SavefmtError as error:
                presence, reason = UNKNOWN, error.message
        if answers is not None and (old := _blocked(traits, Reader("qemu", answers.release))):
            presence, reason = MISSING, old
        yield Need(Kind.PROGRAM, program, EMULATOR, presence, reason)
        if accelerator_of(self._image) != "tcg":
            there = UNKNOWN if answers is None else HERE if kvm else MISSING
            yield Need(Kind.KVM, "/dev/kvm", "accelerator", there)
        there = UNKNOWN
        if answers is not None and machine:
            there = HERE if machine in answers.machines else MISSING
        yield Need(Kind.MACHINE, machine or "not recorded", "machine", there)
        yield from _processor(hardware, lack)

    def _program(self) -> tuple[str, Presence, str]:
        """Return the QEMU in question."""
        domain = self._image.domain
        named = domain.emulator if domain is not None else None
        program = self._binary or named
        if program is None:
            emulator, doubt = emulator_of(self._image)
            program = f"qemu-system-{emulator}"
            if not self._look:
                return program, UNKNOWN, doubt
            found = shutil.which(program)
            return (found, HERE, doubt) if found else (program, MISSING, "it is not in PATH")
        if not self._look:
            return program, UNKNOWN, ""
        if self._binary is not None:
            return program, HERE, ""
        if not os.path.exists(program):
            return program, MISSING, ""
        try:
            return trusted_emulator(self._image), HERE, ""
        except ConversionError as error:
            return program, UNKNOWN, error.message

    def _room(self) -> Need:
        free = available_memory() if self._look else None
        name, presence, reason = f"{_mebibytes(self._memory)} MiB", UNKNOWN, ""
        if free is not None:
            presence = HERE if free >= self._memory else MISSING
            reason = "" if free >= self._memory else f"{free >> 20} MiB are free"
        return Need(Kind.MEMORY, name, "memory", presence, reason)

    # What the XML names

    def outside(self) -> Iterator[Need]:
        """Yield what the XML names, and the backing files of its disks."""
        envelope = self._image.envelope
        if envelope is None:
            return
        things = {(o.kind, o.name): o for o in outside_of(envelope.xml, at=HEADER_LENGTH)}
        if self._look:
            for thing in list(things.values()):
                if thing.kind is Kind.FILE and thing.format == "qcow2":
                    for layer in layers_of(thing):
                        things.setdefault((layer.kind, layer.name), layer)
        saved = os.fstat(self._image.file.descriptor).st_mtime
        looker = Looker(saved, self._memory)
        for thing in things.values():
            if thing.kind is not Kind.KVM and thing.use != EMULATOR:  # these were asked themselves
                presence, reason = looker.look(thing) if self._look else (UNKNOWN, "")
                yield Need(thing.kind, thing.name, thing.use, presence, reason)


def _mebibytes(length: int) -> int:
    return -(-length >> 20)


def _blocked(traits: Traits, reader: Reader) -> str:
    """Return what keeps a reader from loading, the machine type left to QEMU's own word."""
    found = [o for o in obstacles(traits, reader) if o.blocks and o.code != "machine"]
    return "; ".join(f"{reader}: {obstacle.reason}" for obstacle in found)


def _processor(hardware: Hardware, lack: str | None) -> Iterator[Need]:
    name = hardware.cpu_model or hardware.cpu_mode
    if name is None:
        return
    if lack is not None:
        yield Need(Kind.CPU, name, "processor", MISSING if lack else HERE, lack)
    elif (hardware.cpu_mode or "").startswith("host"):
        reason = "it must be like that of the host where the guest was saved"
        yield Need(Kind.CPU, name, "processor", UNKNOWN, reason)
    else:
        yield Need(Kind.CPU, name, "processor", UNKNOWN)
