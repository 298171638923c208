"""Checks of the kernel's lists against each other: what is hidden from one may be in another."""

from __future__ import annotations

from savefmt.linux.facts import Module, Process, Socket
from savefmt.linux.kernel import Kernel
from savefmt.linux.processes import compare_with_numbers
from savefmt.linux.walks import error_types, note
from savefmt.linux.words import unpack_words

_MAX_CALLS = 1024
_SUSPECTS = 16


def check_processes(kernel: Kernel, found: tuple[Process, ...]) -> None:
    """Note processes that have a number and are in no list."""
    compare_with_numbers(kernel, {process.address for process in found})


def check_modules(kernel: Kernel, found: tuple[Module, ...]) -> None:
    """Note system calls that do not lead into the kernel's own code."""
    start, end = kernel.symbols.get("_stext"), kernel.symbols.get("_etext")
    table = kernel.symbols.get("sys_call_table")
    named = kernel.symbols.at(table) if table else None
    if not (start and end and table and named):
        return
    count = min(named[2] // 8, _MAX_CALLS)
    try:
        calls = unpack_words("Q", kernel.memory.read(table, 8 * count))
    except error_types():
        note(kernel, "calls-missing", "the table of system calls is not in memory")
        return
    # Zeros fill the table up to the next symbol.
    strange = [at for at, address in enumerate(calls) if address and not start <= address < end]
    for number in strange[:_SUSPECTS]:
        owner = next(
            (one.name for one in found if one.address <= calls[number] < one.address + one.size),
            "no module",
        )
        note(
            kernel,
            "call-changed",
            f"system call {number} leads to {calls[number]:#x}, which is not in the kernel's "
            f"code but in {owner}",
        )


def check_sockets(kernel: Kernel, found: tuple[Socket, ...]) -> None:
    """Note connections that no process has open."""
    lonely = [one for one in found if one.pid is None and one.state == "established"]
    for one in lonely[:_SUSPECTS]:
        note(
            kernel,
            "socket-alone",
            f"the connection {one.local}:{one.local_port} to {one.remote}:{one.remote_port} is in "
            "the kernel's table, and no listed process has it open",
        )
