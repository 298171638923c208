"""A file that appears under its name only when it is whole."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from builder import MIB, make_envelope, make_stream, page

import savefmt
from savefmt import (
    ConversionError,
    ImageChangedError,
    ImageIOError,
    IOOptions,
    Layout,
    OperationCancelled,
    Progress,
)
from savefmt.errors import SavefmtError
from savefmt.native.file import File
from savefmt.writing import output as output_module
from savefmt.writing import unfinished
from savefmt.writing.output import OutputFile, check_target


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def image(folder: Path, pages: int = 16) -> Path:
    path = folder / "source"
    blocks = {"pc.ram": b"".join(page(i) for i in range(pages))}
    path.write_bytes(make_envelope() + make_stream(blocks=blocks))
    return path


@pytest.fixture(params=["nameless", "hidden"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the file system has: files without a name, or only hidden ones."""
    if request.param == "hidden":
        monkeypatch.setattr(output_module, "open_linkable", lambda folder: None)
    return str(request.param)


# The file itself.


def test_nothing_stands_under_the_name_before_commit(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "target"

    with OutputFile(target, overwrite=False, direct=False) as output:
        output.file.write(b"content", 0)
        assert not target.exists()
        hidden = names(tmp_path)
        assert len(hidden) == (kind == "hidden")
        assert all(name.startswith(".target.savefmt-") for name in hidden)
        assert stat.S_IMODE(output.status.st_mode) == 0o600
        output.commit()

    assert names(tmp_path) == ["target"]
    assert target.read_bytes() == b"content"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with OutputFile(tmp_path / "target", overwrite=False, direct=False) as output:
            output.commit()
    finally:
        os.umask(old)

    assert stat.S_IMODE((tmp_path / "target").stat().st_mode) == 0o600


@pytest.mark.usefixtures("kind")
def test_without_commit_nothing_is_left(tmp_path: Path) -> None:
    with OutputFile(tmp_path / "target", overwrite=False, direct=False) as output:
        output.set_length(MIB)
    output.abort()

    assert names(tmp_path) == []


@pytest.mark.usefixtures("kind")
def test_an_old_file_is_replaced_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")

    with OutputFile(target, overwrite=True, direct=False) as output:
        output.file.write(b"new", 0)
        assert target.read_bytes() == b"old"
        output.commit()

    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["target"]
    assert output.status.st_size == 3


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_fails_once_the_name_is_given_is_a_remark(
    overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    if overwrite:
        target.write_bytes(b"old")
    fsync = os.fsync

    def fail_for_folders(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", fail_for_folders)
    with OutputFile(target, overwrite=overwrite, direct=False) as output:
        output.file.write(b"new", 0)
        output.commit()

    (note,) = output.notes
    assert "whether its name is on the disk is unknown: Input/output error" in note
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["target"]


def test_a_failed_close_closes_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close, closed = os.close, []

    def fail(fd: int) -> None:
        closed.append(fd)
        close(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with OutputFile(tmp_path / "target", overwrite=False, direct=False) as output:
        monkeypatch.setattr(os, "close", fail)
        output.commit()
        monkeypatch.undo()

    assert len(closed) == len(set(closed)) == 2  # the file and its folder
    assert names(tmp_path) == ["target"]


def test_what_a_second_interrupt_left_goes_at_the_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_module, "open_linkable", lambda folder: None)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        monkeypatch.context() as patch,
        OutputFile(tmp_path / "target", overwrite=False, direct=False),
    ):
        patch.setattr(os, "unlink", interrupt)
    assert len(names(tmp_path)) == 1
    unfinished.abort_all()

    assert names(tmp_path) == []


@pytest.mark.usefixtures("kind")
def test_a_target_that_came_up_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "target"

    with OutputFile(target, overwrite=False, direct=False) as output:
        target.write_bytes(b"other")
        with pytest.raises(ImageIOError) as caught:
            output.commit()

    assert caught.value.errno == errno.EEXIST
    assert target.read_bytes() == b"other"
    assert names(tmp_path) == ["target"]


@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.usefixtures("kind")
def test_where_hard_links_are_refused(
    taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "target"

    with OutputFile(target, overwrite=False, direct=False) as output:
        output.set_length(4 * MIB)
        output.file.write(b"content", MIB)
        if taken:
            target.write_bytes(b"other")
            target.chmod(0o644)
            with pytest.raises(ImageIOError):
                output.commit()
        else:
            output.commit()

    expected = b"content".rjust(MIB + 7, b"\0").ljust(4 * MIB, b"\0")
    assert target.read_bytes() == (b"other" if taken else expected)
    assert stat.S_IMODE(target.stat().st_mode) == (0o644 if taken else 0o600)
    assert names(tmp_path) == ["target"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")

    with OutputFile(tmp_path / "link", overwrite=True, direct=False) as output:
        output.file.write(b"new", 0)
        output.commit()

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_the_longest_name_still_gets_a_hidden_one(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 255)

    with OutputFile(target, overwrite=False, direct=False) as output:
        output.commit()

    assert names(tmp_path) == [target.name]


@pytest.mark.parametrize(
    ("prepare", "kind", "message"),
    [
        (Path.touch, ConversionError, "the target exists; --force"),
        (Path.mkdir, ConversionError, "not a regular file"),
        (os.mkfifo, ConversionError, "not a regular file"),
    ],
)
def test_targets_that_are_refused(
    prepare: Callable[[Path], None], kind: type[SavefmtError], message: str, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    prepare(target)

    with pytest.raises(kind, match=message) as caught:
        check_target(target, overwrite=False)
    assert caught.value.path == target


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ImageIOError, match="folder does not exist") as caught:
        check_target(tmp_path / "missing" / "target", overwrite=True)

    assert caught.value.errno == errno.ENOENT


# What a conversion makes of it.


def test_the_part_magic_stands_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it has a name for the time being, nobody takes it for a finished image."""
    monkeypatch.setattr(output_module, "open_linkable", lambda folder: None)
    seen: list[bytes] = []

    def look(progress: Progress) -> None:
        seen.extend(path.read_bytes()[:16] for path in tmp_path.glob(".target.*"))

    savefmt.convert(
        image(tmp_path), tmp_path / "target", layout=Layout.MAPPED_RAM, progress=look, verify=True
    )

    assert set(seen) == {b"LibvirtQemudPart"}
    assert (tmp_path / "target").read_bytes()[:16] == b"LibvirtQemudSave"


def test_an_existing_target_is_untouched(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")

    with pytest.raises(ConversionError, match="the target exists"):
        savefmt.convert(image(tmp_path), target, codec="raw")

    assert target.read_bytes() == b"precious"


def test_an_existing_target_survives_a_failure(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    source = image(tmp_path)
    source.write_bytes(source.read_bytes()[:-20])

    with pytest.raises(SavefmtError):
        savefmt.convert(source, target, layout=Layout.MAPPED_RAM, overwrite=True)

    assert target.read_bytes() == b"precious"
    assert names(tmp_path) == ["source", "target"]


@pytest.mark.parametrize("alias", ["same", "symbolic link", "hard link"])
def test_source_and_target_the_same(alias: str, tmp_path: Path) -> None:
    source = image(tmp_path)
    before = source.read_bytes()
    target = tmp_path / "source"
    if alias == "symbolic link":
        target = tmp_path / "link"
        target.symlink_to(source)
    elif alias == "hard link":
        target = tmp_path / "link"
        target.hardlink_to(source)

    with pytest.raises(ConversionError, match="the target is the source itself; --force"):
        savefmt.convert(source, target, codec="zstd")
    assert source.read_bytes() == before
    report = savefmt.convert(source, target, codec="zstd", overwrite=True)

    assert target.resolve().read_bytes() != before
    assert source.read_bytes() == (before if alias == "hard link" else target.read_bytes())
    assert target.is_symlink() == (alias == "symbolic link")
    told = "another name (a hard link) keeps the old file" in report.changes
    assert told == (alias == "hard link")


@pytest.mark.parametrize("options", [{"layout": Layout.MAPPED_RAM}, {"codec": "xz"}])
def test_cancelling_leaves_nothing(options: dict[str, object], tmp_path: Path) -> None:
    source = image(tmp_path, 3000)

    with pytest.raises(OperationCancelled):
        savefmt.convert(
            source,
            tmp_path / "target",
            progress=lambda progress: False,
            io=IOOptions(threads=2, window=MIB),
            **options,  # type: ignore[arg-type]
        )

    assert names(tmp_path) == ["source"]
    assert not [thread for thread in threading.enumerate() if "savefmt" in thread.name]


def test_progress_adds_up(tmp_path: Path) -> None:
    source = image(tmp_path, 3000)
    savefmt.convert(source, tmp_path / "sparse", layout=Layout.MAPPED_RAM)

    for path, layout in ((source, Layout.MAPPED_RAM), (tmp_path / "sparse", Layout.SEQUENTIAL)):
        told: list[Progress] = []

        savefmt.convert(path, tmp_path / "target", layout=layout, progress=told.append)

        work = [progress for progress in told if progress.phase == "converting"]
        assert work[-1].done == work[-1].total > 0
        assert [p.done for p in work] == sorted(p.done for p in work)
        (tmp_path / "target").unlink()


def test_a_source_that_changes_is_noticed(tmp_path: Path) -> None:
    source = image(tmp_path)

    def touch(progress: Progress) -> None:
        os.utime(source, (1, 1))

    with pytest.raises(ImageChangedError, match="changed while it was read"):
        savefmt.convert(source, tmp_path / "target", layout=Layout.MAPPED_RAM, progress=touch)
    assert names(tmp_path) == ["source"]


@pytest.mark.parametrize("layout", ["sequential", "mapped-ram"])
def test_a_source_that_shrinks_is_noticed(layout: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    blocks = {"pc.ram": b"".join(page(i) for i in range(6000))}
    source.write_bytes(make_stream(layout=layout, blocks=blocks))
    target = Layout.MAPPED_RAM if layout == "sequential" else Layout.SEQUENTIAL

    with savefmt.open(source) as opened:
        os.truncate(source, source.stat().st_size // 2)
        with pytest.raises(SavefmtError, match=r"cut short|shorter|ends|changed") as caught:
            savefmt.convert(opened, tmp_path / "target", layout=target)

    assert caught.value.path is not None
    assert names(tmp_path) == ["source"]


def test_a_failed_verification_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that forgets: the page area is overwritten between writing and reading back."""
    sync = File.sync

    def forget(file: File) -> None:
        file.write(b"\xff", file.read(1 << 16, 0).index(b"QEVM") + 3 * MIB // 2)
        sync(file)

    monkeypatch.setattr(File, "sync", forget)

    with pytest.raises(ConversionError, match=r"verification failed: page .* differs"):
        savefmt.convert(
            image(tmp_path, 200), tmp_path / "target", layout=Layout.MAPPED_RAM, verify=True
        )
    assert names(tmp_path) == ["source"]
