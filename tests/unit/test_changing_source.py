"""Every pass over an image notices that the image is written to meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builder import make_envelope, make_stream, page
from golden import load

import savefmt
from savefmt import CheckLevel, ImageChangedError, Layout
from savefmt.cli.main import main
from savefmt.native.file import File
from savefmt.scan import hashes, picture, search, stats, strings
from savefmt.scan.patterns import literal

Pass = Callable[[Path], Any]


def opened(work: Callable[[savefmt.SaveImage], Any]) -> Pass:
    def run(path: Path) -> Any:
        with savefmt.open(path) as image:
            return work(image)

    return run


PASSES: dict[str, Pass] = {
    "hash": opened(lambda image: list(hashes.hash_memory(image, "sha256"))),
    "stats": opened(lambda image: stats.stats(image)),
    "search": opened(lambda image: list(search.search(image, [literal(b"nothing at all")]))),
    "strings": opened(lambda image: list(strings.strings(image))),
    "digest": opened(lambda image: image.memory.digest()),
    "check": lambda path: savefmt.check(path, level=CheckLevel.FULL),
    "compare": lambda path: savefmt.compare(path, path.with_name("other")),
    "compared": lambda path: savefmt.compare(path.with_name("other"), path),
    "null": lambda path: savefmt.convert(path, os.devnull, codec="null"),
    "convert": lambda path: savefmt.convert(path, path.with_name("out"), codec="gzip"),
    "to raw": lambda path: savefmt.convert(path, path.with_name("out"), layout=Layout.SEQUENTIAL),
    "to sparse": lambda path: savefmt.convert(
        path, path.with_name("out"), layout=Layout.MAPPED_RAM
    ),
    "in place": lambda path: savefmt.convert(path, path, codec="gzip", overwrite=True),
    "export": lambda path: savefmt.export(path, path.with_name("out"), format="lime"),
    "blocks": lambda path: savefmt.export(path, path.with_name("out"), format="blocks"),
    "picture": opened(lambda image: picture.draw(image, Path(image.filename).with_name("out"))),
}


def touch_when_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each image be written to, as far as one can see, right after it is opened."""
    adopt = File.__init__

    def adopt_and_touch(file: File, fd: int, *, path: Any, **options: Any) -> None:
        adopt(file, fd, path=path, **options)
        if Path(path).name == "image" and not options.get("write"):
            os.utime(path, (1, 1))

    monkeypatch.setattr(File, "__init__", adopt_and_touch)


@pytest.mark.parametrize("layout", ["sequential", "mapped-ram"])
@pytest.mark.parametrize("name", PASSES)
def test_noticed(name: str, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image"
    blocks = {"pc.ram": b"".join(page(number) for number in range(64))}
    prefix = make_envelope(format=6 if layout == "mapped-ram" else 0)
    data = make_stream(layout=layout, prefix=prefix, blocks=blocks)
    for copy in ("image", "other"):
        (tmp_path / copy).write_bytes(data)
    PASSES[name](path)  # a quiet image is no matter
    path.write_bytes(data)
    if (tmp_path / "out").exists():
        (tmp_path / "out").rename(tmp_path / "first")
    touch_when_opened(monkeypatch)
    with pytest.raises(
        ImageChangedError, match="changed while it was read|changed since"
    ) as caught:
        PASSES[name](path)

    assert Path(caught.value.path or "").name == "image"
    assert not (tmp_path / "out").exists()
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    "words", ["read 0x1000 16 --physical", "vtop 0x1000", "regs", "memmap", "devices"]
)
def test_commands_that_look_at_a_few_places_notice_it(
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = load.unpack("libvirt-sparse", tmp_path).rename(tmp_path / "image")
    command, *rest = words.split()
    assert main([command, str(path), *rest]) == 0
    capsys.readouterr()
    touch_when_opened(monkeypatch)

    assert main([command, str(path), *rest]) == 1

    assert "the image changed while it was read" in capsys.readouterr().err
