"""Kernel modules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from savefmt.linux.facts import Module
from savefmt.linux.kernel import Kernel
from savefmt.linux.kernelmemory import KERNEL_HALF
from savefmt.linux.walks import error_types, list_items, note, text_of

_STATES = ("live", "coming", "going", "unformed")


def module_items(kernel: Kernel) -> Iterator[Any]:
    """Yield each ``struct module``."""
    head = kernel.variable("modules")
    if head is None or head.address_ is None:
        note(
            kernel,
            "no-modules",
            "the list of modules was not found: the kernel keeps no names of its variables "
            "(it was built without KALLSYMS_ALL)",
        )
        return
    yield from list_items(kernel, head.address_, "struct module", "list", "modules")


def modules(kernel: Kernel) -> Iterator[Module]:
    """Yield the modules, the newest first."""
    for item in module_items(kernel):
        try:
            yield _describe(kernel, item.read_())
        except error_types():
            note(kernel, "module-damaged", f"the module at {item.address_:#x} cannot be read")


def _describe(kernel: Kernel, content: Any) -> Module:
    name = text_of(content.name)
    if content.type_.has_member("mem"):  # since 6.4
        parts = [(part.base.value_(), part.size.value_()) for part in content.mem]
    else:
        parts = [
            (layout.base.value_(), layout.size.value_())
            for layout in (content.core_layout, content.init_layout)
        ]
    state = content.state.value_()
    address = parts[0][0]
    if address and address < KERNEL_HALF:
        note(kernel, "module-strange", f"module {name} would lie at {address:#x}")
    return Module(
        name=name,
        address=address,
        size=sum(size for _, size in parts),
        state=_STATES[state] if state < len(_STATES) else str(state),
        users=content.refcnt.counter.value_() - 1,
        taints=content.taints.value_(),
    )
