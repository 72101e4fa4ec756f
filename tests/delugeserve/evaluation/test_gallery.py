"""The page of the most confident mistakes."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from delugeserve.data.datasets import LabelledImages, load_images
from delugeserve.errors import UsageError
from delugeserve.evaluation.gallery import check_gallery_path, find_mistakes, write_gallery
from delugeserve.evaluation.metrics import read_predictions
from delugeserve.zoo import Task

NAMES = ("<b>bold</b>", 'grün & "blau"', "猫")

# One row per image: true class 0, 0, 0, 1, 1, 2; the images 0, 2, 3 and 5 are mistaken.
LOGITS = np.array(
    [[0, 2, 0], [3, 0, 0], [0, 4, 0], [0, 0, 9], [0, 5, 0], [1, 3, 0]], np.float32
)  # fmt: skip
LABELS = np.array([0, 0, 0, 1, 1, 2])


def predictions():
    return read_predictions(LOGITS, LABELS)


def data(size=8):
    images = np.arange(len(LABELS), dtype=np.uint8)[:, None, None, None] * np.uint8(20)
    images = np.broadcast_to(images, (len(LABELS), size, size, 3)).copy()
    return LabelledImages(images, LABELS, NAMES, "")


class Page(HTMLParser):
    """Collects what the tests look at, and checks that tags are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.titles, self.images, self.headings, self.names, self.links, self.ids = (
            [],
            [],
            [],
            [],
            [],
            [],
        )
        self.open = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if attributes.get("class") == "file":
            self.titles.append(attributes["title"])
        self.ids.append(attributes.get("id"))
        if tag == "img":
            self.images.append(attributes)
        elif tag == "a":
            self.links.append(attributes["href"])
        if tag not in ("meta", "img"):
            self.open.append((tag, attributes.get("class")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, text):
        if self.open and self.open[-1][0] == "h2":
            self.headings.append(text)
        if self.open and self.open[-1][1] == "file":
            self.names.append(text)


def write(tmp_path, data, count=100):
    path = tmp_path / "new" / "errors.html"
    shown = write_gallery(path, predictions(), data, "net & co", count)
    return shown, Page(path.read_text(encoding="utf-8"))


def test_the_most_confident_mistakes_come_first_within_the_commonest_pairs():
    first, second, third = find_mistakes(predictions(), 100)
    assert (first.label, first.predicted, first.total, first.num_images) == (0, 1, 2, 3)
    assert [one.index for one in first.mistakes] == [2, 0]
    assert [one.index for pair in (second, third) for one in pair.mistakes] == [3, 5]
    probabilities = np.exp(LOGITS[2]) / np.exp(LOGITS[2]).sum()
    assert first.mistakes[0].confidence == pytest.approx(probabilities[1])
    assert first.mistakes[0].label_probability == pytest.approx(probabilities[0])


def test_a_limit_takes_the_most_confident_of_all_pairs():
    pairs = find_mistakes(predictions(), 2)
    assert [one.index for pair in pairs for one in pair.mistakes] == [2, 3]
    assert [pair.total for pair in pairs] == [2, 1]


def test_the_page_is_whole_and_escapes_names(tmp_path):
    shown, page = write(tmp_path, data())
    assert shown == len(page.images) == 4
    assert page.headings == [f"{NAMES[0]} → {NAMES[1]}", f"{NAMES[1]} → 猫", f"猫 → {NAMES[1]}"]
    assert page.names == ["image 2", "image 0", "image 3", "image 5"]
    assert [link.removeprefix("#") in page.ids for link in page.links] == [True] * 3
    assert page.images[0]["alt"] == f"{NAMES[0]}, predicted as {NAMES[1]}"


@pytest.mark.parametrize(("size", "kind"), [(8, "png"), (80, "jpeg")])
def test_pictures_are_inside_the_page(tmp_path, size, kind):
    _, page = write(tmp_path, data(size), count=1)
    head, _, content = page.images[0]["src"].partition(",")
    assert head == f"data:image/{kind};base64"
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    np.testing.assert_allclose(picture, data(size).images[3], atol=2)


def test_files_are_named(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "test" / name / "one.png")
    task = Task("pets", "Pets", ("cat", "dog"), 8, 8, (0.5,) * 3, (0.5,) * 3)
    images = load_images(tmp_path, "test", task)
    wrong = read_predictions(np.eye(2, dtype=np.float32)[1 - images.labels], images.labels)
    write_gallery(tmp_path / "errors.html", wrong, images, "net")
    page = Page((tmp_path / "errors.html").read_text(encoding="utf-8"))
    assert page.names == ["one.png", "one.png"]
    assert {title[-11:] for title in page.titles} == {"cat/one.png", "dog/one.png"}


def test_no_mistakes(tmp_path):
    right = read_predictions(np.eye(3, dtype=np.float32)[LABELS], LABELS)
    assert write_gallery(tmp_path / "errors.html", right, data(), "net") == 0
    assert not Page((tmp_path / "errors.html").read_text(encoding="utf-8")).images


def test_paths_that_are_refused(tmp_path):
    with pytest.raises(UsageError) as caught:
        check_gallery_path(tmp_path / "errors.png")
    assert "errors.html" in caught.value.remedy
    (tmp_path / "file").touch()
    with pytest.raises(UsageError):
        write_gallery(tmp_path / "file" / "errors.html", predictions(), data(), "net")
