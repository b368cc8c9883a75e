"""A page of digits → each apart, in reading order; two digits where one was asked for; the page's figure."""

import contextlib

import numpy as np
import page
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

import dataset
import images
import model as models
import novelty
import pages
import plots
import predict


def printed(text, places, size=60, shape=(500, 700), paper=235, ink=30):
    """A page with a character of `text` at each of `places` (left, top), and their boxes."""
    image = Image.new("L", shape[::-1], paper)
    draw, font, boxes = ImageDraw.Draw(image), ImageFont.load_default(size), []
    for character, place in zip(text, places, strict=True):
        draw.text(place, character, fill=ink, font=font)
        alone = Image.new("L", image.size)
        ImageDraw.Draw(alone).text(place, character, fill=255, font=font)
        boxes.append(alone.point(lambda value: 255 * (value > 100)).getbbox())
    return image, boxes


def grid(rows, columns, across=90, down=110, slant=0.0):
    """Places in reading order; each is `slant` times its x lower."""
    return [(60 + across * i, 40 + down * j + slant * across * i) for j in range(rows) for i in range(columns)]


def found(image, **options):
    return pages.find_digits(images.read_image(image, pages.READING_SIZE), **options)


def agree(digits, boxes, within=3):
    """The same boxes in the same order, within so many pixels."""
    assert len(digits) == len(boxes)
    difference = np.array([each.box for each in digits]) - np.array(boxes)
    assert abs(difference).max() <= within


DIGITS = "314159265358"


@pytest.mark.parametrize("invert", [False, True])
def test_rows_in_reading_order(invert):
    page, boxes = printed(DIGITS, grid(3, 4))
    page = Image.fromarray(255 - np.asarray(page)) if invert else page
    digits = found(page)
    agree(digits, boxes)
    assert [each.line for each in digits] == [0] * 4 + [1] * 4 + [2] * 4
    for each in digits:
        left, top, right, bottom = each.box
        assert each.ink.shape == each.mask.shape == (bottom - top, right - left)
        assert each.ink.dtype == np.float32
        assert each.mask.dtype == bool
        assert each.ink[each.mask].min() > 0
        assert each.mask.any(axis=0).all()


@pytest.mark.parametrize("degrees", [-8, 8])
def test_slanted_lines_of_writing(degrees):
    """Over the page's width a line falls, or rises, by more than its height."""
    slant = np.tan(np.radians(degrees))
    page, boxes = printed("0123456" * 3, [(x, y + max(0, -slant * 650)) for x, y in grid(3, 7, down=100, slant=slant)])
    digits = found(page)
    agree(digits, boxes)
    assert [each.line for each in digits] == [0] * 7 + [1] * 7 + [2] * 7


def test_digits_of_two_sizes():
    small, boxes = printed("1807", grid(1, 4), size=40)
    page, more = printed("52", [(60, 200), (160, 200)], size=80)
    page = Image.fromarray(np.minimum(np.asarray(page), np.asarray(small)))
    agree(found(page), boxes + more)


def test_uneven_light_and_noise():
    page, boxes = printed(DIGITS, grid(3, 4))
    y, x = np.mgrid[-1:1:500j, -1:1:700j]
    light = 0.75 + 0.2 * x - 0.15 * np.exp(-((x - 0.3) ** 2 + y**2) / 0.3)
    photo = np.asarray(page) / 255 * light + np.random.default_rng(0).normal(0, 0.02, x.shape)
    agree(found(np.clip(photo, 0, 1).astype(np.float32)), boxes)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("degrees", [0, 3])
def test_ruled_paper(squared, degrees):
    page, boxes = printed(DIGITS, grid(3, 4))
    y, x = np.mgrid[:500, :700]
    turn = np.radians(degrees)
    down, across = y * np.cos(turn) - x * np.sin(turn), x * np.cos(turn) + y * np.sin(turn)
    lines = (down % 45 < 2) | (squared & (across % 45 < 2))
    ruled = np.minimum(np.asarray(page), np.where(lines, 170, 255)).astype(np.uint8)
    agree(found(ruled), boxes, within=5)
    assert found(np.where(lines, 170, 235).astype(np.uint8)) == []


def test_a_row_of_ones_is_no_ruling():
    page = Image.new("L", (700, 500), 235)
    draw = ImageDraw.Draw(page)
    for i, left in enumerate((100, 250)):
        draw.rectangle((left, 60, left + 8, 420), fill=20)
        assert len(found(page)) == i + 1


def test_specks_and_dashes_are_left_out():
    page, boxes = printed(DIGITS, grid(3, 4))
    draw = ImageDraw.Draw(page)
    for y in range(10, 490, 30):
        draw.rectangle((12, y, 14, y + 2), fill=30)
        draw.rectangle((480 + y % 7, y, 484 + y % 7, y + 5), fill=30)
    draw.rectangle((600, 80, 625, 85), fill=30)
    agree(found(page), boxes)


def test_a_bar_apart_belongs_to_its_digit():
    page, boxes = printed("555", grid(1, 3, across=130), size=100)
    pixels = np.array(page)
    left, top, right, _ = boxes[1]
    pixels[top + 16 : top + 20, left - 2 : right + 2] = 235  # below the bar
    assert len(found(pixels)) == 3
    agree(found(pixels), boxes)


def test_hundreds_of_digits():
    page = Image.new("L", (1300, 1300), 235)
    row, _ = printed("0123456789" * 2, [(60 + 60 * i, 5) for i in range(20)], size=36, shape=(60, 1300))
    for i in range(20):
        page.paste(row, (0, 60 * i + 20))
    assert len(found(page)) == 400


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_blank_page(value):
    blank = np.full((500, 700), value, np.float32)
    noise = np.random.default_rng(0).normal(0, 5, blank.shape)
    assert found((blank / 255).astype(np.float32)) == []
    assert found(np.clip(blank + noise, 0, 255).astype(np.uint8)) == []


def test_touching_digits_are_cut_where_the_pieces_are_surer():
    page, boxes = printed("8080", [(60, 40), (90, 40), (300, 40), (420, 40)])
    assert len(found(page)) == 3
    narrow = found(page, score=lambda digits: [0.99 if each.mask.shape[1] < 34 else 0.3 for each in digits])
    agree(narrow, boxes, within=4)
    assert len(found(page, score=lambda digits: [0.9] * len(digits))) == 4  # far wider than high
    assert len(found(page, score=lambda digits: [0.3 if each.mask.shape[1] < 34 else 1 for each in digits])) == 3


# ------------------------------------------------------------------------------------------------
# One or several
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("places", [[(60, 40), (110, 40)], [(60, 40), (60, 100)]])
def test_two_digits_are_not_taken_for_one(places, tmp_path):
    page, _ = printed("85", places, shape=(200, 200))
    page.save(tmp_path / "pair.png")
    for image, name in ((page, "The image"), (tmp_path / "pair.png", str(tmp_path / "pair.png"))):
        with pytest.raises(images.ImageError) as caught:
            predict.predict(models.create_model(), image)
        assert str(caught.value) == f"{name} holds 2 digits, and one was asked for: use predict_all, or --all."


def test_strokes_apart_are_one_digit():
    mask = np.zeros((100, 70), bool)
    mask[:50, :8] = mask[42:50, :60] = True  # a 4 whose second stroke does not meet the first
    mask[30:, 64:] = True
    assert ndimage.label(mask)[1] == 2
    assert pages.several(mask) == 1
    bar = np.zeros((100, 70), bool)
    bar[20:, 5:50] = bar[:10, 20:] = True
    assert pages.several(bar) == 1
    pair = np.zeros((100, 120), bool)
    pair[:, :40] = pair[20:, 60:70] = pair[30:, 90:] = True
    assert pages.several(pair) == 3


# ------------------------------------------------------------------------------------------------
# predict_all
# ------------------------------------------------------------------------------------------------


def test_predict_all_gives_what_predict_gives_for_each(tmp_path):
    model = models.create_model(dropout=0.5).train()
    page, boxes = printed("314", grid(1, 3))
    readings = predict.predict_all(model, page)
    assert model.training
    assert len(readings) == 3
    for reading, (left, top, right, bottom) in zip(readings, boxes, strict=True):
        alone = page.crop((left - 20, top - 20, right + 20, bottom + 20))
        probabilities, image = predict.predict(model, alone)
        assert reading.image.shape == (28, 28)
        assert (reading.image - image).abs().mean() < 0.05  # the two tell ink from paper in their own ways
        assert torch.allclose(reading.probabilities, probabilities, atol=0.02)
        assert reading.digit == reading.probabilities.argmax()
        assert reading.probability == reading.probabilities.max()
    model.normalisation = (0.5, 0.5)
    answer = model.eval()((readings[0].image.view(1, 1, 28, 28) - 0.5) / 0.5)[0].exp()
    assert torch.allclose(predict.predict_all(model, page)[0].probabilities, answer, atol=1e-6)


def test_boxes_are_of_the_upright_image_in_full_size(tmp_path):
    page, boxes = printed("314", [(3 * x, 3 * y) for x, y in grid(1, 3)], size=180, shape=(700, 1900))
    exif = Image.Exif()
    exif[0x0112] = 6
    page.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "page.jpg", exif=exif)
    model = models.create_model()
    for image in (tmp_path / "page.jpg", Image.open(tmp_path / "page.jpg"), np.asarray(page)):
        agree(predict.predict_all(model, image), boxes, within=6)


def tight_crops(rows):
    """Embedded digits in black and white, cropped to their ink: as they are, and nine times as large."""
    data = dataset.load_dataset("test", "digits")
    for row in rows:
        box = Image.fromarray(data.images[row].numpy()).point(lambda value: 255 * (value > 128)).getbbox()
        crop = np.asarray(Image.fromarray(data.images[row].numpy()).crop(box)) <= 128
        yield from (crop, np.kron(crop, np.ones((9, 9), bool)))


def one_reading(image):
    model = models.create_model()
    (reading,) = predict.predict_all(model, image)
    probabilities, seen = predict.predict(model, image)
    assert reading.box == (0, 0, image.shape[1], image.shape[0])
    assert torch.equal(reading.image, seen)
    assert torch.equal(reading.probabilities, probabilities)
    assert reading.line == 0


def test_a_single_digit_may_fill_the_picture():
    for image in tight_crops([0, 1, 2, 3, 5, 6, 7, 8, 9]):  # black and white, the fifth falls into pieces
        one_reading(image)


def test_a_picture_of_any_shape_and_content_is_read_or_refused():
    generator, model = np.random.default_rng(0), models.create_model()
    for i in range(60):
        height, width = generator.integers(4, 20 if i % 3 else 300), generator.integers(4, 300)
        page = generator.random((height, width))
        if i % 2:
            page = np.where(page > 0.9, 1.0, 0.0)
        for read in (predict.prepare, lambda image: predict.predict_all(model, image)):
            with contextlib.suppress(predict.ImageError):
                read(page if i % 4 < 2 else page.T)


def test_each_reading_says_whether_it_is_a_digit():
    model, (page, _) = models.create_model(), printed("3141", grid(1, 4))
    assert [reading.is_digit for reading in predict.predict_all(model, page)] == [True] * 4  # there is no rule
    seen = torch.stack([reading.image for reading in predict.predict_all(model, page)])
    width = novelty.features(model, seen).shape[1]
    weight = torch.randn(32, width, generator=torch.Generator().manual_seed(0))
    model.novelty = {
        "weight": weight,
        "bias": torch.ones(32),
        "out": torch.ones(32),
        "threshold": 0.0,
        "temperature": 1.0,
    }
    scores = novelty.novelty_scores(model, seen)
    model.novelty["threshold"] = scores.sort()[0][1:3].mean().item()
    known = [reading.is_digit for reading in predict.predict_all(model, page)]
    assert known == (scores <= model.novelty["threshold"]).tolist()
    assert known.count(True) == 2


def test_what_predict_all_refuses():
    with pytest.raises(images.ImageError, match=r"^The image is blank: no digit stands out"):
        predict.predict_all(models.create_model(), np.full((100, 100), 0.5))
    model = models.create_model()
    model.layers[0].bias.data[:] = torch.nan
    with pytest.raises(ValueError, match="not a number"):
        predict.predict_all(model, printed("314", grid(1, 3))[0])


# ------------------------------------------------------------------------------------------------
# The benchmark and the figure
# ------------------------------------------------------------------------------------------------


def test_the_benchmarks_pages_and_its_count():
    data = dataset.load_dataset("test", "digits")
    results = page.measure(models.create_model(), data, 2)["kinds"]["all"]
    assert results["found"] >= 0.9 * results["digits"] > 0
    reading = predict.Reading(1, 1.0, None, None, (0, 0, 10, 10), 0, True)
    right = [reading._replace(digit=d, box=(20 * i, 0, 20 * i + 10, 10)) for i, d in enumerate((1, 2, 3))]
    boxes = [each.box for each in right]
    assert page.compare(right, [1, 2, 3], boxes) == {"digits": 3, "found": 3, "read": 3, "false": 0}
    assert page.compare(right[::-1], [1, 2, 3], boxes)["read"] == 1
    assert page.compare(right[:2], [1, 7, 3], boxes) == {"digits": 3, "found": 2, "read": 1, "false": 0}
    far = [reading._replace(box=(0, 6, 10, 16))]
    assert page.compare(far, [1], [(0, 0, 10, 10)]) == {"digits": 1, "found": 0, "read": 0, "false": 1}
    assert page.compare([far[0]._replace(is_digit=False)], [1], [(0, 0, 10, 10)])["false"] == 0


def test_the_figure_names_each_digit_at_its_box():
    image, _ = printed("314", grid(1, 3))
    readings = predict.predict_all(models.create_model(), image)
    figure = plots.post_boxes(image, readings)
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.texts] == [f"{r.digit}\n{100 * r.probability:.0f} %" for r in readings]
    for patch, text, reading in zip(ax.patches, ax.texts, readings, strict=True):
        left, top, right, bottom = reading.box
        assert (*patch.get_xy(), patch.get_width(), patch.get_height()) == (left, top, right - left, bottom - top)
        assert left <= text.get_position()[0] <= right
        assert text.get_position()[1] <= top
