"""All codecs, by name, by number and by magic.

A reader takes what the program's own decoder takes, within bounds on memory, and a writer's
output is read by that program (format.md 2.5).  Codec libraries are imported on first use
only: most commands need none.
"""

from __future__ import annotations

from savefmt.codec.base import Codec
from savefmt.codec.bzip2 import Bzip2Codec
from savefmt.codec.gzip import GzipCodec
from savefmt.codec.lzop import LzopCodec
from savefmt.codec.xz import XzCodec
from savefmt.codec.zstd import ZstdCodec
from savefmt.errors import UnsupportedError

CODECS: dict[str, Codec] = {
    codec.name: codec for codec in (GzipCodec(), Bzip2Codec(), XzCodec(), LzopCodec(), ZstdCodec())
}
"""Every codec, by name."""


def find_codec(name: str) -> Codec:
    """Look a codec up by name.

    Parameters
    ----------
    name : str
        As in `CODECS`.

    Returns
    -------
    Codec
        The one.

    Raises
    ------
    UnsupportedError
        If there is none.
    """
    try:
        return CODECS[name]
    except KeyError:
        known = ", ".join(sorted(CODECS))
        raise UnsupportedError(f"no codec is called {name!r}; there are {known}") from None


def codec_for_format(number: int) -> Codec:
    """Look a codec up by the format number in libvirt's header.

    Parameters
    ----------
    number : int
        1 to 5.

    Returns
    -------
    Codec
        The one; otherwise it raises as `find_codec` does.
    """
    for codec in CODECS.values():
        if codec.libvirt_format == number:
            return codec
    raise UnsupportedError(f"compression format {number} is unknown to this release")


def detect(head: bytes) -> str | None:
    """Tell by its first bytes how a file is compressed.

    Parameters
    ----------
    head : bytes
        At least 16 of them, or all that the file has.

    Returns
    -------
    str or None
        Name of the codec; None means that none of them made this.
    """
    for codec in CODECS.values():
        if len(head) >= len(codec.magic) and codec.begins(head):
            return codec.name
    return None
