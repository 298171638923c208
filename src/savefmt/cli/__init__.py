"""The command line: parse, call the library once, show, return a code."""

from __future__ import annotations

import gc
import signal
import sys
from typing import NoReturn


def entry() -> NoReturn:
    """Be the console script.

    A short run spent a fifth of its time on the search for garbage where there is none: among
    what gets loaded, and once more at the end.
    """
    # While modules load there is nothing to clean up, so Ctrl-C may end us at once.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.set_threshold(_ALLOCATIONS)
    from savefmt.cli.main import main
    from savefmt.cli.streams import settle

    settle()
    code = main()
    gc.freeze()
    sys.exit(code)


_ALLOCATIONS = 20_000
"""Objects that may be made before garbage is looked for; `savefmt info` makes 13 000."""
