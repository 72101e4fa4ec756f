"""The gate: an artefact is published if every check passes, and only then.

It is the final artefact that is run, as loaded from disk. In fp32, if it can compute in fp32, it
must repeat the network's logits to rounding: that proves the graph and every weight in it. In the
precision it will be served in it must stay within that precision's budget: that proves that the
precision can be afforded. Its batches must not depend on who is in them, and it must really compute
in the precision that was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from delugeserve.artifacts.interface import Infer, Outputs, Precision, optimal_batch_size
from delugeserve.artifacts.manifest import Manifest
from delugeserve.artifacts.records import Check, Comparison, Flip, Verification
from delugeserve.errors import ParityError, RejectedError, UsageError, reason_of
from delugeserve.system import hardware
from delugeserve.verification.evidence import Evidence
from delugeserve.verification.invariance import Invariance, try_invariances
from delugeserve.verification.parity import BUDGETS, compare, spread_of

T = TypeVar("T")

_FEW = 8
"""Images that are enough to tell another graph, other weights or mixed rows from rounding."""

_ODD = 7
"""A batch size that no runtime is tuned for."""

_EXACT = 1 / 50
"""The part of the budget that is left to rows which only change places within a batch: ONNX Runtime
and OpenVINO answer with the same bits, in every precision."""


def batch_sizes(maximum: int, optimum: int | None = None) -> list[int]:
    """The batch sizes to try: one, an odd one, the optimum and the maximum.

    Args:
        maximum: the most images of one batch.
        optimum: the batch that was tuned for; None means
            :func:`~delugeserve.artifacts.interface.optimal_batch_size`.
    """
    odd = min(_ODD, maximum - 1 + maximum % 2)
    return sorted({1, odd, optimum or optimal_batch_size(maximum), maximum})


def examine(
    runs: Mapping[Precision, Infer],
    evidence: Evidence,
    *,
    precision: Precision,
    sizes: Sequence[int],
    trained: bool,
    computed_in: Mapping[Precision, int] | None = None,
    quantised: int | None = None,
) -> Verification:
    """Run an artefact and check everything.

    Args:
        runs: the artefact, loaded to compute in the precision it will be served in, and in fp32
            where it can.
        evidence: the network's answers.
        precision: what it will be served in.
        sizes: batch sizes to compare at.
        trained: whether the network's classes mean anything.
        computed_in: how many of its matrix products the runtime computes in which precision, if it
            can tell.
        quantised: how many of them the graph has in int8, if that is the precision.
    """
    few = Evidence(evidence.images[:_FEW], evidence.logits[:_FEW], evidence.description)
    report = _Report(evidence.description, trained)
    if precision != "fp32" and "fp32" in runs:
        report.compare(runs["fp32"], few, len(few.images), "fp32")
    infer = runs[precision]
    for size in sizes:
        report.compare(infer, few if size == 1 else evidence, size, precision)
    report.invariances(infer, few, max(sizes), precision)
    if computed_in is not None:
        report.add(check_precision(precision, computed_in, quantised))
    return report.verification()


def not_run(evidence: Evidence, reason: str, *others: Check) -> Verification:
    """What there is to say of an artefact that this machine cannot run.

    Args:
        evidence: what it will have to be run on.
        reason: why, as a clause.
        others: what could be checked without running it.
    """
    check = Check("runs here", True, reason, "'delugeserve verify' where it can run")
    checks = (check, *others)
    return Verification("built, not run", evidence.description, hardware.describe(), checks)


def require_passed(verification: Verification, manifest: Manifest, remedy: str) -> None:
    """Raise if a check failed.

    Args:
        verification: what was found.
        manifest: all else there is to say of the artefact.
        remedy: one sentence that says what to do.

    Raises:
        RejectedError: one did.
    """
    if verification.failures:
        first = verification.failures[0]
        raise RejectedError(
            f"The artefact fails '{first.name}': {first.found}, where {first.required} is "
            f"required{_clause(first.detail)}.",
            remedy,
            manifest,
        )


def check_precision(
    precision: Precision, computed_in: Mapping[Precision, int], quantised: int | None = None
) -> Check:
    """Check that an artefact computes in its precision.

    Args:
        precision: the one that was asked for.
        computed_in: how many of its matrix products are computed in which.
        quantised: for int8, how many the graph has in it; None for all. A runtime may leave some
            of them in the higher precision, where that is faster, but not most.
    """
    total = sum(computed_in.values())
    found = computed_in.get(precision, 0)
    if precision == "int8":
        asked = total if quantised is None else quantised
        passed, required = 2 * found > asked, f"most of {asked} in int8"
    else:
        passed, required = 0 < found == total, f"all in {precision}"
    listed = ", ".join(f"{count} in {name}" for name, count in sorted(computed_in.items()))
    return Check(
        "computes in the precision asked for",
        passed,
        f"matrix products: {listed or 'none'}",
        required,
    )


class _Report:
    """Collects checks, and the figures behind them."""

    def __init__(self, images: str, trained: bool) -> None:
        self._images, self._trained = images, trained
        self._checks: list[Check] = []
        self._comparisons: list[Comparison] = []

    def compare(
        self, infer: Infer, evidence: Evidence, batch_size: int, precision: Precision
    ) -> None:
        name = f"{precision} at batch size {batch_size}"
        found = self._try(
            name,
            lambda: compare(_named(infer), evidence.images, evidence.logits, batch_size, precision),
        )
        if found is None:
            return
        self._comparisons.append(found)
        budget = BUDGETS[precision]
        allowed = budget.allowed_error(trained=self._trained)
        self._checks.append(
            Check(
                f"logits, {name}",
                found.relative_error <= allowed,
                f"{found.relative_error:.2g} of their spread",
                f"at most {allowed:.2g}",
                f"the most, {found.max_error:.2g}, at image {found.worst_image}",
            )
        )
        if self._trained:
            # Rounding that the budget allows may turn a decision that was as close as that.
            close = 2 * budget.error * spread_of(evidence.logits)
            flips = [flip for flip in found.flips if flip.margin > close]
            agreement = 1 - len(flips) / found.num_images
            self._checks.append(
                Check(
                    f"same class, {name}",
                    agreement >= budget.agreement,
                    f"{agreement:.1%}",
                    f"at least {budget.agreement:.1%}",
                    _describe_flips(flips),
                )
            )

    def invariances(
        self, infer: Infer, evidence: Evidence, maximum: int, precision: Precision
    ) -> None:
        images = evidence.images[: min(_ODD, maximum)]
        if len(images) < 2:
            return
        tried = self._try(
            "rows are independent",
            lambda: try_invariances(_named(infer), images, evidence.logits.shape[1]),
        )
        budget = BUDGETS[precision].allowed_error(trained=self._trained)
        self._checks += [_invariance_check(one, budget) for one in tried or ()]

    def add(self, check: Check) -> None:
        self._checks.append(check)

    def verification(self) -> Verification:
        failed = any(not check.passed for check in self._checks)
        return Verification(
            "failed" if failed else "passed",
            self._images,
            hardware.describe(),
            tuple(self._checks),
            tuple(self._comparisons),
        )

    def _try(self, name: str, run: Callable[[], T]) -> T | None:
        """Run something; answers that are malformed, or none at all, are a failed check."""
        try:
            return run()
        except ParityError as error:
            found = error.problem.removesuffix(".")
            self._checks.append(Check(name, False, found, "one row of logits for each image"))
            return None


def _named(infer: Infer) -> Infer:
    """Say what was asked where a runtime raises, whose errors have no base of their own."""

    def run(images: NDArray[np.uint8]) -> Outputs:
        try:
            return infer(images)
        except UsageError:  # what runs it is out of reach, which is no fault of the artefact
            raise
        except Exception as error:
            problem = f"a batch of {len(images)} cannot be run ({reason_of(error)})"
            raise ParityError(problem, "") from error

    return run


def _invariance_check(one: Invariance, budget: float) -> Check:
    allowed = budget * _EXACT if one.exact else budget
    return Check(
        f"{one.name}, batch of {one.batch_size}",
        one.relative_error <= allowed,
        f"{one.relative_error:.2g} of the spread",
        f"at most {allowed:.2g}",
        f"the most at image {one.worst_image}" if one.relative_error else "",
    )


def _describe_flips(flips: Sequence[Flip]) -> str:
    if not flips:
        return ""
    worst = flips[0]
    return (
        f"image {worst.image} is class {worst.found}, not {worst.expected}, "
        f"against a margin of {worst.margin:.2g}"
    )


def _clause(detail: str) -> str:
    return f"; {detail}" if detail else ""
