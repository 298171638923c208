"""What can be looked for: bytes, hex with wildcards, text, regular expressions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from savefmt.errors import MissingPackageError
from savefmt.frozen import dataclass
from savefmt.native.content import MaskedPattern

PATTERN_LIMIT = 4096
"""Bytes of a pattern, at most."""

MATCH_LIMIT = 16 << 10
"""Bytes up to which matches of a regular expression are found whole: a longer one may be
cut where it is."""

ENCODINGS = ("ascii", "utf-8", "utf-16le", "utf-16be")
"""What text can be looked for in."""


class Matcher(Protocol):
    """Finds one pattern."""

    @property
    def name(self) -> str:
        """What the user wrote."""

    @property
    def overlaps(self) -> bool:
        """Whether matches that overlap are told, too."""

    @property
    def reach(self) -> int:
        """Bytes of the longest match."""

    @property
    def fits_zeros(self) -> bool:
        """Whether it may match among zeros alone."""

    def matches(self, data: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of matches that begin from `start` to before `end`."""


@dataclass(frozen=True, slots=True)
class Masked:
    """Bytes some of whose bits may not matter; overlapping matches are all told.

    Attributes
    ----------
    name : str
        What the user wrote.
    pattern : MaskedPattern
        What is looked for.
    """

    name: str
    pattern: MaskedPattern
    overlaps = True

    @property
    def reach(self) -> int:
        """Bytes of every match."""
        return len(self.pattern.value)

    @property
    def fits_zeros(self) -> bool:
        """Whether zeros match."""
        return self.pattern.fits_zeros

    def matches(self, data: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of matches that begin from `start` to before `end`."""
        for at in self.pattern.find(data, start):
            if at >= end:
                return
            yield at, at + self.reach


@dataclass(frozen=True, slots=True)
class Regex:
    """A regular expression over bytes, as RE2 has them: in time linear in the data.

    Attributes
    ----------
    name : str
        What the user wrote.
    compiled : object
        Of the module re2.
    fits_zeros : bool
        Whether it may match among zeros alone.
    """

    name: str
    compiled: Any
    fits_zeros: bool
    overlaps = False

    @property
    def reach(self) -> int:
        """Bytes of the longest match that is told."""
        return MATCH_LIMIT

    def matches(self, data: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of matches that begin from `start` to before `end`."""
        at = start
        while at < end:
            found = self.compiled.search(data, at)
            if found is None or found.start() >= end:
                return
            stop = min(found.end(), found.start() + MATCH_LIMIT)
            if stop > found.start():
                yield found.start(), stop
            at = max(stop, found.start() + 1)


def literal(data: bytes, name: str | None = None, *, ignore_case: bool = False) -> Masked:
    """Look for these bytes.

    Parameters
    ----------
    data : bytes
        At least one.
    name : str, optional
        What to call the pattern.
    ignore_case : bool
        Take small and capital letters of ASCII for the same.

    Returns
    -------
    Masked
        The matcher.

    Raises
    ------
    ValueError
        If there are none or too many.
    """
    # In ASCII a letter's case is one bit.
    mask = bytes(
        0xDF if ignore_case and bytes([byte]).isalpha() else 0xFF for byte in _checked(data)
    )
    return Masked(name if name is not None else data.hex(" "), MaskedPattern(data, mask))


def text(
    words: str, encoding: str = "utf-8", *, ignore_case: bool = False, name: str | None = None
) -> Masked:
    """Look for text in an encoding, one of `ENCODINGS`.

    Raises
    ------
    ValueError
        If the encoding has no such characters, or is not known.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"encoding {encoding!r} is not one of {', '.join(ENCODINGS)}")
    # Arguments that are not valid UTF-8 mean their bytes.
    errors = "surrogateescape" if encoding == "utf-8" else "strict"
    try:
        data = words.encode(encoding, errors)
    except UnicodeEncodeError as error:
        raise ValueError(f"{words!r} cannot be written in {encoding}") from error
    return literal(data, name if name is not None else words, ignore_case=ignore_case)


def texts(
    lines: Iterable[str], encoding: str = "utf-8", *, ignore_case: bool = False
) -> list[Masked]:
    """Look for the text of each line, as ``grep -F -f`` does.

    Parameters
    ----------
    lines : iterable of str
        Their ends do not count; empty ones are skipped, and each text is taken once.
    encoding : str
        One of `ENCODINGS`.
    ignore_case : bool
        Take small and capital letters of ASCII for the same.

    Returns
    -------
    list of Masked
        A matcher for each.

    Raises
    ------
    ValueError
        If a line is no pattern, with its number.
    """
    wanted: dict[str, Masked] = {}
    for number, line in enumerate(lines, 1):
        words = line.rstrip("\n")
        if words and words not in wanted:
            try:
                wanted[words] = text(words, encoding, ignore_case=ignore_case)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
    return list(wanted.values())


def hexadecimal(words: str) -> Masked:
    """Look for bytes given as hexadecimal digits.

    Parameters
    ----------
    words : str
        Two digits a byte; ``?`` stands for any digit; spaces do not matter.

    Returns
    -------
    Masked
        The matcher.

    Raises
    ------
    ValueError
        If it is something else, or all of it wildcards.
    """
    digits = "".join(words.split())
    if len(digits) % 2 or not re.fullmatch(r"[0-9a-fA-F?]*", digits):
        raise ValueError(f"{words!r} is not made of pairs of hexadecimal digits or ?")
    value = bytes.fromhex(digits.replace("?", "0"))
    mask = bytes.fromhex("".join("0" if digit == "?" else "f" for digit in digits))
    if not any(mask):
        raise ValueError(f"{words!r} matches everything")
    return Masked(words, MaskedPattern(_checked(value), mask))


def escaped(words: str) -> Masked:
    r"""Look for bytes given as text with escapes: ``MZ\x90\0``.

    Raises
    ------
    ValueError
        If there is an escape of another kind.
    """
    raw = words.encode("utf-8", "surrogateescape")
    plain = re.sub(rb"\\(x[0-9a-fA-F]{2}|[0abtnvfr\\])", _unescape, raw)
    rest = re.sub(rb"\\(x[0-9a-fA-F]{2}|[0abtnvfr\\])", b"", raw)
    if b"\\" in rest:
        raise ValueError(rf"{words!r}: escapes are \xHH, \0, \a, \b, \t, \n, \v, \f, \r and \\")
    return literal(plain, words)


_ESCAPES = dict(zip(b"0abtnvfr\\", b"\0\a\b\t\n\v\f\r\\", strict=True))


def _unescape(match: re.Match[bytes]) -> bytes:
    code = match[1]
    return bytes.fromhex(code[1:].decode()) if code[:1] == b"x" else bytes([_ESCAPES[code[0]]])


def regex(words: str, *, ignore_case: bool = False) -> Regex:
    """Look for a regular expression.

    Parameters
    ----------
    words : str
        In the syntax of RE2; works on bytes.  ``.`` matches newlines, too.
    ignore_case : bool
        Take small and capital letters for the same.

    Returns
    -------
    Regex
        The matcher.

    Raises
    ------
    ValueError
        If RE2 refuses it.
    UnsupportedError
        If RE2 is not installed.
    """
    try:
        import re2  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingPackageError("search --regex", "google-re2", "regex") from error
    raw = _checked(words.encode("utf-8", "surrogateescape"))
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1  # bytes, not characters
    options.dot_nl = True
    options.log_errors = False
    options.case_sensitive = not ignore_case
    try:
        compiled = re2.compile(raw, options)
    except re2.error as error:
        reason = error.args[0] if error.args else ""
        reason = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"{words!r} is not a regular expression of RE2: {reason}") from error
    found = compiled.search(bytes(2 * MATCH_LIMIT))
    return Regex(words, compiled, found is not None and found.end() > found.start())


def _checked(data: bytes) -> bytes:
    if not data:
        raise ValueError("an empty pattern matches everything")
    if len(data) > PATTERN_LIMIT:
        raise ValueError(f"the pattern has {len(data)} bytes; {PATTERN_LIMIT} are the limit")
    return data
