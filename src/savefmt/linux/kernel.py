"""A Linux kernel in a save image: its memory, its symbols, its types."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from savefmt.errors import SavefmtError, UnsupportedError
from savefmt.export import vmcoreinfo
from savefmt.image import SaveImage
from savefmt.linux import btf, kallsyms
from savefmt.linux.bare import open_bare
from savefmt.linux.btf import Btf
from savefmt.linux.btftypes import TypeFinder
from savefmt.linux.kallsyms import Symbols
from savefmt.linux.kernelmemory import KERNEL_HALF, Anchors, KernelMemory
from savefmt.linux.variables import VARIABLES
from savefmt.model import Finding

if TYPE_CHECKING:
    import drgn

_PIECE = 8 << 20
_OVERLAP = 64 << 10
_BEFORE = 12 << 20
_AFTER = 4 << 20
_BANNER = re.compile(rb"Linux version ([!-~]{1,64}) ")
_SMALLEST_BTF = 256 << 10
_IDLE = b"swapper/0\0"

HELP = (
    "`savefmt export` with pakunoda makes a symbol table for volatility3, and drgn takes a "
    "vmlinux with debugging information: see docs/forensics.md"
)


class Kernel:
    """What the answers are read from.

    Parameters
    ----------
    image : SaveImage
        Must stay open.
    module_symbols : callable
        Reads the symbols of the modules of a kernel, when they are asked for.
    module_types : callable
        Yields their types.

    Attributes
    ----------
    image : SaveImage
        The same.
    anchors : Anchors
        What its VMCOREINFO tells.
    memory : KernelMemory
        By the kernel's addresses.
    symbols : Symbols
        By kallsyms.
    types : TypeFinder
        By BTF.
    program : drgn.Program
        With all of them.
    findings : list of Finding
        Doubts, as they come up.
    doubts : int
        How often one came up in the present answer.
    """

    def __init__(
        self,
        image: SaveImage,
        module_symbols: Callable[[Kernel], Symbols],
        module_types: Callable[[Kernel], Iterable[Btf]],
    ) -> None:
        self.image = image
        self._read_module_symbols = module_symbols
        self._read_module_types = module_types
        self.findings: list[Finding] = []
        self.doubts = 0
        info = vmcoreinfo.find(image, [])
        self.anchors = anchors = Anchors.of(info.text if info else b"")
        try:
            self.memory = KernelMemory(image, anchors)
        except UnsupportedError as error:
            if info is None:
                self._give_up("no running Linux kernel was found in the guest's memory", error)
            raise
        self.symbols = self._find_symbols(anchors)
        data = self._find_btf()
        text = anchors.text or self._make_text()
        self.program = open_bare(image, text)
        self._address_of = {**anchors.symbols}
        self.types = TypeFinder(self.program, Btf(data))
        self._finders = [self.types]
        self._asked_modules = False
        self._register()

    # --- what it is found by ---

    def _give_up(self, what: str, error: Exception | None = None) -> NoReturn:
        raise UnsupportedError(f"{what}; {HELP}", path=self.image.path) from error

    def _find_symbols(self, anchors: Anchors) -> Symbols:
        known = dict(anchors.symbols)
        told = known.get("kallsyms_token_table")
        names = known.get("kallsyms_names", told)
        if told and names and 0 <= told - names <= kallsyms.REACH:
            at = names - _AFTER
            data = self.memory.read_sparse(at, told + _BEFORE - at)
            found = kallsyms.find(data, at, known)
            if found is not None:
                return found
        tables = 0
        for start, piece in self.memory.image_pieces(_PIECE, _OVERLAP):
            place = piece.find(kallsyms.DIGITS)
            if place < 0 or tables > 8:
                continue
            tables += 1
            at = max(start + place - _BEFORE, KERNEL_HALF)
            data = self.memory.read_sparse(at, _BEFORE + _PIECE + _AFTER)
            found = kallsyms.find(data, at, known)
            if found is not None:
                return found
        self._give_up("the kernel's table of symbols (kallsyms) is not in the guest's memory")

    def _find_btf(self) -> bytes:
        start, end = self.symbols.get("__start_BTF"), self.symbols.get("__stop_BTF")
        if start and end and 0 < end - start <= btf.MAX_LENGTH:
            data = self.memory.read_sparse(start, end - start)
            if btf.length_of(data) is not None:
                return data
        for at, piece in self.memory.image_pieces(_PIECE, _OVERLAP):
            place = piece.find(btf.MAGIC)
            while place >= 0:
                length = btf.length_of(piece[place : place + 64])
                if length and length >= _SMALLEST_BTF:
                    return self.memory.read_sparse(at + place, length)
                place = piece.find(btf.MAGIC, place + 1)
        self._give_up("the kernel keeps no types of itself (it was built without BTF)")

    def _make_text(self) -> bytes:
        """Write the VMCOREINFO that this kernel does not show, as far as drgn asks for it."""
        if self.memory.arm:
            self._give_up("the guest's memory has no VMCOREINFO, and AArch64 needs it")
        tables = self.symbols.get("init_top_pgt") or self.symbols.get("swapper_pg_dir")
        stext = self.symbols.get("_stext")
        banner = self.symbols.get("linux_banner")
        match = _BANNER.match(self.memory.read_sparse(banner, 256)) if banner else None
        if tables is None or stext is None or match is None:
            self._give_up("the guest's memory has no VMCOREINFO")
        shift = stext - 0xFFFF_FFFF_8100_0000
        base = self.memory.physical_of(tables) - (tables - 0xFFFF_FFFF_8000_0000)
        five = int(getattr(self.memory.space.tables, "mode", "") == "5-level")
        return (
            f"OSRELEASE={match[1].decode()}\nPAGESIZE=4096\n"
            f"SYMBOL(swapper_pg_dir)={tables:x}\nSYMBOL(_stext)={stext:x}\n"
            f"NUMBER(phys_base)={base}\nNUMBER(pgtable_l5_enabled)={five}\n"
            f"KERNELOFFSET={max(shift, 0):x}\n"
        ).encode()

    # --- what drgn is told ---

    def _register(self) -> None:
        import drgn

        program = self.program

        def read(address: int, count: int, offset: int, physical: bool) -> bytes:
            try:
                return self.memory.read(address, count)
            except SavefmtError as error:
                raise drgn.FaultError(str(error), address) from error

        program.add_memory_segment(KERNEL_HALF, KERNEL_HALF, read, physical=False)
        # At the end, so that types and symbols that are loaded in addition come first.
        last = {"enable_index": -1}
        program.register_symbol_finder("savefmt", self._symbol_for_drgn, **last)
        program.register_type_finder("savefmt", self._type_for_drgn, **last)
        program.register_object_finder("savefmt", self._object_for_drgn, **last)

    def _symbol_for_drgn(
        self, program: drgn.Program, name: str | None, address: int | None, one: bool
    ) -> list[drgn.Symbol]:
        import drgn

        tables = [self.symbols]
        at = self.symbols.get(name) if name is not None else address
        if at is None or (name is None and not self._in_image(at)):
            tables = [self.module_symbols]
            at = self.module_symbols.get(name) if name is not None else address
        found = tables[0].at(at) if at is not None else None
        if found is None:
            return []
        label, start, length = found
        binding, kind = drgn.SymbolBinding.GLOBAL, drgn.SymbolKind.OBJECT
        if tables[0].is_function(start):
            kind = drgn.SymbolKind.FUNC
        return [drgn.Symbol(name or label, start, length, binding, kind)]

    def _in_image(self, address: int) -> bool:
        start, end = self.symbols.get("_text"), self.symbols.get("_end")
        return not (start and end) or start <= address < end

    @cached_property
    def module_symbols(self) -> Symbols:
        """By the tables of the modules; read when they are asked for."""
        return self._read_module_symbols(self)

    def _ask_modules(self) -> bool:
        """Add the types of modules, once; tell whether there were any."""
        if self._asked_modules:
            return False
        self._asked_modules = True
        modules = self._read_module_types(self)
        found = [TypeFinder(self.program, one, self.types) for one in modules]
        self._finders += found
        return bool(found)

    def _type_for_drgn(
        self, program: drgn.Program, kinds: Any, name: str, filename: str | None
    ) -> drgn.Type | None:
        for finder in self._finders:
            found = finder.find(kinds, name)
            if found is not None:
                return found
        if self._ask_modules():
            return self._type_for_drgn(program, kinds, name, filename)
        return None

    def _object_for_drgn(
        self, program: drgn.Program, name: str, flags: Any, filename: str | None
    ) -> drgn.Object | None:
        import drgn

        if flags & drgn.FindObjectFlags.CONSTANT:
            for finder in self._finders:
                found = finder.constant(name)
                if found is not None:
                    return found
        if flags & drgn.FindObjectFlags.VARIABLE:
            return self._variable_for_drgn(name)
        return None

    def _variable_for_drgn(self, name: str) -> drgn.Object | None:
        import drgn

        kind = self._type_of(name)
        if kind is None:
            return None
        address = self.symbols.get(name) or self._address_of.get(name) or self._by_shape(name)
        return drgn.Object(self.program, kind, address=address) if address else None

    def _type_of(self, name: str) -> drgn.Type | None:
        special = _MADE_TYPES.get(name)
        if special is not None:
            return special(self)
        number = self.types.btf.find((btf.Kind.VAR,), name)
        if number is not None:
            return self.types.type(self.types.btf.record(number).value)
        row = VARIABLES.get(name)
        if row is None:
            return None
        try:
            return self.program.type(row.type)
        except LookupError:
            return None

    # --- variables whose symbols a kernel without KALLSYMS_ALL leaves out ---

    def _by_shape(self, name: str) -> int | None:
        path = _REACHED_FROM_FIRST.get(name)
        if path is None:
            return None
        first = self._first_task
        if first is None or not path:
            return first
        import drgn

        try:
            found: Any = drgn.Object(self.program, "struct task_struct", address=first)
            for step in path:
                found = getattr(found, step)
            return int(found.value_()) or None
        except (drgn.FaultError, LookupError, AttributeError):
            return None

    @cached_property
    def _first_task(self) -> int | None:
        """The address of `init_task`, by its name and by the list that it begins."""
        task = self.program.type("struct task_struct")
        import drgn

        name_at = drgn.offsetof(task, "comm")
        list_at = drgn.offsetof(task, "tasks")
        for at, piece in self.memory.image_pieces(_PIECE, _OVERLAP):
            place = piece.find(_IDLE)
            while place >= 0:
                address = int(at + place - name_at)
                try:
                    following = self.word(address + list_at)
                    if self.word(following + 8) == address + list_at:
                        return address
                except SavefmtError:
                    pass
                place = piece.find(_IDLE, place + 1)
        return None

    # --- reading ---

    def word(self, address: int) -> int:
        """Return the pointer at an address of the kernel; AddressError if no memory is there."""
        return int.from_bytes(self.memory.read(address, 8), "little")

    def variable(self, name: str) -> drgn.Object | None:
        """Return a variable, None if this kernel does not have it or does not tell its address."""
        try:
            return self.program[name]
        except LookupError:
            return None

    def has(self, kind: str, member: str) -> bool:
        """Whether a structure has a member, in this release."""
        try:
            return bool(self.program.type(kind).has_member(member))
        except LookupError:
            return False

    @property
    def release(self) -> str:
        """What ``uname -r`` would print."""
        text = bytes(self.program["UTS_RELEASE"].string_())
        return text.decode("ascii", "replace")


def _tk_core(kernel: Kernel) -> Any:
    import drgn

    try:
        return kernel.program.type("struct tk_data")
    except LookupError:
        pass
    keeper = kernel.program.type("struct timekeeper")
    try:
        sequence = kernel.program.type("seqcount_raw_spinlock_t")
    except LookupError:
        sequence = kernel.program.type("seqcount_t")
    members = (drgn.TypeMember(sequence, "seq"), drgn.TypeMember(keeper, "timekeeper", 64))
    return kernel.program.struct_type(None, 8 + drgn.sizeof(keeper), members)


def _timekeepers(kernel: Kernel) -> Any:
    return kernel.program.array_type(kernel.program.type("struct tk_data"), 1)


_MADE_TYPES: dict[str, Callable[[Kernel], Any]] = {
    "tk_core": _tk_core,
    "timekeeper_data": _timekeepers,
}

_REACHED_FROM_FIRST: dict[str, tuple[str, ...]] = {
    "init_task": (),
    "init_nsproxy": ("nsproxy",),
    "init_net": ("nsproxy", "net_ns"),
    "init_uts_ns": ("nsproxy", "uts_ns"),
    "init_pid_ns": ("nsproxy", "pid_ns_for_children"),
    "init_user_ns": ("cred", "user_ns"),
}
