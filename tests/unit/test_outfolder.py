"""A folder that appears, or changes, at one stroke."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from savefmt import ConversionError, ImageIOError
from savefmt.writing import outfolder, unfinished
from savefmt.writing.outfolder import OutputFolder, check_folder


def fill(folder: OutputFolder, *names: str, content: bytes = b"new") -> None:
    for name in names:
        with folder.file(name) as output:
            output.file.write(content, 0)
            output.commit()


def tree(folder: Path) -> dict[str, str]:
    """All files below, with their content."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """An older folder, with a file and a folder of the user's own."""
    folder = tmp_path / "out"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "note").write_text("mine")
    (folder / "own").write_text("mine")
    (folder / "one").write_text("old")
    (folder / "two").write_text("old")
    folder.chmod(0o750)
    return folder


@pytest.fixture(params=["exchange", "aside"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the file system can."""

    def cannot(*_: object) -> None:
        raise NotImplementedError

    if request.param == "aside":
        monkeypatch.setattr(outfolder, "exchange", cannot)
    return str(request.param)


WITH_OWN = {"deep/note": "mine", "own": "mine"}


def test_a_new_folder(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "out", overwrite=False) as folder:
        fill(folder, "one", "two")
        assert not (tmp_path / "out").exists()
        folder.commit()

    assert tree(tmp_path) == {"out/one": "new", "out/two": "new"}
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
    assert [status.st_size for status in folder.written] == [3, 3]
    assert folder.notes == []


@pytest.mark.usefixtures("way")
def test_an_older_one_changes_at_one_stroke(old: Path) -> None:
    with OutputFolder(old, overwrite=True) as folder:
        fill(folder, "one", "three")
        folder.commit()

    assert tree(old) == {"one": "new", "two": "old", "three": "new", **WITH_OWN}
    assert stat.S_IMODE(old.stat().st_mode) == 0o750
    assert os.listdir(old.parent) == ["out"]
    (note,) = folder.notes
    assert note == "what else was in the folder is still there: deep, own, two"


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("number", range(3))
def test_what_fails_on_the_way_leaves_the_old_one(
    number: int, error: BaseException, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever call fails, two guests are never mixed, and nothing of the user's is lost."""
    before = tree(old)
    calls = []

    def failing(name: str) -> Callable[..., object]:
        call = getattr(outfolder, name)

        def fail(*args: object) -> object:
            calls.append(name)
            if len(calls) == number + 1:
                raise error
            return call(*args)

        return fail

    for name in ("copy_attributes", "exchange", "rename_new"):
        monkeypatch.setattr(outfolder, name, failing(name))
    try:
        with OutputFolder(old, overwrite=True) as folder:
            fill(folder, "one", "three")
            folder.commit()
    except (ImageIOError, KeyboardInterrupt):
        assert tree(old) == before
    else:
        assert len(calls) <= number
        assert tree(old)["one"] == "new"
    assert os.listdir(old.parent) == ["out"]


@pytest.mark.parametrize("name", ["link", "unlink", "rmdir", "rename"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_what_fails_afterwards_loses_nothing(
    name: str, error: BaseException, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = getattr(os, name)
    failed: list[str] = []

    def fail(*args: object, **options: object) -> object:
        if "deep" in args or (name != "rename" and not failed):
            failed.append(name)
            raise error
        return call(*args, **options)

    folder = OutputFolder(old, overwrite=True)
    fill(folder, "one")
    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        interrupted = False
        try:
            folder.commit()
        except KeyboardInterrupt:
            interrupted = True
    folder.abort()
    unfinished.abort_all()

    found = tree(old.parent)
    assert failed
    assert "mine" in [text for path, text in found.items() if path.endswith("deep/note")]
    assert found["out/own"] == "mine"
    assert found["out/one"] == ("old" if interrupted and name == "link" else "new")
    if not interrupted and name != "link":
        assert "could be removed" in folder.notes[-1]


@pytest.mark.usefixtures("way")
def test_without_commit_nothing_changes(old: Path) -> None:
    before = tree(old.parent)
    with OutputFolder(old, overwrite=True) as folder:
        fill(folder, "one")

    assert tree(old.parent) == before
    assert os.listdir(old.parent) == ["out"]


def test_a_scratch_file_costs_nobody_one_of_that_name(old: Path) -> None:
    (old / "scratch").write_text("mine")

    with OutputFolder(old, overwrite=True) as folder:
        with folder.scratch() as scratch:
            scratch.file.write(b"new", 0)
        fill(folder, "one")
        folder.commit()

    assert tree(old) == {"one": "new", "two": "old", "scratch": "mine", **WITH_OWN}


def test_an_interrupt_while_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> int:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(outfolder, "_open", interrupt)
    with pytest.raises(KeyboardInterrupt):
        OutputFolder(tmp_path / "out", overwrite=False)

    assert os.listdir(tmp_path) == []


def test_a_link_to_a_folder_is_followed(old: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("out")

    with OutputFolder(tmp_path / "link", overwrite=True) as folder:
        fill(folder, "one")
        folder.commit()

    assert (tmp_path / "link").is_symlink()
    assert (old / "one").read_text() == "new"


@pytest.mark.parametrize("name", [".", "../out", "../out/", "deep/.."])
def test_a_folder_by_another_name(name: str, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(old)

    with OutputFolder(name, overwrite=True) as folder:
        fill(folder, "one")
        folder.commit()

    assert (old / "one").read_text() == "new"
    assert tree(old) == {"one": "new", "two": "old", **WITH_OWN}


def test_refused(old: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="--force"):
        check_folder(old, overwrite=False)
    with pytest.raises(ConversionError, match="not a folder"):
        check_folder(old / "one", overwrite=True)
    with pytest.raises(ImageIOError, match="make it first"):
        check_folder(tmp_path / "no" / "out", overwrite=True)


def test_a_folder_that_came_up_meanwhile_is_kept(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "out", overwrite=False) as folder:
        fill(folder, "one")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "own").write_text("mine")
        with pytest.raises(ImageIOError) as caught:
            folder.commit()

    assert caught.value.errno == errno.EEXIST
    assert tree(tmp_path) == {"out/own": "mine"}
    assert os.listdir(tmp_path) == ["out"]
