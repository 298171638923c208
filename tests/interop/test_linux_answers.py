"""What `savefmt linux` tells of a real guest is what the guest said of itself."""

from __future__ import annotations

import csv
import hashlib
import html
import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import drgn
import pytest
from PIL import Image

import savefmt
from interop import planted, planted_facts
from interop.forged import Forgery, scattered
from interop.planted import Report
from savefmt.cli.main import main
from savefmt.drgn import program
from savefmt.errors import AddressError, UnsupportedError
from savefmt.export import vmcoreinfo
from savefmt.frozen import replace
from savefmt.image import SaveImage
from savefmt.linux import kallsyms
from savefmt.linux.answers import ask
from savefmt.linux.btf import Btf, Kind
from savefmt.linux.kallsyms import Symbols
from savefmt.linux.kernel import Kernel
from savefmt.linux.opening import open_kernel
from savefmt.linux.ownerchanges import owner_changes
from savefmt.linux.ownerpicture import COLORS, draw_owners
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
        later = folder / "later"
        machine.migrate_to(f"file:{later}")  # while it runs: pages come more than once
    sequential, packed = folder / "sequential", folder / "packed"
    savefmt.convert(mapped, sequential, layout=savefmt.Layout.SEQUENTIAL)
    subprocess.run(["zstd", "-q", "-1", "-o", str(packed), str(sequential)], check=True)
    return Planted(mapped, sequential, packed, later, report)


@pytest.fixture(scope="module", autouse=True)
def parsed_once() -> Iterator[None]:
    """The same symbols and types of the one guest are parsed once; what was forged is not the same.

    That parsing takes most of the time of an answer.
    """

    @cache
    def find(data: bytes, base: int, known: tuple[tuple[str, int], ...]) -> Symbols | None:
        return kallsyms.find(data, base, dict(known))

    class Kallsyms:
        REACH, DIGITS = kallsyms.REACH, kallsyms.DIGITS

        @staticmethod
        def find(data: bytes, base: int, known: dict[str, int]) -> Symbols | None:
            return find(data, base, tuple(sorted(known.items())))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("savefmt.linux.kernel.kallsyms", Kallsyms)
        patch.setattr("savefmt.linux.kernel.Btf", cache(Btf))
        yield


@pytest.fixture(scope="module")
def pages_seen(guest: Planted) -> list[int]:
    """The pages that all answers together are read from."""
    with savefmt.open(guest.mapped, io=BUFFERED) as image:
        honest = Forgery(image)
        for answer in ("all", "timeline", "pages"):
            ask(image, answer)
    return sorted(honest.seen)


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
            target = tmp_path / path.replace("/", "-")
            told = extract(kernel, path, target, dry_run=True)
            assert not target.exists()
            found = extract(kernel, path, target)
            written = target.read_bytes()
            assert replace(told, dry_run=False) == found
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


def test_owners_of_pages_add_up_to_what_the_guest_counts(guest: Planted, tmp_path: Path) -> None:
    with savefmt.open(guest.mapped, io=BUFFERED) as image:
        owned = ask(image, "pages").pages or ()
        area = draw_owners(image, tmp_path / "owners.png").areas["memory"]
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
    # In the picture as well, but for what the addresses in it hide.
    side = area.columns * area.scale
    with Image.open(tmp_path / "owners.png") as opened:
        picture = opened.convert("RGB").crop(
            (area.left, area.top, area.left + side, area.top + side)
        )
    drawn = {color: count for count, color in picture.getcolors(1 << 8) or []}
    seen = {kind: drawn.get(COLORS[kind], 0) / area.scale**2 for kind in kinds}
    assert not [kind for kind, count in kinds.items() if seen[kind] > count]
    assert sum(seen.values()) > 0.7 * sum(kinds.values())


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


def test_a_connection_that_no_process_has_is_told(guest: Planted) -> None:
    """As a rootkit hides one: the process's table of files leaves it out."""
    with savefmt.open(guest.mapped, io=BUFFERED) as image:
        forged = Forgery(image)
        kernel = open_kernel(image)
        (wanted,) = [
            one
            for one in ask(image, "net").sockets or ()
            if one.local_port == 4711 and one.state == "established"
        ]
        (owner,) = [one for one in processes(kernel) if one.pid == wanted.pid]
        task = drgn.Object(kernel.program, "struct task_struct", address=owner.address)
        table = task.files.fdt.fd.value_()
        assert wanted.descriptor is not None
        forged.put(kernel.memory.physical_of(table + 8 * wanted.descriptor), 0)
        found = ask(image, "net")

    assert [one.code for one in found.findings] == ["linux.socket-alone"]
    assert f"127.0.0.1:4711 to 127.0.0.1:{wanted.remote_port}" in found.findings[0].message
    (alone,) = [one for one in found.sockets or () if one.pid is None]
    assert (alone.local_port, alone.remote_port) == (4711, wanted.remote_port)


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


# --- guests that mean harm ---

Forged = dict[int, int]
SECONDS, MEBIBYTES = 10, 300


def words_of(kernel: Kernel, address: int, length: int) -> list[int]:
    """Return the guest-physical addresses of a stretch of the kernel's, eight bytes each."""
    found = []
    for page in range(address & -4096, address + length, 4096):
        place = kernel.memory.physical_of(page)
        last = min(4096, address + length - page)
        found += [place + at for at in range(max(address - page, 0) & -8, last, 8)]
    return found


def looped_lists(kernel: Kernel) -> Forged:
    """Every second link of the list of processes leads back, and so do those of their children."""
    task = kernel.program.type("struct task_struct")
    changes = {}
    for member in ("tasks", "children", "sibling"):
        at = drgn.offsetof(task, member)
        for one in list(processes(kernel))[::2]:
            link = one.address + at
            changes[kernel.memory.physical_of(link)] = link
            changes[kernel.memory.physical_of(link + 8)] = link
    return changes


def forged_types(kernel: Kernel) -> Forged:
    """BTF with noise in it, but for its head."""
    start, end = kernel.symbols.get("__start_BTF"), kernel.symbols.get("__stop_BTF")
    assert start
    assert end
    source = random.Random(1)
    places = words_of(kernel, start + 24, end - start - 24)
    return {place: source.getrandbits(64) for place in source.sample(places, 2000)}


def forged_members(kernel: Kernel, seed: int = 1) -> Forged:
    """Members of what is read lie elsewhere, and are of other types."""
    source, types, changes = random.Random(seed), kernel.types.btf, dict[int, int]()
    start = kernel.symbols.get("__start_BTF")
    assert start
    spots = []
    for name in ("task_struct", "file", "inode", "sock", "mount", "mm_struct", "page", "fdtable"):
        number = types.find((Kind.STRUCT,), name)
        assert number
        record = types.record(number)
        spots += [record.at + 12 * one + at for one in range(record.length) for at in (4, 8)]
    for spot in source.sample(spots, len(spots) // 8):
        address = start + 24 + spot
        place = kernel.memory.physical_of(address & -8)
        old = changes.get(place, kernel.word(address & -8))
        shift = 8 * (address & 7)
        new = source.choice([source.getrandbits(32), source.getrandbits(12), 0xFFFF_FFFF])
        changes[place] = old & ~(0xFFFF_FFFF << shift) | new << shift
    return changes


def forged_names(kernel: Kernel) -> Forged:
    """Names and tokens of the symbols with noise in them."""
    names, tokens = (kernel.anchors.symbols[f"kallsyms_{one}"] for one in ("names", "token_table"))
    source = random.Random(2)
    places = words_of(kernel, names, tokens + 1024 - names)
    return {place: source.getrandbits(64) for place in source.sample(places, 2000)}


def huge_counts(kernel: Kernel) -> Forged:
    """What tables say of their own length is as much as goes into the field."""
    program = kernel.program
    changes = {}
    for one in processes(kernel):
        task = drgn.Object(program, "struct task_struct", address=one.address)
        if task.files:
            changes[kernel.memory.physical_of(task.files.fdt.value_())] = (1 << 32) - 1
        if task.mm:
            for name in ("arg_end", "env_end", "task_size", "total_vm", "map_count"):
                field = task.mm.member_(name).address_ & -8
                changes[kernel.memory.physical_of(field)] = (1 << 64) - 1
    ring = program["prb"][0]
    for member in (ring.desc_ring.count_bits, ring.text_data_ring.size_bits):
        changes[kernel.memory.physical_of(member.address_ & -8)] = 0x3F_0000_003F
    mask = program["tcp_hashinfo"].ehash_mask.address_
    changes[kernel.memory.physical_of(mask & -8)] = 0xFF_FFFF << 8 * (mask & 7)
    return changes


FORGERIES = {
    one.__name__: one
    for one in (looped_lists, forged_types, forged_members, forged_names, huge_counts)
}
SEEDS = {f"noise {seed}": seed for seed in range(3)}


@pytest.mark.parametrize("name", [*FORGERIES, *SEEDS])
def test_forged_memory_ends_soon_and_within_bounds(
    name: str, guest: Planted, pages_seen: list[int]
) -> None:
    with savefmt.open(guest.mapped, io=BUFFERED) as image:
        if name in SEEDS:
            changes = scattered(image.guest.physical, pages_seen, SEEDS[name], 300)
        else:
            changes = FORGERIES[name](open_kernel(image))
    assert len(changes) > 20

    done = subprocess.run(
        [sys.executable, "-m", "interop.forged", str(guest.mapped)],
        cwd=Path(__file__).parents[1],
        input=json.dumps(changes),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)

    assert found["said"].startswith(("error: ", "linux.")) or name in SEEDS
    assert found["seconds"] < SECONDS
    assert found["peak"] < MEBIBYTES << 10
