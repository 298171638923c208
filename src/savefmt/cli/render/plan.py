"""What ``savefmt plan`` prints."""

from __future__ import annotations

from collections.abc import Iterator

from savefmt.cli.render.plain import plain
from savefmt.model import Layout
from savefmt.reports import Refusal, SavePlan

_FORM_WORDS = {
    "3": ", which no released libvirt loads",
    "2": "",
    "upstream": ", that is save version 2",
}


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
        yield f"refused: {plain(plan.reason)} [{plan.code}]"
        yield f"  {plain(plan.advice)}"
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
        yield f"note: {plain(note)}"


def _format_words(plan: SavePlan) -> str:
    name = "sparse" if plan.layout is Layout.MAPPED_RAM else plan.codec
    word = f"{plan.format} in the header"
    return (
        f"{name} ({word}, features {plan.features:#x})" if plan.version == 3 else f"{name} ({word})"
    )
