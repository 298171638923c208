"""What prevents a waiting QEMU from loading an image, found before anything is loaded.

QEMU notices some of these differences itself, but only after it has begun, and then it has no
whole guest. Others it does not notice at all: RAM of another length in a mapped-ram image
(format.md 11), devices that the guest has never seen.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache

from savefmt.compat.armregisters import named, saved_registers, unknown_registers
from savefmt.compat.cpufit import qemus_name
from savefmt.compat.statetable import section_name, unloadable
from savefmt.errors import FormatError
from savefmt.format.hardware import Hardware
from savefmt.frozen import replace
from savefmt.guest.featuresinuse import processor_wanted
from savefmt.guest.needs import read_hardware
from savefmt.guest.pci import read_config
from savefmt.image import SaveImage
from savefmt.model import Finding, Section, Severity
from savefmt.qemu.deviceshape import ReadConfig, compare_shapes
from savefmt.qemu.report import MigrationError
from savefmt.qemu.target import Target, TargetCpu, look_closely
from savefmt.qmp import Monitor
from savefmt.reading.walk import StreamEnd

KINDS = ("machine", "memory", "devices", "versions", "cpu")
"""What can be compared, and left out of it."""

WAITING = "inmigrate"
UNASKED = (
    "this QEMU's program could not be asked for its device state; savefmt restore --qemu-binary "
    "names it"
)
_PCI_PLACE = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}(?::[0-9a-f]{2}\.[0-7])+")
_STATELESS = frozenset({"pci-testdev", "igbvf"})
"""PCI devices without state to save (tried with QEMU 10.0)."""
_OFTEN_UNSENT = frozenset({"smbus-eeprom", "spapr_watchdog"})
"""Sections that a QEMU may leave out although it has the device (tried with QEMU 10.0)."""
_TOLD = 8
"""Differences in one message."""


def compare(image: SaveImage, target: Target, *, thorough: bool = False) -> list[Finding]:
    """List what differs between the guest in an image and a QEMU that is to load it.

    Parameters
    ----------
    image : SaveImage
        Open.
    target : Target
        The QEMU.
    thorough : bool
        Read an image whole where nothing less tells its devices.

    Returns
    -------
    list of Finding
        Errors, with codes such as ``target.devices``; and notes, of what was not compared.
    """
    if image.machine and target.guest.machine != image.machine:
        return [
            _error(
                "machine",
                f"the image is of a {image.machine} and this QEMU has a {target.guest.machine}",
                f"start it with -machine {image.machine}",
            )
        ]
    found = list(_compare_blocks(image, target))
    found += _compare_model(_processor_wanted(image, thorough=thorough), target.cpu)
    if not thorough and image.sections is None:
        return [*found, _note("the devices were not compared: that takes a pass over the image")]
    try:
        sections = image.devices.sections
    except FormatError as error:
        return [*found, _note(f"the devices were not compared: {error.message}")]
    if (reason := image.devices.incomplete) is not None:
        return [*found, _note(f"the devices were not compared: {reason}")]
    found += _compare_vcpus(sections, target.cpu)
    found += _compare_registers(image, target)
    config = cache(lambda place: read_config(image, place, []))
    found += (pci := list(_compare_pci(image, sections, target, config)))
    if not pci:  # else each is told twice
        found += [
            _error("devices", message, advice)
            for message, advice in compare_shapes(image, sections, target.shape, config)
        ]
    if target.table is None:
        return [*found, _note(UNASKED)]
    for idstr, reason in unloadable(sections, target.table):
        advice = "use another release of QEMU, or the machine type's own"
        found.append(_error("versions", f"the device {idstr} {reason}", advice))
    if all(finding.severity is Severity.NOTE for finding in pci):  # else each is told twice
        found += _compare_counts(sections, target)
    return found


def refuse_other_guest(
    image: SaveImage,
    monitor: Monitor,
    ignore: Collection[str] = (),
    binary: str | None = None,
    *,
    thorough: bool = False,
) -> tuple[str, ...]:
    """Refuse a QEMU that was not made for the guest in an image.

    Parameters
    ----------
    image : SaveImage
        Open.
    monitor : Monitor
        Of the QEMU.
    ignore : collection of str
        Of `KINDS`: what may differ.
    binary : str, optional
        The QEMU's program; by default the one behind the monitor, if savefmt may run it without
        being asked.
    thorough : bool
        Read an image up to its end where nothing less tells its devices.

    Returns
    -------
    tuple of str
        What was not compared, and what differs and is ignored.

    Raises
    ------
    FormatError
        If `thorough` shows that the image was cut or damaged.
    MigrationError
        With all differences.
    """
    if thorough:
        _read_to_its_end(image)
    hardware = _processor_wanted(image, thorough=thorough)
    found = compare(image, look_closely(monitor, hardware, binary), thorough=thorough)
    notes = [f.message for f in found if f.severity is Severity.NOTE or kind_of(f) in ignore]
    refuse([f for f in found if f.severity is Severity.ERROR and kind_of(f) not in ignore])
    return tuple(notes)


def _read_to_its_end(image: SaveImage) -> StreamEnd:
    """Raise where the image was cut; to compare its devices is no reason for that."""
    return image.devices.ending


def target_findings(
    image: SaveImage, qmp: str, ignore: Collection[str] = (), *, timeout: float = 10.0
) -> list[Finding]:
    """Compare an image with the QEMU behind a socket, thoroughly.

    Parameters
    ----------
    image : SaveImage
        Open.
    qmp : str
        Path of the QMP socket.
    ignore : collection of str
        Of `KINDS`: differences that are notes.
    timeout : float
        Seconds for the socket to answer.

    Returns
    -------
    list of Finding
        As `compare` gives them; only a note for a QEMU that does not wait for a guest.
    """
    with Monitor(qmp, timeout=timeout) as monitor:
        if (status := monitor.status) != WAITING:
            reason = f"it does not wait for a guest ({status})"
            return [_note(f"this QEMU was not compared with the guest: {reason}")]
        target = look_closely(monitor, _processor_wanted(image, thorough=True))
    return [
        replace(finding, severity=Severity.NOTE) if kind_of(finding) in ignore else finding
        for finding in compare(image, target, thorough=True)
    ]


def refuse(differences: list[Finding]) -> None:
    """Raise a `MigrationError` that tells all differences, if there are any."""
    if not differences:
        return
    told = [f"{finding.message}; {finding.advice}" for finding in differences[:_TOLD]]
    if len(differences) > _TOLD:
        told.append(f"{len(differences) - _TOLD} more, which savefmt check --qmp lists")
    kinds = sorted({kind_of(finding) for finding in differences})
    allowed = " ".join(f"--ignore {kind}" for kind in kinds)
    raise MigrationError(f"{'. Also: '.join(told)} (to load it anyway: {allowed})")


def kind_of(finding: Finding) -> str:
    """Return which of `KINDS` a difference is."""
    return finding.code.rpartition(".")[2]


def _error(kind: str, message: str, advice: str) -> Finding:
    return Finding(f"target.{kind}", Severity.ERROR, message, advice=advice)


def _note(message: str) -> Finding:
    return Finding("target.unknown", Severity.NOTE, message)


# Memory


def _compare_blocks(image: SaveImage, target: Target) -> Iterator[Finding]:
    if not target.blocks:
        return
    saved = {block.idstr: block.used_length for block in image.head.blocks.blocks}
    for idstr, length in saved.items():
        there = target.blocks.get(idstr)
        if there is None:
            yield _error(
                "memory",
                f"the image has the RAM block {idstr!r} and this QEMU has not",
                "its devices or its memory back end differ",
            )
        elif not there.takes(length):
            yield _error(
                "memory",
                f"the RAM block {idstr!r} has {length} bytes in the image and "
                f"{there.used_length} in this QEMU",
                _remedy(idstr, length),
            )
    for idstr, there in target.blocks.items():
        if idstr not in saved and there.used_length:
            yield _error(
                "memory",
                f"this QEMU has the RAM block {idstr!r}, and the image has not",
                "start it without that memory or device",
            )


def _remedy(idstr: str, length: int) -> str:
    if _PCI_PLACE.match(idstr) and idstr.endswith(".rom"):
        return f"give the device romsize={length}, or the romfile= of that length that it had"
    if "bios" in idstr or "flash" in idstr:
        return "give it the firmware that the guest had"
    return "give it the memory that the guest had"


# Processor


def _processor_wanted(image: SaveImage, *, thorough: bool) -> Hardware:
    """Return what the guest's processor had; in use is what a pass need not be made for."""
    if thorough or image.sections is not None:
        return processor_wanted(image)
    return read_hardware(image, [])


def _compare_model(hardware: Hardware, cpu: TargetCpu | None) -> Iterator[Finding]:
    if cpu is None:
        return
    model, named = hardware.cpu_model, {kind: name for name, kind in cpu.models.items()}
    wanted = cpu.models.get(model or "")
    if wanted is not None and cpu.kind and wanted != cpu.kind:
        yield _error(
            "cpu",
            f"the guest had a {model} and this QEMU has a {named.get(cpu.kind, cpu.kind)}",
            f"start it with -cpu {model}",
        )
        return
    if cpu.socket_cpus and cpu.socket_cpus != hardware.socket_cpus:
        yield _error(
            "cpu",
            f"the guest had {hardware.socket_cpus} vCPUs in a socket and this QEMU has "
            f"{cpu.socket_cpus}",
            "start it with the sockets, cores and threads of the XML behind -smp",
        )
    for feature, had in hardware.cpu_features:
        name = qemus_name(feature)
        if cpu.flags.get(name, had) != had:
            yield _error(
                "cpu",
                f"the guest's processor had {'' if had else 'no '}{name} and this QEMU's has "
                f"{'none' if had else 'it'}",
                f"start it with {name}={'on' if had else 'off'} behind -cpu",
            )


def _compare_vcpus(sections: Iterable[Section], cpu: TargetCpu | None) -> Iterator[Finding]:
    count = sum(section.idstr == "cpu" for section in sections)
    if cpu is not None and count and cpu.count != count:
        yield _error(
            "cpu",
            f"the guest had {count} vCPUs and this QEMU has {cpu.count}",
            f"start it with -smp {count}",
        )


def _compare_registers(image: SaveImage, target: Target) -> Iterator[Finding]:
    if target.release is None:
        return
    unknown, _ = unknown_registers(saved_registers(image), target.release)
    if unknown:
        yield _error(
            "cpu",
            f"the image lists the system registers {named(unknown)}, which QEMU {target.release} "
            "does not know",
            "use the release of QEMU that the guest was saved with",
        )


# Devices


def _compare_pci(
    image: SaveImage, sections: Iterable[Section], target: Target, config: ReadConfig
) -> Iterator[Finding]:
    names = _places(image, sections)
    if not names:
        return
    if target.pci is None:
        yield _note("the addresses of the devices were not compared: there are several PCI roots")
        return
    extra = [place for place in target.pci if place not in names]
    for place, name in names.items():
        identity, there = _identity(config(place)), target.identities.get(place)
        if place not in target.pci:
            twin = next((p for p in extra if identity and target.identities.get(p) == identity), "")
            if twin:
                extra.remove(twin)
            yield _error(
                "devices",
                f"the image has {name} at {place} and this QEMU "
                f"{f'has it at {twin}' if twin else 'has nothing there'}",
                f"give the device {_address(place)}",
            )
        elif identity is not None and there is not None and identity != there:
            yield _error(
                "devices",
                f"at {place} the image has {name} ({_hex(identity)}) and this QEMU a "
                f"{target.pci[place]} ({_hex(there)})",
                "start it with the devices that the guest had, at the same addresses",
            )
    for place in extra:
        if target.pci[place] not in _STATELESS:
            yield _error(
                "devices",
                f"this QEMU has a {target.pci[place]} at {place}, and the image has nothing there",
                "start it without that device",
            )


def _places(image: SaveImage, sections: Iterable[Section]) -> dict[str, str]:
    """Return what the image has at which place of PCI."""
    found: dict[str, str] = {}
    idstrs = [section.idstr for section in sections]
    for idstr in (*idstrs, *(block.idstr for block in image.head.blocks.blocks)):
        if place := _PCI_PLACE.match(idstr):
            found.setdefault(place[0], section_name(idstr))
    return dict(sorted(found.items()))


def _identity(config: bytes | None) -> tuple[int, int] | None:
    """Return vendor and device of a PCI function, None where the image does not tell."""
    if config is None:
        return None
    return int.from_bytes(config[0:2], "little"), int.from_bytes(config[2:4], "little")


def _hex(identity: tuple[int, int]) -> str:
    return f"{identity[0]:04x}:{identity[1]:04x}"


def _address(place: str) -> str:
    slot, _, function = place.rpartition(":")[2].partition(".")
    number = f"0x{int(slot, 16):x}" + ("" if function == "0" else f".0x{function}")
    return f"addr={number} on its bus"


def _compare_counts(sections: Iterable[Section], target: Target) -> Iterator[Finding]:
    """Compare how many devices of each kind there are, without regard to their places."""
    if target.table is None:
        return
    here: Counter[str] = Counter()
    kinds: dict[str, set[str]] = {}
    for kind, count in target.kinds.items():
        if (name := target.table.names.get(kind)) is not None:
            here[name] += count
            kinds.setdefault(name, set()).add(kind)
    known = target.table.versions
    saved = Counter(section_name(section.idstr, known) for section in sections)
    for name in sorted((set(saved) & set(known)) | set(here)):
        if saved[name] == here[name] or (name in _OFTEN_UNSENT and not saved[name]):
            continue
        yield _error(
            "devices",
            f"the image has {_count(saved, name)} and this QEMU has {_many(here[name])}",
            "start it with the devices that the guest had",
        )


def _count(counted: Mapping[str, int], name: str) -> str:
    return f"{_many(counted.get(name, 0))} {name}"


def _many(count: int) -> str:
    return str(count) if count else "no"
