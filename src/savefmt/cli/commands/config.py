"""``savefmt config``: the settings in force."""

from __future__ import annotations

import argparse

from savefmt.cli.codes import ExitCode
from savefmt.cli.parser import Commands, Parser, common_options, output_options
from savefmt.cli.ui import Ui
from savefmt.errors import SavefmtError

_EPILOG = """\
Later places win: built in, /etc/savefmt.toml, savefmt/config.toml in XDG_CONFIG_HOME
(~/.config), environment variables SAVEFMT_..., options.  SAVEFMT_CONFIG names a file
to be read instead of the two.

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


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Show the settings."""
    from savefmt.cli.render.compat import config_lines
    from savefmt.compat import config

    try:
        settings = config.load()
    except (SavefmtError, OSError) as error:
        ui.fail(error)
        return ExitCode.FAILED
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
