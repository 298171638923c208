"""The kernel's log: the ring of records that kernels have since 5.10."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from savefmt.linux.facts import LogLine
from savefmt.linux.kernel import Kernel
from savefmt.linux.walks import decode, error_types, note

_MAX_COUNT_BITS = 18
_MAX_TEXT_BITS = 27
_STATE_SHIFT = 62
_ID_MASK = (1 << _STATE_SHIFT) - 1
_COMMITTED, _FINALIZED = 1, 2
_ID_LENGTH = 8


def log_lines(kernel: Kernel) -> Iterator[LogLine]:
    """Yield the messages of the kernel.

    Parameters
    ----------
    kernel : Kernel
        Whose log.

    Yields
    ------
    LogLine
        The oldest first.
    """
    ring = kernel.variable("prb")
    if ring is None:
        note(kernel, "no-log", "the kernel's log was not found; kernels before 5.10 keep another")
        return
    try:
        yield from _read(kernel, ring[0].read_())
    except error_types():
        note(kernel, "log-damaged", "the kernel's log cannot be read whole")


def _read(kernel: Kernel, ring: Any) -> Iterator[LogLine]:
    descriptors, texts = ring.desc_ring, ring.text_data_ring
    bits, text_bits = descriptors.count_bits.value_(), texts.size_bits.value_()
    if bits > _MAX_COUNT_BITS or text_bits > _MAX_TEXT_BITS:
        note(kernel, "log-damaged", f"the kernel's log claims 2^{bits} records")
        return
    import drgn

    program = kernel.program
    kinds = [program.type(f"struct {name}") for name in ("prb_desc", "printk_info")]
    sizes = [drgn.sizeof(kind) for kind in kinds]
    state_at, place_at = (drgn.offsetof(kinds[0], name) for name in ("state_var", "text_blk_lpos"))
    time_at, length_at, facility_at = (
        drgn.offsetof(kinds[1], name) for name in ("ts_nsec", "text_len", "facility")
    )
    table = kernel.memory.read_sparse(descriptors.descs.value_(), sizes[0] << bits)
    infos = kernel.memory.read_sparse(descriptors.infos.value_(), sizes[1] << bits)
    data = kernel.memory.read_sparse(texts.data.value_(), 1 << text_bits)
    mask, text_mask = (1 << bits) - 1, (1 << text_bits) - 1
    last = descriptors.head_id.counter.value_() & _ID_MASK
    first = descriptors.tail_id.counter.value_() & _ID_MASK
    count = min((last - first & _ID_MASK) + 1, mask + 1)
    for step in range(count):
        number = first + step & _ID_MASK
        at = (number & mask) * sizes[0]
        (state,) = struct.unpack_from("<Q", table, at + state_at)
        if state & _ID_MASK != number or state >> _STATE_SHIFT not in (_COMMITTED, _FINALIZED):
            continue
        begin, following = struct.unpack_from("<QQ", table, at + place_at)
        if begin & 1:
            continue  # no text
        begin, following = begin & text_mask, following & text_mask
        begin = (0 if begin > following else begin) + _ID_LENGTH
        info = (number & mask) * sizes[1]
        (time,) = struct.unpack_from("<Q", infos, info + time_at)
        (length,) = struct.unpack_from("<H", infos, info + length_at)
        facility, level = infos[info + facility_at], infos[info + facility_at + 1]
        text = data[begin : min(begin + length, max(following, begin))]
        yield LogLine(time / 1e9, level >> 5, facility, decode(text))
