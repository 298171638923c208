"""Guests that run on an image's own pages, which nobody loads."""

from __future__ import annotations

from savefmt.instant.backends import MappedBlock, mappable
from savefmt.instant.cloning import clone, clone_for_libvirt
from savefmt.instant.detaching import detach
from savefmt.instant.onimage import restore_on_image
from savefmt.instant.outcomes import ClonedGuest, CloneReport
from savefmt.instant.startcommand import instant_command, make_copy

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
