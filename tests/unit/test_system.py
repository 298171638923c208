"""Which system a guest runs: made-up marks, and what only looks like one."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from builder import PAGE_SIZE
from scanning import FORMS, KERNEL_BASE, PDB, header, opened, start_block

from savefmt.scan.ntmarks import find_header, parse_header
from savefmt.scan.results import SystemHint
from savefmt.scan.system import identify

RELEASE = "6.1.0-56-cloud-amd64"
BANNER = f"Linux version {RELEASE} (b@d.org) (gcc-12 (Debian) 12.2.0) #1 SMP Debian 6.1 (2026)\n"
INFO = (
    f"OSRELEASE={RELEASE}\nBUILD-ID=3b43\nPAGESIZE=4096\nSYMBOL(init_uts_ns)=ffffffffa9ff9\n"
    "NUMBER(phys_base)=-532676608\nKERNELOFFSET=27400000\n"
)


def note(text: str, order: str = "<") -> bytes:
    data = text.encode()
    return struct.pack(f"{order}III", 11, len(data), 0) + b"VMCOREINFO\0\0" + data


def memory(**pages: bytes) -> bytes:
    """Return 40 pages with these contents: ``p3`` names page 3, ``p3_100`` a place in it."""
    out = bytearray(40 * PAGE_SIZE)
    for name, data in pages.items():
        number, _, offset = name[1:].partition("_")
        at = int(number) * PAGE_SIZE + int(offset or 0)
        out[at : at + len(data)] = data
    return bytes(out)


@pytest.fixture
def identified(tmp_path: Path) -> Iterator[Callable[..., SystemHint]]:
    """Give what tells the system of a guest with this memory."""
    with ExitStack() as stack:

        def of(ram: bytes, form: str = "mapped") -> SystemHint:
            return identify(opened(stack, tmp_path, form, {"pc.ram": ram}))

        yield of


@pytest.mark.parametrize("form", FORMS)
def test_linux(form: str, identified: Callable[..., SystemHint]) -> None:
    banner = BANNER.encode()
    hint = identified(memory(p3_4090=banner, p9=note(INFO), p12_7=b"Linux version %s (%s)"), form)

    assert (hint.system, hint.version, hint.kaslr_shift) == ("linux", RELEASE, 0x2740_0000)
    core, line = hint.evidence
    assert (core.kind, core.offset) == ("linux.vmcoreinfo", 9 * PAGE_SIZE)
    assert ("BUILD-ID", "3b43") in core.detail
    assert (line.kind, line.offset) == ("linux.banner", 3 * PAGE_SIZE + 4090)
    assert line.value == BANNER.strip()
    assert hint.notes == ()


def test_the_note_of_a_big_endian_guest(identified: Callable[..., SystemHint]) -> None:
    hint = identified(memory(p9=note(INFO, ">")))

    assert (hint.system, hint.version, hint.kaslr_shift) == ("linux", RELEASE, 0x2740_0000)


def test_linux_without_its_note(identified: Callable[..., SystemHint]) -> None:
    hint = identified(memory(p3=BANNER.encode()))

    assert (hint.system, hint.version, hint.kaslr_shift) == ("linux", RELEASE, None)


@pytest.mark.parametrize(
    "fake",
    [
        b"Linux version %s (%s@%s) (%s) #1 SMP",
        b"Linux version 6.1 (\x01\x02\x03 broken off",
        struct.pack("<III", 11, 1 << 20, 0) + b"VMCOREINFO\0\0OSRELEASE=1\n",
        struct.pack(">III", 11, 1 << 20, 0) + b"VMCOREINFO\0\0OSRELEASE=1\n",
        struct.pack("<I", 11) + struct.pack(">II", 100, 0) + b"VMCOREINFO\0\0OSRELEASE=1\n",
        struct.pack("<III", 11, 4000, 0) + b"VMCOREINFO\0\0" + b"\xff" * 100,
        b"RSDX" + PDB[4:],
        b"MZ ntkrnlmp.pdb\0",
        b"x.amd64fre.y",
    ],
)
def test_what_only_looks_like_a_mark(fake: bytes, identified: Callable[..., SystemHint]) -> None:
    hint = identified(memory(p3=fake))

    assert hint.system is None
    assert hint.evidence == ()


def test_a_note_at_the_end_of_memory(identified: Callable[..., SystemHint]) -> None:
    data = note(INFO)
    ram = bytearray(memory())
    ram[-40:] = data[:40]

    assert identified(bytes(ram)).system is None


def test_windows(identified: Callable[..., SystemHint]) -> None:
    build = b"19041.1.amd64fre.vb_release.191206-1406\0"
    hint = identified(memory(p1=start_block(), p20=header(), p24_100=PDB, p26=build))

    assert (hint.system, hint.kernel_base) == ("windows", KERNEL_BASE)
    assert hint.version == "19041.1.amd64fre.vb_release.191206-1406"
    kinds = [mark.kind for mark in hint.evidence]
    assert kinds == ["windows.kernel", "windows.pdb", "windows.start-block", "windows.build"]
    kernel, pdb, start, _ = hint.evidence
    assert kernel.offset == 20 * PAGE_SIZE
    assert (pdb.offset, pdb.detail) == (
        24 * PAGE_SIZE + 100,
        (("symbols", "0123456789ABCDEF0123456789ABCDEF2"),),
    )
    assert start.detail == (("cr3", "0x1ad000"), ("kernel", hex(KERNEL_BASE + 0x1234 * 4)))


def test_a_header_that_does_not_reach_is_not_the_kernels(
    identified: Callable[..., SystemHint],
) -> None:
    hint = identified(memory(p20=header(length=2 * PAGE_SIZE), p24=PDB))

    assert hint.kernel_base is None
    assert [mark.kind for mark in hint.evidence] == ["windows.pdb"]


def test_header_in_scattered_pages() -> None:
    """By virtual address, where neighbours need not be so in memory, nor be there at all."""
    pages = {KERNEL_BASE: header(), KERNEL_BASE + 3 * PAGE_SIZE: b"MZ".ljust(PAGE_SIZE, b"\0")}

    found = find_header(pages.get, KERNEL_BASE + 5 * PAGE_SIZE + 77)

    assert found is not None
    assert found[0] == KERNEL_BASE
    assert (found[1].base, found[1].machine) == (KERNEL_BASE, "x86_64")
    assert find_header(pages.get, KERNEL_BASE + 9 * PAGE_SIZE) is None
    assert find_header(pages.get, 5 * PAGE_SIZE) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda page: page[:0x3C] + b"\xff\xff\xff\xff" + page[0x40:],
        lambda page: page[:0x110] + b"NE\0\0" + page[0x114:],
        lambda page: page[:0x114] + b"\0\0" + page[0x116:],
        lambda page: page[: 0x110 + 24] + b"\0\0" + page[0x110 + 26 :],
        lambda page: page[: 0x110 + 80] + b"\xff\xff\xff\xff" + page[0x110 + 84 :],
    ],
)
def test_headers_that_make_no_sense(spoil: Callable[[bytes], bytes]) -> None:
    assert parse_header(header()) is not None
    assert parse_header(spoil(header())) is None


def test_doubts_are_told(identified: Callable[..., SystemHint]) -> None:
    other = BANNER.replace("6.1.0-56", "5.10.0-1")
    hint = identified(
        memory(
            p3=BANNER.encode(),
            p4=other.encode(),
            p5=note(INFO),
            p6=note(INFO.replace("27400000", "1000000")),
            p20=header(),
            p24=PDB,
        )
    )

    assert hint.system == "linux"
    assert [note.split()[0:2] for note in hint.notes] == [
        ["more", "than"],
        ["the", "kernel's"],
        ["there", "are"],
    ]


def test_many_false_marks_are_bounded(identified: Callable[..., SystemHint]) -> None:
    ram = memory(p0=BANNER.encode() * 1000)

    assert len(identified(ram).evidence) == 64
