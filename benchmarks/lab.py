"""The images that the benchmarks work on, made when first wanted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from turns import ROOT, process, savefmt

MIB = 1 << 20
GIB = 1 << 30
T = TypeVar("T")

sys.path.insert(0, str(ROOT / "tests"))


@dataclass(frozen=True)
class Scale:
    """How large everything is, in bytes, and how many turns each side takes."""

    ram: int
    data: int
    codec_data: int
    fragment_data: int
    growth_data: int
    small_ram: int
    large_ram: int
    curve: tuple[int, ...]
    guests: tuple[int, ...]
    turns: int


SCALES = {
    "full": Scale(
        ram=2 * GIB,
        data=5 * GIB // 4,
        codec_data=GIB // 2,
        fragment_data=256 * MIB,
        growth_data=256 * MIB,
        small_ram=GIB,
        large_ram=256 * GIB,
        curve=(GIB, 4 * GIB, 16 * GIB, 64 * GIB),
        guests=(GIB, 4 * GIB, 16 * GIB),
        turns=5,
    ),
    "quick": Scale(
        ram=256 * MIB,
        data=96 * MIB,
        codec_data=32 * MIB,
        fragment_data=16 * MIB,
        growth_data=48 * MIB,
        small_ram=GIB,
        large_ram=64 * GIB,
        curve=(GIB, 16 * GIB),
        guests=(256 * MIB,),
        turns=3,
    ),
    "tiny": Scale(
        ram=16 * MIB,
        data=8 * MIB,
        codec_data=8 * MIB,
        fragment_data=MIB,
        growth_data=MIB,
        small_ram=16 * MIB,
        large_ram=64 * MIB,
        curve=(16 * MIB, 64 * MIB),
        guests=(224 * MIB,),  # newer kernels want no less
        turns=1,
    ),
}


class Lab:
    """A folder with images that are made on demand and shared by all cases.

    Parameters
    ----------
    folder : Path
        On the disk to measure.
    scale : Scale
        How large everything is.
    memory : Path
        A folder in memory.
    mounts : ExitStack
        Keeps file systems mounted until all is measured.
    """

    def __init__(self, folder: Path, scale: Scale, memory: Path, mounts: ExitStack) -> None:
        self._mounts = mounts
        self._places: dict[str, Path] = {}
        self._kept: dict[str, Any] = {}
        self.folder = folder
        self.memory = memory
        self.scale = scale
        self.out = folder / "out"
        self.other = folder / "other"

    def on(self, kind: str, image: Path) -> Path:
        """A copy of an image on a file system of that kind, which a file on the disk holds."""
        from filesystems import mounted

        if kind not in self._places:
            length = max(4 * self.scale.data, 512 * MIB)
            place = self._mounts.enter_context(mounted(kind, self.folder, length))
            self._places[kind] = place
        copy = self._places[kind] / image.name
        if not copy.exists():
            process("cp", "--sparse=always", image, copy)
        return copy

    def keep(self, name: str, make: Callable[[], AbstractContextManager[T]]) -> T:
        """What takes long to start, and is there until all is measured."""
        if name not in self._kept:
            self._kept[name] = self._mounts.enter_context(make())
        kept: T = self._kept[name]
        return kept

    def sparse(
        self, ram: int, data: int, pattern: str = "dense", *, compressible: bool = False
    ) -> Path:
        """A mapped-ram image."""
        kind = "mix" if compressible else "noise"
        path = self.folder / f"{ram // MIB}-{data // MIB}-{pattern}-{kind}.sparse"
        if not path.exists():
            words = [f"--ram={ram}", f"--data={data}", f"--pattern={pattern}"]
            words += ["--compressible"] if compressible else []
            # In a process of its own, lest its memory count as somebody's peak.
            maker = ROOT / "benchmarks" / "images.py"
            subprocess.run([sys.executable, maker, self._template(), path, *words], check=True)
        return path

    def raw(self, sparse: Path, *, bare: bool = False) -> Path:
        """The sequential form of an image; bare: without libvirt's header."""
        path = sparse.with_suffix(".bare" if bare else ".raw")
        if not path.exists():
            savefmt("convert", sparse, path, "-O", "raw", *(["--bare"] if bare else []))
        return path

    def packed(self, codec: str, data: int) -> Path:
        """A bare stream compressed by the tool that libvirt runs, as libvirt runs it."""
        sparse = self.sparse(2 * data, data, compressible=True)
        path = sparse.with_suffix(f".{codec}")
        if not path.exists():
            process(codec, "-c", self.raw(sparse, bare=True), to=path)
        return path

    def members(self, codec: str, data: int) -> Path:
        """The same stream compressed by us: many members, which can be read in parallel."""
        sparse = self.sparse(2 * data, data, compressible=True)
        path = sparse.with_suffix(f".members.{codec}")
        if not path.exists():
            savefmt("convert", sparse, path, "-O", codec, "--bare")
        return path

    def into_memory(self, path: Path) -> Path:
        """A copy in memory."""
        copy = self.memory / path.name
        if not copy.exists():
            process("cp", path, copy)
        return copy

    def main_sparse(self) -> Path:
        """The large guest."""
        return self.sparse(self.scale.ram, self.scale.data)

    def main_raw(self) -> Path:
        """Its sequential form."""
        return self.raw(self.main_sparse())

    def _template(self) -> Path:
        from golden.load import unpack

        path = self.folder / "template"
        if not path.exists():
            unpack("libvirt-sparse", self.folder).rename(path)
        return path
