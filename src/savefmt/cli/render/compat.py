"""Verdicts, plans and settings as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from savefmt.cli.render.common import plain, size
from savefmt.compat.config import SETTINGS, Config, Value
from savefmt.model import Layout
from savefmt.reports import Answer, CompatReport, HostReport, Refusal, SavePlan

_NAMES = {"libvirt": "libvirt", "qemu": "QEMU"}
_FORM_WORDS = {
    "3": ", which no released libvirt loads",
    "2": "",
    "upstream": ", that is save version 2",
}


def compat_lines(report: CompatReport) -> Iterator[str]:
    """Tell who can load an image, one line a reader and one a reason.

    Parameters
    ----------
    report : CompatReport
        What `savefmt.compat.verdict.compatibility` returned.

    Yields
    ------
    str
        One line.
    """
    yield f"{plain(report.path)}: machine type {plain(report.machine) or 'not recorded'}"
    for verdict in report.verdicts:
        reader = f"{_NAMES[verdict.program]} {verdict.release}"
        first, *others = (*map(plain, verdict.reasons), "")
        yield f"  {reader:<18}{verdict.answer:<9}{first}".rstrip()
        for reason in filter(None, others):
            yield f"{'':<29}{reason}"
        if verdict.conversion:
            options = " ".join(verdict.conversion)
            becomes = "loadable" if verdict.answer is Answer.NO else "a yes"
            yield f"{'':<29}savefmt convert {options} makes it {becomes}"


def host_lines(report: HostReport) -> Iterator[str]:
    """Tell what this host has for loading an image.

    Parameters
    ----------
    report : HostReport
        What `savefmt.compat.host.probe_host` returned.

    Yields
    ------
    str
        One line.
    """
    yield f"host: libvirt {report.libvirt or 'not installed'}"
    if report.qemu_release is not None:
        has = {
            "mapped-ram": report.mapped_ram,
            "direct I/O": report.direct_io,
            "multifd": report.multifd,
        }
        named = (
            ", ".join(name for name, there in has.items() if there)
            or "neither mapped-ram nor multifd"
        )
        yield f"host: QEMU {report.qemu_release} ({plain(report.qemu or '')}): {named}"
        memory = f", main memory {plain(report.default_ram_id)}" if report.default_ram_id else ""
        yield f"host: machine type {report.machine}{memory}"
    if report.program is not None:
        yield f"host: decompresses with {report.program}"
    if report.memory_available is not None:
        free, needed = size(report.memory_available), size(report.memory_needed)
        yield f"host: {free} of memory free, the guest has {needed}"


def plan_lines(plan: SavePlan | Refusal) -> Iterator[str]:
    """Tell how a guest would be saved, or why not.

    Parameters
    ----------
    plan : SavePlan or Refusal
        What `savefmt.compat.policy.plan_save` returned.

    Yields
    ------
    str
        One line.
    """
    if isinstance(plan, Refusal):
        yield f"refused: {plan.reason} [{plan.code}]"
        yield f"  {plan.advice}"
        return
    yield f"save version:  {plan.form}{_FORM_WORDS[plan.form]}"
    yield f"format:        {_format_words(plan)}"
    yield f"layout:        {plan.layout}"
    if plan.capabilities:
        yield f"capabilities:  {', '.join(plan.capabilities)}"
    if plan.channels:
        yield f"channels:      {plan.channels}"
    yield f"page cache:    {'bypassed' if plan.direct else 'used'}"
    writer = "QEMU itself" if plan.writer == "qemu" else "savefmt, from a pipe"
    yield f"written by:    {writer} ({', '.join(plan.descriptors)})"
    for note in plan.notes:
        yield f"note: {note}"


def _format_words(plan: SavePlan) -> str:
    name = "sparse" if plan.layout is Layout.MAPPED_RAM else plan.codec
    word = f"{plan.format} in the header"
    return (
        f"{name} ({word}, features {plan.features:#x})" if plan.version == 3 else f"{name} ({word})"
    )


def config_lines(config: Config) -> Iterator[str]:
    """Show every setting as a line of TOML, with its origin.

    Parameters
    ----------
    config : Config
        What `savefmt.compat.config.load` returned.

    Yields
    ------
    str
        One line; together they are a valid file.
    """
    width = max(len(_assignment(s.name, config.values[s.name])) for s in SETTINGS)
    for setting in SETTINGS:
        line = _assignment(setting.name, config.values[setting.name])
        yield f"{line:<{width}}  # {plain(config.origins[setting.name])}: {setting.meaning}"


def _assignment(name: str, value: Value) -> str:
    return f"# {name} is not set" if value is None else f"{name} = {_toml(value)}"


def _toml(value: str | int | bool | Sequence[str]) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return f'"{value}"'
    return f"[{', '.join(map(_toml, value))}]"
