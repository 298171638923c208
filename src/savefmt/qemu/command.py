"""A QEMU command line that an image could be restored into, as far as the image tells."""

from __future__ import annotations

import re
from collections.abc import Iterator

from savefmt.errors import CorruptError, FormatError, SavefmtError
from savefmt.format.domain import Element, read_elements
from savefmt.guest.arch.table import ARCHES
from savefmt.guest.evidence import evidence_of
from savefmt.image import SaveImage
from savefmt.model import RamBlock
from savefmt.qemu.report import CommandSkeleton

_UNKNOWN = "ARCHITECTURE"
_WORD = re.compile(r"[\w.+-]{1,64}")
_LISTED = 64
"""Devices that are named at most."""


def command_line(image: SaveImage) -> CommandSkeleton:
    """Derive a command line from the XML and the stream of an image.

    Parameters
    ----------
    image : SaveImage
        Open.  Whoever wrote it chose what it says: nothing of it is run here, and no file
        name of it is used.

    Returns
    -------
    CommandSkeleton
        Machine, memory, vCPUs and CPU model; what they cannot hold is a remark.
    """
    xml = _elements(image)
    emulator, doubt = emulator_of(image)
    main = _main_memory(image)
    memory = sum(block.used_length for block in ([main] if main else image.blocks.values()))
    words = [
        (f"qemu-system-{emulator}",),
        *([("-name", f"guest={_value(name)}")] if (name := _text(xml, "name")) else []),
        *([("-uuid", uuid)] if (uuid := _text(xml, "uuid")) else []),
        ("-machine", _machine(image, xml, main)),
        *_cpu(xml),
        *_memory(main, memory),
        ("-smp", str(_vcpus(image, xml))),
        ("-nodefaults",),
        ("-no-user-config",),
        ("-display", "none"),
        ("-S",),
        ("-incoming", "defer"),
        ("-qmp", "unix:guest.qmp,server=on,wait=off"),
    ]
    return CommandSkeleton(tuple(words), (*([doubt] if doubt else []), *_remarks(image, xml, main)))


def _elements(image: SaveImage) -> list[Element]:
    if image.envelope is None:
        return []
    try:
        return read_elements(image.envelope.xml, "domain", 0, deepest=4)
    except FormatError:
        return []


def _find(xml: list[Element], *path: str) -> Element | None:
    return next((element for element in xml if element.path == ("domain", *path)), None)


def _text(xml: list[Element], *path: str) -> str:
    element = _find(xml, *path)
    return element.text.strip() if element is not None else ""


def _value(text: str) -> str:
    """Double the commas, as QEMU wants them in a value."""
    return text.replace(",", ",,")


def emulator_of(image: SaveImage) -> tuple[str, str]:
    """Return QEMU's name for the architecture of an image, and what is in doubt about it."""
    element = _find(_elements(image), "os", "type")
    said = element.attributes.get("arch", "") if element is not None else ""
    evidence = evidence_of(image, devices=image.sections is not None)
    doubt = ""
    try:
        names = sorted(evidence.names)
    except CorruptError as error:  # the stream knows better than the XML
        doubt = error.message
        names = sorted(evidence.without("XML").names)
    except SavefmtError as error:
        return _UNKNOWN, error.message
    if not names:
        return _UNKNOWN, "nothing in the image tells the architecture"
    if names == ["x86_64"] and said == "i686":
        return "i386", doubt
    others = ", ".join(f"qemu-system-{ARCHES[name].emulator}" for name in names[1:])
    return ARCHES[names[0]].emulator, f"it may as well be {others}" if others else doubt


def _machine(image: SaveImage, xml: list[Element], main: RamBlock | None) -> str:
    accelerator = "kvm" if xml and xml[0].attributes.get("type") == "kvm" else "tcg"
    words = [_value(image.machine) or "none", f"accel={accelerator}"]
    if main is not None:
        words.append(f"memory-backend={_value(main.idstr)}")
    return ",".join(words)


def _main_memory(image: SaveImage) -> RamBlock | None:
    """Return what the machine calls its RAM, or else the largest block of nobody else's."""
    own = [block for block in image.blocks.values() if "/" not in block.idstr]
    named = [block for block in own if block.idstr.endswith(".ram")]
    return max(named or own, key=lambda block: block.used_length, default=None)


def _memory(main: RamBlock | None, length: int) -> Iterator[tuple[str, ...]]:
    if main is not None:
        size = main.used_length
        yield "-object", f"memory-backend-ram,id={_value(main.idstr)},size={size}"
    yield "-m", f"size={length >> 10}k"


def _vcpus(image: SaveImage, xml: list[Element]) -> int:
    counted = sum(section.idstr == "cpu" for section in image.devices.sections)
    said = _text(xml, "vcpu")
    return counted or (int(said) if re.fullmatch(r"[1-9][0-9]{0,3}", said) else 1)


def _cpu(xml: list[Element]) -> Iterator[tuple[str, ...]]:
    cpu = _find(xml, "cpu")
    model = _text(xml, "cpu", "model")
    if cpu is not None and cpu.attributes.get("mode", "").startswith("host"):
        yield "-cpu", "host"
    elif _WORD.fullmatch(model):
        switches = [
            f"{element.attributes['name']}={'off' if policy in ('disable', 'forbid') else 'on'}"
            for element in xml
            if element.path == ("domain", "cpu", "feature")
            and (policy := element.attributes.get("policy", "require"))
            and _WORD.fullmatch(element.attributes.get("name", ""))
        ]
        yield "-cpu", ",".join([model, *switches])


def _remarks(image: SaveImage, xml: list[Element], main: RamBlock | None) -> Iterator[str]:
    if not xml:
        yield "without XML, the CPU model and the accelerator are guesses"
    emulator = _text(xml, "devices", "emulator")
    if emulator:
        yield f"the XML names the emulator {emulator}"
    for block in image.blocks.values():
        # Machines give names such as pc.rom; one without a dot came from the command line.
        if block != main and not {"/", "."} & set(block.idstr):
            yield f"the RAM block {block.idstr} of {block.used_length} bytes needs its back end"
    devices = sorted({s.idstr for s in image.devices.sections if "/" in s.idstr})
    for name in devices[:_LISTED]:
        yield f"the stream has the device {name}"
    if len(devices) > _LISTED:
        yield f"and {len(devices) - _LISTED} devices more"
    yield "devices that the machine type does not bring along must be added, at the same addresses"
