"""bzip2: read and written through the standard library."""

from __future__ import annotations

from savefmt.codec.base import Compressor, Decompressor
from savefmt.codec.boundaries import Lookahead, NoBoundaryError
from savefmt.codec.members import MemberCodec

_HEAD_LENGTH = 4
_BLOCK_MAGIC = b"1AY&SY"


class Bzip2Codec(MemberCodec):
    """bzip2, through the standard library."""

    name = "bzip2"
    libvirt_format = 2
    magic = b"BZh"
    levels = range(1, 10)
    default_level = 9
    noun = "bzip2 stream"
    # Two blocks of level 9.  One holds 899,981 bytes after runs are coded, which may
    # add some: the slack keeps a third, tiny block away.
    member_length = 2 * 899_000
    most_threads = 4  # 13 MiB each

    def measure(self, ahead: Lookahead, start: int) -> tuple[int, int]:
        """Tell how long a stream is; see `MemberCodec.measure`."""
        return measure_bzip2(ahead, start), self.member_length

    def _decompressor(self, memory: int) -> Decompressor:
        from bz2 import BZ2Decompressor

        return BZ2Decompressor()

    def _errors(self) -> tuple[type[Exception], ...]:
        return (OSError, ValueError, RuntimeError)

    def _compressor(self, level: int, length: int) -> Compressor:
        from bz2 import BZ2Compressor

        return BZ2Compressor(level)


def measure_bzip2(ahead: Lookahead, start: int) -> int:
    """Find where the next bzip2 stream of the same level begins, or the file ends.

    Parameters
    ----------
    ahead : Lookahead
        The stream.
    start : int
        Where the member begins.

    Returns
    -------
    int
        Its length in the file; what it holds only decoding can tell.

    Raises
    ------
    NoBoundaryError
        If it holds nothing.
    """
    mark = ahead.read(_HEAD_LENGTH + len(_BLOCK_MAGIC), start)
    if not mark.endswith(_BLOCK_MAGIC):
        raise NoBoundaryError
    return ahead.find(mark, start + len(mark)) - start
