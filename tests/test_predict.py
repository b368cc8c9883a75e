"""Any image of a digit → 28×28 pixels as in MNIST → probabilities."""

import io
import os
import struct
import time
import zlib

import infer
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps
from scipy import ndimage

import dataset
import model as models
import predict
import utils


def seven(size=(300, 240), pen=14, ink=20, paper=235):
    """A drawn 7, dark on light, off-centre."""
    image = Image.new("L", size, paper)
    width, height = size
    points = [(0.5 * width, 0.2 * height), (0.8 * width, 0.22 * height), (0.62 * width, 0.7 * height)]
    ImageDraw.Draw(image).line(points, fill=ink, width=pen, joint="curve")
    return image


def close(one, other, within=0.02):
    return (one - other).abs().mean() < within


def saved(image, form, **options):
    content = io.BytesIO()
    image.save(content, form, **options)
    return Image.open(io.BytesIO(content.getvalue()))


# ------------------------------------------------------------------------------------------------
# MNIST's conditions
# ------------------------------------------------------------------------------------------------


def extent(digit):
    """Height and width of a prepared image's ink, in pixels."""
    rows, columns = (np.flatnonzero((digit.numpy() > 0.2).any(axis=axis)) for axis in (1, 0))
    return rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


@pytest.mark.parametrize("shape", [(160, 80), (80, 160), (120, 120)])
def test_longest_side_20_aspect_kept_centred_by_mass(shape):
    height, width = shape
    page = np.full((500, 640), 230, np.uint8)
    page[30 : 30 + height, 50 : 50 + width] = 30
    digit = predict.prepare(page)
    assert digit.shape == (28, 28)
    assert digit.dtype == torch.float32
    assert digit.min() == 0
    assert digit.max() == 1
    expected = [round(20 * side / max(shape)) for side in shape]
    assert np.abs(np.array(extent(digit)) - expected).max() <= 1
    assert np.abs(np.array(ndimage.center_of_mass(digit.numpy())) - 14).max() <= 0.51


def test_centred_by_mass_and_not_by_its_box():
    page = Image.new("L", (400, 400), 255)
    draw = ImageDraw.Draw(page)
    draw.rectangle((100, 80, 200, 100), fill=0)  # heavy above
    draw.line((150, 100, 150, 260), fill=0, width=20)
    digit = predict.prepare(page)
    assert np.abs(np.array(ndimage.center_of_mass(digit.numpy())) - 14).max() <= 0.51
    rows = np.flatnonzero((digit.numpy() > 0.2).any(axis=1))
    assert (rows[0] + rows[-1]) / 2 > 15


def test_digits_of_that_size_change_little():
    """The embedded digits, 20 pixels high: only moved so that their centre of mass is in the middle."""
    images = dataset.load_dataset("test", "digits").images[:40]
    errors = []
    for image in images:
        down, right = (round(14 - c) for c in ndimage.center_of_mass(image.numpy()))
        expected = torch.roll(image.float() / 255, (down, right), (0, 1))
        errors.append((predict.prepare(image) - expected).abs().mean().item())
    assert np.median(errors) < 0.042  # 0.038; 0.047 if the strokes lost their blurred edges


@pytest.mark.parametrize("flip", [False, True])
def test_a_digit_with_its_mass_at_one_end_stays_whole(flip):
    """Its centre of mass is in the middle as far as the frame allows."""
    page = np.full((300, 300), 255, np.uint8)
    page[50:90, 100:200] = 0
    page[90:250, 147:153] = 0
    digit = predict.prepare(page[::-1] if flip else page)
    assert extent(digit)[0] == 20
    rows = np.flatnonzero((digit.numpy() > 0.2).any(axis=1))
    assert (rows[0], rows[-1]) == ((0, 19) if flip else (8, 27))


def test_a_dithered_digit():
    """Grey as black dots on white: most pixels of its strokes are white."""
    page = seven((400, 400), ink=215, paper=255).convert("1")
    assert close(predict.prepare(page), predict.prepare(seven((400, 400))))


def test_a_digit_in_two_strokes_stays_whole():
    page = np.full((300, 300), 255, np.uint8)
    page[100:250, 140:160] = 0
    page[50:80, 130:170] = 0  # a quarter of the ink
    assert extent(predict.prepare(page)) == (20, 4)


def test_dark_on_light_and_light_on_dark_are_the_same():
    dark = np.asarray(seven())
    assert close(predict.prepare(dark), predict.prepare(255 - dark), 1e-4)


@pytest.mark.parametrize("invert", [False, True])
def test_uneven_light_is_removed(invert):
    page = np.asarray(seven(), np.float32) / 255
    y, x = np.mgrid[-1 : 1 : page.shape[0] * 1j, -1 : 1 : page.shape[1] * 1j]
    light = 0.6 + 0.3 * x - 0.1 * y * y  # the paper's dark corner is darker than 0.3
    photo = page * light
    photo = 1 - photo if invert else photo
    assert close(predict.prepare(photo.astype(np.float32)), predict.prepare(page))


def test_a_thick_digit_that_fills_the_frame():
    page = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(page).ellipse((6, 6, 194, 194), outline=0, width=60)
    digit = predict.prepare(page)
    assert digit[14, 14] < 0.3  # the hole of the 0
    assert digit[14, 6] > 0.8


def test_a_thin_pen_is_as_bright_as_a_thick_one():
    """A line of 3 pixels on a page of 800, which would be a quarter of a pixel wide at 20×20."""
    thin, thick = (predict.prepare(seven((800, 800), pen=pen)) for pen in (3, 60))
    assert 0.5 * thick.mean() < thin.mean() < thick.mean()
    assert (thin > 0.8).sum() >= 20


@pytest.mark.parametrize("size", [(640, 480), (1152, 648)])
def test_a_line_of_one_pixel_is_found(size):
    digit = predict.prepare(seven(size, pen=1, ink=0, paper=255))
    assert close(digit, predict.prepare(seven(size, pen=12)), 0.06)


def test_a_digit_at_the_border_is_used_where_there_is_no_other():
    page = Image.new("L", (200, 200), 255)
    draw = ImageDraw.Draw(page)
    draw.line([(60, 0), (60, 150)], fill=0, width=16)
    draw.rectangle((120, 100, 127, 107), fill=0)  # a speck that is not at the border
    assert extent(predict.prepare(page)) == (20, 2)


def test_specks_and_lines_at_the_border_are_left_out():
    page = seven()
    expected = predict.prepare(page)
    draw = ImageDraw.Draw(page)
    draw.rectangle((20, 200, 22, 202), fill=0)
    draw.line((0, 236, 299, 236), fill=60, width=5)
    assert close(predict.prepare(page), expected)


def test_noise_leaves_the_digit():
    page = np.asarray(seven(), np.float32)
    noisy = page + np.random.default_rng(0).normal(0, 12, page.shape)
    assert close(predict.prepare(np.clip(noisy, 0, 255).astype(np.uint8)), predict.prepare(page), 0.03)


# ------------------------------------------------------------------------------------------------
# Kinds of image
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "mode"), [("JPEG", "L"), ("PNG", "L"), ("PNG", "I;16"), ("WEBP", "RGBA")])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation, form, mode, tmp_path):
    """Pillow's own reading of the tag is the reference, and the picture as it was before the camera turned it."""
    upright = seven()
    if mode == "I;16":
        upright = Image.fromarray(np.asarray(upright, np.uint16) * 257)
    elif mode == "RGBA":
        upright = Image.merge("RGBA", [*[Image.new("L", upright.size, 0)] * 3, ImageOps.invert(upright)])
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # PIL's Transpose that undoes what the tag asks for
    stored = upright.transpose(Image.Transpose(turn[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo"
    stored.save(path, form, exif=exif, quality=95)
    with Image.open(path) as image:
        expected = predict.prepare(ImageOps.exif_transpose(image))
    assert close(predict.prepare(path), expected, 0.005)
    assert close(predict.prepare(path), predict.prepare(upright))


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_exif_that_is_damaged_hides_at_most_the_orientation(form, tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    content, path = exif.tobytes(), tmp_path / "photo"
    stored = seven().transpose(Image.Transpose.ROTATE_90)

    def prepared(block):
        stored.save(path, form, exif=block, quality=95)
        return predict.prepare(path)

    ascii_orientation = content.replace(b"\x01\x12\x00\x03", b"\x01\x12\x00\x02")
    for block in (content[:12], content.replace(b"MM", b"XX"), ascii_orientation):
        assert block != content
        assert close(prepared(block), predict.prepare(stored))
    exif[0x0112] = 9
    assert close(prepared(exif.tobytes()), predict.prepare(stored))
    # a resolution that is text: the orientation can be read, but exif_transpose fails
    block = content.replace(b"\x01\x1a\x00\x05", b"\x01\x1a\x00\x06")
    assert block != content
    assert close(prepared(block), predict.prepare(seven()))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.jpeg", "a.bmp", "a.gif", "a.webp", "a.ppm", "no-suffix"])
def test_files(name, tmp_path):
    path = tmp_path / name
    seven().save(path, format=None if path.suffix else "PNG")
    for one in (path, str(path)):
        assert close(predict.prepare(one), predict.prepare(seven()), 0.03)


@pytest.mark.parametrize(
    ("form", "mode", "options"),
    [
        ("PNG", "L", {}),
        ("PNG", "1", {}),
        ("PNG", "P", {}),
        ("PNG", "LA", {}),
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {}),
        ("JPEG", "L", {"quality": 95}),
        ("JPEG", "RGB", {"quality": 95}),
        ("JPEG", "CMYK", {"quality": 95}),
        ("BMP", "RGB", {}),
        ("GIF", "P", {}),
        ("WEBP", "RGB", {"lossless": True}),
    ],
)
def test_formats_and_modes(form, mode, options):
    image = seven().convert(mode)
    assert close(predict.prepare(saved(image, form, **options)), predict.prepare(seven()))


def test_floats():
    image = seven().convert("F")
    assert close(predict.prepare(image), predict.prepare(seven()))


def test_16_bits():
    deep = np.asarray(seven(), np.uint16) * 257
    for image in (deep, saved(Image.fromarray(deep), "PNG"), deep.astype(np.int32)):
        assert close(predict.prepare(image), predict.prepare(seven()), 1e-3)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_fewer_bits_in_16(bits):
    page = (np.asarray(seven(paper=255)) / 255 * (2**bits - 1)).astype(np.uint16)
    assert predict.read_image(page).max() == 1
    assert close(predict.prepare(page), predict.prepare(seven(paper=255)), 0.01)


def test_transparency_is_laid_onto_white(tmp_path):
    """Black ink on nothing: what is under the transparent pixels must not show."""
    ink = 255 - np.asarray(seven(paper=255, ink=0))
    rgba = np.zeros((*ink.shape, 4), np.uint8)  # black everywhere, transparent but for the ink
    rgba[..., 3] = ink
    expected = predict.prepare(seven(paper=255, ink=0))
    assert close(predict.prepare(Image.fromarray(rgba)), expected, 1e-3)
    assert close(predict.prepare(rgba), expected, 1e-3)
    for image in (rgba, Image.fromarray(rgba)):
        assert np.abs(predict.read_image(image) - (1 - ink / 255)).max() < 0.01
    palette = Image.fromarray(np.where(ink > 128, 0, 1).astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 10, 10, 10])
    palette.save(tmp_path / "a.gif", transparency=1)
    assert close(predict.prepare(tmp_path / "a.gif"), expected)


def test_arrays_and_tensors():
    grey = np.asarray(seven())
    expected = predict.prepare(seven())
    for array in (
        torch.from_numpy(grey / 255).bfloat16(),
        grey,
        grey / 255,
        (grey / 255).astype(np.float32),
        grey > 128,
        grey.astype(np.int64),
        grey[None],
        grey[..., None],
        np.stack([grey] * 3, axis=-1),
        torch.from_numpy(grey.copy()),
        torch.from_numpy(grey / 255)[None],
    ):
        assert close(predict.prepare(array), expected)


def test_colour_counts_as_the_eye_sees_it():
    page = np.full((120, 120, 3), 255, np.uint8)
    page[30:90, 50:70] = (40, 60, 220)  # a blue pen
    assert extent(predict.prepare(page)) == (20, 7)


# ------------------------------------------------------------------------------------------------
# What is refused
# ------------------------------------------------------------------------------------------------


def refused(image, error=predict.ImageError):
    with pytest.raises(error) as caught:
        predict.prepare(image)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_that_are_not_images(tmp_path):
    path = tmp_path / "a.png"
    assert "There is no image" in refused(path, FileNotFoundError)
    assert "is a folder" in refused(tmp_path, IsADirectoryError)
    path.write_bytes(b"")
    assert "is empty: it has no bytes" in refused(path)
    path.write_text("not an image")
    assert "not an image that can be read: use PNG" in refused(str(path))
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")  # PIL would call Ghostscript
    assert "not an image that can be read" in refused(path)
    seven().save(path)
    path.write_bytes(path.read_bytes()[:200])
    assert "is damaged" in refused(path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert "is a device or a pipe, not an image file" in refused(tmp_path / "pipe")


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_blank_page(value):
    page = np.full((200, 300), value, np.float32)
    assert "blank" in refused((page / 255).astype(np.float32))
    y, x = np.mgrid[-1:1:200j, -1:1:300j]
    uneven = page + 12 * x + 8 * y + np.random.default_rng(0).normal(0, 5, page.shape)
    assert "blank" in refused(np.clip(uneven, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("side", [9_000, 100_000])  # the latter is beyond PIL's own limit, too
def test_too_large_is_refused_before_it_is_decoded(side, tmp_path):
    """A PNG of 100,000×100,000 pixels in a few bytes would take 10 GB."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    start = time.perf_counter()
    assert "too large: at most 64 megapixels" in refused(path)
    assert time.perf_counter() - start < 1
    assert "too large" in refused(np.broadcast_to(np.uint8(0), (9000, 9000)))


def test_a_large_photograph_is_used(tmp_path):
    path = tmp_path / "large.jpg"
    seven((3000, 2400), pen=140).save(path)
    assert close(predict.prepare(path), predict.prepare(seven()))


def test_a_callers_image_stays_as_it_is(tmp_path):
    seven((1600, 1200), pen=80).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        expected = predict.prepare(tmp_path / "a.jpg")
        assert close(predict.prepare(image), expected)
        assert image.size == (1600, 1200)
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with Image.open(tmp_path / "a.jpg") as image:
        assert "The image is damaged" in refused(image)


def test_messages_name_the_image(tmp_path):
    Image.new("L", (90, 90), 255).save(tmp_path / "white page.png")
    assert refused(tmp_path / "white page.png").startswith(f"{tmp_path / 'white page.png'} is blank: no digit")


def test_an_answer_that_is_not_a_number():
    model = models.create_model()
    model.layers[0].bias.data[:] = torch.nan
    with pytest.raises(ValueError, match="not a number: its weights are damaged"):
        predict.predict(model, seven())


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 5)), "is empty"),
        (np.full((28, 28), np.nan), "not finite"),
        (np.zeros((28, 28, 2)), r"shape (28, 28, 2) is not an image"),
        (np.zeros(28), r"shape (28,) is not an image"),
        (np.full((28, 28), -1), "values from -1 to -1"),
        (np.full((28, 28), 300.0), "values from 300.0 to 300.0"),
        (np.zeros((2, 2)), "too small"),
        ({"a": 1}, "not dict"),
        ([[1, 2], [3]], "rows differ in length"),
        (Image.new("L", (0, 5)), "empty"),
    ],
)
def test_arrays_that_are_not_images(array, message):
    assert message in refused(array)


# ------------------------------------------------------------------------------------------------
# predict
# ------------------------------------------------------------------------------------------------


def test_predict_gives_the_models_probabilities_and_what_it_saw():
    model = models.create_model(dropout=0.5).train()
    probabilities, digit = predict.predict(model, seven())
    assert torch.equal(digit, predict.prepare(seven()))
    images = (digit.view(1, 1, 28, 28) - utils.MEAN) / utils.STD
    assert torch.allclose(probabilities, model.eval()(images)[0].exp())
    assert probabilities.shape == (10,)
    assert probabilities.sum().item() == pytest.approx(1)
    other, _ = predict.predict(model, seven(), mean=0.5, std=0.5)
    assert torch.allclose(other, model((digit.view(1, 1, 28, 28) - 0.5) / 0.5)[0].exp())


def test_each_module_keeps_its_mode():
    model = models.create_model(batch_norm=True, dropout=0.5).train()
    frozen = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d))
    frozen.eval()
    before = [module.training for module in model.modules()]
    assert sorted(set(before)) == [False, True]
    predict.predict(model, seven())
    assert [module.training for module in model.modules()] == before
    model.forward = None  # an error must not leave it in eval mode
    with pytest.raises(TypeError):
        predict.predict(model, seven())
    assert [module.training for module in model.modules()] == before


def test_what_comes_back_may_be_used_in_training():
    model = models.create_model()
    probabilities, digit = predict.predict(model, seven())
    assert not probabilities.requires_grad
    model(digit.view(1, 1, 28, 28)).sum().backward()  # an inference tensor would raise here
    assert model.layers[0].weight.grad.abs().sum() > 0


def test_it_normalises_as_the_model_was_trained():
    model = models.create_model()
    model.normalisation = (0.5, 0.25)
    images = (predict.prepare(seven()).view(1, 1, 28, 28) - 0.5) / 0.25
    assert torch.allclose(predict.predict(model, seven())[0], model.eval()(images)[0].exp())


def test_photos_of_embedded_digits_are_read(digits):
    """The benchmark's photographs, and a network trained for a few seconds."""
    train_loader, _ = digits
    model = models.CNN()
    optimizer = utils.get_optimizer(model, "AdamW", 0.002)
    for _ in range(2):
        utils.train(model, "cpu", train_loader, optimizer, utils.get_loss())
    result = infer.photos(model, dataset.load_dataset("test", "digits"), 24)
    assert result["accuracy"] >= 50  # chance is 10
    assert len(result["wrong"]) == round(24 * (1 - result["accuracy"] / 100))


def test_an_array_and_an_image_have_the_same_greys():
    colours = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    by_pil = np.asarray(Image.fromarray(colours).convert("L"), np.float32) / 255  # rounded to 1 / 255
    np.testing.assert_allclose(predict.read_image(colours), by_pil, atol=0.51 / 255)
