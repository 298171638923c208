"""Signals at random moments over every command that writes, and kill -9 as well.

The source stays whole, the target is whole or absent, and no other file is left.  With
``HYPOTHESIS_PROFILE=nightly`` there are some hundred turns a command instead of a few.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from builder import DOMAIN_XML, make_envelope, make_stream
from cli.writers import DAMAGED, WRITERS, Stage, stage

MIB = 1 << 20
TURNS = 300 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 3
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
LONG = DOMAIN_XML.replace(b"</name>", b"</name><description>%s</description>")


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """The image, and documents for it."""
    ram = random.Random(1).randbytes(8 * MIB) + bytes(24 * MIB)
    xml = LONG % (b"x" * 3000)
    envelope = make_envelope(xml=xml, was_running=1, padding=1 << 16)
    return {
        "source": envelope + make_stream(blocks={"pc.ram": ram, "pc.bios": ram[: 1 << 16]}),
        "damaged": DAMAGED,
        "new.xml": LONG % (b"y" * 4000),
        "long.xml": LONG % (b"z" * 99_999),
    }


def disturb(acted: Stage, dice: random.Random) -> tuple[int, signal.Signals, bytes]:
    """Run the command and send it signals; return its exit code, the signal, what it said."""
    number = dice.choice(SIGNALS)
    usual = acted.seconds
    delay = usual * (dice.uniform(0, 1.1) if dice.random() < 0.3 else dice.uniform(0.5, 1.05))
    process = acted.start()
    time.sleep(delay)
    for _ in range(dice.choice((1, 1, 2, 3))):
        process.send_signal(number)
        time.sleep(dice.uniform(0, 0.01))
    said = process.communicate(timeout=60)[1]
    assert b"bug in savefmt" not in said, said
    return process.returncode, number, said


@pytest.mark.parametrize("name", WRITERS)
def test_signals(name: str, files: dict[str, bytes], tmp_path: Path) -> None:
    acted = stage(tmp_path, name, files)
    acted.rehearse()
    dice = random.Random(name if TURNS < 10 else None)

    for _ in range(TURNS):
        acted.set_up()
        code, number, said = disturb(acted, dice)
        done = acted.check(killed=number == signal.SIGKILL)
        # A signal that comes before anybody waits for it ends the process by itself.
        early = code == 1 and b"KeyboardInterrupt" in said and not done
        assert early or code in (0, 128 + number, -number), (code, said)
        assert code != 0 or done
