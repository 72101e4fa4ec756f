"""Evaluating a classifier: batches, metrics, plots."""

import dataclasses
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from delugeserve.data.datasets import LabelledImages
from delugeserve.errors import EvaluationError, UsageError
from delugeserve.evaluation.evaluate import (
    as_logits,
    evaluate,
    evaluate_batches,
    evaluate_fully,
)
from delugeserve.evaluation.metrics import Bin
from delugeserve.evaluation.plots import draw_confusion, draw_reliability
from delugeserve.plotting import check_picture_path, save_figure

# The classifier reads its logits from the pixels.
LOGITS = np.array(
    [[4, 1, 0], [0, 2, 1], [3, 2, 1], [5, 0, 1], [1, 2, 0]], np.float32
)  # fmt: skip
DATA = LabelledImages(
    LOGITS.astype(np.uint8).reshape(5, 1, 1, 3), np.array([0, 1, 1, 0, 0]), ("a", "b", "c"), ""
)


def classify(images):
    return images.reshape(-1, 3).astype(np.float32)


class Recorder:
    """Keeps what is reported to it."""

    def __init__(self):
        self.stages, self.steps = [], []

    def stage(self, name, total=None):
        self.stages.append((name, total))

    def advance(self, steps=1, note=""):
        self.steps.append(steps)


def test_errors_and_progress():
    recorder = Recorder()
    result = evaluate(classify, DATA, batch_size=2, progress=recorder)
    assert (result.num_images, result.top1_error, result.top5_error) == (5, 40, None)
    assert recorder.stages == [("evaluate", 5)]
    assert recorder.steps == [2, 2, 1]


def test_flips_leave_the_single_view_as_it_is():
    # Two pixels: the left one has the logits, so that a mirrored image has those of the right one.
    right = np.array([[0, 9, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 9, 0]], np.float32)
    pixels = np.stack([LOGITS, right], axis=1).astype(np.uint8)[:, None]
    data = LabelledImages(pixels, DATA.labels, DATA.class_names, "")

    def left(images):
        assert images.flags.c_contiguous
        return images[:, 0, 0].astype(np.float32)

    recorder = Recorder()
    report = evaluate_fully(left, data, batch_size=2, tta="flip", progress=recorder)
    assert recorder.steps == [2, 2, 1]
    expected = evaluate_fully(left, data)
    assert expected.tta is None
    assert dataclasses.replace(report, tta=None) == expected
    mean = (LOGITS + right).argmax(axis=1)
    assert report.tta.top1_error == 100 * (mean != data.labels).mean() != report.top1_error
    assert (report.tta.num_images, report.tta.augmentation) == (5, "flip")


@pytest.mark.parametrize(("num_classes", "measured"), [(2, False), (5, False), (6, True)])
def test_top5_needs_more_than_five_classes(num_classes, measured):
    for report in (report_of(num_classes), evaluate_noise(evaluate, num_classes)):
        assert (report.top5_error is not None) == measured


def test_batches_may_be_read_one_by_one():
    batches = ((DATA.images[part], DATA.labels[part]) for part in (slice(3), slice(3, 5)))
    assert evaluate_batches(classify, batches, 3) == evaluate(classify, DATA)


def test_the_report_by_class():
    report = evaluate_fully(classify, DATA, batch_size=3)
    assert (report.num_images, report.top1_error, report.top5_error) == (5, 40, None)
    assert report.confusion == ((2, 1, 0), (1, 1, 0), (0, 0, 0))
    a, b, c = report.classes
    assert (a.name, a.num_images, a.mistaken_for) == ("a", 3, "b")
    assert (a.error, a.mistaken) == (33.3333, 33.3333)
    assert (b.error, b.mistaken_for, b.mistaken) == (50, "a", 50)
    assert (c.num_images, c.error, c.mistaken_for, c.mistaken) == (0, None, None, None)
    assert json.loads(json.dumps(dataclasses.asdict(report)))["confusion"][0] == [2, 1, 0]


def test_batches_change_nothing():
    assert evaluate_fully(classify, DATA, batch_size=1) == evaluate_fully(classify, DATA)


def test_probabilities_as_logits_give_the_same_metrics():
    def probabilities(images):
        exponentials = np.exp(classify(images))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    of_logits, of_probabilities = (
        evaluate_fully(one, DATA) for one in (classify, as_logits(probabilities))
    )
    assert of_probabilities.confusion == of_logits.confusion
    for metric in ("calibration_error", "negative_log_likelihood"):
        expected = pytest.approx(getattr(of_logits, metric), rel=1e-5)
        assert getattr(of_probabilities, metric) == expected
    # Probabilities that are taken for logits give another result.
    assert evaluate_fully(probabilities, DATA).negative_log_likelihood > 0.7


def test_a_probability_of_zero_still_has_a_logarithm():
    certain = as_logits(lambda images: np.eye(3, dtype=np.float32)[[0] * len(images)])
    assert np.isfinite(evaluate_fully(certain, DATA).negative_log_likelihood)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(bad):
    with pytest.raises(EvaluationError, match="finite"):
        evaluate(lambda images: np.full((len(images), 3), bad, np.float32), DATA)


def test_logits_of_other_classes_are_refused():
    with pytest.raises(EvaluationError, match=r"\[5, 4\]"):
        evaluate(lambda images: np.zeros((len(images), 4), np.float32), DATA)


def evaluate_noise(function, num_classes):
    """Evaluate noisy logits, right more often than not, on four images per class."""
    rng = np.random.default_rng(0)
    labels = np.arange(4 * num_classes) % num_classes
    logits = rng.normal(size=(len(labels), num_classes)).astype(np.float32)
    logits[np.arange(len(labels)), labels] += 2
    images = np.arange(len(labels), dtype=np.uint32).view(np.uint8).reshape(-1, 1, 1, 4)
    names = tuple(f"class {index}" for index in range(num_classes))
    return function(
        lambda batch: logits[np.ascontiguousarray(batch).view(np.uint32).ravel()],
        LabelledImages(images, labels, names, ""),
    )


def report_of(num_classes):
    return evaluate_noise(evaluate_fully, num_classes)


@pytest.mark.slow
@pytest.mark.parametrize(("num_classes", "names", "numbers"), [(10, 10, True), (100, 100, False)])
def test_the_confusion_matrix_is_named_and_numbered(num_classes, names, numbers, tmp_path):
    report = report_of(num_classes)
    figure = draw_confusion(report, "a title")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        one.name for one in report.classes
    ]
    assert len(axes.get_xticks()) == names
    cells = {(t.get_position()[1], t.get_position()[0]): t.get_text() for t in axes.texts}
    wanted = {
        (row, column): f"{25 * count:.1f}"
        for row, counts in enumerate(report.confusion)
        for column, count in enumerate(counts)
        if count
    }
    assert cells == (wanted if numbers else {})
    save_figure(figure, tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as image:
        assert min(image.size) >= 900
    assert [path.name for path in tmp_path.iterdir()] == ["confusion.png"]


def test_a_thousand_classes_are_drawn_without_names(tmp_path):
    figure = draw_confusion(report_of(1000), "")
    assert len(figure.axes[0].get_yticks()) < 20


def test_the_reliability_diagram_has_a_bar_for_each_bin_in_use():
    report = report_of(10)
    axes, histogram = draw_reliability(report, "a title").axes
    accuracies = [100 * one.accuracy for one in report.bins if one.num_images]
    assert [bar.get_height() for bar in axes.patches] == pytest.approx(accuracies)
    assert sum(bar.get_height() for bar in histogram.patches) == pytest.approx(100)
    assert f"{report.calibration_error:.2f} %" in axes.get_title(loc="left")


def test_bins_of_few_images_look_uncertain():
    bins = (Bin(0, 0.5, 3, 0.4, 2 / 3), Bin(0.5, 1, 3000, 0.8, 2 / 3))
    report = dataclasses.replace(report_of(10), bins=bins, num_images=3003)
    axes = draw_reliability(report, "").axes[0]
    few, many = (bar.get_facecolor()[3] for bar in axes.patches)
    assert few < 0.5 < many
    (errorbar,) = [one for one in axes.containers if "ErrorbarContainer" in type(one).__name__]
    wide, narrow = (top - bottom for (_, bottom), (_, top) in errorbar[2][0].get_segments())
    assert narrow < 5 < 60 < wide


def test_pictures_are_png_or_svg(tmp_path):
    save_figure(draw_reliability(report_of(3), ""), tmp_path / "diagram.svg")
    assert "<svg" in (tmp_path / "diagram.svg").read_text()
    for path in (tmp_path / "diagram.jpg", tmp_path):
        with pytest.raises(UsageError, match=re.escape(str(path))):
            check_picture_path(path)


def test_evaluation_needs_no_torch():
    script = """
import sys
sys.modules["torch"] = sys.modules["onnx"] = None
import delugeserve.evaluation.evaluate, delugeserve.data.datasets, delugeserve.evaluation.subjects
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
