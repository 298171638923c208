"""Verdicts as findings, for ``savefmt check --for``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from savefmt.compat.releases import Reader, paired
from savefmt.compat.rules import Obstacle, Weight, obstacles
from savefmt.compat.traits import Traits
from savefmt.compat.verdict import helping, loadable
from savefmt.model import Finding, Severity

_SEVERITIES = {
    Weight.ASIDE: Severity.NOTE,
    Weight.NEED: Severity.NOTE,
    Weight.RISK: Severity.WARNING,
    Weight.BLOCK: Severity.ERROR,
}


def reader_findings(traits: Traits, readers: Sequence[Reader]) -> Iterator[Finding]:
    """Tell what prevents some readers from loading an image.

    Parameters
    ----------
    traits : Traits
        Of the image.
    readers : sequence of Reader
        Each is judged alone, except that a libvirt is judged together with the QEMU that it
        starts.

    Yields
    ------
    Finding
        An error for what cannot be loaded, a warning for what may turn out otherwise, a
        note for what must be given.
    """
    for reader in paired(readers):
        yield from as_findings(traits, reader, obstacles(traits, reader))


def as_findings(traits: Traits, reader: Reader, found: Iterable[Obstacle]) -> Iterator[Finding]:
    """Yield the obstacles of one reader as findings, with the conversion that helps."""
    options = helping(traits, reader, loadable)
    advice = f"savefmt convert {' '.join(options)}" if options else ""
    for obstacle in found:
        yield Finding(
            f"{reader.program}.{obstacle.code}",
            _SEVERITIES[obstacle.weight],
            f"{reader}: {obstacle.reason}",
            advice=advice if obstacle.blocks else "",
        )
