import pytest

from delugeserve.errors import UnknownNameError
from delugeserve.networks.flops import count
from delugeserve.zoo import MODELS, TASKS, find_model

PUBLISHED = [spec for spec in MODELS.values() if spec.published]


@pytest.mark.parametrize("spec", PUBLISHED, ids=lambda spec: spec.name)
def test_size_and_cost_are_the_papers(spec):
    complexity = count(spec)
    assert complexity.params / 1e6 == pytest.approx(spec.published.params_m, rel=0.005)
    if spec.published.gflops:  # the paper gives none of its baselines
        assert complexity.flops / 1e9 == pytest.approx(spec.published.gflops, rel=0.02)


def test_the_papers_baselines_are_all_there():
    baselines = [spec for spec in PUBLISHED if spec.architecture.baseline]
    assert len(baselines) == 6
    assert {spec.architecture.baseline for spec in baselines} == {"1x1", "3x3"}


def test_names_carry_the_depth():
    for spec in MODELS.values():
        assert str(spec.architecture.depth) in spec.name


def test_every_data_set_names_its_classes():
    for task in TASKS.values():
        assert len(set(task.class_names)) == task.num_classes


def test_an_unknown_name_has_the_nearest():
    with pytest.raises(UnknownNameError) as caught:
        find_model("delugnet38")
    assert (caught.value.name, caught.value.nearest) == ("delugnet38", "delugenet38")


def test_a_name_like_no_other_lists_all():
    with pytest.raises(UnknownNameError) as caught:
        find_model("zzz")
    assert caught.value.nearest is None
    assert set(caught.value.known) == set(MODELS)
