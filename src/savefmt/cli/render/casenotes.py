"""What a line of the case notes holds."""

from __future__ import annotations

from collections.abc import Sequence

from savefmt.frozen import dataclass

CASE_NOTES = "case-notes"
"""What `savefmt schema` calls the lines."""


@dataclass(frozen=True, slots=True)
class NotedFile:
    """A file that was read or written.

    Attributes
    ----------
    path : str
        From the root on; ``-`` for standard input.
    part : str or None
        Which part of the file the image is: ``snapshot NAME`` or ``offset N``.
    kind : str
        ``file``, ``device``, ``pipe`` or ``missing``.
    size : int or None
        In bytes; of what has one.
    modified, changed, accessed : str or None
        Times of the file (UTC), before it was read or after it was written.
    device, inode : int or None
        Which file it is, on its host.
    sha256 : str or None
        Of the whole file; None with the reason in `problem`.
    hashed : str or None
        When that was computed: earlier than this command where the file has not changed since.
    unchanged : bool or None
        Of an input: whether size and times were the same when the command ended.
    problem : str or None
        Why there is no hash.
    """

    path: str
    part: str | None
    kind: str
    size: int | None = None
    modified: str | None = None
    changed: str | None = None
    accessed: str | None = None
    device: int | None = None
    inode: int | None = None
    sha256: str | None = None
    hashed: str | None = None
    unchanged: bool | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Printed:
    """What went to standard output.

    Attributes
    ----------
    size : int
        In bytes.
    sha256 : str
        Of all of it.
    """

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class CaseNote:
    """One command.

    Attributes
    ----------
    version : str
        Of savefmt.
    command : sequence of str
        Its words.
    begin, end : str
        When it began and ended, UTC.
    host, user, folder : str
        Where, by whom, and in which folder it ran.
    inputs, outputs : sequence of NotedFile
        The images that it read, and the files that it wrote.
    printed : Printed or None
        None where nothing was printed.
    errors : sequence of str
        What went wrong, in words.
    exit_code : int
        As in `ExitCode`.
    """

    version: str
    command: Sequence[str]
    begin: str
    end: str
    host: str
    user: str
    folder: str
    inputs: Sequence[NotedFile]
    outputs: Sequence[NotedFile]
    printed: Printed | None
    errors: Sequence[str]
    exit_code: int
