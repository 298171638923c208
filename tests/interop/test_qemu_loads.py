"""QEMU itself loads what `convert` wrote, and has the same guest afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from golden import load

import savefmt
from interop import linux
from interop.conftest import need_direct_io, need_machine
from interop.qemu import Guest, wait_for

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("qemu")]

MIB = 1 << 20
MAPPED = {"mapped-ram": True}
MULTIFD = {"mapped-ram": True, "multifd": True}
OTHER = {
    savefmt.Layout.SEQUENTIAL: savefmt.Layout.MAPPED_RAM,
    savefmt.Layout.MAPPED_RAM: savefmt.Layout.SEQUENTIAL,
}


@dataclass(frozen=True)
class Evidence:
    """Everything about a paused guest that a conversion could spoil."""

    blocks: Mapping[str, str]
    lengths: Mapping[str, int]
    registers: str
    devices: str
    bitmaps: Any

    @classmethod
    def of(cls, guest: Guest) -> Evidence:
        ram = guest.ram_blocks()
        nodes = guest.qmp("query-named-block-nodes")
        return cls(
            blocks=guest.block_hashes(),
            lengths={block.name: block.length for block in ram},
            registers=guest.registers(),
            devices=guest.hmp("info pic") + guest.hmp("info pci") + guest.hmp("info lapic 0"),
            bitmaps=[node.get("dirty-bitmaps") for node in nodes],
        )


# Ways to load


def plainly(guest: Guest, image: Path, capabilities: Mapping[str, bool]) -> None:
    guest.load(f"file:{image}", capabilities)


def with_multifd(guest: Guest, image: Path, capabilities: Mapping[str, bool]) -> None:
    parameters = {"multifd-channels": 4}
    guest.load(f"file:{image}", {**capabilities, "multifd": True}, parameters)


def with_direct_io(guest: Guest, image: Path, capabilities: Mapping[str, bool]) -> None:
    need_direct_io(image.parent)
    parameters = {"multifd-channels": 4, "direct-io": True}
    guest.load(f"file:{image}", {**capabilities, "multifd": True}, parameters)


def with_descriptors(guest: Guest, image: Path, capabilities: Mapping[str, bool]) -> None:
    """As libvirt does it for ``--bypass-cache``: two descriptors in a set."""
    need_direct_io(image.parent)
    for flags in (os.O_RDONLY, os.O_RDONLY | os.O_DIRECT):
        fd = os.open(image, flags)
        guest.add_fd(fd)
        os.close(fd)
    parameters = {"multifd-channels": 2, "direct-io": True}
    guest.load("file:/dev/fdset/0", {**capabilities, "multifd": True}, parameters)


Way = Callable[[Guest, Path, Mapping[str, bool]], None]
MAPPED_WAYS: tuple[Way, ...] = (plainly, with_multifd, with_direct_io, with_descriptors)


# Small guests, of every kind that there is an image of


def convertible(facts: Mapping[str, Any]) -> bool:
    """Whether an image holds a whole guest, and its stream can say how."""
    whole = "ignored" not in facts and not facts.get("ram_lost")
    return whole and facts.get("configuration", True) and facts["kind"] == "stream"


def golden_guest(name: str, directory: Path) -> Guest:
    facts = load.manifest()[name]
    need_machine(facts["machine"])
    firmware = load.firmware(facts["firmware"], directory)
    arguments = [argument.format(firmware=firmware) for argument in facts["arguments"]]
    return Guest(directory, arguments, incoming=True)


def loading_capabilities(facts: Mapping[str, Any], layout: savefmt.Layout) -> dict[str, bool]:
    capabilities = {c: True for c in ("dirty-bitmaps",) if c in facts["save_capabilities"]}
    return capabilities | (MAPPED if layout is savefmt.Layout.MAPPED_RAM else {})


@pytest.mark.parametrize("name", load.names(convertible))
def test_a_converted_stream_is_the_same_guest(name: str, tmp_path: Path) -> None:
    facts = load.manifest()[name]
    source, target = load.unpack(name, tmp_path), tmp_path / "converted"
    layout = OTHER[savefmt.Layout(facts["layout"])]

    savefmt.convert(source, target, layout=layout, codec="raw")

    with golden_guest(name, tmp_path) as guest:
        plainly(guest, target, loading_capabilities(facts, layout))
        after = Evidence.of(guest)
        guest.cont()
    assert after.blocks == {n: block["sha256"] for n, block in facts["blocks"].items()}
    if facts["codec"] == "raw":
        with golden_guest(name, tmp_path) as guest:
            plainly(guest, source, loading_capabilities(facts, OTHER[layout]))
            assert after == Evidence.of(guest)


LAYOUTS = list(savefmt.Layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "name", load.names(lambda facts: facts["kind"] == "libvirt" and facts["arguments"])
)
def test_a_stream_taken_out_of_its_envelope_loads(
    name: str, layout: savefmt.Layout, tmp_path: Path
) -> None:
    facts = load.manifest()[name]
    source, target = load.unpack(name, tmp_path), tmp_path / "bare"

    savefmt.convert(source, target, layout=layout, codec="raw", bare=True)

    with golden_guest(name, tmp_path) as guest:
        plainly(guest, target, loading_capabilities(facts, layout))
        blocks = guest.block_hashes()
        guest.cont()
    assert blocks == {n: block["sha256"] for n, block in facts["blocks"].items()}


# A Linux guest, saved in four ways


@dataclass(frozen=True)
class Saved:
    """A stream of the Linux guest, the guest as it stood, and its console until then."""

    path: Path
    layout: savefmt.Layout
    evidence: Evidence
    memory: str
    console: str


MEMORY = 96 << 20
# All of the main memory but the window of the ROMs.
RANGES = ((0, 0xA0000), (0x100000, MEMORY - 0x100000))


def linux_arguments(linux_guest: Path) -> list[str]:
    return [
        *("-machine", "q35", "-cpu", "qemu64", "-smp", "2", "-m", f"{MEMORY >> 20}M"),
        *("-kernel", str(linux_guest / "vmlinuz")),
        *("-initrd", str(linux_guest / "initramfs.cpio"), "-append", linux.APPEND),
        *("-device", "virtio-rng-pci", "-vga", "std"),
    ]


@pytest.fixture(scope="module")
def streams(
    linux_guest: Path, tmp_path_factory: pytest.TempPathFactory, qemu: None
) -> Iterator[dict[str, Saved]]:
    """Save one guest again and again, letting it run on in between."""
    directory = tmp_path_factory.mktemp("streams")
    result = {}
    plans: dict[str, tuple[bool, dict[str, bool]]] = {
        "stopped": (False, {}),
        "stopped-mapped": (False, MULTIFD),
        "live": (True, {}),
        "live-xbzrle": (True, {"xbzrle": True}),
        "live-mapped": (True, MULTIFD),
    }
    with Guest(directory, linux_arguments(linux_guest)) as guest:
        guest.cont()
        guest.wait_console("tick 5\n")
        for name, (live, capabilities) in plans.items():
            path = directory / name
            clear = dict.fromkeys(("xbzrle", "mapped-ram", "multifd"), False)
            guest.configure({**clear, **capabilities}, {"max-bandwidth": 1 << 34})
            if live:
                assert any(save_in_rounds(guest, path) for _ in range(5)), f"no {name} save"
            else:
                guest.stop()
                guest.migrate_to(f"file:{path}")
            mapped = "mapped-ram" in capabilities
            result[name] = Saved(
                path=path,
                layout=savefmt.Layout.MAPPED_RAM if mapped else savefmt.Layout.SEQUENTIAL,
                evidence=Evidence.of(guest),
                memory=guest.ram_hash(RANGES),
                console=guest.console_text(),
            )
            guest.cont()
            told = len(guest.console_text())
            wait_for(lambda n=told: len(guest.console_text()) > n, "tick")  # type: ignore[misc]
    yield result
    for saved in result.values():
        saved.path.unlink()


def save_in_rounds(guest: Guest, path: Path) -> bool:
    """Save a running guest, with pages that are sent again, as deltas if so configured.

    False means that the guest was too quiet for that; it runs on.
    """
    # At 1 MiB/s not even one page fits in a downtime of 1 ms: QEMU goes on as long as
    # the guest dirties pages.  (A threshold of zero would make it stop at once.)
    endless = {"max-bandwidth": 128 * MIB, "downtime-limit": 1, "avail-switchover-bandwidth": MIB}
    guest.start_migration(f"file:{path}", parameters=endless)
    enabled = {c["capability"]: c["state"] for c in guest.qmp("query-migrate-capabilities")}

    def enough() -> bool:
        state = guest.migration()
        rounds = int(state.get("ram", {}).get("dirty-sync-count", 0))
        deltas = int(state.get("xbzrle-cache", {}).get("pages", 0))
        return rounds > 3 and (deltas >= 20 or not enabled["xbzrle"])

    wait_for(lambda: enough() or guest.migration()["status"] == "completed", "third round")
    guest.configure({}, {"downtime-limit": 10000, "avail-switchover-bandwidth": 1 << 34})
    guest.wait_migration()
    if not enough():
        guest.cont()
    return enough()


def check_linux(saved: Saved, image: Path, layout: savefmt.Layout, way: Way, guest: Guest) -> None:
    """Load an image, compare all there is, and see the guest go on where it stood."""
    way(guest, image, MAPPED if layout is savefmt.Layout.MAPPED_RAM else {})
    after = Evidence.of(guest)
    assert guest.ram_hash(RANGES) == saved.memory
    assert after == saved.evidence
    guest.cont()
    wait_for(
        lambda: linux.goes_on(saved.console, guest.console_text()), "tick and report on memory"
    )


STREAMS = ("stopped", "stopped-mapped", "live", "live-xbzrle", "live-mapped")
WAYS = [
    pytest.param(name, way, id=f"{name}-{way.__name__}")
    for name in STREAMS
    for way in ((plainly,) if name.endswith("mapped") else MAPPED_WAYS)
]


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_a_converted_linux_guest_goes_on(
    name: str, way: Way, streams: dict[str, Saved], linux_guest: Path, tmp_path: Path
) -> None:
    saved = streams[name]
    layout = OTHER[saved.layout]
    target = tmp_path / "converted"

    savefmt.convert(saved.path, target, layout=layout)

    with Guest(tmp_path, linux_arguments(linux_guest), incoming=True) as guest:
        check_linux(saved, target, layout, way, guest)
    target.unlink()


@pytest.mark.parametrize("name", ["stopped-mapped", "live-xbzrle"])
def test_a_guest_survives_there_and_back(
    name: str, streams: dict[str, Saved], linux_guest: Path, tmp_path: Path
) -> None:
    saved = streams[name]
    middle, target = tmp_path / "middle", tmp_path / "target"

    savefmt.convert(saved.path, middle, layout=OTHER[saved.layout])
    savefmt.convert(middle, target, layout=saved.layout)

    with Guest(tmp_path, linux_arguments(linux_guest), incoming=True) as guest:
        check_linux(saved, target, saved.layout, plainly, guest)
    middle.unlink()
    target.unlink()


def test_what_was_salvaged_loads_where_the_devices_survived(tmp_path: Path) -> None:
    """All pages are the guest's, but for those that are told to be lost, which are zeros."""
    facts = load.manifest()["q35-smp"]
    image, target = load.unpack("q35-smp", tmp_path), tmp_path / "rest"
    data = image.read_bytes()
    middle = len(data) // 4
    image.write_bytes(data[:middle] + b"\xff" * 9000 + data[middle + 9000 :])

    with savefmt.open(image, salvage=True) as damaged:
        assert damaged.rescue is not None
        report = damaged.rescue.report
        savefmt.convert(damaged, target)

    assert report.devices_whole
    lost = {block.idstr for block in report.blocks if block.lost}
    assert lost
    with golden_guest("q35-smp", tmp_path) as guest:
        plainly(guest, target, loading_capabilities(facts, savefmt.Layout(facts["layout"])))
        after = guest.block_hashes()
        guest.cont()
    whole = {name: block["sha256"] for name, block in facts["blocks"].items()}
    assert {name for name in whole if after[name] != whole[name]} == lost
