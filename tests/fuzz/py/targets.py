"""What takes bytes from strangers in Python, a function each: only a `SavefmtError` may leave."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import savefmt
from savefmt.bench.baseline import load_baseline
from savefmt.cli.inputs import lines_of
from savefmt.cli.render import check, devices, info, memmap, regs
from savefmt.codec.registry import CODECS
from savefmt.compat.config import load
from savefmt.compat.traits import examine
from savefmt.compat.verdict import compatibility
from savefmt.convert.pipeimage import PipeImage
from savefmt.errors import SavefmtError
from savefmt.export.vmcoreinfo import find_in
from savefmt.format.abi import running_abi_changes
from savefmt.format.cursor import ChunkCursor
from savefmt.format.devicetree import decode, decode_start, read_entries
from savefmt.format.domain import check_document, parse_domain
from savefmt.format.envelope import HEADER_LENGTH, Envelope
from savefmt.format.fixedlayouts import find_entry
from savefmt.format.thin import ThinMark
from savefmt.format.vmstate import Description
from savefmt.image import SaveImage
from savefmt.instant.backends import mappable
from savefmt.instant.warming import read_order
from savefmt.model import IOOptions
from savefmt.reading import indexfile
from savefmt.reading.trueheader import find_true_header
from savefmt.scan.hashes import Manifest
from savefmt.scan.patterns import escaped, hexadecimal, regex

Target = Callable[[bytes], None]

MOST = 1 << 18
"""Plain bytes that a target takes of a bomb before it lets go."""
_ONE_THREAD = IOOptions(threads=1, direct=False, engine="psync")


@contextmanager
def file_of(data: bytes) -> Iterator[str]:
    """Keep bytes in a nameless file, and yield a path to it."""
    fd = os.memfd_create("fuzz")
    try:
        os.write(fd, data)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def envelope(data: bytes) -> None:
    """Libvirt's header, and what it should say."""
    right = find_true_header(lambda count, at: data[at : at + count], len(data))
    if right is not None:
        assert len(right.data) == HEADER_LENGTH
        assert right.findings
        Envelope.read(ChunkCursor(iter([right.data, data[HEADER_LENGTH:]]), 0))
    cursor = ChunkCursor(iter([data]), 0)
    found = Envelope.read(cursor, [])
    assert Envelope.read(ChunkCursor(iter([found.pack()]), 0)).data == found.data


def description(data: bytes) -> None:
    """The vmdescription, what it says of devices, and the mark of thin images in it."""
    found = Description.parse(data, 0)
    ThinMark.find(found)
    for entry in islice(read_entries(found).values(), 64):
        for payload in (b"", bytes(64), data[:4096]):
            with contextlib.suppress(SavefmtError):
                decode(entry, payload)
            with contextlib.suppress(SavefmtError):
                decode_start(entry, payload)


def device(data: bytes) -> None:
    """A device's state, by layouts that never change and by random ones."""
    name, _, payload = data.partition(b"\0")
    idstr = name.decode("utf-8", "surrogateescape")
    entry = find_entry(idstr, None, payload)
    if entry is None:
        entry = _entry(random.Random(name), 3)
    decode(entry, payload)


_SCALARS = ("uint8", "uint16", "uint32", "uint64", "int32", "bool", "buffer", "timer", "unused")


def _entry(chance: random.Random, depth: int) -> dict[str, Any]:
    fields: list[dict[str, Any]] = []
    for number in range(chance.randrange(5)):
        size = chance.choice((0, 1, 2, 4, 8, 1 << 20, 1 << 62))
        field: dict[str, Any] = {
            "name": f"f{number}",
            "type": chance.choice(_SCALARS),
            "size": size,
        }
        if chance.random() < 0.3:
            field["array_len"] = chance.choice((0, 1, 3, 1 << 30))
        if depth and chance.random() < 0.3:
            field |= {"type": "struct", "struct": _entry(chance, depth - 1)}
        fields.append(field)
    return {"name": "x", "vmsd_name": "x", "version": 1, "fields": fields}


def domain(data: bytes) -> None:
    """The domain XML and the cookie."""
    with contextlib.suppress(SavefmtError):
        check_document(data, "cookie")
    parse_domain(data)
    running_abi_changes(data, data)
    running_abi_changes(b"<domain type='kvm'><name>x</name></domain>", data)


def settings(data: bytes) -> None:
    """A configuration file, and as text an environment."""
    words = data.decode("utf-8", "surrogateescape").replace("\0", "").split("\n")
    environment = dict(line.split("=", 1) for line in words if "=" in line)
    with contextlib.suppress(SavefmtError):
        load({**environment, "SAVEFMT_CONFIG": ""}, system_file=Path("/dev/null"))
    with file_of(data) as path:
        load({"SAVEFMT_CONFIG": path})


def manifest(data: bytes) -> None:
    """Hashes that were printed earlier."""
    with file_of(data) as path, lines_of(path) as lines, contextlib.suppress(ValueError):
        found = Manifest(lines)
        found.take("memory")
        found.take("block:pc.ram")
        for _ in islice(found.rest(), 10_000):
            pass


def baseline(data: bytes) -> None:
    """A report of `savefmt bench`."""
    with file_of(data) as path:
        load_baseline(path)


def index(data: bytes) -> None:
    """A file that says where pages lie: of the right image, with the right digest."""
    head = indexfile._HEAD
    _, _, length, changed_at, digest, *_ = head.unpack_from(data.ljust(head.size, b"\0"))
    identity = indexfile.Identity(length, changed_at, digest)
    with image_of(_SAMPLE) as image:
        blocks, key = image.head.blocks, bytes(32)
        for whole in (data, data + hashlib.blake2b(data, key=key, digest_size=32).digest()):
            with file_of(whole) as path:
                indexfile.load_index(Path(path), key, identity, blocks.blocks, blocks.page_size, 0)


def order(data: bytes) -> None:
    """A list of pages to read ahead."""
    with file_of(data) as path, image_of(_SAMPLE) as image:
        with contextlib.suppress(SavefmtError):
            read_order(path, mappable(image))
        read_order(path, ())


def notes(data: bytes) -> None:
    """VMCOREINFO in guest memory."""
    for found in find_in([(0, data)], 4096):
        assert len(found.text) <= len(data)


def words(data: bytes) -> None:
    """What one looks for; a `ValueError` is a usage error."""
    text = data.decode("utf-8", "surrogateescape")
    for parse in (hexadecimal, escaped, regex):
        with contextlib.suppress(ValueError):
            parse(text)


def codec(data: bytes, name: str) -> None:
    """Compressed members, whole and in small pieces."""
    for step in (len(data) or 1, 7):
        pieces = (data[at : at + step] for at in range(0, len(data), step))
        reader = CODECS[name].open_reader(pieces, offset=0, length=len(data))
        total = 0
        try:
            for piece in reader:
                total += len(piece)
                if total > MOST:
                    break
        finally:
            reader.close()  # type: ignore[attr-defined]


@contextmanager
def image_of(data: bytes, **options: Any) -> Iterator[SaveImage]:
    """Open bytes as an image."""
    with file_of(data) as path, SaveImage(path, io=_ONE_THREAD, **options) as image:
        yield image


def image(data: bytes) -> None:
    """A whole file, by what `info`, `check`, `map`, `memmap`, `devices` and `regs` do."""
    with contextlib.suppress(SavefmtError), image_of(data, strict=False) as opened:
        looks: tuple[Callable[[], object], ...] = (
            lambda: list(info.summary_lines(opened.summary(), verbose=True)),
            lambda: list(islice(opened.extents(), 10_000)),
            lambda: list(memmap.map_lines(opened.guest.physical.map)),
            lambda: list(regs.all_lines(opened.guest.cpus)),
            lambda: _devices(opened),
            lambda: examine(opened, io=_ONE_THREAD),
        )
        for look in looks:
            with contextlib.suppress(SavefmtError):
                look()
    with file_of(data) as path:
        for level in ("quick", "full"):
            with contextlib.suppress(SavefmtError):
                report = savefmt.check(path, level=level, io=_ONE_THREAD)  # type: ignore[arg-type]
                list(check.check_lines(report, verbose=True))
        compatibility(path, (), io=_ONE_THREAD)


def _devices(opened: SaveImage) -> None:
    found = opened.devices
    for section in islice(found.sections, 64):
        with contextlib.suppress(SavefmtError):
            tree = found.tree(section)
            list(devices.device_lines(section, tree, found.described(section), 64))
            json.dumps(devices.device_values(section, tree, found.described(section), 64))


def pipe(data: bytes) -> None:
    """A stream that can be read only once."""
    reader, writer = os.pipe()
    try:
        os.write(writer, data[: 32 << 10])
        os.close(writer)
        source = PipeImage(reader, "pipe")
        with source.stream(_ONE_THREAD) as cursor:
            for _ in range(64):
                cursor.read(1 << 10)
    finally:
        os.close(reader)


def _codec_target(name: str) -> Target:
    return lambda data: codec(data, name)


def _sample() -> bytes:
    from builder import make_envelope, make_stream

    return bytes(make_envelope() + make_stream())


_SAMPLE = _sample()

TARGETS: dict[str, Target] = {
    "baseline": baseline,
    "description": description,
    "device": device,
    "domain": domain,
    "envelope": envelope,
    "image": image,
    "index": index,
    "manifest": manifest,
    "notes": notes,
    "order": order,
    "pipe": pipe,
    "settings": settings,
    "words": words,
    **{name: _codec_target(name) for name in CODECS},
}

CORPUS = Path(__file__).parent / "corpus"


def seeds(name: str) -> list[bytes]:
    """Return the inputs that are kept for a target, the smallest first."""
    found = [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]
    return sorted(found, key=len) or [b""]


def run(name: str, data: bytes) -> None:
    """Run a target on bytes; what may come of bad ones is fine."""
    with contextlib.suppress(SavefmtError):
        TARGETS[name](data)


_TOKENS = re.compile(rb"[0-9]+|[A-Za-z_]+|.", re.DOTALL)
_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 63) - 1)


def changed(data: bytes, chance: random.Random) -> bytes:
    """Change bytes in a few of the ways that parsers trip over."""
    made = bytearray(data)
    for _ in range(chance.randrange(1, 5)):
        at, other = chance.randrange(len(made) + 1), chance.randrange(len(made) + 1)
        match chance.randrange(7):
            case 0 if made:
                made[at % len(made)] ^= 1 << chance.randrange(8)
            case 1:
                number, width = chance.choice(_INTERESTING), chance.choice((1, 2, 4, 8))
                order_ = chance.choice(("big", "little"))
                made[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, order_)  # type: ignore[arg-type]
            case 2:
                del made[min(at, other) : max(at, other)]
            case 3:
                made[at:at] = made[min(at, other) : max(at, other)][: 1 << 12]
            case 4:
                made[at:at] = bytes(chance.randrange(256) for _ in range(chance.randrange(9)))
            case 5:
                tokens = _TOKENS.findall(bytes(made[at : at + 256])) or [b""]
                made[other:other] = chance.choice(tokens) * chance.choice((1, 2, 100, 3000))
            case _:
                del made[at:]
    return bytes(made)
