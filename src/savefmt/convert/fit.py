"""A request for a result that some readers can load."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from savefmt.convert.planning import DISCARD, ConversionRequest
from savefmt.errors import ConversionError
from savefmt.frozen import dataclass, replace
from savefmt.image import SaveImage
from savefmt.model import IOOptions, Layout, OnProgress

if TYPE_CHECKING:  # loaded when there is a reader to fit
    from savefmt.compat.releases import Reader
    from savefmt.compat.traits import Form, Traits

Cuts = tuple[tuple[int, int], ...]
"""Stretches of the decompressed source, start and end, that the result leaves out."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A request made to fit.

    Attributes
    ----------
    request : ConversionRequest
        With layout, codec and save version chosen.
    cuts : tuple of (int, int)
        What the result leaves out of the stream.
    changes : tuple of str
        What was done for the readers, in words.
    """

    request: ConversionRequest
    cuts: Cuts
    changes: tuple[str, ...]


def fit(
    request: ConversionRequest,
    source: object,
    readers: Sequence[Reader],
    io: IOOptions,
    progress: OnProgress | None,
) -> Fitted:
    """Choose what the caller left open so that every reader loads the result.

    Parameters
    ----------
    request : ConversionRequest
        What the caller asked for; that stays.
    source : SaveImage or PipeImage
        What is converted.
    readers : sequence of Reader
        Without any the request stays as it is.
    io, progress
        As everywhere.

    Returns
    -------
    Fitted
        With as few changes as will do.

    Raises
    ------
    ConversionError
        If no form of this image can be loaded by all of them.
    """
    if not readers:
        return Fitted(request, (), ())
    if not isinstance(source, SaveImage) or request.codec == DISCARD:
        raise ConversionError(
            "an image can be fitted for a reader only if source and target are files, not pipes"
        )
    from savefmt.compat.releases import paired
    from savefmt.compat.traits import examine
    from savefmt.compat.verdict import best_form

    readers = paired(readers)
    traits = examine(source, io=io, progress=progress)

    def allowed(form: Form) -> bool:
        return (
            request.layout in (None, form.layout)
            and request.codec in (None, form.codec)
            and request.save_version in (None, form.version)
            and (form.version is None) == (request.bare or traits.form.version is None)
            and not (request.to_pipe and form.layout is Layout.MAPPED_RAM)
        )

    form = best_form(traits, readers, allowed)
    if form is None:
        raise ConversionError(_why_none(traits, readers, allowed))
    whom = ", ".join(map(str, readers))
    dropped = traits.form.switchover and not form.switchover
    changed = replace(
        request,
        layout=form.layout,
        codec=form.codec,
        save_version=form.version if form.version != traits.form.version else request.save_version,
    )
    changes = [f"{len(traits.cuts)} x command 11 left out for {whom}"] if dropped else []
    if form.name != traits.form.name and request.layout is None and request.codec is None:
        changes.append(f"format {traits.form.name} became {form.name} for {whom}")
    return Fitted(changed, traits.cuts if dropped else (), tuple(changes))


def _why_none(traits: Traits, readers: Sequence[Reader], allowed: Callable[[Form], bool]) -> str:
    """Give the reasons against the form that comes nearest."""
    from savefmt.compat.rules import obstacles
    from savefmt.compat.verdict import forms_of

    def reasons(form: Form) -> list[str]:
        return [
            f"{reader}: {obstacle.reason}"
            for reader in readers
            for obstacle in obstacles(traits.shaped(form), reader)
            if obstacle.blocks
        ]

    nearest = min(map(reasons, filter(allowed, forms_of(traits.form))), key=len, default=[])
    why = "; ".join(nearest) or "the other options leave no form to choose"
    return f"no form that this image can have can be loaded there: {why}"


def kept(piece: bytes | memoryview, offset: int, cuts: Cuts) -> Iterator[bytes | memoryview]:
    """Yield what ascending cuts leave of one piece that begins at `offset`."""
    done = 0
    for start, end in cuts:
        first, last = start - offset, end - offset
        if last <= done or first >= len(piece):
            continue
        if first > done:
            yield piece[done:first]
        done = min(last, len(piece))
    if done < len(piece):
        yield piece[done:]
