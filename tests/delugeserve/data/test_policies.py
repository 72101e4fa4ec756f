"""RandAugment and TrivialAugment, operation by operation against Pillow."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from delugeserve.data import policies
from delugeserve.data.policies import apply_policy

FILL = torch.tensor([7, 8, 9], dtype=torch.uint8)
RANGES = policies._POLICIES["trivial"]


def smooth(seed=0, size=(24, 20)):
    """A picture with flat and with steep parts, and with few levels in one channel."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    picture = np.array(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
    picture[..., 2] = picture[..., 2] // 3 + 40
    return picture


def result(operation, magnitude, sign=1.0):
    """The result of one operation on two images, the second with another magnitude."""
    images = np.stack([smooth(), smooth(1)])
    return change(operation, images, [magnitude, 0.1], [sign, -1.0])[0].astype(int)


def change(operation, images, magnitudes, signs):
    planes = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    group = policies._Group(planes, torch.tensor(magnitudes), torch.tensor(signs), FILL, RANGES)
    changed = getattr(policies, operation)(group)
    assert changed.dtype == torch.uint8
    assert changed.shape == planes.shape
    return changed.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("magnitude", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize(
    ("operation", "enhance"),
    [
        ("_brightness", ImageEnhance.Brightness), ("_contrast", ImageEnhance.Contrast),
        ("_saturation", ImageEnhance.Color), ("_sharpness", ImageEnhance.Sharpness),
    ],
)  # fmt: skip
def test_colours_are_enhanced_as_by_pillow(operation, enhance, magnitude, sign):
    noise = np.random.default_rng(0).integers(60, 196, (24, 20, 3), np.uint8)
    for picture in (smooth(), noise):
        expected = enhance(Image.fromarray(picture)).enhance(1 + sign * magnitude * 0.99)
        found = change(operation, picture[None], [magnitude], [sign])[0].astype(int)
        assert np.abs(found - np.array(expected)).max() <= 2


@pytest.mark.parametrize("magnitude", [0.0, 0.3, 1.0])
def test_levels_are_changed_as_by_pillow(magnitude):
    picture = Image.fromarray(smooth())
    bits = 8 - round(6 * magnitude)
    assert np.array_equal(result("_posterise", magnitude), ImageOps.posterize(picture, bits))
    threshold = math.ceil(255 * (1 - magnitude))
    assert np.array_equal(result("_solarise", magnitude), ImageOps.solarize(picture, threshold))


def test_histograms_are_changed_as_by_pillow():
    picture = Image.fromarray(smooth(size=(64, 48)))
    images = np.array(picture)[None]
    assert np.array_equal(change("_equalise", images, [1.0], [1.0])[0], ImageOps.equalize(picture))
    stretched = change("_autocontrast", images, [1.0], [1.0])[0].astype(int)
    assert np.abs(stretched - np.array(ImageOps.autocontrast(picture))).max() <= 1
    flat = np.full_like(images, 80)
    for operation in ("_equalise", "_autocontrast"):
        assert np.array_equal(change(operation, flat, [1.0], [1.0]), flat)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize(
    ("operation", "matrix"),
    [
        # Pillow maps centres of pixels, which lie half a pixel further.
        ("_shear_x", lambda v: (1, 0.99 * v, -0.495 * v, 0, 1, 0)),
        ("_shear_y", lambda v: (1, 0, 0, 0.99 * v, 1, -0.495 * v)),
        ("_shift_x", lambda v: (1, 0, -32 * v, 0, 1, 0)),
        ("_shift_y", lambda v: (1, 0, 0, 0, 1, -32 * v)),
    ],
)
def test_geometry_is_pillow_s(operation, matrix, sign):
    found = result(operation, 0.25, sign)
    picture = Image.fromarray(smooth())
    expected = picture.transform(
        picture.size, Image.Transform.AFFINE, matrix(0.25 * sign), fillcolor=tuple(FILL.tolist())
    )
    assert np.array_equal(found, expected)


def test_rotations_turn_about_the_centre():
    image = smooth(size=(20, 20))
    for sign, quarter in ((1.0, 1), (-1.0, -1)):
        found = change("_rotate", image[None], [90 / 135], [sign])[0]
        assert np.array_equal(found, np.rot90(image, quarter))
    assert (result("_rotate", 1 / 3)[0, 0] == FILL.numpy()).all(), "a corner lies outside"


@pytest.mark.parametrize("policy", ["randaugment", "trivial"])
def test_draws_differ_by_image_and_seed_but_not_by_process(policy):
    images = torch.from_numpy(np.stack([smooth()] * 64))
    before = images.clone()

    def changed(seed, **share):
        rng = np.random.default_rng(seed)
        return apply_policy(images[: 64 // share.get("size", 1)], policy, FILL, rng, **share)

    whole = changed(0)
    assert torch.equal(images, before)
    assert torch.equal(whole, changed(0))
    assert not torch.equal(whole, changed(1))
    kinds = {image.numpy().tobytes() for image in whole}
    assert 15 <= len(kinds) < 64, "some images are not changed at all"
    assert torch.equal(changed(0, rank=1, size=2), whole[1::2])


def test_without_a_policy_images_stay():
    images = torch.from_numpy(smooth())[None]
    assert apply_policy(images, "none", FILL, np.random.default_rng(0)) is images
