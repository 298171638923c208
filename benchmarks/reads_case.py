"""The rows of reads here and there in compressed images: their slowest, not their sum."""

from __future__ import annotations

from pathlib import Path

import peers
from lab import Lab
from report import Row
from turns import Pair, inside, process

LIMIT = 0.020
READS = Path(__file__).with_name("reads.py")
_AGAINST = "-"
_GOAL = f"≤ {LIMIT * 1000:g} ms"

KINDS = {
    "reads-gzip": ("gzip", False, "gzip, one member"),
    "reads-xz": ("xz", False, "xz -3 -T0, in blocks of 12 MiB"),
    "reads-gzip-members": ("gzip", True, "gzip in members"),
    "reads-xz-members": ("xz", True, "xz in streams"),
    "reads-zstd-members": ("zstd", True, "zstd in frames"),
}
_NOTES = {
    "reads-xz": "a decoder must begin at the start of a block, and decodes 60 to 100 MB/s; "
    "liblzma cannot save its state in the middle",
}


def run(lab: Lab, key: str) -> Row:
    """Measure one row, or say why not."""
    codec, members, shown = KINDS[key]
    words = (key, f"reads of 8 bytes, {shown}", _AGAINST, _GOAL, "latency")
    reason = peers.missing("xz") if key == "reads-xz" else None
    if reason is not None:
        return Row.skipped(*words, reason)
    image = _image(lab, codec, members)
    pair = Pair([inside(READS, image)], [])  # once will do: CPU time, of 200 reads
    (worst,) = (turn.seconds for turn in pair.ours)
    return Row.of(*words, pair, value=worst * 1000, met=worst <= LIMIT, note=_NOTES.get(key, ""))


def _image(lab: Lab, codec: str, members: bool) -> Path:
    data = lab.scale.fragment_data
    if members:
        return lab.members(codec, data)
    if codec == "xz":
        sparse = lab.sparse(2 * data, data, compressible=True)
        path = sparse.with_suffix(".blocks.xz")
        if not path.exists():
            process("xz", "-c", "-3", "-T0", lab.raw(sparse, bare=True), to=path)
        return path
    return lab.packed(codec, data)
