"""The envelope through a conversion: kept byte for byte, repaired, dropped or refused."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest
from builder import DOMAIN_XML, make_envelope, make_stream
from oracle import CODECS, Held, assert_same_guest, compress, hold

import savefmt
from savefmt import ConversionError, IncompleteImageError, Layout, UnsupportedError

COOKIE = b"<cookie>\n  <cpu mode='custom'/>\n</cookie>\n"
STRANGE: dict[str, Any] = {
    "was_running": 7,
    "cookie": COOKIE,
    "padding": 777,
    "xml": DOMAIN_XML + b"<!-- \xc3 -->",
}


def fields(envelope: bytes, order: str = "little") -> dict[str, int]:
    """Return the numbers of a header; `features` is the first unused word."""
    names = ("version", "data_length", "was_running", "format", "cookie_offset", "features")
    sign = "<" if order == "little" else ">"
    return dict(zip(names, struct.unpack_from(f"{sign}6I", envelope, 16), strict=True))


def convert(folder: Path, data: bytes, **options: Any) -> Held:
    (folder / "source").write_bytes(data)
    savefmt.convert(folder / "source", folder / "target", overwrite=True, **options)
    return hold(folder / "target")


def sequential(version: int, order: str, codec: str = "raw", **options: Any) -> bytes:
    number = CODECS.index(codec) if version > 1 else 0
    prefix = make_envelope(version=version, order=order, format=number, **STRANGE, **options)
    return prefix + compress(codec, make_stream())


def mapped(version: int, order: str) -> bytes:
    features = (1).to_bytes(4, order) if version == 3 else bytes(4)  # type: ignore[arg-type]
    prefix = make_envelope(
        version=version,
        order=order,
        format=6 if version == 2 else 0,
        unused=features + bytes(52),
        **STRANGE,
    )
    return make_stream(layout="mapped-ram", prefix=prefix, bitmap_order=order)


# What may come out of what: source version, requested version, result of a sequential and of
# a sparse target.
VERSIONS = [
    (1, None, 1, 2),
    (1, 2, 2, 2),
    (1, 3, 3, 3),
    (2, None, 2, 2),
    (2, 1, 1, None),
    (2, 3, 3, 3),
    (3, None, 3, 3),
    (3, 1, 1, None),
    (3, 2, 2, 2),
]


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize(("before", "wanted", "raw", "sparse"), VERSIONS)
def test_versions(
    before: int, wanted: int | None, raw: int, sparse: int | None, order: str, tmp_path: Path
) -> None:
    sources = [sequential(before, order)]
    if before > 1:
        sources.append(mapped(before, order))
    for source in sources:
        old = source[: len(make_envelope(order=order, **STRANGE))]
        for layout, version in ((Layout.SEQUENTIAL, raw), (Layout.MAPPED_RAM, sparse)):
            if version is None:
                with pytest.raises(ConversionError, match="save version 1 cannot hold"):
                    convert(tmp_path, source, layout=layout, save_version=wanted)
                continue
            after = convert(tmp_path, source, layout=layout, save_version=wanted)
            sparse_result = layout is Layout.MAPPED_RAM
            assert fields(after.envelope, order) == {
                **fields(old, order),
                "version": version,
                "format": 6 if sparse_result and version == 2 else 0,
                "features": 1 if sparse_result and version == 3 else 0,
            }
            # All else byte for byte: magic, spare words, XML, cookie, padding.
            assert after.envelope[:16] + after.envelope[40:] == old[:16] + old[40:]


@pytest.mark.parametrize("codec", CODECS[1:])
def test_codecs_in_versions(codec: str, tmp_path: Path) -> None:
    number = CODECS.index(codec)

    grown = convert(tmp_path, sequential(1, "little"), codec=codec)
    assert (fields(grown.envelope)["version"], fields(grown.envelope)["format"]) == (2, number)

    third = convert(tmp_path, sequential(2, "little", codec), save_version=3)
    assert (fields(third.envelope)["version"], fields(third.envelope)["format"]) == (3, number)
    assert third.codec == codec

    with pytest.raises(ConversionError, match="save version 1"):
        convert(tmp_path, sequential(2, "little", codec), save_version=1)
    with pytest.raises(ConversionError, match="save version 1"):
        convert(tmp_path, sequential(2, "little"), save_version=1, codec=codec)
    assert fields(
        convert(tmp_path, sequential(2, "little", codec), save_version=1, codec="raw").envelope
    ) == {**fields(sequential(2, "little")), "version": 1}


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize(("source", "version"), [(2, 3), (3, 2), (1, 3)])
def test_the_version_alone_is_changed_in_place(
    source: int, version: int, order: str, tmp_path: Path
) -> None:
    path = tmp_path / "image"
    path.write_bytes(sequential(1, order) if source == 1 else mapped(source, order))
    path.chmod(0o640)
    before, number = path.read_bytes(), path.stat().st_ino

    with pytest.raises(ConversionError, match="--force"):
        savefmt.convert(path, path, save_version=version)
    told = savefmt.convert(path, path, save_version=version, overwrite=True, dry_run=True)
    assert path.read_bytes() == before
    report = savefmt.convert(path, path, save_version=version, overwrite=True)

    assert told.changes == report.changes
    assert report.changes[0] == f"save version {source} became {version}"
    after = path.read_bytes()
    assert after[92:] == before[92:]
    assert fields(after, order)["version"] == version
    assert (path.stat().st_ino, path.stat().st_mode & 0o777) == (number, 0o640)
    fresh = tmp_path / "fresh"
    savefmt.convert(path, fresh, save_version=version)
    assert fresh.read_bytes()[:92] == after[:92]


def test_in_place_without_a_change(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(mapped(3, "little"))
    written = path.stat().st_mtime_ns

    report = savefmt.convert(path, path, save_version=3)

    assert (report.changes, report.written, report.dry_run) == ((), False, False)
    assert path.stat().st_mtime_ns == written


def test_in_place_there_is_nothing_to_verify(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(mapped(2, "little"))
    before = path.read_bytes()

    with pytest.raises(ConversionError, match="in place"):
        savefmt.convert(path, path, overwrite=True, save_version=3, verify=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "options",
    [
        {"layout": Layout.SEQUENTIAL},
        {"bare": True},
        {"codec": "zstd", "save_version": 3},
        {"codec": "zstd", "verify": True},
    ],
)
def test_whatever_else_takes_the_place_of_the_source(
    options: dict[str, Any], tmp_path: Path
) -> None:
    path, other = tmp_path / "image", tmp_path / "other"
    path.write_bytes(mapped(2, "little"))
    path.chmod(0o640)
    before = path.read_bytes()

    with pytest.raises(ConversionError, match="--force"):
        savefmt.convert(path, path, **options)
    savefmt.convert(path, path, overwrite=True, dry_run=True, **options)
    assert path.read_bytes() == before
    savefmt.convert(path, other, **options)
    report = savefmt.convert(path, path, overwrite=True, **options)

    assert path.read_bytes() == other.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o640
    assert report.target_length == path.stat().st_size
    assert sorted(os.listdir(tmp_path)) == ["image", "other"]


def test_the_report_tells_a_change_of_version(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(sequential(1, "little"))

    report = savefmt.convert(tmp_path / "source", tmp_path / "target", codec="zstd")

    assert report.version == 2
    assert report.changes == ("save version 1 became 2",)


def test_spare_words_survive(tmp_path: Path) -> None:
    data = sequential(2, "little", unused=bytes(8) + b"vendor" + bytes(42))

    after = convert(tmp_path, data, layout=Layout.MAPPED_RAM)

    assert after.envelope[36:92] == data[36:92]


def test_padding_that_is_not_zero_survives(tmp_path: Path) -> None:
    envelope = bytearray(make_envelope(cookie=COOKIE, padding=100))
    envelope[-50:] = b"leftovers of a longer XML".ljust(50, b"\xff")

    after = convert(tmp_path, bytes(envelope) + make_stream(), codec="gzip")

    assert after.envelope[92:] == envelope[92:]


@pytest.mark.parametrize("padding", [0, 1, 65536, 200_000])
def test_any_length_of_data(padding: int, tmp_path: Path) -> None:
    data = make_envelope(padding=padding, order="big") + make_stream()

    sparse = convert(tmp_path, data, layout=Layout.MAPPED_RAM)
    assert sparse.envelope[:28] + bytes(4) + sparse.envelope[32:] == data[: len(sparse.envelope)]

    (tmp_path / "target").rename(tmp_path / "between")
    savefmt.convert(tmp_path / "between", tmp_path / "back", layout=Layout.SEQUENTIAL)
    assert (
        hold(tmp_path / "back").envelope
        == sparse.envelope[:28] + bytes(4) + data[32 : len(sparse.envelope)]
    )


# Bare.


@pytest.mark.parametrize("source", [sequential(2, "little", "xz"), mapped(2, "little")])
def test_bare_leaves_the_envelope_out(source: bytes, tmp_path: Path) -> None:
    (tmp_path / "original").write_bytes(source)
    before = hold(tmp_path / "original")

    for layout in Layout:
        after = convert(tmp_path, source, bare=True, layout=layout, codec="raw")
        assert after.envelope == b""
        assert after.stream.startswith(b"QEVM")
        assert_same_guest(before.image, after.image)
    report = savefmt.convert(tmp_path / "source", tmp_path / "again", bare=True)
    assert report.version is None
    assert report.changes == ("envelope, domain XML and cookie dropped",)


def test_a_bare_stream_stays_bare(tmp_path: Path) -> None:
    after = convert(tmp_path, make_stream(), layout=Layout.MAPPED_RAM)
    assert after.stream == make_stream(layout="mapped-ram")

    with pytest.raises(ConversionError, match="without domain XML"):
        convert(tmp_path, make_stream(), save_version=2)


# Mislabelled, unfinished.


@pytest.mark.parametrize(
    ("label", "layout"), [(6, "sequential"), (0, "mapped-ram")], ids=["sparse", "raw"]
)
@pytest.mark.parametrize("target", Layout)
def test_a_wrong_label_is_put_right(
    label: int, layout: str, target: Layout, tmp_path: Path
) -> None:
    prefix = make_envelope(format=label)
    (tmp_path / "source").write_bytes(make_stream(layout=layout, prefix=prefix))

    report = savefmt.convert(tmp_path / "source", tmp_path / "target", layout=target)

    after = hold(tmp_path / "target")
    right = 6 if target is Layout.MAPPED_RAM else 0
    assert after.envelope == prefix[:28] + right.to_bytes(4, "little") + prefix[32:]
    assert after.image.layout == target
    assert "the envelope named the wrong layout" in report.changes[0]


def test_a_wrong_feature_bit_is_put_right(tmp_path: Path) -> None:
    prefix = make_envelope(version=3, unused=(1).to_bytes(4, "little") + bytes(52))

    after = convert(tmp_path, prefix + make_stream())

    assert fields(after.envelope)["features"] == 0
    assert after.image.layout == "sequential"


def test_an_unfinished_image_is_refused(tmp_path: Path) -> None:
    data = make_envelope(magic=b"LibvirtQemudPart") + make_stream()

    with pytest.raises(IncompleteImageError, match="never finished") as caught:
        convert(tmp_path, data)

    assert caught.value.path == tmp_path / "source"
    assert caught.value.offset == 0
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (make_envelope(version=4) + make_stream(), "unknown image version 4"),
        (make_envelope(format=7) + make_stream(), "unknown stream format 7"),
        (
            make_envelope(version=3, unused=b"\2" + bytes(55)) + make_stream(),
            "unknown feature bit 1",
        ),
    ],
)
def test_envelopes_from_the_future(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=message):
        convert(tmp_path, data)


# Options that exclude each other.

SPARSE = {"layout": Layout.MAPPED_RAM}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({**SPARSE, "codec": "zstd"}, "fixed places and cannot be compressed"),
    ({**SPARSE, "save_version": 1}, "save version 1 cannot hold the sparse layout"),
    ({"codec": "gzip", "save_version": 1}, "save version 1 cannot hold a compressed stream"),
    ({"save_version": 4}, "save version 4 does not exist"),
    ({"bare": True, "save_version": 2}, "a bare stream has no save version"),
    ({"codec": "null", "verify": True}, "only a file can be read back"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_refused_before_the_source_is_looked_at(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConversionError, match=message):
        savefmt.convert(tmp_path / "missing", tmp_path / "target", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SPARSE, "sparse output needs a file"),
        ({}, "the result would be sparse, which needs a file"),
        ({"codec": "raw", "verify": True}, "only a file can be read back"),
    ],
)
def test_refused_for_a_pipe(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(mapped(2, "little"))

    with pytest.raises(ConversionError, match=message):
        savefmt.convert(tmp_path / "source", "-", **options)


def test_an_unknown_codec_is_refused(tmp_path: Path) -> None:
    with pytest.raises(savefmt.SavefmtError, match="brotli"):
        savefmt.convert(tmp_path / "missing", tmp_path / "target", codec="brotli")


# Without writing.


@pytest.mark.parametrize("source", [sequential(2, "little", "zstd"), mapped(2, "little")])
def test_null_reads_all_and_writes_nothing(source: bytes, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(source)

    report = savefmt.convert(tmp_path / "source", tmp_path / "target", codec="null")

    assert report.data_pages == 5
    assert report.target_length == 0
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("layout", Layout)
def test_a_dry_run_writes_nothing(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(sequential(1, "big"))

    report = savefmt.convert(tmp_path / "source", tmp_path / "target", layout=layout, dry_run=True)

    assert report.dry_run
    assert report.target_layout is layout
    assert report.version == (2 if layout is Layout.MAPPED_RAM else 1)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
