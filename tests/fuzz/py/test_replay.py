"""Every input in the corpus, and changes of it, within bounds; without atheris."""

from __future__ import annotations

import random
import resource
import time

import pytest
from fuzz.py.targets import CORPUS, TARGETS, changed, run, seeds

SECONDS = 5.0
MOST_MEMORY = 150 << 20
CHANGES = 150


def peak() -> int:
    """Return the most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@pytest.mark.parametrize("name", TARGETS)
def test_replay(name: str) -> None:
    chance = random.Random(name)
    before = peak()
    kept = seeds(name)
    inputs = [*kept, *(data[: len(data) // 2] for data in kept)]
    inputs += [changed(chance.choice(kept), chance) for _ in range(CHANGES)]
    for number, data in enumerate(inputs):
        began = time.process_time()
        run(name, data)
        assert time.process_time() - began < SECONDS, f"input {number}"
    assert peak() - before < MOST_MEMORY


def test_every_target_has_a_corpus() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == TARGETS.keys()
    assert sum(path.stat().st_size for path in CORPUS.glob("*/*")) < 400 << 10
