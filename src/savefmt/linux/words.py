"""Numbers in the memory of a guest: little-endian, whatever processor savefmt itself runs on."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable


def unpack_words(code: str, data: bytes | memoryview) -> array[int]:
    """Return the numbers in bytes.

    Parameters
    ----------
    code : str
        What `array.array` calls their type.
    data : bytes or memoryview
        Whole numbers.

    Returns
    -------
    array
        The numbers.
    """
    words = array(code)
    words.frombytes(data)
    return _swapped(words)


def pack_words(code: str, numbers: Iterable[int]) -> bytes:
    """Return the bytes of numbers, the reverse of `unpack_words`."""
    return _swapped(array(code, numbers)).tobytes()


def _swapped(words: array[int]) -> array[int]:
    if sys.byteorder == "big":
        words.byteswap()
    return words
