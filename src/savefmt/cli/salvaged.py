"""What every command says at its end about a damaged image, read with ``--salvage``."""

from __future__ import annotations

import argparse
import os

from savefmt.cli.codes import ExitCode
from savefmt.cli.render.damage import lost_lines, remarks
from savefmt.cli.ui import Ui
from savefmt.errors import ConversionError
from savefmt.salvage.rescue import Rescue
from savefmt.writing.output import OutputFile


def tell_lost(args: argparse.Namespace, ui: Ui, code: ExitCode) -> ExitCode:
    """Say what was lost, and list it in a file where that is asked for.

    Parameters
    ----------
    args : argparse.Namespace
        The parsed command line, with what was salvaged.
    ui : Ui
        Where to say it.
    code : ExitCode
        How the command ended.

    Returns
    -------
    ExitCode
        That of findings, where all went well and something is lost.
    """
    rescued = remark_lost(args, ui)
    if args.lost is not None:
        if not hasattr(args, "force") and os.path.lexists(args.lost):
            raise ConversionError("the file exists; name another one for --lost", path=args.lost)
        with OutputFile(args.lost, overwrite=getattr(args, "force", False)) as output:
            text = "".join(line for rescue in rescued.values() for line in lost_lines(rescue))
            output.file.write(text.encode("utf-8", "surrogateescape") or b"\n", 0)
            output.commit()
        for note in output.notes:
            ui.remark(f"{args.lost}: {note}")
    sound = all(rescue.report.sound for rescue in rescued.values())
    return code if sound or code is not ExitCode.GOOD else ExitCode.FINDINGS


def remark_lost(args: argparse.Namespace, ui: Ui, *, failed: bool = False) -> dict[str, Rescue]:
    """Say what was lost; return the images by their names.

    After a failure, only what may be the reason for it.
    """
    rescued: dict[str, Rescue] = {str(rescue.source): rescue for rescue in args.rescued}
    for path, rescue in rescued.items():
        if args.tell_lost and not (failed and rescue.report.sound):
            for line in remarks(rescue.report):
                ui.remark(f"{path}: {line}")
    return rescued
