"""What keeps a release of libvirt or QEMU from loading an image, one rule a function."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator

from savefmt.compat.armregisters import named, unknown_registers
from savefmt.compat.machines import Standing, came_in, gone_in, lack_of_type
from savefmt.compat.pitfalls import met
from savefmt.compat.releases import NEWEST, Reader, can, fact, was_released
from savefmt.compat.traits import Traits
from savefmt.format.configuration import IGNORE_SHARED
from savefmt.frozen import dataclass

BLOCK_SECTION = "block"
"""Where block migration puts the contents of disks (format.md 3.7)."""


class Weight(enum.Enum):
    """How much an obstacle weighs."""

    ASIDE = "loads, and there is something to know"
    NEED = "loads if something else is there, too"
    RISK = "loads, but the guest may differ from the saved one"
    BLOCK = "does not load"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Something in the way of a reader; `code` is stable."""

    code: str
    weight: Weight
    reason: str

    @property
    def blocks(self) -> bool:
        """Whether the image cannot be loaded."""
        return self.weight is Weight.BLOCK


Rule = Callable[[Traits, Reader], Iterator[Obstacle]]


def _no(code: str, reason: str) -> Obstacle:
    return Obstacle(code, Weight.BLOCK, reason)


def _risk(code: str, reason: str) -> Obstacle:
    return Obstacle(code, Weight.RISK, reason)


def _aside(code: str, reason: str) -> Obstacle:
    return Obstacle(code, Weight.ASIDE, reason)


def _need(code: str, reason: str) -> Obstacle:
    return Obstacle(code, Weight.NEED, reason)


def _when(reader: Reader, key: str) -> str:
    """Say in which release the ability that a reader lacks came, or was removed."""
    known = fact(reader.program, key)
    if known.until is not None and reader.release >= known.until:
        return f"was removed in {Reader(reader.program, known.until)}"
    assert known.since is not None
    about = "" if known.certain else "about "
    return f"came with {about}{Reader(reader.program, known.since)}"


# libvirt


def _is_an_image(traits: Traits, reader: Reader) -> Iterator[Obstacle]:
    if traits.form.version is None:
        yield _no("bare", "it is a bare QEMU stream without libvirt's header and domain XML")
    if not traits.finished:
        yield _no("unfinished", "the save never finished")


def _version(traits: Traits, reader: Reader) -> Iterator[Obstacle]:
    if traits.form.version == 3 and not can(reader, "version-3"):
        yield _no("version", "header version 3 was proposed and never released")
    elif traits.form.version == 2 and not can(reader, "version-2"):
        yield _no("version", f"header version 2 {_when(reader, 'version-2')}")


def _format(traits: Traits, reader: Reader) -> Iterator[Obstacle]:
    form = traits.form
    by_feature = form.version == 3
    if form.mapped and not by_feature and not can(reader, "sparse"):
        yield _no("format", f"the sparse format {_when(reader, 'sparse')}")
    elif form.codec == "zstd" and not can(reader, "zstd"):
        yield _no("format", f"the zstd format {_when(reader, 'zstd')}")
    if (
        form.mapped
        and reader.starts is None
        and can(reader, "version-3" if by_feature else "sparse")
    ):
        yield _need("qemu", "the QEMU it starts must be 9.0 or later")
    if form.codec != "raw":
        yield _need("program", f"the program {form.codec} must be in libvirt's PATH")


def _pair(traits: Traits, reader: Reader) -> Iterator[Obstacle]:
    """What matters about the QEMU that a libvirt starts; that QEMU has a verdict of its own."""
    if reader.starts is None:
        return
    plain = not traits.form.mapped and traits.form.codec == "raw"
    rules = (
        ("too-old", True, _no),
        ("raw-file", plain, _need),
        # Distributions fix what they ship: some have the fix in an earlier release.
        ("threads", traits.without_ht, _risk if reader.system else _no),
        ("no-save", True, _aside),
        ("direct-io", traits.form.mapped, _aside),
    )
    for key, matters, weigh in rules:
        pitfall = met(key, reader.release, reader.starts)
        if matters and pitfall is not None:
            yield weigh("pair", pitfall.what)


def _video(traits: Traits, reader: Reader) -> Iterator[Obstacle]:
    if traits.virtio_video:
        yield _aside(
            "video",
            "the QEMU it starts must have the guest's video device, virtio-vga or virtio-gpu: "
            f"its XML does not tell which before libvirt {fact('libvirt', 'video').since}",
        )


def _unknown_release(traits: Traits, reader: Reader) -> Iterator[Obstacle]:
    newest = NEWEST[reader.program]
    if reader.release[:2] > newest[:2]:
        yield _risk("release", f"savefmt does not know it: its tables end with {newest}")
    elif not was_released(reader):
        yield _risk("release", "there was no such release")


def _label(traits: Traits, reader: Reader) -> Iterator[Obstacle]:
    if traits.form.mislabelled:
        yield _no("label", "the header names a layout that is not that of the stream")


def _extras(traits: Traits, reader: Reader) -> Iterator[Obstacle]:
    if traits.has_cookie and not can(reader, "cookie"):
        yield _risk(
            "cookie", f"it ignores the cookie, which {_when(reader, 'cookie')}: the CPU may differ"
        )
    if traits.unused:
        yield _risk("unused", "it ignores spare words of the header that are not zero")


# QEMU


def _machine(traits: Traits, reader: Reader) -> Iterator[Obstacle]:
    machine = traits.machine
    lack = lack_of_type(machine, reader.system) if reader.system else None
    if lack is not None:
        if lack:
            yield _no("machine", lack)
        return
    match machine.standing(reader.release):
        case Standing.TOO_NEW:
            yield _no(
                "machine", f"the machine type {machine.name} came with QEMU {came_in(machine)}"
            )
        case Standing.REMOVED:
            yield _no(
                "machine", f"the machine type {machine.name} was removed in QEMU {gone_in(machine)}"
            )
        case Standing.DEPRECATED:
            gone = gone_in(machine)
            yield _need(
                "machine",
                f"the machine type {machine.name} is deprecated and will be removed in QEMU {gone}",
            )
        case Standing.UNVERSIONED:
            yield _risk(
                "machine",
                f"the machine type {machine.name} has no version, so its devices may differ "
                "from release to release",
            )
        case Standing.VENDOR if reader.vendor == machine.vendor:
            return
        case Standing.VENDOR:
            yield _risk(
                "machine",
                f"the machine type {machine.name} is {machine.vendor}'s own: QEMU as released "
                "does not have it; try --host",
            )
        case Standing.FOREIGN:
            yield _risk(
                "machine",
                f"no table tells which QEMU has the machine type {machine.name}; try --host",
            )
        case Standing.UNNAMED:
            yield _risk(
                "machine", "the stream does not name its machine type, which must be the same"
            )
        case Standing.KNOWN:
            return


def _finished(traits: Traits, reader: Reader) -> Iterator[Obstacle]:
    if not traits.finished:
        yield _no("unfinished", "the save never finished")


def _layout(traits: Traits, reader: Reader) -> Iterator[Obstacle]:
    form = traits.form
    if form.mapped and not can(reader, "mapped-ram"):
        yield _no("layout", f"mapped-ram {_when(reader, 'mapped-ram')}")
    elif form.mapped and not can(reader, "direct-io"):
        yield _need(
            "direct-io",
            f"it reads through the page cache: direct I/O {_when(reader, 'direct-io')}",
        )
    if form.codec != "raw":
        yield _need("codec", f"the {form.codec} stream must be decompressed on its way in")
    elif not form.mapped and not can(reader, "file-uri"):
        yield _need(
            "file-uri", f"it must be given a descriptor: the URI file: {_when(reader, 'file-uri')}"
        )


def _capabilities(traits: Traits, reader: Reader) -> Iterator[Obstacle]:
    shared = IGNORE_SHARED in traits.capabilities
    if shared and not can(reader, "ignore-shared"):
        yield _no("capability", f"x-ignore-shared {_when(reader, 'ignore-shared')}")
    if shared and traits.form.mapped and not can(reader, "ignore-shared-mapped"):
        yield _no(
            "capability",
            f"x-ignore-shared together with mapped-ram {_when(reader, 'ignore-shared-mapped')}",
        )
    elif shared:
        yield _need(
            "capability", "the memory left out (x-ignore-shared) must still be where it was"
        )
    if traits.has_bitmaps and not can(reader, "dirty-bitmaps"):
        yield _no("bitmaps", f"loading dirty bitmaps {_when(reader, 'dirty-bitmaps')}")
    if traits.has_uuid and not can(reader, "uuid"):
        yield _no("uuid", f"the UUID in the stream {_when(reader, 'uuid')}")


def _commands(traits: Traits, reader: Reader) -> Iterator[Obstacle]:
    if traits.form.switchover and not can(reader, "switchover-start"):
        yield _no("command", f"command 11 in the stream {_when(reader, 'switchover-start')}")


def _removed(traits: Traits, reader: Reader) -> Iterator[Obstacle]:
    if BLOCK_SECTION in traits.sections and not can(reader, "block-migration"):
        yield _no(
            "block-migration",
            f"it holds disks of block migration, which {_when(reader, 'block-migration')}",
        )
    if traits.compressed_pages and not can(reader, "compress"):
        yield _no(
            "compress", f"QEMU's `compress`, with which it was saved, {_when(reader, 'compress')}"
        )
    elif traits.compressed_pages:
        yield _need("compress", "the migration capability `compress` must be on")


def _registers(traits: Traits, reader: Reader) -> Iterator[Obstacle]:
    unknown, unsure = unknown_registers(traits.registers, reader.release)
    if unknown:
        yield _no("registers", f"it does not know the system registers {named(unknown)}")
    elif unsure:
        yield _risk("registers", f"it may not know the system registers {named(unsure)}")


def _configuration(traits: Traits, reader: Reader) -> Iterator[Obstacle]:
    if traits.configured and not can(reader, "configuration"):
        yield _no("configuration", f"the configuration section {_when(reader, 'configuration')}")


RULES: dict[str, tuple[Rule, ...]] = {
    "libvirt": (
        *(_unknown_release, _is_an_image, _version, _format, _label, _extras, _pair),
        _video,
    ),
    "qemu": (
        *(_unknown_release, _finished, _machine, _configuration, _layout, _capabilities),
        *(_commands, _removed, _registers),
    ),
}
"""The rules of each program; an image is loadable where none of them blocks."""


def obstacles(traits: Traits, reader: Reader) -> list[Obstacle]:
    """Return all that stands between an image and a reader."""
    return [found for rule in RULES[reader.program] for found in rule(traits, reader)]
