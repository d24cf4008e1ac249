"""What of a saved state can be used as it is on this box, what must be installed anew, and what must stay behind. Pure.

    same Python, C library not older     everything, except what was compiled against another torch (or its like)
    another Python or box                what its wheel's tags allow; what has none, only where it holds no compiled code
    what the image has itself            the image's own torch stays

"Anew" means: the same version, from where it came. Whatever is not used as it is carries a sentence that says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from drivefs_agent.packages.model import Kind, Part, Target
from drivefs_agent.packages.origin import origin_of
from drivefs_agent.packages.protected import is_protected
from drivefs_agent.packages.tags import at_least, loadable

__all__ = ["Fit", "Judged", "Plan", "Verdict", "fits", "plan"]


class Fit:
    """What becomes of a part."""

    AS_IT_IS: Final = "as it is"
    ANEW: Final = "anew"
    LEFT_OUT: Final = "left out"


@dataclass(frozen=True, slots=True)
class Verdict:
    """action: of ``Fit``.  reason: a sentence or two; "" for what is used as it is."""

    action: str
    reason: str = ""


_AS_IT_IS: Final = Verdict(Fit.AS_IT_IS)


@dataclass(frozen=True, slots=True)
class Judged:
    """A part that is not used as it is, and why."""

    part: Part
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of all parts of a state, each list by name.  notes: sentences about the whole."""

    as_it_is: tuple[Part, ...] = ()
    anew: tuple[Judged, ...] = ()
    left_out: tuple[Judged, ...] = ()
    notes: tuple[str, ...] = field(default=())


def plan(parts: Iterable[Part], made_for: Target, here: Target) -> Plan:
    """``made_for``: where the state was saved."""
    by_name = {part.name: part for part in sorted(parts, key=lambda part: part.name)}
    beside = {name: part.version for name, part in by_name.items() if is_protected(name)}
    verdicts = {name: fits(part, made_for, here, beside) for name, part in by_name.items()}
    verdicts |= _without_purpose(by_name, verdicts, here)
    chosen = {action: [by_name[name] for name, verdict in verdicts.items() if verdict.action == action] for action in _ACTIONS}
    return Plan(
        as_it_is=tuple(chosen[Fit.AS_IT_IS]),
        anew=tuple(Judged(part, verdicts[part.name].reason) for part in chosen[Fit.ANEW]),
        left_out=tuple(Judged(part, verdicts[part.name].reason) for part in chosen[Fit.LEFT_OUT]),
        notes=_notes(verdicts, beside, made_for, here),
    )


_ACTIONS: Final = (Fit.AS_IT_IS, Fit.ANEW, Fit.LEFT_OUT)


def fits(part: Part, made_for: Target, here: Target, beside: Mapping[str, str] | None = None) -> Verdict:
    """``beside``: the versions of the protected parts of the same state, which it may have been compiled against."""
    if part.kind == Kind.DIRECTORY:
        return _AS_IT_IS
    if part.editable is not None:
        return Verdict(Fit.LEFT_OUT, origin_of(part).refusal)
    if _stays_the_images(part.name, made_for, here):
        return Verdict(Fit.LEFT_OUT, f"The image has its own {part.name} {here.image[part.name]}, which stays.")
    reason = _of_another_box(part, made_for, here)
    if not reason and part.native:
        missing, reason = _against_another(part, made_for, here, beside or {})
        if missing:
            return Verdict(Fit.LEFT_OUT, reason)
    return _elsewhere(part, here, reason) if reason else _AS_IT_IS


def _stays_the_images(name: str, made_for: Target, here: Target) -> bool:
    """A protected distribution is the image's matter, unless the layer was given another on top of this very one."""
    if not is_protected(name) or name not in here.image:
        return False
    return (made_for.image.get(name), made_for.cuda) != (here.image[name], here.cuda)


def _of_another_box(part: Part, made_for: Target, here: Target) -> str:
    """Why this Python on this box cannot load it; "" where it can."""
    newer = at_least(here.libc, made_for.libc)
    if here.line == made_for.line and newer:
        return ""
    if part.tags and part.kind == Kind.DISTRIBUTION:
        if loadable(part.tags, here, local=newer and here.machine == made_for.machine):
            return ""
        if not part.native:
            return f"It is made for {', '.join(part.tags)}, and this Python is {here.line} with {here.libc}."
    elif not part.native:
        return ""
    if here.line != made_for.line:
        return f"It is compiled for {made_for.line}, and this Python is {here.line}."
    return f"It is compiled for {made_for.libc}, and this box has {here.libc}."


def _against_another(part: Part, made_for: Target, here: Target, beside: Mapping[str, str]) -> tuple[bool, str]:
    """Which of its needs is another one here, as a sentence; and whether that one is missing altogether."""
    for name in part.needs:
        kept = name in beside and not _stays_the_images(name, made_for, here)
        if kept:
            continue
        then, now = beside.get(name, made_for.image.get(name)), here.image.get(name)
        if now is None and then is not None:
            return (
                True,
                f"It is compiled against {name} {then}, which is not here. Install both: pip install {name} {part.name}",
            )
        if then is None or now is None:
            continue
        if not _one_build(then, now):
            return False, f"It is compiled against {name} {then}, and the image has {name} {now}."
        if made_for.cuda != here.cuda:
            return False, f"It is compiled for {_cuda(made_for)}, and the image's {name} is for {_cuda(here)}."
    return False, ""


def _one_build(one: str, other: str) -> bool:
    """Equal but for the label after "+", which tells CUDA's version or who built it. Before a release, only the label tells."""
    try:
        first, second = Version(one), Version(other)
    except InvalidVersion:
        return one == other
    return first == second or (first.public == second.public and not first.is_prerelease)


def _cuda(target: Target) -> str:
    return f"CUDA {target.cuda}" if target.cuda else "no CUDA"


def _elsewhere(part: Part, here: Target, reason: str) -> Verdict:
    """It cannot be used as it is, for ``reason``: can it be had from where it came?"""
    if part.kind != Kind.DISTRIBUTION:
        return Verdict(Fit.LEFT_OUT, f"{reason} No package owns these files, so nothing can bring them for this Python.")
    origin = origin_of(part)
    if origin.refusal:
        return Verdict(Fit.LEFT_OUT, f"{reason} {origin.refusal}")
    if origin.file.endswith(".whl") and not _is_for(origin.file, here):
        return Verdict(
            Fit.LEFT_OUT, f"{reason} It came as {origin.file}, which is for the other one too. Install one for this Python."
        )
    return Verdict(Fit.ANEW, reason)


def _is_for(file: str, here: Target) -> bool:
    try:
        tags = parse_wheel_filename(file)[3]
    except InvalidWheelFilename:
        return False
    return loadable(map(str, tags), here, local=True)


def _without_purpose(parts: Mapping[str, Part], verdicts: Mapping[str, Verdict], here: Target) -> dict[str, Verdict]:
    """Gigabytes that only came along: libraries of a torch that stays behind, and that nothing else here needs."""
    changed: dict[str, Verdict] = {}
    waiting = [name for name, verdict in verdicts.items() if verdict.action == Fit.LEFT_OUT and name in here.image]
    while waiting:
        owner = waiting.pop()
        for name in parts[owner].needs:
            if name not in parts or name in changed or verdicts[name].action == Fit.LEFT_OUT or parts[name].requested:
                continue
            others = [other for other, part in parts.items() if name in part.needs and other not in changed]
            if all(verdicts[other].action == Fit.LEFT_OUT for other in others):
                changed[name] = Verdict(Fit.LEFT_OUT, f"Only {owner} needed it, and the image's own {owner} has what it needs.")
                waiting.append(name)
    return changed


def _notes(verdicts: Mapping[str, Verdict], beside: Mapping[str, str], made_for: Target, here: Target) -> tuple[str, ...]:
    """A torch of the layer's own brings its CUDA along, but not the driver."""
    own = [name for name in beside if verdicts[name].action != Fit.LEFT_OUT and name not in made_for.image]
    then, now = _number(made_for.cuda), _number(here.cuda)
    if not own or not then or not now or now >= then:
        return ()
    return (
        f"{own[0]} was saved on a box for CUDA {then}, and this one is for CUDA {now}: it may find no GPU. "
        "Update the driver, or install a build for this CUDA.",
    )


def _number(cuda: str | None) -> int:
    return int(cuda) if cuda is not None and cuda.isdecimal() else 0
