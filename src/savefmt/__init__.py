"""Read, check, convert, inspect and measure the save images of libvirt and QEMU guests."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from savefmt.check import check as check
    from savefmt.compare import compare as compare
    from savefmt.convert import convert as convert
    from savefmt.errors import AddressError as AddressError
    from savefmt.errors import ClosedImageError as ClosedImageError
    from savefmt.errors import ConversionError as ConversionError
    from savefmt.errors import CorruptError as CorruptError
    from savefmt.errors import FormatError as FormatError
    from savefmt.errors import ImageChangedError as ImageChangedError
    from savefmt.errors import ImageIOError as ImageIOError
    from savefmt.errors import IncompleteImageError as IncompleteImageError
    from savefmt.errors import NotASaveImageError as NotASaveImageError
    from savefmt.errors import OperationCancelled as OperationCancelled
    from savefmt.errors import SavefmtError as SavefmtError
    from savefmt.errors import TruncatedError as TruncatedError
    from savefmt.errors import UnsupportedError as UnsupportedError
    from savefmt.export import export as export
    from savefmt.facade import open as open
    from savefmt.facade import probe as probe
    from savefmt.image import SaveImage as SaveImage
    from savefmt.model import CheckLevel as CheckLevel
    from savefmt.model import DiskSummary as DiskSummary
    from savefmt.model import EnvelopeSummary as EnvelopeSummary
    from savefmt.model import Finding as Finding
    from savefmt.model import ImageSummary as ImageSummary
    from savefmt.model import IOOptions as IOOptions
    from savefmt.model import Layout as Layout
    from savefmt.model import MapExtent as MapExtent
    from savefmt.model import OnProgress as OnProgress
    from savefmt.model import PageRun as PageRun
    from savefmt.model import PhysicalRange as PhysicalRange
    from savefmt.model import Progress as Progress
    from savefmt.model import RamBlock as RamBlock
    from savefmt.model import Repair as Repair
    from savefmt.model import Salvage as Salvage
    from savefmt.model import Section as Section
    from savefmt.model import Severity as Severity
    from savefmt.model import Snapshot as Snapshot
    from savefmt.reading.source import Source as Source
    from savefmt.reading.source import is_disk as is_disk
    from savefmt.reading.source import list_snapshots as list_snapshots
    from savefmt.repair import repair as repair
    from savefmt.reports import BlockDifference as BlockDifference
    from savefmt.reports import CheckReport as CheckReport
    from savefmt.reports import Comparison as Comparison
    from savefmt.reports import ConversionReport as ConversionReport
    from savefmt.reports import EditReport as EditReport
    from savefmt.reports import ExportReport as ExportReport
    from savefmt.reports import Offer as Offer
    from savefmt.reports import RepairReport as RepairReport
    from savefmt.reports import SectionDifference as SectionDifference

__version__ = "0.1.0"

_HOMES = {
    "savefmt.check": "check",
    "savefmt.compare": "compare",
    "savefmt.convert": "convert",
    "savefmt.errors": "AddressError ClosedImageError ConversionError CorruptError FormatError"
    " ImageChangedError ImageIOError IncompleteImageError NotASaveImageError OperationCancelled"
    " SavefmtError TruncatedError UnsupportedError",
    "savefmt.export": "export",
    "savefmt.facade": "open probe",
    "savefmt.image": "SaveImage",
    "savefmt.model": "CheckLevel DiskSummary EnvelopeSummary Finding IOOptions ImageSummary Layout"
    " MapExtent OnProgress PageRun PhysicalRange Progress RamBlock Repair Salvage Section"
    " Severity Snapshot",
    "savefmt.reading.source": "Source is_disk list_snapshots",
    "savefmt.repair": "repair",
    "savefmt.reports": "BlockDifference CheckReport Comparison ConversionReport EditReport"
    " ExportReport Offer RepairReport SectionDifference",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)


class _Package(ModuleType):
    """A package whose functions win over the submodules of the same name.

    Loading `savefmt.check` binds that module as the package's attribute, which
    would turn ``savefmt.check(path)`` into a call of a module.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


if not TYPE_CHECKING:  # type checkers must not conclude that any name is allowed

    def __getattr__(name: str) -> object:
        """Load a public name at its first use, so that ``import savefmt`` stays cheap."""
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module 'savefmt' has no attribute {name!r}")
        value = getattr(importlib.import_module(home), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = _Package
