"""What can go wrong while a guest is in our hands: it goes on, and nothing is left."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import savefmt
from interop.conftest import need_machine
from interop.live import MACHINE, Collector, LiveGuest, tiny_arguments, tiny_guest
from interop.qemu import wait_for
from savefmt import qemu, qmp
from savefmt.compat.policy import SaveRequest
from savefmt.model import Progress
from savefmt.qemu import migration, pump, saving
from savefmt.qmp import Monitor, MonitorError, MonitorLostError

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("qemu")]

SPARSE, STREAM, ZSTD = (
    SaveRequest("upstream", "sparse"),
    SaveRequest("2"),
    SaveRequest("2", "zstd"),
)
REQUESTS = pytest.mark.parametrize(
    "request_", [SPARSE, STREAM, ZSTD], ids=["sparse", "raw", "zstd"]
)


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory, qemu: None) -> Iterator[LiveGuest]:
    """A guest that never rests."""
    need_machine(MACHINE)
    with tiny_guest(tmp_path_factory.mktemp("busy"), "live") as busy:
        yield busy


@pytest.fixture
def unharmed(guest: LiveGuest) -> Iterator[LiveGuest]:
    """The same guest, which must be as before when the test is over."""
    before, opened = guest.settings(), guest.descriptors()
    gc.collect()
    ours, threads = os.listdir("/proc/self/fd"), threading.active_count()
    yield guest
    assert guest.status == "running"
    assert (guest.settings(), guest.descriptors()) == (before, opened)
    assert len(os.listdir("/proc/self/fd")) == len(ours)
    assert threading.active_count() == threads


# QEMU ends


@REQUESTS
def test_qemu_is_killed_while_it_saves(request_: SaveRequest, tmp_path: Path) -> None:
    need_machine(MACHINE)
    folder = tmp_path / "images"
    folder.mkdir()
    with tiny_guest(tmp_path, "live") as victim:

        def kill(progress: Progress) -> None:
            victim.process.kill()
            victim.process.wait()

        with pytest.raises(MonitorLostError) as caught:
            qemu.save(folder / "image", qmp=victim.socket, request=request_, progress=kill)

    assert str(caught.value) == (
        f"{victim.socket}: QEMU went away; QEMU has ended, and the guest with it"
    )
    assert list(folder.iterdir()) == []


@REQUESTS
def test_qemu_is_killed_while_it_loads(
    request_: SaveRequest, guest: LiveGuest, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    qemu.save(image, qmp=guest.socket, request=request_)
    before = image.read_bytes()
    with tiny_guest(tmp_path, "live", incoming=True) as victim:

        def kill(progress: Progress) -> None:
            victim.process.kill()
            victim.process.wait()

        with pytest.raises(MonitorLostError, match="QEMU has ended; the image is unharmed"):
            qemu.restore(image, qmp=victim.socket, progress=kill)
    assert image.read_bytes() == before


# The target


def test_a_device_that_takes_nothing(unharmed: LiveGuest) -> None:
    """The envelope goes first, so that the guest need not be held for this."""
    unharmed.events.clear()

    with pytest.raises(savefmt.ImageIOError, match="No space left on device"):
        qemu.save("/dev/full", qmp=unharmed.socket, request=ZSTD)

    assert unharmed.status == "running"
    assert "STOP" not in {event["event"] for event in unharmed.events}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@REQUESTS
def test_the_disk_is_full(request_: SaveRequest, unharmed: LiveGuest, small_disk: Path) -> None:
    if request_ is ZSTD:
        (small_disk / "ballast").write_bytes(bytes(172 << 10))  # the envelope takes 68

    with pytest.raises(savefmt.SavefmtError, match="(?i)no space left on device") as caught:
        qemu.save(small_disk / "image", qmp=unharmed.socket, request=request_)

    assert caught.value.message.endswith("; the guest runs on")
    assert "image" not in "".join(os.listdir(small_disk))


def test_an_existing_target_is_kept(unharmed: LiveGuest, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"precious")

    with pytest.raises(savefmt.ConversionError, match="--force replaces it"):
        qemu.save(image, qmp=unharmed.socket)

    assert image.read_bytes() == b"precious"


def test_the_reader_of_a_pipe_goes(unharmed: LiveGuest, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def read_a_little() -> None:
        with fifo.open("rb") as source:
            source.read(Collector.ENVELOPE)

    thread = threading.Thread(target=read_a_little)
    thread.start()

    with pytest.raises(BrokenPipeError) as caught:
        qemu.save(fifo, qmp=unharmed.socket, request=STREAM)

    thread.join()
    assert caught.value.__notes__ == ["the guest runs on"]


# Cancelled


@REQUESTS
@pytest.mark.parametrize("live", [False, True], ids=["held", "live"])
def test_cancelled(request_: SaveRequest, live: bool, unharmed: LiveGuest, tmp_path: Path) -> None:
    with pytest.raises(savefmt.OperationCancelled, match="the guest runs on"):
        qemu.save(
            tmp_path / "image",
            qmp=unharmed.socket,
            request=request_,
            live=live,
            progress=lambda progress: False,
        )

    assert list(tmp_path.iterdir()) == []


# Saves to a pipe that nobody reads; with a short one between QEMU and us, QEMU hangs in it.
SCRIPT = """
import sys
from savefmt.cli.main import main
from savefmt.qemu import pump
pump.PIPE_LENGTH = int(sys.argv[1])
sys.exit(main(["save", *sys.argv[2:]]))
"""


@pytest.mark.parametrize("live", [(), ("--live",)], ids=["held", "live"])
@pytest.mark.parametrize(
    ("pipe_length", "state"), [(4096, "active"), (1 << 20, "completed")], ids=["qemu", "savefmt"]
)
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_signals_bring_the_guest_back(
    number: signal.Signals,
    code: int,
    pipe_length: int,
    state: str,
    live: tuple[str, ...],
    unharmed: LiveGuest,
    tmp_path: Path,
) -> None:
    collector = Collector(tmp_path, wait=True)
    words = [sys.executable, "-c", SCRIPT, str(pipe_length), str(collector.fifo)]
    process = subprocess.Popen(
        [*words, "--qmp", unharmed.socket, *live],
        stderr=subprocess.PIPE,
        text=True,
        # A runner in the background may have handed down an ignored signal.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )

    def stuck() -> bool:
        # What QEMU tells of an earlier save does not count: after that the guest ran.  And a
        # guest that runs meanwhile may change more than the pipe holds, again and again.
        over = unharmed.status == "postmigrate"
        found = unharmed.migration().get("status")
        return over == (found == "completed") and (
            found == state or bool(live and found == "active")
        )

    try:
        wait_for(stuck, "save that is stuck")
        began = time.monotonic()
        process.send_signal(number)
        if number == signal.SIGINT:
            time.sleep(0.05)
            process.send_signal(number)  # impatience must not cut the clean-up short
        _, talk = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
        collector.finish()

    assert process.returncode == code
    assert "savefmt: the guest runs on\n" in talk
    assert "Traceback" not in talk
    assert time.monotonic() - began < 10


# The connection


def test_a_broken_connection_is_mended(
    unharmed: LiveGuest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU lives on: with a new connection the guest is brought back."""
    monitors: list[Monitor] = []

    class Noted(Monitor):
        def __init__(self, address: str, *, timeout: float = 10.0) -> None:
            super().__init__(address, timeout=timeout)
            monitors.append(self)

    monkeypatch.setattr(saving, "Monitor", Noted)

    def hang_up(progress: Progress) -> None:
        if len(monitors) == 1:
            monitors.append(monitors[0])
            monitors[0]._line._socket.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]

    with pytest.raises(MonitorLostError) as caught:
        qemu.save(tmp_path / "image", qmp=unharmed.socket, request=STREAM, progress=hang_up)

    assert str(caught.value).endswith("QEMU went away; the guest runs on")
    assert list(tmp_path.iterdir()) == []


def test_qemu_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmp, "SLOW_SECONDS", 0.3)
    folder = tmp_path / "images"
    folder.mkdir()
    with tiny_guest(tmp_path, "live") as victim:

        def freeze(progress: Progress) -> bool:
            victim.process.send_signal(signal.SIGSTOP)
            return False

        with pytest.raises(savefmt.OperationCancelled) as caught:
            qemu.save(folder / "image", qmp=victim.socket, request=STREAM, progress=freeze)

    assert caught.value.message.endswith(
        "; QEMU does not answer, so see what has become of the guest"
    )
    assert list(folder.iterdir()) == []


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(MonitorError, match="there is no such socket"):
        qemu.save(tmp_path / "image", qmp=str(tmp_path / "none"))


def test_the_socket_says_nothing(tmp_path: Path) -> None:
    """As one that wants TLS, or that serves another client."""
    folder = Path(os.path.relpath(tmp_path))
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(folder / "qmp"))
        silent.listen()
        with pytest.raises(MonitorError, match="such as TLS"):
            qemu.save(tmp_path / "image", qmp=str(folder / "qmp"), timeout=0.2)


AS_NOBODY = """
import os, sys
from savefmt.qmp import Monitor, MonitorError
def try_it(path):
    try:
        Monitor(path)
    except MonitorError as error:
        return str(error)
try_it("/nowhere")  # loads what nobody may be forbidden to read
os.setgid(65534)
os.setuid(65534)
print(try_it(sys.argv[1]))
"""


def test_the_socket_is_not_ours(guest: LiveGuest, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("not root, so nobody else to be")
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, guest.socket], capture_output=True, text=True, check=True
    )

    assert done.stdout == (
        f"{guest.socket}: this user may not use the socket; become the user that QEMU runs as, "
        "or root\n"
    )


# The other QEMU


@pytest.fixture(scope="module")
def image(guest: LiveGuest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "image"
    qemu.save(path, qmp=guest.socket, request=SPARSE)
    return path


Change = Callable[[list[str]], list[str]]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda words: [words[0], "pc-i440fx-10.0", *words[2:]], "has a pc-i440fx-10.0; start it"),
        (lambda words: [*words[:3], "16M", *words[4:]], "'pc.ram' has 8388608 bytes"),
        (
            lambda words: [
                *("-object", "memory-backend-ram,id=other,size=8M"),
                *(words[0], f"{words[1]},memory-backend=other", *words[2:]),
            ],
            "the image has the RAM block 'pc.ram' and this QEMU has not",
        ),
    ],
    ids=["machine", "length", "name"],
)
def test_another_guest_is_refused(change: Change, reason: str, image: Path, tmp_path: Path) -> None:
    with LiveGuest(tmp_path, change(tiny_arguments(tmp_path, "live")), incoming=True) as other:
        before = other.settings()
        with pytest.raises(qemu.MigrationError, match=reason):
            qemu.restore(image, qmp=other.socket)
        assert other.status == "inmigrate"
        assert other.settings() == before
        assert other.qmp("query-migrate") == {}


@pytest.mark.parametrize("request_", [SPARSE, ZSTD], ids=["sparse", "zstd"])
def test_a_restore_killed_before_the_guest_ran(
    request_: SaveRequest, guest: LiveGuest, tmp_path: Path
) -> None:
    """The guest is whole and paused; nothing but `resume` touches it."""
    path = tmp_path / "image"
    qemu.save(path, qmp=guest.socket, request=request_)
    with tiny_guest(tmp_path, incoming=True, name="other") as other:
        with pytest.raises(qemu.MigrationError, match=r"leave out --resume"):
            qemu.restore(path, qmp=other.socket, resume=True)
        killed = subprocess.run(
            [sys.executable, "-c", KILLED_BEFORE_CONT, str(path), other.socket], check=False
        )
        assert killed.returncode == -signal.SIGKILL
        assert other.status == "paused"
        with pytest.raises(qemu.MigrationError, match="a whole guest, paused, as .*--resume"):
            qemu.restore(path, qmp=other.socket)
        assert other.status == "paused"

        report = qemu.restore(path, qmp=other.socket, resume=True)

        assert (other.status, report.state) == ("running", "running")
        assert "not loaded again" in report.notes[-1]
        with pytest.raises(qemu.MigrationError, match=r"it is running\); leave out --resume"):
            qemu.restore(path, qmp=other.socket, resume=True)


KILLED_BEFORE_CONT = """
import os, signal, sys
from savefmt.qemu import migration, restoring
migration.resume = lambda monitor: os.kill(os.getpid(), signal.SIGKILL)
restoring.restore(sys.argv[1], qmp=sys.argv[2], running=True)
"""


def test_a_running_guest_is_not_replaced(unharmed: LiveGuest, image: Path) -> None:
    with pytest.raises(qemu.MigrationError, match=r"does not wait for a guest \(it is running\)"):
        qemu.restore(image, qmp=unharmed.socket)


def test_a_stream_that_is_cut_off(guest: LiveGuest, tmp_path: Path) -> None:
    path = tmp_path / "image"
    qemu.save(path, qmp=guest.socket, request=STREAM)
    os.truncate(path, path.stat().st_size // 2)
    with tiny_guest(tmp_path, "live", incoming=True) as other:
        with pytest.raises(savefmt.SavefmtError, match="quit it, and start another"):
            qemu.restore(path, qmp=other.socket)
        assert other.process.poll() is None


@REQUESTS
def test_a_cancelled_load(request_: SaveRequest, guest: LiveGuest, tmp_path: Path) -> None:
    path = tmp_path / "image"
    qemu.save(path, qmp=guest.socket, request=request_)
    with tiny_guest(tmp_path, "live", incoming=True) as other:
        before = other.settings()
        with pytest.raises(savefmt.OperationCancelled, match="quit it, and start another"):
            qemu.restore(path, qmp=other.socket, progress=lambda progress: False)
        assert other.settings() == before
        assert other.status != "running"


def test_channels_need_a_sparse_image(guest: LiveGuest, tmp_path: Path) -> None:
    path = tmp_path / "image"
    qemu.save(path, qmp=guest.socket, request=ZSTD)
    with (
        tiny_guest(tmp_path, "live", incoming=True) as other,
        pytest.raises(savefmt.ConversionError, match="convert -O sparse"),
    ):
        qemu.restore(path, qmp=other.socket, parallel=2)


def test_a_waiting_qemu_has_nothing_to_save(tmp_path: Path) -> None:
    with (
        tiny_guest(tmp_path, incoming=True) as waiting,
        pytest.raises(qemu.MigrationError, match="waits for a guest"),
    ):
        qemu.save(tmp_path / "image", qmp=waiting.socket)
    assert not (tmp_path / "image").exists()


def test_one_save_at_a_time(
    unharmed: LiveGuest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "PIPE_LENGTH", 4096)
    collector = Collector(tmp_path, wait=True)
    first = threading.Thread(
        target=lambda: qemu.save(collector.fifo, qmp=unharmed.socket, request=STREAM, live=True)
    )
    first.start()
    wait_for(lambda: unharmed.migration().get("status") == "active", "save under way")
    # The first one holds the socket of its own; the tests' monitor stands for a second.
    status = unharmed.migration()["status"]

    class Second:
        name = "QEMU"

        def execute(self, command: str) -> object:
            return unharmed.qmp(command)

    try:
        with pytest.raises(qemu.MigrationError, match=f"already \\({status}\\)"):
            migration.refuse_second(Second())  # type: ignore[arg-type]
    finally:
        collector.finish()
        first.join()


# A guest that outruns its target


def test_a_restless_guest_is_held(
    unharmed: LiveGuest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = unharmed.settings()[1]
    monkeypatch.setattr(pump, "PIPE_LENGTH", 4096)
    # Not even one page fits in such a downtime, and the pipe is slower than the guest.
    endless = {"downtime-limit": 1, "avail-switchover-bandwidth": 1 << 20}
    unharmed.configure({}, endless)
    collector = Collector(tmp_path, pace=0.002)
    try:
        report = qemu.save(collector.fifo, qmp=unharmed.socket, request=STREAM, live=True)
    finally:
        unharmed.configure({}, {name: before[name] for name in endless})

    assert report.notes == (
        "the guest was paused for the rest of the save: it changed memory faster than the "
        "target could take it",
    )
    assert report.held_seconds > 0
    assert savefmt.check(collector.finish(), level=savefmt.CheckLevel.FULL).ok
