"""A live QEMU: save its guest into an image, and restore one from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from savefmt.lazy import loader

if TYPE_CHECKING:
    from savefmt.qemu.command import command_line as command_line
    from savefmt.qemu.report import CommandSkeleton as CommandSkeleton
    from savefmt.qemu.report import MigrationError as MigrationError
    from savefmt.qemu.report import RestoreReport as RestoreReport
    from savefmt.qemu.report import SaveReport as SaveReport
    from savefmt.qemu.restoring import restore as restore
    from savefmt.qemu.saving import Afterwards as Afterwards
    from savefmt.qemu.saving import save as save
else:
    __getattr__ = loader(
        __name__,
        {
            "command": "command_line",
            "report": "CommandSkeleton MigrationError RestoreReport SaveReport",
            "restoring": "restore",
            "saving": "Afterwards save",
        },
    )

__all__ = [
    "Afterwards",
    "CommandSkeleton",
    "MigrationError",
    "RestoreReport",
    "SaveReport",
    "command_line",
    "restore",
    "save",
]
