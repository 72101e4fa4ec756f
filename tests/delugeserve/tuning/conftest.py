"""Plans without a model, and a measure without a server."""

from pathlib import Path

import pytest

from delugeserve.errors import ServerError
from delugeserve.tuning import Candidate, Measurement
from delugeserve.tuning.measure import LoadSettings
from delugeserve.tuning.plan import TuningPlan
from delugeserve.tuning.space import Version, make_space

pytest.importorskip("optuna", reason="needs delugeserve[tune]")


@pytest.fixture
def make_plan(tmp_path):
    """A plan for a model of two versions on a machine of eight cores, or as many as given.

    No trial would choose the settings that the model has.
    """

    def make(trials=12, budget=0.05, output=tmp_path / "study", cores=8, before=None, largest=16):
        versions = (Version(1, "openvino", "bf16", "aa"), Version(2, "onnxruntime", "fp32", "bb"))
        space = make_space(versions, cores=cores, max_batch_size=largest, latency_budget=budget)
        return TuningPlan(
            repository=Path("model_repository"),
            model="net",
            load=LoadSettings(latency_budget=budget),
            space=space,
            before=before or Candidate(version=2, instances=3, cpu_pinning=None),
            trials=trials,
            output=output,
            machine="8 cores",
            hindered=False,
        )

    return make


class Synthetic:
    """Best with version 1, four instances, no pinning and a delay of 2 ms.

    Attributes:
        seen: the candidates, in order, with what was expected of each.
        fails: settings that cannot be served.
    """

    def __init__(self, fails=None, stop_at=None, factor=1.0):
        self.seen = []
        self.fails, self.stop_at, self.factor = fails, stop_at, factor

    def __call__(self, candidate, expected, progress):
        self.seen.append((candidate, expected))
        if len(self.seen) == self.stop_at:
            raise KeyboardInterrupt
        if self.fails and self.fails(candidate):
            raise ServerError("Model 'net' did not load.", "See its log.")
        speed = 100.0 if candidate.version == 1 else 50.0
        speed -= 10 * abs(candidate.instances - 4) + 5 * bool(candidate.cpu_pinning)
        speed -= abs(candidate.queue_delay_us - 2000) / 1000
        alone = 1.0 + candidate.queue_delay_us / 1000 + candidate.instances / 10
        return Measurement(self.factor * speed, 40.0, alone)


@pytest.fixture(scope="session")
def synthetic():
    return Synthetic
