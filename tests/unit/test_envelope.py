"""libvirt's header, field by field, and every rule of the two that may not be broken."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest

from savefmt.errors import (
    ConversionError,
    CorruptError,
    NotASaveImageError,
    SavefmtError,
    TruncatedError,
    UnsupportedError,
)
from savefmt.format.cursor import ChunkCursor, FileCursor
from savefmt.format.envelope import (
    FEATURE_MAPPED_RAM,
    FORMAT_NUMBERS,
    FORMATS,
    HEADER_LENGTH,
    MAX_DATA_LENGTH,
    PADDING_LENGTH,
    Envelope,
    is_envelope,
)
from savefmt.model import Finding, Severity

XML = b"<domain>" + b"x" * 1087 + b"</domain>"
COOKIE = b"<cookie>" + b"y" * 218 + b"</cookie>"


def header(
    *,
    magic: bytes = b"LibvirtQemudSave",
    version: int = 2,
    length: int = 100,
    running: int = 1,
    format: int = 0,
    cookie: int = 0,
    unused: bytes = bytes(56),
    order: str = "<",
) -> bytes:
    numbers = (version, length, running, format, cookie)
    return magic + struct.pack(f"{order}5I", *numbers) + unused


def image(data: bytes = b"<domain/>".ljust(100, b"\0"), **fields: Any) -> bytes:
    return header(**{"length": len(data), **fields}) + data


def read(content: bytes, findings: list[Finding] | None = None) -> Envelope:
    return Envelope.read(ChunkCursor(iter([content]), 0), findings)


def codes(content: bytes) -> dict[str, int | None]:
    findings: list[Finding] = []
    read(content, findings)
    return {finding.code.removeprefix("envelope."): finding.offset for finding in findings}


def test_the_worked_example() -> None:
    """The bytes of format.md 2.14."""
    data = (XML + b"\0" + COOKIE + b"\0").ljust(66877, b"\0")
    content = (
        b"LibvirtQemudSave"
        + bytes.fromhex("02000000 3d050100 01000000 06000000 51040000")
        + bytes(56)
        + data
    )
    cursor = FileCursor(lambda n, at: (content + b"QEVM")[at : at + n], 0, len(content) + 4)
    envelope = Envelope.read(cursor)

    assert envelope == Envelope(True, 2, 1, 6, 1105, 0, bytes(56), "little", data)
    assert envelope.stream_offset == 0x10599 == cursor.tell()
    assert cursor.read(4) == b"QEVM"
    assert (envelope.xml, envelope.cookie) == (XML, COOKIE)
    assert envelope.format_name == "sparse"
    assert envelope.pack() == content
    assert envelope == Envelope.new(XML, COOKIE, format=6, running=True)
    assert codes(content) == {}


def test_the_formats_are_numbered_as_libvirt_numbers_them() -> None:
    assert " ".join(FORMATS[number] for number in range(7)) == (
        "raw gzip bzip2 xz lzop zstd sparse"
    )
    assert FORMAT_NUMBERS["sparse"] == 6


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize(("order", "name"), [("<", "little"), (">", "big")])
def test_both_byte_orders(version: int, order: str, name: str) -> None:
    content = image(version=version, order=order, running=258)
    envelope = read(content)

    assert (envelope.version, envelope.byte_order) == (version, name)
    assert envelope.was_running == 258
    assert envelope.pack() == content


def test_an_unfinished_image_can_be_read() -> None:
    envelope = read(image(magic=b"LibvirtQemudPart"))

    assert not envelope.finished
    assert envelope.pack_header()[:16] == b"LibvirtQemudPart"
    assert envelope.pack_header(finished=True) == read(image()).pack_header()


def test_is_envelope() -> None:
    assert is_envelope(b"LibvirtQemudSave")
    assert is_envelope(memoryview(image(magic=b"LibvirtQemudPart")))
    assert not is_envelope(b"QEVM\0\0\0\3")
    assert not is_envelope(b"LibvirtQemudSav")
    assert not is_envelope(b"")


@pytest.mark.parametrize("version", [0, 4, 0x05000000])
def test_other_versions_are_refused(version: int) -> None:
    shown = version if version < 16 else version >> 24
    with pytest.raises(UnsupportedError, match=f"image version {shown};") as caught:
        read(image(version=version))
    assert caught.value.offset == 16


@pytest.mark.parametrize(("order", "name"), [("<", "little"), (">", "big")])
def test_the_feature_of_version_3(order: str, name: str) -> None:
    spare = struct.pack(f"{order}I", FEATURE_MAPPED_RAM) + bytes(52)
    envelope = read(image(version=3, unused=spare, order=order))

    assert (envelope.features, envelope.unused) == (1, bytes(52))
    assert envelope.byte_order == name
    assert read(image(version=2, unused=spare)).features == 0


def test_unknown_features_are_refused_by_number() -> None:
    spare = struct.pack("<I", 1 | 1 << 17 | 1 << 30) + bytes(52)
    with pytest.raises(UnsupportedError, match="feature bits 17, 30") as caught:
        read(image(version=3, unused=spare))
    assert caught.value.offset == 36


def test_unknown_formats_are_refused_except_in_version_1() -> None:
    with pytest.raises(UnsupportedError, match="format 7") as caught:
        read(image(format=7))
    assert caught.value.offset == 28
    assert read(image(version=1, format=7)).format_name == "raw"


@pytest.mark.parametrize(
    ("fields", "kind", "offset"),
    [
        ({"length": 0}, CorruptError, 20),
        ({"length": MAX_DATA_LENGTH + 1}, UnsupportedError, 20),
        ({"length": 0xFFFFFFFF}, UnsupportedError, 20),
        ({"cookie": 101}, CorruptError, 32),
        ({"length": 101}, TruncatedError, 192),
        ({"length": MAX_DATA_LENGTH}, TruncatedError, 192),
        ({"magic": b"LibvirtQemudSavf"}, NotASaveImageError, 0),
    ],
)
def test_bad_headers(fields: dict[str, Any], kind: type[SavefmtError], offset: int) -> None:
    with pytest.raises(kind) as caught:
        read(image(**fields))
    assert caught.value.offset == offset


@pytest.mark.parametrize("length", [0, 5, 16, 17, 91, 92, 191])
def test_truncation_is_reported_at_its_place(length: int) -> None:
    with pytest.raises(TruncatedError) as caught:
        read(image()[:length])
    assert caught.value.offset == length


def test_without_cookie_the_xml_ends_at_the_first_nul() -> None:
    envelope = read(image(b"<domain/>\0<cookie/>\0"))

    assert envelope.xml == b"<domain/>"
    assert envelope.cookie is None


PLAIN = b"<domain/>\0<cookie/>\0" + bytes(20)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (image(), {}),
        (image(PLAIN, cookie=10), {}),
        (image(version=3), {"version-unreleased": 16}),
        (image(version=1, format=3), {"format-ignored": 28}),
        (image(running=2), {"running-odd": 24}),
        (image(unused=bytes(7) + b"\1" + bytes(48)), {"unused-nonzero": 43}),
        (
            image(version=3, unused=bytes(7) + b"\1" + bytes(48)),
            {"unused-nonzero": 43, "version-unreleased": 16},
        ),
        (image(b"<domain/>"), {"xml-unterminated": 101}),
        (image(b"<domain/>", cookie=9), {"cookie-inside-xml": 101, "cookie-unterminated": 101}),
        (image(PLAIN, cookie=4), {"cookie-inside-xml": 96, "padding-nonzero": 102}),
        (image(PLAIN[:19], cookie=10), {"cookie-unterminated": 111}),
        (image(PLAIN), {"padding-nonzero": 102}),
        (image(PLAIN + b"z", cookie=10), {"padding-nonzero": 132}),
        (image(b"<domain/>\0z\0<cookie/>\0", cookie=12), {"padding-nonzero": 102}),
    ],
)
def test_oddities_are_found_at_their_place(content: bytes, expected: dict[str, int]) -> None:
    assert codes(content) == expected
    assert read(content).pack() == content


def test_findings_carry_advice() -> None:
    findings: list[Finding] = []
    read(image(PLAIN, cookie=4), findings)

    assert [finding.severity for finding in findings] == [Severity.ERROR, Severity.NOTE]
    assert all(finding.advice for finding in findings)


def test_offsets_count_from_the_start_of_the_file() -> None:
    with pytest.raises(UnsupportedError) as caught:
        Envelope.read(ChunkCursor(iter([image(version=9)]), 512))
    assert caught.value.offset == 512 + 16


def test_with_running() -> None:
    before = read(image(running=7))

    assert before.with_running(True).was_running == 1
    assert before.with_running(False) == replace(before, was_running=0)


def test_with_stream_keeps_all_else() -> None:
    before = read(image(PLAIN, cookie=10, order=">", unused=bytes(4) + b"\7" * 52))
    after = before.with_stream(format=6)

    assert after == replace(before, format=6)
    assert before.with_stream() == before
    third = before.with_stream(version=3, features=1)
    assert third.pack()[36:92] == bytes.fromhex("00000001") + b"\7" * 52
    assert third.with_stream(format=5).features == 1
    assert third.with_stream(version=2) == before


def test_leaving_version_1_drops_a_format_that_was_ignored() -> None:
    before = read(image(version=1, format=3))

    assert before.with_stream() == before
    assert before.with_stream(version=2).format == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"version": 0},
        {"version": 4},
        {"format": 7},
        {"features": 1},
        {"version": 3, "features": 2},
        {"version": 1, "format": 1},
    ],
)
def test_impossible_headers_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ConversionError):
        read(image()).with_stream(**fields)


def test_version_1_cannot_take_over_a_compressed_stream() -> None:
    with pytest.raises(ConversionError, match="uncompressed"):
        read(image(format=1)).with_stream(version=1)


def test_an_edit_in_place_keeps_the_length() -> None:
    before = read(image(PLAIN, cookie=10))
    after = before.with_xml(b"<domain>!</domain>", fit=True)

    assert after.data_length == before.data_length
    assert (after.xml, after.cookie) == (b"<domain>!</domain>", b"<cookie/>")
    assert after.data.rstrip(b"\0").endswith(b"<cookie/>")
    assert after.with_xml(b"<domain/>", fit=True) == before
    assert before.with_xml(b"<domain/>", None, fit=True).cookie_offset == 0
    assert before.with_xml(b"<domain/>", b"<c/>", fit=True).cookie == b"<c/>"


def test_an_edit_fits_to_the_last_byte_and_no_further() -> None:
    before = read(image(PLAIN, cookie=10))
    room = before.data_length - len(b"\0<cookie/>\0")

    assert before.with_xml(b"x" * room, fit=True).data == b"x" * room + b"\0<cookie/>\0"
    with pytest.raises(ConversionError, match=r"does not fit.* 41 bytes.* 40;"):
        before.with_xml(b"x" * (room + 1), fit=True)


def test_a_new_length_comes_with_padding() -> None:
    after = read(image(PLAIN, cookie=10)).with_xml(b"x" * 200, fit=False)

    assert after.data == b"x" * 200 + b"\0<cookie/>\0" + bytes(PADDING_LENGTH)
    assert read(after.pack()) == after


@pytest.mark.parametrize(
    ("xml", "cookie", "problem"),
    [
        (b"", None, "empty"),
        (b"a\0b", None, "XML contains a NUL"),
        (b"a", b"c\0", "cookie contains a NUL"),
        (b"x" * MAX_DATA_LENGTH, None, "does not fit"),
    ],
)
def test_documents_that_no_image_can_hold(xml: bytes, cookie: bytes | None, problem: str) -> None:
    with pytest.raises(ConversionError, match=problem):
        read(image()).with_xml(xml, cookie, fit=False)


def test_an_inconsistent_value_cannot_be_made() -> None:
    good = read(image())
    for fields in (
        {"version": 3},
        {"version": 4},
        {"format": 7},
        {"features": 1},
        {"data": b""},
        {"cookie_offset": 101},
        {"unused": b""},
    ):
        with pytest.raises(ValueError, match="contradict"):
            replace(good, **fields)


def test_the_header_is_as_long_as_it_says() -> None:
    assert len(read(image()).pack_header()) == HEADER_LENGTH
