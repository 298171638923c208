"""XBZRLE by the C core, one delta at a time."""

from __future__ import annotations

from savefmt.native.core import call, ffi, lib


def apply_delta(page: bytearray, delta: bytes, offset: int = 0) -> None:
    """Apply a delta to `page` in place, or raise CorruptError."""
    target = ffi.from_buffer("uint8_t[]", page)
    source = ffi.from_buffer("uint8_t[]", delta)
    call(lib.sf_xbzrle_apply, target, len(page), source, len(delta), offset)
