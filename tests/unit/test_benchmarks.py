"""The benchmark scripts, on images so small that their figures mean nothing."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import guests
import instant_case
import peers
import pytest
import qemu_case
import reads
import reads_case
import report
import warm_case
from cases import CASES, CURVES, Case
from images import make_mapped, page_numbers
from lab import GIB, MIB, SCALES, Lab
from report import Row
from run import ROWS, guest_rows, peak_row, run_case
from turns import TIMED, Pair, Side, Turn, alternate, process, shown, touch_memory

import savefmt

RUN = Path(report.__file__).with_name("run.py")
CHEAP = (
    "raw-sparse",
    "sparse-sparse",
    "clone-xfs",
    "read-raw",
    "compare",
    "zstd-sparse",
    "zstd-members",
    "gzip-members",
    "info",
    "alone-raw",
    "export-elf-raw",
    "search-raw",
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    memory = folder / "memory"
    memory.mkdir()
    with ExitStack() as mounts:
        yield Lab(folder, SCALES["tiny"], memory, mounts)


def pair(ours: list[float], theirs: list[float]) -> Pair:
    return Pair([Turn(seconds) for seconds in ours], [Turn(seconds) for seconds in theirs])


def test_the_ratio_is_that_of_the_middle_turn() -> None:
    assert pair([1, 20, 3], [2, 10, 3]).ratio == 1


def test_sides_begin_in_turn() -> None:
    order: list[str] = []

    def side(name: str) -> Side:
        def go() -> Turn:
            order.append(name)
            return Turn(1)

        return Side(go)

    taken = alternate(side("ours"), side("theirs"), 3)

    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert (len(taken.ours), len(taken.theirs)) == (3, 3)


def test_a_turn_begins_without_the_last_one_s_files(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_text("old")
    seen = []

    def go() -> Turn:
        seen.append(target.exists())
        return Turn(1)

    Side(go, [], [target]).turn()

    assert seen == [False]


def test_a_program_that_fails_ends_the_run() -> None:
    with pytest.raises(SystemExit, match="ended with 3"):
        process("sh", "-c", "exit 3")


def test_a_process_is_measured(tmp_path: Path) -> None:
    target = tmp_path / "out"

    turn = process("sh", "-c", "echo hello", to=target)

    assert target.read_text() == "hello\n"
    assert turn.seconds > 0
    assert turn.peak_kib > 100


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["dd", "if=/some/where/a", "bs=4M"], "dd if=a bs=4M"),
        ([sys.executable, "-m", "savefmt", "info", "/tmp/x/a b"], "savefmt info 'a b'"),
        ([sys.executable, TIMED, "check", "a/b"], "savefmt check a/b"),
    ],
)
def test_commands_are_shown_as_typed(words: list[str | Path], text: str) -> None:
    assert shown(words) == text


def test_two_pieces_of_work_add_up() -> None:
    both = peers.one_after_the_other(Turn(1, 0.5, 10, "a"), Turn(2, 0.25, 7, "b"))

    assert both == Turn(3, 0.75, 10, "a && b")


@pytest.mark.parametrize("pattern", ["dense", "alternate", "scattered"])
def test_patterns(pattern: str) -> None:
    pages = [page for part in page_numbers(pattern, 1024, 64) for page in part]

    assert len(pages) == 64
    assert max(pages) < 1024
    gaps = {right - left for left, right in itertools.pairwise(pages)}
    assert gaps == {{"dense": 1, "alternate": 2, "scattered": 16}[pattern]}


def test_a_guest_has_the_pages_it_was_ordered_with(lab: Lab) -> None:
    image = lab.sparse(16 * MIB, 2 * MIB, "scattered")

    block = max(savefmt.probe(image, pages=True).blocks, key=lambda block: block.used_length)

    assert block.used_length == 16 * MIB
    assert block.present == 512
    assert savefmt.check(image, level=savefmt.CheckLevel.FULL).ok


def test_a_template_must_be_mapped(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="mapped-ram"):
        make_mapped(lab.main_raw(), tmp_path / "out", ram=MIB, data=MIB)


@pytest.mark.parametrize("case", [case for case in ROWS if case.key in CHEAP], ids=lambda c: c.key)
def test_rows(lab: Lab, case: Case) -> None:
    row = run_case(lab, case)

    if row.value is None:
        pytest.skip(row.note)
    assert len(row.ours) == len(row.theirs) == lab.scale.turns * case.turns
    assert row.value > 0
    assert row.our_command.startswith("savefmt ")
    assert row.their_command.split()[0] in ("fio", "savefmt", "sh", *case.needs)
    assert str(lab.folder) not in row.our_command + row.their_command
    assert row.met is (row.value >= case.limit if case.rate else row.value <= case.limit)


def test_a_row_without_its_program_says_so(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")

    row = run_case(lab, CASES[0])

    assert row.value is None
    assert row.note == "dd not installed"


@pytest.mark.interop
@pytest.mark.parametrize("key", ["reads-gzip", "reads-xz-members"])
def test_reads_here_and_there(lab: Lab, key: str) -> None:
    row = reads_case.run(lab, key)

    assert row.value is None or row.value > 0
    assert row.met is None or row.met == (row.value is not None and row.value <= 20)
    assert row.kind == "latency"


def test_what_99_of_100_are_not_above() -> None:
    assert reads.p99([float(number) for number in range(200, 0, -1)]) == 198
    assert reads.p99([3.0, 1.0]) == 3


def test_qemu_s_side(lab: Lab) -> None:
    if reason := qemu_case.obstacle():
        pytest.skip(reason)

    ours, theirs = qemu_case.sides(lab)

    assert ours.turn().seconds > 0
    assert theirs.turn().peak_kib > 1000


@pytest.mark.interop
def test_a_guest_ticks_on_its_image(lab: Lab) -> None:
    if reason := guests.obstacle():
        pytest.skip(reason)

    by_qemu, by_savefmt, by_virsh, load, *memory, touched = instant_case.rows(lab.scale.guests)
    ours, theirs = by_savefmt.sides(lab)
    turns = [ours.turn(), theirs.turn()]
    alone = [side.turn() for side in load.sides(lab)]
    pages = [side.turn() for side in touched.sides(lab)]
    if (reason := by_virsh.ready()) is None:
        turns += [side.turn() for side in by_virsh.sides(lab)]

    assert all(turn.seconds > 0 and turn.peak_kib > 1000 for turn in turns)
    assert "--instant" in turns[0].command
    assert 0 < alone[0].seconds < turns[0].seconds
    assert pages[0].peak_kib > 0 < pages[1].peak_kib
    assert [row.kind for row in (load, touched, *memory)] == ["load", "touched", *["memory"] * 3]
    assert by_qemu.goal == "≤ 0.5 of its time"
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.interop
def test_a_guest_reads_on_its_image(lab: Lab) -> None:
    if reason := guests.obstacle():
        pytest.skip(reason)
    alone, by_qemu = warm_case.rows(lab.scale.guests)

    for side in (*alone.sides(lab), by_qemu.sides(lab)[1]):
        assert side.turn().seconds > 0


def test_keys_are_unique() -> None:
    keys = [row.key for row in ROWS] + [row.key for row in guest_rows(SCALES["full"])]
    assert len(set(keys)) == len(keys)


def row(key: str, peak: int = 2048) -> Row:
    taken = Pair([Turn(1.5, 0.25, peak, "savefmt work")], [Turn(3.0, command="peer work")])
    verdict = {"value": 0.5, "met": True, "note": "why"}
    return Row.of(key, "work", "peer", "≤ 1 of its time", "time", taken, **verdict)


def document() -> dict[str, object]:
    reason = "fio not installed"
    rows = [row("hash"), Row.skipped("info", "other work", "peer", "≥ 1", "time", reason)]
    rows.append(peak_row(rows))
    curves = {"check": {1 << 30: Turn(0.5, 0, 1024), 4 << 30: Turn(0.75, 0, 1024)}}
    facts = report.facts(Path.cwd())
    return json.loads(json.dumps(report.document(facts, "tiny", rows, curves)))  # type: ignore[no-any-return]


def test_the_page_shows_all_that_was_found() -> None:
    page = report.markdown(document())

    assert "| work [1] | peer | 1.5 | 3 | 0.5 | 0.5 | ≤ 1 of its time | yes | 0.25 | 2 |" in page
    assert "| other work [2] | peer | - | - | - | - | ≥ 1 | not measured | - | - |" in page
    assert "1. why\n2. fio not installed" in page
    assert "| work | ours, MiB | goal | met |" in page
    assert "| peak memory of all rows (work) | 2 | ≤ 100 MiB | yes |" in page
    assert "- work: `savefmt work` against `peer work`" in page
    assert "disk " in page
    assert "| work | 1 GiB | 4 GiB |\n|---|---|---|\n| check | 0.50 | 0.75 |" in page


def test_a_note_is_told_once_and_a_reader_can_compute_the_ratio() -> None:
    turns = Pair([Turn(9, 1, 3072)], [Turn(8, 0, 12288)])
    rows = [row("a"), row("b")]
    verdict = {"value": 0.25, "met": True, "note": "why"}
    rows.append(Row.of("c", "memory", "peer", "≤ 0.5", "memory", turns, **verdict))

    page = report.markdown(report.document(report.facts(Path.cwd()), "tiny", rows, {}))

    assert page.count("[1]") == 3
    assert page.count("\n1. why\n") == 1
    assert "| work | against | ours, MiB | theirs, MiB | ratio | goal | met |" in page
    assert "| memory [1] | peer | 3 | 12 | 0.25 | ≤ 0.5 | yes |" in page


def test_a_row_whose_runs_differ_is_marked() -> None:
    def page(*seconds: float) -> str:
        turns = Pair([Turn(1)] * len(seconds), [Turn(one) for one in seconds])
        one = Row.of("a", "work", "peer", "≤ 1", "time", turns, value=0.5, met=True)
        return report.markdown(report.document(report.facts(Path.cwd()), "tiny", [one], {}))

    assert "| yes, unsteady |" in page(2, 1, 1.4)
    assert "| yes |" in page(1.5, 1, 1.4)


def test_memory_is_touched_within_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr("turns.available_memory", lambda: 8 << 20)
    monkeypatch.setattr("turns.subprocess.run", lambda words, check: taken.append(int(words[-1])))

    for length in (0, 100, 1 << 20, 1 << 40):
        touch_memory(length)

    assert taken == [1 << 20, 4 << 20]


def test_touching_memory_does_not_count_as_the_peak_of_what_follows() -> None:
    script = "import resource; x = bytes(8 << 20)"
    alone = process(sys.executable, "-S", "-c", script).peak_kib

    touch_memory(256 << 20)

    assert process(sys.executable, "-S", "-c", script).peak_kib < alone + (64 << 10)


def test_the_page_shows_the_picture_if_there_is_one() -> None:
    assert "![" not in report.markdown(document())
    assert "![cost against size](plot.svg)" in report.markdown(document(), "plot.svg")


def test_the_readme_gets_the_table_in_its_place(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")

    report.refresh(readme, document())

    lines = readme.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    assert "| work | peer | 1.5 | 3 | 0.50 |" in lines
    assert not any(line.startswith("| other work") for line in lines)


def test_figures_without_commands_are_shown_too(tmp_path: Path) -> None:
    content = document()
    for entry in content["rows"]:  # type: ignore[attr-defined]
        del entry["our_command"], entry["their_command"]

    assert "## Commands" not in report.markdown(content)


def test_facts_tell_what_was_measured_and_when(tmp_path: Path) -> None:
    facts = report.facts(tmp_path)

    assert datetime.fromisoformat(facts["date"]).tzinfo is not None
    assert {"commit", "kernel", "cpu", "cpus", "memory_mib", "file_system", "disk"} <= set(facts)


def test_a_readme_without_a_place_is_left_alone(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("text\n")

    with pytest.raises(SystemExit, match="no place for the table"):
        report.refresh(readme, document())

    assert readme.read_text() == "text\n"


def test_the_peak_is_held_to_its_limit() -> None:
    assert peak_row([row("a", 100 << 10)]).met
    assert not peak_row([row("a"), row("b", (100 << 10) + 1)]).met


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_cost_against_size_is_drawn(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"plot.{kind}"

    assert report.draw(document(), path)

    head = path.read_bytes()[:300]
    assert head.startswith(b"\x89PNG") if kind == "png" else b"<svg" in head or b"<?xml" in head


def test_one_command_does_it_all(tmp_path: Path) -> None:
    outputs = {name: tmp_path / f"out.{name}" for name in ("json", "markdown", "plot.svg")}
    words = [f"--{name.partition('.')[0]}={path}" for name, path in outputs.items()]
    rows = ["--rows", "in-place", "growth-check"]

    done = subprocess.run(
        [sys.executable, RUN, "--scale=tiny", f"--dir={tmp_path}", *words, *rows],
        capture_output=True,
        text=True,
        check=True,
    )

    found = json.loads(outputs["json"].read_text())
    assert [entry["key"] for entry in found["rows"]] == ["in-place", "growth-check", "peak"]
    assert set(found["curves"]) == set(CURVES)
    assert found["facts"]["kernel"]
    assert outputs["markdown"].read_text() == done.stdout
    assert sorted(tmp_path.iterdir()) == sorted(outputs.values())


def test_nothing_stays_behind_when_it_is_ended(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, RUN, "--scale=tiny", f"--dir={tmp_path}"])
    deadline = time.monotonic() + 20
    try:
        while not any(tmp_path.glob("savefmt-bench-*/*")):
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        child.terminate()
        child.wait()

    assert child.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_the_full_scale_is_what_the_goals_speak_of() -> None:
    full = SCALES["full"]

    assert full.ram == 2 * GIB
    assert full.data >= GIB
    assert full.turns >= 5
    assert (full.small_ram, full.large_ram, full.growth_data) == (GIB, 256 * GIB, 256 * MIB)
    assert (min(full.curve), max(full.curve)) == (GIB, 64 * GIB)


def test_an_unknown_row_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, RUN, "--rows", "nonsense"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "no rows nonsense" in done.stderr
