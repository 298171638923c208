"""What is needed to tell where members end without decoding them.

These lengths prove nothing: a caller that relies on them decodes anyway, within these lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Read = Callable[[int, int], bytes]
"""``read(length, offset)`` gives exactly so many bytes of the file."""


class NoBoundaryError(Exception):
    """Only decoding can tell where the member ends."""


class Lookahead(Protocol):
    """Bytes of a stream that can be looked at before they are consumed."""

    def read(self, length: int, offset: int) -> bytes:
        """Give exactly so many bytes; `NoBoundaryError` where there are not as many."""

    def find(self, mark: bytes, offset: int, into: int = 0) -> int:
        """Tell the place `into` the next `mark`; where the stream ends if none comes."""
