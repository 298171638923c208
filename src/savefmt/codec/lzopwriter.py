"""lzop, written by the program lzop: no library with ready-made wheels is as fast."""

from __future__ import annotations

import os
from collections.abc import Callable

from savefmt.codec.base import Bytes
from savefmt.errors import ImageIOError, UnsupportedError

_PIPE_LENGTH = 1 << 20
_MAX_COMPLAINT = 2000


class LzopWriter:
    """A `savefmt.codec.base.Writer` that pipes through the lzop program.

    One loop in the caller's thread feeds the child and takes its output, whichever is ready, so
    that neither can block the other forever.

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
            self._write(data)
        else:
            self._complaint = (self._complaint + data)[:_MAX_COMPLAINT]

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
        return ImageIOError(f"lzop {how}: {why}", errno=errno.EIO)


def _widen_pipe(fd: int) -> None:
    """Ask for a longer pipe: fewer switches between us and the child, no matter if refused."""
    import contextlib
    import fcntl

    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_LENGTH)
