"""Save a running guest: plan, envelope, pause, migrate, final header, resume."""

from __future__ import annotations

import contextlib
import enum
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from savefmt.compat.ask import QemuAnswers, ask
from savefmt.compat.destination import look_at
from savefmt.compat.policy import Destination, DestinationKind, SaveRequest, plan_save
from savefmt.errors import ConversionError, SavefmtError
from savefmt.format.domain import parse_domain
from savefmt.format.envelope import Envelope
from savefmt.model import IOOptions, OnProgress, StrPath
from savefmt.progress import Meter
from savefmt.qemu import migration
from savefmt.qemu.descriptors import file_in_set, pipe_end
from savefmt.qemu.hosted import HostedGuest, look, minimal_xml
from savefmt.qemu.imagetarget import ImageTarget, image_target
from savefmt.qemu.pump import Pump, from_qemu
from savefmt.qemu.report import MigrationError, SaveReport
from savefmt.qemu.settings import configured, parameters_for
from savefmt.qmp import Monitor, MonitorLostError
from savefmt.reports import Refusal, SavePlan
from savefmt.writing.imagefile import check_image_output

LIVE_ROUNDS = 12
"""Passes over the memory after which a live save holds the guest, since it dirties its
memory faster than the target takes it."""


class Afterwards(enum.StrEnum):
    """What becomes of the guest once it is saved."""

    RESUME = "resume"
    KEEP_PAUSED = "keep-paused"
    QUIT = "quit"


def save(
    target: StrPath,
    *,
    qmp: str,
    request: SaveRequest = SaveRequest(),
    xml: bytes | None = None,
    cookie: bytes | None = None,
    live: bool = False,
    afterwards: Afterwards = Afterwards.RESUME,
    overwrite: bool = False,
    io: IOOptions = IOOptions(),
    timeout: float = 10.0,
    progress: OnProgress | None = None,
) -> SaveReport:
    """Save the guest of a running QEMU, as `savefmt.compat.policy` plans it.

    On any failure the guest goes on as before and no target is left; the error says what
    became of the guest.

    Parameters
    ----------
    target : str or os.PathLike
        The image; ``-`` is standard output, for sequential formats.
    qmp : str
        Path of QEMU's QMP socket, a UNIX one.
    request : SaveRequest
        What to write.
    xml, cookie : bytes, optional
        libvirt's documents for the envelope; without them a domain as small as QEMU's own
        answers make it.
    live : bool
        Let the guest run while it is saved.
    afterwards : Afterwards
        Resume the guest if it ran, keep it paused, or quit QEMU.
    overwrite : bool
        Replace an existing target.
    io : IOOptions
        Threads that compress.
    timeout : float
        Seconds for the socket to answer.
    progress : callable, optional
        As for `savefmt.convert`.

    Returns
    -------
    SaveReport
        What was done.

    Raises
    ------
    ConversionError
        If the policy refuses, or the target exists.
    MigrationError
        If QEMU cannot save this guest.
    MonitorError
        If nobody answers on the socket, or QEMU ends on the way.
    ImageIOError
        If the target cannot be written.
    OperationCancelled
        If the progress callback returned False.
    ValueError
        If there is no such `afterwards`.
    """
    began = time.monotonic()
    afterwards = Afterwards(afterwards)
    with Monitor(os.fspath(qmp), timeout=timeout) as monitor:
        answers = ask(monitor)
        place = look_at(target)
        plan = _plan(request, answers, target, place, overwrite=overwrite)
        guest = look(monitor)
        _refuse_unsavable(monitor, guest)
        document = minimal_xml(monitor, guest) if xml is None else xml
        envelope = _envelope(plan, document, cookie, running=guest.running)
        job = _Save(monitor, guest, plan, live=live and guest.running, io=io, progress=progress)
        held = job.run(target, envelope, afterwards, overwrite=overwrite)
        notes = [*plan.notes, *_xml_notes(document, guest, answers), *job.notes]
    return SaveReport(
        target=os.fspath(target),
        domain=parse_domain(document).name or guest.name,
        machine=guest.machine,
        plan=plan,
        live=live and guest.running,
        state=_state_afterwards(guest, afterwards),
        ram_length=job.ram_length,
        length=job.lengths[0],
        disk_length=job.lengths[1],
        seconds=time.monotonic() - began,
        held_seconds=held,
        notes=tuple(notes),
    )


def _plan(
    request: SaveRequest,
    answers: QemuAnswers,
    target: StrPath,
    place: Destination,
    *,
    overwrite: bool,
) -> SavePlan:
    plan = plan_save(request, answers.abilities, place)
    if isinstance(plan, Refusal):
        raise ConversionError(f"{plan.reason}; {plan.advice}", path=target)
    if place.kind in (DestinationKind.FILE, DestinationKind.BLOCK):
        check_image_output(target, overwrite=overwrite)
    return plan


def _refuse_unsavable(monitor: Monitor, guest: HostedGuest) -> None:
    if guest.status == "inmigrate":
        raise MigrationError("this QEMU waits for a guest, and has none to save", path=monitor.name)
    if guest.status == "postmigrate":
        raise MigrationError(
            "the guest is paused by an earlier save, and QEMU saves it again only after it "
            "has run; resume it first (cont)",
            path=monitor.name,
        )
    migration.refuse_second(monitor)


def _envelope(plan: SavePlan, xml: bytes, cookie: bytes | None, *, running: bool) -> Envelope:
    parse_domain(xml)
    envelope = Envelope.new(xml, cookie, format=plan.format, running=running)
    return envelope.with_stream(version=plan.version, format=plan.format, features=plan.features)


def _xml_notes(xml: bytes, guest: HostedGuest, answers: QemuAnswers) -> Iterator[str]:
    named = parse_domain(xml).machine
    entry = answers.machines.get(named or guest.machine)
    if (entry.name if entry is not None else named) != guest.machine:
        yield f"the XML names the machine type {named}, and the guest has {guest.machine}"


def _state_afterwards(guest: HostedGuest, afterwards: Afterwards) -> str:
    if afterwards is Afterwards.QUIT:
        return "ended"
    return "running" if guest.running and afterwards is Afterwards.RESUME else "paused"


@dataclass
class _Save:
    """One save, with the guest in our hands.

    `notes` says what was done differently from the request, and `ram_length` is what QEMU
    counted. `lengths` is the length of the image and its size on the disk, if it is not a pipe.
    """

    monitor: Monitor
    guest: HostedGuest
    plan: SavePlan
    live: bool
    io: IOOptions
    progress: OnProgress | None
    ram_length: int = 0

    def __post_init__(self) -> None:
        self.notes: list[str] = []
        self.lengths: tuple[int, int] | tuple[None, None] = (None, None)
        self._meter = Meter(self.progress, 0, "saving")
        self._show = migration.ram_progress(self._meter)
        self._held_since: float | None = None

    def run(
        self, target: StrPath, envelope: Envelope, afterwards: Afterwards, *, overwrite: bool
    ) -> float:
        """Save, and return for how many seconds the guest stood still."""
        with contextlib.ExitStack() as stack:
            opened = image_target(
                target, self.plan, envelope, overwrite=overwrite, engine=self.io.engine
            )
            image = stack.enter_context(opened)
            pump = self._start_pump(stack, image)
            with self._guest_goes_on():
                last = self._migrate(image, envelope.stream_offset, pump)
                self.ram_length = int(last.get("ram", {}).get("total", 0))
                migration.settle(self.monitor)
                if self.guest.running and afterwards is Afterwards.RESUME:
                    # Before the disk has it all: the guest need not wait for that.
                    migration.resume(self.monitor)
                held = self._seconds_held(last)
                self._meter.phase = "syncing"
                self._meter.update(self._meter.total)
                image.seal()
            self.lengths = image.lengths
            self.notes += image.notes
        if afterwards is Afterwards.QUIT:
            with contextlib.suppress(MonitorLostError):  # it may be faster than its answer
                self.monitor.execute("quit")
        return held

    def _start_pump(self, stack: contextlib.ExitStack, image: ImageTarget) -> Pump | None:
        if self.plan.writer != "savefmt":
            return None
        stopped = threading.Event()
        sink = image.sink(self.plan.codec, self.io, stopped)
        return stack.enter_context(from_qemu(sink, stopped))

    def _seconds_held(self, last: dict[str, Any]) -> float:
        if not self.guest.running:
            return 0.0
        if self._held_since is not None:
            return time.monotonic() - self._held_since
        return float(last.get("downtime", 0)) / 1000

    @contextmanager
    def _guest_goes_on(self) -> Iterator[None]:
        """Hold the guest unless live; if anything fails, let it go on and say so."""
        try:
            if self.guest.running and not self.live:
                self._hold()
            yield
        except BaseException as error:
            state = self._put_back()
            if isinstance(error, SavefmtError):
                error.message = f"{error.message}; {state}"
            else:
                error.add_note(state)
            raise

    def _hold(self) -> None:
        self._held_since = time.monotonic()
        self.monitor.execute("stop")

    def _put_back(self) -> str:
        """Let the guest go on as before, and say in what state it is."""
        monitor = self.monitor
        if monitor.lost and not monitor.reconnect():
            if monitor.silent:
                return "QEMU does not answer, so see what has become of the guest"
            return "QEMU has ended, and the guest with it"
        try:
            if migration.settle(monitor) != "running" and self.guest.running:
                migration.resume(monitor)
            running = monitor.status == "running"
        except SavefmtError as failure:
            return f"what became of the guest is unknown: {failure.message}"
        if running:
            return "the guest runs on"
        return "the guest is paused" if self.guest.running else "the guest is paused, as before"

    def _migrate(self, image: ImageTarget, offset: int, pump: Pump | None) -> dict[str, Any]:
        monitor, plan = self.monitor, self.plan
        with contextlib.ExitStack() as stack:
            parameters = parameters_for(plan.channels, plan.direct and plan.writer == "qemu")
            stack.enter_context(configured(monitor, plan.capabilities, parameters))
            if pump is not None:
                uri = stack.enter_context(pipe_end(monitor, pump))
            else:
                assert image.path is not None
                files = file_in_set(monitor, image.path, offset, os.O_WRONLY, plan.descriptors)
                uri = stack.enter_context(files)
            last = self._follow(uri, pump)
            if pump is not None:
                self._meter.phase = "writing"
                pump.finish()
        return last

    def _follow(self, uri: str, pump: Pump | None) -> dict[str, Any]:
        monitor = self.monitor

        def watch(answer: dict[str, Any]) -> None:
            if pump is not None:
                pump.check()
            self._show(answer)
            self._hold_the_restless(answer)

        try:
            monitor.execute("migrate", uri=uri)
            with monitor.unhurried():
                return migration.follow(monitor, "save", watch)
        except BaseException as error:
            if pump is not None:
                pump.stop()  # a QEMU that waits for the pipe does not answer
            migration.cancel(monitor)
            # QEMU only reports a broken pipe; the pump knows what broke it.
            if pump is not None and isinstance(error, MigrationError):
                pump.check()
            raise

    def _hold_the_restless(self, answer: dict[str, Any]) -> None:
        rounds = int(answer.get("ram", {}).get("dirty-sync-count", 0))
        restless = rounds > LIVE_ROUNDS and answer.get("status") == "active"
        if self.live and restless and self._held_since is None:
            self._hold()
            self.notes.append(
                "the guest was paused for the rest of the save: it changed memory faster than "
                "the target could take it"
            )
