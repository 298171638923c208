"""Marks of Windows in memory: its build, its kernel's symbols file, header and start block."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from savefmt.frozen import dataclass
from savefmt.scan.patterns import literal
from savefmt.scan.results import Evidence, Hit

ReadBlock = Callable[[str, int, int], bytes | None]
"""``read(block, offset, length)``, None where there is no such memory."""

KERNEL_FILES = ("ntkrnlmp.pdb", "ntkrpamp.pdb", "ntkrnlpa.pdb", "ntoskrnl.pdb")
PDBS = tuple(literal(name.encode() + b"\0", f"pdb {name}") for name in KERNEL_FILES)
BUILDS = tuple(literal(b"." + arch + b"fre.", "build") for arch in (b"amd64", b"x86", b"arm64"))

PAGE = 4096
_KERNEL_LIMIT = 64 << 20
_MACHINES = {0x8664: "x86_64", 0x14C: "x86", 0xAA64: "arm64"}
_BUILD = re.compile(rb"(\d{4,5}\.\d{1,5}\.(?:amd64|x86|arm64)fre\.[0-9A-Za-z_]+\.\d{6}-\d{4})")


@dataclass(frozen=True, slots=True)
class KernelHeader:
    """What the header of a loaded kernel says; `base` is where the loader put it."""

    base: int
    length: int
    machine: str
    built: int


def read_build(hit: Hit) -> Evidence | None:
    """Read the build string around a hit, such as ``19041.1.amd64fre.vb_release.191206-1406``."""
    around = hit.before[-32:] + hit.data + hit.after[:64]
    found = _BUILD.search(around)
    if found is None:
        return None
    offset = hit.offset - len(hit.before[-32:]) + found.start()
    return Evidence("windows.build", found[1].decode(), hit.block, offset, hit.physical)


def read_pdb(hit: Hit) -> Evidence | None:
    """Read the record that names the kernel's symbols file: ``RSDS``, GUID, age, name."""
    record = hit.before[-24:]
    if len(record) < 24 or record[:4] != b"RSDS":
        return None
    a, b, c = (int.from_bytes(record[i:j], "little") for i, j in ((4, 8), (8, 10), (10, 12)))
    age = int.from_bytes(record[20:24], "little")
    guid = f"{a:08X}{b:04X}{c:04X}{record[12:20].hex().upper()}{age:X}"
    name = hit.data[:-1].decode()
    return Evidence(
        "windows.pdb", name, hit.block, hit.offset - 24, hit.physical, (("symbols", guid),)
    )


def parse_header(page: bytes) -> KernelHeader | None:
    """Read the header of an executable that was loaded, None if it is something else.

    Parameters
    ----------
    page : bytes
        Its first page.

    Returns
    -------
    KernelHeader or None
        Sizes are checked against sense only.
    """
    if page[:2] != b"MZ":
        return None
    at = int.from_bytes(page[0x3C:0x40], "little")
    if not 0x40 <= at <= PAGE - 0x78 or page[at : at + 4] != b"PE\0\0":
        return None
    machine = _MACHINES.get(int.from_bytes(page[at + 4 : at + 6], "little"))
    magic = int.from_bytes(page[at + 24 : at + 26], "little")
    if machine is None or magic not in (0x10B, 0x20B):
        return None
    base = page[at + 48 : at + 56] if magic == 0x20B else page[at + 52 : at + 56]
    length = int.from_bytes(page[at + 80 : at + 84], "little")
    built = int.from_bytes(page[at + 8 : at + 12], "little")
    if not PAGE <= length <= _KERNEL_LIMIT:
        return None
    return KernelHeader(int.from_bytes(base, "little"), length, machine, built)


def find_header(
    read: Callable[[int], bytes | None], address: int
) -> tuple[int, KernelHeader] | None:
    """Go back from an address inside a kernel, page by page, to its header.

    Parameters
    ----------
    read : callable
        Returns the page at an address, None if there is no page.
    address : int
        Virtual, or an offset in a block if the kernel is in one piece there.

    Returns
    -------
    (int, KernelHeader) or None
        Where the header lies; it says that the kernel reaches to the address.
    """
    page = address // PAGE * PAGE
    for at in range(page, max(page - _KERNEL_LIMIT, -1), -PAGE):
        data = read(at)
        if data is None or data[:2] != b"MZ":
            continue
        header = parse_header(data)
        if header is not None and address < at + header.length:
            return at, header
    return None


def start_blocks(read: ReadBlock, block: str) -> Iterator[Evidence]:
    """Yield the blocks from which Windows starts further processors, below 1 MiB.

    Each begins with a jump, and holds an address in the kernel and a page table root.
    """
    for offset in range(PAGE, 1 << 20, PAGE):
        page = read(block, offset, 0xA8)
        if page is None:
            return
        mark, kernel, root = (int.from_bytes(page[at : at + 8], "little") for at in (0, 0x70, 0xA0))
        if mark & 0xFFFF_FFFF_FFFF_00FF != 0x0000_0001_0006_00E9:
            continue
        if kernel & 0xFFFF_F800_0000_0003 != 0xFFFF_F800_0000_0000:
            continue
        if root == 0 or root & 0xFFFF_FF00_0000_0FFF:
            continue
        detail = (("cr3", hex(root)), ("kernel", hex(kernel)))
        yield Evidence("windows.start-block", hex(kernel), block, offset, (offset,), detail)
