"""Pages that no record names: what explains it, and what check, convert and salvage say."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from builder import (
    DEFAULT_BLOCKS,
    DEFAULT_DEVICES,
    PAGE_SIZE,
    Device,
    Fields,
    Record,
    all_records,
    make_stream,
    page,
    simple_device,
    subsection,
)

import savefmt
from savefmt import CheckLevel, Finding, Layout, Severity
from savefmt.native.records import Scanner

VMEM = "0000:00:03.0/vmem0"
BLOCKS = {**DEFAULT_BLOCKS, VMEM: page(7) * 8}
LENGTH = len(BLOCKS[VMEM])


def virtio_mem(plugged: int) -> Device:
    """Return a device with units of two pages, of which a bit each tells that it is plugged."""
    numbers = {"addr": 1 << 32, "region_size": LENGTH, "block_size": 2 * PAGE_SIZE}
    facts = [(key, "uint64", struct.pack(">Q", value)) for key, value in numbers.items()]
    rest = [("node", "uint32", bytes(4)), ("size", "uint64", bytes(8))]
    bitmap = ("bitmap", "bitmap", struct.pack(">Q", plugged))
    name = "virtio-mem-device-early"
    return Device("0000:00:03.0/" + name, Fields(name, fields=[*facts, *rest, bitmap]))


def all_but(*gone: tuple[str, int]) -> list[list[Record]]:
    return [[one for one in all_records(BLOCKS) if (one.block, one.page) not in gone]]


def balloon(hinting: bool) -> Device:
    name = "virtio-balloon-device/free-page-report"
    return simple_device("0000:00:05.0/virtio-balloon", b"?" * 40 + subsection(name) * hinting)


def missing(path: Path) -> list[Finding]:
    found = savefmt.check(path, level=CheckLevel.FULL).findings
    return [finding for finding in found if finding.code == "ram.missing-pages"]


def lost(path: Path) -> dict[str, list[tuple[int, int]]]:
    with savefmt.open(path, salvage=True) as image:
        assert image.rescue is not None
        return {name: parts for name in BLOCKS if (parts := list(image.rescue.lost(name)))}


def changes(path: Path, tmp_path: Path, **options: object) -> list[str]:
    report = savefmt.convert(path, tmp_path / "out", overwrite=True, **options)  # type: ignore[arg-type]
    return [line for line in report.changes if "never came" in line]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "image"


def test_a_page_that_nothing_explains_is_lost(path: Path, tmp_path: Path) -> None:
    path.write_bytes(make_stream(blocks=BLOCKS, rounds=all_but(("pc.ram", 2), ("pc.ram", 5))))

    [finding] = missing(path)
    assert finding.severity is Severity.WARNING
    assert finding.message == "2 of 8 pages of 'pc.ram' never came, the first is page 2"
    assert "`savefmt salvage`" in finding.advice
    assert lost(path) == {"pc.ram": [(1, 7)]}
    said = f"records are missing from the source: {finding.message}; "
    assert changes(path, tmp_path) == [said + "the result lacks them, too"]
    for verify in (False, True):
        found = changes(path, tmp_path, layout=Layout.MAPPED_RAM, verify=verify)
        assert found == [said + "they are zeros in the result"]


def test_a_salvaged_image_says_why_without_damage(path: Path) -> None:
    path.write_bytes(make_stream(blocks=BLOCKS, rounds=all_but(("pc.ram", 2))))

    with savefmt.open(path, salvage=True) as image:
        assert image.rescue is not None
        report = image.rescue.report
        kinds = [(one.start, one.kind) for one in image.extents() if one.block == "pc.ram"]
    assert (report.sound, report.damages, report.lost) == (False, (), 3)
    assert any("whole records are missing" in note for note in report.notes)
    assert (2 * PAGE_SIZE, "lost") in kinds


@pytest.mark.parametrize("plugged", [0, 0b0110, 0b1111])
def test_what_virtio_mem_has_not_plugged_need_not_come(plugged: int, path: Path) -> None:
    units = [unit for unit in range(4) if not plugged >> unit & 1]
    gone = [(VMEM, 2 * unit + half) for unit in units for half in range(2)]
    early = [virtio_mem(plugged)]
    path.write_bytes(make_stream(blocks=BLOCKS, rounds=all_but(*gone), early=early))

    found = missing(path)

    assert [finding.severity for finding in found] == [Severity.NOTE] * bool(units)
    assert all("virtio-mem has not plugged them" in finding.message for finding in found)
    assert lost(path) == {}


def test_what_virtio_mem_has_plugged_must_come(path: Path) -> None:
    gone = [(VMEM, number) for number in (0, 1, 4, 6, 7)]
    early = [virtio_mem(0b0110)]
    path.write_bytes(make_stream(blocks=BLOCKS, rounds=all_but(*gone), early=early))

    severities = {finding.message.partition(" ")[0]: finding.severity for finding in missing(path)}

    assert severities == {"4": Severity.NOTE, "1": Severity.WARNING}
    assert lost(path) == {VMEM: [(3, 6)]}  # with what stands beside it
    # Nor is it lost where there is damage.
    data = path.read_bytes()
    at = data.index(struct.pack(">Q", 5 * PAGE_SIZE | 0x28))
    path.write_bytes(data[:at] + b"\xff" * 99 + data[at + 99 :])
    assert lost(path)[VMEM] == [(3, 6)]


def test_of_an_older_virtio_mem_nobody_knows(path: Path) -> None:
    devices = (*DEFAULT_DEVICES, simple_device("0000:00:03.0/virtio-mem", bytes(8)))
    rounds = all_but((VMEM, 3))
    path.write_bytes(make_stream(blocks=BLOCKS, rounds=rounds, devices=devices))

    [finding] = missing(path)

    assert finding.severity is Severity.NOTE
    assert "virtio-mem may not have plugged them" in finding.message
    assert lost(path) == {}


@pytest.mark.parametrize(
    ("block", "hinting", "explained"),
    [("pc.ram", True, True), ("pc.ram", False, False), ("/rom@etc/acpi/rsdp", True, False)],
)
def test_a_guest_may_have_called_pages_free(
    block: str, hinting: bool, explained: bool, path: Path, tmp_path: Path
) -> None:
    devices = (*DEFAULT_DEVICES, balloon(hinting))
    path.write_bytes(make_stream(blocks=BLOCKS, rounds=all_but((block, 0)), devices=devices))

    [finding] = missing(path)

    assert (finding.severity is Severity.NOTE) == explained
    assert ("free-page-hint" in finding.message) == explained
    assert bool(lost(path)) != explained
    assert [("free-page-hint" in line) for line in changes(path, tmp_path)] == [explained]
    with savefmt.open(path, salvage=True) as image:
        assert image.rescue is not None
        assert any("free-page-hint" in note for note in image.rescue.report.notes) == explained


@pytest.mark.parametrize(
    ("options", "gone", "reason"),
    [
        ({"guest_addresses": dict.fromkeys(BLOCKS, 0)}, range(8), "x-ignore-shared"),
        ({"guest_addresses": dict.fromkeys(BLOCKS, 0)}, range(7), ""),
        ({"configuration": False}, range(3, 4), "QEMU 1.5"),
    ],
)
def test_other_reasons(
    options: dict[str, object], gone: Sequence[int], reason: str, path: Path
) -> None:
    rounds = all_but(*(("pc.ram", number) for number in gone))
    path.write_bytes(make_stream(blocks=BLOCKS, rounds=rounds, **options))

    [finding] = missing(path)

    assert reason in finding.message
    assert finding.severity is (Severity.NOTE if reason else Severity.WARNING)
    assert bool(lost(path)) != bool(reason)


def test_an_image_that_lacks_nothing_says_nothing(path: Path, tmp_path: Path) -> None:
    path.write_bytes(make_stream(blocks=BLOCKS, devices=(*DEFAULT_DEVICES, balloon(True))))

    assert not missing(path)
    assert not lost(path)
    assert not changes(path, tmp_path)


def test_records_behind_a_lost_name_are_not_taken_for_those_of_the_block_before(
    path: Path,
) -> None:
    blocks = {"pc.ram": page(1) * 0 + b"".join(map(page, range(9))), "vga": page(70) * 4}
    sound = make_stream(blocks=blocks)
    start = sound.index(struct.pack(">Q", 6 * PAGE_SIZE | 0x28))
    end = sound.index(struct.pack(">Q", 2 * PAGE_SIZE | 0x28), start)
    path.write_bytes(sound[:start] + sound[end:])

    with savefmt.open(path, salvage=True) as image:
        assert image.rescue is not None
        gone = {name: list(image.rescue.lost(name)) for name in blocks}
        # Nothing of the other block stands there when zeros are taken, either.
        assert image.memory.read("pc.ram", 2 * PAGE_SIZE, 2 * PAGE_SIZE) == bytes(2 * PAGE_SIZE)
        assert image.memory.read("pc.ram", 4 * PAGE_SIZE, 4) == page(4)[:4]
    assert gone == {"pc.ram": [(2, 4), (5, 9)], "vga": [(0, 4)]}


def test_through_a_pipe_nothing_tells_why(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(make_stream(blocks=BLOCKS, rounds=all_but(("pc.ram", 2))))
    with path.open() as file:
        monkeypatch.setattr("sys.stdin", file)
        [line] = changes(Path("-"), tmp_path)
    assert "1 of 8 pages of 'pc.ram' never came, the first is page 2: the source was a pipe" in line


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_memory_that_is_only_claimed_takes_none(path: Path, tmp_path: Path) -> None:
    data = make_stream(blocks={"pc.ram": page(1) * 4})
    at = data.index(b"\x06pc.ram")
    claimed = struct.pack(">Q", 1 << 42 | 4) + data[at : at + 7] + struct.pack(">Q", 1 << 42)
    path.write_bytes(data[: at - 8] + claimed + data[at + 15 :])
    before = resident()
    scanner = Scanner(PAGE_SIZE, [(b"pc.ram", 1 << 42)], note_named=True)
    assert resident() - before < 64 << 20  # a bit a page would be 128 MiB
    assert len(scanner.named[0]) == 128 << 20

    [line] = changes(path, tmp_path)
    with savefmt.open(path, salvage=True) as image:
        assert image.rescue is not None
        assert image.rescue.report.lost == (1 << 30) - 3

    assert f"{(1 << 30) - 4} of {1 << 30} pages of 'pc.ram' never came" in line
    assert resident() - before < 64 << 20
