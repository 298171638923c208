"""kdump files, read by libkdumpfile, which knows their compressions and forms."""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Iterator

from savefmt.errors import CorruptError, TruncatedError, UnsupportedError
from savefmt.model import IOOptions
from savefmt.native.file import File
from savefmt.reading.dumpview import Stretch
from savefmt.reading.spool import Spool, refuse_without_room, write_sparsely

_LIBRARY = "libkdumpfile.so.10"
_PHYSICAL = 1  # KDUMP_MACHPHYSADDR
_NO_DATA = 3  # KDUMP_ERR_NODATA
_PIECE_LENGTH = 1 << 20
_MOST_RUNS = 1 << 16
_REFUSED = 3
"""What the process exits with whose last line says why."""
_FLAT_HEADER = 4096
_RECORD = struct.Struct(">qq")
"""Place in the dump, negative at the end, and length of what follows."""
_MOST_LENGTH = 1 << 48


class _Attribute(ctypes.Structure):
    """A value with its type; what we ask for is a number or a pointer."""

    _fields_ = (("type", ctypes.c_int), ("value", ctypes.c_uint64))


def rebuild(fd: int, io: IOOptions) -> File:
    """Put a flattened dump, which was written through a pipe, together again.

    Parameters
    ----------
    fd : int
        The dump; stays the caller's.
    io : IOOptions
        How the result is read.

    Returns
    -------
    File
        To be closed.

    Raises
    ------
    CorruptError, TruncatedError
        What is wrong with it.
    """
    length = os.lseek(fd, 0, os.SEEK_END)
    at, end = _FLAT_HEADER, 0
    with Spool() as spool:
        refuse_without_room(spool.folder, length)
        while True:
            record = os.pread(fd, _RECORD.size, at)
            if len(record) < _RECORD.size:
                raise TruncatedError("the flattened dump ends without its end mark", offset=at)
            place, count = _RECORD.unpack(record)
            if place < 0:
                return spool.open(io, end)
            at += _RECORD.size
            if count < 0 or count > length - at or place + count > _MOST_LENGTH:
                raise CorruptError(
                    f"a piece of the flattened dump claims {count} bytes for the offset {place:#x}",
                    offset=at,
                )
            for done in range(0, count, _PIECE_LENGTH):
                piece = os.pread(fd, min(_PIECE_LENGTH, count - done), at + done)
                spool.write(piece, place + done)
            at, end = at + count, max(end, place + count)


def unpack_kdump(fd: int, io: IOOptions) -> tuple[File, list[Stretch]]:
    """Unpack a kdump file to a temporary file.

    Parameters
    ----------
    fd : int
        The dump; stays the caller's.
    io : IOOptions
        How the temporary file is read.

    Returns
    -------
    File
        To be closed.
    list of Stretch
        Which memory lies where in it, ascending.

    Raises
    ------
    CorruptError, UnsupportedError
        What libkdumpfile finds wrong with it.
    """
    _load()
    with Spool() as spool:
        refuse_without_room(spool.folder, os.lseek(fd, 0, os.SEEK_END))
        stretches = list(_parse(_run(fd, spool.descriptor)))
        end = stretches[-1].offset + stretches[-1].length if stretches else 0
        return spool.open(io, end), stretches


def _run(fd: int, target: int) -> str:
    """Let a process of its own unpack a dump: a damaged one may take the library down."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    code = f"from savefmt.reading.kdumpfile import unpack; unpack({fd}, {target}, {_LIBRARY!r})"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        pass_fds=(fd, target),
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode == _REFUSED:
        (*_, reason) = done.stdout.splitlines() or ["no reason given"]
        raise CorruptError(f"libkdumpfile cannot read it: {reason}")
    if done.returncode:
        raise CorruptError(f"libkdumpfile failed on it, with code {done.returncode}")
    return done.stdout


def _parse(text: str) -> Iterator[Stretch]:
    offset = 0
    for line in text.splitlines():
        address, length = map(int, line.split())
        yield Stretch(address, length, offset)
        offset += length


def unpack(fd: int, target: int, name: str) -> None:
    """Unpack a dump and tell on standard output what memory it holds; for `_run` alone.

    Parameters
    ----------
    fd : int
        The dump.
    target : int
        An empty file, which gets the memory.
    name : str
        Of the library.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    library = _load(name)
    try:
        dump = _Kdump(library, library.kdump_new(), fd)
        at = 0
        for count, (address, length) in enumerate(dump.runs()):
            if count == _MOST_RUNS:
                raise CorruptError("it has too many gaps")
            for done in range(0, length, _PIECE_LENGTH):
                data = dump.read(address + done, min(_PIECE_LENGTH, length - done))
                write_sparsely(target, memoryview(data), at + done)
            print(address, length)
            at += length
    except (CorruptError, OSError) as error:
        print(error.message if isinstance(error, CorruptError) else error.strerror)
        sys.stdout.flush()
        os._exit(_REFUSED)
    sys.stdout.flush()
    os._exit(0)  # what the library frees at its end is not worth a crash


class _Kdump:
    """One open dump."""

    def __init__(self, library: ctypes.CDLL, context: int, fd: int) -> None:
        self._library = library
        self._context = context
        self._require(library.kdump_open_fdset(context, 1, ctypes.byref(ctypes.c_int(fd))))
        self._page_size = self._attribute("arch.page_size")
        self._map = ctypes.c_void_p(self._attribute("file.pagemap"))

    def _attribute(self, name: str) -> int:
        found = _Attribute()
        self._require(
            self._library.kdump_get_attr(self._context, name.encode(), ctypes.byref(found))
        )
        return int(found.value)

    def _require(self, status: int) -> None:
        if status:
            said = self._library.kdump_get_err(self._context) or b"no reason given"
            raise CorruptError(" ".join(said.decode(errors="replace").split()))

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield address and length of the memory that the dump holds, ascending."""
        number = ctypes.c_uint64(0)
        find_set = self._library.kdump_bmp_find_set
        find_clear = self._library.kdump_bmp_find_clear
        while find_set(self._map, ctypes.byref(number)) == 0:
            first = number.value
            if find_clear(self._map, ctypes.byref(number)) or number.value <= first:
                raise CorruptError("the bitmap of the dump has no end")
            yield first * self._page_size, (number.value - first) * self._page_size

    def read(self, address: int, length: int) -> bytes:
        """Read guest-physical memory."""
        buffer = ctypes.create_string_buffer(length)
        count = ctypes.c_size_t(length)
        status = self._library.kdump_read(
            self._context, _PHYSICAL, address, buffer, ctypes.byref(count)
        )
        if status == _NO_DATA:
            raise CorruptError(f"page at {address + count.value:#x} is not in the dump")
        self._require(status)
        return buffer.raw


def _load(name: str | None = None) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(name or _LIBRARY)
    except OSError as error:
        raise UnsupportedError(
            f"kdump files are read by {_LIBRARY}, which is not installed; install libkdumpfile, or "
            "dump with --format=elf"
        ) from error
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.kdump_new.restype = pointer
    library.kdump_get_err.argtypes = (pointer,)
    library.kdump_get_err.restype = ctypes.c_char_p
    library.kdump_open_fdset.argtypes = (pointer, ctypes.c_uint, ctypes.POINTER(number))
    library.kdump_get_attr.argtypes = (pointer, ctypes.c_char_p, ctypes.POINTER(_Attribute))
    places = ctypes.POINTER(ctypes.c_uint64)
    library.kdump_bmp_find_set.argtypes = (pointer, places)
    library.kdump_bmp_find_clear.argtypes = (pointer, places)
    size = ctypes.POINTER(ctypes.c_size_t)
    library.kdump_read.argtypes = (pointer, number, ctypes.c_uint64, ctypes.c_char_p, size)
    return library
