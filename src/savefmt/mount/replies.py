"""Memory that gives libfuse the content of a file, filled in place."""

from __future__ import annotations

import ctypes
from types import TracebackType
from typing import Any, Self

_SPARE = 64
"""Room behind what we know of libfuse's structure: later versions add to its end."""

# PyDLL keeps the interpreter's lock: these take less time than the other threads would to get it.
_libc = ctypes.PyDLL(None)
for _name, _arguments in (("calloc", 2), ("malloc", 1)):
    _function = getattr(_libc, _name)
    _function.restype = ctypes.c_void_p
    _function.argtypes = [ctypes.c_size_t] * _arguments
_libc.free.restype = None
_libc.free.argtypes = [ctypes.c_void_p]


class _Vector(ctypes.Structure):
    """libfuse's ``struct fuse_bufvec`` with one buffer; mfusepy's own has a pointer there."""

    _fields_ = (
        ("count", ctypes.c_size_t),
        ("index", ctypes.c_size_t),
        ("offset", ctypes.c_size_t),
        ("size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("memory", ctypes.c_void_p),
        ("descriptor", ctypes.c_int),
        ("position", ctypes.c_int64),
    )


class Reply:
    """An answer to the operation ``read_buf``: libfuse sends it as it is, and frees it.

    The operation ``read`` would have us make an object of Python and have mfusepy copy it,
    which takes longer than all else that we do for it.

    Parameters
    ----------
    length : int
        Bytes.

    Attributes
    ----------
    data : memoryview
        Must be filled completely before `give`: it begins with old content.
    """

    def __init__(self, length: int) -> None:
        self._vector = _libc.calloc(1, ctypes.sizeof(_Vector) + _SPARE)
        self._memory = _libc.malloc(max(length, 1))
        if not self._vector or not self._memory:
            self._free()
            raise MemoryError(length)
        self._length = length
        self.data = memoryview((ctypes.c_char * length).from_address(self._memory)).cast("B")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._free()

    def give(self, answer: Any) -> None:
        """Hand it over to who asked, where `answer` points to."""
        vector = _Vector.from_address(self._vector)
        vector.count, vector.size, vector.memory = 1, self._length, self._memory
        ctypes.cast(answer, ctypes.POINTER(ctypes.c_void_p))[0] = self._vector
        self._vector = self._memory = None

    def _free(self) -> None:
        _libc.free(self._vector)
        _libc.free(self._memory)
