"""The promotion gate's decision: checks that compare a candidate with the champion, or with chance. No side effects.

Both evaluations answer the same queries with the same code on the same data (see `alpro.registry.promotion`). The headline
metric is text-to-video R@1 or overall accuracy. It must reach the threshold, improve by the required gain, and the gain
must be significant (paired bootstrap over videos). Other metrics may be worse by a stated margin at most. Values are in
percent, differences in percentage points, except for ranks.
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
class GateCheck:
    """One condition of the gate with the values of candidate and champion, and the requirement, as text."""

    name: str
    ok: bool
    candidate: str
    champion: str = ""
    needed: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks of a candidate, which passes if every check does."""

    checks: tuple[GateCheck, ...]

    @property
    def passed(self) -> bool:
        """True if the candidate may become the champion."""
        return all(check.ok for check in self.checks)

    @property
    def reason(self) -> str:
        """The failed checks, in one line."""
        failed = [f"{check.name} ({check.candidate}; needed: {check.needed})" for check in self.checks if not check.ok]
        return "; ".join(failed) if failed else "all checks passed"

    def __str__(self) -> str:
        rows = [("", "check", "candidate", "champion", "needed")]
        rows += [("ok" if c.ok else "NO", c.name, c.candidate, c.champion, c.needed) for c in self.checks]
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def compare_with_champion(settings: Gate, candidate: Path, champion: Path) -> list[GateCheck]:
    """Return the checks from two evaluation records. Raises DataError if they did not answer the same queries."""
    compared = compare_runs(candidate, champion, resamples=settings.resamples)
    headline = compared.headline
    low, high = headline.ci95
    name = HEADLINE[compared.kind]
    checks = [_threshold(settings, name, headline.a)] if settings.threshold is not None else []
    checks.append(
        GateCheck(
            f"gain of {name}",
            headline.difference > 0 and headline.difference >= settings.gain,
            f"{headline.a:.2f} ({headline.difference:+.2f})",
            f"{headline.b:.2f}",
            f"at least {settings.gain:+.2f}" if settings.gain else "more than 0",
        )
    )
    checks.append(
        GateCheck(
            "gain beyond chance",
            headline.difference > 0 and headline.p_value < settings.p_value,
            f"p {headline.p_value:.4f}, [{low:+.2f}, {high:+.2f}] over {headline.n} queries",
            needed=f"p under {settings.p_value:g}",
        )
    )
    if compared.kind == "retrieval":
        return checks + _recall_checks(settings, compared, candidate, champion)
    return checks + _type_checks(settings, compared)


def compare_with_chance(settings: Gate, candidate: Path) -> list[GateCheck]:
    """Return the checks of a first model: its whole interval must be above chance, or above the most frequent answer."""
    metrics = _metrics(candidate)
    kind = "retrieval" if "text2video" in metrics else "qa"
    name, base = HEADLINE[kind], metrics[CHANCE[kind]]
    value, ci95 = figure(metrics, name)
    if value is None or ci95 is None:
        raise DataError(f"{candidate / 'metrics.json'}: {name} or its interval is missing; evaluate again")
    checks = [_threshold(settings, name, value)] if settings.threshold is not None else []
    interval = f"{value:.2f} [{ci95[0]:.2f}, {ci95[1]:.2f}]"
    needed = f"whole interval above {base:.2f}"
    return [*checks, GateCheck(f"{name} above {CHANCE[kind]}", ci95[0] > base, interval, "none yet", needed)]


def _threshold(settings: Gate, name: str, value: float) -> GateCheck:
    assert settings.threshold is not None
    return GateCheck(name, value >= settings.threshold, f"{value:.2f}", needed=f"at least {settings.threshold:.2f}")


def _recall_checks(settings: Gate, compared: RunComparison, candidate: Path, champion: Path) -> list[GateCheck]:
    checks = [_margin(name, compared.figures[name].a, compared.figures[name].b, settings.recall_margin) for name in RECALLS]
    ranks = [figure(_metrics(folder), MEDIAN)[0] for folder in (candidate, champion)]
    if None in ranks:
        raise DataError(f"{candidate} or {champion}: {MEDIAN} is missing in metrics.json; evaluate again")
    a, b = (float(rank) for rank in ranks if rank is not None)
    margin = settings.median_rank_margin
    return [*checks, GateCheck(MEDIAN, a <= b + margin, f"{a:g} ({a - b:+g})", f"{b:g}", f"at most {margin:g} worse")]


def _type_checks(settings: Gate, compared: RunComparison) -> list[GateCheck]:
    """Return accuracy by question type; types with fewer than `type_queries` questions are listed but always pass."""
    checks = []
    for name, accuracy in compared.figures.items():
        if name != HEADLINE["qa"]:
            check = _margin(name, accuracy.a, accuracy.b, settings.type_margin)
            few = accuracy.n < settings.type_queries
            needed = f"not checked: {accuracy.n} questions" if few else check.needed
            checks.append(GateCheck(name, few or check.ok, check.candidate, check.champion, needed))
    return checks


def _margin(name: str, a: float, b: float, margin: float) -> GateCheck:
    return GateCheck(name, a >= b - margin, f"{a:.2f} ({a - b:+.2f})", f"{b:.2f}", f"at most {margin:.2f} worse")


def _metrics(folder: Path) -> dict[str, Any]:
    return read_json_object(folder / "metrics.json", DataError, "evaluate again")
