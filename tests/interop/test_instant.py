"""Guests run on the pages of their image: alone, many at once, stale pages and all."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import savefmt
from interop import linux
from interop.libvirt import Libvirt
from interop.live import LiveGuest, tiny_arguments
from interop.qemu import EMULATOR, hidden_emulator, wait_for
from interop.test_qemu_loads import linux_arguments
from interop.test_virsh_restores import CONSOLE, DOMAIN, console_text
from savefmt import ConversionError, instant
from savefmt.edit import set_xml
from savefmt.image import SaveImage
from savefmt.instant.startcommand import backend
from savefmt.instant.warming import read_order
from savefmt.qemu import Afterwards, MigrationError, restore, save
from savefmt.qmp import Monitor

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("qemu")]

PAGE = 4096


class Saved:
    """A sparse image of the counting guest, with what it held."""

    def __init__(self, path: Path, console: str, hashes: dict[str, str]) -> None:
        self.path = path
        self.console = console
        self.hashes = hashes


@pytest.fixture(scope="module")
def saved(linux_guest: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saved]:
    """Save the guest, and leave old bytes under clear bits as a live save may do."""
    directory = tmp_path_factory.mktemp("instant")
    path = directory / "image"
    with LiveGuest(directory, linux_arguments(linux_guest)) as guest:
        guest.cont()
        guest.wait_console("tick 3\n")
        save(path, qmp=guest.socket, afterwards=Afterwards.KEEP_PAUSED)
        result = Saved(path, guest.console_text(), guest.block_hashes())
    make_stale(path)
    yield result
    shutil.rmtree(directory)


def make_stale(path: Path, count: int = 50) -> None:
    """Write bytes under clear bits of the largest block, some neighbours among them."""
    with SaveImage(path) as image:
        block = max(image.mapped.pages, key=lambda pages: pages.count)
        clear = [i for i in range(block.count) if not block.bitmap[i >> 3] >> (i & 7) & 1]
        pages = random.Random(1).sample(clear[:-1], count)
    with open(path, "r+b") as file:
        for page in [*pages, clear[0], clear[0] + 1 if clear[1] == clear[0] + 1 else clear[1]]:
            os.pwrite(file.fileno(), b"stale" * 800, block.offset + page * PAGE)


def mapping(arguments: Sequence[str], image: Path, **changes: str) -> list[str]:
    """Return QEMU's arguments with the main memory mapped from the image."""
    words = list(arguments)
    with SaveImage(image) as opened:
        main = instant.mappable(opened)[0]
    parts = dict(part.partition("=")[::2] for part in backend(main, os.fspath(image)).split(","))
    parts |= changes
    value = ",".join(f"{key}={text}" if text else key for key, text in parts.items())
    words[words.index("-machine") + 1] += f",memory-backend={main.idstr}"
    return ["-object", value, *words]


@pytest.fixture
def waiting(saved: Saved, linux_guest: Path, tmp_path: Path) -> Iterator[LiveGuest]:
    """A QEMU that has mapped the image and waits."""
    arguments = mapping(linux_arguments(linux_guest), saved.path)
    with LiveGuest(tmp_path, arguments, incoming=True) as guest:
        yield guest


def test_it_counts_on_without_being_loaded(saved: Saved, waiting: LiveGuest) -> None:
    before = saved.path.read_bytes()
    words: dict[str, Any] = {"running": False, "binary": hidden_emulator()}
    would = instant.restore_on_image(saved.path, qmp=waiting.socket, dry_run=True, **words)
    assert waiting.status == "inmigrate"

    report = instant.restore_on_image(saved.path, qmp=waiting.socket, **words)

    assert replace(would, seconds=report.seconds, dry_run=False) == report
    assert report.state == "paused"
    assert report.mapped_length == max(block.length for block in waiting.ram_blocks())
    assert report.notes == ()
    assert waiting.block_hashes() == saved.hashes
    waiting.cont()
    wait_for(lambda: linux.goes_on(saved.console, waiting.console_text()), "tick and report")
    assert saved.path.read_bytes() == before


def test_a_processor_without_what_the_guest_uses_is_refused(
    saved: Saved, linux_guest: Path, tmp_path: Path
) -> None:
    """The image has no XML, but the guest's registers tell what it has switched on."""
    arguments = linux_arguments(linux_guest)
    arguments[arguments.index("-cpu") + 1] += ",nx=off"
    with LiveGuest(tmp_path, arguments, incoming=True) as other:
        with pytest.raises(MigrationError, match="had nx and .* none; start it with nx=on behind"):
            restore(saved.path, qmp=other.socket)
        assert other.status == "inmigrate"
        restore(saved.path, qmp=other.socket, running=False, ignore=["cpu"])
        assert other.status == "paused"


def test_what_it_saves_is_an_ordinary_image(
    saved: Saved, waiting: LiveGuest, linux_guest: Path, tmp_path: Path
) -> None:
    instant.restore_on_image(saved.path, qmp=waiting.socket, running=False)
    again = tmp_path / "again"
    save(again, qmp=waiting.socket, afterwards=Afterwards.KEEP_PAUSED)

    assert savefmt.compare(saved.path, again).blocks == ()
    with pytest.raises(ConversionError, match="nothing to detach"):
        instant.detach(again, tmp_path / "detached")
    with LiveGuest(tmp_path, linux_arguments(linux_guest), name="other", incoming=True) as other:
        restore(again, qmp=other.socket, running=False)
        assert other.block_hashes()["pc.ram"] == saved.hashes["pc.ram"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"share": "on"}, "share=off"),
        ({"readonly": "off", "rom": "off"}, "readonly=on"),
        ({"offset": str(2 << 20)}, "offset"),
        ({"mem-path": "COPY"}, "no memory back end of this QEMU is the image"),
    ],
    ids=["shared", "writable", "elsewhere", "another file"],
)
def test_a_qemu_that_would_do_harm_is_refused(
    changes: dict[str, str], words: str, saved: Saved, linux_guest: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "image"
    subprocess.run(["cp", "--sparse=always", saved.path, mine], check=True)
    if "mem-path" in changes:
        shutil.copy(mine, tmp_path / "copy")
        changes = {"mem-path": str(tmp_path / "copy")}
    arguments = mapping(linux_arguments(linux_guest), mine, **changes)
    if changes.get("share") == "on":  # QEMU itself wants them to agree
        arguments[1] = arguments[1].replace("readonly=on,rom=off", "readonly=off")
    with LiveGuest(tmp_path, arguments, incoming=True) as guest:
        with pytest.raises(MigrationError, match=words):
            instant.restore_on_image(mine, qmp=guest.socket)
        assert guest.status == "inmigrate"


def test_an_image_that_was_replaced_is_refused(
    saved: Saved, linux_guest: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "image"
    subprocess.run(["cp", "--sparse=always", saved.path, mine], check=True)
    arguments = mapping(linux_arguments(linux_guest), mine)
    with LiveGuest(tmp_path, arguments, incoming=True) as guest:
        subprocess.run(["cp", "--sparse=always", saved.path, tmp_path / "new"], check=True)
        (tmp_path / "new").rename(mine)
        with pytest.raises(MigrationError, match="replaced"):
            instant.restore_on_image(mine, qmp=guest.socket)
        assert guest.status == "inmigrate"


def test_nothing_of_ours_changes_an_image_that_a_guest_runs_on(
    saved: Saved, waiting: LiveGuest
) -> None:
    instant.restore_on_image(saved.path, qmp=waiting.socket)
    with SaveImage(saved.path) as image:
        xml = image.envelope.xml  # type: ignore[union-attr]
    other = xml.replace(b"<domain ", b"<domain  ", 1)
    for change in (
        lambda: set_xml(saved.path, other),
        lambda: set_xml(saved.path, other.replace(b"</domain>", b" " * 9000 + b"</domain>")),
        lambda: savefmt.convert(saved.path, saved.path, save_version=2, overwrite=True),
        lambda: (
            savefmt.convert(saved.path, saved.path.with_name("out"), overwrite=True)
            and savefmt.convert(saved.path.with_name("out"), saved.path, overwrite=True)
        ),
    ):
        with pytest.raises(ConversionError, match="a guest runs on its pages"):
            change()

    waiting.process.kill()
    waiting.process.wait()
    set_xml(saved.path, xml, running=True)


def test_the_lock_alone_protects_it_too(
    saved: Saved, waiting: LiveGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from savefmt.writing import inuse

    instant.restore_on_image(saved.path, qmp=waiting.socket)
    monkeypatch.setattr(inuse, "_who_maps", lambda path, status: iter(()))

    with pytest.raises(ConversionError, match="locked"):
        inuse.refuse_in_use(saved.path)


def test_nodes_and_dimms_are_mapped_too(tmp_path: Path) -> None:
    words = tiny_arguments(tmp_path)
    words[words.index("-m") + 1] = "size=32M,slots=2,maxmem=256M"
    path = tmp_path / "image"

    def arguments(ends: Sequence[str]) -> list[str]:
        nodes = [w for i in (0, 1) for w in ("-numa", f"node,nodeid={i},memdev=ram-node{i}")]
        objects = [word for end in ends for word in ("-object", end)]
        return [*words, *objects, *nodes, "-device", "pc-dimm,id=d,memdev=dimm"]

    sizes = {"ram-node0": 16, "ram-node1": 16, "dimm": 64}
    plain = [f"memory-backend-ram,id={name},size={size}M" for name, size in sizes.items()]
    with LiveGuest(tmp_path, arguments(plain)) as guest:
        guest.cont()
        guest.wait_console("R")
        save(path, qmp=guest.socket, afterwards=Afterwards.KEEP_PAUSED)
        hashes = guest.block_hashes()
    with SaveImage(path) as image:
        blocks = instant.mappable(image)
    assert {block.idstr for block in blocks} == set(sizes)

    ends = [backend(block, os.fspath(path)) for block in blocks]
    with LiveGuest(tmp_path, arguments(ends), name="second", incoming=True) as guest:
        report = instant.restore_on_image(path, qmp=guest.socket, running=False)
        assert report.mapped_length == sum(sizes.values()) << 20
        assert guest.block_hashes() == hashes


def test_a_thin_image_is_restored_in_full_too(
    saved: Saved, linux_guest: Path, tmp_path: Path
) -> None:
    (thin,) = instant.clone(saved.path, tmp_path / "clones").guests
    with LiveGuest(tmp_path, linux_arguments(linux_guest), incoming=True) as guest:
        restore(Path(thin.image), qmp=guest.socket, running=False)
        assert guest.block_hashes() == saved.hashes
    os.unlink(thin.image)


def test_clones_count_on_side_by_side(saved: Saved, linux_guest: Path, tmp_path: Path) -> None:
    report = instant.clone(saved.path, tmp_path / "clones", count=2, binary=EMULATOR)
    consoles = []

    with ExitStack() as stack:
        for guest in report.guests:
            console = tmp_path / f"{guest.name}.console"
            extra = ["-cpu", "qemu64", *linux_arguments(linux_guest)[6:]]
            serial = ["-chardev", f"file,id=ser,path={console}", "-serial", "chardev:ser"]
            assert guest.script is not None
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "sh", guest.script, *extra, *serial],
                stdin=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            consoles.append(console)
        for console in consoles:
            wait_for(lambda c=console: c.exists() and go_on(saved, c), "tick and report")  # type: ignore[misc]
        with pytest.raises(ConversionError, match="a guest runs on its pages"):
            set_xml(saved.path, None, running=False)
        with Monitor(str(tmp_path / "clones" / "clone-1.qmp")) as monitor:
            assert monitor.status == "running"
    with pytest.raises(ConversionError, match="thin image"):
        set_xml(saved.path, None, running=False)


def go_on(saved: Saved, console: Path) -> bool:
    return linux.goes_on(saved.console, console.read_text(errors="replace"))


# libvirt


@pytest.fixture(scope="module")
def domain_image(
    libvirt: Libvirt, linux_guest: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Saved]:
    """The counting guest, saved by virsh."""
    for name in ("vmlinuz", "initramfs.cpio"):
        shutil.copy(linux_guest / name, libvirt.path(f"/var/lib/libvirt/images/{name}"))
    libvirt.path(CONSOLE).unlink(missing_ok=True)
    path = tmp_path_factory.mktemp("virsh") / "image"
    libvirt.start(DOMAIN)
    try:
        wait_for(lambda: "tick 2\n" in console_text(libvirt), "tick on the console")
        libvirt.save("ticker", path, "sparse")
    finally:
        libvirt.destroy("ticker")
    make_stale(path)
    yield Saved(path, console_text(libvirt), {})
    shutil.rmtree(path.parent)


def test_virsh_restores_clones(libvirt: Libvirt, domain_image: Saved, tmp_path: Path) -> None:
    report = instant.clone_for_libvirt(domain_image.path, tmp_path, count=2, name="twin")
    consoles = []
    try:
        for guest in report.guests:
            place = CONSOLE.replace("ticker", guest.name)
            libvirt.path(place).unlink(missing_ok=True)
            with SaveImage(guest.image) as image:
                assert image.base is not None
                xml = image.envelope.xml  # type: ignore[union-attr]
            set_xml(guest.image, xml.replace(CONSOLE.encode(), place.encode()))
            libvirt.restore(Path(guest.image))
            consoles.append(libvirt.path(place))
        for guest, console in zip(report.guests, consoles, strict=True):
            wait_for(lambda c=console: go_on(domain_image, c), "tick and report")  # type: ignore[misc]
            assert libvirt.virsh("domuuid", guest.name).strip() == guest.uuid
    finally:
        for guest in report.guests:
            libvirt.destroy(guest.name)


@pytest.mark.parametrize("form", ["sparse", "raw"])
def test_a_clone_that_was_saved_becomes_ordinary(
    form: str, libvirt: Libvirt, domain_image: Saved, tmp_path: Path
) -> None:
    (guest,) = instant.clone_for_libvirt(domain_image.path, tmp_path, name="single").guests
    libvirt.path(CONSOLE).unlink(missing_ok=True)
    saved, ordinary = tmp_path / "saved", tmp_path / "ordinary"
    try:
        libvirt.restore(Path(guest.image))
        wait_for(lambda: "tick" in console_text(libvirt), "tick")
        libvirt.save("single", saved, form)
        past = domain_image.console + console_text(libvirt)

        report = instant.detach(saved, ordinary, verify=True)

        assert report.digest is not None
        with SaveImage(ordinary) as image:
            assert "pc.ram" in image.blocks
            assert b"memory-backend" not in image.envelope.xml  # type: ignore[union-attr]
        libvirt.path(CONSOLE).unlink(missing_ok=True)
        libvirt.restore(ordinary)
        wait_for(lambda: linux.goes_on(past, console_text(libvirt)), "tick and report")
    finally:
        libvirt.destroy("single")


def test_a_thin_image_becomes_ordinary(
    libvirt: Libvirt, domain_image: Saved, tmp_path: Path
) -> None:
    (guest,) = instant.clone_for_libvirt(domain_image.path, tmp_path, name="loner").guests
    ordinary = tmp_path / "ordinary"

    instant.detach(guest.image, ordinary)

    assert savefmt.compare(ordinary, domain_image.path).same
    os.unlink(guest.image)
    libvirt.path(CONSOLE).unlink(missing_ok=True)
    try:
        libvirt.restore(ordinary)
        wait_for(
            lambda: linux.goes_on(domain_image.console, console_text(libvirt)), "tick and report"
        )
    finally:
        libvirt.destroy("loner")


def test_what_it_touches_is_recorded_and_read_ahead(
    saved: Saved, linux_guest: Path, tmp_path: Path
) -> None:
    arguments, order = mapping(linux_arguments(linux_guest), saved.path), tmp_path / "order"
    with LiveGuest(tmp_path, arguments, incoming=True) as guest:
        report = instant.restore_on_image(
            saved.path, qmp=guest.socket, record=order, record_seconds=1.5
        )
        assert "touched at first" in report.notes[-1]
    with SaveImage(saved.path) as image:
        (main,) = instant.mappable(image)
    ranges = read_order(order, [main])
    assert 1 << 20 < sum(length for _, length in ranges) < main.length

    with LiveGuest(tmp_path, arguments, name="second", incoming=True) as guest:
        report = instant.restore_on_image(
            saved.path, qmp=guest.socket, order=order, binary=hidden_emulator()
        )
        assert report.notes == (f"{sum(length for _, length in ranges)} bytes read ahead",)
        wait_for(lambda: linux.goes_on(saved.console, guest.console_text()), "tick and report")


def test_a_guest_that_may_write_saves_without_its_memory(
    saved: Saved, linux_guest: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "--sparse=always", saved.path, copy], check=True)
    ways = {"mem-path": str(copy), "share": "on", "readonly": "off", "rom": ""}
    arguments = mapping(linux_arguments(linux_guest), saved.path, **ways)
    arguments[1] = arguments[1].replace(",rom", "")
    with LiveGuest(tmp_path, arguments, incoming=True) as guest:
        instant.restore_on_image(saved.path, qmp=guest.socket, copy=copy)
        wait_for(lambda: linux.goes_on(saved.console, guest.console_text()), "tick and report")
        guest.migrate_to(f"file:{tmp_path / 'state'}", {"x-ignore-shared": True})
        past = saved.console + guest.console_text()
    assert (tmp_path / "state").stat().st_size < 2 << 20

    with LiveGuest(tmp_path, arguments, name="second", incoming=True) as guest:
        guest.load(f"file:{tmp_path / 'state'}", {"x-ignore-shared": True})
        guest.cont()
        wait_for(lambda: linux.goes_on(past, guest.console_text()), "tick and report")
