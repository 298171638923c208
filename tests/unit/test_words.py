"""Numbers of a guest on hosts of both byte orders."""

from __future__ import annotations

import sys

import pytest

from savefmt.linux.words import pack_words, unpack_words


@pytest.mark.parametrize(
    ("code", "data", "numbers"),
    [
        ("Q", bytes(range(1, 9)) + bytes(8), [0x0807060504030201, 0]),
        ("I", b"\x01\0\0\0\0\0\0\x80", [1, 0x80000000]),
        ("i", b"\xfe\xff\xff\xff", [-2]),
    ],
)
def test_there_and_back(code: str, data: bytes, numbers: list[int]) -> None:
    assert unpack_words(code, data).tolist() == numbers
    assert unpack_words(code, memoryview(data)).tolist() == numbers
    assert pack_words(code, numbers) == data


def test_a_host_of_the_other_order_swaps(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"little": "big", "big": "little"}[sys.byteorder]
    own = unpack_words("I", b"\x01\x02\x03\x04")[0]
    monkeypatch.setattr(sys, "byteorder", other)

    assert unpack_words("I", b"\x01\x02\x03\x04")[0].to_bytes(4, "little") == own.to_bytes(4, "big")
