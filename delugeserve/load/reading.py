"""Turns what a test left behind into its result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from delugeserve.load.histogram import encode, histogram_of, percentiles_ms
from delugeserve.load.job import Job, Observed, images_per_query
from delugeserve.load.logs import Times, read_detail, read_times
from delugeserve.load.result import LoadResult, NoAnswerError
from delugeserve.load.scenarios import Scenario

_LOGGED = ("result_", "early_stopping", "error_", "generic_warning", "generic_error")
_ESTIMATES = {
    Scenario.SINGLE_STREAM: "early_stopping_latency_ss",
    Scenario.MULTI_STREAM: "early_stopping_latency_ms",
}
_BUSY_CLIENT = 0.9  # cores; a process of Python can use little more than one
_LATE_MS = 2.0
_LATE_SHARE = 0.25  # of the latency at the percentile that comes from the client's own delay


def read_result(
    job: Job, observed: Observed, *, load: tuple[float | None, float | None], folder: str | None
) -> LoadResult:
    """Return the result of a test.

    Args:
        job: the test; its folder has LoadGen's log files.
        observed: what the test's process saw.
        load: the machine's load average before and after the test.
        folder: where the log files stay; None if they do not.

    Raises:
        NoAnswerError: no request was answered.
    """
    target, settings = job.target, job.settings
    scenario = settings.scenario
    if not observed.answers:
        raise _nothing_answered(job, observed)
    detail: dict[str, Any] = {}
    loop = scenario is Scenario.CLOSED_LOOP
    if loop:
        assert observed.latencies is not None
        latency = observed.latencies
        times = Times(np.zeros_like(latency), np.zeros_like(latency), latency)
        seconds = observed.seconds
    else:
        detail = read_detail(job.folder)
        times = read_times(job.folder, by_sample=scenario is Scenario.OFFLINE)
        latency = times.latency
        seconds = float(np.max(times.scheduled + latency) - times.scheduled[0])
    histogram = histogram_of(latency)
    percentile = settings.percentile * 100
    at_percentile = percentiles_ms(histogram, [percentile])[f"{percentile:g}"]
    late = float(np.percentile(times.issue_delay, 99) * 1e3)
    cores = observed.cpu_seconds / observed.seconds
    server = scenario is Scenario.SERVER
    budget = settings.latency_budget * 1e3
    loadgens = () if loop else _loadgens_reasons(detail, job, at_percentile)
    reasons = (*loadgens, *_our_reasons(observed))
    images = images_per_query(target, settings)
    estimate = detail.get(_ESTIMATES.get(scenario, ""))
    return LoadResult(
        model=target.model,
        url=target.url,
        scenario=scenario,
        batch_size=images if scenario is Scenario.MULTI_STREAM else target.batch_size,
        in_flight=settings.in_flight
        if scenario in (Scenario.CLOSED_LOOP, Scenario.OFFLINE)
        else None,
        valid=not reasons,
        reasons=reasons,
        queries=len(latency),
        seconds=seconds,
        scheduled_rate=detail.get("result_scheduled_samples_per_sec") if server else None,
        completed_rate=len(latency) / seconds,
        images_per_s=len(latency) * images / seconds,
        percentile=settings.percentile,
        budget_ms=budget if server else None,
        at_percentile_ms=at_percentile,
        mean_ms=float(latency.mean() * 1e3),
        min_ms=float(latency.min() * 1e3),
        max_ms=float(latency.max() * 1e3),
        percentiles_ms=percentiles_ms(histogram),
        over_budget=int((latency * 1e3 > budget).sum()) if server else 0,
        issue_delay_mean_ms=float(times.issue_delay.mean() * 1e3),
        issue_delay_p99_ms=late,
        estimate_ms=estimate / 1e6 if estimate else None,
        errors=observed.errors,
        first_error=observed.first_error,
        checked=observed.checked,
        wrong=observed.wrong,
        client_cores=cores,
        client_limit=_client_limit(cores, late, at_percentile),
        server=observed.server,
        load_before=load[0],
        load_after=load[1],
        histogram=encode(histogram),
        loadgen={key: value for key, value in detail.items() if key.startswith(_LOGGED)},
        folder=folder,
    )


def _loadgens_reasons(
    detail: Mapping[str, Any], job: Job, at_percentile_ms: float
) -> tuple[str, ...]:
    """Return why LoadGen does not accept a test; its own words where it names no figures."""
    verdict = detail.get("result_validity")
    if verdict == "VALID":
        return ()
    if verdict is None:  # its log ends early
        return ("LoadGen's log has no verdict.",)
    settings = job.settings
    if detail.get("result_perf_constraints_met") is False:
        return (
            f"p{settings.percentile * 100:g} was {at_percentile_ms:.4g} ms, above the budget of "
            f"{settings.latency_budget * 1e3:g} ms.",
        )
    said = [detail.get("result_invalid_reason"), detail.get("early_stopping_result")]
    texts = (" ".join(text.replace(" * ", "").split()) for text in said if text)
    return tuple(f"LoadGen: {text}" for text in texts if text) or (
        f"LoadGen says {verdict}, without a reason.",
    )


def _our_reasons(observed: Observed) -> tuple[str, ...]:
    """Return why an answered test is not right."""
    reasons: list[str] = []
    if observed.errors:
        reasons.append(f"{observed.errors:,} requests failed ({observed.first_error}).")
    if observed.wrong:
        reasons.append(f"{observed.wrong:,} of {observed.checked:,} answers were wrong.")
    return tuple(reasons)


def _client_limit(cores: float, late_ms: float, at_percentile_ms: float) -> str | None:
    """Return why the client may be the limit, or None."""
    if cores >= _BUSY_CLIENT:
        return f"The client used {cores:.2f} cores, and can use little more than one."
    if late_ms > max(_LATE_MS, _LATE_SHARE * at_percentile_ms):
        return f"1 % of the queries were sent {late_ms:.3g} ms late or more."
    return None


def _nothing_answered(job: Job, observed: Observed) -> NoAnswerError:
    return NoAnswerError(
        f"No request to '{job.target.model}' at {job.target.url} was answered "
        f"({observed.first_error}).",
        "Check the server with: delugeserve status",
    )
