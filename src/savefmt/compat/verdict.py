"""Yes, no or yes-but: can this reader load this image, and what would make it so."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

from savefmt.compat.machines import Standing
from savefmt.compat.releases import MILESTONES, Reader, paired
from savefmt.compat.rules import Weight, obstacles
from savefmt.compat.traits import Form, Traits, examine
from savefmt.format.envelope import FORMATS
from savefmt.image import SaveImage
from savefmt.model import IOOptions, Layout, OnProgress, StrPath
from savefmt.reports import Answer, CompatReport, Verdict

_UNSURE = (Standing.FOREIGN, Standing.VENDOR)
"""Machine types of which nobody can promise that they load."""

_CODECS = tuple(name for name in FORMATS.values() if name not in ("raw", "sparse"))


def judge(traits: Traits, reader: Reader) -> Verdict:
    """Tell whether a reader can load an image.

    Parameters
    ----------
    traits : Traits
        Of the image.
    reader : Reader
        A release of libvirt or QEMU.

    Returns
    -------
    Verdict
        With the reasons, and the nearest conversion that helps: one that makes a no
        loadable, and a yes-but a plain yes.
    """
    found = obstacles(traits, reader)
    blocking = [obstacle.reason for obstacle in found if obstacle.blocks]
    if blocking:
        answer = Answer.NO
    else:
        plain = all(obstacle.weight is Weight.ASIDE for obstacle in found)
        answer = Answer.YES if plain else Answer.YES_BUT
    conversion = helping(traits, reader, unconditional if not blocking else loadable)
    reasons = blocking or [obstacle.reason for obstacle in found]
    return Verdict(reader.program, reader.name, answer, tuple(reasons), conversion, reader.system)


def helping(
    traits: Traits, reader: Reader, goal: Callable[[Traits, Iterable[Reader]], bool]
) -> tuple[str, ...]:
    """Return the options of ``savefmt convert`` that bring an image to a goal.

    Parameters
    ----------
    traits : Traits
        Of the image.
    reader : Reader
        The reader that is to load it.
    goal : callable
        `loadable` or `unconditional`.

    Returns
    -------
    tuple of str
        None where it is there already, where no conversion helps, or where nobody can promise
        that one does: because of the machine type.
    """
    unsure = reader.program == "qemu" and traits.machine.standing(reader.release) in _UNSURE
    if unsure or goal(traits, [reader]):
        return ()
    form = best_form(traits, [reader], goal=goal)
    return options_for(traits.form, form, reader) if form is not None else ()


def loadable(traits: Traits, readers: Iterable[Reader]) -> bool:
    """Tell whether no reader refuses an image."""
    return not any(obstacle.blocks for r in readers for obstacle in obstacles(traits, r))


def unconditional(traits: Traits, readers: Iterable[Reader]) -> bool:
    """Tell whether nothing at all stands between an image and its readers."""
    found = (obstacle for reader in readers for obstacle in obstacles(traits, reader))
    return all(obstacle.weight is Weight.ASIDE for obstacle in found)


def forms_of(form: Form) -> Iterator[Form]:
    """Yield every form an image can be converted to, the nearest first.

    Parameters
    ----------
    form : Form
        The present one; it comes first, with a right label.

    Yields
    ------
    Form
        Fewer changes before more; a change of codec counts less than one of layout.
    """
    layouts = [(form.layout, form.codec), (Layout.SEQUENTIAL, "raw")]
    layouts += [(Layout.SEQUENTIAL, codec) for codec in _CODECS]
    layouts.append((Layout.MAPPED_RAM, "raw"))
    versions = [form.version, 2, 1, 3, None] if form.version is not None else [None]
    commands = [True, False] if form.switchover else [False]
    seen = set()
    for (layout, codec), version, switchover in itertools.product(layouts, versions, commands):
        if version == 1 and (layout is Layout.MAPPED_RAM or codec != "raw"):
            continue
        candidate = Form(version, layout, codec, switchover)
        if candidate not in seen:
            seen.add(candidate)
            yield candidate


def best_form(
    traits: Traits,
    readers: Sequence[Reader],
    allowed: Callable[[Form], bool] = lambda form: True,
    *,
    goal: Callable[[Traits, Iterable[Reader]], bool] = loadable,
) -> Form | None:
    """Return the nearest form that all readers load, None if there is no such form.

    Parameters
    ----------
    traits : Traits
        Of the image.
    readers : sequence of Reader
        All of them must load it.
    allowed : callable
        Tells whether a form satisfies the other options.
    goal : callable
        `loadable`, or `unconditional` for more.

    Returns
    -------
    Form or None
        Fit for conversion.
    """
    fit = (form for form in forms_of(traits.form) if allowed(form))
    ranked = sorted(fit, key=lambda form: _distance(traits.form, form))
    return next((form for form in ranked if goal(traits.shaped(form), readers)), None)


def _distance(old: Form, new: Form) -> int:
    return (
        4 * (old.layout is not new.layout)
        + 2 * (old.codec != new.codec)
        + (old.version != new.version)
        + (old.switchover != new.switchover)
    )


def options_for(old: Form, new: Form, reader: Reader) -> tuple[str, ...]:
    """Return the options of ``savefmt convert`` that lead from one form to another."""
    options = []
    if old.name != new.name or old.mislabelled:
        options.append(f"-O {new.name}")
    if old.version != new.version:
        options.append("--bare" if new.version is None else f"--save-version {new.version}")
    if old.switchover != new.switchover:
        options.append(f"--for {reader.program}={reader.name}")
    return tuple(options)


def compatibility(
    source: StrPath | SaveImage,
    readers: Sequence[Reader] = MILESTONES,
    *,
    io: IOOptions = IOOptions(),
    progress: OnProgress | None = None,
) -> CompatReport:
    """Tell who can load an image.

    Parameters
    ----------
    source : str, os.PathLike or SaveImage
        The image; an unfinished one is judged, too.
    readers : sequence of Reader
        Whom to ask about; by default the releases between which behaviour changed.
    io, progress
        For a sequential image whose machine type has no version: it is read whole.

    Returns
    -------
    CompatReport
        One verdict a reader, in their order.
    """
    if not isinstance(source, SaveImage):
        with SaveImage(source, io=io, strict=False) as image:
            return compatibility(image, readers, io=io, progress=progress)
    traits = examine(source, io=io, progress=progress)
    verdicts = tuple(judge(traits, reader) for reader in paired(readers))
    return CompatReport(str(source.path), traits.machine.name, verdicts)
