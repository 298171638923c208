"""Device payloads are found in every form of an image, byte for byte."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builder import (
    DEFAULT_DEVICES,
    MIB,
    VIRTIO_MEM_EARLY,
    Device,
    Fields,
    Stream,
    make_envelope,
    make_stream,
    simple_device,
)
from oracle import compress

import savefmt
from savefmt import CorruptError, IOOptions, SaveImage, Section, TruncatedError, UnsupportedError
from savefmt.model import Progress
from savefmt.progress import Meter
from savefmt.reading import devices as devices_module

EARLY = {"early": (VIRTIO_MEM_EARLY,)}
FORMS: dict[str, Callable[..., bytes]] = {
    "raw": make_stream,
    "libvirt": lambda **options: make_envelope() + make_stream(prefix=b"", **options),
    "zstd": lambda **options: compress("zstd", make_stream(**options)),
    "libvirt xz": lambda **options: (
        make_envelope(format=3) + compress("xz", make_stream(prefix=b"", **options))
    ),
    "gzip": lambda **options: compress("gzip", make_stream(**options)),
    "sparse": lambda **options: make_stream(layout="mapped-ram", **options),
}


@contextmanager
def opened(folder: Path, data: bytes, **options: Any) -> Iterator[SaveImage]:
    (folder / "image").write_bytes(data)
    io = IOOptions(threads=2, window=MIB)
    with savefmt.open(folder / "image", io=io, **options) as image:
        yield image


def payloads(image: SaveImage) -> dict[tuple[str, int], bytes]:
    """Return every device's payload."""
    return {
        (s.idstr, s.instance_id): bytes(image.devices.payload(s)) for s in image.devices.sections
    }


def expected(*devices: Device) -> dict[tuple[str, int], bytes]:
    return {(d.idstr, d.instance_id): d.content.wire() for d in devices}


def touched(image: SaveImage) -> bool:
    """Whether the payloads had to be kept while the image was read."""
    return bool(image.devices._kept)


@pytest.mark.parametrize(
    "options", [{}, EARLY, {"footers": False}, {"ram_end": False, "switchover": False}]
)
@pytest.mark.parametrize("form", FORMS)
def test_every_form(form: str, options: dict[str, Any], tmp_path: Path) -> None:
    early = options.get("early", ())

    with opened(tmp_path, FORMS[form](**options)) as image:
        assert payloads(image) == expected(*early, *DEFAULT_DEVICES)
        assert touched(image) is (form == "gzip")
        assert image.devices.incomplete is None
        for section in image.devices.sections:
            assert image.devices.described(section)
            assert section.section_id is not None


def test_fields_have_names_and_types(tmp_path: Path) -> None:
    with opened(tmp_path, make_stream()) as image:
        section = image.devices.find("0000:00:02.0/virtio-rng")
        assert section is not None
        tree = image.devices.tree(section)

    assert tree.number("status") == 0x0F
    assert tree.data("virtio") == b"\x7e\0\0\0\x09" * 9
    assert tree.number("state") == 5


@pytest.mark.parametrize("form", ["raw", "sparse"])
def test_iterable_sections_are_not_devices(form: str, tmp_path: Path) -> None:
    with opened(tmp_path, FORMS[form](dirty_bitmaps=True)) as image:
        assert payloads(image) == expected(*DEFAULT_DEVICES)


def test_a_description_that_hides_a_device_is_not_believed(tmp_path: Path) -> None:
    """QEMU ignores the description, so a forged one must not hide what QEMU would load."""
    devices = (*DEFAULT_DEVICES, simple_device("last", b"abcd"))
    whole = make_stream(devices=devices)
    short = make_stream(devices=devices[1:])
    cut = whole[: whole.rindex(b"\x06\0\0", 0, whole.rindex(b'"page_size"'))]
    forged = cut + short[short.rindex(b"\x06\0\0", 0, short.rindex(b'"page_size"')) :]

    with opened(tmp_path, forged) as image:
        found = payloads(image)

        assert found == expected(*devices)
        timer = image.devices.find("timer")
        assert timer is not None
        assert not image.devices.described(timer)


@pytest.mark.parametrize("form", ["raw", "sparse"])
def test_without_description_footers_are_the_guess(form: str, tmp_path: Path) -> None:
    with opened(tmp_path, FORMS[form](description=False)) as image:
        found = payloads(image)

        assert list(found) == list(expected(*DEFAULT_DEVICES))
        assert found["timer", 0] == struct.pack(">QQQ", 1, 0, 2)
        assert {finding.code for finding in image.devices.findings} == {"stream.guessed-length"}
        section = image.devices.find("timer")
        assert section is not None
        assert image.devices.tree(section).number("cpu_clock_offset") == 2


def test_without_description_and_footers_it_ends_early(tmp_path: Path) -> None:
    data = make_stream(description=False, footers=False)

    with opened(tmp_path, data) as image:
        assert payloads(image) == {}
        assert "timer" in (image.devices.incomplete or "")


def test_trailing_data_hinders_nothing(tmp_path: Path) -> None:
    with opened(tmp_path, make_stream(trailing=b"\0" * 100)) as image:
        assert payloads(image) == expected(*DEFAULT_DEVICES)


def test_damage_is_told(tmp_path: Path) -> None:
    whole = make_stream()
    cut = whole[: whole.index(b"cpu_common") + 4]

    with opened(tmp_path, cut) as image, pytest.raises((TruncatedError, CorruptError)) as caught:
        _ = image.devices.sections
    assert caught.value.path == tmp_path / "image"


def test_a_section_that_contradicts_its_description(tmp_path: Path) -> None:
    content = Fields("odd", fields=[("x", "uint32", b"\0\0\0\1")])
    data = make_stream(devices=(Device("odd", content),))
    data = data.replace(b'"type": "uint32"', b'"type": "struct"').replace(
        b'"size": 4}', b'"size":4,"struct":{}}'.ljust(10)
    )
    length = len(data) - data.rindex(b"\x06\0\0", 0, data.rindex(b'"page_size"')) - 5
    at = len(data) - length - 4
    data = data[:at] + struct.pack(">I", length) + data[at + 4 :]

    with opened(tmp_path, data) as image:
        (section,) = image.devices.sections
        assert bytes(image.devices.payload(section)) == b"\0\0\0\1"
        with pytest.raises(
            CorruptError, match="section odd/0: the vmdescription accounts"
        ) as caught:
            image.devices.tree(section)
    assert caught.value.path == tmp_path / "image"


def test_no_such_section(tmp_path: Path) -> None:
    with opened(tmp_path, make_stream()) as image:
        assert image.devices.find("nothing") is None
        with pytest.raises(KeyError):
            image.devices.payload(Section("nothing", 0))


@pytest.mark.parametrize("form", FORMS)
def test_absurd_amounts_are_refused(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices_module, "MAX_DEVICE_STATE", 10)
    stream = replace(Stream(), devices=(simple_device("large", bytes(100)),))
    data = FORMS[form](devices=stream.devices)

    with opened(tmp_path, data) as image, pytest.raises(UnsupportedError, match="device state"):
        payloads(image)


def test_physical_reads_go_through_memory(tmp_path: Path) -> None:
    with opened(tmp_path, make_stream()) as image:
        assert image.guest.physical.read(0, 4096) == image.memory.read("pc.ram", 0, 4096)


def test_the_pass_over_a_compressed_image_can_be_watched(tmp_path: Path) -> None:
    seen: list[Progress] = []
    path = tmp_path / "image"
    path.write_bytes(FORMS["gzip"]())

    with savefmt.open(path) as image:
        image.devices.prepare(Meter(seen.append, image.length, "looking for devices"))
        watched = len(seen)
        assert image.devices.sections

    assert {progress.phase for progress in seen} == {"looking for devices"}
    assert seen[-1].done == seen[-1].total > 0
    assert len(seen) == watched  # all was done while it was watched
