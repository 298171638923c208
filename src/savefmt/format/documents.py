"""The two documents behind an envelope's header, found by beginning and end (format.md 2)."""

from __future__ import annotations

_DOMAIN_ENDS, _COOKIE_BEGINS, _COOKIE_ENDS = b"</domain>", b"<cookie", (b"</cookie>", b"/>")


def is_domain(document: bytes) -> bool:
    """Tell whether bytes end as the domain XML does, which need not be well-formed."""
    return document.rstrip().endswith(_DOMAIN_ENDS)


def is_cookie(data: bytes) -> bool:
    """Tell whether a cookie begins and, in front of a NUL, ends here."""
    document = data.partition(b"\0")[0].rstrip()
    return document.startswith(_COOKIE_BEGINS) and document.endswith(_COOKIE_ENDS)


def find_cookie(data: bytes, told: int) -> int | None:
    """Find the cookie in the data between header and stream; see `Envelope.cookie_place`."""
    if told and data[told - 1 : told] == b"\0" and is_cookie(data[told:]):
        return told
    xml, _, rest = data.partition(b"\0")
    if not is_domain(xml):
        return None
    if is_cookie(rest):
        return len(xml) + 1
    return None if rest.strip(b"\0") else 0
