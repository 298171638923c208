"""Runs commands, each in a process of its own that `faulty.so` disturbs.

Started with that library preloaded.  A line of JSON in is a list: words of the command, call,
number of the call, errno.  A line out: exit code, whether the call failed, how often it was
made, standard error.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any

from savefmt.cli.main import build_parser, main


def run(faulty: Any, words: list[str], call: str, number: int, errnum: int) -> list[Any]:
    """Run one command in a child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.dup2(writer, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 99
        try:
            faulty.faulty_arm(os.fsencode(os.getcwd()), call.encode(), number, errnum)
            code = main(words)
        finally:
            sys.stderr.flush()
            facts = [faulty.faulty_hit(), faulty.faulty_calls()]
            os.write(2, b"\n" + json.dumps(facts).encode())
            os._exit(code)
    os.close(writer)
    with open(reader, "rb") as pipe:
        told = pipe.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    text, _, last = told.rpartition("\n")
    code = os.waitstatus_to_exitcode(status)
    hit, calls = json.loads(last) if code >= 0 else (1, 0)
    return [code, bool(hit), calls, text]


def serve() -> None:
    """Answer until standard input ends."""
    faulty = ctypes.CDLL(None)
    build_parser()  # loads all commands
    for line in sys.stdin:
        print(json.dumps(run(faulty, *json.loads(line))), flush=True)


if __name__ == "__main__":
    serve()
