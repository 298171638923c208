"""Laws of the envelope: what is packed reads back, and damage never surprises."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from savefmt.errors import ConversionError, SavefmtError, TruncatedError
from savefmt.format.abi import running_abi_changes
from savefmt.format.cursor import ChunkCursor, FileCursor
from savefmt.format.domain import check_document, parse_domain
from savefmt.format.envelope import HEADER_LENGTH, Envelope
from savefmt.model import Finding

WORD = st.integers(0, 0xFFFFFFFF)
DOCUMENT = st.binary(min_size=1, max_size=80).map(lambda raw: raw.replace(b"\0", b" "))
XML = (
    b"<domain type='kvm'><name>a</name><memory unit='MiB'>64</memory><os><type arch='x86_64' "
    b"machine='pc'>hvm</type></os><devices><disk device='disk'><target dev='vda'/></disk>"
    b"</devices></domain>\n"
)
COOKIE = b"<cookie><slirpHelper/></cookie>\n"
WHOLE = Envelope.new(XML, COOKIE, format=6, running=True)
# Little padding, so that most damage hits something that matters.
IMAGE = replace(WHOLE, data=WHOLE.data[: len(XML) + len(COOKIE) + 32]).pack()


@st.composite
def envelopes(draw: st.DrawFn) -> Envelope:
    version = draw(st.integers(1, 3))
    data = draw(st.binary(min_size=1, max_size=200))
    spare = 52 if version == 3 else 56
    return Envelope(
        finished=draw(st.booleans()),
        version=version,
        was_running=draw(WORD),
        format=draw(WORD if version == 1 else st.integers(0, 6)),
        cookie_offset=draw(st.integers(0, len(data))),
        features=draw(st.integers(0, 1)) if version == 3 else 0,
        unused=draw(st.binary(min_size=spare, max_size=spare)),
        byte_order=draw(st.sampled_from(["little", "big"])),
        data=data,
    )


def pieces(content: bytes, length: int) -> Iterator[bytes]:
    for start in range(0, len(content), length):
        yield content[start : start + length]


def read_file(content: bytes) -> Envelope:
    cursor = FileCursor(lambda n, at: content[at : at + n], 0, len(content))
    return Envelope.read(cursor, [])


def use(content: bytes) -> None:
    """Do with an image what commands do: read, complain, look into XML and cookie."""
    findings: list[Finding] = []
    envelope = Envelope.read(ChunkCursor(pieces(content, 1000), 0), findings)
    assert envelope.pack() == content[: envelope.stream_offset]
    assert all(0 <= (finding.offset or 0) <= len(content) for finding in findings)
    assert envelope.format_name
    if envelope.cookie is not None:
        check_document(envelope.cookie, "cookie", at=HEADER_LENGTH + envelope.cookie_offset)
    parse_domain(envelope.xml, at=HEADER_LENGTH)
    running_abi_changes(XML, envelope.xml)


@given(envelope=envelopes(), trailer=st.binary(max_size=20), length=st.integers(1, 300))
def test_what_is_packed_reads_back(envelope: Envelope, trailer: bytes, length: int) -> None:
    """However the bytes arrive, and whatever follows."""
    content = envelope.pack()
    cursor = ChunkCursor(pieces(content + trailer, length), 0)

    assert Envelope.read(cursor, []) == envelope == read_file(content + trailer)
    assert cursor.tell() == envelope.stream_offset == len(content)
    assert cursor.peek(100) == trailer


@given(place=st.integers(0, len(IMAGE) - 1), flip=st.integers(1, 255))
@example(place=16, flip=1)
@example(place=19, flip=2)
@example(place=32, flip=0x51)
def test_a_flipped_byte_never_surprises(place: int, flip: int) -> None:
    """A `SavefmtError` or a value, never another exception."""
    content = bytearray(IMAGE)
    content[place] ^= flip
    with contextlib.suppress(SavefmtError):
        use(bytes(content))


@given(
    place=st.integers(0, HEADER_LENGTH + len(XML) + len(COOKIE)),
    junk=st.binary(min_size=1, max_size=24),
)
def test_overwritten_bytes_never_surprise(place: int, junk: bytes) -> None:
    """The same where it matters most, with more than one byte."""
    with contextlib.suppress(SavefmtError):
        use(IMAGE[:place] + junk + IMAGE[place + len(junk) :])


@given(envelope=envelopes(), data=st.data())
def test_a_truncation_is_found_where_it_is(envelope: Envelope, data: st.DataObject) -> None:
    """At any place, with any cursor."""
    content = envelope.pack()
    content = content[: data.draw(st.integers(0, len(content) - 1))]
    for read in (read_file, use):
        with pytest.raises(TruncatedError) as caught:
            read(content)
        assert caught.value.offset == len(content)


@given(content=st.binary(max_size=300))
def test_anything_at_all_never_surprises(content: bytes) -> None:
    """With and without a magic in front."""
    for head in (b"", b"LibvirtQemudSave", b"LibvirtQemudSave\2\0\0\0\x50\0\0\0"):
        with contextlib.suppress(SavefmtError):
            use(head + content)


@given(envelope=envelopes(), xml=DOCUMENT, cookie=st.none() | DOCUMENT, fit=st.booleans())
def test_new_xml_is_read_back(
    envelope: Envelope, xml: bytes, cookie: bytes | None, fit: bool
) -> None:
    """And an edit in place leaves the stream where it is."""
    try:
        edited = envelope.with_xml(xml, cookie, fit=fit)
    except ConversionError:
        assert fit
        assert len(xml) + len(cookie or b"") + 1 + (cookie is not None) > envelope.data_length
        return
    again = read_file(edited.pack())

    assert (again.xml, again.cookie) == (xml, cookie)
    assert not fit or again.stream_offset == envelope.stream_offset


@given(envelope=envelopes(), version=st.integers(1, 3), format=st.integers(0, 6))
def test_another_stream_keeps_the_documents(envelope: Envelope, version: int, format: int) -> None:
    """Only the asked fields change."""
    try:
        changed = envelope.with_stream(version=version, format=format)
    except ConversionError:
        assert version == 1
        assert format
        return

    assert (changed.version, changed.format) == (version, format)
    assert changed.data == envelope.data
    assert changed.pack()[:16] == envelope.pack()[:16]
    assert changed.pack()[40:] == envelope.pack()[40:]
    assert read_file(changed.pack()) == changed
