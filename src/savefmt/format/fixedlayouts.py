"""Sections whose layout has not changed in years, for streams that do not describe it.

Each device is described in one line: ``name:type``, with ``*count`` for an array (format.md
7.5, 8.2, 9.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from savefmt.format.wire import ItemType

_SEGMENT = "selector:uint32 base:uint64 limit:uint32 flags:uint32"
_STRUCTS = {
    "fpreg": "tmp_mant:uint64 tmp_exp:uint16",
    "segment": _SEGMENT,
    "xmm": "_q_ZMMReg[0]:uint64 _q_ZMMReg[1]:uint64",
    "ymmh": "_q_ZMMReg[2]:uint64 _q_ZMMReg[3]:uint64",
    "mtrr": "base:uint64 mask:uint64",
    "pci": "version_id:int32 config[0]:pci_config/256 irq_state:pci_irq_state/16",
}
_SIZES = {"uint8": 1, "uint16": 2, "uint32": 4, "int32": 4, "uint64": 8, "int64": 8}

_LAYOUTS = {
    ("timer", 2): "cpu_ticks_offset:int64 unused:buffer/8 cpu_clock_offset:int64",
    ("cpu_common", 1): "halted:uint32 interrupt_request:uint32",
    ("cpu", 12): """
        env.regs:uint64*16 env.eip:uint64 env.eflags:uint64 env.hflags:uint32
        env.fpuc:uint16 env.fpus_vmstate:uint16 env.fptag_vmstate:uint16
        env.fpregs_format_vmstate:uint16 env.fpregs:fpreg*8 env.segs:segment*6
        env.ldt:segment env.tr:segment env.gdt:segment env.idt:segment
        env.sysenter_cs:uint32 env.sysenter_esp:uint64 env.sysenter_eip:uint64
        env.cr[0]:uint64 env.cr[2]:uint64 env.cr[3]:uint64 env.cr[4]:uint64
        env.dr:uint64*8 env.a20_mask:int32 env.mxcsr:uint32 env.xmm_regs[0]:xmm*16
        env.efer:uint64 env.star:uint64 env.lstar:uint64 env.cstar:uint64
        env.fmask:uint64 env.kernelgsbase:uint64 env.smbase:uint32 env.pat:uint64
        env.hflags2:uint32 env.vm_hsave:uint64 env.vm_vmcb:uint64
        env.tsc_offset:uint64 env.intercept:uint64 env.intercept_cr_read:uint16
        env.intercept_cr_write:uint16 env.intercept_dr_read:uint16
        env.intercept_dr_write:uint16 env.intercept_exceptions:uint32 env.v_tpr:uint8
        env.mtrr_fixed:uint64*11 env.mtrr_deftype:uint64 env.mtrr_var:mtrr*8
        env.interrupt_injected:int32 env.mp_state:uint32 env.tsc:uint64
        env.exception_nr:int32 env.soft_interrupt:uint8 env.nmi_injected:uint8
        env.nmi_pending:uint8 env.has_error_code:uint8 env.sipi_vector:uint32
        env.mcg_cap:uint64 env.mcg_status:uint64 env.mcg_ctl:uint64
        env.mce_banks:uint64*40 env.tsc_aux:uint64 env.system_time_msr:uint64
        env.wall_clock_msr:uint64 env.xcr0:uint64 env.xstate_bv:uint64
        env.xmm_regs[1]:ymmh*16""",
    ("apic", 3): """
        apicbase:uint32 id:uint8 arb_id:uint8 tpr:uint8 spurious_vec:uint32
        log_dest:uint8 dest_mode:uint8 isr:uint32*8 tmr:uint32*8 irr:uint32*8
        lvt:uint32*6 esr:uint32 icr:uint32*2 divide_conf:uint32 count_shift:int32
        initial_count:uint32 initial_count_load_time:int64 next_time:int64
        timer_expiry:int64""",
    ("mc146818rtc", 3): "cmos_data:buffer/128 cmos_index:uint8",
    ("globalstate", 1): "size:uint32 runstate:buffer/32",
    ("mch", 1): "parent_obj:pci",
    ("I440FX", 3): "parent_obj:pci",
}
# The end of these is not known.
_OPEN = frozenset({"mc146818rtc", "globalstate", "mch", "I440FX"})

_FIELD = re.compile(r"(\S+):(\w+?)(?:/(\d+))?(?:\*(\d+))?")


def find_entry(idstr: str, version: int | None, payload: bytes | memoryview) -> Any | None:
    """Return a description of a section that the stream does not describe.

    Parameters
    ----------
    idstr : str
        Its name, a bus path included.
    version : int or None
        Its version.
    payload : bytes or memoryview
        Must fit: the same name and version mean other things in other guests.

    Returns
    -------
    dict or None
        For `devicetree.decode_start`.
    """
    name = idstr.rpartition("/")[2]
    layout = _LAYOUTS.get((name, version or 0))
    if layout is None:
        return None
    entry = _vmsd(name, layout)
    length = sum(field["size"] * field.get("array_len", 1) for field in entry["fields"])
    if len(payload) < length:
        return None
    # Behind the fields come the subsections, or nothing.
    end = name in _OPEN or bytes(payload[length : length + 1]) in (
        b"",
        bytes([ItemType.SUBSECTION]),
    )
    return entry if end else None


def _vmsd(name: str, layout: str) -> dict[str, Any]:
    return {"vmsd_name": name, "version": 0, "fields": list(_fields(layout))}


def _fields(layout: str) -> Iterator[dict[str, Any]]:
    for word in layout.split():
        match = _FIELD.fullmatch(word)
        if match is None:
            raise AssertionError(word)
        name, kind, size, count = match.groups()
        field: dict[str, Any] = {"name": name, "type": kind.replace("_", " ")}
        if kind in _STRUCTS:
            field["struct"] = inner = _vmsd(kind, _STRUCTS[kind])
            field["size"] = sum(part["size"] for part in inner["fields"])
        else:
            field["size"] = int(size) if size else _SIZES[kind]
        if count:
            field["array_len"] = int(count)
        yield field
