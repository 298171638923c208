"""The lzop container: a reader of our own, and a writer that drives the lzop program.

No library knows the container; `lzallright` decodes its blocks.  Compressing is left to
the program, because no library with ready-made wheels compresses LZO at its speed.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Iterator
from itertools import accumulate

from savefmt.codec.base import Bytes
from savefmt.errors import CorruptError, ImageIOError, UnsupportedError
from savefmt.format.cursor import Cursor

MAGIC = b"\x89LZO\0\r\n\x1a\n"

MAX_BLOCK_LENGTH = 256 << 10
"""Most plain bytes in a block: lzop never writes more, and Linux's own reader takes no
more.  A hostile block may unfold to 255 times its length before its lie is seen, so this
bounds time and memory, too."""

_MAX_EXTRA_LENGTH = 1 << 20
_OLDEST_VERSION = 0x0900
_LEVEL_SINCE = 0x0940  # also the needed version and the upper half of the time
_NEWEST_VERSION = 0x1040
_METHODS = (1, 2, 3)  # LZO1X-1, LZO1X-1(15) and LZO1X-999: one decoder for all
_LONGEST_FILTER = 16
_PIPE_LENGTH = 1 << 20
_MAX_COMPLAINT = 2000


class Flag(enum.IntFlag):
    """Bits of the header's flags word that change how a file is read."""

    ADLER32_PLAIN = 0x0001
    ADLER32_PACKED = 0x0002
    EXTRA_FIELD = 0x0040
    CRC32_PLAIN = 0x0100
    CRC32_PACKED = 0x0200
    FILTER = 0x0800
    HEADER_CRC32 = 0x1000


_RESERVED_FLAGS = 0x000FC000  # above the flags, below character set and system


def read_parts(source: Cursor) -> Iterator[Bytes]:
    """Decode one lzop file, or several one after another.

    Parameters
    ----------
    source : Cursor
        At the magic; its offsets are those of the file.

    Yields
    ------
    bytes or memoryview
        The plain bytes of one block, valid until the next is asked for.

    Raises
    ------
    CorruptError
        If a checksum or a length is wrong, or garbage follows; `TruncatedError` and
        `UnsupportedError` as in `savefmt.codec.registry.Codec.open_reader`.
    """
    while True:
        flags, delta = read_header(source)
        yield from _read_blocks(source, flags, delta)
        if not source.window():
            return


def read_header(source: Cursor) -> tuple[int, int]:
    """Consume the header, return its flags and its filter's distance (0 = no filter)."""
    start = source.tell()
    what = f"the lzop header at compressed offset {start:#x}"
    head = source.peek(len(MAGIC))
    if not MAGIC.startswith(head):
        raise CorruptError(
            f"no lzop header at compressed offset {start:#x}, "
            "where the file must end or one must begin",
            offset=start,
        )
    source.read(len(MAGIC), what)

    # A checksum over all that is read here follows, and which one the flags tell.
    seen = bytearray()

    def number(length: int) -> int:
        seen.extend(source.read(length, what))
        return int.from_bytes(seen[-length:], "big")

    version = number(2)
    number(2)  # of the LZO library
    modern = version >= _LEVEL_SINCE
    needed = number(2) if modern else version
    method = number(1)
    if modern:
        number(1)  # level
    flags = number(4)
    delta = number(4) if flags & Flag.FILTER else 0
    number(12 if modern else 8)  # mode and time
    if name_length := number(1):
        number(name_length)
    _check_header_sum(source, flags, seen, what)

    # Only now, so that a flipped bit is called damage and not a feature we lack.
    if version < _OLDEST_VERSION or needed > _NEWEST_VERSION:
        raise UnsupportedError(
            f"{what} is of version {version:#x} and needs {needed:#x}; "
            f"{_OLDEST_VERSION:#x} to {_NEWEST_VERSION:#x} are known",
            offset=start,
        )
    if method not in _METHODS:
        raise UnsupportedError(f"{what} names the unknown method {method}", offset=start)
    if flags & _RESERVED_FLAGS:
        raise UnsupportedError(f"{what} has unknown flags {flags:#x}", offset=start)
    if flags & Flag.FILTER and not 1 <= delta <= _LONGEST_FILTER:
        raise UnsupportedError(f"{what} names the unknown filter {delta}", offset=start)

    if flags & Flag.EXTRA_FIELD:
        seen.clear()  # this field's checksum covers its length, too
        length = number(4)
        if length > _MAX_EXTRA_LENGTH:
            raise CorruptError(f"{what} has an extra field of {length} bytes", offset=start)
        if length:
            number(length)
        _check_header_sum(source, flags, seen, what)
    return flags, delta


def _check_header_sum(source: Cursor, flags: int, seen: bytearray, what: str) -> None:
    from zlib import adler32, crc32

    checksum = crc32(seen) if flags & Flag.HEADER_CRC32 else adler32(seen)
    at = source.tell()
    if source.u32(what) != checksum:
        raise CorruptError(f"{what} has a wrong checksum", offset=at)


def _read_blocks(source: Cursor, flags: int, delta: int) -> Iterator[Bytes]:
    from isal.isal_zlib import adler32, crc32
    from lzallright import InputNotConsumed, LZOCompressor, LZOError

    plain_sums = [adler32] * bool(flags & Flag.ADLER32_PLAIN)
    plain_sums += [crc32] * bool(flags & Flag.CRC32_PLAIN)
    packed_sums = [adler32] * bool(flags & Flag.ADLER32_PACKED)
    packed_sums += [crc32] * bool(flags & Flag.CRC32_PACKED)
    while True:
        start = source.tell()
        what = f"the lzop block at compressed offset {start:#x}"
        plain_length = source.u32(what)
        if plain_length == 0:
            return
        packed_length = source.u32(what)
        if plain_length > MAX_BLOCK_LENGTH:
            raise UnsupportedError(
                f"{what} has {plain_length} bytes, more than {MAX_BLOCK_LENGTH}; "
                "the file is damaged, or not made by lzop",
                offset=start,
            )
        if not 0 < packed_length <= plain_length:
            raise CorruptError(
                f"{what} has {packed_length} bytes for {plain_length} plain ones", offset=start
            )
        stored = packed_length == plain_length
        expected = [source.u32(what) for _ in plain_sums]
        expected_packed = [] if stored else [source.u32(what) for _ in packed_sums]

        # Usually the block lies within one piece, and no copy is needed.
        window = source.window()
        whole = len(window) >= packed_length
        packed: Bytes = window[:packed_length] if whole else source.read(packed_length, what)
        for checksum, value in zip(packed_sums, expected_packed, strict=False):
            if checksum(packed) != value:
                raise CorruptError(f"{what} has a wrong checksum when compressed", offset=start)
        plain = packed
        if not stored:
            try:
                plain = LZOCompressor.decompress(packed, plain_length)
            except (InputNotConsumed, LZOError) as error:
                raise CorruptError(f"{what} does not decode", offset=start) from error
            if len(plain) != plain_length:
                raise CorruptError(
                    f"{what} decodes to {len(plain)} bytes instead of {plain_length}", offset=start
                )
        if delta:
            plain = _undo_filter(plain, delta)
        for checksum, value in zip(plain_sums, expected, strict=True):
            if checksum(plain) != value:
                raise CorruptError(f"{what} has a wrong checksum", offset=start)
        yield plain
        if whole:
            source.advance(packed_length)


def _undo_filter(block: Bytes, delta: int) -> bytes:
    """Turn differences between bytes `delta` apart into the bytes."""
    plain = bytearray(block)
    for lane in range(delta):
        plain[lane::delta] = bytes(total & 0xFF for total in accumulate(plain[lane::delta]))
    return bytes(plain)


class LzopWriter:
    """A `savefmt.codec.registry.Writer` that pipes through the lzop program.

    One loop in the caller's thread feeds the child and takes its output as either is
    ready, so that neither can block the other for good.

    Parameters
    ----------
    write : callable
        Gets the compressed bytes.
    level : int
        1 to 9.

    Raises
    ------
    UnsupportedError
        If the program is not installed.
    """

    def __init__(self, write: Callable[[bytes], None], *, level: int) -> None:
        import selectors
        import subprocess

        self._write = write
        self._head: bytearray | None = bytearray()
        self._complaint = b""
        self._closed = False
        # LZOP holds options of the user's own; a session of its own keeps the
        # terminal's Ctrl-C for us to answer with abort().
        environment = {key: value for key, value in os.environ.items() if key != "LZOP"}
        pipe = subprocess.PIPE
        try:
            self._child = subprocess.Popen(
                ["lzop", "-c", f"-{level}"],
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                bufsize=0,
                env=environment,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise UnsupportedError(
                "writing lzop images needs the program lzop; install the package lzop"
            ) from None
        except OSError as error:
            raise ImageIOError.from_os(error, path="lzop") from error
        assert self._child.stdin
        assert self._child.stdout
        assert self._child.stderr
        self._input = self._child.stdin.fileno()
        self._output = self._child.stdout.fileno()
        self._selector = selectors.DefaultSelector()
        for stream in (self._child.stdin, self._child.stdout, self._child.stderr):
            os.set_blocking(stream.fileno(), False)
            _widen_pipe(stream.fileno())
        self._selector.register(self._output, selectors.EVENT_READ)
        self._selector.register(self._child.stderr.fileno(), selectors.EVENT_READ)
        self._selector.register(self._input, selectors.EVENT_WRITE)

    def write(self, data: Bytes) -> None:
        """Take the next bytes; they may be overwritten as soon as this returns.

        Parameters
        ----------
        data : bytes or memoryview
            Any number of them.

        Raises
        ------
        ValueError
            If the writer is closed: a bug of the caller.
        ImageIOError
            If the program ended on its own.
        """
        if self._closed:
            raise ValueError("write to a closed compressor")
        rest = memoryview(data).cast("B")
        while rest:
            # Output first: it may hold the reason why no more input is taken.
            ready = [key.fd for key, _ in self._selector.select()]
            for fd in ready:
                if fd != self._input:
                    self._take(fd)
            if self._input in ready:
                try:
                    rest = rest[os.write(self._input, rest) :]
                except BlockingIOError:
                    pass
                except BrokenPipeError:
                    self._finish()
                    raise self._failure() from None

    def close(self) -> None:
        """Let the program finish and pass on what is left; a second call does nothing.

        Raises
        ------
        ImageIOError
            If the program failed.
        """
        if self._closed:
            return
        self._finish()
        if self._child.returncode:
            raise self._failure()
        if self._head:
            self._write(bytes(self._head))

    def abort(self) -> None:
        """Kill the program; does nothing when closed or aborted."""
        if self._closed:
            return
        self._closed = True
        self._child.kill()
        self._release()

    def _finish(self) -> None:
        assert self._child.stdin
        self._selector.unregister(self._input)
        self._input = -1
        self._child.stdin.close()
        while self._selector.get_map():
            for key, _ in self._selector.select():
                self._take(key.fd)
        self._closed = True
        self._release()

    def _take(self, fd: int) -> None:
        data = os.read(fd, _PIPE_LENGTH)
        if not data:
            self._selector.unregister(fd)
        elif fd == self._output:
            self._pass_on(data)
        else:
            self._complaint = (self._complaint + data)[:_MAX_COMPLAINT]

    def _pass_on(self, data: bytes) -> None:
        if self._head is None:
            self._write(data)
            return
        self._head += data
        if len(self._head) >= _HEADER_LENGTH:
            head, self._head = self._head, None
            _forget_time(head)
            self._write(bytes(head))

    def _release(self) -> None:
        self._selector.close()
        for stream in (self._child.stdin, self._child.stdout, self._child.stderr):
            if stream:
                stream.close()
        self._child.wait()

    def _failure(self) -> ImageIOError:
        import errno

        status = self._child.returncode
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        why = self._complaint.decode(errors="replace").strip() or "it did not say why"
        return ImageIOError(f"lzop {how}: {why}", errno=errno.EPIPE)


# What lzop writes for standard input: no name, no filter, Adler-32.
_FLAGS_AT = 17
_TIME_AT = 25
_NAME_AT = 33
_SUM_AT = 34
_HEADER_LENGTH = 38


def _forget_time(head: bytearray) -> None:
    """Zero the time of day that lzop stamps on standard input: same data, same image."""
    from zlib import adler32

    flags = int.from_bytes(head[_FLAGS_AT : _FLAGS_AT + 4], "big")
    if head[_NAME_AT] or flags & (Flag.HEADER_CRC32 | Flag.FILTER | Flag.EXTRA_FIELD):
        return  # not the header we know: correct all the same, only stamped
    head[_TIME_AT:_NAME_AT] = bytes(_NAME_AT - _TIME_AT)
    head[_SUM_AT:_HEADER_LENGTH] = adler32(head[len(MAGIC) : _SUM_AT]).to_bytes(4, "big")


def _widen_pipe(fd: int) -> None:
    """Ask for a longer pipe: fewer switches between us and the child, no matter if refused."""
    import contextlib
    import fcntl

    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_LENGTH)
