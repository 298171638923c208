"""Suggestions for a word that savefmt does not know."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Mapping

# Names that other programs have for what savefmt's commands do.
_COMMANDS = {
    "cat": "read",
    "cmp": "compare",
    "compress": "convert",
    "decompress": "convert",
    "define": "xml set",
    "diff": "compare",
    "dmesg": "linux IMAGE log",
    "domxml": "xml dump",
    "dump": "export",
    "dumpxml": "xml dump",
    "edit": "xml edit",
    "extract": "export",
    "find": "search",
    "fsck": "check",
    "grep": "search",
    "hexdump": "read",
    "inspect": "info",
    "ls": "info",
    "managedsave": "save",
    "managedsave-define": "xml set",
    "managedsave-dumpxml": "xml dump",
    "managedsave-edit": "xml edit",
    "pack": "convert",
    "pmemsave": "export",
    "ps": "linux IMAGE ps",
    "pslist": "linux IMAGE ps",
    "registers": "regs",
    "resume": "restore",
    "sha256sum": "hash",
    "show": "info",
    "start": "restore",
    "unpack": "convert",
    "verify": "check",
    "version": "--version",
    "x": "read",
    "xxd": "read",
}

# Commands of theirs that have no counterpart, and why.
_DISK = "; that is for disk images, which qemu-img makes and changes"
_ELSEWHERE = {
    **dict.fromkeys(("amend", "bitmap", "commit", "create", "dd", "rebase", "resize"), _DISK),
    "snapshot": "; `savefmt info disk.qcow2` lists the snapshots in a disk image",
}
_VOLATILITY = (
    "; plugins of volatility3 run in volatility3, which reads save images with "
    '-p "$(savefmt plugins volatility)"; `savefmt linux IMAGE` tells of Linux without'
)

# Options of virsh, qemu-img and others, and those of ours that do the same, likeliest first.
_OPTIONS = {
    "--bypass-cache": ("--direct",),
    "--compress": ("-O zstd",),
    "--domain": ("--qmp",),
    "--dryrun": ("--dry-run",),
    "--image-format": ("-O",),
    "--json": ("-j",),
    "--output-format": ("-O",),
    "--overwrite": ("--force",),
    "--parallel-channels": ("--parallel", "--threads"),
    "--to": ("-O",),
    "--yes": ("--force",),
    "-c": ("-O zstd",),
    "-m": ("--threads",),
    "-t": ("--direct",),
    "-y": ("--force",),
}
_NEEDLESS = {
    "--xml": "; `savefmt xml set` changes the XML in an image",
    "-S": "; pages of zeros become holes without it",
    "-U": "; nothing locks an image that is only read",
    "-W": "; pages are written in any order without it",
    "-f": "; savefmt sees for itself what a file is",
    "-r": "; `savefmt repair` puts an image right",
}


def command_meant_by(word: str, known: Iterable[str]) -> str:
    """Return what to say about an unknown command.

    Parameters
    ----------
    word : str
        What was given.
    known : iterable of str
        What there is.

    Returns
    -------
    str
        ``; did you mean ...?`` or another way, or nothing where that is anybody's guess.
    """
    names = list(known)
    meant = _COMMANDS.get(word, "")
    if meant.partition(" ")[0] in names or (meant.startswith("-") and "info" in names):
        return f"; did you mean {meant}?"
    if "info" in names:
        if word in _ELSEWHERE:
            return _ELSEWHERE[word]
        if re.match(r"(linux|mac|windows)\.\w", word):
            return _VOLATILITY
        if os.path.isfile(word):
            return f"; a command comes before the file: savefmt info {word}"
    return _alike(word, names)


def option_meant_by(word: str, known: Mapping[str, argparse.Action]) -> str:
    """Return what to say about an unknown option.

    Parameters
    ----------
    word : str
        What was given, without its value.
    known : mapping of str to argparse.Action
        What there is.

    Returns
    -------
    str
        As for `command_meant_by`.
    """
    shown = [name for name, action in known.items() if action.help != argparse.SUPPRESS]
    for ours in _OPTIONS.get(word, ()):
        name, _, value = ours.partition(" ")
        if name in shown and (not value or value in (known[name].choices or ())):
            return f"; did you mean {ours}?"
    if word in _NEEDLESS:
        return _NEEDLESS[word]
    return _alike(word, [name for name in shown if name.startswith("--")], dashes="--")


def _alike(word: str, names: Iterable[str], dashes: str = "") -> str:
    """Name what begins with the word, else what the word begins with, else what is like it."""
    from difflib import get_close_matches  # late: it is for mistakes only

    bare = [name.removeprefix(dashes) for name in names]
    word = word.lstrip("-").lower() if dashes else word
    likely = sorted((name for name in bare if len(word) > 2 and name.startswith(word)), key=len)
    likely = likely or [name for name in bare if len(name) > 3 and word.startswith(name)]
    likely = likely or get_close_matches(word, bare, n=1, cutoff=_ALIKE)
    if not likely:
        return ""
    *others, last = (dashes + name for name in likely)
    return f"; did you mean {', '.join(others)}{' or ' if others else ''}{last}?"


_ALIKE = 0.7
"""Below that `create` is like `restore`."""
