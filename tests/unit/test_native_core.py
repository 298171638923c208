"""The door to the C core: what its error value becomes."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from savefmt.errors import (
    ClosedImageError,
    CorruptError,
    ImageIOError,
    OperationCancelled,
    SavefmtError,
    TruncatedError,
    UnsupportedError,
)
from savefmt.native.core import NeedContentError, call, ffi, lib, raise_for

ROOT = Path(__file__).parents[2]
NO_OFFSET = (1 << 64) - 1

CLASSES = [
    (lib.SF_E_FORMAT, CorruptError),
    (lib.SF_E_TRUNCATED, TruncatedError),
    (lib.SF_E_UNSUPPORTED, UnsupportedError),
    (lib.SF_E_CONTENT, NeedContentError),
    (lib.SF_E_CANCELLED, OperationCancelled),
    (lib.SF_E_CLOSED, ClosedImageError),
]


def error_value(status: int, message: str, *, offset: int = NO_OFFSET, errnum: int = 0) -> object:
    err = ffi.new("struct sf_err *")
    err.status, err.errnum, err.offset, err.message = status, errnum, offset, message.encode()
    return err


@pytest.mark.parametrize(("status", "kind"), CLASSES)
def test_each_status_has_its_exception(status: int, kind: type[SavefmtError]) -> None:
    with pytest.raises(kind, match=r"^a\.save: odd word \(at offset 0x10\)$") as caught:
        raise_for(error_value(status, "odd word", offset=16), "a.save")

    assert type(caught.value) is kind
    assert (caught.value.message, caught.value.path) == ("odd word", "a.save")
    assert caught.value.offset == 16


def test_no_place_is_told_where_there_is_none() -> None:
    with pytest.raises(CorruptError, match=r"^odd$") as caught:
        raise_for(error_value(lib.SF_E_FORMAT, "odd"))

    assert caught.value.offset is None
    assert caught.value.path is None


@pytest.mark.parametrize(
    ("errnum", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EIO, "copy what is left"),
        (errno.EFBIG, "file of that size"),
        (errno.EACCES, "^(?!.*;)"),
    ],
)
def test_system_errors_keep_errno(errnum: int, advice: str) -> None:
    with pytest.raises(ImageIOError, match=advice) as caught:
        raise_for(error_value(lib.SF_E_OS, "read", offset=5, errnum=errnum), "a.save")

    assert isinstance(caught.value, OSError)
    assert caught.value.errno == errnum
    assert caught.value.filename == "a.save"
    assert caught.value.offset == 5
    assert f"cannot read: {os.strerror(errnum)}" in str(caught.value)


@pytest.mark.parametrize(
    ("message", "path"),
    [
        ("read", "a.save"),
        ("write", "b.save"),
        ("fallocate", "b.save"),
        ("read back: read", "b.save"),
        ("start thread", "a.save"),
    ],
)
def test_the_file_that_failed_is_named(message: str, path: str) -> None:
    with pytest.raises(ImageIOError) as caught:
        raise_for(error_value(lib.SF_E_OS, message, errnum=errno.EIO), "a.save", "b.save")

    assert caught.value.path == caught.value.filename == path


def test_faults_of_ours_and_of_the_machine_are_no_image_errors() -> None:
    with pytest.raises(MemoryError, match="table"):
        raise_for(error_value(lib.SF_E_NOMEM, "table"))
    with pytest.raises(ValueError, match="window") as caught:
        raise_for(error_value(lib.SF_E_RANGE, "window"))
    assert not isinstance(caught.value, SavefmtError)


def test_call_tells_ok_from_again() -> None:
    assert call(lambda err: lib.SF_OK)
    assert not call(lambda err: lib.SF_AGAIN)


def test_call_raises_with_both_paths() -> None:
    def function(number: int, err: object) -> int:
        assert number == 7
        ffi.cast("struct sf_err *", err).status = lib.SF_E_OS
        ffi.cast("struct sf_err *", err).message = b"write"
        return int(lib.SF_E_OS)

    with pytest.raises(ImageIOError) as caught:
        call(function, 7, path="a", target="b")
    assert caught.value.path == "b"


def test_every_status_is_mapped() -> None:
    """A new one in the C core must not end in a KeyError."""
    text = (ROOT / "csrc" / "sf_err.h").read_text()
    names = set(re.findall(r"\bSF_E_[A-Z]+", text))

    mapped = {status for status, _ in CLASSES} | {lib.SF_E_OS, lib.SF_E_NOMEM, lib.SF_E_RANGE}
    assert {getattr(lib, name) for name in names} == mapped
