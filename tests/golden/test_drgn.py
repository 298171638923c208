"""drgn reads memory and vCPUs of golden images in which a kernel has left its VMCOREINFO."""

from __future__ import annotations

import gc
import os
import struct
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

import savefmt
from golden import load
from savefmt.drgn import program
from savefmt.errors import UnsupportedError
from savefmt.guest.arch.x86 import X86Registers

KERNEL_OFFSET = 0x11000000
TEXT = (
    b"""\
OSRELEASE=6.1.0-canary
PAGESIZE=4096
SYMBOL(swapper_pg_dir)=ffffffff82810000
NUMBER(phys_base)=0
KERNELOFFSET=%x
"""
    % KERNEL_OFFSET
)
NOTE = struct.pack("<III12s", 11, len(TEXT), 0, b"VMCOREINFO") + TEXT
PAGE = 7


def leave_note(path: Path) -> None:
    """Put a kernel's VMCOREINFO over one of the numbered pages."""
    head = struct.pack("<QQ", 0x5341564546 + PAGE, 0x100000 + PAGE * 4096)
    with path.open("r+b") as file:
        places = [
            offset + found
            for offset, length in data_extents(file.fileno())
            if (found := os.pread(file.fileno(), length, offset).find(head)) >= 0
        ]
        assert len(places) == 1
        file.seek(places[0])
        file.write(NOTE)


def data_extents(fd: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of what is no hole: some images are mostly that."""
    end = 0
    length = os.fstat(fd).st_size
    while end < length:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end - start


@pytest.mark.parametrize("name", ["q35-16m", "q35-16m-sequential", "q35-numa-dimm"])
def test_memory_and_registers(name: str, tmp_path: Path) -> None:
    path = load.unpack(f"guest/{name}", tmp_path)
    leave_note(path)
    warned = pytest.warns(RuntimeWarning, match="'memdimm1'") if "dimm" in name else nullcontext()
    with savefmt.open(path) as image:
        with warned:
            guest = program(image)
        ranges = image.guest.physical.map.ranges

        assert "IS_LINUX_KERNEL" in str(guest.flags)
        for item in ranges:
            for start in (item.start, item.end - 4096):
                expected = image.guest.physical.read(start, 4096)
                assert guest.read(start, 4096, physical=True) == expected
        if ranges[0].end < 0x100000:
            with pytest.raises(Exception, match="0x"):
                guest.read(ranges[0].end, 1, physical=True)


def test_notes_are_those_of_the_vcpus(tmp_path: Path) -> None:
    from savefmt.linux.bare import _find_text, _pack_core

    path = load.unpack("guest/q35-16m", tmp_path)
    leave_note(path)
    with savefmt.open(path) as image:
        core = _pack_core(image, _find_text(image, []), [])
        cpu = image.guest.cpus[0]

    assert isinstance(cpu, X86Registers)
    assert struct.pack("<Q", cpu.general["r15"]) + struct.pack("<Q", cpu.general["r14"]) in core
    assert NOTE in core


def test_a_guest_without_vmcoreinfo_is_refused(tmp_path: Path) -> None:
    with (
        savefmt.open(load.unpack("guest/q35-16m", tmp_path)) as image,
        pytest.raises(UnsupportedError, match="does the guest run Linux"),
    ):
        program(image)


def test_no_descriptor_is_closed_twice(tmp_path: Path) -> None:
    path = load.unpack("guest/q35-16m", tmp_path)
    leave_note(path)
    with savefmt.open(path) as image:
        guest = program(image)
        with open(path, "rb") as other:
            del guest
            gc.collect()
            assert len(other.read(4)) == 4


def test_what_is_lost_is_told_and_cannot_be_read(tmp_path: Path) -> None:
    drgn = pytest.importorskip("drgn")
    path = load.unpack("guest/q35-16m-sequential", tmp_path)
    leave_note(path)
    data = path.read_bytes()
    at = data.index(struct.pack("<QQ", 0x5341564546 + 40, 0x100000 + 40 * 4096))
    path.write_bytes(data[:at] + bytes(20000) + data[at + 20000 :])

    with savefmt.open(path, salvage=True) as image:
        with pytest.warns(RuntimeWarning, match="pages are lost"):
            found = program(image)

        assert found.read(0x100000 + 8 * 4096, 8, physical=True)[:5] == b"\x4e\x45\x56\x41\x53"
        with pytest.raises(drgn.FaultError, match="lost page"):
            found.read(0x100000 + 41 * 4096, 8, physical=True)
