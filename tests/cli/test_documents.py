"""Every kind of JSON, printed by the real commands about real images, fits its schema."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.fakes import Run
from documents import valid
from golden import load
from jsonschema import ValidationError

from savefmt.cli import commands

RUNS: dict[str, list[tuple[str, ...]]] = {
    "info": [("IMAGE",), ("IMAGE", "missing"), ("--pages", "IMAGE")],
    "check": [("IMAGE",), ("IMAGE", "missing", "--for", "libvirt=9.0.0")],
    "compat": [("IMAGE",)],
    "needs": [("IMAGE",), ("IMAGE", "--list")],
    "convert": [("IMAGE", "converted", "-O", "sparse")],
    "salvage": [("IMAGE", "salvaged")],
    "repair": [("IMAGE",), ("IMAGE", "--fix", "all"), ("IMAGE", "--fix", "cookie")],
    "compare": [("IMAGE", "IMAGE"), ("IMAGE", "OTHER", "--fields")],
    "xml": [("set", "IMAGE", "--paused")],
    "devices": [("IMAGE",), ("IMAGE", "none")],
    "regs": [("IMAGE",)],
    "memmap": [("IMAGE",)],
    "vtop": [("IMAGE", "0x7c00")],
    "search": [("IMAGE", "SeaBIOS"), ("IMAGE", "SeaBIOS", "-c")],
    "strings": [("IMAGE",), ("IMAGE", "--min-length=60000")],
    "hash": [("IMAGE",), ("OTHER", "--check", "manifest")],
    "stats": [("IMAGE",)],
    "map": [("IMAGE",), ("IMAGE", "--png", "picture.png"), ("IMAGE", "--png", "no", "-n")],
    "os": [("IMAGE",)],
    "linux": [("IMAGE",), ("IMAGE", "--extract", "/etc/passwd", "-o", "taken")],
    "export": [("IMAGE", "core"), ("IMAGE", "core")],
    "report": [("IMAGE",), ("IMAGE",), ("IMAGE", "--quick", "-F")],
    "save": [("saved", "--qmp", "no-such-socket")],
    "restore": [("IMAGE", "--print-command"), ("IMAGE", "--qmp", "no-such-socket")],
    "prepare": [("IMAGE", "prepared")],
    "clone": [("IMAGE", "clones")],
    "detach": [("IMAGE", "detached")],
    "plan": [
        ("saved", "--qemu-release", "9.2.0"),
        ("saved", "--qemu-release", "7.2.0", "--save-version=3", "--format=sparse", "--require"),
    ],
    "config": [("show",)],
    "fleet": [
        ("check", "IMAGE", "manifest", "-o", "run.jsonl"),
        ("hash", "no-such-file"),
        ("report", "run.jsonl"),
    ],
    "bench": [
        (".", "--size=1M", "--repeat=1", "--threads=1", "--window=1M"),
        (".", "--size=1M", "-n"),
    ],
}
LINES = {
    "search": ("IMAGE", "SeaBIOS"),
    "strings": ("IMAGE", "--min-length=32"),
    "hash": ("IMAGE", "--pages"),
    "map": ("IMAGE",),
    "fleet": ("audit", "IMAGE", "manifest", "OTHER"),
}


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> dict[str, str]:
    """Return the names that the tables use, in the present folder."""
    monkeypatch.chdir(tmp_path)
    found = {}
    for name, golden in (("IMAGE", "libvirt-devices"), ("OTHER", "libvirt-live")):
        (tmp_path / name).mkdir()
        load.unpack(golden, tmp_path / name)
        found[name] = str(next((tmp_path / name).iterdir()))
    Path("manifest").write_text(run("hash", found["IMAGE"], "--pages").out)
    return found


def test_the_table_is_complete() -> None:
    modules = {name: commands.load(name) for name in commands.NAMES}

    assert set(RUNS) == {name for name, module in modules.items() if hasattr(module, "documents")}


@pytest.mark.parametrize("command", [name for name, runs in RUNS.items() if runs])
def test_documents(command: str, images: dict[str, str], run: Run) -> None:
    for words in RUNS[command]:
        valid(command, run(command, *(images.get(word, word) for word in words), "-j").out)


@pytest.mark.parametrize("command", LINES)
def test_lines(command: str, images: dict[str, str], run: Run) -> None:
    words = [images.get(word, word) for word in LINES[command]]
    lines = run(command, *words, "--output=jsonl").out.splitlines()

    assert lines
    for line in lines[:100]:
        valid(command, line)


def test_a_member_too_many_or_too_few_is_noticed(run: Run) -> None:
    document = json.loads(run("config", "show", "-j").out)
    missing = {name: value for name, value in document.items() if name != "schema"}

    for changed in ({**document, "further": 1}, missing, {**document, "settings": {"a": 1}}):
        with pytest.raises(ValidationError):
            valid("config", json.dumps(changed))


def test_the_command_prints_schemas(run: Run) -> None:
    names = run("schema").out.split()

    assert set(names) == {*RUNS, "case-notes"}
    for name in names:
        shown = run("schema", name)
        assert shown.code == 0
        assert json.loads(shown.out)["title"] == f"savefmt {name} --output=json"
    assert run("schema", "read").code == 64
