"""The gate's decision: may a candidate take the champion's place? Pure: two evaluations and what is known of the candidate.

Both evaluations answered the same queries, made by the same code on the same data (`alpro.registry.promote`). The figure
that decides is R@1 from text to video, or the overall accuracy: it must reach the threshold, gain enough, and gain more
than chance would (paired bootstrap, whole videos drawn). The guards must not be worse than by a stated margin. All numbers
are in percent, or points of it, but for ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpro.config import Gate
from alpro.errors import DataError
from alpro.evaluation.compare import HEADLINE, RunComparison, compare_runs, figure
from alpro.files.json_files import read_json_object

RECALLS = ("text2video.r5", "text2video.r10", "video2text.r1")
MEDIAN = "text2video.medianR"
CHANCE = {"retrieval": "chance", "qa": "majority"}


@dataclass(frozen=True, slots=True)
class Check:
    """One condition: what was found, and what had to be."""

    name: str
    ok: bool
    candidate: str
    champion: str = ""
    needed: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks; the candidate passes when every one of them does."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether the candidate may become the champion."""
        return all(check.ok for check in self.checks)

    @property
    def reason(self) -> str:
        """One line that says why."""
        failed = [f"{check.name} ({check.candidate}; needed: {check.needed})" for check in self.checks if not check.ok]
        return "; ".join(failed) if failed else "every check passed"

    def __str__(self) -> str:
        rows = [("", "check", "candidate", "champion", "needed")]
        rows += [("ok" if c.ok else "NO", c.name, c.candidate, c.champion, c.needed) for c in self.checks]
        widths = [max(len(row[at]) for row in rows) for at in range(5)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def compare_with_champion(settings: Gate, candidate: Path, champion: Path) -> list[Check]:
    """The checks of two records of evaluations. Raises DataError where they did not answer the same queries."""
    compared = compare_runs(candidate, champion, resamples=settings.resamples)
    headline = compared.headline
    low, high = headline.ci95
    name = HEADLINE[compared.kind]
    found = [_threshold(settings, name, headline.a)] if settings.threshold is not None else []
    found.append(
        Check(
            f"gain of {name}",
            headline.difference > 0 and headline.difference >= settings.gain,
            f"{headline.a:.2f} ({headline.difference:+.2f})",
            f"{headline.b:.2f}",
            f"at least {settings.gain:+.2f}" if settings.gain else "more than 0",
        )
    )
    found.append(
        Check(
            "gain beyond chance",
            headline.difference > 0 and headline.p_value < settings.p_value,
            f"p {headline.p_value:.4f}, [{low:+.2f}, {high:+.2f}] over {headline.n} queries",
            needed=f"p under {settings.p_value:g}",
        )
    )
    return found + (
        _recalls(settings, compared, candidate, champion) if compared.kind == "retrieval" else _types(settings, compared)
    )


def compare_with_chance(settings: Gate, candidate: Path) -> list[Check]:
    """The checks of a first model: its figure's whole interval lies above chance, or above the most frequent answer."""
    metrics = _metrics(candidate)
    kind = "retrieval" if "text2video" in metrics else "qa"
    name, base = HEADLINE[kind], metrics[CHANCE[kind]]
    value, ci95 = figure(metrics, name)
    if value is None or ci95 is None:
        raise DataError(f"{candidate / 'metrics.json'}: lacks {name} or its interval; evaluate again")
    found = [_threshold(settings, name, value)] if settings.threshold is not None else []
    said = f"{value:.2f} [{ci95[0]:.2f}, {ci95[1]:.2f}]"
    return [*found, Check(f"{name} above {CHANCE[kind]}", ci95[0] > base, said, "none yet", f"all of it above {base:.2f}")]


def _threshold(settings: Gate, name: str, value: float) -> Check:
    assert settings.threshold is not None
    return Check(name, value >= settings.threshold, f"{value:.2f}", needed=f"at least {settings.threshold:.2f}")


def _recalls(settings: Gate, compared: RunComparison, candidate: Path, champion: Path) -> list[Check]:
    found = [_margin(name, compared.figures[name].a, compared.figures[name].b, settings.recall_margin) for name in RECALLS]
    ranks = [figure(_metrics(folder), MEDIAN)[0] for folder in (candidate, champion)]
    if None in ranks:
        raise DataError(f"{candidate} or {champion}: metrics.json lacks {MEDIAN}; evaluate again")
    a, b = (float(rank) for rank in ranks if rank is not None)
    margin = settings.median_rank_margin
    return [*found, Check(MEDIAN, a <= b + margin, f"{a:g} ({a - b:+g})", f"{b:g}", f"at most {margin:g} worse")]


def _types(settings: Gate, compared: RunComparison) -> list[Check]:
    """Accuracy by type; one with few questions is shown, and judged by nobody."""
    found = []
    for name, one in compared.figures.items():
        if name != HEADLINE["qa"]:
            check = _margin(name, one.a, one.b, settings.type_margin)
            few = one.n < settings.type_queries
            needed = f"not judged: {one.n} questions" if few else check.needed
            found.append(Check(name, few or check.ok, check.candidate, check.champion, needed))
    return found


def _margin(name: str, a: float, b: float, margin: float) -> Check:
    return Check(name, a >= b - margin, f"{a:.2f} ({a - b:+.2f})", f"{b:.2f}", f"at most {margin:.2f} worse")


def _metrics(folder: Path) -> dict[str, Any]:
    return read_json_object(folder / "metrics.json", DataError, "evaluate again")
