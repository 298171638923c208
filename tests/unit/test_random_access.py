"""Reading here and there in compressed images, without copies, and from many threads."""

from __future__ import annotations

import io
import lzma
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from builder import MIB, PAGE_SIZE, Record, all_records, make_envelope, make_stream, page
from oracle import CODECS, compress

import savefmt
from savefmt import CorruptError, ImageIOError, IOOptions
from savefmt.codec.registry import find_codec
from savefmt.codec.segments import Segments
from savefmt.codec.zstd import _zstd
from savefmt.progress import Meter
from savefmt.reading.memory import GuestMemory
from savefmt.reading.pages import PageStore, SparsePages, UnpackedPages
from savefmt.reading.unpacked import PlainReader, SegmentReader, open_plain

PAGES = 2000
DICE = random.Random(1)


def content_of(number: int) -> bytes:
    """Noise, zeros and what compresses well."""
    if number % 7 == 0:
        return DICE.randbytes(PAGE_SIZE)
    return bytes(PAGE_SIZE) if number % 7 > 4 else b"%08d" % number * (PAGE_SIZE // 8)


CONTENT = b"".join(map(content_of, range(PAGES)))
BLOCKS = {"pc.ram": CONTENT, "pc.rom": bytes(PAGE_SIZE) + b"rom!" * (PAGE_SIZE // 4)}
IO = IOOptions(threads=2, window=MIB)


def stream() -> bytes:
    return make_stream(blocks=BLOCKS)


def by_our_writer(codec: str) -> bytes:
    """As `savefmt convert` writes it: members of some MiB."""
    out = io.BytesIO()
    writer = find_codec(codec).open_writer(lambda data: void(out.write(data)), threads=1)
    writer.write(stream())
    writer.close()
    return out.getvalue()


def void(_: object) -> None:
    pass


def one_frame(data: bytes) -> bytes:
    """As zstd writes what comes through a pipe: a frame that does not tell its length."""
    compressor = _zstd().ZstdCompressor(level=1)
    packed: bytes = compressor.compress(data) + compressor.flush()
    return packed


def blocks_of_xz() -> bytes:
    """As xz writes with threads: one stream of several blocks."""
    if shutil.which("xz") is None:
        pytest.skip("no xz here")
    done = subprocess.run(
        ["xz", "-1", "-T2", "--block-size=1MiB", "-c"],
        input=stream(),
        capture_output=True,
        check=True,
    )
    return done.stdout


SEEKABLE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "zstd frames": ("zstd", lambda: by_our_writer("zstd")),
    "xz streams": ("xz", lambda: by_our_writer("xz")),
    "xz blocks": ("xz", blocks_of_xz),
    "lzop": ("lzop", lambda: compress("lzop", stream())),
    "gzip": ("gzip", lambda: compress("gzip", stream())),
    "gzip members": ("gzip", lambda: by_our_writer("gzip")),
    "bzip2": ("bzip2", lambda: compress("bzip2", stream())),
    "bzip2 streams": ("bzip2", lambda: by_our_writer("bzip2")),
}


@pytest.fixture
def no_spool(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the image was unpacked to a file")

    monkeypatch.setattr(GuestMemory, "_spool", fail)


def make(folder: Path, codec: str, packed: bytes) -> Path:
    path = folder / "image"
    path.write_bytes(make_envelope(format=CODECS.index(codec)) + packed)
    return path


def store(image: savefmt.SaveImage) -> PageStore:
    return image.memory.prepare(Meter(None))


def reader(image: savefmt.SaveImage) -> PlainReader:
    pages = store(image)
    assert isinstance(pages, UnpackedPages)
    return pages._plain


def check_reads(memory: GuestMemory, seed: int, turns: int = 40) -> None:
    dice = random.Random(seed)
    for _ in range(turns):
        name = dice.choice(["pc.ram", "pc.ram", "pc.rom"])
        content = BLOCKS[name]
        offset = dice.randrange(len(content))
        length = min(dice.choice([1, 100, PAGE_SIZE, 40 * PAGE_SIZE, MIB]), len(content) - offset)
        assert memory.read(name, offset, length) == content[offset : offset + length]


@pytest.mark.usefixtures("no_spool")
@pytest.mark.parametrize("form", SEEKABLE)
def test_compressed_images_are_read_here_and_there(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    codec, pack = SEEKABLE[form]
    path = make(tmp_path, codec, pack())
    for _ in range(2):  # made, then kept
        with savefmt.open(path, io=IO, index=tmp_path / "index") as image:
            check_reads(image.memory, 1)
            assert image.memory.read("pc.ram", 0, len(CONTENT)) == CONTENT


@pytest.mark.parametrize("codec", ["gzip", "bzip2", "zstd"])
def test_an_image_that_nobody_closes(codec: str, tmp_path: Path) -> None:
    """The libraries' threads must not end the process in anger."""
    path = make(tmp_path, codec, compress(codec, stream()))
    code = (
        f"import savefmt; i = savefmt.open({str(path)!r}); print(i.memory.read('pc.rom', 4096, 4))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "b'rom!'\n", "")


@pytest.mark.parametrize("codec", ["zstd", "xz", "gzip", "bzip2", "raw", "lzop", "sparse"])
def test_any_thread_may_read(codec: str, tmp_path: Path) -> None:
    if codec == "sparse":
        path = tmp_path / "image"
        path.write_bytes(make_stream(blocks=BLOCKS, layout="mapped-ram"))
    else:
        packed = stream() if codec == "raw" else compress(codec, stream())
        path = make(tmp_path, codec, packed)
    with savefmt.open(path, io=IO) as image, ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(lambda n: check_reads(image.memory, n, 20), n) for n in range(8)]:
            done.result()


def test_neighbours_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with savefmt.open(make(tmp_path, "zstd", by_our_writer("zstd")), io=IO) as image:
        reads = []
        plain = reader(image)

        def read(length: int, offset: int) -> bytes:
            reads.append(offset)
            return plain.read(length, offset)

        monkeypatch.setattr(store(image), "_plain", SimpleNamespace(read=read))

        for at in range(0, 2 * PAGE_SIZE, 8):
            assert image.memory.read("pc.ram", at, 8) == CONTENT[at : at + 8]
        assert len(reads) == 2
        for first in (0, 3, 0):  # another page comes between
            at = first * PAGE_SIZE
            assert image.memory.read("pc.ram", at, 8) == CONTENT[at : at + 8]
        large = image.memory.read("pc.ram", 0, 40 * PAGE_SIZE)
        assert large == CONTENT[: 40 * PAGE_SIZE]


def test_one_frame_is_spooled(tmp_path: Path) -> None:
    """What cannot be entered midway; the frame does not even tell its length."""
    with savefmt.open(make(tmp_path, "zstd", one_frame(stream())), io=IO) as image:
        check_reads(image.memory, 3)
        assert isinstance(store(image), SparsePages)


def test_without_the_extra_gzip_is_spooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("savefmt.reading.unpacked.find_spec", lambda _: None)
    with savefmt.open(make(tmp_path, "gzip", compress("gzip", stream())), io=IO) as image:
        check_reads(image.memory, 4)
        assert isinstance(store(image), SparsePages)


@pytest.mark.parametrize("codec", ["zstd", "gzip", "bzip2", "xz"])
def test_members_come_through_a_pipe(codec: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "savefmt", "-q", "convert", "-T", "2", "-", str(out)]
    subprocess.run([*command, "-O", "raw", "--bare"], input=by_our_writer(codec), check=True)

    assert out.read_bytes() == stream()


@pytest.mark.usefixtures("no_spool")
def test_gzip_members_that_tell_their_length_need_no_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("savefmt.reading.unpacked.find_spec", lambda _: None)
    with savefmt.open(make(tmp_path, "gzip", by_our_writer("gzip")), io=IO) as image:
        check_reads(image.memory, 4)
        assert isinstance(reader(image), SegmentReader)


def test_deltas_are_spooled(tmp_path: Path) -> None:
    first = page(7)
    rounds = [[Record("pc.ram", 0, first)], all_records(BLOCKS)]
    rounds.append([Record("pc.ram", 0, delta=b"\0\4test")])
    path = make(tmp_path, "zstd", compress("zstd", make_stream(blocks=BLOCKS, rounds=rounds)))
    with savefmt.open(path, io=IO) as image:
        assert image.memory.read("pc.ram", 0, 6) == b"test" + CONTENT[4:6]


def test_no_room_is_said_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        f_bavail, f_frsize = 1, 4096

    monkeypatch.setattr("savefmt.reading.memory.os.statvfs", lambda _: Full)
    with savefmt.open(make(tmp_path, "zstd", one_frame(stream())), io=IO) as image:
        with pytest.raises(ImageIOError, match="TMPDIR") as caught:
            image.memory.read("pc.ram", 0, 1)
        assert caught.value.path == tempfile.gettempdir()


# --- segments ---


def find(codec: str, data: bytes) -> Segments | None:
    return find_codec(codec).find_segments(lambda length, at: data[at : at + length], 0, len(data))


@pytest.mark.parametrize("form", [form for form in SEEKABLE if form[0] in "zxl"])
def test_segments_hold_all(form: str) -> None:
    codec, pack = SEEKABLE[form]
    data = pack()
    segments = find(codec, data)
    assert segments is not None
    assert len(segments) > 1

    def read(length: int, at: int) -> bytes:
        return data[at : at + length]

    whole = b"".join(segments.unpack(read, number) for number in range(len(segments)))
    assert whole == stream()


@pytest.mark.parametrize("form", [form for form in SEEKABLE if form[0] in "zxl"])
def test_damage_is_an_error_or_no_segments(form: str) -> None:
    codec, pack = SEEKABLE[form]
    good = pack()
    dice = random.Random(9)
    for turn in range(120):
        data = bytearray(good)
        if turn % 3:
            data[dice.randrange(len(data) if turn % 2 else 200)] ^= 1 << dice.randrange(8)
        else:
            del data[dice.randrange(len(data)) :]
        segments = find(codec, bytes(data))
        if segments is None:
            continue

        def read(length: int, at: int, data: bytearray = data) -> bytes:
            return bytes(data[at : at + length])

        try:
            parts = [segments.unpack(read, number) for number in range(len(segments))]
        except savefmt.SavefmtError:
            continue
        if codec != "lzop":  # ours here has no checksums
            assert b"".join(parts) == stream()  # the bit meant nothing


def test_a_lying_frame_is_no_bomb() -> None:
    """A frame that unfolds to more than it tells is left after that."""
    bomb = bytearray(compress("zstd", bytes(8 * MIB)))
    segments = Segments("zstd", find_codec("zstd")._unpack_segment)
    segments.add(0, len(bomb), 1000)

    with pytest.raises(CorruptError, match="not have the length"):
        segments.unpack(lambda length, at: bytes(bomb[at : at + length]), 0)


@pytest.mark.parametrize("form", ["zstd frames", "lzop", "gzip members"])
@pytest.mark.parametrize("tail", [b"x", bytes(5000), b"older bytes" * 999])
def test_segments_end_where_the_codec_does(form: str, tail: bytes) -> None:
    codec, pack = SEEKABLE[form]
    segments = find(codec, pack() + tail)

    assert segments is not None
    assert segments.plain[-1] == len(stream())


def test_xz_that_lies() -> None:
    data = lzma.compress(bytes(MIB))
    segments = find("xz", data)
    assert segments is not None
    for wrong in (MIB - 1, MIB + 1, 0):
        segments.plain[1] = wrong
        with pytest.raises(CorruptError):
            segments.unpack(lambda length, at: data[at : at + length], 0)


def test_the_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("savefmt.reading.unpacked._CACHE_LENGTH", 3 * MIB)
    path = make(tmp_path, "lzop", compress("lzop", stream()))
    with savefmt.open(path, io=IO) as image:
        check_reads(image.memory, 5)
        plain = reader(image)
        assert isinstance(plain, SegmentReader)
        assert 0 < plain.cache.length <= 3 * MIB
        assert plain.cache.length == sum(map(len, plain.cache._kept.values()))


@pytest.mark.parametrize("codec", ["gzip", "bzip2", "zstd"])
def test_reading_behind_the_end(codec: str, tmp_path: Path) -> None:
    path = make(tmp_path, codec, by_our_writer(codec))
    with savefmt.open(path, io=IO) as image:
        opener = open_plain(image.packing, image.file, image.stored_offset)
        assert opener is not None
        plain = opener(len(stream()), lambda: None)
        assert plain.read(4, 0) == b"QEVM"
        with pytest.raises(savefmt.SavefmtError):
            plain.read(100, len(stream()) - 50)


# --- views ---


@pytest.mark.parametrize("form", ["sparse", "raw", "zstd"])
def test_views_show_what_reads_give(form: str, tmp_path: Path) -> None:
    layout = "mapped-ram" if form == "sparse" else "sequential"
    data = make_stream(blocks=BLOCKS, layout=layout)
    path = tmp_path / "image"
    if form == "zstd":
        data = one_frame(data)
    path.write_bytes(data)
    with savefmt.open(path, io=IO) as image:
        for offset, length in [(0, 4 * PAGE_SIZE), (5, 9), (0, 9 * PAGE_SIZE), (0, 0)]:
            view = image.memory.view("pc.ram", offset, length)
            assert view.readonly
            assert view == CONTENT[offset : offset + length]
        with pytest.raises(ValueError, match="leave the block"):
            image.memory.view("pc.ram", len(CONTENT), 1)
        kept = image.memory.view("pc.ram", 0, PAGE_SIZE)
    assert kept == CONTENT[:PAGE_SIZE]  # it outlives the image


@pytest.mark.parametrize("form", ["sparse", "raw", "zstd"])
def test_memory_goes_where_it_is_wanted(form: str, tmp_path: Path) -> None:
    layout = "mapped-ram" if form == "sparse" else "sequential"
    data = make_stream(blocks=BLOCKS, layout=layout)
    path = tmp_path / "image"
    path.write_bytes(one_frame(data) if form == "zstd" else data)
    with savefmt.open(path, io=IO) as image:
        for offset, length in [(0, 9 * PAGE_SIZE), (PAGE_SIZE, PAGE_SIZE), (5, 9), (4000, 9000)]:
            room = memoryview(bytearray(b"\xaa" * (length + 2)))  # a byte before, one behind
            image.memory.read_into("pc.ram", offset, room[1:-1])
            assert room[1:-1] == CONTENT[offset : offset + length]
            assert (room[0], room[-1]) == (0xAA, 0xAA)
        image.memory.read_into("pc.ram", 0, memoryview(bytearray()))
        whole = memoryview(bytearray(PAGE_SIZE))
        with pytest.raises(ValueError, match="leave the block"):
            image.memory.read_into("pc.ram", len(CONTENT) - 1, whole)
        with pytest.raises((ValueError, TypeError, BufferError)):
            image.memory.read_into("pc.ram", 0, whole.toreadonly())
        store = image.memory.prepare(Meter(None))
        with pytest.raises(ValueError, match="part of a page"):
            store.read_into(0, 0, whole[1:])
        with pytest.raises(ValueError, match="beyond the block"):
            store.read_into(0, PAGES, whole)


def test_views_of_whole_pages_copy_nothing(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(make_stream(blocks=BLOCKS, layout="mapped-ram"))
    with savefmt.open(path, io=IO) as image:
        one, other = (image.memory.view("pc.ram", at, 3 * PAGE_SIZE) for at in (5, 6))
        assert one.obj is other.obj  # the map of the file
        assert isinstance(image.memory.view("pc.ram", 5, 5 * PAGE_SIZE).obj, bytes)


def test_stale_bytes_are_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(make_stream(layout="mapped-ram", stale={("pc.ram", 1): page(9)}))
    with savefmt.open(path, io=IO) as image:
        assert image.memory.view("pc.ram", PAGE_SIZE, PAGE_SIZE) == bytes(PAGE_SIZE)


def test_numpy_takes_views_as_they_are(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    path = tmp_path / "image"
    path.write_bytes(make_stream(blocks=BLOCKS, layout="mapped-ram"))
    with savefmt.open(path, io=IO) as image:
        words = numpy.frombuffer(image.memory.view("pc.ram", 0, PAGE_SIZE), "<u8")
        assert not words.flags.owndata
        assert words.tobytes() == CONTENT[:PAGE_SIZE]


def test_light_imports() -> None:
    """`savefmt info` pays for none of this."""
    code = "import savefmt.cli.commands.info, sys; print([m for m in sys.modules if 'index' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "savefmt" not in done.stdout
