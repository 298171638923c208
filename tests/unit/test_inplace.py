"""Changes where a file stands: one sector, or a new file that takes its place."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import stat
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from builder import DOMAIN_XML, make_envelope, make_stream

import savefmt
from savefmt import ConversionError, ImageChangedError, ImageIOError, edit
from savefmt.writing import copying, inplace
from savefmt.writing import output as output_module
from savefmt.writing.output import OutputFile

LARGE = DOMAIN_XML.replace(
    b"</name>", b"</name>\n  <description>" + b"x" * 4000 + b"</description>"
)
SHIFTED = LARGE.replace(b"<name>", b"<title>t</title>\n<name>")
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of other users")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image whose XML takes many sectors."""
    path = tmp_path / "image"
    path.write_bytes(make_envelope(xml=LARGE, cookie=b"<cookie/>", padding=9000) + make_stream())
    path.chmod(0o640)
    return path


def alone(path: Path) -> None:
    assert os.listdir(path.parent) == [path.name]


# One sector.


def test_one_sector_is_written_where_it_stands(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[bytes, int]] = []
    pwrite = os.pwrite

    def note(fd: int, data: bytes, offset: int) -> int:
        written.append((bytes(data), offset))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", note)
    before, number = image.read_bytes(), image.stat().st_ino

    edit.set_xml(image, LARGE.replace(b"xxx</desc", b"yyy</desc"))
    edit.set_xml(image, None, running=False)

    at = before.index(b"xxx</desc")
    assert written == [(b"yyy", at), (b"\0", 24)]
    assert image.stat().st_ino == number
    alone(image)


@pytest.mark.parametrize("fault", ["write", "fsync"])
def test_what_fails_is_put_back(fault: str, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = image.read_bytes()
    failed: list[str] = []
    pwrite, fsync = os.pwrite, os.fsync

    def fail_once(number: int) -> None:
        if not failed:
            failed.append(fault)
            raise OSError(number, os.strerror(number))

    def write(fd: int, data: bytes, offset: int) -> int:
        if fault == "write":
            pwrite(fd, data[:1], offset)
            fail_once(errno.ENOSPC)
        return pwrite(fd, data, offset)

    def sync(fd: int) -> None:
        if fault == "fsync":
            fail_once(errno.EIO)
        fsync(fd)

    monkeypatch.setattr(os, "pwrite", write)
    monkeypatch.setattr(os, "fsync", sync)

    with pytest.raises(ImageIOError) as caught:
        edit.set_xml(image, LARGE.replace(b"xxx</desc", b"yyy</desc"))

    assert failed
    assert "put back" not in caught.value.message
    assert image.read_bytes() == before
    alone(image)


def test_an_interrupt_puts_back_as_well(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = image.read_bytes()
    fsync, calls = os.fsync, []

    def interrupted(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            raise KeyboardInterrupt
        fsync(fd)

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        edit.set_xml(image, None, running=False)

    assert image.read_bytes() == before


# A new file.


@pytest.fixture(params=["shared", "copied", "piecewise", "hidden"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the content gets into the new file."""

    def cannot(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    if request.param in ("copied", "piecewise"):
        monkeypatch.setattr(inplace, "share_content", lambda source, target: False)
    if request.param == "piecewise":
        monkeypatch.setattr(os, "copy_file_range", cannot)
    if request.param == "hidden":
        monkeypatch.setattr(output_module, "open_linkable", lambda folder: None)
    return str(request.param)


@pytest.mark.usefixtures("way")
def test_more_than_a_sector_makes_a_new_file(image: Path) -> None:
    before, status = image.read_bytes(), image.stat()

    report = edit.set_xml(image, SHIFTED)

    after = image.read_bytes()
    assert (report.changed, report.moved) == (True, False)
    assert edit.dump_xml(image) == SHIFTED
    assert edit.dump_xml(image, cookie=True) == b"<cookie/>"
    assert len(after) == len(before)
    assert after[after.index(b"QEVM") :] == before[before.index(b"QEVM") :]
    assert image.stat().st_ino != status.st_ino
    assert stat.S_IMODE(image.stat().st_mode) == 0o640
    alone(image)


@pytest.mark.usefixtures("way")
def test_holes_stay_holes(image: Path) -> None:
    os.truncate(image, image.stat().st_size)
    savefmt.convert(image, image, layout=savefmt.Layout.MAPPED_RAM, overwrite=True)
    blocks, data = image.stat().st_blocks, image.read_bytes()

    edit.set_xml(image, SHIFTED)

    assert image.stat().st_blocks <= blocks + 16
    assert image.read_bytes()[92 + 20000 :] == data[92 + 20000 :]
    assert savefmt.check(image, level=savefmt.CheckLevel.FULL).ok


@contextmanager
def limited(kind: int, limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


@pytest.mark.parametrize("limit", [0, 100, 4096, 6000, 13000])
@pytest.mark.parametrize("xml", [SHIFTED, LARGE.replace(b"xxx</desc", b"yyy</desc"), LARGE * 1])
def test_a_limit_on_the_length_of_files(limit: int, xml: bytes, image: Path) -> None:
    """A limit in the midst of the header tears nothing."""
    before = image.read_bytes()
    if xml == LARGE:
        xml = LARGE.replace(b"xxx", b"x" * 9999)  # which moves the stream
    failure = None
    try:
        with limited(resource.RLIMIT_FSIZE, limit):
            edit.set_xml(image, xml)
    except ImageIOError as error:
        failure = error.errno
    assert failure in (None, errno.EFBIG)
    if failure:
        assert image.read_bytes() == before
    else:
        assert edit.dump_xml(image) == xml
    alone(image)


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def grant(path: Path) -> None:
    """Let one more user read a file, by an access list."""
    nobody_else = 0xFFFFFFFF
    entries = (
        (0x01, 6, nobody_else),
        (0x02, 4, 1234),
        (0x04, 4, nobody_else),
        (0x10, 4, nobody_else),
        (0x20, 0, nobody_else),
    )
    try:
        os.setxattr(path, "system.posix_acl_access", acl(*entries))
        os.setxattr(path, "user.note", b"mine")
    except OSError as error:
        pytest.skip(f"no access lists or attributes here: {error.strerror}")


@pytest.mark.parametrize("move", [False, True])
def test_attributes_go_with_the_name(move: bool, image: Path) -> None:
    grant(image)
    if os.geteuid() == 0:
        os.chown(image, 64055, 108)
        image.chmod(0o640)
    kept = {name: os.getxattr(image, name) for name in os.listxattr(image)}
    before = image.stat()
    assert len(kept) >= 2

    report = edit.set_xml(image, LARGE.replace(b"xxx", b"x" * 9999) if move else SHIFTED)

    after = image.stat()
    assert report.moved == move
    assert after.st_ino != before.st_ino
    assert {name: os.getxattr(image, name) for name in os.listxattr(image)} == kept
    assert (after.st_uid, after.st_gid, after.st_mode) == (
        before.st_uid,
        before.st_gid,
        before.st_mode,
    )


def test_a_default_access_list_of_the_folder_lends_nothing(image: Path) -> None:
    nobody_else = 0xFFFFFFFF
    entries = ((1, 7, nobody_else), (2, 7, 1234), (4, 0, nobody_else), (16, 7, nobody_else))
    default = acl(*entries, (32, 0, nobody_else))
    try:
        os.setxattr(image.parent, "system.posix_acl_default", default)
    except OSError as error:
        pytest.skip(f"no access lists here: {error.strerror}")

    edit.set_xml(image, SHIFTED)

    assert "system.posix_acl_access" not in os.listxattr(image)
    assert stat.S_IMODE(image.stat().st_mode) == 0o640


def test_nothing_is_called_by_name_once_the_name_is_given(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger who owns the folder puts a link there the moment the file has its name."""
    victim = image.parent / "victim"
    victim.write_bytes(b"precious")
    victim.chmod(0o600)
    before = victim.stat()
    rename = os.rename

    def swap(source: str, target: str, **folders: int) -> None:
        rename(source, target, **folders)
        image.unlink()
        image.symlink_to(victim)

    monkeypatch.setattr(os, "rename", swap)
    if os.geteuid() == 0:
        os.chown(image, 64055, 108)
    edit.set_xml(image, SHIFTED)

    assert victim.read_bytes() == b"precious"
    assert (victim.stat().st_uid, victim.stat().st_mode) == (before.st_uid, before.st_mode)


def test_hard_links_that_are_split_are_told(image: Path) -> None:
    os.link(image, image.parent / "other")
    before = image.read_bytes()

    assert "hard link" in edit.set_xml(image, SHIFTED).changes[-1]
    assert (image.parent / "other").read_bytes() == before
    assert edit.set_xml(image, None, running=False).changes == ("the guest will stay paused",)


@as_root
def test_without_root_rights_of_the_old_group_go_to_nobody_else(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chown(image, 64055, 108)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchown", refuse)
    report = edit.set_xml(image, SHIFTED)

    assert stat.S_IMODE(image.stat().st_mode) == 0o600
    assert "the owner, 64055:108, needs root to be kept" in report.changes


def test_a_file_that_may_not_be_written_is_not_replaced(image: Path) -> None:
    before = image.read_bytes()
    image.chmod(0o440)
    image.parent.chmod(0o777)
    for above in image.parents:
        if above.stat().st_uid == os.geteuid() and "pytest" in str(above):
            above.chmod(0o755)
    old = os.geteuid()
    if old == 0:
        os.chown(image, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        with pytest.raises(ImageIOError) as caught:
            edit.set_xml(image, SHIFTED)
    finally:
        os.seteuid(old)

    assert caught.value.errno == errno.EACCES
    assert image.read_bytes() == before


# Another image by now.


@pytest.mark.parametrize("xml", [SHIFTED, LARGE.replace(b"xxx</desc", b"yyy</desc")])
@pytest.mark.parametrize("change", ["replaced", "written", "gone", "link"])
def test_an_image_that_was_saved_anew_is_left_alone(
    xml: bytes, change: str, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = image.read_bytes().replace(b"tiny", b"slim")

    def save_anew(old: bytes, new: bytes) -> list[str]:
        if change in ("replaced", "gone", "link"):
            image.rename(image.parent / "old")
        if change == "link":
            image.symlink_to("old")
        if change in ("replaced", "written"):
            image.write_bytes(other)
        os.utime(image.parent / "old" if change in ("gone", "link") else image, (5, 5))
        return []

    monkeypatch.setattr(edit, "running_abi_changes", save_anew)

    with pytest.raises((ImageChangedError, ImageIOError)) as caught:
        edit.set_xml(image, xml)

    assert caught.value.path == image
    if change in ("replaced", "written"):
        assert image.read_bytes() == other
    assert not [name for name in os.listdir(image.parent) if "savefmt" in name]


def test_an_image_that_is_replaced_while_the_new_file_grows(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = image.read_bytes().replace(b"tiny", b"slim")
    share = copying.share_content

    def and_replace(source: int, target: int) -> bool:
        done = share(source, target)
        image.rename(image.parent / "old")
        image.write_bytes(other)
        return done

    monkeypatch.setattr(inplace, "share_content", and_replace)
    with pytest.raises(ImageChangedError, match="was replaced or changed since it was read"):
        edit.set_xml(image, SHIFTED)

    assert image.read_bytes() == other
    assert sorted(os.listdir(image.parent)) == ["image", "old"]


def test_one_change_at_a_time(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = image.read_bytes()
    with image.open("rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        for xml in (SHIFTED, LARGE.replace(b"xxx</desc", b"yyy</desc")):
            with pytest.raises(ConversionError, match="another process is changing it"):
                edit.set_xml(image, xml)
            with monkeypatch.context() as patch:  # locked between the look and the change
                patch.setattr(inplace, "refuse_in_use", lambda path: None)
                with pytest.raises(ImageIOError, match="another process is changing this image"):
                    edit.set_xml(image, xml)
        with pytest.raises(ConversionError, match="another process is changing it"):
            savefmt.convert(image, image, codec="zstd", overwrite=True)
    assert image.read_bytes() == before

    edit.set_xml(image, SHIFTED)


def test_the_document_that_was_edited_must_be_there_still(image: Path) -> None:
    edit.set_xml(image, SHIFTED)
    before = image.read_bytes()

    with pytest.raises(ImageChangedError, match="has changed since it was read"):
        edit.set_xml(image, LARGE.replace(b"xxx", b"yyy"), expected=LARGE)
    with pytest.raises(ImageChangedError, match="has changed since it was read"):
        edit.set_xml(image, b"<cookie></cookie>", cookie=True, expected=b"<cookie>old</cookie>")
    assert image.read_bytes() == before

    assert edit.set_xml(image, LARGE, expected=SHIFTED).changed


@pytest.mark.parametrize("torn", [b"<domain><na", b"", b"<cookie/>", b"\xff\xfe"])
def test_broken_xml_can_be_put_right(torn: bytes, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(make_envelope(xml=torn, padding=9000) + make_stream())

    report = edit.set_xml(image, LARGE)

    assert edit.dump_xml(image) == LARGE
    assert "could not be read" in report.changes[0]
    with pytest.raises(ConversionError, match="name changes"):
        edit.set_xml(image, LARGE.replace(b"<name>tiny<", b"<name>other<"))


def test_a_full_disk_is_told_before_the_copy(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = image.read_bytes()
    monkeypatch.setattr(inplace, "share_content", lambda source, target: False)
    monkeypatch.setattr(output_module.OutputFile, "room", property(lambda output: 4096))

    with pytest.raises(ImageIOError, match="the change needs a new file") as caught:
        edit.set_xml(image, SHIFTED)

    assert caught.value.errno == errno.ENOSPC
    assert image.read_bytes() == before
    alone(image)


# Real file systems.


@pytest.fixture(params=["xfs", "btrfs", "ext4", "vfat", "tmpfs"])
def other_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A file system of another kind, mounted from a file."""
    kind = str(request.param)
    if os.geteuid() != 0:
        pytest.skip("only root mounts a file system")
    disk, folder = tmp_path / "disk", tmp_path / "mounted"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "none", str(folder)]
    if kind != "tmpfs":
        maker = shutil.which(f"mkfs.{kind}", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if maker is None:
            pytest.skip(f"no mkfs.{kind}")
        with disk.open("wb") as file:
            file.truncate(400 << 20)  # XFS takes no less than 300 MiB
        subprocess.run([maker, str(disk)], check=True, capture_output=True)
        words = ["mount", "-o", "loop", str(disk), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no {kind} here: {done.stderr.strip()}")
    yield kind, folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    disk.unlink(missing_ok=True)


def test_changes_on_other_file_systems(other_disk: tuple[str, Path], image: Path) -> None:
    """Where extents can be shared, and where files must have names and no links."""
    kind, folder = other_disk
    path = folder / "image"
    path.write_bytes(image.read_bytes())
    with path.open("rb") as file, OutputFile(folder / "probe", overwrite=False) as probe:
        shares = copying.share_content(file.fileno(), probe.descriptor)
    assert shares == (kind in ("xfs", "btrfs"))

    edit.set_xml(path, SHIFTED)
    savefmt.convert(path, folder / "out", codec="zstd", verify=True)
    with pytest.raises(ConversionError, match="--force"):
        savefmt.convert(path, folder / "out", codec="gzip")
    savefmt.convert(path, folder / "out", codec="gzip", overwrite=True)
    savefmt.export(path, folder / "blocks", format="blocks")
    report = savefmt.export(path, folder / "blocks", format="blocks", overwrite=True)

    assert edit.dump_xml(path) == edit.dump_xml(folder / "out") == SHIFTED
    assert savefmt.compare(path, folder / "out").same
    assert sorted(os.listdir(folder)) in (
        ["blocks", "image", "out"],
        ["blocks", "image", "lost+found", "out"],
    )
    assert sorted(os.listdir(folder / "blocks")) == sorted(report.files)
