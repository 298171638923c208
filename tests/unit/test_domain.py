"""The domain XML: facts, refusals and what an edit may not touch."""

from __future__ import annotations

import pytest

from savefmt.errors import CorruptError
from savefmt.format.abi import running_abi_changes
from savefmt.format.domain import (
    MAX_ATTRIBUTES,
    MAX_DEPTH,
    MAX_ELEMENTS,
    Domain,
    check_document,
    parse_domain,
)

XML = b"""<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web-1</name>
  <uuid>6f1c2a9e-8d4b-4f6e-9a57-0c3f4d5e6a7b</uuid>
  <title>old</title>
  <memory unit='KiB'>1048576</memory>
  <vcpu placement='static'>4</vcpu>
  <os><type arch='x86_64' machine='pc-q35-9.2'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <source file='/srv/a.qcow2'/>
      <target dev='vda' bus='virtio'/>
      <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>
    </disk>
    <controller type='pci' index='0' model='pcie-root'/>
    <controller type='pci' index='1' model='pcie-root-port'/>
    <interface type='network'>
      <mac address='52:54:00:00:00:01'/>
      <target dev='vnet0'/>
      <model type='virtio'/>
    </interface>
    <serial type='pty'><target type='isa-serial' port='0'/></serial>
    <graphics type='vnc' port='-1'/>
    <rng model='virtio'/>
    <rng model='virtio'/>
  </devices>
</domain>
"""


def nested(depth: int) -> bytes:
    inner = depth - 1
    return b"<domain>" + b"<a>" * inner + b"</a>" * inner + b"</domain>"


def test_the_facts_of_a_guest() -> None:
    assert parse_domain(XML) == Domain(
        name="web-1",
        uuid="6f1c2a9e-8d4b-4f6e-9a57-0c3f4d5e6a7b",
        type="kvm",
        machine="pc-q35-9.2",
        emulator="/usr/bin/qemu-system-x86_64",
        memory_kib=1048576,
    )


def test_what_is_missing_is_none() -> None:
    assert parse_domain(b"<domain/>") == Domain(None, None, None, None, None, None)


def test_only_the_domains_own_name_counts() -> None:
    xml = b"<domain><metadata><name>no</name></metadata><name>one</name><name>two</name></domain>"

    assert parse_domain(xml).name == "one"


@pytest.mark.parametrize(
    ("memory", "kib"),
    [
        ("<memory>7</memory>", 7),
        ("<memory unit='b'>1025</memory>", 2),
        ("<memory unit='KB'>1024</memory>", 1000),
        ("<memory unit='MiB'> 3 </memory>", 3072),
        ("<memory unit='g'>2</memory>", 2 << 20),
        ("<memory unit='TiB'>1</memory>", 1 << 30),
        ("<memory unit='furlong'>1</memory>", None),
        ("<memory>-1</memory>", None),
        ("<memory>" + "9" * 5000 + "</memory>", None),
    ],
)
def test_memory_in_any_unit(memory: str, kib: int | None) -> None:
    assert parse_domain(f"<domain>{memory}</domain>".encode()).memory_kib == kib


BOMB = b"<!DOCTYPE d [<!ENTITY a 'ha'><!ENTITY b '&a;&a;'>]><domain><name>&b;</name></domain>"


@pytest.mark.parametrize(
    ("xml", "problem"),
    [
        (b"", "not well-formed"),
        (b"<domain>", "not well-formed"),
        (b"<domain></domain>\0", "not well-formed"),
        (b"<domain>\xff</domain>", "not well-formed"),
        (b"<domain>&unknown;</domain>", "not well-formed"),
        (b"<domain></domain><domain/>", "not well-formed"),
        (b"<cookie/>", "begins with <cookie>"),
        (BOMB, "document type"),
        (b"<!DOCTYPE domain SYSTEM 'file:///etc/passwd'><domain/>", "document type"),
        (nested(MAX_DEPTH + 1), "nests deeper"),
        (nested(200_000), "nests deeper"),
        (b"<domain %s/>" % b" ".join(b"a%d=''" % i for i in range(MAX_ATTRIBUTES + 1)), "attrib"),
        (b"<domain>" + b"<a/>" * MAX_ELEMENTS + b"</domain>", "elements"),
    ],
)
def test_hostile_documents_are_refused(xml: bytes, problem: str) -> None:
    with pytest.raises(CorruptError, match=problem) as caught:
        parse_domain(xml)
    assert caught.value.offset is not None
    assert 0 <= caught.value.offset <= len(xml)


def test_what_is_just_allowed() -> None:
    check_document(nested(MAX_DEPTH), "domain")
    wide = b" ".join(b"a%d=''" % number for number in range(MAX_ATTRIBUTES))
    check_document(b"<domain %s/>" % wide, "domain")


def test_a_declared_encoding_never_reaches_pythons_codecs() -> None:
    for name in (b"no-such-thing", b"rot13", b"big5"):
        check_document(b"<?xml version='1.0' encoding='%s'?><domain/>" % name, "domain")


def test_errors_lie_where_the_document_lies() -> None:
    with pytest.raises(CorruptError) as caught:
        check_document(b"<cookie><cpu></cookie>", "cookie", at=1000)
    assert caught.value.offset == 1015
    assert "cookie XML" in caught.value.message


def test_a_cookie_is_a_document_too() -> None:
    check_document(b"<cookie><slirpHelper/></cookie>\n", "cookie")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"<title>old</title>", b"<title>new</title><description>more</description>"),
        (b"/srv/a.qcow2", b"/srv/b.qcow2"),
        (b"<disk type='file'", b"<disk type='block'"),
        (b"dev='vnet0'", b"dev='tap7'"),
        (b"<graphics type='vnc' port='-1'/>", b"<graphics type='spice'/>"),
        (b"slot='0x00'", b"slot='0x0'"),
        (b"6f1c2a9e-8d4b", b"6F1C2A9E8D4B"),
        (b"<memory unit='KiB'>1048576<", b"<memory unit='GiB'>1<"),
        (b"qemu-system-x86_64</emulator>", b"kvm</emulator>"),
    ],
)
def test_edits_that_libvirt_accepts(old: bytes, new: bytes) -> None:
    assert old in XML
    assert running_abi_changes(XML, XML.replace(old, new)) == []


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        (b"web-1", b"web-2", "name changes from web-1 to web-2"),
        (b"6f1c", b"7f1c", "UUID changes from 6f1c"),
        (b">1048576<", b">1048577<", "memory in KiB changes from 1048576 to 1048577"),
        (b">4</vcpu>", b">5</vcpu>", "vCPU count changes from 4 to 5"),
        (b"'static'>4", b"'static' current='2'>4", "vCPUs online changes from 4 to 2"),
        (b"q35-9.2", b"q35-9.1", "machine type changes"),
        (b"'x86_64'", b"'aarch64'", "architecture changes"),
        (b"'vda'", b"'vdb'", "disk vda: target dev changes from vda to vdb"),
        (b"bus='virtio'", b"bus='sata'", "disk vda: target bus changes from virtio to sata"),
        (b"bus='0x04'", b"bus='0x05'", "disk vda: address bus changes from 4 to 5"),
        (b"device='disk'", b"device='cdrom'", "disk vda: device changes"),
        (b"00:01'", b"00:02'", "mac address changes from 52:54:00:00:00:01 to 52:54:00:00:00:02"),
        (b"model type='virtio'", b"model type='e1000'", "model type changes"),
        (b"pcie-root-port", b"dmi-to-pci-bridge", "controller pci 1: model changes"),
        (b"port='0'", b"port='1'", "serial: target port changes"),
        (b"</devices>", b"<rng model='virtio'/></devices>", "rng #3 is added"),
        (b"    <rng model='virtio'/>\n", b"", "rng #2 is removed"),
    ],
)
def test_edits_that_libvirt_refuses(old: bytes, new: bytes, change: str) -> None:
    assert old in XML
    changes = running_abi_changes(XML, XML.replace(old, new, 1))

    assert any(change in line for line in changes), changes


def test_abi_comparison_distrusts_both_documents() -> None:
    with pytest.raises(CorruptError):
        running_abi_changes(XML, BOMB)
    with pytest.raises(CorruptError):
        running_abi_changes(b"<cookie/>", XML)
