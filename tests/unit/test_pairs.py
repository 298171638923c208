"""What two releases do together, and what distributions and Arm's registers decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builder import make_envelope, make_stream

import savefmt
from savefmt.compat.armregisters import KNOWN_TO, TRIED, named, unknown_registers
from savefmt.compat.findings import reader_findings
from savefmt.compat.machines import Machine
from savefmt.compat.pitfalls import PITFALLS
from savefmt.compat.releases import Reader, Release, paired
from savefmt.compat.rules import obstacles
from savefmt.compat.traits import Form, Traits, examine
from savefmt.compat.verdict import judge
from savefmt.frozen import replace
from savefmt.model import Layout
from savefmt.reports import Answer

YES, BUT, NO = Answer.YES, Answer.YES_BUT, Answer.NO


def traits(form: str = "raw", machine: str = "pc-q35-8.2", **more: Any) -> Traits:
    """Return traits of an image of that form."""
    layout = Layout.MAPPED_RAM if form == "sparse" else Layout.SEQUENTIAL
    codec = "raw" if form == "sparse" else form
    return Traits(Form(2, layout, codec), Machine.parse(machine), **more)


# Pairs


@pytest.mark.parametrize(
    ("image", "libvirt", "qemu", "answer", "reason"),
    [
        (traits(), "11.3", "10.0", YES, ""),
        (traits(), "11.3", "11.1", BUT, "--bypass-cache"),
        (traits(), "12.8", "11.1", YES, ""),
        (traits("zstd"), "11.3", "11.1", BUT, "the program zstd"),
        (traits("sparse"), "11.3", "11.1", YES, ""),
        (traits(), "12.8", "7.1", NO, "starts no QEMU before 7.2"),
        (traits(), "12.3", "7.1", YES, ""),
        (traits(), "11.2", "6.1", NO, "starts no QEMU before 6.2"),
        (traits(), "11.1", "6.1", YES, ""),
        (traits("sparse"), "12.8", "11.1", YES, "direct-io stays set"),
        (traits("sparse"), "11.3", "9.0", YES, ""),
        (traits("zstd"), "12.0", "11.0", BUT, "virsh save fails"),
        (traits(without_ht=True), "11.3", "10.0", NO, "extra features: ht"),
        (traits(without_ht=True), "11.9", "11.1", NO, "extra features: ht"),
        (traits(without_ht=True), "11.10", "10.0", YES, ""),
        (traits(without_ht=True), "11.3", "9.2", YES, ""),
        (traits(virtio_video=True), "12.8", "11.1", YES, "virtio-vga or virtio-gpu"),
    ],
)
def test_libvirt_with_the_qemu_that_it_starts(
    image: Traits, libvirt: str, qemu: str, answer: Answer, reason: str
) -> None:
    reader, other = paired([Reader.parse(f"libvirt={libvirt}"), Reader.parse(f"qemu={qemu}")])

    verdict = judge(image, reader)

    assert other == Reader.parse(f"qemu={qemu}")
    assert verdict.answer is answer, verdict
    assert reason in "; ".join(verdict.reasons)
    assert verdict.release == libvirt


def test_what_a_distribution_may_have_mended_is_a_risk() -> None:
    reader = Reader("libvirt", Release(11, 5), starts=Release(10), system="RHEL 10.1")

    assert judge(traits(without_ht=True), reader).answer is BUT
    assert judge(traits(without_ht=True), replace(reader, system="")).answer is NO


def test_what_two_releases_do_alone_and_together() -> None:
    """A pitfall lies between the two, and not with the next release of either."""
    for found in PITFALLS:
        first, end = found.libvirt
        inside = first or Release(1)
        oldest, newest = found.qemu
        qemu = oldest or Release(2)
        assert found.meets(inside, qemu)
        assert end is None or not found.meets(end, qemu)
        assert newest is None or not found.meets(inside, newest)
        assert oldest is None or not found.meets(inside, Release(oldest.major - 1))


def test_releases_that_never_were() -> None:
    for text, told in (
        *(("qemu=99.9", "its tables end"), ("qemu=9.5", "no such release")),
        *(("libvirt=10.12", "no such release"), ("libvirt=99.0", "its tables end")),
        *(("qemu=9.2.4", ""), ("qemu=2.12", ""), ("libvirt=11.10", ""), ("libvirt=1.3.5", "")),
    ):
        found = [o for o in obstacles(traits(), Reader.parse(text)) if o.code == "release"]
        assert [o.reason for o in found] == [o.reason for o in found if told and told in o.reason]
        assert bool(found) is bool(told), text


@pytest.mark.parametrize(
    ("machine", "system", "qemu", "answer", "reason"),
    [
        ("pc-q35-9.1", "RHEL 10.1", "10.0", NO, "only machine types of its own"),
        ("pc-q35-rhel9.6.0", "RHEL 9.6", "9.1", YES, ""),
        ("pc-q35-rhel10.1.0", "RHEL 10.0", "9.1", NO, "is newer"),
        ("pc-q35-rhel9.6.0", "Debian 13", "10.0", NO, "RHEL's own"),
        ("pc-q35-rhel9.6.0", "", "10.0", BUT, "RHEL's own"),
        ("pc-q35-noble", "Ubuntu 24.04", "8.2", YES, ""),
        ("pc-q35-noble", "Ubuntu 22.04", "6.2", NO, "came with QEMU 8.2"),
        ("pc-q35-noble", "Fedora 43", "10.1", NO, "Ubuntu's own"),
        ("pc-q35-9.1", "Fedora 43", "10.1", YES, ""),
    ],
)
def test_machine_types_of_distributions(
    machine: str, system: str, qemu: str, answer: Answer, reason: str
) -> None:
    reader = Reader("qemu", Release.parse(qemu), system=system)

    verdict = judge(traits(machine=machine), reader)

    assert verdict.answer is answer, verdict
    assert reason in "; ".join(verdict.reasons)
    assert verdict.system == system


@pytest.mark.parametrize("machine", ["pc-q35-rhel9.6.0", "virt-kunpeng-1.0"])
def test_nothing_is_promised_of_unknown_machine_types(machine: str) -> None:
    """No conversion makes a QEMU have a machine type that it has not."""
    image, reader = traits("sparse", machine=machine), Reader.parse("qemu=2.4")

    assert judge(image, reader).conversion == ()
    assert {finding.advice for finding in reader_findings(image, [reader])} == {""}


CPU = (
    "<cookie><cpu check='full'><model>qemu64</model><topology sockets='1' cores='{cores}' "
    "threads='1'/><feature policy='{policy}' name='{name}'/></cpu></cookie>"
)


@pytest.mark.parametrize(
    ("arch", "cores", "policy", "name", "lacks"),
    [
        ("x86_64", 2, "disable", "ht", True),
        ("x86_64", 2, "require", "sse", True),
        ("x86_64", 2, "require", "ht", False),
        ("x86_64", 1, "disable", "ht", False),
        ("aarch64", 2, "require", "sse", False),
    ],
)
def test_processors_without_ht_are_seen(
    arch: str, cores: int, policy: str, name: str, lacks: bool, tmp_path: Path
) -> None:
    xml = f"<domain><os><type arch='{arch}'>hvm</type></os></domain>".encode()
    cookie = CPU.format(cores=cores, policy=policy, name=name).encode()
    (tmp_path / "image").write_bytes(make_stream(prefix=make_envelope(xml=xml, cookie=cookie)))

    with savefmt.open(tmp_path / "image") as image:
        assert examine(image).without_ht is lacks


@pytest.mark.parametrize(
    ("models", "open_question"),
    [
        ("<model type='virtio'/>", True),
        ("<model type='virtio' device='virtio-vga'/>", False),
        ("<model type='vga'/>", False),
        ("<model type='virtio'/></video><video><model type='qxl' primary='yes'/>", False),
        ("<model type='qxl'/></video><video><model type='virtio' primary='yes'/>", True),
    ],
)
def test_the_video_device_is_seen(models: str, open_question: bool, tmp_path: Path) -> None:
    xml = (
        f"<domain><os><type arch='x86_64'/></os><devices><video>{models}</video></devices></domain>"
    )
    (tmp_path / "image").write_bytes(make_stream(prefix=make_envelope(xml=xml.encode())))

    with savefmt.open(tmp_path / "image") as image:
        assert examine(image).virtio_video is open_question


def test_registers_between_what_was_tried() -> None:
    """Sure is what both neighbours say."""
    gone, wrong, always = 0x1013C030, 0x200E0298, 0x10139999

    for text, unknown, unsure in (
        ("10.0.2", [], []),
        ("7.2.22", [wrong], []),
        ("10.0.13", [wrong], []),
        ("10.0.9", [], [wrong]),
        ("11.1.3", [gone, wrong], []),
        ("10.2", [wrong], [gone]),
        ("12.0", [gone, wrong], []),
        ("4.2", [wrong], []),
        ("9.0", [], [wrong]),
    ):
        found = unknown_registers({gone, wrong, always}, Release.parse(text))
        assert found == (unknown, unsure), text
    assert named([gone, wrong]) == "0x1013c030, 0x200e0298"
    assert named(range(1, 9)) == "0x1, 0x2, 0x3 and 5 more"


@pytest.mark.parametrize("release", TRIED)
def test_every_list_that_was_read_is_its_own(release: Release) -> None:
    own = {number for number, known in KNOWN_TO.items() if release in known}

    assert unknown_registers(own, release) == ([], [])
    assert unknown_registers(KNOWN_TO, release)[0] == sorted(KNOWN_TO.keys() - own)


def test_a_loadable_sparse_image_is_not_to_become_raw() -> None:
    reader, _ = paired([Reader.parse("libvirt=11.3"), Reader.parse("qemu=11.1")])

    assert judge(traits("sparse"), reader).conversion == ()
    assert judge(traits(), reader).conversion == ("-O sparse",)


def test_two_of_a_program_are_no_pair() -> None:
    readers = [Reader.parse(text) for text in ("libvirt=11.3", "qemu=11.1", "qemu=10.0")]

    assert paired(readers) == readers
