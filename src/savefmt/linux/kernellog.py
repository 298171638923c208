"""The kernel's log: the ring of records that kernels have since 5.10, and the one before it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
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
_SMALLEST_RECORD = 16


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
    ring, buffer = kernel.variable("prb"), kernel.variable("log_buf")
    if ring is None and buffer is None:
        note(kernel, "no-log", "the kernel's log was not found")
        return
    try:
        yield from _read_old(kernel, buffer) if ring is None else _read(kernel, ring[0].read_())
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


def _read_old(kernel: Kernel, buffer: Any) -> Iterator[LogLine]:
    """Read the log of kernels from 3.5 to 5.9: records that follow each other in a ring."""
    places = [kernel.variable(f"log_{name}") for name in ("buf_len", "first_idx", "next_idx")]
    if None in places:
        note(kernel, "no-log", "the kernel's log was not found")
        return
    length, first, following = (int(place.value_()) for place in places if place is not None)
    if not 0 < length <= 1 << _MAX_TEXT_BITS:
        note(kernel, "log-damaged", f"the kernel's log claims {length} bytes")
        return
    import drgn

    kind = kernel.program.type("struct printk_log")
    names = ("ts_nsec", "len", "text_len", "facility")
    offsets = [drgn.offsetof(kind, name) for name in names]
    data = kernel.memory.read_sparse(buffer.value_(), length)
    for at in islice(_places(data, first, following, offsets[1]), 1 << _MAX_COUNT_BITS):
        time_at, _, length_at, facility_at = (at + one for one in offsets)
        (time,) = struct.unpack_from("<Q", data, time_at)
        (count,) = struct.unpack_from("<H", data, length_at)
        # Flags and level share the byte behind the facility.
        facility, level = data[facility_at], data[facility_at + 1] >> 5
        begin = at + drgn.sizeof(kind)
        yield LogLine(time / 1e9, level, facility, decode(data[begin : begin + count]))


def _places(data: bytes, first: int, following: int, length_at: int) -> Iterator[int]:
    """Yield where records begin; each tells its length, and none means: go on at the front."""
    at, wraps = first, first >= following
    while at != following or wraps:
        (length,) = struct.unpack_from("<H", data, at + length_at)
        if length >= _SMALLEST_RECORD:
            yield at
            at += length
        elif length == 0 and wraps:
            at, wraps = 0, False
        else:
            raise ValueError("a record of the log has no length")
