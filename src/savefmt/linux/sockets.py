"""Sockets: those that processes have open as files, and those that no process has open."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator
from typing import Any

from savefmt.linux.facts import Socket
from savefmt.linux.kernel import Kernel
from savefmt.linux.openfiles import descriptors
from savefmt.linux.processes import Only, tasks
from savefmt.linux.walks import decode, error_types, list_items, note
from savefmt.linux.words import unpack_words

_FAMILIES = {1: "unix", 2: "inet", 10: "inet6", 16: "netlink", 17: "packet", 40: "vsock"}
_TYPES = {1: "stream", 2: "dgram", 3: "raw", 5: "seqpacket", 10: "packet"}
_PROTOCOLS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp", 262: "mptcp"}
_STATES = (
    "",
    "established",
    "syn-sent",
    "syn-recv",
    "fin-wait-1",
    "fin-wait-2",
    "time-wait",
    "closed",
    "close-wait",
    "last-ack",
    "listening",
    "closing",
    "syn-recv",
)
_TIME_WAIT, _NEW_SYN = 6, 12
_MAX_BUCKETS = 1 << 24
_UNIX_NAME_AT = 2


def sockets(kernel: Kernel, only: Only = None) -> Iterator[Socket]:
    """Yield sockets.

    Parameters
    ----------
    kernel : Kernel
        Of the guest.
    only : container of int, optional
        The numbers of some.

    Yields
    ------
    Socket
        Process by process; then, for all processes, TCP connections that none has open.
    """
    import drgn

    seen = set[int]()
    operations = kernel.symbols.get("socket_file_ops")
    for task in tasks(kernel, only):
        for number, file in descriptors(kernel, task):
            try:
                content = file[0].read_()
                if operations:
                    if content.f_op.value_() != operations:
                        continue
                elif not stat.S_ISSOCK(content.f_inode.i_mode.value_()):
                    continue
                holder = drgn.cast("struct socket *", content.private_data)[0].read_()
                inode = content.f_inode.i_ino.value_()
                if not holder.sk.value_():
                    continue
                seen.add(holder.sk.value_())
                yield _describe(
                    kernel, holder.sk, task.pid, task.name, number, inode, holder.state.value_()
                )
            except error_types():
                note(kernel, "socket-damaged", f"socket {number} of process {task.pid} is damaged")
    if only is None:
        yield from _without_process(kernel, seen)


def _describe(
    kernel: Kernel,
    pointer: Any,
    pid: int | None,
    name: str,
    number: int | None,
    inode: int,
    state: int,
) -> Socket:
    sock = pointer[0].read_()
    common = sock.__getattribute__("__sk_common")
    family = common.skc_family.value_()
    kind, protocol = sock.sk_type.value_(), sock.sk_protocol.value_()
    local = remote = ""
    local_port = remote_port = 0
    words = _STATES[common.skc_state.value_()] if common.skc_state.value_() < len(_STATES) else ""
    if family in (socket.AF_INET, socket.AF_INET6):
        local, remote = _addresses(common, family)
        local_port = common.skc_num.value_()
        remote_port = socket.ntohs(common.skc_dport.value_())
        if protocol != socket.IPPROTO_TCP and words == "closed":
            words = "unconnected"
    elif family == socket.AF_UNIX:
        local, remote = _unix_names(kernel, pointer)
        if words == "closed":
            words = "unconnected"
    return Socket(
        pid=pid,
        name=name,
        descriptor=number,
        family=_FAMILIES.get(family, str(family)),
        type=_TYPES.get(kind, str(kind)),
        protocol="" if family == socket.AF_UNIX else _PROTOCOLS.get(protocol, str(protocol)),
        local=local,
        local_port=local_port,
        remote=remote,
        remote_port=remote_port,
        state=words,
        inode=inode,
        namespace=common.skc_net.net.ns.inum.value_(),
    )


def _addresses(common: Any, family: int) -> tuple[str, str]:
    if family == socket.AF_INET:
        return tuple(  # type: ignore[return-value]
            socket.inet_ntop(family, bytes(member.to_bytes_()))
            for member in (common.skc_rcv_saddr, common.skc_daddr)
        )
    return tuple(  # type: ignore[return-value]
        socket.inet_ntop(family, bytes(member.to_bytes_()))
        for member in (common.skc_v6_rcv_saddr, common.skc_v6_daddr)
    )


def _unix_names(kernel: Kernel, pointer: Any) -> tuple[str, str]:
    import drgn

    own = drgn.cast("struct unix_sock *", pointer)
    peer = own.peer.read_()
    far = drgn.cast("struct unix_sock *", peer) if peer.value_() else None
    return _unix_name(kernel, own), _unix_name(kernel, far) if far is not None else ""


def _unix_name(kernel: Kernel, sock: Any) -> str:
    address = sock.addr.read_()
    if not address.value_():
        return ""
    length = min(address.len.value_(), 110) - _UNIX_NAME_AT
    if length <= 0:
        return ""
    data = kernel.memory.read(address.name.address_of_().value_() + _UNIX_NAME_AT, length)
    if data.startswith(b"\0"):
        return "@" + decode(data[1:])
    return decode(data.split(b"\0", 1)[0])


def _without_process(kernel: Kernel, seen: set[int]) -> Iterator[Socket]:
    """Yield connections of TCP that no process has open."""
    import drgn

    table = kernel.variable("tcp_hashinfo")
    if table is None:
        return
    try:
        count, at = table.ehash_mask.value_() + 1, table.ehash.value_()
        if count > _MAX_BUCKETS:
            note(kernel, "sockets-damaged", f"the table of TCP connections claims {count} entries")
            return
        buckets = unpack_words("Q", kernel.memory.read(at, 8 * count))
    except error_types():
        note(kernel, "sockets-damaged", "the table of TCP connections cannot be read")
        return
    pointer = kernel.program.type("struct sock *")
    for first in buckets:
        if not first or first & 1:
            continue
        what = "TCP connections"
        link = "skc_nulls_node"
        for item in list_items(kernel, first, "struct sock_common", link, what, hashed=True):
            try:
                state = item.skc_state.value_()
                if item.address_ in seen or state in (_TIME_WAIT, _NEW_SYN):
                    continue
                sock = drgn.Object(kernel.program, pointer, value=item.address_)
                yield _describe(kernel, sock, None, "", None, 0, state)
            except error_types():
                note(kernel, "socket-damaged", f"the socket at {item.address_:#x} is damaged")
