"""From results to settings: the cheapest setting whose rate is close to the best."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Sequence

from savefmt.bench.values import Advice, Measurement, Subject
from savefmt.compat.pitfalls import DIRECT_IO_STAYS, SET_BACK

_CLOSE = 0.95
"""Of the best rate: less than that is a real loss, if the runs agree about it."""

_USUAL = 1 << 20
"""The smallest window that other commands take."""

_CHANNEL = 512 << 10
"""The largest request of QEMU's multifd channels."""

_UNSTEADY = 0.2
"""Of its rate: where the middle half of a setting's runs spreads wider, say so."""


def advise(measurements: Sequence[Measurement], target: Subject) -> Advice:
    """Choose settings.

    Parameters
    ----------
    measurements : sequence of Measurement
        With at least one that moves pages.
    target : Subject
        What was measured: a folder that was written to, or an image that was read.

    Returns
    -------
    Advice
        With the reason in one paragraph, and command lines.
    """
    work = "read" if target.is_image else "write"
    measured = [m for m in measurements if m.work == work]
    # Smaller windows show what a disk does with small requests; nothing moves images so.
    candidates = [m for m in measured if m.window >= _USUAL] or measured
    chosen, best = _choose(candidates)
    channels = _choose(_like_qemu(measured, chosen))[0].threads if target.mapped else 0
    sentences = [
        _choice(chosen, best),
        _against_fio(chosen),
        _against_other_mode(chosen, candidates),
        "" if target.is_image else _against_stream(chosen, measurements),
        _about_channels(channels, chosen),
        _about_the_next_save() if _sets_direct_io(chosen, target) else "",
        _unsteadiness(chosen, best),
    ]
    return Advice(
        chosen.direct,
        chosen.threads,
        chosen.window,
        chosen.engine,
        " ".join(filter(None, sentences)),
        _commands(chosen, channels, target),
    )


def _choose(candidates: Sequence[Measurement]) -> tuple[Measurement, Measurement]:
    """Choose the least effort that comes close to the best; return that, too."""
    best = max(candidates, key=lambda m: m.rate.median)
    close = [m for m in candidates if _is_close(m, best) or _overlap(m, best)]
    # Direct I/O leaves the page cache to the guests that run on.
    chosen = min(close, key=lambda m: (not m.direct, m.engine != "psync", m.threads, m.window))
    return chosen, best


def _like_qemu(measured: Sequence[Measurement], chosen: Measurement) -> list[Measurement]:
    """Keep what is most like QEMU's channels, which wait for each request of 512 KiB at most."""
    like = [m for m in measured if m.direct == chosen.direct]

    def distance(m: Measurement) -> tuple[bool, int]:
        return m.engine != "psync", max(m.window, _CHANNEL) // min(m.window, _CHANNEL)

    nearest = min(map(distance, like))
    return [m for m in like if distance(m) == nearest]


def _is_close(m: Measurement, best: Measurement) -> bool:
    return m.rate.median >= _CLOSE * best.rate.median


def _overlap(m: Measurement, best: Measurement) -> bool:
    """Whether the middle halves of the runs of both overlap: the gain is within the noise."""
    return _middle_half(m)[1] >= _middle_half(best)[0]


def _middle_half(m: Measurement) -> tuple[float, float]:
    if len(m.runs) < 2:
        return m.rate.median, m.rate.median
    low, _, high = statistics.quantiles(m.runs, n=4, method="inclusive")
    return low, high


def describe(m: Measurement) -> str:
    """Say a setting in words, as ``direct I/O, 2 threads, windows of 4 MiB``."""
    threads = "1 thread" if m.threads == 1 else f"{m.threads} threads"
    mode = "direct" if m.direct else "buffered"
    engine = "" if m.engine == "psync" else f" through {m.engine}"
    window = f"{m.window >> 20} MiB" if m.window >= _USUAL else f"{m.window >> 10} KiB"
    return f"{mode} I/O{engine}, {threads}, windows of {window}"


def _rate(m: Measurement) -> str:
    return f"{m.rate.median / (1 << 20):.0f} MiB/s"


def _choice(chosen: Measurement, best: Measurement) -> str:
    verb = "reads" if chosen.work == "read" else "writes"
    if chosen is best:
        return f"Choose {describe(chosen)}: nothing measured {verb} faster than its {_rate(best)}."
    rival = f"{_rate(best)} with {describe(best)}"
    if _is_close(chosen, best):
        reason = f"close to the best ({rival}), and takes less of the host"
    else:
        reason = f"and the best ({rival}) is ahead by no more than its runs differ"
    return f"Choose {describe(chosen)}: it {verb} {_rate(chosen)}, {reason}."


def _about_channels(channels: int, chosen: Measurement) -> str:
    if channels in (0, chosen.threads):
        return ""
    count = "1 channel is" if channels == 1 else f"{channels} channels are"
    return (
        f"For virsh {count} better: QEMU's wait for each request, of 512 KiB at most, and are "
        "judged by the window nearest to that."
    )


def _sets_direct_io(chosen: Measurement, target: Subject) -> bool:
    """Whether a restore as advised leaves its QEMU so that a save may end it."""
    return chosen.direct and target.is_image and target.mapped and target.by_libvirt


def _about_the_next_save() -> str:
    what = DIRECT_IO_STAYS.what
    return f"But {what}. So save it with --bypass-cache, too, or set it back after the restore."


def _unsteadiness(*measurements: Measurement) -> str:
    spread = max(
        (high - low) / m.rate.median for m in measurements for low, high in [_middle_half(m)]
    )
    if spread <= _UNSTEADY:
        return ""
    return (
        f"The runs of one setting differ by {spread:.0%}, though: measure again with a larger "
        "--size or --repeat, or when nothing else uses the disk, before relying on this."
    )


def _against_fio(chosen: Measurement) -> str:
    if chosen.fio_share is None:
        return ""
    return f"That is {chosen.fio_share:.0%} of fio's bandwidth (bw) with the same requests."


def _against_other_mode(chosen: Measurement, candidates: Sequence[Measurement]) -> str:
    other = [m for m in candidates if m.direct != chosen.direct]
    if not other:
        return ""
    rival = max(other, key=lambda m: m.rate.median)
    ratio = rival.rate.median / chosen.rate.median
    name = "Buffered" if chosen.direct else "Direct"
    return f"{name} I/O reaches {ratio:.3g} times that at best."


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


def _commands(chosen: Measurement, count: int, target: Subject) -> tuple[str, ...]:
    channels = f" --parallel-channels {count}" if count else ""
    cache = " --bypass-cache" if chosen.direct else ""
    direct = "--direct" if chosen.direct else "--no-direct"
    window = f" --window {chosen.window >> 20}M" if chosen.window >= _USUAL else ""
    options = f"-T {chosen.threads} {direct}{window} --engine {chosen.engine}"
    if not target.is_image:
        return (
            f"virsh save DOMAIN FILE --image-format sparse{channels}{cache}",
            f"savefmt convert SRC DST -O sparse {options}",
        )
    image = shlex.quote(f"./{target.path}" if target.path.startswith("-") else target.path)
    restore = f"virsh restore {image}{channels}{cache}"
    convert = f"savefmt convert {image} DST -O {'raw' if target.mapped else 'sparse'} {options}"
    if not target.by_libvirt:
        return (convert,)
    return (restore, SET_BACK, convert) if _sets_direct_io(chosen, target) else (restore, convert)
