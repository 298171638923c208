"""Options for damaged images."""

from __future__ import annotations

import argparse
from typing import Any

from savefmt.cli.parser import file_argument, usage_error


def salvage_options(group: argparse._ActionsContainer) -> None:
    """Add what goes with ``--salvage``.

    Parameters
    ----------
    group : argparse.ArgumentParser or argument group
        Where to add it.
    """
    group.add_argument(
        "--unproven",
        action="store_true",
        help="use the unpacked part of damaged compressed data although its checksum is wrong; "
        "its pages may differ from the guest's",
    )
    file_argument(
        group,
        "--map",
        dest="bad",
        metavar="FILE",
        help="map file of GNU ddrescue; parts that it could not copy are not read",
    )
    file_argument(
        group,
        "--lost",
        metavar="FILE",
        help="write to FILE what is lost, one range per line: block, first byte and length",
    )


def salvage_parts(args: argparse.Namespace) -> tuple[Any, ...]:
    """Return what a source has of ``--salvage``, nothing without it."""
    args.rescued = []
    if not getattr(args, "salvage", False):
        if any(getattr(args, name, None) for name in ("bad", "lost", "unproven")):
            usage_error(args, "--map, --lost and --unproven go with --salvage")
        return ()
    if args.shared:
        usage_error(args, "--salvage and --shared exclude each other")
    return (True, args.bad, args.rescued.append, args.unproven)
