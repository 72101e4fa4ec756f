"""The tables and the plot of ``delugeserve tune``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from delugeserve.cli.render.console import out, print_next, print_table
from delugeserve.plotting import new_figure
from delugeserve.tuning import Objective, Trial, TuningPlan, TuningResult
from delugeserve.tuning.study import describe, describe_speed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LISTED = 8


def print_plan(plan: TuningPlan) -> None:
    """Print what would be tried."""
    space = plan.space
    rows = [
        ("objective", _objective(plan)),
        ("trials", f"{plan.trials} of about {space.size:,} candidates"),
        ("now", describe(plan.before, space)),
        *(
            (f"version {one.number}", f"{one.backend} {one.precision}".strip())
            for one in space.versions
        ),
        ("servers", _join(space.replicas)),
        ("instances", _join(space.instances)),
        ("threads", _join("share" if count == 0 else count for count in space.threads)),
        ("queue delay", _join(f"{delay / 1e3:g} ms" for delay in space.queue_delays_us)),
        ("batches", "; ".join(_join(sizes) or "none" for sizes in space.preferred)),
        ("folder", str(plan.output)),
    ]
    print_table(("tuning", plan.model), ((name, escape(text)) for name, text in rows), texts=2)


def print_result(result: TuningResult) -> None:
    """Print the best trials, and what was found at the end."""
    plan = result.plan
    ranked = sorted(result.trials, key=lambda trial: -trial.score)
    front = {trial.number for trial in result.pareto}
    print_table(
        ("trial", "settings", "images/s", "ms", "alone ms", ""),
        (
            (
                str(trial.number),
                escape(describe(trial.candidate, plan.space)),
                *_figures(trial),
                ", ".join(_marks(trial, result, front)),
            )
            for place, trial in enumerate(ranked)
            if place < _LISTED or trial.number == result.before.number
        ),
        title=f"{len(ranked)} trials: {_objective(plan)}",
        texts=2,
    )
    if not result.checks:
        out.print(_unchanged(result))
        return
    print_table(
        ("measured again", "settings", "images/s", "ms", "alone ms"),
        (
            (f"{name}, {number}", escape(describe(trial.candidate, plan.space)), *_figures(trial))
            for number, check in enumerate(result.checks, 1)
            for name, trial in (("before", check.before), ("best", check.best))
        ),
        texts=2,
    )
    if not result.ahead:
        out.print(
            f"Measured again, the best is not ahead by more than {result.resolution:.0%}. Nothing "
            "was written."
        )
    elif not result.written:
        out.print("Nothing was written, as --no-write asks.")
    elif result.best.candidate.replicas > 1:
        out.print(f"Written into config.pbtxt, but for the number of servers{_ahead(result)}.")
        print_next(f"delugeserve serve --active {result.best.candidate.replicas}")
    else:
        out.print(f"Written into config.pbtxt{_ahead(result)}.")


def draw_trials(result: TuningResult) -> Figure:
    """Draw throughput over the latency of a request without others, and the Pareto front."""
    figure: Any = new_figure()
    axes = figure.add_subplot()
    points = [one for one in result.trials if _has_point(one)]
    axes.scatter(*_points(points), color="0.65", label="trials")
    front = sorted(result.pareto, key=_alone)
    axes.step(*_points(front), where="post", color="C0", marker="o", label="Pareto front")
    for trial, name, colour in ((result.before, "before", "C3"), (result.best, "best", "C2")):
        if _has_point(trial):
            axes.scatter(
                *_points([trial]),
                s=130,
                facecolors="none",
                edgecolors=colour,
                linewidths=2,
                label=f"{name}: {describe(trial.candidate, result.plan.space)}",
            )
    axes.set_xlabel("median latency of a request without others, ms")
    axes.set_ylabel("images/s")
    axes.set_ylim(bottom=0)
    axes.set_title(f"{result.plan.model}: {_objective(result.plan)}")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    drawn: Figure = figure
    return drawn


def _objective(plan: TuningPlan) -> str:
    load = plan.load
    kept = f"p{load.percentile * 100:g} <= {load.latency_budget * 1e3:g} ms"
    if load.objective is Objective.RATE:
        return f"images/s at the highest rate with {kept}"
    return f"images/s with all requests at once, a request alone with {kept}"


def _unchanged(result: TuningResult) -> str:
    if result.best.number == result.before.number:
        return "The settings of the model are the best that were found. Nothing was changed."
    return (
        f"The best is not ahead of the settings of the model by more than {result.resolution:.0%}. "
        "Nothing was changed."
    )


def _ahead(result: TuningResult) -> str:
    least = min(check.gain for check in result.checks)
    return f": {least:.0%} more images/s" if math.isfinite(least) else ""


def _figures(trial: Trial) -> tuple[str, str, str]:
    found = trial.measurement
    if found is None:
        return "failed", "-", "-"
    alone = "-" if found.alone_ms is None else f"{found.alone_ms:.3g}"
    speed = describe_speed(found.images_per_s) if found.images_per_s else "-"
    return speed, f"{found.latency_ms:.3g}", alone


def _marks(trial: Trial, result: TuningResult, front: set[int]) -> Sequence[str]:
    marks = []
    if trial.number == result.before.number:
        marks.append("before")
    if trial.number == result.best.number:
        marks.append("best")
    if trial.number in front:
        marks.append("Pareto")
    return marks


def _has_point(trial: Trial) -> bool:
    return (
        trial.score > 0 and trial.measurement is not None and trial.measurement.alone_ms is not None
    )


def _alone(trial: Trial) -> float:
    found = trial.measurement
    return found.alone_ms or 0.0 if found else 0.0


def _points(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    return [_alone(trial) for trial in trials], [trial.score for trial in trials]


def _join(values: Any) -> str:
    return ", ".join(map(str, values))
