"""From figures to settings: the least effort that comes close to the best rate."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from savefmt.bench.values import Advice, Measurement

_CLOSE = 0.95
"""Of the best rate: less than that is a real loss."""


def advise(measurements: Sequence[Measurement], path: str, *, is_image: bool) -> Advice:
    """Choose settings.

    Parameters
    ----------
    measurements : sequence of Measurement
        With at least one that moves pages.
    path : str
        What was measured.
    is_image : bool
        An image that was read, rather than a folder that was written to.

    Returns
    -------
    Advice
        With the reason in one paragraph, and command lines.
    """
    work = "read" if is_image else "write"
    candidates = [m for m in measurements if m.work == work]
    best = max(candidates, key=lambda m: m.rate.median)
    close = [m for m in candidates if m.rate.median >= _CLOSE * best.rate.median]
    # Direct I/O leaves the page cache to the guests that run on.
    chosen = min(close, key=lambda m: (not m.direct, m.engine != "psync", m.threads, m.window))
    sentences = [
        _choice(chosen, best),
        _against_fio(chosen),
        _against_other_mode(chosen, candidates),
        "" if is_image else _against_stream(chosen, measurements),
    ]
    return Advice(
        chosen.direct,
        chosen.threads,
        chosen.window,
        chosen.engine,
        " ".join(filter(None, sentences)),
        _commands(chosen, path, is_image=is_image),
    )


def describe(m: Measurement) -> str:
    """Say a setting in words, as ``direct I/O, 2 threads, windows of 4 MiB``."""
    threads = "1 thread" if m.threads == 1 else f"{m.threads} threads"
    mode = "direct" if m.direct else "buffered"
    engine = "" if m.engine == "psync" else f" through {m.engine}"
    return f"{mode} I/O{engine}, {threads}, windows of {m.window >> 20} MiB"


def _rate(m: Measurement) -> str:
    return f"{m.rate.median / (1 << 20):.0f} MiB/s"


def _choice(chosen: Measurement, best: Measurement) -> str:
    verb = "reads" if chosen.work == "read" else "writes"
    if chosen is best:
        return f"Choose {describe(chosen)}: nothing measured {verb} faster than its {_rate(best)}."
    return (
        f"Choose {describe(chosen)}: it {verb} {_rate(chosen)}, close to the best "
        f"({_rate(best)} with {describe(best)}), and takes less of the host."
    )


def _against_fio(chosen: Measurement) -> str:
    if chosen.fio_share is None:
        return ""
    return f"That is {chosen.fio_share:.0%} of what fio gets with the same requests."


def _against_other_mode(chosen: Measurement, candidates: Sequence[Measurement]) -> str:
    other = [m for m in candidates if m.direct != chosen.direct]
    if not other:
        return ""
    rival = max(other, key=lambda m: m.rate.median)
    ratio = rival.rate.median / chosen.rate.median
    name = "Buffered" if chosen.direct else "Direct"
    return f"{name} I/O reaches {ratio:.2f} times that at best."


def _against_stream(chosen: Measurement, measurements: Sequence[Measurement]) -> str:
    streams = [m for m in measurements if m.work == "stream"]
    if not streams:
        return ""
    stream = max(streams, key=lambda m: m.rate.median)
    ratio = chosen.rate.median / stream.rate.median
    verdict = (
        "so the sparse format saves faster than raw here"
        if ratio > 1 / _CLOSE
        else "so raw saves as fast here, and sparse only restores in parallel"
    )
    return (
        f"A sequential save, one stream through a pipe, would write {_rate(stream)}; "
        f"pages are {ratio:.2f} times as fast, {verdict}."
    )


def _commands(chosen: Measurement, path: str, *, is_image: bool) -> tuple[str, ...]:
    channels = f"--parallel-channels {chosen.threads}"
    cache = " --bypass-cache" if chosen.direct else ""
    direct = "--direct" if chosen.direct else "--no-direct"
    options = (
        f"-T {chosen.threads} {direct} --window {chosen.window >> 20}M --engine {chosen.engine}"
    )
    if is_image:
        image = shlex.quote(path)
        return (
            f"virsh restore {image} {channels}{cache}",
            f"savefmt convert {image} DST {options}",
        )
    return (
        f"virsh save DOMAIN FILE --image-format sparse {channels}{cache}",
        f"savefmt convert SRC DST -O sparse {options}",
    )
