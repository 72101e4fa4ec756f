import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delugeserve_client.formats import FORMATS, SUFFIXES, decodable_formats, is_image_file
from delugeserve_client.preprocessing import Preprocessing

# Formats that Pillow writes only with an option.
OPTIONS = {"MPO": {"save_all": True}}


@pytest.mark.parametrize(
    ("kind", "suffix"), [(k, s) for k, group in FORMATS.items() for s in group]
)
def test_every_suffix_is_written_and_decoded(tmp_path, kind, suffix):
    if suffix == ".pbm":  # black and white only
        image = Image.new("1", (16, 16), 1)
    elif suffix == ".pgm":
        image = Image.new("L", (16, 16), 200)
    else:
        image = Image.new("RGB", (16, 16), (200, 200, 200))
    path = tmp_path / f"image{suffix}"
    image.save(path, kind, **OPTIONS.get(kind, {}))
    assert is_image_file(path)
    pixels = Preprocessing(16, 16, 16)(path)
    assert pixels.shape == (16, 16, 3)
    assert abs(int(np.median(pixels)) - (255 if suffix == ".pbm" else 200)) <= 2


def test_a_file_with_several_jpegs(tmp_path):
    second = Image.new("RGB", (16, 16), "black")
    image = Image.new("RGB", (16, 16), "white")
    image.save(tmp_path / "stereo.mpo", "MPO", save_all=True, append_images=[second])
    with Image.open(tmp_path / "stereo.mpo") as opened:
        assert opened.format == "MPO"
    assert Preprocessing(16, 16, 16)(tmp_path / "stereo.mpo").min() > 250


def test_the_suffixes_are_pillows():
    Image.init()
    registered = Image.registered_extensions()
    for kind, group in FORMATS.items():
        for suffix in group:
            # Pillow opens MPO by the JPEG decoder, which then looks closer.
            assert registered[suffix] == kind
    assert list(SUFFIXES) == sorted(set(SUFFIXES))
    assert set(decodable_formats()) == set(FORMATS) - ({"MPO"} - set(Image.OPEN))


@pytest.mark.parametrize("name", ["cat.jpg", "CAT.JPG", "a/b/cat.Tiff", "two.dots.png", "x.AVIF"])
def test_image_files(name):
    assert is_image_file(name)
    assert is_image_file(Path(name))


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        ".hidden.png",
        "a/._cat.jpg",
        ".png",
        "png",
        "cat.jpg.part",
        *(["x.heic"] if "HEIF" not in FORMATS else []),
        "x.eps",
        "",
    ],
)
def test_other_files(name):
    assert not is_image_file(name)
    assert not is_image_file(Path(name))


def test_heic_as_phones_write_it(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif", reason="HEIC needs pillow-heif")
    pixels = np.full((40, 60, 3), (200, 90, 20), np.uint8)
    path = tmp_path / "phone.heic"
    pillow_heif.encode("RGB", (60, 40), pixels.tobytes(), path)
    assert is_image_file(path)
    for image in (path, path.read_bytes()):
        found = Preprocessing(16, 16, 16)(image).astype(int)
        assert np.abs(found - pixels[0, 0]).max() < 9


def test_rarer_formats_are_not_decoded():
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "TGA")
    assert "TGA" not in decodable_formats()


def test_the_data_readers_use_the_same_list():
    from delugeserve.data import formats

    assert formats.SUFFIXES is SUFFIXES
    assert formats.is_image_file is is_image_file
