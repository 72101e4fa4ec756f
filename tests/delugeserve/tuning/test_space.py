"""What is tried: choices that fit the machine, the model and the backend."""

from hypothesis import given, settings
from hypothesis import strategies as st

from delugeserve.artifacts.serving_config import ServingConfig
from delugeserve.tuning.space import Candidate, Version, make_space

VERSIONS = (Version(1, "openvino", "bf16", "aa"), Version(2, "tensorrt", "fp16", "bb"))


def space_of(*versions, cores=8, largest=64, budget=0.1, replicas=(1, 2)):
    return make_space(
        versions, cores=cores, max_batch_size=largest, latency_budget=budget, replicas=replicas
    )


class Choose:
    """Chooses as hypothesis says, and remembers the names."""

    def __init__(self, draw):
        self.draw, self.names = draw, {}

    def suggest_categorical(self, name, choices):
        assert all(isinstance(one, (bool, int, str)) for one in choices)
        self.names[name] = self.draw(st.sampled_from(choices))
        return self.names[name]


@given(data=st.data(), cores=st.integers(1, 70), largest=st.sampled_from([0, 1, 8, 64]))
@settings(deadline=None)
def test_every_candidate_fits(data, cores, largest):
    space = space_of(*VERSIONS, cores=cores, largest=largest)
    chosen = Choose(data.draw)
    found = space.suggest(chosen)
    assert max(found.preferred_batch_sizes, default=0) <= max(1, largest)
    assert found.queue_delay_us <= 50_000
    if found.version == 2:  # its backend has neither
        assert (found.threads, found.cpu_pinning) == (None, None)
    elif found.threads:
        assert found.threads * found.instances * found.replicas < cores


def test_a_share_of_the_cores_has_one_name():
    """Of two servers with two instances each, on six cores: one thread each is an equal share."""
    space = space_of(VERSIONS[0], cores=6, replicas=(2,))
    answers = {"instances": 2, "threads": 1, "queue_delay_us": 0}

    class Fixed:
        def suggest_categorical(self, name, choices):
            return answers.get(name, choices[0])

    assert space.suggest(Fixed()).threads == 0


def test_a_short_budget_has_short_delays():
    assert max(space_of(*VERSIONS, budget=0.004).queue_delays_us) == 2000


def test_one_core_leaves_little_to_try():
    space = space_of(VERSIONS[0], cores=1, largest=1, budget=0.0001, replicas=(1,))
    assert (space.instances, space.threads, space.queue_delays_us) == ((1,), (0,), (0,))
    assert (space.preferred, space.size) == (((),), 2)  # pinned or not


def test_what_is_written():
    found = Candidate(1, 2, 3, 0, True, 2000, (8,)).serving()
    assert found == ServingConfig(
        instances=3, threads=0, cpu_pinning=True, queue_delay_us=2000, preferred_batch_sizes=(8,)
    )
