"""libvirt's envelope around a QEMU stream: header, domain XML and cookie (format.md 2)."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from types import EllipsisType
from typing import ClassVar, Literal, Self

from savefmt.errors import ConversionError, CorruptError, NotASaveImageError, UnsupportedError
from savefmt.format.cursor import Cursor
from savefmt.format.documents import find_cookie
from savefmt.format.features import FEATURES, name_bits, unreadable_bits
from savefmt.frozen import dataclass, replace
from savefmt.model import EnvelopeSummary, Finding, Repair, Severity

MAGIC_FINISHED = b"LibvirtQemudSave"
"""Begins a finished image (format.md 2.2)."""
MAGIC_PARTIAL = b"LibvirtQemudPart"
"""Begins an image whose save did not finish (format.md 2.2, 2.8)."""
HEADER_LENGTH = 92
"""Bytes of the header, the same in every version (format.md 2.2)."""
MAX_DATA_LENGTH = 64 << 20
"""Bytes of XML, cookie and padding that are read at all; libvirt writes about 70 KiB."""
PADDING_LENGTH = 64 << 10
"""Room that libvirt leaves for later edits of the XML (format.md 2.6)."""
FORMATS: dict[int, str] = {
    0: "raw",
    1: "gzip",
    2: "bzip2",
    3: "xz",
    4: "lzop",
    5: "zstd",
    6: "sparse",
}
"""Names of the stream encodings, by number (format.md 2.5)."""
FORMAT_NUMBERS: dict[str, int] = {name: number for number, name in FORMATS.items()}
"""The same the other way round."""
FEATURE_MAPPED_RAM = FEATURES[0].mask
"""Bit of `Envelope.features` in the proposed version 3 (format.md 2.13)."""

ByteOrder = Literal["little", "big"]

_WIRES: dict[ByteOrder, Struct] = {"little": Struct("<16s5I56s"), "big": Struct(">16s5I56s")}
_SPARE_OFFSET = 36
NUMBER_OFFSETS = {
    "version": 16,
    "data_len": 20,
    "was_running": 24,
    "format": 28,
    "cookie": 32,
    "features": _SPARE_OFFSET,
}
"""Where the header's numbers stand; the last one in version 3 only (format.md 2.2)."""
_WORD = 4
_LATEST_VERSION = 3


def is_envelope(head: bytes | memoryview) -> bool:
    """Tell whether a file begins with libvirt's magic, finished or not.

    Parameters
    ----------
    head : bytes or memoryview
        The first bytes of the file, 16 or more.

    Returns
    -------
    bool
        False for a bare stream and for anything else.
    """
    return bytes(head[:16]) in (MAGIC_FINISHED, MAGIC_PARTIAL)


@dataclass(frozen=True, slots=True)
class Envelope:
    """What libvirt puts before the QEMU stream, kept byte for byte.

    Attributes
    ----------
    finished : bool
        False with libvirt's "Part" magic.  Whether to go on then is the caller's policy.
    version : int
        1, 2, or 3 as once proposed.
    was_running : int
        Non-zero: resume the guest after restore.
    format : int
        The header's field; `stream_format` is what it means.
    cookie_offset : int
        Place of the cookie in `data`, 0 without cookie.
    features : int
        Bits of version 3; 0 in other versions.
    unused : bytes
        The spare words as they are: 52 bytes in version 3, else 56.
    byte_order : str
        ``little`` or ``big``: the order of the header's own numbers.
    data : bytes
        XML, cookie and padding: all between header and stream.
    """

    finished: bool
    version: int
    was_running: int
    format: int
    cookie_offset: int
    features: int
    unused: bytes
    byte_order: ByteOrder
    data: bytes

    SPARE_LENGTH: ClassVar[int] = HEADER_LENGTH - _SPARE_OFFSET

    def __post_init__(self) -> None:
        # Only a bug of the caller gets here: `read` and `with_stream` check first.
        spare = len(self.unused) + (_WORD if self.version == _LATEST_VERSION else 0)
        if not (
            1 <= self.version <= _LATEST_VERSION
            and spare == self.SPARE_LENGTH
            and 0 < len(self.data) <= MAX_DATA_LENGTH
            and 0 <= self.cookie_offset <= len(self.data)
            and (self.version == 1 or self.format in FORMATS)
            and (self.version == _LATEST_VERSION or not self.features)
        ):
            raise ValueError("fields of the envelope contradict each other")

    @classmethod
    def new(
        cls,
        xml: bytes,
        cookie: bytes | None = None,
        *,
        format: int = 0,
        running: bool = False,
        byte_order: ByteOrder = "little",
    ) -> Self:
        """Make an envelope of version 2, laid out as libvirt does.

        Parameters
        ----------
        xml, cookie : bytes
            The documents, without NUL.
        format : int
            A key of `FORMATS`.
        running : bool
            Resume the guest after restore.
        byte_order : str
            Order of the header's numbers: that of the host that will restore.

        Returns
        -------
        Envelope
            Finished.
        """
        cookie_offset, data = _lay_out(xml, cookie, None)
        unused = bytes(cls.SPARE_LENGTH)
        return cls(True, 2, int(running), format, cookie_offset, 0, unused, byte_order, data)

    @classmethod
    def read(cls, cursor: Cursor, findings: list[Finding] | None = None) -> Self:
        """Consume header, XML, cookie and padding.

        Parameters
        ----------
        cursor : Cursor
            At the start of the image; left at the start of the stream.
        findings : list of Finding, optional
            Takes what is odd and yet harmless to reading.

        Returns
        -------
        Envelope
            Of a finished or an unfinished image.

        Raises
        ------
        NotASaveImageError
            If the magic is another.
        UnsupportedError
            If version, format, features or length are beyond this release.
        CorruptError
            If the fields contradict each other.
        TruncatedError
            If the file ends before the stream.
        """
        at = cursor.tell()
        magic = cursor.peek(len(MAGIC_FINISHED))
        if not (MAGIC_FINISHED.startswith(magic) or MAGIC_PARTIAL.startswith(magic)):
            raise NotASaveImageError(
                "no libvirt save image begins like this; check that it is the right file",
                offset=at,
            )
        head = cursor.read(HEADER_LENGTH, "the libvirt header")
        order = byte_order(head, at)
        magic, version, length, running, format_, cookie_offset, unused = _WIRES[order].unpack(head)
        if version > 1 and format_ not in FORMATS:
            raise UnsupportedError(
                f"unknown stream format {format_}; formats 0 (raw) to 6 (sparse) can be read, "
                "so a newer libvirt may have written this image",
                offset=at + NUMBER_OFFSETS["format"],
            )
        features = 0
        if version == _LATEST_VERSION:
            features, unused = int.from_bytes(unused[:_WORD], order), unused[_WORD:]
            if strange := unreadable_bits(features):
                raise UnsupportedError(
                    f"unknown feature bit{'s' * (strange.bit_count() > 1)} "
                    f"{', '.join(name_bits(strange))}; a reader must know "
                    "every bit that is set",
                    offset=at + _SPARE_OFFSET,
                )
        _check_lengths(length, cookie_offset, at)
        data = cursor.read(length, "the domain XML and its padding")
        envelope = cls(
            magic == MAGIC_FINISHED,
            version,
            running,
            format_,
            cookie_offset,
            features,
            unused,
            order,
            data,
        )
        if findings is not None:
            findings += envelope._header_oddities(at)
            findings += envelope._data_oddities(at + HEADER_LENGTH)
        return envelope

    @property
    def data_length(self) -> int:
        """Bytes between header and stream."""
        return len(self.data)

    @property
    def stream_offset(self) -> int:
        """Where the stream, perhaps compressed, begins in the file (format.md 2.7)."""
        return HEADER_LENGTH + len(self.data)

    @property
    def stream_format(self) -> int:
        """The effective format: version 1 means raw, and ignores the field."""
        return self.format if self.version > 1 else 0

    @property
    def format_name(self) -> str:
        """Name of `stream_format`."""
        return FORMATS[self.stream_format]

    @property
    def xml(self) -> bytes:
        """The domain XML without its NUL."""
        return self.data[: self.cookie_offset or None].partition(b"\0")[0]

    @property
    def cookie(self) -> bytes | None:
        """The cookie XML without its NUL, None if there is no cookie."""
        if not self.cookie_offset:
            return None
        return self.data[self.cookie_offset :].partition(b"\0")[0]

    @property
    def cookie_place(self) -> int | None:
        """Where in `data` a cookie is, without regard to `cookie_offset`.

        0 if there is none, None if the documents do not tell.
        """
        return find_cookie(self.data, self.cookie_offset)

    def summary(self) -> EnvelopeSummary:
        """Return what the header says, in words."""
        return EnvelopeSummary(
            version=self.version,
            byte_order=self.byte_order,
            data_length=self.data_length,
            xml_length=len(self.xml),
            cookie_length=len(self.cookie or b""),
            was_running=bool(self.was_running),
            format=self.format,
            format_name=self.format_name,
            features=self.features,
        )

    def pack(self) -> bytes:
        """Return the bytes that `read` accepts.

        Returns
        -------
        bytes
            Header and data, as long as `stream_offset`.
        """
        return self.pack_header() + self.data

    def pack_header(self, *, finished: bool | None = None) -> bytes:
        """Return the header alone.

        Parameters
        ----------
        finished : bool, optional
            The magic to write instead of the present one: writers begin with the
            "Part" magic and set the other last (format.md 2.8).

        Returns
        -------
        bytes
            Of length `HEADER_LENGTH`.
        """
        unused = self.unused
        if self.version == _LATEST_VERSION:
            unused = self.features.to_bytes(_WORD, self.byte_order) + unused
        return _WIRES[self.byte_order].pack(
            MAGIC_FINISHED if (self.finished if finished is None else finished) else MAGIC_PARTIAL,
            self.version,
            len(self.data),
            self.was_running,
            self.format,
            self.cookie_offset,
            unused,
        )

    def with_running(self, running: bool) -> Self:
        """Say whether the guest resumes after restore.

        Parameters
        ----------
        running : bool
            False leaves it paused.

        Returns
        -------
        Envelope
            Otherwise the same.
        """
        return replace(self, was_running=int(running))

    def with_stream(
        self,
        *,
        version: int | None = None,
        format: int | None = None,
        features: int | None = None,
    ) -> Self:
        """Describe another stream, and keep all else byte for byte.

        Parameters
        ----------
        version, format, features : int, optional
            New values; None keeps the meaning of the present ones.

        Returns
        -------
        Envelope
            Of the same length.

        Raises
        ------
        ConversionError
            If no such header exists.
        """
        version = self.version if version is None else version
        if format is None and version == self.version:
            format = self.format
        else:
            format = self.stream_format if format is None else format
            if version == 1 and format:
                raise ConversionError(
                    "version 1 holds uncompressed streams only; choose version 2 or format raw"
                )
        spare = self.unused
        if self.version == _LATEST_VERSION:
            spare = bytes(_WORD) + spare
        if version == _LATEST_VERSION:
            spare = spare[_WORD:]
            features = self.features if features is None else features
        if (
            not 1 <= version <= _LATEST_VERSION
            or (version > 1 and format not in FORMATS)
            or (version < _LATEST_VERSION and features)
            or unreadable_bits(features or 0)
        ):
            raise ConversionError(
                f"no save image has version {version}, format {format} and features "
                f"{features or 0:#x}; versions are 1 to 3, formats 0 to 6, and only "
                "version 3 has a feature, 0x1"
            )
        return replace(self, version=version, format=format, features=features or 0, unused=spare)

    def with_xml(self, xml: bytes, cookie: bytes | EllipsisType | None = ..., *, fit: bool) -> Self:
        """Replace the domain XML.

        Parameters
        ----------
        xml : bytes
            The new document, without NUL.
        cookie : bytes or None, optional
            The new cookie; None or empty drops it, and by default it stays.
        fit : bool
            True keeps `data_length`, as an edit in place must (format.md 2.11); False
            gives the documents the length they need and fresh padding.

        Returns
        -------
        Envelope
            With all other fields unchanged.

        Raises
        ------
        ConversionError
            If the documents do not fit, or one holds a NUL.
        """
        kept = self.cookie if isinstance(cookie, EllipsisType) else cookie
        cookie_offset, data = _lay_out(xml, kept, len(self.data) if fit else None)
        return replace(self, cookie_offset=cookie_offset, data=data)

    def with_stream_at(self, offset: int, grain: int) -> Self:
        """Move the stream back, by padding, to lie as far from a border as an offset does.

        Parameters
        ----------
        offset : int
            Such as where the stream was.
        grain : int
            Distance of borders.

        Returns
        -------
        Envelope
            With less than `grain` bytes more.
        """
        more = (offset - self.stream_offset) % grain
        return replace(self, data=self.data + bytes(more))

    def _header_oddities(self, at: int) -> Iterator[Finding]:
        if self.cookie_place not in (None, self.cookie_offset):
            yield wrong_cookie(self.cookie_offset, self.cookie_place or 0, at=at)
        if self.version == _LATEST_VERSION:
            yield Finding(
                "envelope.version-unreleased",
                Severity.WARNING,
                "version 3 was proposed but never released",
                at + NUMBER_OFFSETS["version"],
                "convert to version 2 before giving the image to libvirt",
            )
        if self.version == 1 and self.format:
            yield Finding(
                "envelope.format-ignored",
                Severity.WARNING,
                f"version 1 ignores the format, yet the field holds {self.format}",
                at + NUMBER_OFFSETS["format"],
                "look at the stream: if it is compressed, the version should be 2",
            )
        if self.was_running > 1:
            yield Finding(
                "envelope.running-odd",
                Severity.NOTE,
                f"was_running is {self.was_running}, which libvirt takes as 1",
                at + NUMBER_OFFSETS["was_running"],
                "nothing needs doing",
            )
        if (place := _first_nonzero(self.unused)) is not None:
            yield Finding(
                "envelope.unused-nonzero",
                Severity.WARNING,
                "unused words of the header are not zero",
                at + HEADER_LENGTH - len(self.unused) + place,
                "libvirt ignores them, but a patched libvirt may have meant something",
            )

    def _data_oddities(self, at: int) -> Iterator[Finding]:
        end = len(self.data)
        xml_end = len(self.xml)
        gaps = [(xml_end, self.cookie_offset or end)]
        if self.cookie_offset and xml_end == self.cookie_offset:
            yield Finding(
                "envelope.cookie-inside-xml",
                Severity.ERROR,
                "the cookie begins before the XML has ended",
                at + xml_end,
                "write the whole XML again, without the cookie",
            )
        elif xml_end == end:
            yield Finding(
                "envelope.xml-unterminated",
                Severity.WARNING,
                "no NUL ends the XML",
                at + xml_end,
                "write the XML again with the same content",
            )
        if self.cookie is not None:
            cookie_end = self.cookie_offset + len(self.cookie)
            gaps.append((cookie_end, end))
            if cookie_end == end:
                yield Finding(
                    "envelope.cookie-unterminated",
                    Severity.WARNING,
                    "no NUL ends the cookie",
                    at + cookie_end,
                    "write the XML again with the same content",
                )
        for start, stop in gaps:
            if (place := _first_nonzero(self.data[start:stop])) is not None:
                yield Finding(
                    "envelope.padding-nonzero",
                    Severity.NOTE,
                    "the padding is not zero",
                    at + start + place,
                    "leftovers of a longer XML do no harm, but may tell what it said",
                )


def wrong_cookie(told: int, right: int, *, at: int = 0) -> Finding:
    """Report a header that names a cookie that is not there, or does not name the one that is."""
    place = f"it begins at {right} behind the header" if right else "there is none"
    return Finding(
        "envelope.cookie-offset",
        Severity.ERROR if told else Severity.WARNING,
        f"the header names a cookie at {told}, but {place}"
        if told
        else f"the header names no cookie, but {place}",
        at + NUMBER_OFFSETS["cookie"],
        "libvirt takes the CPU model of the running guest from the cookie",
        Repair.COOKIE,
    )


def byte_order(head: bytes, at: int) -> ByteOrder:
    """Tell the order of a header's numbers by its version; `at` is its offset in the file."""
    field = head[NUMBER_OFFSETS["version"] : NUMBER_OFFSETS["data_len"]]
    little, big = int.from_bytes(field, "little"), int.from_bytes(field, "big")
    if 1 <= little <= _LATEST_VERSION:
        return "little"
    if 1 <= big <= _LATEST_VERSION:
        return "big"
    raise UnsupportedError(
        f"unknown image version {min(little, big)}; libvirt writes versions 1 and 2, so the "
        "header is damaged or from the future",
        offset=at + NUMBER_OFFSETS["version"],
    )


def _check_lengths(length: int, cookie_offset: int, at: int) -> None:
    if length == 0:
        raise CorruptError(
            "the header leaves no room for a domain XML; libvirt refuses such an image",
            offset=at + NUMBER_OFFSETS["data_len"],
        )
    if length > MAX_DATA_LENGTH:
        raise UnsupportedError(
            f"the header promises {length} bytes of domain XML and padding, and no more than "
            f"{MAX_DATA_LENGTH} are accepted; it is probably damaged",
            offset=at + NUMBER_OFFSETS["data_len"],
        )
    if cookie_offset > length:
        raise CorruptError(
            f"by the header, the cookie begins at {cookie_offset}, behind all {length} bytes "
            "of data; do not give this image to libvirt, which would crash",
            offset=at + NUMBER_OFFSETS["cookie"],
        )


def _lay_out(xml: bytes, cookie: bytes | None, length: int | None) -> tuple[int, bytes]:
    # Cookie offset and data; without a length, as libvirt lays out a new image.
    for name, document in (("domain XML", xml), ("cookie", cookie or b"")):
        if b"\0" in document:
            raise ConversionError(f"the {name} contains a NUL byte, which would end it; remove it")
    if not xml:
        raise ConversionError("the domain XML is empty; give the whole document")
    documents = xml + b"\0" + (cookie + b"\0" if cookie else b"")
    room = len(documents) + PADDING_LENGTH if length is None else length
    if len(documents) > min(room, MAX_DATA_LENGTH):
        limit = min(room, MAX_DATA_LENGTH)
        raise ConversionError(
            f"the new domain XML does not fit: with its cookie it takes {len(documents)} bytes, "
            f"and there are {limit}; shorten it, or convert the image into a new file"
        )
    return (len(xml) + 1 if cookie else 0), documents.ljust(room, b"\0")


def _first_nonzero(data: bytes) -> int | None:
    left = len(data.lstrip(b"\0"))
    return len(data) - left if left else None
