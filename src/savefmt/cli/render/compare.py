"""What ``savefmt compare`` prints."""

from __future__ import annotations

from collections.abc import Iterator

from savefmt.cli.render.plain import many, plain
from savefmt.reports import Comparison


def comparison_lines(
    comparison: Comparison, *, pages: bool = False, fields: bool = False
) -> Iterator[str]:
    """Tell whether two images hold the same guest, and where not.

    Parameters
    ----------
    comparison : Comparison
        What `savefmt.compare` returned.
    pages : bool
        List the runs of differing pages.
    fields : bool
        List the device fields that differ.

    Yields
    ------
    str
        One line.
    """
    only = {"only-left": comparison.left, "only-right": comparison.right}
    for block in comparison.blocks:
        name = plain(block.idstr)
        if block.reason in only:
            yield f"RAM {name}: only in {plain(only[block.reason])}"
        elif block.reason == "length":
            yield f"RAM {name}: lengths differ"
        else:
            yield f"RAM {name}: {many(block.page_count, 'page')} differ"
        if pages:
            for run in block.runs:
                start, length = run.first * block.page_size, run.count * block.page_size
                yield f"  {start:#x} to {start + length:#x}: {many(run.count, 'page')}"
    for section in comparison.sections:
        name = f"{plain(section.idstr)}/{section.instance_id}"
        if section.reason in only:
            yield f"device {name}: only in {plain(only[section.reason])}"
        else:
            yield f"device {name}: {section.reason} differs"
        if fields:
            for field in section.fields:
                values = ("-" if one is None else plain(one) for one in (field.left, field.right))
                yield f"  {plain(field.path)}: {' | '.join(values)}"
    for note in comparison.notes:
        yield f"note: {plain(note)}"
    if comparison.same and comparison.lost:
        yield "no difference in what could be read"
    elif comparison.same:
        yield "same guest: memory and devices are identical"
    else:
        blocks, sections = len(comparison.blocks), len(comparison.sections)
        yield f"different: {many(blocks, 'RAM block')}, {many(sections, 'device section')}"
