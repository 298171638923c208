"""Walking through memory: every byte once, in order, in every form of image."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from builder import PAGE_SIZE, make_stream, page
from scanning import FORMS, opened

import savefmt
from savefmt import AddressError, IOOptions, OperationCancelled, Progress
from savefmt.scan import windows
from savefmt.scan.windows import Memory, Reach, Stretch

BLOCKS = {
    "ram": b"".join(
        page(n) if n % 5 in (1, 2) or 20 < n < 30 else bytes(PAGE_SIZE) for n in range(40)
    ),
    "empty": bytes(3 * PAGE_SIZE),
    "rom": page(100),
}


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WINDOW_LENGTH", 2 * PAGE_SIZE)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("threads", [1, 3])
def test_windows_cover_all_data_once(form: str, threads: int, tmp_path: Path) -> None:
    with ExitStack() as stack:
        image = opened(stack, tmp_path, form, BLOCKS)
        seen = {name: bytearray(len(content)) for name, content in BLOCKS.items()}
        last = ("", 0)
        for window in Memory(image, io=IOOptions(threads=threads)).windows():
            place = window.stretch
            if place.block == last[0]:
                assert place.start >= last[1]
            assert 0 < place.length <= 2 * PAGE_SIZE
            seen[place.block][place.start : place.end] = window.content
            last = place.block, place.end
        assert seen == BLOCKS


@pytest.mark.parametrize("form", FORMS)
def test_reach(form: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        image = opened(stack, tmp_path, form, BLOCKS)
        memory = Memory(image, io=IOOptions(threads=2))
        for window in memory.windows(Reach(lead=10, tail=5000, margin=100)):
            place, content = window.stretch, BLOCKS[window.stretch.block]
            assert window.base <= max(place.start - 10, 0)
            assert window.base + len(window.data) >= min(place.end + 5000, len(content))
            assert window.data == content[window.base :][: len(window.data)]


def test_margins_join_stretches(tmp_path: Path) -> None:
    content = bytes(PAGE_SIZE) + page(1) + bytes(PAGE_SIZE) + page(2) + bytes(4 * PAGE_SIZE)
    with ExitStack() as stack:
        memory = Memory(opened(stack, tmp_path, "mapped", {"ram": content}))
        near, far = Reach(margin=PAGE_SIZE // 2), Reach(margin=100)
        assert list(memory.stretches(near)) == [Stretch("ram", 2048, 4 * PAGE_SIZE + 2048)]
        assert [place.length for place in memory.stretches(far)] == [PAGE_SIZE + 200] * 2
        assert list(memory.stretches(Reach(zeros=True))) == [Stretch("ram", 0, len(content))]


def test_blocks_can_be_chosen(tmp_path: Path) -> None:
    with ExitStack() as stack:
        image = opened(stack, tmp_path, "mapped", BLOCKS)
        assert list(Memory(image, ["rom"]).lengths) == ["rom"]
        with pytest.raises(AddressError, match="no RAM block 'rim'; it has: ram, empty, rom"):
            Memory(image, ["rim"])


def test_blocks_that_were_left_out(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(
        make_stream(
            layout="mapped-ram", blocks=BLOCKS, ignored=frozenset({"rom"}), guest_addresses={}
        )
    )
    with savefmt.open(path) as image:
        memory = Memory(image)
        assert memory.left_out == ("rom",)
        assert list(memory.lengths) == ["ram", "empty"]


def test_progress_and_cancelling(tmp_path: Path) -> None:
    seen: list[Progress] = []

    def stop_half_way(progress: Progress) -> bool:
        seen.append(progress)
        return progress.phase != "reading" or progress.done * 2 < progress.total

    with ExitStack() as stack:
        image = opened(stack, tmp_path, "sequential", BLOCKS)
        with pytest.raises(OperationCancelled):
            list(Memory(image, progress=stop_half_way).windows())
    assert {progress.phase for progress in seen} >= {"finding pages", "reading"}


def test_an_error_in_a_thread_ends_the_walk(tmp_path: Path) -> None:
    def work(window: windows.Window) -> None:
        raise ZeroDivisionError

    with ExitStack() as stack:
        memory = Memory(opened(stack, tmp_path, "mapped", BLOCKS))
        with pytest.raises(ZeroDivisionError):
            list(memory.each(work))
