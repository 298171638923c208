"""What `savefmt linux` tells of guests with other kernels, and of AArch64."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from interop import planted, planted_facts
from interop.conftest import lack_of_qemu

import savefmt
from savefmt.linux.answers import ask
from savefmt.linux.freelists import free_at_hand
from savefmt.linux.opening import open_kernel
from savefmt.linux.pagecache import extract

pytestmark = pytest.mark.forensics


@pytest.mark.parametrize(
    ("kernel", "vmcoreinfo"),
    [
        *(("5.10", True), ("6.1", False), ("6.12", True), ("6.12", False)),
        *(("newest", True), ("arm64", True)),
    ],
)
def test_every_answer_is_the_guests_own(kernel: str, vmcoreinfo: bool, tmp_path: Path) -> None:
    if lack_of_qemu() or planted.lack_of_kernel(kernel):
        pytest.skip(lack_of_qemu() or planted.lack_of_kernel(kernel))
    image_path = tmp_path / "image"
    with planted.boot(kernel, tmp_path, vmcoreinfo=vmcoreinfo) as machine:
        machine.migrate_to(f"file:{image_path}", {"mapped-ram": True})
        report = planted.Report(machine.console.read_bytes())

    with savefmt.open(image_path, io=savefmt.IOOptions(direct=False)) as image:
        planted_facts.check_all(image, report, all_names=kernel != "arm64")
        found = extract(open_kernel(image), "/tmp/evil", tmp_path / "evil")
        told_by_pages = ask(image, "pages")
        owned = told_by_pages.pages or ()
        at_hand = list(free_at_hand(open_kernel(image)))

    assert found.sha256 == report.digests["/tmp/evil"]
    assert hashlib.sha256((tmp_path / "evil").read_bytes()).hexdigest() == found.sha256
    assert bool(at_hand) == (kernel != "arm64")  # whose table of symbols has no variables
    assert not [one for one in told_by_pages.findings if one.code == "linux.list-damaged"]
    told = {one.owner.name: one.pages for one in owned}
    assert told["/tmp/evil"] == -(-planted.EVIL_LENGTH // 4096)
