"""Facts about released libvirt and QEMU: when features came and went, with sources."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

from savefmt.errors import ConversionError
from savefmt.frozen import dataclass, replace

Program = Literal["libvirt", "qemu"]

PROGRAMS: tuple[Program, ...] = ("libvirt", "qemu")


class Release(NamedTuple):
    """A release number such as 10.0.2; what is left out counts as zero."""

    major: int
    minor: int = 0
    micro: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``9``, ``9.0`` or ``9.0.0``.

        Parameters
        ----------
        text : str
            Up to three numbers with dots between them.

        Returns
        -------
        Release
            With zeros for what was left out.

        Raises
        ------
        ConversionError
            If it is something else.
        """
        if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,4}){0,2}", text):
            raise ConversionError(f"{text!r} is not a release; write it like 9.0.0")
        return cls(*map(int, text.split(".")))

    def __str__(self) -> str:
        micro = f".{self.micro}" if self.micro else ""
        return f"{self.major}.{self.minor}{micro}"


_PROPOSED_UPON = Release(10, 4)
"""What libvirt had released when the proposal was posted (June 2024, RFC of mapped-ram)."""
PROPOSED = "proposed"
"""What the libvirt is called that never was: the one with save version 3."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A program in a release, which is to load an image.

    Attributes
    ----------
    program : str
        ``libvirt`` or ``qemu``.
    release : Release
        Which one.
    proposed : bool
        Whether it is that release with the version 3 that was proposed on top of it.
    starts : Release or None
        The QEMU that this libvirt starts, where that is known; see `paired`.
    system : str
        The distribution that ships it, such as ``RHEL 10.1``; empty for the release as such.
    """

    program: Program
    release: Release
    proposed: bool = False
    starts: Release | None = None
    system: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``libvirt=9.0.0`` or ``qemu=8.2.2``.

        Parameters
        ----------
        text : str
            Name of the program, equals sign, release.

        Returns
        -------
        Reader
            Of that program and release.

        Raises
        ------
        ConversionError
            If it names no program, or no release of it.
        """
        name, _, number = (part.strip() for part in text.lower().partition("="))
        if name == "libvirt" and number == PROPOSED:
            return cls("libvirt", _PROPOSED_UPON, proposed=True)
        for program in PROGRAMS:
            if name == program:
                return cls(program, Release.parse(number))
        raise ConversionError(f"{text!r} is not a reader; write libvirt=9.0.0 or qemu=8.2.2")

    @property
    def name(self) -> str:
        """The release as it is written behind ``--for``."""
        return PROPOSED if self.proposed else str(self.release)

    @property
    def vendor(self) -> str:
        """The distribution without its release."""
        return self.system.partition(" ")[0]

    def __str__(self) -> str:
        return f"{'QEMU' if self.program == 'qemu' else 'libvirt'} {self.name}"


def paired(readers: Sequence[Reader]) -> list[Reader]:
    """Let the one libvirt among readers start the one QEMU among them.

    Parameters
    ----------
    readers : sequence of Reader
        As the user names them.

    Returns
    -------
    list of Reader
        The same where there are not just one of each.
    """
    by_program = {
        program: [reader for reader in readers if reader.program == program] for program in PROGRAMS
    }
    if any(len(of_one) != 1 for of_one in by_program.values()):
        return list(readers)
    started = by_program["qemu"][0].release
    return [
        replace(reader, starts=started) if reader.program == "libvirt" else reader
        for reader in readers
    ]


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that releases of one program can do.

    Attributes
    ----------
    key : str
        Name of the fact in the rules.
    program : str
        ``libvirt`` or ``qemu``.
    since : Release or None
        The first release that can; None if none ever could but the proposed one.
    until : Release or None
        The first release that no longer can.
    what : str
        The ability, in words.
    source : str
        Who says so.
    certain : bool
        False where release notes and sources leave the exact number open.
    """

    key: str
    program: Program
    since: Release | None
    what: str
    source: str
    until: Release | None = None
    certain: bool = True

    def holds(self, release: Release) -> bool:
        """Whether a release can."""
        if self.since is None or release < self.since:
            return False
        return self.until is None or release < self.until


_NEWS = "libvirt release notes (NEWS.rst)"
_REMOVED = "QEMU, About, Removed features"
_RECORD = "libvirt's record of what QEMU answers (tests/qemucapabilitiesdata)"
_CAME = "; 7.2 lacks it, 10.0 has it (tried)"
_WENT = "; 7.2 has it, 10.0 lacks it (tried)"

FACTS: tuple[Fact, ...] = (
    Fact(
        "version-2",
        "libvirt",
        Release(0, 7),
        "header version 2: gzip, bzip2, xz and lzop",
        "libvirt sources",
        certain=False,
    ),
    Fact(
        "cookie",
        "libvirt",
        Release(3, 6),
        "the cookie, which keeps the guest's exact CPU",
        "libvirt sources",
        certain=False,
    ),
    Fact("padding", "libvirt", Release(6, 3), "64 KiB of room for later edits of the XML", _NEWS),
    Fact("zstd", "libvirt", Release(10, 4), "compression with zstd", _NEWS + ", 10.4.0"),
    Fact(
        "sparse",
        "libvirt",
        Release(11, 2),
        "the sparse format (mapped-ram) and parallel channels",
        _NEWS + ", 11.2.0",
    ),
    Fact(
        "version-3",
        "libvirt",
        None,
        "header version 3 with a word of features",
        "RFC of mapped-ram on the libvirt list, June 2024; 11.3.0 refuses it (tried)",
    ),
    Fact(
        "queues",
        "libvirt",
        Release(11, 4),
        "refusing another number of virtio-net queues (`queues`), which the guest would see",
        _NEWS + ", 11.4.0; 11.3 lets it pass (tried)",
    ),
    Fact(
        "video",
        "libvirt",
        Release(12, 5),
        "recording whether the video device was virtio-vga or virtio-gpu (`device` of `<model>`)",
        _NEWS + ", 12.5.0; schema of 12.8.0",
    ),
    Fact(
        "fd-of-files",
        "qemu",
        Release(0, 12),
        "fd: of plain files",
        _REMOVED + ", 11.0 (patch of January 2026: deprecated in 9.1, removed in 11.0); "
        "11.1 refuses it, 10.0 takes it (tried)",
        until=Release(11, 0),
        certain=False,
    ),
    Fact(
        "ignore-shared-mapped",
        "qemu",
        Release(11, 0),
        "x-ignore-shared together with mapped-ram",
        "10.0 refuses it, 11.1 loads it (tried)",
    ),
    Fact(
        "configuration",
        "qemu",
        Release(2, 4),
        "the configuration section, which names the machine",
        "QEMU machine types from 2.4 on send it, those of 2.3 do not (tried)",
    ),
    Fact(
        "dirty-bitmaps",
        "qemu",
        Release(2, 12),
        "the disks' dirty bitmaps (dirty-bitmaps)",
        "QEMU 2.12 change log; 7.2 and 10.0 load them (tried)",
    ),
    Fact("ignore-shared", "qemu", Release(4, 0), "x-ignore-shared", "QEMU 4.0 change log"),
    Fact("multifd", "qemu", Release(4, 0), "multifd channels", "QEMU 4.0 change log"),
    Fact(
        "uuid",
        "qemu",
        Release(4, 2),
        "the guest's UUID in the stream (validate-uuid)",
        "QEMU 4.2 change log",
    ),
    Fact(
        "file-uri",
        "qemu",
        Release(8, 2),
        "the URI file:, with an offset",
        f"QEMU 8.2 change log{_CAME}",
    ),
    Fact(
        "mapped-ram",
        "qemu",
        Release(9, 0),
        "mapped-ram",
        "QEMU 9.0 change log; 7.2 refuses it, 10.0 loads it (tried)",
    ),
    Fact(
        "direct-io",
        "qemu",
        Release(9, 1),
        "direct I/O for mapped-ram",
        f"QEMU 9.1 change log{_CAME}",
    ),
    Fact(
        "exit-on-error",
        "qemu",
        Release(9, 1),
        "surviving a load that fails",
        _RECORD + ", 9.1.0" + _CAME,
    ),
    Fact(
        "block-migration",
        "qemu",
        Release(0, 12),
        "block migration (-b), whose section is `block`",
        _REMOVED + _WENT,
        until=Release(9, 1),
        certain=False,
    ),
    Fact(
        "compress",
        "qemu",
        Release(2, 4),
        "pages that QEMU itself compressed one by one (`compress`)",
        "QEMU 2.4 change log; " + _REMOVED + _WENT,
        until=Release(9, 1),
    ),
    Fact(
        "switchover-start",
        "qemu",
        Release(10, 0),
        "command 11, SWITCHOVER_START",
        "QEMU hw/core/machine.c (hw_compat_9_2)" + _CAME,
    ),
)
"""All facts that the rules use.  Machine types have a table of their own in `machines`."""

_BY_KEY = {(fact.program, fact.key): fact for fact in FACTS}

NEWEST: dict[Program, Release] = {"libvirt": Release(12, 8), "qemu": Release(11, 1)}
"""Where these tables end."""

MILESTONES: tuple[Reader, ...] = (
    Reader("libvirt", Release(1, 0)),
    Reader("libvirt", Release(3, 6)),
    Reader("libvirt", Release(6, 3)),
    Reader("libvirt", Release(10, 4)),
    Reader("libvirt", Release(11, 2)),
    Reader("libvirt", Release(11, 3)),
    Reader("libvirt", Release(12, 1)),
    Reader("libvirt", Release(12, 4)),
    Reader("libvirt", Release(12, 8)),
    Reader("libvirt", _PROPOSED_UPON, proposed=True),
    Reader("qemu", Release(2, 4)),
    Reader("qemu", Release(4, 0)),
    Reader("qemu", Release(4, 2)),
    Reader("qemu", Release(7, 2)),
    Reader("qemu", Release(8, 2)),
    Reader("qemu", Release(9, 0)),
    Reader("qemu", Release(9, 1)),
    Reader("qemu", Release(10, 0)),
    Reader("qemu", Release(10, 1)),
    Reader("qemu", Release(10, 2)),
    Reader("qemu", Release(11, 0)),
    Reader("qemu", Release(11, 1)),
)
"""Releases between which behaviour changed, up to the newest: the rows of ``compat --all``."""


def was_released(reader: Reader) -> bool:
    """Whether there was such a release, as far as their numbers follow a rule.

    QEMU has three a year from 4.0 on, libvirt eleven from 3.0 on.
    """
    if reader.release.major < {"libvirt": 3, "qemu": 4}[reader.program]:
        return True
    return reader.release.minor <= {"libvirt": 10, "qemu": 2}[reader.program]


def fact(program: Program, key: str) -> Fact:
    """Return the fact with that name; KeyError if there is no such fact."""
    return _BY_KEY[program, key]


def can(reader: Reader, key: str) -> bool:
    """Tell whether a reader has an ability of its program."""
    known = fact(reader.program, key)
    return reader.proposed if known.since is None else known.holds(reader.release)
