"""The guest's clock, and what ``uname`` prints."""

from __future__ import annotations

from typing import Any, Self

from savefmt.frozen import dataclass
from savefmt.linux.facts import Host
from savefmt.linux.kernel import Kernel
from savefmt.linux.walks import error_types, note, text_at, text_of

_SOON, _LATE = 0, 1 << 33
_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Clock:
    """What time it is for the guest.

    Attributes
    ----------
    now : float or None
        Seconds since 1970; None where it is not told.
    booted : float or None
        The same of its start.
    """

    now: float | None
    booted: float | None

    @classmethod
    def of(cls, kernel: Kernel) -> Self:
        """Read it."""
        try:
            keeper = _keeper(kernel)
            if keeper is None:
                return cls(None, None)
            base = keeper.tkr_mono.base.value_()
            real = base + keeper.offs_real.value_()
            booted = keeper.offs_real.value_() - keeper.offs_boot.value_()
        except error_types():
            return cls(None, None)
        if not (_SOON <= real // _SECOND < _LATE and booted <= real):
            note(kernel, "clock-damaged", "the guest's clock makes no sense")
            return cls(None, None)
        part = keeper.tkr_mono.xtime_nsec.value_() >> min(keeper.tkr_mono.shift.value_(), 63)
        return cls((real + min(part, _SECOND)) / _SECOND, booted / _SECOND)


def _keeper(kernel: Kernel) -> Any:
    """Return the timekeeper, read."""
    several = kernel.variable("timekeeper_data")
    if several is not None:
        return several[0].timekeeper.read_()
    core = kernel.variable("tk_core")
    return core.timekeeper.read_() if core is not None else None


def host(kernel: Kernel) -> Host:
    """Describe the system as a whole.

    Parameters
    ----------
    kernel : Kernel
        Of the guest.

    Returns
    -------
    Host
        Unknown values are None, or empty.
    """
    names = dict.fromkeys(("nodename", "domainname", "version", "machine"), "")
    space = kernel.variable("init_uts_ns")
    try:
        if space is not None:
            content = space.name.read_()
            names = {name: text_of(getattr(content, name)) for name in names}
    except error_types():
        note(kernel, "names-damaged", "the names of the system cannot be read")
    clock = Clock.of(kernel)
    if clock.now is None:
        note(kernel, "no-clock", "the kernel does not tell where its clock is: no times of day")
    told = clock.now is not None and clock.booted is not None
    return Host(
        name=names["nodename"],
        domain="" if names["domainname"] == "(none)" else names["domainname"],
        release=kernel.release,
        version=names["version"],
        machine=names["machine"],
        command_line=_command_line(kernel),
        clock=clock.now,
        booted=clock.booted,
        uptime=clock.now - clock.booted if told else None,  # type: ignore[operator]
        cpus=len(kernel.image.guest.cpus),
        memory=sum(
            one.length
            for one in kernel.image.guest.physical.map.ranges
            if one.kind in ("ram", "dimm", "virtio-mem")
        ),
    )


def _command_line(kernel: Kernel) -> str | None:
    saved = kernel.variable("saved_command_line")
    try:
        if saved is not None:
            return text_at(kernel, saved.value_())
    except error_types():
        pass
    from savefmt.linux.kernellog import log_lines

    mark = "Kernel command line: "
    lines = (line.text for line in log_lines(kernel) if line.text.startswith(mark))
    return next((text.removeprefix(mark) for text in lines), None)
