"""Search finds what grep finds in the bare memory, whatever the form of the image."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from builder import PAGE_SIZE
from hypothesis import assume, given
from hypothesis import strategies as st
from scanning import FORMS, needs_re2, opened

from savefmt import IOOptions
from savefmt.scan import windows
from savefmt.scan.patterns import MATCH_LIMIT, Matcher, hexadecimal, literal, regex
from savefmt.scan.search import count, search

GREP = shutil.which("grep")

# Few different bytes, so that there is something to find; no newline, which ends
# what grep looks at.
BYTES = st.sampled_from(b"ab\0\0\xff")
CHUNKS = st.one_of(
    st.just(bytes(PAGE_SIZE)),
    st.lists(BYTES, min_size=1, max_size=30).map(bytes),
    st.builds(lambda data, times: data * times, st.binary(max_size=3), st.integers(0, 3000)),
)


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """A block of some pages with something in it, also at the borders of pages."""
    pages = draw(st.integers(1, 8))
    out = bytearray(pages * PAGE_SIZE)
    for chunk in draw(st.lists(CHUNKS, max_size=6)):
        at = draw(st.sampled_from(range(0, len(out), PAGE_SIZE))) + draw(st.integers(-9, 40))
        at = max(at, 0)
        out[at : at + len(chunk)] = chunk[: max(len(out) - at, 0)]
    return bytes(out).replace(b"\n", b"a")


BLOCKS = st.fixed_dictionaries({"ram": contents(), "rom": contents()})
PATTERNS = st.lists(BYTES, min_size=1, max_size=6).map(bytes)
EXPRESSIONS = st.sampled_from(
    (r"a+b", r"b[^a]", r"(ab|ba)+", r"\xff\x00+a", r"a.b", r"\ba", r"a?b{2,3}", r"[ab]\x00{5}")
)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WINDOW_LENGTH", 2 * PAGE_SIZE)


def grep(expression: str, content: bytes) -> list[tuple[int, bytes]]:
    """Ask grep for offsets and matches in a file."""
    assert GREP is not None
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        command = [GREP, "-obUaP", expression, file.name]
        done = subprocess.run(command, capture_output=True, check=False, env={"LC_ALL": "C"})
    assert done.returncode in (0, 1), done.stderr
    # Where a match begins follows from the offset; it may hold anything but a newline.
    lines = done.stdout.split(b"\n")[:-1]
    parts = (line.split(b":", 1) for line in lines)
    return [(int(offset), match) for offset, match in parts]


def found(
    blocks: Mapping[str, bytes], form: str, pattern: Matcher
) -> dict[str, list[tuple[int, bytes]]]:
    """Search an image, by two threads, and gather the matches by block."""
    hits: dict[str, list[tuple[int, bytes]]] = {name: [] for name in blocks}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        image = opened(stack, Path(folder), form, blocks)
        for hit in search(image, [pattern], context=3, io=IOOptions(threads=2)):
            hits[hit.block].append((hit.offset, hit.data))
            content = blocks[hit.block]
            assert hit.before == content[max(hit.offset - 3, 0) : hit.offset]
            assert hit.after == content[hit.offset + hit.length :][:3]
        assert count(image, [pattern]) == sum(map(len, hits.values()))
    return hits


def places(pattern: bytes, content: bytes) -> Iterator[int]:
    """Yield where bytes lie, overlapping ones included."""
    at = content.find(pattern)
    while at >= 0:
        yield at
        at = content.find(pattern, at + 1)


@given(BLOCKS, PATTERNS, st.sampled_from(FORMS))
def test_bytes(blocks: dict[str, bytes], pattern: bytes, form: str) -> None:
    assert found(blocks, form, literal(pattern)) == {
        name: [(at, pattern) for at in places(pattern, content)] for name, content in blocks.items()
    }


@given(BLOCKS, st.lists(st.sampled_from(["61", "??", "f?", "?0", "62"]), min_size=1, max_size=5))
def test_wildcards(blocks: dict[str, bytes], digits: list[str]) -> None:
    if set(digits) == {"??"}:
        digits.append("61")
    form = {"??": rb"[\s\S]", "f?": rb"[\xf0-\xff]", "61": b"a", "62": b"b"}
    form["?0"] = b"[" + b"".join(rb"\x%x0" % high for high in range(16)) + b"]"
    expression = re.compile(b"(?=(" + b"".join(form[pair] for pair in digits) + b"))")
    assert found(blocks, "mapped", hexadecimal("".join(digits))) == {
        name: [(match.start(), match[1]) for match in expression.finditer(content)]
        for name, content in blocks.items()
    }


@pytest.mark.skipif(GREP is None, reason="grep is not installed")
@needs_re2
@given(BLOCKS, EXPRESSIONS, st.sampled_from(FORMS))
def test_expressions_against_grep(blocks: dict[str, bytes], expression: str, form: str) -> None:
    expected = {name: grep(expression, content) for name, content in blocks.items()}
    longest = max((len(match) for hits in expected.values() for _, match in hits), default=0)
    assume(longest <= MATCH_LIMIT)  # longer ones may be cut or missed

    assert found(blocks, form, regex(expression)) == expected


@pytest.mark.skipif(GREP is None, reason="grep is not installed")
@given(BLOCKS, PATTERNS)
def test_bytes_against_grep(blocks: dict[str, bytes], pattern: bytes) -> None:
    """All places are what grep finds when it looks ahead without moving on."""
    expression = "(?=" + "".join(rf"\x{byte:02x}" for byte in pattern) + ")[\\x00-\\xff]"
    hits = found(blocks, "mapped", literal(pattern))

    assert {name: [at for at, _ in mine] for name, mine in hits.items()} == {
        name: [at for at, _ in grep(expression, content)] for name, content in blocks.items()
    }
