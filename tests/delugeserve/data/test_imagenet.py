"""Decoding and augmentation of ImageNet's photographs."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from delugeserve.data.imagenet import (
    augmented_crop,
    central_stretch,
    centre_crop,
    colour_change,
    random_box,
)
from delugeserve.zoo import CIFAR10, IMAGENET
from delugeserve_client.errors import ImageError
from delugeserve_client.preprocessing import Preprocessing

SIDES = st.integers(1, 3000)


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth shapes and fine grain, as a photograph has."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    shapes = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    return Image.fromarray((shapes + rng.normal(0, 4, shapes.shape)).clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# The centre


@pytest.mark.parametrize(
    ("width", "height"),
    [(500, 375), (375, 500), (256, 256), (224, 224), (60, 47), (539, 426), (1600, 1201), (90, 900)],
)
def test_the_centre_crop_is_the_clients(width, height):
    image = encode(photograph(width, height), quality=90)
    ours = centre_crop(image, "", IMAGENET).numpy()
    clients = Preprocessing(224, 224, 256)(image)
    assert ours.shape == (224, 224, 3)
    assert ours.dtype == np.uint8
    difference = np.abs(ours.astype(int) - clients)
    assert difference.mean() < 1
    assert np.quantile(difference, 0.999) <= 8


def test_a_shift_of_half_a_pixel_exceeds_the_tolerance():
    image = photograph(500, 375)
    clients = Preprocessing(224, 224, 256)
    shifted = image.transform((500, 375), Image.Transform.AFFINE, (1, 0, 0.5, 0, 1, 0), 2)
    assert np.abs(clients(shifted).astype(int) - clients(image)).mean() > 1


def test_orientation_and_mode_are_handled_as_by_the_client():
    image = photograph(400, 300)
    upside_down = Image.Exif()
    upside_down[0x0112] = 3
    for encoded in (
        encode(image, exif=upside_down),
        encode(image.convert("L")),
        encode(image.convert("CMYK")),
        encode(image.convert("RGBA"), "PNG"),
    ):
        ours = centre_crop(encoded, "", IMAGENET).numpy().astype(int)
        assert np.abs(ours - Preprocessing(224, 224, 256)(encoded)).mean() < 1
        assert augmented_crop(encoded, "", IMAGENET, rng()).shape == (224, 224, 3)


def test_an_image_of_the_right_size_keeps_its_pixels():
    image = photograph(32, 32)
    ours = centre_crop(encode(image, "PNG"), "", CIFAR10).numpy()
    np.testing.assert_array_equal(ours, np.asarray(image))


@given(long=SIDES, short=SIDES)
def test_a_stretch_lies_in_the_centre_of_the_image(long, short):
    long, short = max(long, short), min(long, short)
    assert central_stretch(short, short, 224, 256) == (short, 256)
    before, after = central_stretch(long, short, 224, 256)
    assert 0 < before <= long
    assert (long - before) % 2 == 0
    assert 224 <= after <= 256
    assert (after - 224) % 2 == 0
    # By this many of the image's pixels the crop's border is off; the test above sees the usual.
    assert 112 * abs(before / after - short / 256) <= 0.55


# Random parts


@given(width=SIDES, height=SIDES, seed=st.integers(0, 2**31))
def test_a_box_has_the_area_and_the_ratio_or_is_the_centre(width, height, seed):
    left, upper, right, lower = random_box(width, height, rng(seed).random((10, 5)))
    assert 0 <= left < right <= width
    assert 0 <= upper < lower <= height
    across, down = right - left, lower - upper
    # Sides are rounded to whole pixels.
    area = (across - 0.5) * (down - 0.5), (across + 0.5) * (down + 0.5)
    ratio = (across - 0.5) / (down + 0.5), (across + 0.5) / (down - 0.5)
    drawn = (
        area[1] >= 0.08 * width * height
        and area[0] <= width * height
        and ratio[0] <= 4 / 3
        and ratio[1] >= 3 / 4
    )
    square = min(width, height)
    central = (left, upper) == ((width - square) // 2, (height - square) // 2)
    assert drawn or (across == down == square and central)


def test_no_part_of_a_panorama_fits_but_the_centre():
    assert random_box(3000, 100, rng().random((10, 5))) == (1450, 0, 1550, 100)


def test_boxes_are_spread_over_the_image():
    boxes = np.array([random_box(500, 375, rng(seed).random((10, 5))) for seed in range(500)])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / (500 * 375)
    assert areas.min() < 0.1
    assert areas.max() > 0.9
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    np.testing.assert_allclose(centres.mean(axis=0), (250, 187.5), atol=10)


def test_boxes_are_no_smaller_than_asked():
    boxes = np.array([random_box(500, 375, rng(n).random((10, 5)), 0.5) for n in range(200)])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / (500 * 375)
    assert 0.49 < areas.min() < 0.55
    assert areas.max() > 0.9


def test_the_aspect_ratio_is_drawn_as_in_fb_resnet_torch():
    """Uniform in 3/4 to 4/3, and width and height exchanged half of the time."""

    def sides(ratio, turn):
        numbers = np.array([[0.4, ratio, turn, 0.0, 0.0]])
        _, _, across, down = random_box(10_000, 10_000, numbers)
        return across / down

    half = (3 / 4 + 4 / 3) / 2
    assert sides(0.5, 0.7) == pytest.approx(half, rel=1e-3)
    assert sides(0.5, 0.3) == pytest.approx(1 / half, rel=1e-3)
    assert sides(0.0, 0.7) == pytest.approx(3 / 4, rel=1e-3)


def test_half_of_the_images_are_mirrored():
    left_is_white = np.zeros((64, 64, 3), np.uint8)
    left_is_white[:, :32] = 255
    image = encode(Image.fromarray(left_is_white), "PNG")
    crops = [augmented_crop(image, "", IMAGENET, rng(seed)).float() for seed in range(120)]
    falls = [float(crop[:, :20].mean() - crop[:, -20:].mean()) for crop in crops]
    assert 40 <= sum(fall > 0 for fall in falls if fall) <= 80


@pytest.mark.slow
def test_the_same_numbers_give_the_same_part_at_half_the_size():
    # More than four times what is wanted: large parts are decoded at a half.
    image = photograph(1792, 1000)
    for seed in range(3):
        ours = augmented_crop(encode(image, quality=95, subsampling=0), "", IMAGENET, rng(seed))
        whole = augmented_crop(encode(image, "PNG"), "", IMAGENET, rng(seed))
        assert (ours.float() - whole.float()).abs().mean() < 4


# Colours


def step_by_step(pixels, generator):
    """Brightness, contrast, saturation and lighting as fb.resnet.torch applies them."""
    weights = np.array([0.299, 0.587, 0.114])
    factors = 1 + generator.uniform(-0.4, 0.4, 3)
    for step in generator.permutation(3):
        grey = pixels @ weights
        other = [0, grey.mean(), grey[..., None]][step]
        pixels = factors[step] * pixels + (1 - factors[step]) * other
    alpha = generator.normal(0, 0.1, 3)
    values = [0.2175, 0.0188, 0.0045]
    vectors = [[-0.5675, -0.5808, -0.5836], [0.7192, -0.0045, -0.6948], [0.4009, -0.8140, 0.4203]]
    for a, value, vector in zip(alpha, values, vectors, strict=True):
        pixels = pixels + 255 * a * value * np.array(vector)
    return pixels


@given(seed=st.integers(0, 2**31))
def test_one_matrix_changes_colours_as_the_steps_do(seed):
    pixels = rng(1).uniform(0, 255, (6, 5, 3))
    grey = float((pixels @ [0.299, 0.587, 0.114]).mean())
    change = colour_change(grey, rng(seed))
    changed = pixels @ change[:, :3].T + change[:, 3]
    np.testing.assert_allclose(changed, step_by_step(pixels, rng(seed)), atol=1e-9)


def test_colours_are_changed_by_that_matrix():
    grey = Image.new("RGB", (300, 300), (90, 120, 150))
    generator = rng(5)
    generator.random((10, 5))  # the crop's
    expected = step_by_step(np.full((2, 2, 3), (90.0, 120.0, 150.0)), generator)[0, 0]
    crop = augmented_crop(encode(grey, "PNG"), "", IMAGENET, rng(5)).numpy()
    assert np.abs(crop - expected).max() < 1


# What cannot be read


@pytest.mark.parametrize("damage", [b"", b"no image", None])
def test_an_unreadable_image_is_named(tmp_path, damage):
    whole = encode(photograph(300, 200))
    content = whole[: len(whole) // 2] if damage is None else damage
    path = tmp_path / "cat.jpg"
    path.write_bytes(content)
    for image in (content, path):
        with pytest.raises(ImageError, match=r"cat\.jpg"):
            centre_crop(image, "cat.jpg", IMAGENET)
        with pytest.raises(ImageError, match=r"cat\.jpg"):
            augmented_crop(image, "cat.jpg", IMAGENET, rng())
