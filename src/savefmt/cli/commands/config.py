"""``savefmt config``: the settings in force."""

from __future__ import annotations

import argparse

from savefmt.cli.codes import ExitCode
from savefmt.cli.options import common_options, output_options
from savefmt.cli.parser import Commands, Parser
from savefmt.cli.render.document import Documents
from savefmt.cli.ui import Ui

_EPILOG = """\
savefmt reads settings in this order, and later ones win: built-in defaults,
/etc/savefmt.toml, savefmt/config.toml in XDG_CONFIG_HOME (~/.config), environment variables
SAVEFMT_..., options.  SAVEFMT_CONFIG names a file to read instead of the two files.

exit codes: 0 shown, 1 a setting is wrong or a file cannot be read, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "config", help="show the settings", description="Show the settings.", leaf=False
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True, parser_class=Parser)
    show = verbs.add_parser(
        "show",
        help="show every setting and where it comes from",
        description="Show every setting as TOML, and where it comes from.",
        epilog=_EPILOG,
    )
    output_options(show)
    common_options(show)
    show.set_defaults(run=run, failed=ExitCode.FAILED)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.cli.render.config import SettingValues

    return ({"settings": dict[str, SettingValues]},)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Show the settings."""
    from savefmt.cli.render.config import config_lines
    from savefmt.compat import config

    settings = config.load()
    if ui.json:
        ui.document(
            settings={
                name: {"value": value, "origin": settings.origins[name]}
                for name, value in settings.values.items()
            }
        )
    else:
        ui.say(config_lines(settings))
    return ExitCode.GOOD
