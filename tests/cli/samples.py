"""Hand-made results, as the library would return them."""

from __future__ import annotations

from savefmt.model import (
    CheckLevel,
    EnvelopeSummary,
    Finding,
    ImageSummary,
    Layout,
    MapExtent,
    PageRun,
    RamBlock,
    Section,
    Severity,
)
from savefmt.reports import (
    BlockDifference,
    CheckReport,
    Comparison,
    ConversionReport,
    EditReport,
    ExportReport,
    SectionDifference,
)

MIB = 1 << 20

ENVELOPE = EnvelopeSummary(
    version=2,
    byte_order="little",
    data_length=66877,
    xml_length=1105,
    cookie_length=236,
    was_running=True,
    format=5,
    format_name="zstd",
    features=0,
)
SUMMARY = ImageSummary(
    path="guest.save",
    state="finished",
    envelope=ENVELOPE,
    mislabelled=False,
    domain_name="demo",
    domain_uuid="9b8aa2a2-2df8-4a6a-8a19-3d6bd9a3a9b5",
    domain_type="kvm",
    saved=1763856000.0,
    layout=Layout.SEQUENTIAL,
    codec="zstd",
    machine="pc-q35-10.0",
    capabilities=(),
    uuid=None,
    page_size=4096,
    stream_offset=0x10599,
    blocks=(
        RamBlock("pc.ram", 64 * MIB, 4096, present=3141, zero=13243),
        RamBlock("vga.vram", 16 * MIB, 4096),
        RamBlock("shared", MIB, 4096, ignored=True),
    ),
    sections=(
        Section("timer", 0, 2),
        Section("cpu", 0, 12, 7, 0x2000, 900),
        Section("cpu", 1, 12, 8, 0x2400, 900),
    ),
    logical_length=5 * MIB,
    disk_length=5 * MIB + 4096,
)
BARE = ImageSummary(
    path="stream",
    state="bare",
    envelope=None,
    mislabelled=False,
    domain_name=None,
    domain_uuid=None,
    domain_type=None,
    saved=None,
    layout=Layout.MAPPED_RAM,
    codec="raw",
    machine="pc-i440fx-10.0",
    capabilities=("mapped-ram",),
    uuid="9b8aa2a2-2df8-4a6a-8a19-3d6bd9a3a9b5",
    page_size=4096,
    stream_offset=0,
    blocks=(),
    sections=None,
    logical_length=700,
    disk_length=4096,
)
NOTE = Finding("envelope.padding", Severity.NOTE, "the padding is short")
WARNING = Finding(
    "envelope.unused-nonzero",
    Severity.WARNING,
    "unused header words are not zero",
    offset=36,
    advice="a newer libvirt may have written this image",
)
ERROR = Finding("ram.page-outside", Severity.ERROR, "a page lies beyond its block", offset=0x9000)


def report(*findings: Finding, path: str = "guest.save") -> CheckReport:
    """Return a quick check with these findings."""
    return CheckReport(path, CheckLevel.QUICK, findings, SUMMARY)


CONVERSION = ConversionReport(
    source="guest.save",
    target="guest.sparse",
    source_layout=Layout.SEQUENTIAL,
    target_layout=Layout.MAPPED_RAM,
    source_codec="zstd",
    target_codec="raw",
    version=2,
    data_pages=3141,
    source_length=5 * MIB,
    target_length=66 * MIB,
    target_disk_length=13 * MIB,
    seconds=0.25,
    changes=("capability mapped-ram added",),
    digest="sha256:00ff",
    direct=True,
)
EXPORT = ExportReport(
    source="guest.save",
    target="guest.core",
    format="elf",
    compat="universal",
    source_layout=Layout.SEQUENTIAL,
    source_codec="zstd",
    cpus=2,
    segments=3,
    memory_length=66 * MIB,
    data_pages=3141,
    source_length=5 * MIB,
    target_length=66 * MIB,
    target_disk_length=13 * MIB,
    seconds=0.25,
    vmcoreinfo="memory",
    findings=(
        Finding("memmap.no-cmos", Severity.WARNING, "no CMOS tells"),
        Finding("export.beyond", Severity.NOTE, "left out"),
    ),
)
SAME = Comparison("a", "b", (), ())
DIFFERENT = Comparison(
    "a",
    "b",
    (
        BlockDifference("pc.ram", "content", 3, (PageRun(16, 2), PageRun(99, 1)), 4096),
        BlockDifference("vga.vram", "only-left", 0, (), 4096),
    ),
    (SectionDifference("cpu", 1, "content"),),
    ("one is mapped-ram, the other sequential",),
)
EXTENTS = (
    MapExtent("pc.ram", 0, 0x3000, "data", 0x100000, 4096),
    MapExtent("pc.ram", 0x3000, 0x1000, "zero", None, None),
)
EDIT = EditReport("guest.save", True, True, ("title", "run state: paused"))
