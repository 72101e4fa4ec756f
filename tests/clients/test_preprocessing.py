import io
import os
import stat

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from delugeserve_client import ImageError, preprocessing
from delugeserve_client.formats import FORMATS
from delugeserve_client.preprocessing import INTERPOLATIONS, Preprocessing

TINY = Preprocessing(32, 32, 32)
SIDES = st.integers(1, 300)


def noise(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


@settings(deadline=None)
@given(SIDES, SIDES, st.integers(1, 40), st.integers(1, 40), st.integers(0, 20))
@example(1, 5000, 32, 32, 4)
@example(5000, 1, 32, 32, 4)
def test_any_size_becomes_the_models_size(height, width, out_height, out_width, margin):
    preprocessing = Preprocessing(out_height, out_width, min(out_height, out_width) + margin)
    result = preprocessing(noise(height, width))
    assert result.shape == (out_height, out_width, 3)
    assert result.dtype == np.uint8


@given(SIDES, SIDES, st.integers(1, 40), st.integers(1, 40), st.integers(0, 20))
def test_crop_is_central_inside_and_of_the_models_shape(
    height, width, out_height, out_width, margin
):
    preprocessing = Preprocessing(out_height, out_width, min(out_height, out_width) + margin)
    left, upper, right, lower = preprocessing.crop_box(width, height)
    assert left >= 0
    assert upper >= 0
    assert left == pytest.approx(width - right)
    assert upper == pytest.approx(height - lower)
    assert (right - left) / (lower - upper) == pytest.approx(out_width / out_height)
    scale = preprocessing.scale(width, height)
    assert (right - left) * scale == pytest.approx(out_width)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_an_image_that_fits_is_left_alone(interpolation):
    pixels = noise(32, 32)
    assert np.array_equal(Preprocessing(32, 32, 32, interpolation)(pixels), pixels)


def test_the_crop_alone_moves_no_pixel():
    pixels = noise(36, 40)
    assert np.array_equal(Preprocessing(32, 32, 36)(pixels), pixels[2:34, 4:36])


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_equals_resizing_all_and_then_cropping(interpolation):
    pixels = noise(144, 216)
    whole = Image.fromarray(pixels).resize((54, 36), INTERPOLATIONS[interpolation])
    expected = np.asarray(whole.crop((11, 2, 43, 34))).astype(int)
    result = Preprocessing(32, 32, 36, interpolation)(pixels).astype(int)
    # Pillow rounds its weights to 22 bits, at slightly different places.
    assert np.abs(result - expected).max() <= 1


def test_mirrored_images_give_mirrored_inputs():
    pixels = noise(51, 77)
    result, mirrored = TINY(pixels).astype(int), TINY(pixels[:, ::-1]).astype(int)
    assert np.abs(result - mirrored[:, ::-1]).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_honours_exif_orientation(tmp_path, orientation):
    # What a camera held in each of the eight ways would store of the same scene.
    scene = np.zeros((32, 32, 3), np.uint8)
    scene[:16, :16] = (255, 0, 0)
    scene[:16, 16:] = (0, 255, 0)
    scene[16:, :16] = (0, 0, 255)
    turn = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(turn(scene))).save(path, exif=exif)
    assert np.array_equal(TINY(path), scene)


def test_colour_modes():
    grey = noise(32, 32, 1)
    for image in (grey, grey[:, :, 0], Image.fromarray(grey[:, :, 0])):
        assert np.array_equal(TINY(image), np.repeat(grey, 3, axis=2))
    red = np.full((32, 32, 4), (255, 0, 0, 255), np.uint8)
    assert np.array_equal(TINY(red), red[:, :, :3])
    for mode in ("P", "CMYK", "YCbCr", "LA", "1"):
        assert TINY(Image.new(mode, (40, 40))).shape == (32, 32, 3)


def test_transparency_is_laid_on_white(tmp_path):
    hidden = np.zeros((32, 32, 4), np.uint8)
    assert TINY(hidden).min() == 255
    palette = Image.new("P", (32, 32))
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "palette.png", transparency=0)
    assert TINY(tmp_path / "palette.png").min() == 255


def test_jpeg_keeps_its_look_in_draft_mode(tmp_path):
    texture = Image.fromarray(noise(40, 60)).resize((240, 160), Image.Resampling.BICUBIC)
    texture.save(tmp_path / "texture.jpg", quality=95, subsampling=0)
    difference = TINY(tmp_path / "texture.jpg").astype(int) - TINY(texture)
    assert np.abs(difference).mean() < 3


def test_first_frame_of_an_animation_counts(tmp_path):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("white", "black")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert TINY(tmp_path / "a.gif").min() == 255


def test_leaves_what_it_is_given_unchanged():
    pixels = noise(40, 50)
    image = Image.fromarray(pixels.copy())
    TINY(image)
    assert image.size == (50, 40)
    assert np.array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((4, 4, 3)), "float64"),
        (np.zeros((4, 4, 3), np.uint16), "uint16"),
        (np.zeros((3, 5, 5), np.uint8), r"\[3, 5, 5\]"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"\[1, 4, 4, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        (Image.new("I;16", (4, 4)), "8 bits"),
        (Image.new("F", (4, 4)), "8 bits"),
        (17, "int"),
        (None, "NoneType"),
        (b"bytes", "is not an image"),
        (bytearray(b"bytes"), "is not an image"),
    ],
)
def test_refuses_what_is_not_an_8_bit_image(array, says):
    with pytest.raises(ImageError, match=says) as caught:
        TINY(array, "image 7")
    assert caught.value.source == "image 7"
    assert caught.value.problem.startswith("Image 7 ")


@pytest.fixture
def jpeg(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(noise(64, 64)).save(path)
    return path


def test_the_bytes_of_a_file_are_as_good_as_the_file(jpeg):
    assert np.array_equal(TINY(jpeg.read_bytes()), TINY(jpeg))


@pytest.mark.parametrize("kept", [0, 1, 10, 300, 2000])
def test_truncated_file_is_named(jpeg, kept):
    jpeg.write_bytes(jpeg.read_bytes()[:kept])
    with pytest.raises(ImageError, match=r"photo\.jpg") as caught:
        TINY(jpeg)
    assert caught.value.source == str(jpeg)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]))
def test_a_damaged_file_gives_an_image_or_an_image_error(data, kind, tmp_path_factory):
    path = tmp_path_factory.mktemp("damaged") / "image"
    Image.fromarray(noise(24, 24)).save(path, kind)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert TINY(path).shape == (32, 32, 3)
    except ImageError as error:
        assert error.source == str(path)  # noqa: PT017 - either outcome is right


def test_files_that_are_not_images(tmp_path, jpeg):
    text = tmp_path / "notes.txt"
    text.write_text("no pixels here")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    script = tmp_path / "drawing.eps"
    script.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    link = tmp_path / "link.png"
    link.symlink_to("/no/such/file.png")
    for path, says in (
        (text, "not an image"),
        (script, "not an image"),  # Pillow would run Ghostscript on it
        (tmp_path, "folder"),
        (tmp_path / "missing.png", "no file"),
        (pipe, "regular file"),
        (link, "/no/such/file.png"),
        (jpeg.with_name("x" * 300), "too long"),
    ):
        with pytest.raises(ImageError, match=says) as caught:
            TINY(path)
        assert caught.value.source == str(path)
        assert str(path) in caught.value.problem
        assert caught.value.remedy.endswith(".")


@pytest.mark.parametrize("url", ["https://example.com/cat.jpg", "s3://bucket/cat.jpg"])
def test_a_url_is_not_a_file(url):
    with pytest.raises(ImageError, match="Download") as caught:
        TINY(url)
    assert caught.value.source == url


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(jpeg):
    jpeg.chmod(stat.S_IWUSR)
    with pytest.raises(ImageError, match="permission denied"):
        TINY(jpeg)


@pytest.mark.parametrize("limit", [100, 3000])  # beyond twice the limit Pillow itself refuses
@pytest.mark.parametrize("options", [{"format": "PNG"}, {"format": "JPEG", "progressive": True}])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb(tmp_path, monkeypatch, limit, options):
    path = tmp_path / "bomb"
    Image.fromarray(noise(64, 64)).save(path, **options)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ImageError, match=f"{limit:,} pixels") as caught:
        TINY(path)
    assert caught.value.source == str(path)


@pytest.mark.filterwarnings("error")
def test_a_jpeg_of_three_times_the_limit_passes_if_it_is_decoded_at_a_fraction(monkeypatch):
    encoded = encode(Image.fromarray(noise(512, 512)), "JPEG")
    expected = TINY(encoded)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 512 * 512 // 3 + 1)
    assert np.array_equal(TINY(encoded), expected)
    large = Preprocessing(200, 200, 200)  # draft mode leaves more than half of the width
    with pytest.raises(ImageError, match="more than 87,382 pixels"):
        large(encoded)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 512 * 512 // 3 - 1)
    with pytest.raises(ImageError, match="more than 262,140 pixels"):
        TINY(encoded)


@pytest.mark.slow
def test_a_photograph_of_108_megapixels():
    # Decoded whole, it would be larger than the limit.
    encoded = encode(Image.new("L", (12000, 9000), 200), "JPEG")
    assert abs(int(TINY(encoded).mean()) - 200) <= 1


def test_a_progressive_jpeg_has_a_limited_number_of_scans():
    encoded = encode(Image.fromarray(noise(64, 64)), "JPEG", progressive=True)
    assert TINY(encoded).shape == (32, 32, 3)
    start = encoded.rindex(b"\xff\xda")
    scan, end = encoded[start:-2], encoded[-2:]
    with pytest.raises(ImageError, match="209 scans"):
        TINY(encoded[:start] + 200 * scan + end)


def test_heic_names_the_package_that_reads_it(tmp_path):
    path = tmp_path / "phone.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    for image in (path, path.read_bytes()):
        with pytest.raises(ImageError) as caught:
            TINY(image)
        assert "pillow-heif" in caught.value.remedy or "HEIF" in FORMATS


def test_the_digest_stands_for_the_settings_and_the_algorithm(monkeypatch):
    # It is written into published models: a change of ALGORITHM refuses them all.
    assert TINY.digest == "1316da51faedf38f"
    others = (Preprocessing(32, 32, 36), Preprocessing(32, 32, 32, "box"))
    assert len({TINY.digest, *(one.digest for one in others)}) == 3
    monkeypatch.setattr(preprocessing, "ALGORITHM", preprocessing.ALGORITHM + 1)
    assert TINY.digest != "1316da51faedf38f"


def encode(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()
