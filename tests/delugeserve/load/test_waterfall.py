from delugeserve.load.waterfall import STEPS, waterfall


def test_each_step_adds_to_the_one_before():
    rounds = {name: [2.0 * (n + 1), 2.0 * (n + 1), 99.0] for n, name in enumerate(STEPS)}
    steps = waterfall(rounds)
    assert [step.name for step in steps] == list(STEPS)
    assert [step.added_ms for step in steps] == [2.0] * len(STEPS)  # a disturbed round is ignored
    assert sum(step.added_ms for step in steps) == steps[-1].total_ms


def test_a_step_that_was_not_measured_is_left_out():
    steps = waterfall({"engine in process": [1.0], "scheduler": [], "gRPC": [1.5], "front": [1.25]})
    assert [(step.name, step.added_ms) for step in steps] == [
        ("engine in process", 1.0),
        ("gRPC", 0.5),
        ("front", -0.25),
    ]
