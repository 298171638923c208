"""A Linux guest counts on across `savefmt save` and `restore`, with and without libvirt."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import savefmt
from interop import linux
from interop.conftest import need_direct_io
from interop.libvirt import PLACES, Libvirt
from interop.live import LiveGuest
from interop.qemu import wait_for
from interop.test_qemu_loads import linux_arguments
from interop.test_virsh_restores import CONSOLE, DOMAIN, console_text
from savefmt import qemu
from savefmt.compat.policy import SaveRequest
from savefmt.qemu import Afterwards

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("qemu")]


@dataclass(frozen=True)
class Saved:
    """An image of the Linux guest, and its console up to the save."""

    path: Path
    console: str


def assert_it_goes_on(before: str, guest: LiveGuest) -> None:
    wait_for(lambda: linux.goes_on(before, guest.console_text()), "tick and report on memory")


# QEMU alone

FORMS = {
    "sparse-parallel": (SaveRequest("upstream", parallel=4, bypass_cache=True), False),
    "zstd": (SaveRequest("upstream", "zstd"), False),
    "raw-live": (SaveRequest("2", bypass_cache=True), True),
    "version-3-live": (SaveRequest("3", parallel=2), True),
}


@pytest.fixture(scope="module")
def saves(
    linux_guest: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Saved]]:
    """Save one guest in one form after another, letting it run on in between."""
    directory = tmp_path_factory.mktemp("live-linux")
    need_direct_io(directory)
    result = {}
    with LiveGuest(directory, linux_arguments(linux_guest)) as guest:
        before = guest.settings(), guest.descriptors()
        guest.cont()
        guest.wait_console("tick 3\n")
        for name, (request, live) in FORMS.items():
            path = directory / name
            report = qemu.save(
                path,
                qmp=guest.socket,
                request=request,
                live=live,
                afterwards=Afterwards.KEEP_PAUSED,
            )
            assert report.live is live
            result[name] = Saved(path, guest.console_text())
            guest.cont()
        assert (guest.settings(), guest.descriptors()) == before
        told = guest.console_text()
        wait_for(lambda: len(guest.console_text()) > len(told), "tick of the saved guest itself")
    yield result
    shutil.rmtree(directory)


@pytest.mark.parametrize("name", FORMS)
def test_it_counts_on(
    name: str, saves: dict[str, Saved], linux_guest: Path, tmp_path: Path
) -> None:
    saved, request = saves[name], FORMS[name][0]
    assert (
        savefmt.check(saved.path, level=savefmt.CheckLevel.FULL).worst is not savefmt.Severity.ERROR
    )

    with LiveGuest(tmp_path, linux_arguments(linux_guest), incoming=True) as guest:
        report = qemu.restore(
            saved.path,
            qmp=guest.socket,
            parallel=request.parallel,
            bypass_cache=request.bypass_cache,
        )
        assert report.state == "running"
        assert report.direct == request.bypass_cache
        assert_it_goes_on(saved.console, guest)


# With libvirt

SOCKET = "/var/lib/libvirt/qemu/savefmt.qmp"
EXTRA = f"""\
  <qemu:commandline>
    <qemu:arg value='-qmp'/>
    <qemu:arg value='unix:{SOCKET},server=on,wait=off'/>
  </qemu:commandline>
</domain>
"""
NAMESPACE = " xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"
WITH_SOCKET = DOMAIN.replace("'qemu'>", f"'qemu'{NAMESPACE}", 1).replace("</domain>\n", EXTRA)
# What makes the guest, out of the options that libvirt starts QEMU with.
GUEST_OPTIONS = frozenset(
    f"-{name}"
    for name in "machine cpu m smp uuid rtc boot kernel initrd append global".split()  # noqa: SIM905
)


class Ticker:
    """The counting guest as a domain of libvirt's, with a socket for us.

    `past` is its console up to the last restore, which begins a new file.
    """

    def __init__(self, libvirt: Libvirt) -> None:
        self.libvirt = libvirt
        self.past = ""

    def restore(self, image: Path) -> None:
        """Restore the guest, which has ended, and see it count on."""
        self.past += console_text(self.libvirt)
        self.libvirt.restore(image)
        assert self.libvirt.state("ticker") == "running"
        wait_for(
            lambda: linux.goes_on(self.past, console_text(self.libvirt)),
            "tick and report on memory",
        )


@pytest.fixture(scope="module")
def ticker(libvirt: Libvirt, linux_guest: Path) -> Iterator[Ticker]:
    for name in ("vmlinuz", "initramfs.cpio"):
        shutil.copy(linux_guest / name, libvirt.path(f"/var/lib/libvirt/images/{name}"))
    libvirt.path(CONSOLE).unlink(missing_ok=True)
    libvirt.start(WITH_SOCKET)
    try:
        wait_for(lambda: "tick 2\n" in console_text(libvirt), "tick on the console")
        yield Ticker(libvirt)
    finally:
        libvirt.destroy("ticker")


@pytest.mark.parametrize(
    "request_",
    [SaveRequest("upstream", parallel=2), SaveRequest("upstream", "zstd"), SaveRequest("2")],
    ids=["sparse", "zstd", "raw"],
)
def test_virsh_restores_what_savefmt_saved(
    request_: SaveRequest, ticker: Ticker, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    libvirt = ticker.libvirt
    xml = libvirt.virsh("dumpxml", "--migratable", "ticker").encode()

    report = qemu.save(
        image,
        qmp=str(libvirt.path(SOCKET)),
        request=request_,
        xml=xml,
        afterwards=Afterwards.KEEP_PAUSED,
    )

    assert (report.domain, report.notes) == ("ticker", ())
    libvirt.destroy("ticker")
    ticker.restore(image)


@pytest.mark.parametrize(
    ("format", "way"),
    [("zstd", {}), ("sparse", {"parallel": 2, "bypass_cache": True})],
    ids=["zstd", "sparse"],
)
def test_savefmt_restores_what_virsh_saved(
    format: str, way: dict[str, Any], ticker: Ticker, tmp_path: Path
) -> None:
    arguments = guest_arguments(ticker.libvirt)
    image = tmp_path / "image"
    ticker.libvirt.save("ticker", image, format)
    console = ticker.past + console_text(ticker.libvirt)

    with LiveGuest(tmp_path, arguments, incoming=True) as guest:
        report = qemu.restore(image, qmp=guest.socket, **way)
        assert report.state == "running"
        assert_it_goes_on(console, guest)

    ticker.restore(image)  # for the next test


def guest_arguments(libvirt: Libvirt) -> list[str]:
    """Return what it takes to make libvirt's guest without libvirt."""
    words = Path(f"/proc/{libvirt.pid('ticker')}/cmdline").read_text().split("\0")
    kept: list[str] = []
    for option, value in itertools.pairwise(words):
        device = option == "-device" and "isa-serial" not in value  # the harness brings its own
        own = any(kind in value for kind in ('"secret"', '"monitor-'))  # libvirt's
        backing = option == "-object" and not own
        if option in GUEST_OPTIONS or device or backing:
            kept += [option, outside(libvirt, value)]
    return kept


def outside(libvirt: Libvirt, word: str) -> str:
    """Name a file of the private root as it is named out here."""
    inside = any(word.startswith(f"{place}/") for place in PLACES)
    return str(libvirt.path(word)) if inside else word
