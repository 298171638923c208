"""A live QEMU: save its guest into an image, and restore one from it."""

from __future__ import annotations

from savefmt.qemu.command import command_line
from savefmt.qemu.report import CommandSkeleton, MigrationError, RestoreReport, SaveReport
from savefmt.qemu.restoring import restore
from savefmt.qemu.saving import Afterwards, save

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
