"""What a worker does with one image; its answers are plain values."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from savefmt.check import check
from savefmt.compat.releases import MILESTONES, Reader
from savefmt.compat.verdict import compatibility
from savefmt.errors import FormatError, NotASaveImageError, SavefmtError
from savefmt.fleet.records import Outcome, Told
from savefmt.fleet.targets import find_targets
from savefmt.frozen import asdict, replace
from savefmt.image import SaveImage
from savefmt.model import CheckLevel, Finding, IOOptions, Layout, Severity
from savefmt.reports import Answer, CheckReport

_IO = IOOptions(threads=1)
"""Each worker has one core; there are as many workers as cores."""

_HITS = 100
"""Matches told of one image; all are counted."""


def perform(verb: str, path: str, options: dict[str, Any]) -> Told:
    """Do one verb.

    Parameters
    ----------
    verb : str
        One of `records.VERBS`, or ``list``, which looks for images.
    path : str
        The image.
    options : dict
        ``list``: ``names``; ``audit``: ``readers``; ``check``: ``full``; ``hash``:
        ``algorithm``; ``search``: ``yara``, ``texts``; ``convert``: ``target``, ``layout``,
        ``codec``, ``dry_run``, ``overwrite``; ``os``, ``search``: ``places``.

    Returns
    -------
    Told
        Errors of the image are part of it.
    """
    try:
        return _VERBS[verb](path, options)
    except NotASaveImageError as error:
        return Told(Outcome.NOT_AN_IMAGE, (error.message,))
    except FormatError as error:
        return Told(Outcome.DAMAGED, (_words(error),))
    except SavefmtError as error:
        return Told(Outcome.FAILED, (_words(error),))
    except OSError as error:
        return Told(Outcome.FAILED, (error.strerror or str(error),))


def _list(path: str, options: dict[str, Any]) -> Told:
    return Told(Outcome.GOOD, result=[_plain(one) for one in find_targets(options["names"])])


def _words(error: SavefmtError) -> str:
    at = f" (at offset {error.offset:#x})" if error.offset is not None else ""
    return error.message + at


def _audit(path: str, options: dict[str, Any]) -> Told:
    """Tell who will load it, whether it is sound at a glance, and how large it is."""
    told = _check(path, {})
    if told.verdict is Outcome.DAMAGED:
        return told
    readers = tuple(Reader.parse(text) for text in options.get("readers", ())) or MILESTONES
    with SaveImage(path, io=_IO, strict=False) as image:
        report = compatibility(image, readers, io=_IO)
        summary = image.summary()
    refused = [one for one in report.verdicts if one.answer is Answer.NO]
    doubtful = [one for one in report.verdicts if one.answer is Answer.YES_BUT]
    asked = bool(options.get("readers"))
    verdict = Outcome.REFUSED if refused and asked else told.verdict
    reasons = [
        f"{v.program} {v.release}: {why}" for v in (*refused, *doubtful) for why in v.reasons
    ]
    remedy = [" ".join(("convert", *v.conversion)) for v in (*refused, *doubtful) if v.conversion]
    return replace(
        told,
        verdict=verdict,
        reasons=told.reasons + (tuple(dict.fromkeys(reasons)) if asked else ()),
        remedy=told.remedy + (tuple(dict.fromkeys(remedy)) if asked else ()),
        result={
            "layout": summary.layout,
            "codec": summary.codec,
            "memory": sum(block.used_length for block in summary.blocks),
            "length": summary.logical_length,
            "disk_length": summary.disk_length,
            "verdicts": _plain(report.verdicts),
        },
    )


def _check(path: str, options: dict[str, Any]) -> Told:
    level = CheckLevel.FULL if options.get("full") else CheckLevel.QUICK
    report = check(path, level=level, io=_IO)
    summary = report.summary
    grave = [f for f in report.findings if f.severity is not Severity.NOTE]
    return Told(
        _outcome(report),
        tuple(finding.message for finding in grave),
        tuple(dict.fromkeys(remedy for remedy in map(_remedy, grave) if remedy)),
        (summary.domain_name or "") if summary is not None else "",
        summary.machine if summary is not None else "",
        _plain(report.findings),
    )


def _remedy(finding: Finding) -> str:
    return finding.advice if finding.repair is None else f"repair --fix {finding.repair}"


def _outcome(report: CheckReport) -> Outcome:
    if report.ok:
        return Outcome.GOOD
    return Outcome.DAMAGED if report.worst is Severity.ERROR else Outcome.FINDINGS


def _hash(path: str, options: dict[str, Any]) -> Told:
    from savefmt.scan.hashes import hash_memory

    with SaveImage(path, io=_IO) as image:
        hashes = hash_memory(image, options.get("algorithm", "sha256"), io=_IO)
        return _of(image, _plain(list(hashes)))


@contextmanager
def _placed(path: str, options: dict[str, Any]) -> Iterator[SaveImage]:
    """Open an image with the options about its blocks; other images may have other blocks."""
    with SaveImage(path, io=_IO) as image:
        if said := options.get("places", {}):
            own = {listed.idstr for listed in image.head.blocks.blocks}
            image.places = {**image.places, **{block: said[block] for block in own & said.keys()}}
        yield image


def _os(path: str, options: dict[str, Any]) -> Told:
    from savefmt.scan.system import identify

    with _placed(path, options) as image:
        return _of(image, _plain(identify(image, io=_IO)))


def _search(path: str, options: dict[str, Any]) -> Told:
    from savefmt.scan import patterns
    from savefmt.scan.search import search

    with _placed(path, options) as image:
        if options.get("yara"):
            from savefmt.scan.yara import compile_rules, search_rules

            hits = search_rules(image, compile_rules(options["yara"]), io=_IO)
        else:
            hits = search(image, [patterns.text(words) for words in options["texts"]], io=_IO)
        shown = [
            {**_plain(hit), **{name: getattr(hit, name).hex() for name in _BYTES}}
            for hit in islice(hits, _HITS)
        ]
        count = len(shown) + sum(1 for _ in hits)
        reasons = (f"{count} found",) if count else ()
        return replace(_of(image, {"count": count, "hits": shown}), reasons=reasons)


_BYTES = ("data", "before", "after")


def _convert(path: str, options: dict[str, Any]) -> Told:
    from savefmt.convert.conversion import convert

    target, dry = options["target"], bool(options.get("dry_run"))
    with SaveImage(path, io=_IO) as image:
        if not dry:
            os.makedirs(os.path.dirname(target), exist_ok=True)
        report = convert(
            image,
            _stand_in(target) if dry else target,
            layout=Layout(options["layout"]) if options.get("layout") else None,
            codec=options.get("codec"),
            dry_run=dry,
            overwrite=bool(options.get("overwrite")),
            io=_IO,
        )
        return _of(image, _plain(replace(report, target=target)))


def _stand_in(target: str) -> str:
    """Return where a dry run may look: a folder that would be made is not there yet."""
    folder, name = os.path.split(target)
    if os.path.isdir(folder):
        return target
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return os.path.join(folder, f".{name}.not-written")


def _plain(result: Any) -> Any:
    """Return a result of the library as values that JSON can hold."""
    return asdict(result)


def _of(image: SaveImage, result: Any) -> Told:
    name = image.domain.name if image.domain is not None else None
    return Told(Outcome.GOOD, domain=name or "", machine=image.machine, result=result)


_VERBS: dict[str, Callable[[str, dict[str, Any]], Told]] = {
    "list": _list,
    "audit": _audit,
    "check": _check,
    "hash": _hash,
    "os": _os,
    "search": _search,
    "convert": _convert,
}
