"""Comparing an image with a QEMU, from what that QEMU tells."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from golden import load

import savefmt
from savefmt.compat.statetable import StateTable, parse_state_table, section_name, unloadable
from savefmt.format.hardware import parse_hardware
from savefmt.frozen import replace
from savefmt.model import Section, Severity
from savefmt.qemu import MigrationError
from savefmt.qemu.hosted import HostedBlock, HostedGuest
from savefmt.qemu.preflight import compare, kind_of, refuse
from savefmt.qemu.target import Target, TargetCpu

TABLE = StateTable(
    names={"isa-serial": "serial", "hpet": "hpet", "smbus-eeprom": "smbus-eeprom"},
    versions={"serial": (2, 3), "hpet": (1, 2), "spapr/rtc": (1, 1), "smbus-eeprom": (1, 1)},
)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A guest with three vCPUs, one serial port and one HPET."""
    with savefmt.open(load.unpack("q35-smp", tmp_path_factory.mktemp("image"))) as opened:
        yield opened


@pytest.fixture
def target(image: savefmt.SaveImage) -> Target:
    """A QEMU that is made for it."""
    return Target(
        guest=HostedGuest("guest", image.machine, "inmigrate", running=False),
        blocks={
            name: HostedBlock(block.used_length, block.used_length)
            for name, block in image.blocks.items()
        },
        pci={"0000:00:00.0": "mch", "0000:00:1f.0": "lpc", "0000:00:1f.2": "ahci"}
        | {"0000:00:1f.3": "smb", "0000:00:02.0": "pci-testdev"},
        kinds=Counter({"isa-serial": 1, "hpet": 1, "smbus-eeprom": 8, "unknown": 3}),
        cpu=TargetCpu(3),
        table=TABLE,
    )


def test_the_same(image: savefmt.SaveImage, target: Target) -> None:
    assert compare(image, target) == []
    resizable = {**target.blocks, "/rom@etc/acpi/tables": HostedBlock(4096, 1 << 21)}
    assert compare(image, replace(target, blocks=resizable)) == []
    assert compare(image, replace(target, blocks={})) == []


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"table": replace(TABLE, versions={"hpet": (3, 4)})}, "versions", "hpet is of version 2"),
        ({"kinds": Counter({"isa-serial": 1})}, "devices", "1 hpet and this QEMU has no"),
        ({"cpu": TargetCpu(2)}, "cpu", "had 3 vCPUs and this QEMU has 2"),
        ({"pci": {}}, "devices", "has mch at 0000:00:00.0 and this QEMU has nothing there"),
        ({"blocks": {"pc.ram": HostedBlock(1, 1)}}, "memory", "'pc.ram' has 8388608 bytes"),
        ({"blocks": {"other": HostedBlock(1, 1)}}, "memory", "this QEMU has the RAM block 'other'"),
        ({"guest": HostedGuest("g", "pc-q35-2.4", "inmigrate", False)}, "machine", "a pc-q35-2.4"),
    ],
)
def test_a_difference(
    change: dict[str, Any], kind: str, words: str, image: savefmt.SaveImage, target: Target
) -> None:
    found = compare(image, replace(target, **change))

    assert {kind_of(finding) for finding in found} == {kind}
    assert any(words in finding.message for finding in found)
    with pytest.raises(MigrationError, match=f"--ignore {kind}"):
        refuse(found)


@pytest.mark.parametrize(("change"), [{"table": None}, {"pci": None}])
def test_what_cannot_be_compared_is_noted(
    change: dict[str, Any], image: savefmt.SaveImage, target: Target
) -> None:
    (finding,) = compare(image, replace(target, **change))

    assert finding.severity is Severity.NOTE


def test_a_pass_is_made_on_request_only(tmp_path: Path, target: Target) -> None:
    with savefmt.open(load.unpack("dump-gzip", tmp_path)) as packed:
        assert packed.sections is None
        here = replace(target, guest=replace(target.guest, machine=packed.machine), blocks={})
        assert [kind_of(finding) for finding in compare(packed, here)] == ["unknown"]
        assert "cpu" in [kind_of(finding) for finding in compare(packed, here, thorough=True)]


def test_names_with_a_slash() -> None:
    names = {"spapr/rtc", "serial"}
    assert section_name("spapr/rtc", names) == "spapr/rtc"
    assert section_name("0000:00:01.0/1/serial", names) == "serial"
    assert section_name("0000:00:01.0/other", names) == "other"


def test_a_table_takes_the_widest_range() -> None:
    def entry(name: Any, version: Any, least: Any) -> dict[str, Any]:
        described = {"name": name, "version_id": version, "minimum_version_id": least}
        return {"Name": "x", "Description": described}

    table = parse_state_table(
        {
            "vmschkmachine": {"Name": "none"},
            "a": entry("vga", 2, 2),
            "b": entry("vga", 3, 1),
            "c": entry("vga", "3", 1),
        }
    )

    assert table == StateTable({"a": "vga", "b": "vga"}, {"vga": (1, 3)})
    wrong = [Section("0000:00:02.0/vga", 0, version) for version in (1, 3, 4, None)]
    assert [idstr for idstr, _ in unloadable(wrong, table)] == ["0000:00:02.0/vga"]


@pytest.mark.parametrize("check", ["full", "none"])
def test_features_count_where_libvirt_compared_them(check: str) -> None:
    cpu = f"<cpu check='{check}'><model>EPYC</model><feature policy='disable' name='svm'/></cpu>"
    xml = f"<domain type='kvm'>{cpu}</domain>".encode()

    features = parse_hardware(xml).cpu_features

    assert features == ((("svm", False),) if check == "full" else ())
    assert parse_hardware(b"<domain/>", f"<cookie>{cpu}</cookie>".encode()).cpu_features == features
