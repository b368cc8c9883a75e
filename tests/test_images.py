"""Opening an image: HEIC, what is no image, its size; kinds of file and of array are in test_predict."""

import sys

import numpy as np
import pillow_heif
import pytest
import torch
from PIL import Image, ImageDraw

import images

TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # PIL's Transpose that undoes what the EXIF tag asks for


def arrow(width=120, height=80):
    """Not the same when it is turned or mirrored."""
    image = Image.new("L", (width, height), 235)
    draw = ImageDraw.Draw(image)
    draw.line([(20, 10), (100, 15), (40, 70)], fill=20, width=9)
    draw.rectangle((85, 55, 110, 75), fill=90)
    return image


def stored(orientation):
    """The arrow as a camera stores it, and its EXIF block."""
    image, exif = arrow(), Image.Exif()
    exif[0x0112] = orientation
    return image.transpose(Image.Transpose(TURNS[orientation])) if orientation > 1 else image, exif


@pytest.fixture
def heic(tmp_path):
    pillow_heif.register_heif_opener()
    path = tmp_path / "photo.heic"
    arrow().convert("RGB").save(path, quality=95)
    return path


def test_heic(heic):
    grey = images.read_image(heic)
    assert grey.dtype == np.float32
    assert np.abs(grey - np.asarray(arrow()) / 255).mean() < 0.02
    assert images.upright_size(heic) == (120, 80)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_heic_is_upright(orientation, heic):
    """From the block's bytes pillow_heif makes the rotation that phones write, and takes the tag out."""
    image, exif = stored(orientation)
    image.convert("RGB").save(heic, exif=exif.tobytes(), quality=95)
    assert images.upright_size(heic) == (120, 80)
    assert np.abs(images.read_image(heic) - np.asarray(arrow()) / 255).mean() < 0.02


def test_damaged_heic_is_refused_in_a_sentence(heic):
    content = heic.read_bytes()
    for length in (30, 200, len(content) // 2, len(content) - 10):
        heic.write_bytes(content[:length])
        with pytest.raises(images.ImageError, match=r"is damaged|is not an image that can be read") as caught:
            images.read_image(heic)
        assert str(caught.value).startswith(str(heic))
        assert "\n" not in str(caught.value)


def test_a_pdf_is_told_apart(tmp_path):
    path = tmp_path / "seven.png"
    arrow().save(path, "PDF")
    with pytest.raises(images.ImageError) as caught:
        images.read_image(path)
    assert (
        str(caught.value)
        == f"{path} is a PDF, not an image: save its page as a PNG first, by a screenshot for example."
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_upright_size(orientation, tmp_path):
    image, exif = stored(orientation)
    image.save(tmp_path / "photo.jpg", exif=exif)
    with Image.open(tmp_path / "photo.jpg") as opened:
        sizes = [images.upright_size(each) for each in (tmp_path / "photo.jpg", str(tmp_path / "photo.jpg"), opened)]
    assert sizes == [(120, 80)] * 3


def test_the_size_of_arrays_is_as_they_are_read():
    for shape in ((80, 120), (1, 80, 120), (80, 120, 1), (80, 120, 3), (80, 120, 4)):
        for array in (np.zeros(shape, np.uint8), torch.zeros(shape)):
            assert images.upright_size(array) == (120, 80)
            assert images.read_image(array).shape == (80, 120)
    with pytest.raises(images.ImageError, match="is not an image"):
        images.upright_size(np.zeros((80, 120, 2)))


def test_only_what_is_longer_is_scaled_down(tmp_path):
    large = arrow(1000, 600)
    large.save(tmp_path / "large.jpg", quality=95)
    expected = np.asarray(large, np.float64) / 255
    for image in (tmp_path / "large.jpg", large, large.convert("RGB"), np.asarray(large)):
        assert images.upright_size(image) == (1000, 600)
        assert images.read_image(image).shape == (240, 400)
        assert images.read_image(image, 1000).shape == (600, 1000)
        half = images.read_image(image, longest=500)
        blocks = expected.reshape(300, 2, 500, 2).mean(axis=(1, 3))
        assert np.abs(half - blocks).max() < 0.06


def test_heic_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    pillow_heif.register_heif_opener()
    arrow().convert("RGB").save(tmp_path / "phone.heic", "HEIF")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(images.ImageError, match=r"phone.heic needs the package pillow-heif: run pip install"):
        images.read_image(tmp_path / "phone.heic")
