"""Which system a guest runs: made-up marks, and what only looks like one."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from builder import PAGE_SIZE
from scanning import FORMS, opened

from savefmt.scan.system import identify
from savefmt.scan.values import SystemHint

RELEASE = "6.1.0-56-cloud-amd64"
BANNER = f"Linux version {RELEASE} (b@d.org) (gcc-12 (Debian) 12.2.0) #1 SMP Debian 6.1 (2026)\n"
INFO = (
    f"OSRELEASE={RELEASE}\nBUILD-ID=3b43\nPAGESIZE=4096\nSYMBOL(init_uts_ns)=ffffffffa9ff9\n"
    "NUMBER(phys_base)=-532676608\nKERNELOFFSET=27400000\n"
)
KERNEL_BASE = 0xFFFF_F801_2340_0000
PDB = (
    b"RSDS"
    + bytes.fromhex("67452301ab89efcd0123456789abcdef")
    + struct.pack("<I", 2)
    + b"ntkrnlmp.pdb\0"
)


def note(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<III", 11, len(data), 0) + b"VMCOREINFO\0\0" + data


def header(base: int = KERNEL_BASE, length: int = 8 * PAGE_SIZE) -> bytes:
    """Return the first page of a 64-bit kernel that was loaded."""
    out = bytearray(PAGE_SIZE)
    out[:2] = b"MZ"
    struct.pack_into("<I", out, 0x3C, 0x110)
    struct.pack_into("<4sHHI", out, 0x110, b"PE\0\0", 0x8664, 20, 0x5F00_0000)
    struct.pack_into("<H", out, 0x110 + 24, 0x20B)
    struct.pack_into("<Q", out, 0x110 + 48, base)
    struct.pack_into("<I", out, 0x110 + 80, length)
    return bytes(out)


def start_block() -> bytes:
    out = bytearray(PAGE_SIZE)
    struct.pack_into("<Q", out, 0, 0x0000_0001_0006_00E9)
    struct.pack_into("<Q", out, 0x70, KERNEL_BASE + 0x1234 * 4)
    struct.pack_into("<Q", out, 0xA0, 0x001A_D000)
    return bytes(out)


def memory(**pages: bytes) -> bytes:
    """Return 40 pages with these contents: ``p3`` names page 3, ``p3_100`` a place in it."""
    out = bytearray(40 * PAGE_SIZE)
    for name, data in pages.items():
        number, _, offset = name[1:].partition("_")
        at = int(number) * PAGE_SIZE + int(offset or 0)
        out[at : at + len(data)] = data
    return bytes(out)


@pytest.fixture
def identified(tmp_path: Path) -> Iterator[type]:
    """Give what tells the system of a guest with this memory."""
    with ExitStack() as stack:

        def of(ram: bytes, form: str = "mapped") -> SystemHint:
            return identify(opened(stack, tmp_path, form, {"pc.ram": ram}))

        yield of  # type: ignore[misc]


@pytest.mark.parametrize("form", FORMS)
def test_linux(form: str, identified: type) -> None:
    banner = BANNER.encode()
    hint = identified(memory(p3_4090=banner, p9=note(INFO), p12_7=b"Linux version %s (%s)"), form)

    assert (hint.system, hint.version, hint.kaslr_shift) == ("linux", RELEASE, 0x2740_0000)
    core, line = hint.evidence
    assert (core.kind, core.offset) == ("linux.vmcoreinfo", 9 * PAGE_SIZE)
    assert ("BUILD-ID", "3b43") in core.detail
    assert (line.kind, line.offset) == ("linux.banner", 3 * PAGE_SIZE + 4090)
    assert line.value == BANNER.strip()
    assert hint.notes == ()


def test_linux_without_its_note(identified: type) -> None:
    hint = identified(memory(p3=BANNER.encode()))

    assert (hint.system, hint.version, hint.kaslr_shift) == ("linux", RELEASE, None)


@pytest.mark.parametrize(
    "fake",
    [
        b"Linux version %s (%s@%s) (%s) #1 SMP",
        b"Linux version 6.1 (\x01\x02\x03 broken off",
        struct.pack("<III", 11, 1 << 20, 0) + b"VMCOREINFO\0\0OSRELEASE=1\n",
        struct.pack("<III", 11, 4000, 0) + b"VMCOREINFO\0\0" + b"\xff" * 100,
        b"RSDX" + PDB[4:],
        b"MZ ntkrnlmp.pdb\0",
        b"x.amd64fre.y",
    ],
)
def test_what_only_looks_like_a_mark(fake: bytes, identified: type) -> None:
    hint = identified(memory(p3=fake))

    assert hint.system is None
    assert hint.evidence == ()


def test_a_note_at_the_end_of_memory(identified: type) -> None:
    data = note(INFO)
    ram = bytearray(memory())
    ram[-40:] = data[:40]

    assert identified(bytes(ram)).system is None


def test_windows(identified: type) -> None:
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


def test_a_header_that_does_not_reach_is_not_the_kernels(identified: type) -> None:
    hint = identified(memory(p20=header(length=2 * PAGE_SIZE), p24=PDB))

    assert hint.kernel_base is None
    assert [mark.kind for mark in hint.evidence] == ["windows.pdb"]


def test_doubts_are_told(identified: type) -> None:
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


def test_many_false_marks_are_bounded(identified: type) -> None:
    ram = memory(p0=BANNER.encode() * 1000)

    assert len(identified(ram).evidence) == 64
