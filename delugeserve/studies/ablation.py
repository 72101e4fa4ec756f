"""A DelugeNet compared with its ResNet-like baselines at equal budget, over several seeds.

As in the paper's table 2, which has one run of each; and with itself when its cross-layer weights
stay equal, which the paper does not have. The figures come from the folders of the
:mod:`~delugeserve.studies.trials`.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from delugeserve.errors import UsageError
from delugeserve.networks.flops import count
from delugeserve.studies.trials import (
    CONTRASTS,
    Contrast,
    Variant,
    compared_networks,
    is_run_of,
    run_name,
)
from delugeserve.system.files import write_output
from delugeserve.training.records import RunRecord, changed_settings, read_runs
from delugeserve.zoo import MODELS, ModelSpec, find_baselines

RESULT_FILE = "ablation.json"

_OWN = ("model", "seed", "fixed_sums")
"""Settings in which the runs of one ablation differ."""

# 97.5th percentiles of Student's t distribution with 1, 2, ... degrees of freedom.
_T_95 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
)

EQUAL_WITHIN = 0.5
"""Percentage points: smaller differences are not worth having. The paper's gains are twice that."""

_RESAMPLES = 10_000

Verdict = Literal["better", "worse", "equal", "not significant", "too few seeds"]
"""How DelugeNet's error compares with another network's."""


@dataclass(frozen=True)
class NetworkResult:
    """The errors of one network's finished runs.

    Attributes:
        name: the network's name; see :class:`~delugeserve.studies.trials.Variant`.
        params: number of trainable parameters.
        flops: floating-point operations for one image.
        errors: test error in percent by seed.
        mean: mean error in percent; None if there is none.
        deviation: sample standard deviation of the errors; None for fewer than two.
        published_error: the paper's error in percent; None for a model that is not in the paper.
        published_params_m: the paper's parameters in millions, or None.
    """

    name: str
    params: int
    flops: int
    errors: Mapping[int, float]
    mean: float | None
    deviation: float | None
    published_error: float | None
    published_params_m: float | None


@dataclass(frozen=True)
class Difference:
    """Another network's error minus DelugeNet's, with the same seeds.

    Attributes:
        name: the other network's name.
        seeds: seeds with which both networks are finished.
        mean: mean difference in percentage points, positive where DelugeNet has the lower error;
            None without seeds.
        interval: 95 % confidence interval of ``mean``, by Student's t over the pairs; None for
            fewer than two.
        bootstrap: the same interval by the percentile bootstrap over the pairs, which is too narrow
            for few pairs.
        published: the paper's difference; None if a model is not in the paper.
    """

    name: str
    seeds: tuple[int, ...]
    mean: float | None
    interval: tuple[float, float] | None
    bootstrap: tuple[float, float] | None
    published: float | None

    @property
    def verdict(self) -> Verdict:
        """What the interval says about DelugeNet.

        ``better`` or ``worse`` if it excludes zero, else ``equal`` if it is within
        :data:`EQUAL_WITHIN` of zero.
        """
        if self.interval is None:
            return "too few seeds"
        low, high = self.interval
        if low > 0 or high < 0:
            return "better" if low > 0 else "worse"
        return "equal" if max(-low, high) <= EQUAL_WITHIN else "not significant"


@dataclass(frozen=True)
class Ablation:
    """A DelugeNet and other networks, compared.

    Attributes:
        settings: the settings of all runs: recipe, precision, data, limit, ...
        networks: the DelugeNet, then the others.
        differences: one for each of the others, in the same order.
        finished: the finished runs.
        left_out: names of the runs that are unfinished or damaged.
    """

    settings: Mapping[str, Any]
    networks: tuple[NetworkResult, ...]
    differences: tuple[Difference, ...]
    finished: tuple[RunRecord, ...]
    left_out: tuple[str, ...]


def read_ablation(
    output: Path, spec: ModelSpec | None = None, against: Sequence[Contrast] | None = None
) -> Ablation:
    """Read the runs in an ablation's folder and compare them.

    Args:
        output: the folder.
        spec: the DelugeNet; None if the folder holds the runs of a single one.
        against: what it is compared with; None for everything that the folder holds runs of.

    Raises:
        UsageError: no run is finished, or runs have different settings.
    """
    runs = read_runs(output)
    spec = spec or _find_delugenet(output, runs)
    networks = compared_networks(spec, CONTRASTS if against is None else against)
    # The folder may hold other runs, too.
    own = {network.name: _runs_of(network, runs) for network in networks}
    if against is None:
        networks = tuple(network for network in networks if own[network.name])
    finished = tuple(
        run for network in networks for run in own[network.name] if run.status == "finished"
    )
    left_out = tuple(
        run.name for network in networks for run in own[network.name] if run.status != "finished"
    )
    if not finished:
        raise UsageError(
            f"No run in {output} is finished.", "Leave out --report-only to train them."
        )
    _check_budget(output, finished)
    results = tuple(_summarise(network, finished) for network in networks)
    common = {key: value for key, value in finished[0].config.items() if key not in _OWN}
    differences = tuple(_compare(results[0], baseline) for baseline in results[1:])
    return Ablation(common, results, differences, finished, left_out)


def _runs_of(network: Variant, runs: Sequence[RunRecord]) -> list[RunRecord]:
    return [
        run
        for run in runs
        if (
            is_run_of(run.name, network.name)
            if run.status == "damaged"
            else network.is_variant_of(run.config)
            and run.name == run_name(network.name, run.config.get("seed"))
        )
    ]


def _find_delugenet(output: Path, runs: Sequence[RunRecord]) -> ModelSpec:
    names = {run.config.get("model") for run in runs}
    found = [spec for name, spec in MODELS.items() if name in names and find_baselines(spec)]
    if len(found) != 1:
        raise UsageError(
            f"{output} holds runs of {len(found)} DelugeNets that have baselines.",
            f"Choose one with --model: {', '.join(spec.name for spec in found)}."
            if found
            else "Give the --output of an ablation.",
        )
    return found[0]


def _check_budget(output: Path, runs: Sequence[RunRecord]) -> None:
    first = runs[0]
    for run in runs:
        changed = [
            f"{name} is {one} in {first.name}, {other} in {run.name}"
            for name, (one, other) in changed_settings(first.config, run.config).items()
            if name not in _OWN
        ]
        if changed:
            raise UsageError(
                f"The runs in {output} have different settings: {'; '.join(changed)}.",
                f"Remove {run.path} to compare the others, or train in another --output.",
            )


def _summarise(network: Variant, runs: Sequence[RunRecord]) -> NetworkResult:
    errors = {
        int(run.config["seed"]): run.top1_error
        for run in _runs_of(network, runs)
        if run.top1_error is not None
    }
    values = list(errors.values())
    spec = network.spec
    published = None if network.fixed_sums else spec.published
    complexity = count(spec)
    return NetworkResult(
        network.name,
        complexity.params - (complexity.sum_params if network.fixed_sums else 0),
        complexity.flops,
        dict(sorted(errors.items())),
        statistics.fmean(values) if values else None,
        statistics.stdev(values) if len(values) > 1 else None,
        published.top1_error if published else None,
        published.params_m if published else None,
    )


def _compare(delugenet: NetworkResult, baseline: NetworkResult) -> Difference:
    seeds = tuple(seed for seed in delugenet.errors if seed in baseline.errors)
    differences = [baseline.errors[seed] - delugenet.errors[seed] for seed in seeds]
    paper = None
    if delugenet.published_error is not None and baseline.published_error is not None:
        paper = baseline.published_error - delugenet.published_error
    return Difference(
        baseline.name,
        seeds,
        statistics.fmean(differences) if differences else None,
        t_interval(differences),
        bootstrap_interval(differences),
        paper,
    )


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % confidence interval of a mean (Student's t); None for fewer than two values.

    For more than 21 values it is slightly too wide.
    """
    if len(values) < 2:
        return None
    t = _T_95[min(len(values) - 1, len(_T_95)) - 1]
    mean = statistics.fmean(values)
    half = t * statistics.stdev(values) / len(values) ** 0.5
    return mean - half, mean + half


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % confidence interval of a mean by the percentile bootstrap.

    None for fewer than two values. The same values give the same interval.
    """
    if len(values) < 2:
        return None
    rng = np.random.default_rng(0)
    means = rng.choice(np.asarray(values), (_RESAMPLES, len(values))).mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def describe(ablation: Ablation) -> dict[str, Any]:
    """Return all results as JSON values."""
    return {
        "model": ablation.networks[0].name,
        "settings": dict(ablation.settings),
        "networks": [dataclasses.asdict(network) for network in ablation.networks],
        "differences": [
            dataclasses.asdict(one) | {"verdict": one.verdict} for one in ablation.differences
        ],
        "left_out": ablation.left_out,
    }


def write_ablation(ablation: Ablation, output: Path) -> Path:
    """Write ``ablation.json`` atomically.

    Raises:
        UsageError: it cannot be written.
    """
    path = output / RESULT_FILE
    with write_output(path, "Free some space or make the folder writable.") as beside:
        beside.write_text(json.dumps(describe(ablation), indent=2) + "\n", encoding="utf-8")
    return path
