"""One digit's ink told from paper: each hard picture gives nearly what the same digit gives on plain paper."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

import dataset
import ink
import predict

HEIGHT, WIDTH = 240, 200  # of a page
PAPER, BLACK = 0.92, 0.1
Y, X = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]


@pytest.fixture(scope="module")
def embedded():
    """Ten of the embedded digits, one of each, `(10, 28, 28)` in [0, 1]."""
    data = dataset.load_dataset("test", "digits")
    rows = [(data.labels == digit).nonzero()[0, 0].item() for digit in range(10)]
    return data.images[rows].numpy().astype(np.float32) / 255


def box_of(mask):
    """(left, top, right, bottom) of what is True."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def cropped(image, width=16, height=16):
    """What is ink of an image, stretched to this size."""
    found = Image.fromarray(image).crop(box_of(image > 0.3)).resize((width, height), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(found), 0, 1)


def drawn(digit, pen=9):
    """A digit written with a pen of so many pixels: ink `(140, 100)` in [0, 1]."""
    image = Image.new("L", (100, 140))
    draw = ImageDraw.Draw(image)
    lines = {1: [(50, 5), (50, 135)], 4: [(65, 5), (10, 90), (95, 90)], 7: [(8, 8), (92, 8), (40, 135)]}
    if digit == 0:
        draw.ellipse((8, 8, 92, 132), outline=255, width=pen)
    else:
        draw.line(lines[digit], fill=255, width=pen, joint="curve")
    if digit == 4:
        draw.line([(70, 60), (70, 138)], fill=255, width=pen)
    return ndimage.gaussian_filter(np.asarray(image, np.float32) / 255, 0.7)


def on_paper(digit, top=50, left=50, paper=PAPER, black=BLACK):
    """A page with the digit on it."""
    there = np.zeros((HEIGHT, WIDTH), np.float32)
    there[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return np.float32(paper + (black - paper) * there)


def photographed(page, light=1.0):
    """The page under this light, with a little noise."""
    noise = np.random.default_rng(0).normal(0, 0.012, page.shape)
    return np.clip(page * (0.85 + 0.1 * X - 0.06 * Y) * light + noise, 0, 1).astype(np.float32)


def apart(page, other):
    """The mean difference of the 28×28 pixels that two pictures give, which may lie a pixel apart."""
    one, two = (predict.prepare(picture).numpy() for picture in (page, other))
    steps = (-1, 0, 1)
    return min(abs(np.roll(one, (down, right), (0, 1)) - two).mean() for down in steps for right in steps)


# ------------------------------------------------------------------------------------------------
# Tight crops, small pictures and faint ink
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize(("kind", "within"), [("black and white", 0.03), ("grey", 0.06), ("thick", 0.01)])
def test_a_tight_crop_is_as_one_with_a_margin(embedded, kind, within, invert):
    """Half of such a picture's rim may be ink, and with a thick pen most of the picture."""
    for image in embedded:
        crop = cropped(image)
        if kind != "grey":
            crop = (crop > 0.5).astype(np.float32)
        if kind == "thick":
            crop = ndimage.grey_dilation(crop, footprint=[[0, 1, 0], [1, 1, 1], [0, 1, 0]])
        page, paper = (crop, 0) if invert else (1 - crop, 1)
        assert apart(page, np.pad(page, 6, constant_values=paper)) < within


@pytest.mark.parametrize("digit", [0, 1, 4, 7])
def test_the_faintest_line_on_even_paper_is_ink(digit):
    for turned in (lambda page: page, lambda page: 1 - page):
        page = on_paper(drawn(digit), paper=235 / 255, black=225 / 255)
        assert apart(turned(page), on_paper(drawn(digit))) < 0.005


def test_noise_as_strong_on_uneven_paper_is_none():
    generator = np.random.default_rng(0)
    for _ in range(5):
        grain = ndimage.gaussian_filter(generator.normal(size=Y.shape), 8)
        paper = 0.75 + 0.1 * X - 0.08 * Y + 3 / 255 * grain / grain.std()
        page = paper + generator.uniform(-5 / 255, 5 / 255, Y.shape)
        assert ink.digit_ink(np.float32(page)) is None


def test_a_line_of_one_pixel_gets_about_the_width_of_mnists():
    page = np.ones((28, 28), np.float32)
    page[6:22, 10] = page[21, 10:20] = 0  # 16 and 10 pixels long; enlarged to 20
    width = predict.prepare(page).sum() / (26 * 20 / 16)
    assert 1.5 < width < 3
    thick = np.ones((28, 28), np.float32)
    thick[6:22, 10:12] = thick[20:22, 10:20] = 0
    assert apart(page, thick) < 0.03


# ------------------------------------------------------------------------------------------------
# Lines and boxes
# ------------------------------------------------------------------------------------------------


def lined(page, kind, degrees):
    """The page in a printed box, at its rim or within it, or on ruled or squared paper; all turned."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    turn = np.radians(degrees)
    down, across = ((y - HEIGHT / 2) * np.cos(turn) - (x - WIDTH / 2) * np.sin(turn),
                    (x - WIDTH / 2) * np.cos(turn) + (y - HEIGHT / 2) * np.sin(turn))  # fmt: skip
    beyond = np.maximum(abs(down) - HEIGHT / 2, abs(across) - WIDTH / 2) + (0 if kind == "box at the rim" else 14)
    lines = {
        "box": (beyond > -3) & (beyond <= 0),
        "box at the rim": beyond > -4,
        "ruled": (down + 25) % 60 < 2,
        "squared": ((down + 25) % 60 < 2) | ((across + 20) % 60 < 2),
    }[kind]
    grey = 0.35 if kind in ("box", "ruled") else 0.5
    return np.minimum(page, np.where(lines, grey, 1)).astype(np.float32)


@pytest.mark.parametrize("degrees", [0, 2])
@pytest.mark.parametrize("kind", ["box", "box at the rim", "ruled", "squared"])
def test_lines_are_left_out_and_the_strokes_across_them_kept(kind, degrees):
    for digit in (0, 1, 4, 7):
        page = on_paper(drawn(digit))
        for picture in (lined(page, kind, degrees), 1 - lined(page, kind, degrees)):
            assert apart(picture, page) < 0.03  # without its lines taken out 0.1 to 0.3


@pytest.mark.parametrize("degrees", [0, 3])
def test_a_large_one_from_rim_to_rim_is_no_line(degrees):
    for shape, pen in (((240, 200), 10), ((240, 120), 5), ((100, 400), 4)):  # the last: across the short side
        page = np.full(shape, PAPER, np.float32)
        y, x = np.mgrid[: shape[0], : shape[1]]
        page[abs(x - shape[1] / 2 + (y - shape[0] / 2) * np.tan(np.radians(degrees))) <= pen / 2] = BLACK
        left, top, right, bottom = ink.digit_ink(page)[2]
        assert bottom - top > 0.9 * shape[0]
        assert right - left < pen + 0.06 * shape[0] + 3


def test_a_stroke_across_the_short_side_is_kept_with_the_rest():
    page = np.full((100, 400), PAPER, np.float32)
    page[:, 200:204] = page[40:44, 120:204] = BLACK  # a wide 4, in part
    assert np.abs(np.subtract(ink.digit_ink(page)[2], (120, 0, 204, 100))).max() <= 2


# ------------------------------------------------------------------------------------------------
# Light
# ------------------------------------------------------------------------------------------------

LIGHTS = {
    "dark edge on the right": np.where(X > 0.88, 0.3, 1),
    "dark edge below": np.where(Y > 0.9, 0.3, 1),
    "lamp": 0.6 + 0.4 * np.exp(-((X + 0.3) ** 2 + (Y + 0.2) ** 2) / 0.2),
    "a soft shadow's edge": 1 - 0.4 / (1 + np.exp(-(X + 0.6 * Y) / 0.05)),
    "a shadow in the corner": 1 - 0.5 / (1 + np.exp(-(X + 0.6 * Y - 1) / 0.05)),
}


@pytest.mark.parametrize("light", LIGHTS)
def test_light_is_no_ink(light):
    for digit in (0, 1, 7):
        page = on_paper(drawn(digit, pen=12))
        assert apart(photographed(page, LIGHTS[light]), page) < 0.02


# ------------------------------------------------------------------------------------------------
# Box
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digit", [0, 1, 4, 7])
def test_the_box_is_the_digits(digit):
    digit = drawn(digit)
    left, top, right, bottom = box_of(digit > 0.5)
    found, mask, box = ink.digit_ink(on_paper(digit, top=20, left=70))
    assert np.abs(np.subtract(box, (70 + left, 20 + top, 70 + right, 20 + bottom))).max() <= 1
    assert found.shape == mask.shape == (box[3] - box[1], box[2] - box[0])
    assert (found[mask] > 0).all()


def test_the_box_is_in_pixels_of_a_small_picture(embedded):
    for image in embedded:
        for picture in (image, 1 - image):
            assert np.abs(np.subtract(ink.digit_ink(picture)[2], box_of(image > 0.4))).max() <= 1.5


def test_the_box_of_a_tight_crop_is_the_whole(embedded):
    for image in embedded:
        crop = (cropped(image, 20, 40) > 0.5).astype(np.float32)
        left, top, right, bottom = box_of(crop > 0.5)
        crop = crop[top:bottom, left:right]
        assert np.abs(np.subtract(ink.digit_ink(1 - crop)[2], (0, 0, *crop.shape[::-1]))).max() <= 0.5
        assert np.abs(np.subtract(ink.digit_ink(np.pad(crop, (9, 3)))[2], np.add(box_of(crop > 0), 9))).max() <= 1


def test_a_blurred_digit_stays_whole(embedded):
    """The embedded digits, of 8×8 pixels, are without sharp edges, but no shadows."""
    data = dataset.load_dataset("test", "digits")
    for image in data.images[[26, 76, 105, 108, 110, 122, 179, 246]]:  # with thick places between thin ones
        mask = ink.digit_ink(image.numpy().astype(np.float32) / 255)[1]
        assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
