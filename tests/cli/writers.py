"""Every command that writes, on one image, and what must hold however it ends."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder import make_envelope, make_stream, page

COMMAND = [sys.executable, "-m", "savefmt"]

# Words of each command, in a folder with `source` and `damaged`, and its target there.  One whose
# target is one of these changes it; one with an `old` replaces that.
WRITERS: dict[str, tuple[str, str, str]] = {
    "to sparse": ("convert source out -O sparse", "out", ""),
    "to zstd": ("convert source out -O zstd --verify", "out", ""),
    "over": ("convert source out -O xz -F", "out", "file"),
    "itself": ("convert source source -O gzip -F", "source", ""),
    "version": ("convert source source --save-version 3 -F", "source", ""),
    "xml": ("xml set source new.xml", "source", ""),
    "xml that moves": ("xml set source long.xml", "source", ""),
    "run state": ("xml set source --paused", "source", ""),
    "repair": ("repair damaged --fix format", "damaged", ""),
    "repair that cuts": ("repair damaged --fix all", "damaged", ""),
    "export": ("export source out -f lime", "out", ""),
    "blocks": ("export source out -f blocks", "out", ""),
    "blocks over": ("export source out -f blocks -F", "out", "folder"),
    "prepare": ("prepare source out", "out", ""),
    "salvage": ("salvage source out", "out", ""),
    "picture": ("map source --png out", "out", ""),
    "index": ("read source --block pc.ram 0x1000 16 --index out", "out", ""),
}
# Labelled sparse, with bytes behind the stream.
DAMAGED = make_envelope(format=6) + make_stream(
    blocks={"pc.ram": b"".join(map(page, range(40)))}, trailing=b"trailing" * 1000
)
OLD_FOLDER = {"pc.ram.bin": b"old", "pc.bios.bin": b"old", "own": b"mine", "deep/own": b"mine"}


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder with their content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@dataclass
class Stage:
    """A folder in which one command is run again and again.

    Attributes
    ----------
    folder : Path
        What is in it at the start of each turn.
    before, after : dict
        What it holds at the start and, if the command is let be, in the end.
    seconds : float
        That it takes then.
    """

    folder: Path
    words: list[str]
    target: str
    files: Mapping[str, bytes]
    old: str

    def __post_init__(self) -> None:
        self.before: dict[str, bytes] = {}
        self.after: dict[str, bytes] = {}
        self.seconds = 0.0

    @property
    def environment(self) -> dict[str, str]:
        """Caches of this stage alone."""
        return {**os.environ, "XDG_CACHE_HOME": str(self.folder.with_name("cache"))}

    def set_up(self) -> None:
        """Lay the folder anew."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.fill()

    def fill(self) -> None:
        """Put the files in."""
        for name, data in self.files.items():
            (self.folder / name).write_bytes(data)
        if self.old == "file":
            (self.folder / "out").write_bytes(b"old")
        elif self.old == "folder":
            (self.folder / "out" / "deep").mkdir(parents=True)
            for name, data in OLD_FOLDER.items():
                (self.folder / "out" / name).write_bytes(data)
        self.before = snapshot(self.folder)

    def start(self, **options: object) -> subprocess.Popen[bytes]:
        """Start the command."""
        process: subprocess.Popen[bytes] = subprocess.Popen(
            [*COMMAND, *self.words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            **options,  # type: ignore[call-overload]
        )
        return process

    def rehearse(self) -> None:
        """Run it in peace once, to know what comes of it."""
        self.set_up()
        began = time.monotonic()
        process = self.start()
        said = process.communicate()[1]
        self.seconds = time.monotonic() - began
        assert process.returncode == 0, said
        self.after = snapshot(self.folder)
        assert self.after != self.before

    def check(self, *, killed: bool = False) -> bool:
        """Assert that all is as before, or done whole; return whether it is done.

        Parameters
        ----------
        killed : bool
            By SIGKILL, which leaves nobody to remove a name for the time being.
        """
        found = snapshot(self.folder)
        if killed:
            hidden = [name for name in found if name.startswith((".out.", ".source.", ".damaged."))]
            for name in hidden:
                content = found.pop(name)
                # A file must have been whole when it got any name, which it needs to replace
                # another, or in a folder that is not complete yet.
                assert self.old or self.target in self.files or "blocks" in self.words, name
                assert content in (*self.after.values(), *self.before.values()), name
        if found == self.before:
            return False
        if "index" in self.words or "--index" in self.words:
            assert found.keys() == self.after.keys()  # it has the time of the image in it
        else:
            assert found == self.after
        return True


def stage(folder: Path, name: str, files: Mapping[str, bytes]) -> Stage:
    """Return the stage of one of the `WRITERS`."""
    words, target, old = WRITERS[name]
    return Stage(folder / "stage", words.split(), target, files, old)
