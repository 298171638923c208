"""Exports of made-up images: what is refused, what is doubtful, and nothing left behind."""

from __future__ import annotations

import itertools
import os
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builder import MIB, Device, Fields, make_envelope, make_stream, page, simple_device
from elftools.elf.elffile import ELFFile

import savefmt
from savefmt.errors import AddressError, ConversionError, UnsupportedError
from savefmt.export import blocks, elf, exporting, kernel, placing, vmcoreinfo
from savefmt.export.blocks import file_names
from savefmt.export.elf import ProgramHeader, elf_class
from savefmt.export.stretches import MemorySegment, find_segments
from savefmt.guest import mappings
from savefmt.guest.arch.base import CoreForm
from savefmt.guest.arch.x86 import EM_386, EM_X86_64
from savefmt.guest.arch.x86_paging import X86PageTables
from savefmt.guest.mappings import VirtualRange
from savefmt.guest.memorymap import MemoryMap
from savefmt.model import Finding, PhysicalRange, Severity
from savefmt.reading import devices, memory
from savefmt.reading.atend import believe_end

RAM = 2 * MIB
CLOCK = Device(
    "mc146818rtc",
    Fields(
        "mc146818rtc",
        3,
        [("cmos_data", "buffer", bytes(0x30) + struct.pack("<H", 1024) + bytes(78))],
    ),
)
# The bridge of a q35, by which all of the first MiB is RAM.
BRIDGE = Device(
    "0000:00:00.0/mch",
    Fields("mch", 1, [("config[0]", "pci config", (bytes(0x90) + b"\x33" * 7).ljust(256, b"\0"))]),
)


ELF64 = elf_class(64, "little")
FORM_64 = CoreForm(EM_X86_64, 64, "little")


def content(**pages: int) -> bytes:
    """Return RAM that is zero but for some pages, by number and seed."""
    data = bytearray(RAM)
    for number, seed in ((int(name[1:]), seed) for name, seed in pages.items()):
        data[number * 4096 : (number + 1) * 4096] = page(seed)
    return bytes(data)


def note(
    text: bytes, *, name: bytes = b"VMCOREINFO", length: int | None = None, order: str = "<"
) -> bytes:
    """Return a page that begins with an ELF note."""
    head = struct.pack(f"{order}III", len(name) + 1, len(text) if length is None else length, 0)
    return (head + (name + b"\0").ljust(12, b"\0") + text).ljust(4096, b"\0")


def made(folder: Path, *, ram: bytes | None = None, **options: Any) -> Path:
    """Write a guest of 2 MiB."""
    path = folder / "image"
    blocks = {"pc.ram": ram or content(p0=1, p511=2), "pc.bios": page(3) * 32}
    path.write_bytes(make_stream(blocks=blocks, devices=[CLOCK, BRIDGE], **options))
    return path


@pytest.fixture(params=["sequential", "mapped-ram"])
def layout(request: pytest.FixtureRequest) -> str:
    """Both layouts."""
    value: str = request.param
    return value


# --- what is asked for ---


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "vmdk"}, "unknown format"),
        ({"compat": "xen"}, "unknown layout"),
        ({"format": "raw", "compat": "qemu"}, "is for -O elf"),
        ({"format": "lime", "kernel_va": True}, "is for -O elf"),
        ({"compat": "qemu", "kernel_va": True}, "exclude each other"),
        ({"compat": "qemu", "start": 0}, "takes all memory"),
        ({"format": "blocks", "start": 0}, "not for -O blocks"),
        ({"format": "raw", "start": 5}, "multiple of the page size"),
        ({"format": "raw", "length": 0}, "multiple of the page size"),
        ({"format": "raw", "length": 4097}, "multiple of the page size"),
        ({"format": "raw", "start": 1 << 40}, "there is no memory at"),
        ({"start": 1 << 40}, "there is no memory at"),
        ({"format": "lime", "start": 1 << 40}, "there is no memory at"),
        ({"format": "vmcoreinfo"}, "no VMCOREINFO"),
    ],
)
def test_refusals(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    source = made(tmp_path)

    with pytest.raises(ConversionError, match=words):
        savefmt.export(source, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("format", ["elf", "raw", "lime"])
def test_an_existing_target_is_kept(format: str, layout: str, tmp_path: Path) -> None:
    source, target = made(tmp_path, layout=layout), tmp_path / "out"
    target.write_text("precious")

    with pytest.raises(ConversionError, match="--force"):
        savefmt.export(source, target, format=format)
    assert target.read_text() == "precious"

    report = savefmt.export(source, target, format=format, overwrite=True)
    assert target.stat().st_size == report.target_length
    with pytest.raises(ConversionError, match="same file"):
        savefmt.export(source, source, format=format, overwrite=True)


def test_a_folder_of_blocks_is_kept(tmp_path: Path) -> None:
    source, target = made(tmp_path), tmp_path / "out"
    target.mkdir()
    (target / "mine").touch()

    with pytest.raises(ConversionError, match="--force"):
        savefmt.export(source, target, format="blocks")
    savefmt.export(source, target, format="blocks", overwrite=True)

    assert {path.name for path in target.iterdir()} == {"mine", "pc.ram.bin", "pc.bios.bin"}
    with pytest.raises(ConversionError, match="not a folder"):
        savefmt.export(source, source, format="blocks", overwrite=True)
    with pytest.raises(savefmt.ImageIOError, match="make it first"):
        savefmt.export(source, tmp_path / "no" / "out", format="blocks")


@pytest.mark.parametrize("format", ["elf", "raw", "lime", "blocks"])
def test_a_dry_run_writes_nothing(format: str, layout: str, tmp_path: Path) -> None:
    source = made(tmp_path, layout=layout)

    report = savefmt.export(source, tmp_path / "out", format=format, dry_run=True)

    assert report.dry_run
    assert report.memory_length >= RAM
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("format", ["elf", "raw", "lime", "blocks"])
def test_a_damaged_image_leaves_nothing_behind(format: str, layout: str, tmp_path: Path) -> None:
    source = made(tmp_path, layout=layout)
    source.write_bytes(source.read_bytes()[:-5000])

    with pytest.raises(savefmt.FormatError):
        savefmt.export(source, tmp_path / "out", format=format)
    assert list(tmp_path.iterdir()) == [source]


def test_kdump_needs_its_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(savefmt.UnsupportedError, match="makedumpfile, which is not installed"):
        savefmt.export(made(tmp_path), tmp_path / "out", format="kdump")


def test_kdump_says_why_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "makedumpfile"
    program.write_text("#!/bin/sh\necho no vmcoreinfo >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    said = "registers of the vCPUs cannot be read.*failed with code 3: no vmcoreinfo.*-O elf"
    with pytest.raises(ConversionError, match=said):
        savefmt.export(made(tmp_path), tmp_path / "out", format="kdump")
    assert {path.name for path in tmp_path.iterdir()} == {"image", "makedumpfile"}


# --- segments ---


def fake(*ranges: PhysicalRange, findings: tuple[Finding, ...] = ()) -> Any:
    """Return an image with this memory map."""
    listed = [SimpleNamespace(idstr=name, ignored=name == "gone") for name in ("a", "b", "gone")]
    physical = SimpleNamespace(map=MemoryMap(ranges, {}, findings))
    return SimpleNamespace(
        rescue=None,
        envelope=None,
        guest=SimpleNamespace(physical=physical),
        head=SimpleNamespace(blocks=SimpleNamespace(blocks=listed)),
        page_size=4096,
    )


def piece(start: int, length: int, block: str, offset: int = 0, kind: str = "ram") -> PhysicalRange:
    return PhysicalRange(start, length, block, offset, kind, "rule")


def test_a_map_that_contradicts_itself_is_refused() -> None:
    image = fake(findings=(Finding("memmap.overlap", Severity.ERROR, "a overlaps b"),))

    with pytest.raises(ConversionError, match="a overlaps b; -O blocks"):
        find_segments(image, [])


def test_segments() -> None:
    findings: list[Finding] = []
    image = fake(
        piece(0, 0x3000, "a"),
        piece(0x3000, 0x2000, "a", 0x3000),
        piece(0x5000, 0x1000, "b"),
        piece(0x7800, 0x1900, "b", 0x1800),
        piece(0x10000, 0x800, "b", 0x3000),
        piece(0x20000, 0x1000, "gone"),
    )

    assert find_segments(image, findings) == [
        MemorySegment(0, 0, 0, 5, 4096, "ram"),
        MemorySegment(0x5000, 1, 0, 1, 4096, "ram"),
        MemorySegment(0x8000, 1, 2, 1, 4096, "ram"),
    ]
    assert [finding.code for finding in findings] == ["export.absent"] + ["export.partial-page"] * 2
    assert find_segments(image, [], range(0x2000, 0x6000)) == [
        MemorySegment(0x2000, 0, 2, 3, 4096, "ram"),
        MemorySegment(0x5000, 1, 0, 1, 4096, "ram"),
    ]


@pytest.mark.parametrize(
    "idstrs",
    [
        ["pc.ram", "0000:00:02.0/vga.vram", "/rom@etc/acpi/tables"],
        ["../../etc/passwd", "/etc/passwd", "..", ".", "", "...", ".hidden"],
        ["a/b", "a_b", "A_B", "a:b", "a_b-2"],
        ["x" * 255, "x" * 254, "\x1b[31m", "\udcff\n", "caf\xe9"],
    ],
)
def test_file_names_are_safe_and_different(idstrs: list[str]) -> None:
    names = file_names(idstrs)

    assert len({name.casefold() for name in names}) == len(idstrs)
    for name in names:
        assert Path(name).name == name
        assert not name.startswith(".")
        assert name.isascii()
        assert name.isprintable()
        assert len(name) < 240


# --- headers ---


@pytest.mark.parametrize("count", [1, 0xFFFE, 0xFFFF, 70000])
def test_any_number_of_segments(count: int, tmp_path: Path) -> None:
    headers = [ProgramHeader(elf.PT_LOAD, i, i << 12, i << 12, 4096) for i in range(count)]
    head = elf.pack_head(FORM_64, headers)
    (tmp_path / "universal").write_bytes(head)
    start, end = elf.pack_qemu(FORM_64, headers, elf.qemu_head_length(ELF64, count))
    (tmp_path / "qemu").write_bytes(start + end)

    assert len(head) == elf.head_length(ELF64, count)
    assert len(start) == elf.qemu_head_length(ELF64, count)
    for name in ("universal", "qemu"):
        with (tmp_path / name).open("rb") as file:
            read = ELFFile(file)
            assert read.num_segments() == count
            assert read.get_segment(count - 1)["p_paddr"] == count - 1 << 12
            assert (read["e_phnum"] == 0xFFFF) == (count >= 0xFFFF)


def test_a_32_bit_head(tmp_path: Path) -> None:
    header = ProgramHeader(elf.PT_LOAD, 0x1234, 0x1000, 0x1000, 0x2000)
    start, end = elf.pack_qemu(
        CoreForm(EM_386, 32, "little"), [header], elf.qemu_head_length(elf_class(32, "little"), 1)
    )
    (tmp_path / "core").write_bytes(start + end)

    with (tmp_path / "core").open("rb") as file:
        read = ELFFile(file)
        assert (read.elfclass, read["e_machine"]) == (32, "EM_386")
        assert read.get_segment(0)["p_offset"] == 0x1234
        assert read.get_section(1).name == ".shstrtab"


# --- VMCOREINFO ---

TEXT = b"OSRELEASE=6.1.0\nPAGESIZE=4096\n"


def test_vmcoreinfo_is_found_and_written(layout: str, tmp_path: Path) -> None:
    ram = bytearray(content(p0=1))
    ram[100 * 4096 : 101 * 4096] = note(TEXT)
    source, core = made(tmp_path, ram=bytes(ram), layout=layout), tmp_path / "core"

    report = savefmt.export(source, core)
    savefmt.export(source, tmp_path / "text", format="vmcoreinfo")

    assert report.vmcoreinfo == "memory"
    assert (tmp_path / "text").read_bytes() == TEXT
    with core.open("rb") as file:
        (segment,) = ELFFile(file).iter_segments("PT_NOTE")
        notes = {n["n_name"]: n["n_descdata"] for n in segment.iter_notes()}  # type: ignore[attr-defined]
    assert notes == {"VMCOREINFO": TEXT}
    assert "export.registers" in {finding.code for finding in report.findings}


@pytest.mark.parametrize(
    "data",
    [
        note(TEXT, length=1 << 31),
        note(TEXT, length=0),
        note(b"no release"),
        note(TEXT, name=b"VMCOREINFI"),
        note(TEXT, length=1 << 31, order=">"),
        bytes(8) + note(TEXT)[:-8],
    ],
)
def test_what_only_looks_like_vmcoreinfo(data: bytes) -> None:
    assert list(vmcoreinfo.find_in([(0, data)], 4096)) == []


@pytest.mark.parametrize("order", ["<", ">"])
def test_vmcoreinfo_in_the_guests_byte_order(order: str) -> None:
    data = note(TEXT, order=order)
    place = vmcoreinfo.Announced(0x1000, len(data))

    assert [found.text for found in vmcoreinfo.find_in([(0, data)], 4096)] == [TEXT]
    told = vmcoreinfo.from_device(lambda *_: data, place)
    assert told == vmcoreinfo.VmcoreInfo(TEXT, 0x1000, "device")


def test_two_kernels_in_memory() -> None:
    findings: list[Finding] = []
    data = note(TEXT) + note(TEXT) + note(TEXT + b"X=1\n")
    found = vmcoreinfo.find_in([(0x1000, data)], 4096)

    chosen = vmcoreinfo.choose(found, findings)

    assert chosen == vmcoreinfo.VmcoreInfo(TEXT, 0x1000, "memory")
    assert [finding.severity for finding in findings] == [Severity.WARNING]
    assert "0x1000 and 0x3000" in findings[0].message


def test_an_absurd_text_does_not_fit(tmp_path: Path) -> None:
    ram = bytearray(content(p0=1))
    long = note(b"OSRELEASE=" + b"x" * 20000)
    ram[: len(long)] = long

    with pytest.raises(ConversionError, match="tampered"):
        savefmt.export(made(tmp_path, ram=bytes(ram)), tmp_path / "core")
    assert not (tmp_path / "core").exists()


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (vmcoreinfo.Announced(0x1000, 4096), TEXT),
        (vmcoreinfo.Announced(0x1000, 20), None),
        (vmcoreinfo.Announced(0x9000, 4096), None),
        (None, None),
    ],
)
def test_what_the_device_says(place: vmcoreinfo.Announced | None, text: bytes | None) -> None:
    def read(address: int, length: int) -> bytes:
        if address != 0x1000:
            raise AddressError("outside")
        return note(TEXT)[:length]

    found = vmcoreinfo.from_device(read, place)

    assert (found.text if found else None) == text


# --- the kernel's addresses ---


def tables_image(pages: dict[int, dict[int, int]], root: int = 0x1000) -> Any:
    """Return an image whose page tables are these entries."""

    def read(address: int, length: int) -> bytes:
        table, first = address & -4096, address % 4096 // 8
        if table not in pages:
            raise AddressError("outside")
        numbers = range(first, first + length // 8)
        return b"".join(struct.pack("<Q", pages[table].get(i, 0)) for i in numbers)

    tables = X86PageTables("4-level", root, read)
    return SimpleNamespace(guest=SimpleNamespace(space=lambda: SimpleNamespace(tables=tables)))


def test_kernel_mappings() -> None:
    findings: list[Finding] = []
    image = tables_image(
        {
            0x1000: {0: 0x2001, 256: 0x2001, 510: 0x2001, 511: 0x9001},
            0x2000: {0: 0x3001, 1: 0x40000081},
            0x3000: {0: 0x4001, 1: 0x200081, 2: 0x400080},
            0x4000: {0: 0x1001, 1: 0x2001, 5: 0x7001 | 1 << 63},
        }
    )

    assert kernel.kernel_mappings(image, findings) == [
        VirtualRange(*each)
        for each in (
            (0xFFFF_8000_0000_0000, 0x1000, 0x2000),
            (0xFFFF_8000_0000_5000, 0x7000, 0x1000),
            (0xFFFF_8000_0020_0000, 0x200000, 0x200000),
            (0xFFFF_8000_4000_0000, 0x4000_0000, 0x4000_0000),
        )
    ]
    assert [finding.code for finding in findings] == ["export.page-tables"]


def test_page_tables_that_lead_to_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mappings, "TABLES_LIMIT", 1000)
    image = tables_image({0x1000: dict.fromkeys(range(512), 0x1001)})

    with pytest.raises(ConversionError, match="no end|more ranges"):
        kernel.kernel_mappings(image, [])


def test_mappings_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mappings, "MAPPINGS_LIMIT", 100)
    scattered = dict(enumerate(itertools.islice(itertools.count(0x1001, 0x5000), 512)))
    image = tables_image({0x1000: scattered | {300: 0x1001}})

    with pytest.raises(ConversionError, match="more ranges"):
        kernel.kernel_mappings(image, [])


def test_other_modes_are_refused(tmp_path: Path) -> None:
    image = tables_image({})
    image.guest.space = lambda: SimpleNamespace(tables=X86PageTables("PAE", 0, lambda *_: b""))

    with pytest.raises(savefmt.UnsupportedError, match="'PAE'"):
        kernel.kernel_mappings(image, [])


def test_doubts_about_the_map_reach_the_report(tmp_path: Path) -> None:
    path = tmp_path / "image"
    blocks = {"pc.ram": content(p3=9)}
    path.write_bytes(make_stream(blocks=blocks, devices=[simple_device("timer", b"12345678")]))

    report = savefmt.export(path, tmp_path / "raw", format="raw")

    assert "memmap.no-cmos" in {finding.code for finding in report.findings}
    assert (tmp_path / "raw").read_bytes() == content(p3=9)


# --- hostile images ---


def dimms(folder: Path, *addresses: int) -> tuple[Path, dict[str, int]]:
    """Write a guest with DIMMs, and tell where they are said to lie."""
    names = [f"memdimm{number}" for number in range(len(addresses))]
    blocks = {"pc.ram": content(p0=1)} | {name: page(5) * 512 for name in names}
    path = folder / "image"
    path.write_bytes(make_stream(blocks=blocks, devices=[CLOCK, BRIDGE]))
    return path, dict(zip(names, addresses, strict=True))


def test_memory_on_memory_is_no_memory_map(tmp_path: Path) -> None:
    source, places = dimms(tmp_path, 4 << 30, (4 << 30) + MIB)

    for format in ("elf", "raw", "lime"):
        with pytest.raises(ConversionError, match="contradicts itself: 'memdimm1'"):
            savefmt.export(source, tmp_path / "out", format=format, places=places)
    report = savefmt.export(source, tmp_path / "out", format="blocks")
    assert len(report.files) == 3


def test_memory_too_far_away_for_a_file(tmp_path: Path) -> None:
    source, places = dimms(tmp_path, 1 << 51)

    with pytest.raises(savefmt.ImageIOError, match="File too large"):
        savefmt.export(source, tmp_path / "out", format="raw", places=places)
    report = savefmt.export(source, tmp_path / "out", places=places)

    assert (report.segments, report.target_disk_length < 8 * MIB) == (2, True)


def test_memory_of_virtio_pmem_is_never_saved(tmp_path: Path) -> None:
    """QEMU's own dump has it, so ours could not be the same; the universal one says so."""
    xml = b"""<domain type='kvm'><os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>
    <devices><memory model='virtio-pmem'><target><size unit='MiB'>32</size></target></memory>
    </devices></domain>"""
    source = made(tmp_path)
    source.write_bytes(make_envelope(xml=xml) + source.read_bytes())

    report = savefmt.export(source, tmp_path / "raw", format="raw")
    with pytest.raises(UnsupportedError, match="virtio-pmem"):
        savefmt.export(source, tmp_path / "core", compat="qemu")

    assert "export.absent" in {finding.code for finding in report.findings}


def test_a_forged_cmos_is_told_of(layout: str, tmp_path: Path) -> None:
    forged = struct.pack("<H", 9999)
    cmos = bytes(0x30) + forged + bytes(78)
    clock = Device("mc146818rtc", Fields("mc146818rtc", 3, [("cmos_data", "buffer", cmos)]))
    path = tmp_path / "image"
    path.write_bytes(make_stream(blocks={"pc.ram": content(p7=7)}, devices=[clock], layout=layout))

    report = savefmt.export(path, tmp_path / "raw", format="raw")

    warnings = {f.code for f in report.findings if f.severity is Severity.WARNING}
    assert "memmap.cmos" in warnings
    assert (tmp_path / "raw").read_bytes() == content(p7=7)


@pytest.mark.parametrize("format", ["elf", "blocks"])
def test_a_source_that_changes(
    format: str, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = made(tmp_path, layout=layout)
    home: Any = blocks if format == "blocks" else exporting
    write_pages = home.write_pages

    def write_and_touch(*args: Any) -> Any:
        os.utime(source, (1, 1))
        return write_pages(*args)

    monkeypatch.setattr(home, "write_pages", write_and_touch)
    with pytest.raises(savefmt.ImageChangedError, match="changed while it was read"):
        savefmt.export(source, tmp_path / "out", format=format)
    assert list(tmp_path.iterdir()) == [source]


# --- how often the pages are read ---


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who passed over all pages."""
    made: list[str] = []
    for home in (placing, memory, devices, blocks):
        if hasattr(home, "pass_over"):
            pass_over = home.pass_over

            def counted(image: Any, visitor: Any, *rest: Any, once: Any = pass_over) -> Any:
                made.append(type(visitor).__name__)
                return once(image, visitor, *rest)

            monkeypatch.setattr(home, "pass_over", counted)
    return made


@pytest.mark.parametrize("format", ["elf", "raw", "lime"])
def test_one_pass_is_enough(format: str, tmp_path: Path, passes: list[str]) -> None:
    savefmt.export(made(tmp_path), tmp_path / "out", format=format)

    assert len(passes) == 1


@pytest.mark.parametrize("format", ["elf", "raw", "lime", "blocks"])
def test_the_end_of_an_older_stream_is_not_believed(
    format: str, tmp_path: Path, passes: list[str]
) -> None:
    """Below a stream lies the end of another one, which has its RAM elsewhere."""
    source = made(tmp_path)
    savefmt.export(source, tmp_path / "expected", format=format)
    elsewhere = Fields("mch", 1, [("config[0]", "pci config", bytes(256))])
    other = make_stream(
        blocks={"pc.ram": page(7) * 512, "pc.bios": page(3) * 32},
        devices=[CLOCK, Device("0000:00:00.0/mch", elsewhere)],
    )
    young = source.read_bytes()
    source.write_bytes(young + other[len(young) :])
    with savefmt.open(source) as image:
        assert believe_end(image) is not None
    passes.clear()

    report = savefmt.export(source, tmp_path / "out", format=format)

    assert len(passes) > 1
    assert report.format == format
    for name in os.listdir(tmp_path / "out") if format == "blocks" else ["."]:
        made_now, wanted = tmp_path / "out" / name, tmp_path / "expected" / name
        assert made_now.resolve().read_bytes() == wanted.resolve().read_bytes()


@pytest.mark.parametrize("format", ["elf", "raw", "lime", "blocks"])
def test_cancelling(format: str, layout: str, tmp_path: Path) -> None:
    source = made(tmp_path, layout=layout)

    with pytest.raises(savefmt.OperationCancelled):
        savefmt.export(source, tmp_path / "out", format=format, progress=lambda _: False)
    assert list(tmp_path.iterdir()) == [source]
