"""Guests that run directly on an image's pages, without loading them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from savefmt.lazy import loader

if TYPE_CHECKING:
    from savefmt.instant.backends import MappedBlock as MappedBlock
    from savefmt.instant.backends import mappable as mappable
    from savefmt.instant.cloning import clone as clone
    from savefmt.instant.cloning import clone_for_libvirt as clone_for_libvirt
    from savefmt.instant.detaching import detach as detach
    from savefmt.instant.onimage import restore_on_image as restore_on_image
    from savefmt.instant.outcomes import ClonedGuest as ClonedGuest
    from savefmt.instant.outcomes import CloneReport as CloneReport
    from savefmt.instant.startcommand import instant_command as instant_command
    from savefmt.instant.startcommand import make_copy as make_copy
else:
    __getattr__ = loader(
        __name__,
        {
            "backends": "MappedBlock mappable",
            "cloning": "clone clone_for_libvirt",
            "detaching": "detach",
            "onimage": "restore_on_image",
            "outcomes": "CloneReport ClonedGuest",
            "startcommand": "instant_command make_copy",
        },
    )

__all__ = [
    "CloneReport",
    "ClonedGuest",
    "MappedBlock",
    "clone",
    "clone_for_libvirt",
    "detach",
    "instant_command",
    "make_copy",
    "mappable",
    "restore_on_image",
]
