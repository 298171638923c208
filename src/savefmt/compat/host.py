"""Can this host load an image: its libvirt, its QEMU, its programs and its memory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from savefmt.compat import rules
from savefmt.compat.ask import QemuAnswers, ask, has_kvm, started
from savefmt.compat.cpufit import cpu_lack
from savefmt.compat.findings import as_findings
from savefmt.compat.releases import Reader, Release
from savefmt.compat.statetable import read_state_table, unloadable
from savefmt.compat.traits import Traits
from savefmt.compat.trust import is_trusted_emulator
from savefmt.errors import ConversionError, FormatError
from savefmt.guest.needs import read_hardware
from savefmt.image import SaveImage
from savefmt.model import Finding, Severity
from savefmt.qmp import Monitor, MonitorError
from savefmt.reports import HostReport

_MEMINFO = Path("/proc/meminfo")
_VERSION_SECONDS = 20


@dataclass
class HostQuestion:
    """Whom to ask.

    Attributes
    ----------
    binary : str or None
        A QEMU program instead of the one that the image's XML names.
    socket : str or None
        The QMP socket of a running QEMU instead of a program.
    timeout : float
        Seconds for it to answer.
    """

    binary: str | None = None
    socket: str | None = None
    timeout: float = 10.0


@dataclass
class _Host:
    libvirt: Release | None = None
    qemu: str | None = None
    answers: QemuAnswers | None = None
    program: str | None = None
    available: int | None = None
    needed: int = 0
    accelerated: bool | None = None
    cpu_lack: str | None = None
    findings: list[Finding] = field(default_factory=list)


def probe_host(image: SaveImage, traits: Traits, question: HostQuestion) -> HostReport:
    """Ask this host whether it can load an image.

    Parameters
    ----------
    image : SaveImage
        Open.
    traits : Traits
        What `savefmt.compat.traits.examine` made of it.
    question : HostQuestion
        Whom to ask.

    Returns
    -------
    HostReport
        Its findings tell what prevents the image from loading.

    Raises
    ------
    SavefmtError
        If a QEMU that is here, or was named, cannot be asked.
    """
    host = _Host(libvirt=installed_libvirt())
    _ask_qemu(image, question, host)
    host.findings += _judge_libvirt(traits, host)
    if host.answers is not None:
        host.findings += _judge_qemu(image, traits, host.answers)
        if question.socket is None and host.qemu is not None:
            host.findings += _judge_versions(image, host.qemu, question.timeout)
            host.findings += _judge_processor(image, host)
    host.findings += _judge_memory(image, host)
    return _report(image, traits, host)


def installed_libvirt() -> Release | None:
    """Return the release of the libvirt on this host, None without one."""
    for program in ("libvirtd", "virtqemud", "virsh"):
        path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
        if path is None:
            continue
        try:
            done = subprocess.run(
                [path, "--version"],
                capture_output=True,
                text=True,
                check=False,
                timeout=_VERSION_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        found = re.search(r"\d+\.\d+\.\d+", done.stdout)
        if found:
            return Release.parse(found[0])
    return None


def _judge_libvirt(traits: Traits, host: _Host) -> Iterator[Finding]:
    if traits.form.version is None:
        return
    if host.libvirt is None:
        yield Finding("host.libvirt", Severity.NOTE, "no libvirt is installed here")
    else:
        starts = host.answers.release if host.answers is not None else None
        reader = Reader("libvirt", host.libvirt, starts=starts)
        found = [o for o in rules.obstacles(traits, reader) if o.code not in ("qemu", "program")]
        yield from as_findings(traits, reader, found)
    if traits.form.codec != "raw":
        host.program = shutil.which(traits.form.codec)
        if host.program is None:
            yield Finding(
                "host.program",
                Severity.ERROR,
                f"the program {traits.form.codec}, which libvirt decompresses with, is not "
                "installed on this host",
                advice=f"install {traits.form.codec}, or savefmt convert -O raw",
            )


def _ask_qemu(image: SaveImage, question: HostQuestion, host: _Host) -> None:
    if question.socket is not None:
        host.qemu = question.socket
        with Monitor(question.socket, timeout=question.timeout) as monitor:
            host.answers = ask(monitor)
        return
    try:
        host.qemu = question.binary or trusted_emulator(image)
    except NoSuchEmulatorError as error:
        advice = "install it, or name another with --qemu-binary"
        host.findings.append(Finding("host.qemu", Severity.ERROR, error.message, advice=advice))
        return
    with started(host.qemu, accelerator=accelerator_of(image), timeout=question.timeout) as monitor:
        host.answers = ask(monitor)
        host.accelerated = has_kvm(monitor)
        host.cpu_lack = cpu_lack(monitor, read_hardware(image, []))


def accelerator_of(image: SaveImage) -> str:
    """Return what a QEMU is started with for the guest in an image, after ``accel=``."""
    return "kvm:tcg" if image.domain is not None and image.domain.type == "kvm" else "tcg"


class NoSuchEmulatorError(ConversionError):
    """The QEMU that an image names is not on this host."""


def trusted_emulator(image: SaveImage) -> str:
    """Return the QEMU that the image's XML names, if only root could have put it there.

    Parameters
    ----------
    image : SaveImage
        The writer of the image chose the name of the QEMU, so savefmt must not run a script by
        that name.

    Returns
    -------
    str
        Its path.

    Raises
    ------
    NoSuchEmulatorError
        If it is not here.
    ConversionError
        If the XML names none, or one that is not to be trusted.
    """
    domain = image.domain
    name = domain.emulator if domain is not None else None
    if name is None or not os.path.isabs(name):
        raise ConversionError(
            "the image does not name a QEMU by its path; name one with --qemu-binary"
        )
    path = os.path.realpath(name)
    if not os.path.exists(path):
        raise NoSuchEmulatorError(f"the QEMU that the image names, {name}, is not on this host")
    if not is_trusted_emulator(path):
        raise ConversionError(
            f"the image names {name} as its QEMU, and savefmt does not run that program "
            "without being asked: its name is not that of a QEMU, or users other than root "
            "could have changed it; name a QEMU with --qemu-binary"
        )
    return path


def _judge_qemu(image: SaveImage, traits: Traits, answers: QemuAnswers) -> Iterator[Finding]:
    reader = Reader("qemu", answers.release)
    asked = {"machine", "layout", "direct-io"}  # it told us itself, below
    yield from as_findings(
        traits, reader, [o for o in rules.obstacles(traits, reader) if o.code not in asked]
    )
    name = traits.machine.name
    entry = answers.machines.get(name)
    if name and entry is None:
        yield Finding("host.machine", Severity.ERROR, f"{reader} here has no machine type {name}")
    elif entry is not None and entry.deprecated:
        yield Finding(
            "host.machine",
            Severity.NOTE,
            f"{reader} calls the machine type {name} deprecated",
            advice="a later release will not load this image",
        )
    ram = entry.default_ram_id if entry is not None else None
    if ram is not None and ram not in image.blocks:
        yield Finding(
            "host.ram-id",
            Severity.NOTE,
            f"this QEMU calls the main memory {ram!r}, and the image has no such block",
            advice="give the memory back end the name that the image has",
        )
    if traits.form.mapped and not answers.abilities.mapped_ram:
        yield Finding(
            "host.mapped-ram",
            Severity.ERROR,
            f"{reader} here has no mapped-ram",
            advice="savefmt convert -O raw",
        )
    elif traits.form.mapped and not answers.abilities.direct_io:
        yield Finding(
            "host.direct-io", Severity.NOTE, f"{reader} here reads through the page cache"
        )


def _judge_versions(image: SaveImage, binary: str, timeout: float) -> Iterator[Finding]:
    """Hold the devices against what the program loads, where no pass is needed to know them."""
    try:
        table = read_state_table(binary, timeout=timeout)
        sections = image.devices.sections if image.sections is not None else ()
    except (
        MonitorError,
        FormatError,
    ):  # the image does not tell; the check itself says what is wrong
        return
    for idstr, reason in unloadable(sections, table):
        advice = "use another release of QEMU"
        yield Finding("host.versions", Severity.ERROR, f"the device {idstr} {reason}", None, advice)


def _judge_processor(image: SaveImage, host: _Host) -> Iterator[Finding]:
    if accelerator_of(image) != "tcg" and not host.accelerated:
        yield Finding(
            "host.kvm",
            Severity.ERROR,
            "the guest ran with KVM, which is not available on this host",
            advice="restore it on a host with KVM, as a user who may open /dev/kvm",
        )
    elif host.cpu_lack:
        advice = "restore it on a host whose processor has them"
        yield Finding("host.cpu", Severity.ERROR, host.cpu_lack, advice=advice)


def _judge_memory(image: SaveImage, host: _Host) -> Iterator[Finding]:
    blocks = image.blocks.values()
    host.needed = sum(block.used_length for block in blocks if not block.ignored)
    host.available = available_memory()
    if host.available is not None and host.needed > host.available:
        yield Finding(
            "host.memory",
            Severity.WARNING,
            f"the guest has {host.needed} bytes of memory and this host {host.available} free",
            advice="free memory first, or the host may swap or kill a process",
        )


def available_memory() -> int | None:
    """Return how many bytes of memory this host has free, None where it does not tell."""
    try:
        text = _MEMINFO.read_text()
    except OSError:
        return None
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _report(image: SaveImage, traits: Traits, host: _Host) -> HostReport:
    answers = host.answers
    abilities = answers.abilities if answers is not None else None
    entry = answers.machines.get(traits.machine.name) if answers is not None else None
    if answers is None:
        machine = "unasked"
    elif entry is None:
        machine = "absent"
    else:
        machine = "deprecated" if entry.deprecated else "known"
    return HostReport(
        path=str(image.path),
        libvirt=str(host.libvirt) if host.libvirt is not None else None,
        qemu=host.qemu,
        qemu_release=str(answers.release) if answers is not None else None,
        mapped_ram=abilities.mapped_ram if abilities is not None else None,
        direct_io=abilities.direct_io if abilities is not None else None,
        multifd=abilities.multifd if abilities is not None else None,
        machine=machine,
        default_ram_id=entry.default_ram_id if entry is not None else None,
        program=host.program,
        memory_available=host.available,
        memory_needed=host.needed,
        findings=tuple(host.findings),
    )
