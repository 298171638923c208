"""What `savefmt linux` tells of a real guest is what the guest said of itself."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import html
import json
import random
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import savefmt
from interop import planted, planted_facts
from interop.forged import Forgery
from interop.planted import Report
from savefmt.cli.main import main
from savefmt.drgn import program
from savefmt.errors import AddressError, SavefmtError, UnsupportedError
from savefmt.export import vmcoreinfo
from savefmt.image import SaveImage
from savefmt.linux.answers import ask
from savefmt.linux.opening import open_kernel
from savefmt.linux.ownerchanges import owner_changes
from savefmt.linux.pagecache import extract
from savefmt.linux.processes import processes
from savefmt.linux.processmemory import process_memory
from savefmt.scan.patterns import text
from savefmt.scan.search import search
from savefmt.scan.strings import strings

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("qemu")]

BUFFERED = savefmt.IOOptions(direct=False)


@dataclass(frozen=True)
class Planted:
    """A guest whose processes, files and sockets are known, and what it said of them."""

    mapped: Path
    sequential: Path
    packed: Path
    later: Path
    report: Report


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory, qemu: None) -> Planted:
    """Boot it once, and save it in three forms."""
    if planted.lack_of_kernel("6.1"):
        pytest.skip(planted.lack_of_kernel("6.1"))
    folder = tmp_path_factory.mktemp("planted")
    with planted.boot("6.1", folder) as machine:
        mapped = folder / "mapped"
        machine.migrate_to(f"file:{mapped}", {"mapped-ram": True})
        report = Report(machine.console.read_bytes())
        machine.cont()
        machine.wait_console(planted.LATER)
        machine.stop()
        later = folder / "later"
        machine.migrate_to(f"file:{later}", {"mapped-ram": True})
    sequential, packed = folder / "sequential", folder / "packed"
    savefmt.convert(mapped, sequential, layout=savefmt.Layout.SEQUENTIAL)
    subprocess.run(["zstd", "-q", "-1", "-o", str(packed), str(sequential)], check=True)
    return Planted(mapped, sequential, packed, later, report)


@pytest.fixture(params=["mapped", "sequential", "packed"])
def image(request: pytest.FixtureRequest, guest: Planted) -> Iterator[SaveImage]:
    """The guest in each form."""
    with savefmt.open(getattr(guest, request.param), io=BUFFERED) as image:
        yield image


def test_every_answer_is_the_guests_own(image: SaveImage, guest: Planted) -> None:
    planted_facts.check_all(image, guest.report)


def test_a_kernel_that_hides_its_vmcoreinfo(
    guest: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vmcoreinfo, "find", lambda image, findings: None)
    with savefmt.open(guest.mapped, io=BUFFERED) as image:
        planted_facts.check_all(image, guest.report)


def test_one_process_alone(guest: Planted) -> None:
    with savefmt.open(guest.mapped, io=BUFFERED) as image:
        (lurker,) = [
            one for one in ask(image, "ps").processes or () if "lurker" in one.command_line
        ]
        found = ask(image, "all", [lurker.pid])

    assert found.processes == (lurker,)
    assert {one.pid for one in found.files or ()} == {lurker.pid}
    assert {one.pid for one in found.areas or ()} == {lurker.pid}
    assert [one.pid for one in found.environments or ()] == [lurker.pid]
    assert found.sockets == ()


def test_scripts_of_drgn_need_no_debug_package(guest: Planted) -> None:
    from drgn.helpers.linux.fs import d_path, for_each_file
    from drgn.helpers.linux.pid import find_task, for_each_task
    from drgn.helpers.linux.printk import get_dmesg

    with savefmt.open(guest.mapped, io=BUFFERED) as image:
        kernel = program(image, symbols="memory")
        told = {one.pid for one in ask(image, "ps").processes or ()}
        shell = find_task(kernel, 1)
        paths = [d_path(file.f_path) for _, file in for_each_file(shell)]
        log = get_dmesg(kernel).decode()
        module_type = kernel.type("struct loop_device")

        assert {task.tgid.value_() for task in for_each_task(kernel)} == told
        assert b"/init" in paths
        assert planted.KERNEL_LOG in log
        assert module_type.size is not None
        assert module_type.size > 0
        assert kernel.symbol("dummy_setup").name == "dummy_setup"


def test_each_symbol_lies_where_the_guest_saw_it(guest: Planted) -> None:
    with savefmt.open(guest.mapped, io=BUFFERED) as image:
        symbols = open_kernel(image).symbols

    told = {(address, name) for address, _, name in symbols}
    assert len(guest.report.symbols) > 1000
    assert set(guest.report.symbols) <= told


def test_files_come_out_of_the_page_cache(guest: Planted, tmp_path: Path) -> None:
    with savefmt.open(guest.mapped, io=BUFFERED) as image:
        kernel = open_kernel(image)
        for path, digest in guest.report.digests.items():
            found = extract(kernel, path, tmp_path / path.replace("/", "-"))
            written = (tmp_path / path.replace("/", "-")).read_bytes()
            assert hashlib.sha256(written).hexdigest() == digest == found.sha256, path
            assert found.missing == ()
            assert bool(found.holes) == (path == "/tmp/holes")
        gone = extract(kernel, "/tmp/gone", tmp_path / "gone")
        part = extract(kernel, "/disk/audit.log", tmp_path / "part")
        with pytest.raises(UnsupportedError, match="files --cached"):
            extract(kernel, "/tmp/nothing", tmp_path / "nothing")

    assert gone.file.deleted
    assert (tmp_path / "gone").read_bytes().startswith(b"savefmt: a canary across two pages")
    assert part.sha256 is None
    assert [(one.start, one.end) for one in part.missing] == [(0, 819200), (823296, 2000000)]
    assert (tmp_path / "part").stat().st_size == 2000000
    assert len(set((tmp_path / "part").read_bytes()[819200:823296])) > 200
    assert not (tmp_path / "nothing").exists()


def test_owners_of_pages_add_up_to_what_the_guest_counts(guest: Planted) -> None:
    with savefmt.open(guest.mapped, io=BUFFERED) as image:
        owned = ask(image, "pages").pages or ()
    kinds = Counter[str]()
    for one in owned:
        kinds[one.owner.kind] += one.pages
    said = dict(re.findall(r"^(\w+): +(\d+) kB", guest.report.text("/proc/meminfo"), re.M))
    told = {one.owner.name: one.pages for one in owned}

    assert sum(kinds.values()) == 256 << 20 >> 12
    for kind, name in (("free", "MemFree"), ("slab", "Slab"), ("page-table", "PageTables")):
        assert abs(kinds[kind] - int(said[name]) // 4) < 0.1 * int(said[name]) // 4 + 16, name
    assert abs(kinds["anonymous"] - int(said["AnonPages"]) // 4) < 64
    assert told["/tmp/evil"] == -(-planted.EVIL_LENGTH // 4096)
    assert told["/tmp/gone (deleted)"] == 1
    assert max(one.pages for one in owned if one.owner.name == "plant") > 64


def test_what_changed_is_told_by_owner(guest: Planted) -> None:
    with (
        savefmt.open(guest.mapped, io=BUFFERED) as before,
        savefmt.open(guest.later, io=BUFFERED) as after,
    ):
        changes = owner_changes(savefmt.compare(before, after), before, after)

    late = [one for one in changes if one.after and one.after.name == "/tmp/late"]
    assert sum(one.pages for one in late) == planted.LATE_LENGTH // 4096
    was_free = sum(one.pages for one in late if one.before and one.before.kind == "free")
    assert was_free > planted.LATE_LENGTH // 4096 // 2
    assert not [one for one in changes if one.after and one.after.name == "/tmp/evil"]


def test_a_text_across_pages_is_found_in_the_process_alone(guest: Planted) -> None:
    wanted = text("savefmt: a canary across two pages")
    with savefmt.open(guest.mapped, io=BUFFERED) as image:
        (lurker,) = [
            one for one in ask(image, "ps").processes or () if "lurker" in one.command_line
        ]
        memory, places = process_memory(image, [lurker.pid])
        hits = list(search(image, [wanted], memory=memory, places=places))
        across = [one for one in hits if one.offset // 4096 != (one.offset + 20) // 4096]
        everywhere = {at for one in search(image, [wanted]) for at in one.physical}
        texts = [one.text for one in strings(image, memory=process_memory(image, [lurker.pid])[0])]
        with pytest.raises(AddressError, match="no process 9999"):
            process_memory(image, [9999])

    assert len(across) == 1
    assert across[0].block == f"plant({lurker.pid})"
    assert across[0].virtual == (across[0].offset,)
    assert across[0].physical[0] not in everywhere
    assert "savefmt: a canary across two pages" in texts
    assert f"SAVEFMT_SECRET={planted.SECRET}" in texts


def test_what_happened_when(guest: Planted) -> None:
    with savefmt.open(guest.mapped, io=BUFFERED) as image:
        events = ask(image, "timeline").events or ()

    times = [one.time for one in events]
    assert times == sorted(times)
    started = [one for one in events if "lurker" in one.message]
    assert [one.description for one in started] == ["Process Start Time"]
    assert abs(started[0].time - guest.report.clock) < planted_facts.CLOCK_SLACK
    assert [one for one in events if planted.KERNEL_LOG in one.message]
    written = [one for one in events if one.message.startswith("/tmp/evil,")]
    assert {one.description.split()[0] for one in written} == {"Last", "Content", "Metadata"}


def test_the_command(guest: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(code: int, *words: str) -> str:
        assert main(["linux", str(guest.mapped), *words]) == code
        told = capsys.readouterr()
        return told.out + told.err

    def run(*words: str) -> str:
        return fails(0, *words)

    summary = run()
    document = json.loads(run("net", "-j"))["linux"]
    lines = [json.loads(line) for line in run("all", "--output", "jsonl").splitlines()]

    part = str(guest.mapped.with_name("part"))
    taken = json.loads(fails(3, "--extract", "/disk/audit.log", "-o", part, "-j"))["extraction"]
    assert [one["start"] for one in taken["missing"]] == [0, 823296]
    assert "exists" in fails(1, "--extract", "/disk/audit.log", "-o", part)
    assert "go together" in fails(64, "--extract", "/tmp/evil")
    rows = csv.DictReader(run("timeline").splitlines())
    assert {"message", "datetime", "timestamp_desc"} == set(next(rows))

    assert planted.HOST in summary
    assert "writable code:" in summary
    assert len(summary.splitlines()) <= 40
    assert {one["local_port"] for one in document["sockets"]} > {4711, 4712, 5353}
    assert document["processes"] is None
    assert {row["row"] for row in lines} == {
        *("host", "processes", "log", "files", "sockets", "interfaces", "mounts", "modules"),
        *("areas", "environments"),
    }


def test_a_process_taken_out_of_the_list_has_a_number_still(guest: Planted) -> None:
    """As a rootkit hides one: its neighbours point past it."""
    with savefmt.open(guest.mapped, io=BUFFERED) as image:
        forged = Forgery(image)
        kernel = open_kernel(image)
        (lurker,) = [one for one in processes(kernel) if "lurker" in one.command_line]
        place = int(kernel.program.type("struct task_struct").member("tasks").bit_offset or 0) // 8
        link = lurker.address + place
        following, before = kernel.word(link), kernel.word(link + 8)
        forged.put(kernel.memory.physical_of(before), following)
        forged.put(kernel.memory.physical_of(following + 8), before)
        found = ask(image, "ps")

    assert lurker.pid not in {one.pid for one in found.processes or ()}
    assert [one.code for one in found.findings] == ["linux.hidden-process"]
    assert f"process {lurker.pid} (plant)" in found.findings[0].message


def test_a_list_that_leads_back_into_itself_ends(guest: Planted) -> None:
    with savefmt.open(guest.mapped, io=BUFFERED) as image:
        forged = Forgery(image)
        kernel = open_kernel(image)
        listed = list(processes(kernel))
        place = int(kernel.program.type("struct task_struct").member("tasks").bit_offset or 0) // 8
        link = listed[20].address + place
        forged.put(kernel.memory.physical_of(link), listed[3].address + place)
        found = ask(image, "ps")

    assert [one.pid for one in found.processes or ()] == [one.pid for one in listed[:21]]
    assert "linux.list-damaged" in {one.code for one in found.findings}


def test_a_system_call_that_leads_elsewhere_is_told(guest: Planted) -> None:
    with savefmt.open(guest.mapped, io=BUFFERED) as image:
        forged = Forgery(image)
        kernel = open_kernel(image)
        table = kernel.symbols.get("sys_call_table")
        (dummy,) = [one for one in ask(image, "modules").modules or () if one.name == "dummy"]
        assert table is not None
        forged.put(kernel.memory.physical_of(table + 8 * 62), dummy.address + 64)
        found = ask(image, "modules")

    assert [one.code for one in found.findings] == ["linux.call-changed"]
    assert "system call 62" in found.findings[0].message
    assert found.findings[0].message.endswith("in dummy")


@pytest.mark.parametrize("seed", range(4))
def test_forged_memory_ends_in_answers_or_an_error_of_ours(seed: int, guest: Planted) -> None:
    with savefmt.open(guest.mapped, io=BUFFERED) as image:
        honest = Forgery(image)
        ask(image, "all")
    start = time.monotonic()
    with savefmt.open(guest.mapped, io=BUFFERED) as image:
        forged = Forgery(image)
        forged.seen = honest.seen
        forged.scatter(random.Random(seed), 300)
        with contextlib.suppress(SavefmtError):
            ask(image, "all")
    assert time.monotonic() - start < 60


def test_the_report_tells_what_runs(guest: Planted, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["report", str(guest.mapped), "-o", str(page), "-q"]) == 0
    text = html.unescape(page.read_text())
    with savefmt.open(guest.mapped, io=BUFFERED) as image:
        found = ask(image, "ps").processes or ()

    own = [one for one in found if not one.kernel]
    assert own
    for one in own:
        assert f"<td>{one.pid}</td><td>{one.parent}</td>" in text
        assert " ".join(one.command_line) in text
    assert f"{len(own)} processes, and {len(found) - len(own)} threads of the kernel" in text
