"""`--case-notes`: one line a command, true to what it read, wrote and printed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cli.fakes import FakeLibrary, Run
from cli.test_manners import COMMANDS
from documents import closed
from golden.load import unpack
from interop.qemu import wait_for
from jsonschema import Draft202012Validator

import savefmt
from savefmt.cli.render.casenotes import CaseNote
from savefmt.cli.render.schema import schema_of

SOURCES = Path(__file__).parents[2] / "src"
EARLIER = 1_700_000_000
# Commands that read no image, or many and keep a journal.
WITHOUT = {
    *("bench", "completion", "config", "fleet", "help", "plan", "plugins", "save", "schema"),
}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def notes_of(path: Path) -> list[dict[str, Any]]:
    """Read the lines, each of which fits the schema."""
    schema = closed(schema_of("case-notes", (CaseNote,)))
    found = [json.loads(line) for line in path.read_bytes().splitlines()]
    for note in found:
        Draft202012Validator(schema).validate(note)
    return found


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image that has lain there for a while; notes go into the present folder."""
    (tmp_path / "evidence").mkdir()
    path = unpack("libvirt-devices", tmp_path / "evidence")
    monkeypatch.chdir(tmp_path)
    return path


def settled(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the file has not been touched for long: only its owner's clock can."""
    monkeypatch.setattr("savefmt.cli.casenotes._SETTLED", 0)
    now = path.stat().st_ctime_ns
    while time.time_ns() - now < 20_000_000:
        time.sleep(0.005)


def spawn(*words: str | Path, **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "savefmt", *map(str, words)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(SOURCES)}, **options)


def test_every_command_that_reads_an_image_has_it() -> None:
    having = {p.prog.split()[1] for p in COMMANDS if "--case-notes" in p._option_string_actions}
    others = {p.prog.split()[1] for p in COMMANDS} - having

    assert others == WITHOUT


def test_a_line_tells_all(run: Run, image: Path) -> None:
    before = time.time()
    assert run("info", str(image), "--case-notes", "notes").code == 0

    (note,) = notes_of(Path("notes"))
    (read,) = note["inputs"]
    status = image.stat()
    assert note["version"] == savefmt.__version__
    assert note["command"] == ["savefmt", "info", str(image), "--case-notes", "notes"]
    assert (note["host"], note["folder"]) == (socket.gethostname(), os.getcwd())
    assert note["exit_code"] == 0
    assert note["errors"] == note["outputs"] == []
    assert (read["path"], read["kind"], read["part"]) == (str(image), "file", None)
    assert (read["size"], read["inode"]) == (status.st_size, status.st_ino)
    assert (read["sha256"], read["unchanged"]) == (digest(image), True)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(status.st_mtime))
    assert read["modified"] == f"{stamp}.{status.st_mtime_ns % 10**9:09}Z"
    assert time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(before)) <= note["begin"] <= note["end"]
    assert stat.S_IMODE(os.stat("notes").st_mode) == 0o600


def test_a_hash_is_computed_once_for_each_file(
    run: Run, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(image, monkeypatch)
    for _ in range(2):
        run("info", str(image), "--case-notes", "notes")
    with image.open("r+b") as file:
        file.write(b"X")
    run("info", str(image), "--case-notes", "notes")

    first, second, third = [note["inputs"][0] for note in notes_of(Path("notes"))]
    assert first["hashed"] == second["hashed"] != third["hashed"]
    assert first["sha256"] == second["sha256"] != third["sha256"] == digest(image)


def test_a_hash_that_others_may_have_written_is_not_believed(
    run: Run, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(image, monkeypatch)
    run("info", str(image), "--case-notes", "notes")
    text = Path("notes").read_text().replace(digest(image), "0" * 64)
    Path("notes").write_text(text)
    Path("notes").chmod(0o666)

    run("info", str(image), "--case-notes", "notes")

    assert notes_of(Path("notes"))[1]["inputs"][0]["sha256"] == digest(image)


def test_a_file_just_changed_is_hashed_anew(run: Run, image: Path) -> None:
    for _ in range(2):
        image.touch()
        run("info", str(image), "--case-notes", "notes")

    first, second = [note["inputs"][0] for note in notes_of(Path("notes"))]
    assert first["hashed"] != second["hashed"]


@pytest.mark.parametrize(
    ("words", "read", "written"),
    [
        ("compare IMAGE IMAGE", 2, []),
        ("check IMAGE IMAGE", 2, []),
        ("map IMAGE --png picture.png --against IMAGE", 2, ["picture.png"]),
        ("map IMAGE --png picture.png -n", 1, []),
        ("convert IMAGE new -O sparse", 1, ["new"]),
        ("convert IMAGE -O null", 1, []),
        ("convert IMAGE - -O raw -F", 1, []),
        ("export IMAGE new", 1, ["new"]),
        ("report IMAGE --quick", 1, ["libvirt-devices.save.report.html"]),
        ("prepare IMAGE new", 1, ["new"]),
        ("xml dump IMAGE", 1, []),
        ("read IMAGE 0 16 --physical", 1, []),
    ],
)
def test_what_is_read_and_what_is_written(
    words: str, read: int, written: list[str], image: Path, run: Run
) -> None:
    argv = [str(image) if word == "IMAGE" else word for word in words.split()]
    done = spawn(*argv, "--case-notes=notes", stdout=subprocess.PIPE)
    out, _ = done.communicate(timeout=60)

    assert done.returncode == 0
    (note,) = notes_of(Path("notes"))
    assert len(note["inputs"]) == read
    assert {one["sha256"] for one in note["inputs"]} == {digest(image)}
    names = [Path(one["path"]).name for one in note["outputs"]]
    assert [name if name in written else "?" for name in names] == written
    for one in note["outputs"]:
        assert one["sha256"] == digest(Path(one["path"]))
    printed = {"size": len(out), "sha256": hashlib.sha256(out).hexdigest()} if out else None
    assert note["printed"] == printed


def test_a_file_that_a_block_lies_in_is_evidence(run: Run, image: Path) -> None:
    Path("ram").write_bytes(b"\1" * 4096)
    run("info", str(image), "--shared", "pc.ram=ram", "--case-notes", "notes")

    (note,) = notes_of(Path("notes"))
    assert [one["sha256"] for one in note["inputs"]] == [digest(image), digest(Path("ram"))]


def test_of_a_folder_what_is_new_is_noted(run: Run, image: Path) -> None:
    assert run("export", str(image), "blocks", "-O", "blocks", "--case-notes", "notes").code == 0

    (note,) = notes_of(Path("notes"))
    assert {one["path"]: one["sha256"] for one in note["outputs"]} == {
        str(path.absolute()): digest(path) for path in Path("blocks").iterdir()
    }
    assert len(note["outputs"]) > 1


def test_a_change_in_place_is_noted_before_and_after(run: Run, image: Path) -> None:
    old = digest(image)
    assert run("xml", "set", str(image), "--paused", "--case-notes", "notes").code == 0

    (note,) = notes_of(Path("notes"))
    (before,), (after,) = note["inputs"], note["outputs"]
    assert (before["sha256"], before["unchanged"]) == (old, False)
    assert after["sha256"] == digest(image) != old


def test_an_error_is_noted(run: Run, image: Path) -> None:
    Path("there").write_bytes(b"x")
    refused = run("export", str(image), "there", "--case-notes", "notes")
    missing = run("info", "mis\nsing", "--case-notes", "notes")
    wrong = run("map", str(image), "--width=8", "--case-notes", "notes")

    assert [refused.code, missing.code, wrong.code] == [1, 1, 64]
    first, second, third = notes_of(Path("notes"))
    assert first["errors"] == [refused.err.removeprefix("savefmt: ").rstrip("\n")]
    assert (first["exit_code"], first["outputs"]) == (1, [])
    assert second["errors"] == ["mis\nsing: No such file or directory"]
    assert second["inputs"][0]["kind"] == "missing"
    assert third["exit_code"] == 64


def test_names_that_are_no_text(run: Run, image: Path) -> None:
    name = os.fsdecode(b"\xff\x1b[31m'\"\n")
    image.rename(image.parent / name)
    path = str(image.parent / name)

    assert run("info", path, "--case-notes", f"{path}.notes").code == 0

    line = Path(f"{path}.notes").read_bytes()
    assert line.count(b"\n") == 1
    assert line.isascii()
    (note,) = notes_of(Path(f"{path}.notes"))
    assert note["inputs"][0]["path"] == path


def test_a_pipe_has_no_hash(image: Path) -> None:
    with image.open("rb") as data:
        done = spawn("convert", "-", "new", "--case-notes=notes", stdin=data)
        assert done.wait(60) == 0

    (note,) = notes_of(Path("notes"))
    assert [(one["path"], one["kind"], one["sha256"]) for one in note["inputs"]] == [
        ("-", "pipe", None)
    ]
    assert note["outputs"][0]["sha256"] == digest(Path("new"))


def test_a_named_pipe_is_left_to_the_command(run: Run, tmp_path: Path, image: Path) -> None:
    os.mkfifo("pipe")

    assert run("info", "pipe", "--case-notes", "notes").code == 1

    assert notes_of(Path("notes"))[0]["inputs"][0]["kind"] == "pipe"


def test_ctrl_c_is_noted(image: Path) -> None:
    """While the image is hashed: it is large, and nothing else has begun."""
    large = Path("large")
    large.write_bytes(image.read_bytes())
    os.truncate(large, 1 << 40)
    process = spawn("check", large, "--case-notes=notes")
    opened = Path(f"/proc/{process.pid}/fd")
    wait_for(lambda: str(large.absolute()) in map(os.path.realpath, opened.iterdir()), "hashing")
    process.send_signal(signal.SIGINT)
    process.wait(30)

    (note,) = notes_of(Path("notes"))
    assert process.returncode == note["exit_code"] == 130
    assert note["errors"] == ["interrupted"]
    assert [(one["sha256"], one["unchanged"]) for one in note["inputs"]] == [(None, True)]


def test_the_image_is_no_place_for_notes(run: Run, image: Path) -> None:
    before = image.read_bytes()
    Path("link").symlink_to(image)
    Path("other").write_bytes(before)

    assert run("info", str(image), "--case-notes", str(image)).code == 64
    assert run("info", str(image), "--case-notes", "link").code == 64
    assert run("export", str(image), "new", "--case-notes", "./new").code == 64
    refused = run("info", str(image), "--case-notes", "other")
    assert refused.code == 1
    assert "holds something else" in refused.err
    assert image.read_bytes() == Path("other").read_bytes() == before
    assert not Path("new").exists()


def test_without_a_place_for_the_note_nothing_begins(run: Run, image: Path) -> None:
    done = run("export", str(image), "new", "--case-notes", "no/folder/notes")

    assert done.code == 1
    assert "make it first" in done.err
    assert not Path("new").exists()


def test_a_note_that_cannot_be_added_is_a_failure(image: Path) -> None:
    """The disk is full by then: of a file, as a limit has it."""
    script = (
        "import resource, sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "from savefmt.cli.main import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "sys.exit(main())"
    )
    words = [sys.executable, "-c", script, str(SOURCES)]
    words += ["info", str(image), "--case-notes", "notes"]
    done = subprocess.run(words, capture_output=True, check=False, text=True)

    assert done.returncode == 1
    assert "savefmt: notes: " in done.stderr
    spawn("info", image, "--case-notes=notes", stdout=subprocess.DEVNULL).wait(60)
    *torn, whole = Path("notes").read_bytes().splitlines()
    assert [len(line) <= 100 for line in torn] == [True]
    assert json.loads(whole)["exit_code"] == 0


def test_commands_at_once_share_a_file(run: Run, image: Path) -> None:
    started = [
        spawn("info", image, "--case-notes=notes", stdout=subprocess.DEVNULL) for _ in range(4)
    ]

    assert [process.wait(60) for process in started] == [0] * 4
    assert len(notes_of(Path("notes"))) == 4


def test_an_image_that_changes_meanwhile_is_told(
    library: FakeLibrary, run: Run, image: Path
) -> None:
    class Changing:
        def __call__(self, *args: object, **options: object) -> None:
            with image.open("ab") as file:
                file.write(b"more")
            raise savefmt.SavefmtError("it changed")

    library._patch.setitem(vars(savefmt), "probe", Changing())
    assert run("info", str(image), "--case-notes", "notes").code == 1

    (note,) = notes_of(Path("notes"))
    assert note["inputs"][0]["unchanged"] is False


def test_years_that_no_calendar_has(run: Run, image: Path) -> None:
    os.utime(image, ns=(-1, (1 << 62) // 1))

    assert run("info", str(image), "--case-notes", "notes").code == 0
    assert notes_of(Path("notes"))[0]["inputs"][0]["accessed"]
