"""What ``savefmt stats`` prints."""

from __future__ import annotations

from collections.abc import Iterator

from savefmt.cli.render.plain import many, plain, size
from savefmt.scan.results import MemoryStats


def stats_lines(stats: MemoryStats) -> Iterator[str]:
    """Tell what a guest's pages are like, together and block by block.

    Parameters
    ----------
    stats : MemoryStats
        What `savefmt.scan.stats.stats` returned.

    Yields
    ------
    str
        One line.
    """

    def share(count: int) -> str:
        part = f", {100 * count / stats.pages:.1f} %" if stats.pages else ""
        return f"{many(count, 'page')}, {size(count * stats.page_size)}{part}"

    yield f"pages:      {share(stats.pages)}"
    yield f"zero:       {share(stats.zero)}"
    if stats.lost:
        yield f"lost:       {share(stats.lost)}"
    yield f"distinct:   {share(stats.distinct)}"
    yield f"unique:     {share(stats.unique)}"
    yield f"duplicate:  {share(stats.duplicate)}"
    yield ""
    yield (
        f"{'Pages':>10}{'Zero':>10}{'Distinct':>10}{'Unique':>10}{'Entropy':>9}  "
        f"{'Pages by bits of entropy, 0 to 8':<48}  Block"
    )
    for block in stats.blocks:
        bins = " ".join(str(count) for count in block.histogram)
        yield (
            f"{block.pages:>10}{block.zero:>10}{block.distinct:>10}{block.unique:>10}"
            f"{block.entropy:>9.2f}  {bins:<48}  {plain(block.idstr)}"
        )
    for block in stats.blocks:
        if block.lost:
            yield f"note: {many(block.lost, 'page')} of block {plain(block.idstr)} are lost"
    for name in stats.left_out:
        yield f"note: block {plain(name)} was left out of the image"
