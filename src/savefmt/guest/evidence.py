"""The architecture and the machine of a guest, by what several parts of the image say."""

from __future__ import annotations

import re
from collections.abc import Sequence

from savefmt.errors import CorruptError, FormatError, UnsupportedError
from savefmt.format.devicetree import Struct
from savefmt.format.hardware import Hardware
from savefmt.frozen import dataclass
from savefmt.guest.arch.machinerules import MACHINES, MachineRules
from savefmt.guest.arch.table import ARCHES
from savefmt.guest.needs import GuestSource, read_hardware
from savefmt.model import Finding, Section, Severity

_FIELDS_NAMED = 4
_HINT = "its blocks can still be read by name; --place tells savefmt where they are"


@dataclass(frozen=True, slots=True)
class Clue:
    """What one part of the image says: `words` for messages, `names` of architectures.

    No names at all mean an architecture that is not in the table. `subject` is the block or
    section whose name shows it.
    """

    kind: str
    words: str
    names: frozenset[str]
    subject: str = ""


@dataclass(frozen=True, slots=True)
class MachineEvidence:
    """All clues of an image.

    Attributes
    ----------
    machine : str
        The machine type, empty where nobody tells.
    clues : tuple of Clue
        The surest first.
    blocks : frozenset of str
        idstrs of all RAM blocks.
    """

    machine: str
    clues: tuple[Clue, ...]
    blocks: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """Names of the architectures that all clues allow.

        Raises
        ------
        CorruptError
            If they allow none, though there are some.
        UnsupportedError
            If the vCPUs are of an architecture that is not in the table.
        """
        left = frozenset(ARCHES)
        for clue in self.clues:
            if clue.kind == "vCPUs" and not clue.names:
                raise UnsupportedError(f"{clue.words}, an architecture that savefmt does not know")
            left &= clue.names
        if not left:
            said = "; ".join(clue.words for clue in self.clues)
            raise CorruptError(f"the image contradicts itself about its architecture: {said}")
        return left if self.clues else frozenset()

    def without(self, kind: str) -> MachineEvidence:
        """Return the same without the clues of a kind."""
        clues = tuple(clue for clue in self.clues if clue.kind != kind)
        return MachineEvidence(self.machine, clues, self.blocks)

    def machine_rules(self) -> tuple[MachineRules, str]:
        """Return where the machine has its memory, and what proves that it is this machine.

        Raises
        ------
        CorruptError, UnsupportedError
            As for `names`; also if the machine is not known, or if only one part of the image
            shows it.
        """
        try:
            names = self.names
        except UnsupportedError as error:
            raise UnsupportedError(f"{error.message}; {_HINT}") from error
        named = any(clue.kind == "machine type" for clue in self.clues)
        subjects = {clue.subject for clue in self.clues}
        fitting = [
            rules
            for rules in MACHINES
            if names
            and names <= frozenset(rules.architectures)
            and (rules.witness is None or rules.witness in self.blocks)
            and (_matches(rules, self.machine) if self.machine else _looks_like(rules, subjects))
        ]
        if not fitting or len(self.clues) < 2 or (self.machine and not named):
            raise UnsupportedError(
                "savefmt does not know where machine type "
                f"{self.machine or '(not recorded)'!r}{self._of_arch(names)} has its memory; "
                f"{_HINT}"
            )
        kinds = ", ".join(dict.fromkeys(clue.kind for clue in self.clues))
        return fitting[0], f"{fitting[0].name} of {'/'.join(sorted(names))}, by {kinds}"

    def _of_arch(self, names: frozenset[str]) -> str:
        if len(self.clues) < 2 and names:
            return f" ({self.clues[0].words}, and nothing else proves it)"
        return f" of {' or '.join(sorted(names))}" if names else ""


def weigh(
    source: GuestSource, hardware: Hardware, findings: list[Finding], *, devices: bool = True
) -> MachineEvidence:
    """Gather what an image says of its architecture and its machine.

    Parameters
    ----------
    source : GuestSource
        The image.
    hardware : Hardware
        What the domain XML says.
    findings : list of Finding
        Receives what is damaged, or does not agree and does not matter.
    devices : bool
        Look at device sections, for which some images must be read whole.

    Returns
    -------
    MachineEvidence
        Its properties raise what contradictions there are.
    """
    machine = source.machine or hardware.machine or ""
    sections = source.devices.sections if devices else ()
    there = [block.idstr for block in source.head.blocks.blocks]
    clues = [
        *_from_notes(source),
        *_from_vcpus(source, [each for each in sections if each.idstr == "cpu"], findings),
        *_from_machine(machine),
        *_from_names([*there, *(section.idstr for section in sections)]),
    ]
    if hardware.architecture is not None:
        names = [arch.name for arch in ARCHES.values() if hardware.architecture in arch.spellings]
        words = f"the domain XML says {hardware.architecture}"
        clues.append(Clue("XML", words, frozenset(names)))
    if source.machine and hardware.machine and not hardware.machine.startswith(source.machine):
        findings.append(
            Finding(
                "memmap.machine",
                Severity.WARNING,
                f"the domain XML says machine type {hardware.machine}, the stream "
                f"{source.machine}; savefmt believes the stream",
            )
        )
    return MachineEvidence(machine, tuple(clues), frozenset(there))


def evidence_of(source: GuestSource, *, devices: bool = True) -> MachineEvidence:
    """Gather the same where nobody has read the XML, and doubts are of no use."""
    findings: list[Finding] = []
    return weigh(source, read_hardware(source, findings), findings, devices=devices)


def _from_vcpus(
    source: GuestSource, sections: list[Section], findings: list[Finding]
) -> list[Clue]:
    """Take the fields of the first vCPU for those of all."""
    if not sections:
        return []
    try:
        tree = source.devices.tree(sections[0])
    except FormatError as error:
        findings.append(Finding("devices.damaged", Severity.WARNING, error.message))
        return []
    names = frozenset(arch.name for arch in ARCHES.values() if arch.fits(tree))
    if names:
        return [Clue("vCPUs", f"the vCPUs are {' or '.join(sorted(names))}", names)]
    fields = _field_names(tree)
    if not fields:
        return []
    return [Clue("vCPUs", f"the vCPUs have the fields {', '.join(fields)}", frozenset())]


def _from_notes(source: GuestSource) -> list[Clue]:
    """Look for what a memory dump tells about its vCPUs."""
    if source.dump is None or source.dump.vcpus is None:
        return []
    return [Clue("vCPUs", "the dump has notes of x86_64 vCPUs", frozenset({"x86_64"}))]


def _field_names(tree: Struct) -> list[str]:
    found: list[str] = []
    for field in tree.fields:
        if isinstance(field.value, Struct):
            found += _field_names(field.value)
        elif field.type != "undescribed":
            found.append(field.name)
    return found[:_FIELDS_NAMED]


def _from_machine(machine: str) -> list[Clue]:
    names = {name for rules in MACHINES if _matches(rules, machine) for name in rules.architectures}
    if not machine or not names:
        return []
    words = f"machine type {machine} is of {' or '.join(sorted(names))}"
    return [Clue("machine type", words, frozenset(names))]


def _from_names(there: Sequence[str]) -> list[Clue]:
    """Look for names that only certain machines give to their memory or their bridge."""
    known: dict[str, set[str]] = {}
    for rules in MACHINES:
        for name in (rules.main_memory, rules.shadow[0] if rules.shadow else None):
            if name:
                known.setdefault(name, set()).update(rules.architectures)
    return [
        Clue("names", f"{name} is of {' or '.join(sorted(of))}", frozenset(of), name)
        for name in dict.fromkeys(there)
        if (of := known.get(name))
    ]


def _matches(rules: MachineRules, machine: str) -> bool:
    return bool(machine) and re.fullmatch(rules.pattern, machine) is not None


def _looks_like(rules: MachineRules, names: set[str]) -> bool:
    """Whether a machine without a name is this one: by its bridge, or a block of its own."""
    if rules.shadow is not None:
        return rules.shadow[0] in names and rules.name != "i440fx before 2.0"
    return rules.main_memory in names and rules.main_memory != "pc.ram"
