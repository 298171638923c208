"""Network devices and their addresses, in every namespace that a process lives in."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

from savefmt.linux.facts import Interface
from savefmt.linux.kernel import Kernel
from savefmt.linux.processes import tasks
from savefmt.linux.walks import MOST, error_types, list_items, note, text_of

_UP = 1
_MAX_HARDWARE = 32
_MAX_ADDRESSES = 4096


def interfaces(kernel: Kernel) -> Iterator[Interface]:
    """Yield network devices, namespace by namespace."""
    for namespace in _namespaces(kernel):
        try:
            number = namespace.ns.inum.value_()
            head = namespace.dev_base_head.address_of_().value_()
        except error_types():
            note(kernel, "namespace-damaged", "a network namespace cannot be read")
            continue
        for device in list_items(kernel, head, "struct net_device", "dev_list", "network devices"):
            try:
                yield _describe(kernel, device.read_(), number)
            except error_types():
                note(kernel, "device-damaged", f"the device at {device.address_:#x} is damaged")


def _namespaces(kernel: Kernel) -> Iterator[Any]:
    seen = set[int]()
    first = kernel.variable("init_net")
    if first is not None and first.address_:
        seen.add(first.address_)
        yield first
    for task in tasks(kernel):
        try:
            if not task.content.nsproxy.value_():
                continue
            pointer = task.content.nsproxy.net_ns
            if pointer.value_() not in seen:
                seen.add(pointer.value_())
                yield pointer[0]
        except error_types():
            continue


def _describe(kernel: Kernel, device: Any, namespace: int) -> Interface:
    length = min(device.addr_len.value_(), _MAX_HARDWARE)
    hardware = kernel.memory.read(device.dev_addr.value_(), length) if length else b""
    return Interface(
        name=text_of(device.name),
        index=device.ifindex.value_(),
        namespace=namespace,
        up=bool(device.flags.value_() & _UP),
        mtu=device.mtu.value_(),
        hardware=hardware.hex(":"),
        addresses=(*_inet(kernel, device), *_inet6(kernel, device)),
    )


def _inet(kernel: Kernel, device: Any) -> Iterator[str]:
    if not device.ip_ptr.value_():
        return
    address = device.ip_ptr.ifa_list.read_()
    seen = set[int]()
    while address.value_() and address.value_() not in seen and len(seen) < _MAX_ADDRESSES:
        seen.add(address.value_())
        content = address[0].read_()
        own = socket.inet_ntop(socket.AF_INET, bytes(content.ifa_local.to_bytes_()))
        yield f"{own}/{content.ifa_prefixlen.value_()}"
        address = content.ifa_next


def _inet6(kernel: Kernel, device: Any) -> Iterator[str]:
    if not device.ip6_ptr.value_():
        return
    head = device.ip6_ptr.addr_list.address_of_().value_()
    items = list_items(kernel, head, "struct inet6_ifaddr", "if_list", "IPv6 addresses")
    for _, item in zip(range(MOST), items, strict=False):
        content = item.read_()
        own = socket.inet_ntop(socket.AF_INET6, bytes(content.addr.to_bytes_()))
        yield f"{own}/{content.prefix_len.value_()}"
