"""The form of weighted sums: the fastest is taken, and measured once."""

import numpy as np
import pytest

from delugeserve.runtimes.onnxruntime import OnnxRuntime
from delugeserve_export import speed, tuning
from delugeserve_export.tuning import FORMS, choose_sum_form

IMAGES = np.zeros((2, 4, 4, 3), np.uint8)
DELAYS = {"mul": 0.03, "batchnorm": 0.001, "conv": 0.02, "horner": 0.02}


class Clock:
    """Stands for time: only engines advance it, so a busy machine changes nothing."""

    now = 0.0

    def perf_counter(self):
        return self.now


class Timed(OnnxRuntime):
    """Takes as long, on a clock, as the form it was given says."""

    def __init__(self, clock):
        self.clock = clock

    def load(self, artefact, precision):
        delay = DELAYS[artefact.read_text()]

        def infer(images):
            self.clock.now += delay

        return infer


@pytest.fixture
def choose(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    clock, written = Clock(), []
    monkeypatch.setattr(speed, "time", clock)

    def write(form):
        written.append(form)
        return form.encode()

    def choose(facts):
        written.clear()
        return choose_sum_form(Timed(clock), "fp32", write, IMAGES, facts), list(written)

    return choose


def test_the_fastest_is_taken_and_remembered(choose):
    choice, written = choose({"layers": 1})
    assert choice.form == "batchnorm"
    assert choice.milliseconds == {form: 1000 * seconds for form, seconds in DELAYS.items()}
    assert written == list(FORMS)
    assert choose({"layers": 1}) == (choice, [])
    assert choose({"layers": 2})[1] == list(FORMS)


@pytest.mark.parametrize("content", ["", "{}", '{"mul": 1.0}', "[1, 2, 3]"])
def test_a_damaged_memory_is_measured_again(choose, content):
    choose({})
    (file,) = (tuning.cache_folder() / "sum-forms").iterdir()
    file.write_text(content)
    choice, written = choose({})
    assert (choice.form, written) == ("batchnorm", list(FORMS))
    assert choose({})[1] == []


def test_without_a_place_to_remember_it_still_works(choose, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert choose({})[0].form == "batchnorm"
