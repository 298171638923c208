"""The log of kernels before 5.10, against a writer that keeps it as those kernels do."""

from __future__ import annotations

import random
import struct
from types import SimpleNamespace
from typing import Any

import drgn
import pytest

from savefmt.linux.facts import LogLine
from savefmt.linux.kernellog import log_lines

AT = 0xFFFF_8880_0100_0000


class OldLog:
    """A ring of records of any length; the oldest go."""

    def __init__(self, length: int, *, caller: bool) -> None:
        self.data = bytearray(random.Random(9).randbytes(length))
        self.head = struct.Struct("<QHHHBB4x" if caller else "<QHHHBB")
        self.first = self.following = 0
        self.kept: list[tuple[int, LogLine]] = []

    def _has_room(self, size: int) -> bool:
        wanted = size + self.head.size
        if self.kept and self.following <= self.first:
            return self.first - self.following >= wanted
        return max(len(self.data) - self.following, self.first) >= wanted

    def add(self, line: LogLine) -> None:
        """Write a record behind the last one, or at the front."""
        text = line.text.encode()
        size = -(-(self.head.size + len(text)) // 8) * 8
        while self.kept and not self._has_room(size):
            self.kept.pop(0)
            self.first = self.kept[0][0] if self.kept else self.following
        if self.following + size + self.head.size > len(self.data):
            self.data[self.following : self.following + self.head.size] = bytes(self.head.size)
            self.following = 0
        if not self.kept:
            self.first = self.following
        head = self.head.pack(
            *(int(line.uptime * 10**9), size, len(text), 0, line.facility, line.level << 5 | 3)
        )
        self.data[self.following : self.following + size] = (head + text).ljust(size, b"\0")
        self.kept.append((self.following, line))
        self.following += size

    def kernel(self, **changed: int) -> Any:
        """Return what the reader asks of a kernel."""
        program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
        program.add_memory_segment(
            AT, len(self.data), lambda at, count, offset, _: self.data[offset : offset + count]
        )
        numbers = {
            "log_buf": AT,
            "log_buf_len": len(self.data),
            "log_first_idx": self.first,
            "log_next_idx": self.following,
            **changed,
        }
        kinds = {
            name: program.int_type(name, size, False)
            for name, size in (("u64", 8), ("u16", 2), ("u8", 1))
        }
        members = [("u64", "ts_nsec", 0), ("u16", "len", 8), ("u16", "text_len", 10)]
        members += [("u16", "dict_len", 12), ("u8", "facility", 14)]
        record = program.struct_type(
            "printk_log",
            self.head.size,
            [drgn.TypeMember(kinds[kind], name, 8 * at) for kind, name, at in members],
        )
        variables = {
            name: drgn.Object(program, program.int_type("u64", 8, False), value=number)
            for name, number in numbers.items()
        }
        return SimpleNamespace(
            variable=variables.get,
            program=SimpleNamespace(type=lambda name: record),
            memory=SimpleNamespace(read_sparse=program.read),
            image=SimpleNamespace(path="image"),
            findings=[],
            doubts=0,
        )


def lines(count: int, seed: int) -> list[LogLine]:
    """Return messages of all lengths."""
    dice = random.Random(seed)
    return [
        LogLine(number / 8, dice.randrange(8), dice.randrange(24), "x" * dice.randrange(1, 200))
        for number in range(count)
    ]


@pytest.mark.parametrize("caller", [False, True])
@pytest.mark.parametrize("count", [1, 5, 30, 500])
def test_what_was_kept_is_read(count: int, caller: bool) -> None:
    for seed in range(20):
        log = OldLog(4096, caller=caller)
        for line in lines(count, seed):
            log.add(line)
        kernel = log.kernel()

        assert list(log_lines(kernel)) == [line for _, line in log.kept]
        assert kernel.findings == []
    assert count < 500 or len(log.kept) < count


@pytest.mark.parametrize(
    "changed",
    [
        {"log_first_idx": 1 << 40},
        {"log_next_idx": 3},
        {"log_buf_len": 1 << 40},
        {"log_buf_len": 0},
        {"log_buf": 0},
    ],
)
def test_what_cannot_be_ends_with_a_note(changed: dict[str, int]) -> None:
    log = OldLog(4096, caller=False)
    for line in lines(30, 1):
        log.add(line)
    kernel = log.kernel(**changed)

    found = list(log_lines(kernel))

    assert [one.code for one in kernel.findings] == ["linux.log-damaged"]
    assert len(found) <= 256


def test_noise_ends() -> None:
    for seed in range(200):
        log = OldLog(4096, caller=False)
        for line in lines(60, seed):
            log.add(line)
        dice = random.Random(seed)
        for _ in range(30):
            log.data[dice.randrange(len(log.data))] = dice.randrange(256)

        assert len(list(log_lines(log.kernel()))) <= 512


def test_a_kernel_without_either_log_says_so() -> None:
    kernel = SimpleNamespace(variable=lambda name: None, findings=[], doubts=0)

    assert list(log_lines(kernel)) == []  # type: ignore[arg-type]
    assert [one.code for one in kernel.findings] == ["linux.no-log"]
