"""Laws of repair: the very bytes come back, or nothing changes; a cut save stays unfinished."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from builder import make_envelope, make_stream
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from oracle import CODECS, compress

import savefmt
from savefmt import CheckLevel, SavefmtError

FEW = settings(max_examples=max(settings().max_examples // 2, 20))
"""Each example opens an image several times."""

FORMS = [*CODECS, "sparse"]
PART = b"LibvirtQemudPart"
STREAM = make_stream()
DESCRIPTION = len(STREAM) - STREAM.rindex(b"\x06", 0, STREAM.rindex(b'{"configuration"'))


@dataclass(frozen=True)
class Damaged:
    """An image of which the header may lie: what it says at its offsets, None for the truth."""

    form: str
    cookie: bytes | None
    padding: int
    unfinished: bool
    words: tuple[int | None, ...]

    def sound(self) -> bytes:
        number = FORMS.index(self.form)
        prefix = make_envelope(format=number, cookie=self.cookie, padding=self.padding)
        if self.form == "sparse":
            return make_stream(layout="mapped-ram", prefix=prefix)
        return prefix + (STREAM if self.form == "raw" else compress(self.form, STREAM))

    def build(self) -> bytes:
        data = bytearray(self.sound())
        if self.unfinished:
            data[:16] = PART
        for offset, word in zip((20, 28, 32), self.words, strict=True):
            if word is not None:
                data[offset : offset + 4] = word.to_bytes(4, "little")
        return bytes(data)


WORDS = st.none() | st.integers(0, 0xFFFF_FFFF) | st.integers(0, 3000)
IMAGES = st.builds(
    Damaged,
    st.sampled_from(FORMS),
    st.sampled_from([None, b"<cookie/>", b"<cookie>\n  <cpu/>\n</cookie>\n"]),
    st.sampled_from([0, 1, 1024, 70_000]),
    st.booleans(),
    st.tuples(WORDS, WORDS, WORDS),
)


def repair_all(data: bytes) -> bytes:
    """Make all repairs that are offered, and return the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image")
        path.write_bytes(data)
        try:
            offers = savefmt.repair(path).offers
            savefmt.repair(path, fixes=[offer.repair for offer in offers])
        except SavefmtError:
            assert path.read_bytes() == data
        else:
            assert not savefmt.repair(path).offers
        return path.read_bytes()


@FEW
@given(image=IMAGES, behind=st.sampled_from([b"", bytes(700), b"an older save" * 50]))
@example(image=Damaged("raw", b"<cookie/>", 1024, True, (None, None, 4)), behind=b"more")
@example(image=Damaged("sparse", None, 1, True, (3000, 1 << 31, 300)), behind=b"")
def test_the_very_bytes_come_back(image: Damaged, behind: bytes) -> None:
    assert repair_all(image.build() + behind) == image.sound()


@FEW
@given(image=IMAGES, cut=st.integers(1, 3000) | st.integers(1, 40))
def test_a_cut_save_is_never_finished(image: Damaged, cut: int) -> None:
    assume(cut != DESCRIPTION)  # QEMU needs none
    sound, damaged = image.sound(), image.build()
    length = max(len(sound) - cut, 92)

    found = repair_all(damaged[:length])

    assert found in (damaged[:length], damaged[:16] + sound[16:length])


@FEW
@given(image=IMAGES, place=st.integers(0, 91), value=st.integers(0, 255))
def test_any_byte_of_the_header(image: Damaged, place: int, value: int) -> None:
    """A wrong byte anywhere is put right, told, or without meaning; nothing else changes."""
    sound = image.sound()
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
