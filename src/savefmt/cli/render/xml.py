"""What ``savefmt xml set`` and ``xml edit`` print."""

from __future__ import annotations

from collections.abc import Iterator

from savefmt.cli.render.plain import plain
from savefmt.reports import EditReport


def xml_lines(text: bytes) -> Iterator[str]:
    """Show an XML document on a terminal.

    Parameters
    ----------
    text : bytes
        The bytes that the image has in place of the XML.

    Yields
    ------
    str
        One line, with tabs as they are in XML: any blank will do.
    """
    for line in text.decode("utf-8", "surrogateescape").expandtabs().split("\n"):
        yield plain(line, len(line))


def edit_lines(report: EditReport) -> Iterator[str]:
    """Tell what ``savefmt xml set`` did, or would do.

    Parameters
    ----------
    report : EditReport
        What `savefmt.edit.set_xml` returned.

    Yields
    ------
    str
        One line.
    """
    if not report.changed:
        yield f"{plain(report.path)}: not changed"
        return
    verb, move = ("would change", "move") if report.dry_run else ("changed", "moved")
    moved = f", and {move} the stream to make room" if report.moved else ""
    yield f"{plain(report.path)}: {verb}{moved}"
    for change in report.changes:
        yield f"  {plain(change)}"
