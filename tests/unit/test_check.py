"""Checking: each finding has an image that earns it, and sound images earn none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builder import (
    DEFAULT_BLOCKS,
    DEFAULT_DEVICES,
    DOMAIN_XML,
    EOS,
    MIB,
    PAGE_SIZE,
    VIRTIO_MEM_EARLY,
    Device,
    Fields,
    Record,
    all_records,
    make_envelope,
    make_stream,
    page,
    section_head,
    simple_device,
    word,
)
from oracle import CODECS, compress

import savefmt
from savefmt import (
    CheckLevel,
    CheckReport,
    Finding,
    ImageIOError,
    NotASaveImageError,
    OperationCancelled,
    Repair,
    Severity,
)

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
QUICK, FULL = CheckLevel.QUICK, CheckLevel.FULL

STREAM = make_stream()
ENVELOPE = make_envelope()
COOKIE = b"<cookie/>"


def check(folder: Path, data: bytes, level: CheckLevel = FULL) -> CheckReport:
    (folder / "image").write_bytes(data)
    return savefmt.check(folder / "image", level=level)


def codes(report: CheckReport) -> list[str]:
    return sorted({finding.code for finding in report.findings})


def mapped(**options: Any) -> bytes:
    return make_stream(layout="mapped-ram", **options)


def add_mark(document: dict[str, Any]) -> None:
    lost = {"lost": {"pc.ram": 3}, "unlisted": 0, "devices_whole": True}
    document["savefmt-salvaged"] = lost


def with_description(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """Change the JSON behind a stream."""
    start = data.rindex(b"\x06", 0, data.rindex(b'{"configuration"'))
    described = json.loads(data[start + 5 :])
    change(described)
    text = json.dumps(described).encode()
    return data[: start + 1] + len(text).to_bytes(4, "big") + text


def before_end(data: bytes, extra: bytes) -> bytes:
    """Put bytes before the EOF mark of a stream."""
    end = data.rindex(b"\x06", 0, data.rindex(b'{"configuration"')) - 1
    return data[:end] + extra + data[end:]


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def envelope_by_hand(data: bytes, cookie_offset: int) -> bytes:
    numbers = (2, len(data), 1, 0, cookie_offset)
    header = b"LibvirtQemudSave" + b"".join(n.to_bytes(4, "little") for n in numbers)
    return header + bytes(56) + data


def stray_bits() -> bytes:
    data = mapped()
    return patched(data, data.index(b"\x0d" + bytes(7)), b"\x0d\x01")


def add_described(described: dict[str, Any]) -> None:
    described["devices"].append(simple_device("ghost", b"boo").described())


def forget_timer(described: dict[str, Any]) -> None:
    described["devices"] = [d for d in described["devices"] if d["name"] != "timer"]


def stretch_timer(described: dict[str, Any]) -> None:
    described["devices"][0]["fields"][0]["size"] += 1


UNKNOWN_EARLY = Device("slot/thing", Fields("thing", fields=[("f", "buffer", b"12345678")]))
SAME_TIMER = section_head(4, 99, "timer", 0, 2) + bytes(24) + b"\x7e\0\0\0\x63"
FLUSHES = word(0, 0x200) * 3 + EOS

# What each finding is earned by: code, severity, image, and whether only a full check sees it.
EARNED: list[tuple[str, Severity, bytes, bool]] = [
    ("envelope.incomplete", ERROR, make_envelope(magic=b"LibvirtQemudPart") + STREAM, False),
    ("envelope.mislabelled", ERROR, make_envelope(format=6) + STREAM, False),
    ("envelope.mislabelled", ERROR, mapped(prefix=ENVELOPE), False),
    ("envelope.xml", ERROR, make_envelope(xml=b"<domain>") + STREAM, False),
    ("envelope.cookie", WARNING, make_envelope(cookie=b"<cooky/>") + STREAM, False),
    ("envelope.machine", WARNING, ENVELOPE + make_stream(machine="pc-q35-9.2"), False),
    ("envelope.version-unreleased", WARNING, make_envelope(version=3) + STREAM, False),
    ("envelope.format-ignored", WARNING, make_envelope(version=1, format=3) + STREAM, False),
    ("envelope.running-odd", NOTE, make_envelope(was_running=2) + STREAM, False),
    ("envelope.unused-nonzero", WARNING, make_envelope(unused=b"x" * 56) + STREAM, False),
    ("envelope.cookie-inside-xml", ERROR, envelope_by_hand(b"<domain>...", 3) + STREAM, False),
    ("envelope.xml-unterminated", WARNING, envelope_by_hand(DOMAIN_XML, 0) + STREAM, False),
    (
        "envelope.cookie-unterminated",
        WARNING,
        envelope_by_hand(DOMAIN_XML + b"\0" + COOKIE, len(DOMAIN_XML) + 1) + STREAM,
        False,
    ),
    ("envelope.padding-nonzero", NOTE, ENVELOPE[:-9] + b"leftovers" + STREAM, False),
    ("stream.no-configuration", NOTE, make_stream(configuration=False), False),
    ("stream.machine-name", WARNING, make_stream(machine="pc\x1b[2J"), False),
    (
        "stream.ignore-shared",
        WARNING,
        mapped(guest_addresses=dict.fromkeys(DEFAULT_BLOCKS, 0)),
        False,
    ),
    ("stream.no-footers", WARNING, make_stream(footers=False), True),
    ("stream.no-footers", WARNING, mapped(footers=False), False),
    ("stream.postcopy-command", WARNING, make_stream(commands=[(4, b"")]), False),
    ("stream.two-ids", WARNING, before_end(STREAM, SAME_TIMER), False),
    ("stream.guessed-length", NOTE, make_stream(early=[UNKNOWN_EARLY], description=False), False),
    ("stream.section-missing", WARNING, make_stream(devices=DEFAULT_DEVICES[1:]), True),
    ("stream.section-missing", WARNING, mapped(devices=DEFAULT_DEVICES[:1]), False),
    ("stream.trailing-data", NOTE, make_stream(trailing=bytes(5)), False),
    ("stream.trailing-data", NOTE, mapped(trailing=b"more"), False),
    ("ram.no-end", NOTE, mapped(ram_end=False), False),
    ("ram.no-end", NOTE, mapped(ram_end=False, dirty_bitmaps=True), False),
    ("ram.no-end", NOTE, make_stream(ram_end=False), False),
    ("ram.missing-pages", WARNING, make_stream(rounds=[[Record("pc.ram", 1)]]), True),
    ("ram.multifd-capture", ERROR, make_stream(rounds=[[]]).replace(EOS, FLUSHES), True),
    ("mappedram.empty", ERROR, mapped(blocks={"pc.ram": bytes(MIB)}, ram_end=False), False),
    ("mappedram.empty", NOTE, mapped(blocks={"pc.ram": bytes(MIB)}), False),
    ("ram.main-absent", ERROR, mapped(blocks={"pc.ram": bytes(MIB), "pc.bios": page(1)}), False),
    ("ram.main-absent", ERROR, mapped(blocks={"x-pc.ram": bytes(MIB), "a/rom": page(1)}), False),
    ("ram.main-absent", ERROR, make_stream(blocks={"pc.ram": bytes(MIB)}), True),
    ("ram.main-absent", ERROR, make_stream(rounds=[[Record("pc.bios", 0)]]), True),
    ("mappedram.stray-bits", WARNING, stray_bits(), False),
    ("mappedram.unaligned-pages", NOTE, mapped(align=PAGE_SIZE), False),
    (
        "mappedram.ignored-block",
        NOTE,
        mapped(guest_addresses=dict.fromkeys(DEFAULT_BLOCKS, 0), ignored=frozenset({"pc.ram"})),
        False,
    ),
    ("vmdescription.missing", NOTE, make_stream(description=False), False),
    ("stream.end-unseen", NOTE, compress("zstd", STREAM), False),
    ("vmdescription.missing", NOTE, mapped(description=False), False),
    ("vmdescription.missing", NOTE, compress("xz", make_stream(description=False)), True),
    ("vmdescription.damaged", ERROR, STREAM[:-1] + b"]", False),
    ("vmdescription.extra", WARNING, with_description(mapped(), add_described), False),
    ("image.salvaged", WARNING, with_description(mapped(), add_mark), False),
    ("image.salvaged", WARNING, with_description(STREAM, add_mark), False),
    ("image.salvaged", WARNING, compress("xz", with_description(STREAM, add_mark)), True),
    ("vmdescription.extra", WARNING, with_description(STREAM, add_described), False),
    ("vmdescription.contradiction", WARNING, with_description(mapped(), stretch_timer), False),
    ("vmdescription.lacking", WARNING, with_description(mapped(), forget_timer), False),
    ("vmdescription.lacking", WARNING, with_description(STREAM, forget_timer), False),
    (
        "stream.unknown-sections",
        NOTE,
        make_stream(description=False, footers=False),
        False,
    ),
    ("image.truncated", ERROR, mapped()[:-400], False),
    ("image.truncated", ERROR, compress("gzip", STREAM)[:-4], True),
    ("image.truncated", ERROR, STREAM[:5000], False),
    ("image.corrupt", ERROR, STREAM.replace(b"\x7e\0\0\0\x02", b"\x7e\0\0\1\x02"), False),
    ("envelope.mislabelled", ERROR, make_envelope(format=1) + STREAM, False),
    ("envelope.mislabelled", ERROR, make_envelope(format=5) + compress("xz", STREAM), False),
    ("envelope.mislabelled", ERROR, ENVELOPE + compress("xz", STREAM), False),
    ("envelope.length", ERROR, patched(ENVELOPE + STREAM, 20, bytes(4)), False),
    ("envelope.length", ERROR, patched(ENVELOPE + STREAM, 20, b"\xff" * 4), False),
    ("envelope.cookie-offset", ERROR, patched(ENVELOPE + STREAM, 32, b"\x09"), False),
    (
        "envelope.cookie-offset",
        WARNING,
        patched(make_envelope(cookie=COOKIE) + STREAM, 32, bytes(4)),
        False,
    ),
    ("image.unsupported", ERROR, make_envelope(format=9) + STREAM, False),
    ("image.unsupported", ERROR, make_stream(commands=[(7, bytes(4))]), False),
]


@pytest.mark.parametrize(
    ("code", "severity", "data", "only_full"),
    EARNED,
    ids=[f"{number}-{code}" for number, (code, *_) in enumerate(EARNED)],
)
def test_findings(
    code: str,
    severity: Severity,
    data: bytes,
    only_full: bool,
    tmp_path: Path,
) -> None:
    for level in CheckLevel:
        report = check(tmp_path, data, level)
        found = [finding for finding in report.findings if finding.code == code]
        if only_full and level is QUICK:
            assert found == []
        elif code != "stream.end-unseen" or level is QUICK:
            assert [finding.severity for finding in found][:1] == [severity]
            assert all(finding.advice for finding in found)


def test_every_code_has_an_image() -> None:
    package = Path(savefmt.__file__).parent
    written = {
        code
        for path in package.rglob("*.py")
        for code in re.findall(
            r'"((?:envelope|stream|ram|mappedram|vmdescription|image)\.[a-z-]+)"',
            path.read_text(),
        )
    }

    # The one that needs a file of its own, below.
    assert written - {code for code, *_ in EARNED} == {"mappedram.stale"}


def test_offsets_point_at_the_fault(tmp_path: Path) -> None:
    def offset(data: bytes, code: str) -> int | None:
        (found,) = [f for f in check(tmp_path, data).findings if f.code == code]
        return found.offset

    assert offset(make_envelope(format=6) + STREAM, "envelope.mislabelled") == 28
    assert offset(make_envelope(was_running=2) + STREAM, "envelope.running-odd") == 24
    assert offset(ENVELOPE[:-9] + b"leftovers" + STREAM, "envelope.padding-nonzero") == (
        len(ENVELOPE) - 9
    )
    assert offset(ENVELOPE + make_stream(machine="other"), "envelope.machine") == len(ENVELOPE)
    assert offset(STREAM[:5000], "image.truncated") == 5000
    bad = STREAM.replace(b"\x7e\0\0\0\x02", b"\x7e\0\0\1\x02", 1)
    assert offset(bad, "image.corrupt") == STREAM.index(b"\x7e\0\0\0\x02")


def test_stale_pages_are_noted(tmp_path: Path) -> None:
    blocks = {"pc.ram": page(1) + bytes(8 * MIB - PAGE_SIZE)}
    data = mapped(blocks=blocks)
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.write(data[: 2 * MIB])
        file.seek(4 * MIB)
        file.write(page(9) * 16)  # under clear bits
        file.seek(9 * MIB)
        file.write(data[9 * MIB :])

    (finding,) = savefmt.check(path, level=QUICK).findings

    assert (finding.code, finding.severity) == ("mappedram.stale", NOTE)
    assert re.search(r"at least \d+ bytes", finding.message)


SOUND = [
    STREAM,
    make_envelope(cookie=COOKIE) + STREAM,
    make_envelope(version=1, order="big") + STREAM,
    *(make_envelope(format=n) + compress(name, STREAM) for n, name in enumerate(CODECS)),
    compress("zstd", STREAM),
    mapped(),
    mapped(prefix=make_envelope(format=6), parts=9),
    make_stream(dirty_bitmaps=True, commands=[(3, b"")]),
    make_stream(early=[VIRTIO_MEM_EARLY]),
    make_stream(rounds=[all_records(DEFAULT_BLOCKS), [Record("pc.ram", 0, delta=b"\0\1x")]]),
    mapped(early=[VIRTIO_MEM_EARLY], uuid=bytes(16)),
    make_stream(page_bits=13, blocks={"ram": page(1, 1 << 13)}),
]


@pytest.mark.parametrize("number", range(len(SOUND)))
def test_sound_images_earn_nothing(number: int, tmp_path: Path) -> None:
    for level in CheckLevel:
        report = check(tmp_path, SOUND[number], level)
        # A quick check does not unpack, and says so.
        unseen = level is QUICK and report.summary is not None and report.summary.codec != "raw"
        assert [one.code for one in report.findings] == ["stream.end-unseen"] * unseen
        assert report.ok
        assert report.worst is (NOTE if unseen else None)
        assert report.summary is not None
        assert report.level is level


def test_unplugged_and_shared_memory_may_be_missing(tmp_path: Path) -> None:
    blocks = {**DEFAULT_BLOCKS, "0000:00:03.0/vmem0": bytes(MIB)}
    devices = (*DEFAULT_DEVICES, simple_device("0000:00:03.0/virtio-mem", b"state"))
    rounds = [all_records(DEFAULT_BLOCKS)]
    plugged = make_stream(blocks=blocks, rounds=rounds, devices=devices)
    rest = [record for record in all_records(DEFAULT_BLOCKS) if record.block != "pc.ram"]
    shared = make_stream(guest_addresses=dict.fromkeys(DEFAULT_BLOCKS, 0), rounds=[rest])

    for data in (plugged, shared):
        report = check(tmp_path, data)
        assert codes(report) == ["ram.missing-pages"]
        assert report.ok


def test_without_the_end_of_ram_all_sections_are_early(tmp_path: Path) -> None:
    assert codes(check(tmp_path, make_stream(ram_end=False))) == ["ram.no-end"]
    assert codes(check(tmp_path, mapped(ram_end=False))) == ["ram.no-end"]


def test_a_level_may_be_spelled_out(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(make_stream(footers=False))

    assert not savefmt.check(tmp_path / "image", level=CheckLevel("full")).ok
    assert not savefmt.check(tmp_path / "image", level="full").ok  # type: ignore[arg-type]


def test_what_stops_the_check_is_a_finding_too(tmp_path: Path) -> None:
    report = check(tmp_path, make_envelope(format=9) + STREAM)

    assert report.summary is None
    assert report.worst is ERROR
    assert not report.ok
    assert report.findings == (
        Finding(
            "image.unsupported",
            ERROR,
            "unknown stream format 9; formats 0 (raw) to 6 (sparse) can be read, so a newer "
            "libvirt may have written this image",
            28,
            "this does not mean that the image is damaged: QEMU itself may load it",
            Repair.FORMAT,
        ),
    )


def test_several_findings_at_once(tmp_path: Path) -> None:
    prefix = make_envelope(
        magic=b"LibvirtQemudPart", format=6, was_running=3, xml=b"<domain", cookie=b"<c/>"
    )

    assert codes(check(tmp_path, prefix + STREAM[:-8])) == [
        "envelope.cookie",
        "envelope.incomplete",
        "envelope.mislabelled",
        "envelope.running-odd",
        "envelope.xml",
        "image.truncated",
    ]


def test_no_image_at_all(tmp_path: Path) -> None:
    with pytest.raises(NotASaveImageError) as caught:
        check(tmp_path, b"hello")
    assert caught.value.path == tmp_path / "image"
    with pytest.raises(ImageIOError):
        savefmt.check(tmp_path / "missing")


@pytest.mark.parametrize("data", [STREAM, compress("gzip", STREAM), mapped()])
def test_cancelling(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(data)

    with pytest.raises(OperationCancelled):
        savefmt.check(tmp_path / "image", level=FULL, progress=lambda progress: False)
