"""A process that works on images: jobs come on standard input, answers leave on standard output.

Each is one line of JSON. So data from an image is never more than text. The process ends with
its input, even if the process that started it has died.
"""

from __future__ import annotations

import json
import os
import sys

from savefmt.ending import Terminated, ended_by_signals
from savefmt.fleet.records import Outcome, Told
from savefmt.fleet.verbs import perform
from savefmt.frozen import asdict, replace

OUT_OF_MEMORY = 77
"""The exit code that says so: what is left of the process is not to be trusted."""

_VERSION: str = sys.modules["savefmt"].__version__
"""Of the package that this process has, which on another host may be another."""


def main() -> None:
    """Work until the input ends."""
    try:
        with ended_by_signals():
            _work()
    except Terminated as end:
        sys.exit(128 + end.number)


def _work() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    for line in sys.stdin:
        job = json.loads(line)
        try:
            told = perform(job["verb"], job["path"], job["options"])
            answer = _answer(told)
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        except Exception as error:
            told = Told(Outcome.FAILED, (f"a bug in savefmt: {type(error).__name__}: {error}",))
            answer = _answer(told)
        answers.write(f"{answer}\n")
        answers.flush()


def _answer(told: Told) -> str:
    return json.dumps(asdict(replace(told, version=_VERSION)))


if __name__ == "__main__":
    main()
