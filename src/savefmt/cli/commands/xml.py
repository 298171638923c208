"""``savefmt xml``: read and change the XML in an image's libvirt header."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from savefmt.cli.codes import ExitCode
from savefmt.cli.inputs import document
from savefmt.cli.options import (
    clone_option,
    common_options,
    evidence_options,
    io_of,
    io_options,
    output_options,
    source_options,
    writing_options,
)
from savefmt.cli.parser import Commands, file_argument, usage_error
from savefmt.cli.render.document import Documents
from savefmt.cli.render.xml import edit_lines, xml_lines
from savefmt.cli.ui import Ui
from savefmt.errors import SavefmtError
from savefmt.reports import EditReport

if TYPE_CHECKING:
    from pathlib import Path

_EPILOG = """\
A change inside one sector is written in place.  Any other change makes a new file, which takes
the image's name when it is complete.  If the XML does not fit into the space of the old one, the
stream moves.

exit codes: 0 success, 1 failed and the image is unchanged, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add ``xml dump|set|edit`` and the names that virsh gives them."""
    group = commands.add_parser(
        "xml", help="show or change the domain XML", epilog=_EPILOG, leaf=False
    )
    verbs = group.add_subparsers(dest="verb", metavar="VERB", required=True)
    _add_dump(verbs.add_parser("dump", help="print the XML", epilog=_EPILOG))
    _add_set(verbs.add_parser("set", help="replace the XML or the run state", epilog=_EPILOG))
    _add_edit(verbs.add_parser("edit", help="edit the XML in $VISUAL", epilog=_EPILOG))
    _add_dump(commands.add_parser("save-image-dumpxml", help="same as xml dump", epilog=_EPILOG))
    _add_set(commands.add_parser("save-image-define", help="same as xml set", epilog=_EPILOG))
    _add_edit(commands.add_parser("save-image-edit", help="same as xml edit", epilog=_EPILOG))


def _add_common(parser: argparse.ArgumentParser) -> None:
    file_argument(parser, "image", metavar="IMAGE")
    parser.add_argument(
        "--cookie",
        action="store_true",
        help="use the cookie (libvirt's second XML document), not the domain",
    )
    common_options(parser)


def _add_dump(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    source_options(parser, "image", damaged=False)
    parser.set_defaults(run=run_dump, failed=ExitCode.FAILED)


def _add_change(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    state = parser.add_mutually_exclusive_group()
    state.add_argument(
        "--running",
        dest="running",
        action="store_const",
        const=True,
        help="let the guest run after a restore",
    )
    state.add_argument(
        "--paused",
        dest="running",
        action="store_const",
        const=False,
        help="leave the guest paused after a restore",
    )
    parser.add_argument(
        "--no-abi-check",
        dest="check_abi",
        action="store_false",
        help="accept XML that does not fit the saved guest",
    )
    writing_options(parser)
    output_options(parser)
    io_options(parser)
    clone_option(parser)
    evidence_options(parser, "image", writes=lambda args: [args.image])


def _add_set(parser: argparse.ArgumentParser) -> None:
    _add_change(parser)
    file_argument(
        parser,
        "xml",
        dash="",
        nargs="?",
        metavar="XML",
        help="file with the new XML; - reads standard input; not needed with --running or --paused",
    )
    parser.set_defaults(run=run_set, failed=ExitCode.FAILED)


def _add_edit(parser: argparse.ArgumentParser) -> None:
    _add_change(parser)
    parser.set_defaults(run=run_edit, failed=ExitCode.FAILED)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.reports import EditReport

    return ({"edit": EditReport},)


def run_dump(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Print the XML, byte for byte; on a terminal without what that would obey."""
    from savefmt import edit

    text = edit.dump_xml(args.image, cookie=args.cookie)
    if sys.stdout is not None and sys.stdout.isatty():
        ui.say(xml_lines(text))
    else:
        ui.write([text])
    return ExitCode.GOOD


def run_set(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Replace the XML, the run state or both."""
    if args.xml is None and args.running is None:
        usage_error(args, "name a file with the new XML, or give --running or --paused")
    if args.xml is None and args.cookie:
        usage_error(args, "--cookie needs a file with the new cookie")
    kind = "cookie" if args.cookie else "domain XML"
    xml = None if args.xml is None else document(args.xml, kind)
    _show(_apply(args, ui, xml), ui)
    return ExitCode.GOOD


def run_edit(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Open the XML in an editor, again where it was refused and the user wants to."""
    from savefmt import edit
    from savefmt.cli import editor

    old = edit.dump_xml(args.image, cookie=args.cookie)
    draft = editor.write_draft(old)
    applied = False
    try:
        while _edited(draft, ui):
            new = draft.read_bytes()
            try:
                report = _apply(args, ui, None if new == old else new, expected=old)
            except (SavefmtError, OSError) as error:
                ui.fail(error, args.image)
                if not editor.ask_again():
                    break
            else:
                applied = not args.dry_run
                _show(report, ui)
                return ExitCode.GOOD
        return ExitCode.FAILED
    finally:
        # Also after Ctrl-C: the typed text is the only thing here that cannot be made again.
        if applied or draft.read_bytes() == old:
            draft.unlink()
        else:
            ui.remark(f"your text is kept in {draft}")


def _apply(
    args: argparse.Namespace, ui: Ui, xml: bytes | None, expected: bytes | None = None
) -> EditReport:
    from savefmt import edit

    if xml is None and args.running is None:
        return EditReport(args.image, changed=False)
    with ui.progress(args.image) as progress:
        return edit.set_xml(
            args.image,
            xml,
            cookie=args.cookie,
            running=args.running,
            check_abi=args.check_abi,
            expected=expected,
            dry_run=args.dry_run,
            io=io_of(args),
            progress=progress,
        )


def _show(report: EditReport, ui: Ui) -> None:
    if ui.json:
        ui.document(edit=report)
    elif not ui.quiet:
        ui.say(edit_lines(report))


def _edited(draft: Path, ui: Ui) -> bool:
    """Run the editor; False, with the reason told, where it did not end well."""
    from savefmt.cli import editor

    try:
        code = editor.run(draft)
    except (SavefmtError, OSError) as error:
        ui.fail(error)
        return False
    if code:
        ui.remark(f"the editor ended with code {code}; the image is as it was")
    return code == 0
