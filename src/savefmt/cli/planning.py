"""How a guest would be saved: `savefmt plan`, and `savefmt save -n`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from savefmt.cli.codes import ExitCode
from savefmt.cli.saveoptions import request_of
from savefmt.cli.ui import Ui

if TYPE_CHECKING:
    from savefmt.compat.policy import Abilities, SaveRequest


def show_plan(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Plan one save for the QEMU that the options name.

    Parameters
    ----------
    args : argparse.Namespace
        With ``qmp``, or else ``qemu_release`` or ``qemu_binary``.
    ui : Ui
        Where to show the plan.

    Returns
    -------
    ExitCode
        `ExitCode.FAILED` where the guest could not be saved so.
    """
    from savefmt.cli.render.plan import plan_lines
    from savefmt.compat import config
    from savefmt.compat.destination import look_at
    from savefmt.compat.policy import plan_save
    from savefmt.reports import Refusal

    settings = config.load()
    request = request_of(args, settings)
    plan = plan_save(request, _abilities(args, settings.timeout), look_at(args.target))
    refused = isinstance(plan, Refusal)
    if not refused:
        tell_of_version(request, ui)
    if ui.json:
        ui.document(**{"refusal" if refused else "plan": plan})
    else:
        ui.say(plan_lines(plan))
    return ExitCode.FAILED if refused else ExitCode.GOOD


def tell_of_version(request: SaveRequest, ui: Ui) -> None:
    """Say that the result has save version 3 if the user did not ask for that version."""
    if request.save_version is None and request.form == "3":
        ui.remark(
            "save version 3, which no released libvirt loads; --save-version, or the setting "
            "save_version, names another"
        )


def _abilities(args: argparse.Namespace, timeout: float) -> Abilities:
    from savefmt.compat.ask import ask, started
    from savefmt.compat.policy import abilities_of
    from savefmt.compat.releases import Release
    from savefmt.qmp import Monitor

    if args.qmp is not None:
        with Monitor(args.qmp, timeout=timeout) as monitor:
            return ask(monitor).abilities
    if args.qemu_release is not None:
        return abilities_of(Release.parse(args.qemu_release))
    with started(args.qemu_binary, timeout=timeout) as monitor:
        return ask(monitor).abilities
