"""Laws of repair: the very bytes come back, or nothing changes; a cut save stays unfinished."""

from __future__ import annotations

import tempfile
from pathlib import Path

from builder import make_envelope, make_stream
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracle import CODECS, compress

import savefmt
from savefmt import CheckLevel, SavefmtError

FEW = settings(max_examples=max(settings().max_examples // 2, 20))
"""Each example opens an image several times."""

PART = b"LibvirtQemudPart"
STREAM = make_stream()
DESCRIPTION = len(STREAM) - STREAM.rindex(b"\x06", 0, STREAM.rindex(b'{"configuration"'))


def build(form: str, cookie: bytes | None, padding: int) -> bytes:
    number = [*CODECS, "sparse"].index(form)
    prefix = make_envelope(format=number, cookie=cookie, padding=padding)
    if form == "sparse":
        return make_stream(layout="mapped-ram", prefix=prefix)
    return prefix + (STREAM if form == "raw" else compress(form, STREAM))


IMAGES = st.builds(
    build,
    st.sampled_from([*CODECS, "sparse"]),
    st.sampled_from([None, b"<cookie/>", b"<cookie>\n  <cpu/>\n</cookie>\n"]),
    st.sampled_from([0, 1, 1024, 70_000]),
)
WORDS = st.none() | st.integers(0, 0xFFFF_FFFF) | st.integers(0, 3000)


@st.composite
def damaged_headers(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draw a sound image, and one of which the header lies."""
    sound = draw(IMAGES)
    head = bytearray(sound[:92])
    if draw(st.booleans()):
        head[:16] = PART
    for offset in (20, 28, 32):
        if (word := draw(WORDS)) is not None:
            head[offset : offset + 4] = word.to_bytes(4, "little")
    return sound, bytes(head) + sound[92:]


def repair_all(data: bytes) -> bytes:
    """Make all repairs that are offered, and return the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image")
        path.write_bytes(data)
        try:
            savefmt.repair(path, fixes=["all"])
        except SavefmtError:
            assert path.read_bytes() == data
        else:
            assert not savefmt.repair(path).offers
        return path.read_bytes()


@FEW
@given(images=damaged_headers(), behind=st.sampled_from([b"", bytes(700), b"an older save" * 50]))
def test_the_very_bytes_come_back(images: tuple[bytes, bytes], behind: bytes) -> None:
    sound, damaged = images

    assert repair_all(damaged + behind) == sound


@FEW
@given(images=damaged_headers(), cut=st.integers(1, 3000) | st.integers(1, 40))
def test_a_cut_save_is_never_finished(images: tuple[bytes, bytes], cut: int) -> None:
    sound, damaged = images
    assume(cut != DESCRIPTION)  # QEMU needs none

    found = repair_all(damaged[:-cut])

    assert found[:16] == damaged[:16]
    assert found in (damaged[:-cut], damaged[:16] + sound[16:-cut])


@FEW
@given(data=st.data())
def test_any_byte_of_the_header(data: st.DataObject) -> None:
    """A wrong byte anywhere is put right, told, or without meaning; nothing else changes."""
    sound = data.draw(IMAGES)
    place, value = data.draw(st.integers(0, 91)), data.draw(st.integers(0, 255))
    damaged = sound[:place] + bytes([value]) + sound[place + 1 :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image")
        path.write_bytes(damaged)
        try:
            savefmt.repair(path, fixes=["all"])
            told = savefmt.check(path, level=CheckLevel.FULL).findings
        except SavefmtError:
            assert path.read_bytes() == damaged
            return
        found = path.read_bytes()
        assert found in (sound, damaged)
        if found != sound:
            assert told or place in range(24, 28)  # whether it is to run
