"""The gate: an artefact is published only if every check passes.

The final artefact is run, as loaded from disk. In fp32, if it can compute in fp32, it must repeat
the network's logits up to rounding, which verifies the graph and every weight. In the precision
that is served it must keep within that precision's budget. The rows of a batch must not affect each
other, and the runtime must compute in the precision asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from delugeserve.artifacts.interface import Infer, Outputs, Precision, optimal_batch_size
from delugeserve.artifacts.records import Check, Comparison, Flip, Verification
from delugeserve.errors import ParityError, UsageError, reason_of
from delugeserve.system import hardware
from delugeserve.verification.evidence import Evidence
from delugeserve.verification.invariance import Invariance, try_invariances
from delugeserve.verification.parity import BUDGETS, compare, spread_of

T = TypeVar("T")

_FEW = 8
"""Images that suffice to tell another graph, other weights or mixed rows from rounding."""

_ODD = 7
"""A batch size that no runtime is tuned for."""

_EXACT = 1 / 50
"""Fraction of the budget for rows that only change places in a batch: ONNX Runtime and OpenVINO
return the same bits, in every precision."""


def batch_sizes(maximum: int, optimum: int | None = None) -> list[int]:
    """Return the batch sizes to verify at: one, an odd one, the optimum and the maximum.

    Args:
        maximum: most images in one batch.
        optimum: the batch size that was tuned for; None for
            :func:`~delugeserve.artifacts.interface.optimal_batch_size`.
    """
    odd = min(_ODD, maximum - 1 + maximum % 2)
    return sorted({1, odd, optimum or optimal_batch_size(maximum), maximum})


def verify(
    runs: Mapping[Precision, Infer],
    evidence: Evidence,
    *,
    precision: Precision,
    sizes: Sequence[int],
    trained: bool,
    class_names: Sequence[str] = (),
    computed_in: Mapping[Precision, int] | None = None,
    quantised: int | None = None,
) -> Verification:
    """Run an artefact and check it.

    Args:
        runs: the artefact, loaded to compute in ``precision``, and also in fp32 if it can.
        evidence: images with the network's logits.
        precision: what is served.
        sizes: batch sizes to compare at.
        trained: False for a network whose classes mean nothing; only its logits are checked.
        class_names: to name classes in the result; empty for their indices.
        computed_in: number of matrix products by the precision that the runtime computes them in;
            None if it does not report that.
        quantised: number of matrix products that the graph has in int8, if that is the precision.

    Raises:
        UsageError: what runs the artefact cannot be reached.
    """
    few = Evidence(evidence.images[:_FEW], evidence.logits[:_FEW], evidence.description)
    report = _Report(evidence.description, class_names, trained=trained)
    if precision != "fp32" and "fp32" in runs:
        report.compare(runs["fp32"], few, len(few.images), "fp32")
    infer = runs[precision]
    for size in sizes:
        report.compare(infer, few if size == 1 else evidence, size, precision)
    report.invariances(infer, few, max(sizes), precision)
    if computed_in is not None:
        report.add(check_precision(precision, computed_in, quantised))
    return report.verification()


def not_run(evidence: Evidence, reason: str, *checks: Check) -> Verification:
    """Return the result for an artefact that this machine cannot run.

    Args:
        evidence: what it will be verified on.
        reason: why it cannot run, as a clause.
        checks: what could be checked without running it.
    """
    here = Check("runs here", True, reason, "'delugeserve verify' where it can run")
    failed = any(not check.passed for check in checks)
    return Verification(
        "failed" if failed else "built, not run",
        evidence.description,
        hardware.describe(),
        (here, *checks),
    )


def describe_failure(verification: Verification) -> str:
    """Return a sentence about the first failed check."""
    first = verification.failures[0]
    detail = f" ({first.detail})" if first.detail else ""
    return (
        f"The check '{first.name}' failed: found {first.found}, required {first.required}{detail}."
    )


def check_precision(
    precision: Precision, computed_in: Mapping[Precision, int], quantised: int | None = None
) -> Check:
    """Check that an artefact computes in its precision.

    Args:
        precision: the one asked for.
        computed_in: number of matrix products by the precision that they are computed in.
        quantised: for int8, how many the graph has in int8; None for all. A runtime may compute
            some of them in the higher precision, where that is faster, but not most.
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
    """Collects checks and the measurements behind them."""

    def __init__(self, images: str, class_names: Sequence[str], *, trained: bool) -> None:
        self._images, self._class_names, self._trained = images, class_names, trained
        self._checks: list[Check] = []
        self._comparisons: list[Comparison] = []

    def compare(
        self, infer: Infer, evidence: Evidence, batch_size: int, precision: Precision
    ) -> None:
        name = f"{precision} at batch size {batch_size}"
        found = self._try(
            name,
            lambda: compare(
                _explained(infer),
                evidence.images,
                evidence.logits,
                batch_size,
                precision,
                self._class_names,
            ),
        )
        if found is None:
            return
        budget = BUDGETS[precision]
        allowed = budget.allowed_error(trained=self._trained)
        # A decision as close as this may turn through rounding that the budget allows.
        close = 2 * budget.error * spread_of(evidence.logits)
        found = dataclasses.replace(
            found,
            allowed_error=allowed,
            required_agreement=budget.agreement if self._trained else None,
            close_margin=close if self._trained else None,
        )
        self._comparisons.append(found)
        self._checks.append(
            Check(
                f"logits, {name}",
                found.relative_error <= allowed,
                f"RMS error {found.relative_error:.2g}",
                f"at most {allowed:.2g}",
                f"largest difference {found.max_error:.2g}, image {found.worst_image}",
                compared=True,
            )
        )
        if self._trained:
            flips = [flip for flip in found.flips if flip.margin > close]
            agreement = 1 - len(flips) / found.num_images
            self._checks.append(
                Check(
                    f"same class, {name}",
                    agreement >= budget.agreement,
                    f"{agreement:.1%}",
                    f"at least {budget.agreement:.1%}",
                    describe_flip(flips[0]) if flips else "",
                    compared=True,
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
            lambda: try_invariances(_explained(infer), images, evidence.logits.shape[1]),
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
        """Run something; malformed outputs, or none, are a failed check."""
        try:
            return run()
        except ParityError as error:
            found = error.problem.removesuffix(".")
            self._checks.append(Check(name, False, found, "one row of logits per image"))
            return None


def describe_flip(flip: Flip) -> str:
    """Return a clause about an image with another class."""
    return f"image {flip.image}: {flip.found_name}, not {flip.expected_name}, by {flip.margin:.2g}"


def _explained(infer: Infer) -> Infer:
    """Turn whatever a runtime raises into a ParityError that gives the batch size."""

    def run(images: NDArray[np.uint8]) -> Outputs:
        try:
            return infer(images)
        except UsageError:  # the server is out of reach, which is no fault of the artefact
            raise
        except Exception as error:  # the runtimes' errors have no common base
            problem = f"a batch of {len(images)} cannot be run ({reason_of(error)})"
            raise ParityError(problem, "") from error

    return run


def _invariance_check(one: Invariance, budget: float) -> Check:
    allowed = budget * _EXACT if one.exact else budget
    return Check(
        f"{one.name}, batch of {one.batch_size}",
        one.relative_error <= allowed,
        f"RMS error {one.relative_error:.2g}",
        f"at most {allowed:.2g}",
        f"largest at image {one.worst_image}" if one.relative_error else "",
    )
