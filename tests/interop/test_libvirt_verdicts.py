"""What the table says of the libvirt that is installed is what `virsh restore` does."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from golden import load

import savefmt
from interop.conftest import need_machine, version_of
from interop.libvirt import Libvirt, VirshError
from interop.qemu import EMULATOR
from savefmt.compat.host import installed_libvirt
from savefmt.compat.releases import Reader, Release
from savefmt.compat.verdict import compatibility
from savefmt.errors import SavefmtError
from savefmt.reports import Answer

pytestmark = pytest.mark.interop

YES, BUT, NO = Answer.YES, Answer.YES_BUT, Answer.NO
MAGIC_LENGTH = 16
UNUSED = 36
SEQUENTIAL, MAPPED = savefmt.Layout.SEQUENTIAL, savefmt.Layout.MAPPED_RAM


def as_it_is(source: Path, target: Path) -> None:
    source.rename(target)


def version_1(source: Path, target: Path) -> None:
    savefmt.convert(source, target, save_version=1)


def version_3(source: Path, target: Path) -> None:
    savefmt.convert(source, target, save_version=3)


def version_3_mapped(source: Path, target: Path) -> None:
    savefmt.convert(source, target, save_version=3, layout=MAPPED)


def bare(source: Path, target: Path) -> None:
    savefmt.convert(source, target, bare=True)


def unfinished(source: Path, target: Path) -> None:
    target.write_bytes(b"LibvirtQemudPart" + source.read_bytes()[MAGIC_LENGTH:])


def spare_word(source: Path, target: Path) -> None:
    data = bytearray(source.read_bytes())
    struct.pack_into("<I", data, UNUSED, 1)
    target.write_bytes(data)


# Made of the image, the answer, what virsh says to a no, and whether a conversion helps.
CASES: dict[str, tuple[str, Callable[[Path, Path], None], Answer, str, bool]] = {
    "raw": ("libvirt-raw", as_it_is, YES, "", False),
    "zstd": ("libvirt-zstd", as_it_is, BUT, "", False),
    "sparse": ("libvirt-sparse", as_it_is, BUT, "", False),
    "mislabelled": ("libvirt-mislabelled", as_it_is, NO, "migration failed", True),
    "version 1": ("libvirt-raw", version_1, YES, "", False),
    "version 3": ("libvirt-raw", version_3, NO, "version is not supported", True),
    "version 3 mapped": ("libvirt-raw", version_3_mapped, NO, "version is not supported", True),
    "bare": ("libvirt-raw", bare, NO, "magic", False),
    "unfinished": ("libvirt-raw", unfinished, NO, "incomplete", False),
    "spare word": ("libvirt-raw", spare_word, BUT, "", False),
}


@pytest.mark.parametrize("name", CASES)
def test_the_verdict_is_what_happens(name: str, libvirt: Libvirt, tmp_path: Path) -> None:
    golden, make, answer, refusal, helped = CASES[name]
    facts = load.manifest()[golden]
    need_machine(facts["machine"])
    load.firmware("libvirt", tmp_path).rename(libvirt.path("/var/lib/libvirt/images/firmware.bin"))
    image, converted = tmp_path / "image", tmp_path / "converted"
    make(load.unpack(golden, tmp_path), image)
    release = installed_libvirt()
    assert release is not None
    reader = Reader("libvirt", release)

    (verdict,) = compatibility(image, [reader]).verdicts

    assert verdict.answer is answer, verdict
    if answer is not NO:
        restore(libvirt, image, facts["domain"])
        return
    with pytest.raises(VirshError, match=refusal):
        restore(libvirt, image, facts["domain"])
    assert bool(verdict.conversion) is helped
    if helped:
        savefmt.convert(image, converted, readers=[reader])
        restore(libvirt, converted, facts["domain"])
        return
    with pytest.raises(SavefmtError):
        savefmt.convert(image, converted, readers=[reader])


CORES = """\
<domain type='qemu'><name>cores</name><uuid>0bb3d62c-1f2b-4a7d-9d0a-4c2f5e6a7b10</uuid>
<memory unit='MiB'>16</memory><vcpu>2</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
<cpu mode='custom' match='exact'><model>qemu64</model>
<topology sockets='1' dies='1' cores='2' threads='1'/></cpu>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator><controller type='usb' model='none'/>
<memballoon model='none'/></devices></domain>
"""


@pytest.mark.parametrize("policy", ["require", "disable"])
def test_two_cores_without_ht(policy: str, libvirt: Libvirt, tmp_path: Path) -> None:
    """QEMU tells of ht from 10.0 on, and the cookie of a guest of an older one has none."""
    image = tmp_path / "image"
    libvirt.start(CORES)
    libvirt.save("cores", image, "raw")
    there, wanted = (f"policy='{word}' name='ht'".encode() for word in ("require", policy))
    saved = image.read_bytes()
    if saved.count(there) != 1:
        pytest.skip("this QEMU tells of no ht")
    image.write_bytes(saved.replace(there, wanted))
    release, qemu = installed_libvirt(), version_of(EMULATOR)
    assert release is not None
    assert qemu is not None

    (verdict,) = compatibility(image, [Reader("libvirt", release, starts=Release(*qemu))]).verdicts

    assert (verdict.answer is NO) is (policy == "disable" and release < (11, 10))
    if verdict.answer is NO:
        with pytest.raises(VirshError, match="extra features: ht"):
            restore(libvirt, image, "cores")
    else:
        restore(libvirt, image, "cores")


def restore(libvirt: Libvirt, image: Path, domain: str) -> None:
    """Restore an image, and see its guest run or wait as it was saved."""
    try:
        libvirt.restore(image)
        assert libvirt.state(domain) in ("running", "paused")
    finally:
        libvirt.destroy(domain)
