"""The errors, sorted by what the caller can do about them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class SavefmtError(Exception):
    """Base of every error that savefmt raises on purpose.

    Parameters
    ----------
    message : str
        One sentence: what is wrong and, where it helps, what to do.
    path : str or os.PathLike, optional
        The file concerned.
    offset : int, optional
        Where in the file, in bytes.  For a compressed image this counts the
        decompressed bytes, envelope included, unless the message says otherwise.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | os.PathLike[str] | None = None,
        offset: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.offset = offset

    def __str__(self) -> str:
        where = f"{os.fspath(self.path)}: " if self.path is not None else ""
        at = f" (at offset {self.offset:#x})" if self.offset is not None else ""
        return f"{where}{self.message}{at}"


class OutputWarning(UserWarning):
    """The file is complete under its name, but a later step failed."""


class FormatError(SavefmtError, ValueError):
    """The bytes break the format."""


class NotASaveImageError(FormatError):
    """The file does not begin like any save image."""


class IncompleteImageError(FormatError):
    """The image carries libvirt's "Part" magic: the save never finished."""


class TruncatedError(FormatError, EOFError):
    """The file ends inside something that it promised."""


class CorruptError(FormatError):
    """Fields contradict each other or are out of range."""


class UnsupportedError(SavefmtError):
    """The input is sound, but this release does not support its version, capability or codec."""


class MissingPackageError(UnsupportedError):
    """A Python package that this one thing needs is not installed.

    Parameters
    ----------
    what : str
        The thing, as the subject of a sentence.
    package : str
        What it needs, by its name on PyPI.
    extra : str, optional
        The extra of savefmt that brings it.
    """

    def __init__(self, what: str, package: str, extra: str | None = None) -> None:
        named = package if extra is None else f"'savefmt[{extra}]'"
        super().__init__(
            f"{what} needs the package {package}, which is not installed: {_install()} {named}"
        )


def _install() -> str:
    """Return what a shell calls to install something for the Python that runs."""
    import importlib.util
    import shlex
    import shutil

    found = shutil.which("pip")
    if found is not None and os.path.dirname(found) == os.path.dirname(sys.executable):
        return "pip install"
    python = shlex.quote(sys.executable)
    if importlib.util.find_spec("pip") is not None:
        return f"{python} -m pip install"
    return f"uv pip install --python {python}"  # whose environments have no pip


class ConversionError(SavefmtError):
    """The target cannot hold the source, or the options exclude each other."""


class ImageChangedError(SavefmtError):
    """An image was written to, or replaced, while it was read or edited."""


class AddressError(SavefmtError, LookupError):
    """The image holds no memory at an address of the guest."""


class LostMemoryError(AddressError):
    """The memory at an address of the guest is lost in a damaged image."""


class ClosedImageError(SavefmtError, ValueError):
    """An image was used after `close()`."""


class OperationCancelled(SavefmtError):
    """The progress callback returned False."""


class ImageIOError(SavefmtError, OSError):
    """The operating system refused: `errno`, `filename` and `offset` say where."""

    def __init__(
        self,
        message: str,
        *,
        errno: int = 0,
        path: str | os.PathLike[str] | None = None,
        offset: int | None = None,
    ) -> None:
        super().__init__(message, path=path, offset=offset)
        self.errno = errno
        self.filename = os.fspath(path) if path is not None else None

    @classmethod
    def from_os(
        cls,
        error: OSError,
        *,
        path: str | os.PathLike[str] | None = None,
        offset: int | None = None,
    ) -> ImageIOError:
        """Wrap what the standard library raised.

        Parameters
        ----------
        error : OSError
            The original.
        path, offset
            As in `SavefmtError`; the path defaults to the error's own.

        Returns
        -------
        ImageIOError
            With the same errno and reason.
        """
        reason = error.strerror or str(error)
        return cls(reason, errno=error.errno or 0, path=path or error.filename, offset=offset)


@contextmanager
def located(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say of which file an error is that names none yet."""
    try:
        yield
    except SavefmtError as error:
        if error.path is None:
            error.path = path
        raise
