"""A QEMU program is asked for its device state once, and again when it is another one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from savefmt.compat.keptstate import kept_state_table
from savefmt.compat.statetable import StateTable
from savefmt.qmp import MonitorError

TABLE = StateTable({"isa-serial": "serial"}, {"serial": (2, 3)})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "savefmt"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """One that notes each time that it is asked."""
    described = {"name": "serial", "version_id": 3, "minimum_version_id": 2}
    printed = json.dumps({"isa-serial": {"Name": "isa-serial", "Description": described}})
    path = tmp_path / "qemu-system-fake"
    path.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/asked\necho '{printed}'\n")
    path.chmod(0o755)
    return path


def asked(program: Path) -> int:
    """Ask for the table, and tell how often the program was run."""
    assert kept_state_table(str(program), program.stat()) == TABLE
    return program.with_name("asked").read_text().count("asked")


def test_it_is_asked_once(program: Path, cache: Path) -> None:
    assert [asked(program) for _ in range(3)] == [1, 1, 1]
    (kept,) = cache.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    assert cache.stat().st_mode & 0o777 == 0o700


def test_another_program_of_that_name_is_asked(program: Path, cache: Path) -> None:
    asked(program)
    text = program.read_text()
    status = program.stat()
    program.write_text(text)
    os.utime(program, ns=(status.st_atime_ns, status.st_mtime_ns))  # the time of change stays

    assert asked(program) == 2


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"names": 1, "versions": {}}', '{"names": {}, "versions": {"a": [1]}}'],
)
def test_what_is_no_table_is_made_anew(content: str, program: Path, cache: Path) -> None:
    asked(program)
    (kept,) = cache.iterdir()
    kept.write_text(content)

    assert [asked(program), asked(program)] == [2, 2]


def test_what_others_may_write_is_not_believed(program: Path, cache: Path) -> None:
    asked(program)
    (kept,) = cache.iterdir()
    kept.chmod(0o666)

    assert asked(program) == 2


def test_a_link_is_not_followed(program: Path, cache: Path) -> None:
    asked(program)
    (kept,) = cache.iterdir()
    away = kept.rename(cache.parent / "away")
    kept.symlink_to(away)

    assert asked(program) == 2


def test_without_a_cache_folder(program: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

        assert [asked(program), asked(program)] == [1, 2]


def test_a_program_that_does_not_tell(program: Path, cache: Path) -> None:
    program.write_text("#!/bin/sh\necho no\n")

    with pytest.raises(MonitorError, match="does not tell"):
        kept_state_table(str(program), program.stat())
    assert not list(cache.glob("*.vmstate"))
