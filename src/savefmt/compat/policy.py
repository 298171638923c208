"""What to write: from a request, QEMU's abilities and the target to a plan or a refusal."""

from __future__ import annotations

import enum

from savefmt.compat.machines import Machine
from savefmt.compat.pitfalls import DIRECT_IO_STAYS
from savefmt.compat.releases import Reader, Release, can
from savefmt.compat.rules import obstacles
from savefmt.compat.traits import Form, Traits
from savefmt.format.configuration import MAPPED_RAM
from savefmt.format.envelope import FEATURE_MAPPED_RAM, FORMAT_NUMBERS
from savefmt.frozen import dataclass
from savefmt.model import Layout
from savefmt.reports import Refusal, SavePlan

MULTIFD = "multifd"
MAX_CHANNELS = 64
"""QEMU takes up to 255 (its QAPI schema, multifd-channels); beyond this they only contend."""

SAVE_VERSIONS = ("3", "2", "upstream")
"""The proposed version 3; version 2, sequential; version 2 with format sparse."""
FORMATS = ("auto", *FORMAT_NUMBERS)
"""``auto`` takes mapped-ram where that can be had."""


class Missing(enum.StrEnum):
    """What to do where something asked for cannot be had."""

    PREFER = "prefer"
    REQUIRE = "require"


@dataclass(frozen=True, slots=True)
class SaveRequest:
    """What is asked for, flags and configuration already joined.

    Attributes
    ----------
    save_version : str or None
        One of `SAVE_VERSIONS`; None leaves it to the reader: `upstream` for a released
        libvirt, else 3.
    format : str
        One of `FORMATS`.
    parallel : int or None
        Channels; implies mapped-ram.
    bypass_cache : bool
        Keep the page cache out of it.
    missing : Missing
        Fall back, or refuse.
    readers : tuple of Reader
        The readers that must be able to load the result.

    Raises
    ------
    ValueError
        If there is no such save version, format or way.
    """

    save_version: str | None = None
    format: str = "auto"
    parallel: int | None = None
    bypass_cache: bool = False
    missing: Missing = Missing.PREFER
    readers: tuple[Reader, ...] = ()

    def __post_init__(self) -> None:
        if self.save_version not in (None, *SAVE_VERSIONS):
            there = ", ".join(SAVE_VERSIONS)
            raise ValueError(f"no save version {self.save_version!r}; there are {there}")
        if self.format not in FORMATS:
            raise ValueError(f"no format {self.format!r}; there are {', '.join(FORMATS)}")
        Missing(self.missing)

    @property
    def form(self) -> str:
        """The save version that counts."""
        if self.save_version is not None:
            return self.save_version
        released = any(r.program == "libvirt" and not r.proposed for r in self.readers)
        return "upstream" if released else "3"

    @property
    def needs_mapped(self) -> bool:
        """Whether mapped-ram was asked for by name or by implication."""
        return self.format == "sparse" or self.parallel is not None


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a QEMU can do, as it says itself; and whether its ``direct-io`` is set now."""

    mapped_ram: bool
    direct_io: bool
    multifd: bool = True
    direct_io_set: bool = False


def abilities_of(release: Release) -> Abilities:
    """Return what a release of QEMU can do by the table of facts."""
    reader = Reader("qemu", release)
    return Abilities(
        mapped_ram=can(reader, "mapped-ram"),
        direct_io=can(reader, "direct-io"),
        multifd=can(reader, "multifd"),
    )


class DestinationKind(enum.StrEnum):
    """What the target is."""

    FILE = "file"
    PIPE = "pipe"
    SOCKET = "socket"
    CHARACTER = "character device"
    BLOCK = "block device"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the image goes, and whether its file system grants direct I/O."""

    kind: DestinationKind = DestinationKind.FILE
    direct: bool = True


def plan_save(
    request: SaveRequest, abilities: Abilities, target: Destination
) -> SavePlan | Refusal:
    """Decide how a guest is saved.

    Parameters
    ----------
    request : SaveRequest
        What is asked for.
    abilities : Abilities
        Of the QEMU that runs the guest.
    target : Destination
        Where the image goes.

    Returns
    -------
    SavePlan or Refusal
        The same result for the same arguments, on every host and at any time.
    """
    refusal = _contradiction(request)
    if refusal is not None:
        return refusal
    sequential = "raw" if request.format in ("auto", "sparse") else request.format
    notes: list[str] = []
    if _wants_mapped(request):
        lack = _lack_of_mapped(request, abilities, target) or _better_past_the_cache(
            request, abilities, target
        )
        if lack is None:
            return _mapped_plan(request, abilities, target)
        if request.missing == Missing.REQUIRE:
            return lack
        notes.append(f"sequential instead of mapped-ram: {lack.reason}")
        if request.parallel is not None:
            notes.append("one stream instead of parallel channels")
    notes += direct_io_notes(abilities)
    return _sequential_plan(request, sequential, target, notes)


def direct_io_notes(abilities: Abilities) -> tuple[str, ...]:
    """Warn of a QEMU in which an earlier restore left ``direct-io`` set."""
    if not abilities.direct_io_set:
        return ()
    return (
        "direct-io is set in this QEMU, as virsh restore --bypass-cache leaves it: its next sparse "
        f"virsh save without --bypass-cache ends it; {DIRECT_IO_STAYS.remedy}",
    )


def _contradiction(request: SaveRequest) -> Refusal | None:
    """Find what no host could do."""
    if request.parallel is not None and not 1 <= request.parallel <= MAX_CHANNELS:
        return Refusal(
            "channels",
            f"{request.parallel} parallel channels make no sense",
            f"ask for 1 to {MAX_CHANNELS}",
        )
    if request.form == "2" and request.needs_mapped:
        what = "parallel channels need" if request.parallel is not None else "sparse means"
        return Refusal(
            "version-2",
            f"{what} mapped-ram, which save version 2 leaves out",
            "choose save version 3, or upstream for a released libvirt",
        )
    if request.parallel is not None and request.format not in ("auto", "sparse"):
        return Refusal(
            "parallel-sequential",
            f"parallel channels need mapped-ram, and the format {request.format} is sequential",
            "leave the format open, choose sparse, or give up the channels",
        )
    return None


def _wants_mapped(request: SaveRequest) -> bool:
    return request.form != "2" and request.format in ("auto", "sparse")


def _lack_of_mapped(
    request: SaveRequest, abilities: Abilities, target: Destination
) -> Refusal | None:
    if not abilities.mapped_ram:
        return Refusal(
            "no-mapped-ram",
            "this QEMU has no mapped-ram, which came with 9.0",
            "use a newer QEMU, or let it fall back with --prefer",
        )
    if target.kind != DestinationKind.FILE:
        return Refusal(
            "not-seekable",
            f"mapped-ram needs a regular file, and the target is a {target.kind}",
            "name a file, or let it fall back with --prefer",
        )
    form = Form(_version(request), Layout.MAPPED_RAM, "raw")
    reason = _objection(request, form)
    if reason is not None:
        return Refusal("reader", reason, "name a newer reader, or let it fall back with --prefer")
    needs_multifd = request.parallel is not None
    if needs_multifd and not abilities.multifd:
        return Refusal(
            "no-multifd",
            "this QEMU has no multifd, which parallel channels need",
            "use a newer QEMU, or give up the channels",
        )
    if request.missing == Missing.REQUIRE and request.bypass_cache:
        return _lack_of_direct(abilities, target)
    return None


def _better_past_the_cache(
    request: SaveRequest, abilities: Abilities, target: Destination
) -> Refusal | None:
    """Prefer what was asked for to what was left open: past the cache to mapped-ram."""
    if request.bypass_cache and not request.needs_mapped and target.direct:
        return _lack_of_direct(abilities, target)
    return None


def _lack_of_direct(abilities: Abilities, target: Destination) -> Refusal | None:
    if not abilities.direct_io or not abilities.multifd:
        return Refusal(
            "no-direct-io",
            "this QEMU cannot bypass the page cache, which came with 9.1 and needs multifd",
            "use a newer QEMU, or let it fall back with --prefer",
        )
    if not target.direct:
        return _REFUSED_DIRECT
    return None


_REFUSED_DIRECT = Refusal(
    "direct-refused",
    "the file system of the target does not grant direct I/O",
    "choose another folder, or let it fall back with --prefer",
)


def _objection(request: SaveRequest, form: Form) -> str | None:
    """Ask the readers; this code cannot choose the machine type."""
    traits = Traits(form, Machine.parse("none"))
    for reader in request.readers:
        for obstacle in obstacles(traits, reader):
            if obstacle.blocks:
                return f"{reader} cannot load it: {obstacle.reason}"
    return None


def _version(request: SaveRequest) -> int:
    return 3 if request.form == "3" else 2


def _mapped_plan(request: SaveRequest, abilities: Abilities, target: Destination) -> SavePlan:
    lack = _lack_of_direct(abilities, target) if request.bypass_cache else None
    direct = request.bypass_cache and lack is None
    notes = [f"through the page cache: {lack.reason}"] if lack is not None else []
    if direct and request.form == "upstream":
        notes.append(f"{DIRECT_IO_STAYS.what}; {DIRECT_IO_STAYS.remedy}")
    channels = request.parallel or int(direct)
    version = _version(request)
    return SavePlan(
        form=request.form,
        version=version,
        format=0 if version == 3 else FORMAT_NUMBERS["sparse"],
        features=FEATURE_MAPPED_RAM if version == 3 else 0,
        layout=Layout.MAPPED_RAM,
        codec="raw",
        capabilities=(MAPPED_RAM, MULTIFD) if channels else (MAPPED_RAM,),
        channels=channels,
        direct=direct,
        writer="qemu",
        descriptors=("plain", "direct") if direct else ("plain",),
        notes=(*notes, *direct_io_notes(abilities)),
    )


def _sequential_plan(
    request: SaveRequest, codec: str, target: Destination, notes: list[str]
) -> SavePlan | Refusal:
    if target.kind == DestinationKind.SOCKET:
        return Refusal(
            "target",
            f"the target is a {target.kind}, which is not written to",
            "name a file or a pipe",
        )
    version = _version(request)
    reason = _objection(request, Form(version, Layout.SEQUENTIAL, codec))
    if reason is not None:
        return Refusal("reader", reason, "choose another format, save version or reader")
    direct = request.bypass_cache and target.direct
    if request.bypass_cache and not direct:
        if request.missing == Missing.REQUIRE:
            return _REFUSED_DIRECT if target.kind == DestinationKind.FILE else _NO_CACHE_THERE
        notes.append("through the page cache: the target does not support direct I/O")
    return SavePlan(
        form=request.form,
        version=version,
        format=FORMAT_NUMBERS[codec],
        features=0,
        layout=Layout.SEQUENTIAL,
        codec=codec,
        capabilities=(),
        channels=0,
        direct=direct,
        writer="savefmt",
        descriptors=("pipe",),
        notes=tuple(notes),
    )


_NO_CACHE_THERE = Refusal(
    "direct-refused",
    "only a regular file can be written past the page cache",
    "name a file, or give up bypassing the cache",
)
