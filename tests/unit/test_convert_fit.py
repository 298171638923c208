"""`convert` for a reader: what it changes, what it leaves, what it refuses."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from builder import make_envelope, make_stream
from hypothesis import given
from hypothesis import strategies as st
from oracle import compress, hold

import savefmt
from savefmt.compat.releases import Reader
from savefmt.compat.verdict import compatibility
from savefmt.convert.fit import kept
from savefmt.errors import ConversionError
from savefmt.model import Layout
from savefmt.reports import Answer

SWITCHOVER = b"\x08\0\x0b\0\0"
FORMATS = ("raw", "gzip", "bzip2", "xz", "lzop", "zstd", "sparse")


def image(form: str, machine: str, *, version: int = 2, **more: Any) -> bytes:
    """Return an image with command 11."""
    unused = (1 if form == "sparse" and version == 3 else 0).to_bytes(4, "little") + bytes(52)
    number = 0 if form == "sparse" and version == 3 else FORMATS.index(form)
    prefix = make_envelope(version=version, format=number, unused=unused)
    if form in ("raw", "sparse"):
        layout = "mapped-ram" if form == "sparse" else "sequential"
        return make_stream(layout=layout, prefix=prefix, machine=machine, **more)
    return prefix + compress(form, make_stream(machine=machine, **more))


def fit(folder: Path, data: bytes, *readers: str, **options: Any) -> savefmt.ConversionReport:
    """Convert for some readers, verified, and see that they can load the result."""
    (folder / "source").write_bytes(data)
    whom = tuple(map(Reader.parse, readers))
    report = savefmt.convert(
        folder / "source", folder / "target", readers=whom, verify=True, **options
    )
    verdicts = compatibility(folder / "target", whom).verdicts
    assert all(verdict.answer is not Answer.NO for verdict in verdicts)
    return report


TARGETS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "raw": {"layout": Layout.SEQUENTIAL, "codec": "raw"},
    "zstd": {"layout": Layout.SEQUENTIAL, "codec": "zstd"},
    "sparse": {"layout": Layout.MAPPED_RAM},
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", ["raw", "zstd", "sparse"])
def test_command_11_is_left_out(source: str, target: str, tmp_path: Path) -> None:
    """The result is that of the same guest saved without the command."""
    report = fit(tmp_path, image(source, "microvm"), "qemu=9.2", **TARGETS[target])

    assert report.changes == ("1 x command 11 left out for QEMU 9.2",)
    (tmp_path / "without").write_bytes(image(source, "microvm", switchover=False))
    savefmt.convert(tmp_path / "without", tmp_path / "other", **TARGETS[target])
    assert hold(tmp_path / "target").image == hold(tmp_path / "other").image
    with savefmt.open(tmp_path / "target") as result:
        assert result.codec != "raw" or SWITCHOVER not in (tmp_path / "target").read_bytes()


def test_command_11_stays_for_those_who_know_it(tmp_path: Path) -> None:
    report = fit(tmp_path, image("raw", "microvm"), "qemu=10.0")

    assert report.changes == ()
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()


@pytest.mark.parametrize(
    ("form", "version", "readers", "wanted"),
    [
        ("sparse", 2, ["libvirt=10.4"], ("sequential", "raw", 2)),
        ("sparse", 2, ["libvirt=11.2"], ("mapped-ram", "raw", 2)),
        ("sparse", 3, ["libvirt=11.2"], ("mapped-ram", "raw", 2)),
        ("sparse", 3, ["libvirt=9.0", "qemu=8.2"], ("sequential", "raw", 2)),
        ("sparse", 3, ["qemu=9.0"], ("mapped-ram", "raw", 3)),
        ("zstd", 2, ["libvirt=10.3"], ("sequential", "raw", 2)),
        ("zstd", 2, ["libvirt=10.4"], ("sequential", "zstd", 2)),
        ("gzip", 2, ["libvirt=9.0"], ("sequential", "gzip", 2)),
    ],
)
def test_the_nearest_form_is_chosen(
    form: str, version: int, readers: list[str], wanted: tuple[object, ...], tmp_path: Path
) -> None:
    report = fit(tmp_path, image(form, "pc-q35-8.2", version=version), *readers)

    assert (report.target_layout, report.target_codec, report.version) == wanted


def test_every_change_is_told(tmp_path: Path) -> None:
    """The format, the save version and the command, each in words; or nothing at all."""
    both = fit(tmp_path, image("sparse", "microvm", version=3), "libvirt=10.4", "qemu=9.2")

    assert both.changes == (
        "save version 3 became 2",
        "1 x command 11 left out for libvirt 10.4, QEMU 9.2",
        "format sparse became raw for libvirt 10.4, QEMU 9.2",
    )


def test_what_was_asked_for_stays(tmp_path: Path) -> None:
    report = fit(tmp_path, image("zstd", "pc-q35-8.2"), "libvirt=10.3", codec="xz")

    assert report.target_codec == "xz"


@pytest.mark.parametrize(
    ("data", "readers", "options", "reason"),
    [
        (image("raw", "pc-q35-10.0"), ["qemu=9.2"], {}, "pc-q35-10.0 came with QEMU 10.0"),
        (image("raw", "pc-q35-4.1"), ["qemu=10.1"], {}, "was removed in QEMU 10.1"),
        (image("raw", "pc-q35-8.2"), ["libvirt=10.3"], {"codec": "zstd"}, "zstd"),
        (image("raw", "pc-q35-8.2"), ["libvirt=11.3"], {"bare": True}, "bare"),
        (image("raw", "pc-q35-8.2"), ["libvirt=11.3"], {"save_version": 3}, "never released"),
        (image("raw", "pc-q35-8.2"), ["qemu=8.2"], {"layout": Layout.MAPPED_RAM}, "mapped-ram"),
        (make_stream(machine="pc-q35-8.2"), ["libvirt=11.3"], {}, "bare"),
    ],
)
def test_what_cannot_be_is_refused(
    data: bytes, readers: list[str], options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ConversionError, match=reason):
        fit(tmp_path, data, *readers, **options)

    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("options", [{"codec": "null"}, {"target": "-"}])
def test_only_files_can_be_fitted(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").write_bytes(image("raw", "microvm"))
    source = os.fspath(tmp_path / "source")
    if "target" in options:
        options, source = {"target": tmp_path / "target"}, "-"

    with open(tmp_path / "source") as stdin, pytest.raises(ConversionError, match="file"):
        monkeypatch.setattr(sys, "stdin", stdin)
        savefmt.convert(source, **({"target": "x"} | options), readers=[Reader.parse("qemu=9.2")])


@given(
    data=st.binary(max_size=60),
    offset=st.integers(0, 20),
    marks=st.sets(st.integers(0, 90), max_size=8),
    step=st.integers(1, 30),
)
def test_cuts_leave_out_those_bytes_and_no_others(
    data: bytes, offset: int, marks: set[int], step: int
) -> None:
    ordered = sorted(marks)
    cuts = tuple(zip(ordered[::2], ordered[1::2], strict=False))
    pieces = [(at, data[at : at + step]) for at in range(0, len(data), step)]

    left = b"".join(bytes(p) for at, piece in pieces for p in kept(piece, offset + at, cuts))

    expected = bytes(
        byte
        for at, byte in enumerate(data, offset)
        if not any(start <= at < end for start, end in cuts)
    )
    assert left == expected
