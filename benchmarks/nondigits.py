"""Pictures of what is no digit: how many are called so, and how many digits wrongly are.

    python benchmarks/nondigits.py [--checkpoint FILE] [--digits FOLDER] [--sheet FILE.png]

Draws pictures of many kinds by a fixed seed: letters, symbols, scribbles, shapes, textures, photograph-like things.
Each goes through `predict`; by kind, how many were refused by `prepare`, called no digit by `novelty`, and answered,
with the median and the 90 % quantile of the answers' probability. Then real digits: MNIST's test set, simulated
photographs of it, and the images of FOLDER (see `handwriting.py` for its labels.csv), by source. Letters of a digit's
shape (O, l, S, Z, B, b, g, q) are left out; turned digits and halves of digits, some of which are digits, and
Greek letters and symbols that look like one are counted apart. The network is what `torchnn.py --train` has left in
checkpoints/, and the figures are kept in benchmarks/results/nondigits.json, unless another checkpoint is given.
"""

import argparse
import csv
import io
import sys
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import infer  # noqa: E402

import dataset  # noqa: E402
import novelty  # noqa: E402
import predict  # noqa: E402

SEED, EACH, PHOTOS = 0, 50, 500
CANVAS = 300  # pixels; shapes are drawn on it in coordinates from 0 to 1, then scaled to the page
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
LETTERS = "ACDEFGHJKLMNPQRTUVWXYacdefhijkmnprtuvwxy"  # without B I O S Z b g l o q s z
GREEK = "αγεηκλμνξπτφχψωΓΔΛΞΠΣΦΨΩ"
SYMBOLS = "&@#%+=?*€£∑∫√∞←→↑↔∇∈∀∃≠±÷~^<>{}[]♥♦♣♠★♪©"
ALIKE = "OoQIilSsZzBbgqβδθΘσρ$!|/"
# Letters as a hand writes them: strokes through points (x, y), x to the right, y down, from 0 to 1.
HAND = {
    "A": [[(0, 1), (0.5, 0), (1, 1)], [(0.2, 0.6), (0.8, 0.6)]],
    "E": [[(1, 0), (0, 0), (0, 1), (1, 1)], [(0, 0.5), (0.8, 0.5)]],
    "F": [[(1, 0), (0, 0), (0, 1)], [(0, 0.5), (0.7, 0.5)]],
    "H": [[(0, 0), (0, 1)], [(1, 0), (1, 1)], [(0, 0.5), (1, 0.5)]],
    "K": [[(0, 0), (0, 1)], [(1, 0), (0, 0.55), (1, 1)]],
    "L": [[(0, 0), (0, 1), (0.8, 1)]],
    "M": [[(0, 1), (0.1, 0), (0.5, 0.7), (0.9, 0), (1, 1)]],
    "N": [[(0, 1), (0, 0), (1, 1), (1, 0)]],
    "P": [[(0, 1), (0, 0), (0.7, 0.05), (0.8, 0.3), (0.6, 0.5), (0, 0.55)]],
    "R": [[(0, 1), (0, 0), (0.7, 0.05), (0.8, 0.25), (0.6, 0.45), (0, 0.5), (0.9, 1)]],
    "T": [[(0, 0), (1, 0)], [(0.5, 0), (0.5, 1)]],
    "V": [[(0, 0), (0.5, 1), (1, 0)]],
    "W": [[(0, 0), (0.25, 1), (0.5, 0.3), (0.75, 1), (1, 0)]],
    "X": [[(0, 0), (1, 1)], [(1, 0), (0, 1)]],
    "Y": [[(0, 0), (0.5, 0.5), (1, 0)], [(0.5, 0.5), (0.5, 1)]],
    "m": [[(0, 1), (0, 0.4), (0.3, 0.4), (0.45, 0.5), (0.5, 1)], [(0.5, 0.5), (0.8, 0.4), (1, 0.55), (1, 1)]],
    "w": [[(0, 0.4), (0.2, 1), (0.5, 0.5), (0.8, 1), (1, 0.4)]],
    "x": [[(0, 0.3), (0.8, 1)], [(0.8, 0.3), (0, 1)]],
    "k": [[(0, 0), (0, 1)], [(0.6, 0.4), (0, 0.7), (0.7, 1)]],
    "f": [[(0.8, 0.1), (0.5, 0), (0.35, 0.2), (0.35, 1)], [(0.05, 0.4), (0.7, 0.4)]],
    "n": [[(0, 0.4), (0, 1)], [(0, 0.6), (0.35, 0.4), (0.6, 0.55), (0.6, 1)]],
    "u": [[(0, 0.4), (0, 0.8), (0.3, 1), (0.6, 0.85), (0.6, 0.4), (0.6, 1)]],
}  # fmt: skip


# ------------------------------------------------------------------------------------------------
# Ink, paper and what is drawn with them
# ------------------------------------------------------------------------------------------------


def page(ink, dice):
    """Ink `(H, W)` in [0, 1] → a grey page uint8, 100 to 600 pixels a side: paper under a lamp, or a flat screen."""
    size = dice.integers(100, 601, 2)
    side = int(dice.uniform(0.5, 0.9) * size.min())
    drawn = np.asarray(Image.fromarray(ink.astype(np.float32)).resize((side, side), Image.Resampling.BOX))
    top, left = (dice.integers(0, room - side + 1) for room in size)
    whole = np.zeros(size, np.float32)
    whole[top : top + side, left : left + side] = drawn
    y, x = np.mgrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j]
    photographed = dice.random() < 0.6
    slope = dice.uniform(-0.1, 0.1, 2) * photographed
    paper = dice.uniform(0.7, 1) + slope[0] * x + slope[1] * y
    pixels = paper * (1 - whole * dice.uniform(0.7, 1)) + photographed * 0.02 * dice.standard_normal(size)
    pixels = ndimage.gaussian_filter(pixels, photographed * dice.uniform(0.3, 1) * size.max() / 400)
    return _grey(pixels if dice.random() < 0.8 else 1 - pixels)


def _grey(pixels):
    return (255 * np.clip(pixels, 0, 1)).astype(np.uint8)


def bent(ink, dice, amount=1.0):
    """Sheared, turned by up to 8° and displaced smoothly, as by a hand (Simard et al. 2003)."""
    height, width = ink.shape
    angle, shear = np.deg2rad(dice.uniform(-8, 8)) * amount, dice.uniform(-0.2, 0.2) * amount
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle) + shear, np.cos(angle)]])
    where = np.moveaxis(np.mgrid[:height, :width], 0, -1) - [height / 2, width / 2]
    push = ndimage.gaussian_filter(dice.standard_normal((2, height, width)), (0, height / 12, width / 12))
    push *= amount * 0.02 * height / push.std()
    where = np.moveaxis(where @ matrix.T, -1, 0) + push + np.array([height / 2, width / 2])[:, None, None]
    return ndimage.map_coordinates(ink, where, order=1)


def canvas():
    image = Image.new("L", (CANVAS, CANVAS))
    return image, ImageDraw.Draw(image)


def ink_of(image):
    return np.asarray(image, np.float32) / 255


def line(draw, points, pen):
    """A stroke through points `(n, 2)` in [0, 1], round at its ends and corners."""
    points = [tuple(CANVAS * np.asarray(p, float)) for p in points]
    draw.line(points, 255, pen, joint="curve")
    for x, y in points:
        draw.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), 255)


def pen_width(dice):
    return int(dice.integers(8, 26))


def font(dice, letter):
    """One of matplotlib's fonts that has the letter, at 170 pixels."""
    names = ["DejaVuSans", "DejaVuSerif", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSans-Bold"]
    names += ["STIXGeneral", "STIXGeneralItalic", "STIXGeneralBol", "cmr10", "cmss10", "cmti10", "cmtt10"]
    if not letter.isascii():
        names = names[:6]
    while True:
        found = ImageFont.truetype(str(FONTS / f"{names[dice.integers(len(names))]}.ttf"), 170)
        if found.getmask(letter).getbbox() and bytes(found.getmask(letter)) != bytes(found.getmask("\uffff")):
            return found


def printed(choices, dice):
    """A letter of a font, a little thicker or thinner, bent as by a hand."""
    letter = choices[dice.integers(len(choices))]
    image, draw = canvas()
    draw.text((CANVAS / 2, CANVAS / 2), letter, 255, font(dice, letter), anchor="mm", stroke_width=dice.integers(0, 7))
    return page(bent(ink_of(image), dice), dice)


def hand_letter(dice):
    strokes = list(HAND.values())[dice.integers(len(HAND))]
    image, draw = canvas()
    pen, wide = pen_width(dice), dice.uniform(0.4, 0.7)
    for stroke in strokes:
        points = 0.15 + np.array(stroke) * [wide, 0.7] + dice.normal(0, 0.015, (len(stroke), 2))
        line(draw, points, pen)
    return page(bent(ink_of(image), dice), dice)


def word(dice):
    """Three to eight letters, or two lines of them."""
    lines = ["".join(dice.choice(list(LETTERS), dice.integers(3, 9))) for _ in range(dice.integers(1, 4))]
    image, draw = canvas()
    face = ImageFont.truetype(str(FONTS / "DejaVuSans.ttf"), int(dice.integers(40, 60)))
    draw.text((CANVAS / 2, CANVAS / 2), "\n".join(lines), 255, face, anchor="mm", align="center")
    return page(bent(ink_of(image), dice, 0.5), dice)


def scribble(dice):
    """One random smooth path that crosses itself."""
    image, draw = canvas()
    steps = dice.standard_normal((int(dice.integers(150, 400)), 2))
    path = ndimage.gaussian_filter1d(steps, dice.uniform(6, 14), axis=0, mode="wrap")
    path = (path - path.min(0)) / np.ptp(path, 0) * 0.8 + 0.1
    line(draw, path, int(dice.integers(5, 16)))
    return page(ink_of(image), dice)


def shape(dice):
    """A star, triangle, square, arrow, heart, check mark, cross, smiley, house, moon or spiral, outlined or filled."""
    image, draw = canvas()
    name, pen = dice.integers(11), pen_width(dice)
    turn = 2 * np.pi * np.arange(200) / 199

    def closed(points):
        if dice.random() < 0.4:
            draw.polygon([tuple(CANVAS * np.asarray(p)) for p in points], 255)
        line(draw, [*points, points[0]], pen)

    if name == 0:
        radius = np.where(np.arange(10) % 2, dice.uniform(0.15, 0.2), 0.4)
        angle = np.pi * np.arange(10) / 5 - np.pi / 2
        closed(0.5 + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1))
    elif name == 1:
        closed([(0.5, 0.15), (0.9, 0.85), (0.1, 0.85)])
    elif name == 2:
        closed([(0.15, 0.15), (0.85, 0.15), (0.85, 0.85), (0.15, 0.85)])
    elif name == 3:
        line(draw, [(0.1, 0.5), (0.9, 0.5)], pen)
        line(draw, [(0.6, 0.25), (0.9, 0.5), (0.6, 0.75)], pen)
    elif name == 4:
        x, y = 16 * np.sin(turn) ** 3, 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn)
        closed(np.stack([0.5 + x / 40, 0.48 - (y - np.cos(4 * turn)) / 40], 1))
    elif name == 5:
        line(draw, [(0.1, 0.55), (0.35, 0.85), (0.9, 0.15)], pen)
    elif name == 6:
        line(draw, [(0.15, 0.5), (0.85, 0.5)], pen)
        line(draw, [(0.5, 0.15), (0.5, 0.85)], pen)
    elif name == 7:
        line(draw, 0.5 + 0.4 * np.stack([np.cos(turn), np.sin(turn)], 1), pen)
        line(draw, 0.5 + 0.2 * np.stack([np.cos(turn[:100]), np.sin(turn[:100])], 1), pen)
        for x in (0.37, 0.63):
            line(draw, [(x, 0.38), (x, 0.4)], pen + 6)
    elif name == 8:
        closed([(0.2, 0.5), (0.2, 0.9), (0.8, 0.9), (0.8, 0.5)])
        line(draw, [(0.1, 0.5), (0.5, 0.1), (0.9, 0.5)], pen)
        line(draw, [(0.45, 0.9), (0.45, 0.65), (0.6, 0.65), (0.6, 0.9)], pen // 2)
    elif name == 9:
        for start in range(0, 200, 40):
            middle = 0.5 + 0.22 * np.array([np.cos(turn[start]), np.sin(turn[start])])
            line(draw, middle + 0.15 * np.stack([np.cos(turn), np.sin(turn)], 1), pen // 2 + 1)
    else:
        radius = np.linspace(0.05, 0.4, 200)[:, None]
        line(draw, 0.5 + radius * np.stack([np.cos(3 * turn), np.sin(3 * turn)], 1), min(pen, 14))
    return page(bent(ink_of(image), dice, 0.6), dice)


# ------------------------------------------------------------------------------------------------
# Without ink
# ------------------------------------------------------------------------------------------------


def texture(dice):
    """Noise of several scales, stripes, checkers, wood, dots, or a gradient."""
    height, width = dice.integers(100, 601, 2)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    name, period, angle = dice.integers(6), dice.uniform(10, 80), dice.uniform(0, np.pi)
    across = x * np.cos(angle) + y * np.sin(angle)
    if name == 0:
        pixels = sum(ndimage.gaussian_filter(dice.standard_normal(x.shape), 2**k) * 2**k for k in range(1, 6))
    elif name == 1:
        pixels = np.sin(2 * np.pi * across / period) * dice.uniform(0.3, 1) + 0.1 * dice.standard_normal(x.shape)
    elif name == 2:
        pixels = ((x // period + y // period) % 2) + 0.1 * dice.standard_normal(x.shape)
    elif name == 3:
        ripple = ndimage.gaussian_filter(dice.standard_normal(x.shape), (40, 8))
        pixels = np.sin(across / 6 + 8 * ripple / ripple.std()) + 0.3 * dice.standard_normal(x.shape)
    elif name == 4:
        pixels = 1.0 * (np.sin(2 * np.pi * x / period) * np.sin(2 * np.pi * y / period) > dice.uniform(0, 0.7))
    else:
        pixels = across + np.hypot(x - width / 2, y - height / 2) + 5 * dice.standard_normal(x.shape)
    low, high = np.percentile(pixels, (1, 99))
    return _grey(dice.uniform(0, 0.3) + dice.uniform(0.4, 0.7) * (pixels - low) / (high - low or 1))


def _ground(dice, height, width):
    """An uneven ground, smooth or cluttered."""
    ground = ndimage.gaussian_filter(dice.standard_normal((height, width)), dice.uniform(5, 60))
    ground += dice.uniform(0, 0.3) * ground.std() * dice.standard_normal((height, width))
    return dice.uniform(0.2, 0.8) + dice.uniform(0.02, 0.12) * ground / ground.std()


def things(dice):
    """Shaded ellipses and polygons on a cluttered ground."""
    height, width = dice.integers(150, 601, 2)
    pixels = _ground(dice, height, width)
    for _ in range(dice.integers(1, 8)):
        image = Image.new("L", (int(width), int(height)))
        middle, size = dice.uniform(0.1, 0.9, 2) * (width, height), dice.uniform(0.08, 0.35) * min(width, height)
        angles = np.sort(dice.uniform(0, 2 * np.pi, dice.integers(3, 8))) if dice.random() < 0.5 else np.arange(63) / 10
        radii = size * dice.uniform(0.5, 1.2, 2)
        corners = middle + radii * np.stack([np.cos(angles), np.sin(angles)], 1)
        ImageDraw.Draw(image).polygon([tuple(c) for c in corners], 255)
        y, x = np.mgrid[:height, :width]
        shade = dice.uniform(0, 1) + 0.3 * ((x - middle[0]) * dice.uniform(-1, 1) + (y - middle[1])) / size
        mask = ndimage.gaussian_filter(np.asarray(image, np.float32) / 255, 1)
        pixels = pixels * (1 - mask) + mask * np.clip(shade, 0, 1)
    return _grey(pixels + 0.02 * dice.standard_normal(pixels.shape))


def hand_sign(dice):
    """A palm with some of five fingers stretched out, on an even ground."""
    image, draw = canvas()
    palm, wide = np.array([0.5, 0.68]), int(dice.integers(26, 38))
    line(draw, palm + np.array([(-0.08, 0), (0.08, 0), (0, 0.1)]), int(2.8 * wide))
    for angle in (-75, -25, -8, 9, 26):
        if dice.random() < 0.6:
            turn, long = np.deg2rad(angle + dice.uniform(-6, 6)), dice.uniform(0.4, 0.52)
            line(draw, [palm, palm + long * np.array([np.sin(turn), -np.cos(turn)])], wide)
    line(draw, [palm, (0.5, 1.0)], 2 * wide)
    mask = bent(ink_of(image), dice)
    mask = np.pad(mask, ((int(dice.integers(5, 60)), 0), tuple(dice.integers(5, 120, 2))))
    ground = _ground(dice, *mask.shape)
    y, x = np.mgrid[-1 : 1 : mask.shape[0] * 1j, -1 : 1 : mask.shape[1] * 1j]
    skin = dice.uniform(0.35, 0.9) + 0.12 * (x * dice.uniform(-1, 1) + y * dice.uniform(-1, 1))
    skin = skin * (0.75 + 0.25 * np.clip(ndimage.distance_transform_edt(mask > 0.5) / wide, 0, 1))
    return _grey(ndimage.gaussian_filter(ground * (1 - mask) + skin * mask, 1))


def paper(dice):
    """Nothing: blank, dark or shadowed paper with grain."""
    height, width = dice.integers(100, 601, 2)
    x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)[:, None]
    light = dice.uniform(0.05, 0.95) * (1 + dice.uniform(-0.2, 0.2) * x + dice.uniform(-0.2, 0.2) * y)
    return _grey(light + dice.uniform(0, 0.04) * dice.standard_normal((height, width)))


def code(dice):
    """A square of black and white fields with three corner marks, or bars."""
    if dice.random() < 0.5:
        fields = dice.integers(0, 2, (21, 21)).astype(np.float32)
        for top, left in ((0, 0), (0, 14), (14, 0)):
            fields[top : top + 7, left : left + 7] = 1
            fields[top + 1 : top + 6, left + 1 : left + 6] = 0
            fields[top + 2 : top + 5, left + 2 : left + 5] = 1
    else:
        fields = np.repeat(dice.integers(0, 2, (1, 60)), 60, axis=0).astype(np.float32)
        fields[:, [0, -1]], fields[:12], fields[-12:] = 1, 0, 0
    return page(np.kron(fields, np.ones((8, 8), np.float32)), dice)


# ------------------------------------------------------------------------------------------------
# Measured
# ------------------------------------------------------------------------------------------------

KINDS = {
    "letters": partial(printed, LETTERS),
    "Greek letters": partial(printed, GREEK),
    "symbols": partial(printed, SYMBOLS),
    "letters by hand": hand_letter,
    "words": word,
    "scribbles": scribble,
    "shapes": shape,
    "textures": texture,
    "things": things,
    "hand signs": hand_sign,
    "empty paper": paper,
    "codes": code,
}


def turned(digits, dice):
    """A digit turned by a quarter: 0, 1 and 8 may still be read as digits."""
    digit = np.rot90(digits[dice.integers(len(digits))], dice.choice([1, 3]))
    return page(_large(digit), dice)


def half(digits, dice):
    """The upper or the lower half of a digit."""
    digit = digits[dice.integers(len(digits))].copy()
    digit[slice(14, None) if dice.random() < 0.5 else slice(0, 14)] = 0
    return page(_large(digit), dice)


def _large(digit):
    return np.asarray(Image.fromarray(np.ascontiguousarray(digit)).resize((280, 280), Image.Resampling.BICUBIC)) / 255


def pictures(make, count=EACH, seed=SEED):
    """So many pictures of one kind, grey uint8 `(H, W)` each."""
    dice = np.random.default_rng([seed, count])
    return [make(dice) for _ in range(count)]


def measured(model, images):
    """What becomes of pictures: refused, called no digit, answered, the answers' probabilities, what was seen."""
    found = {"count": 0, "refused": 0, "no digit": 0, "answered": 0}
    probabilities, seen = [], []
    for image in images:
        found["count"] += 1
        try:
            answer, digit = predict.predict(model, image)
        except predict.ImageError:
            found["refused"] += 1
            continue
        known = novelty.is_digit(model, digit)
        found["answered" if known else "no digit"] += 1
        if known:
            probabilities.append(answer.max().item())
            seen.append(digit)
    found["median"], found["90 %"] = np.quantile(probabilities, (0.5, 0.9)).tolist() if probabilities else (None, None)
    return found, seen


def simulated(data):
    """PHOTOS simulated photographs of test digits, as `infer.py` makes them."""
    dice = np.random.default_rng(SEED)
    for row in dice.choice(len(data), min(PHOTOS, len(data)), replace=False):
        yield Image.open(io.BytesIO(infer.photo(data.images[row].numpy(), dice)))


def by_source(folder):
    """Source → paths of the images of a folder with a labels.csv."""
    path = Path(folder) / "labels.csv"
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: name a folder with images and a labels.csv.")
    sources = {}
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            sources.setdefault(row["source"], []).append(Path(folder) / row["path"])
    return sources


def test_digits(model, data):
    """How many test digits, as they are, are called no digit."""
    scores = novelty.novelty_scores(model, data.images.float() / 255)
    wrong = int((scores > model.novelty["threshold"]).sum())
    return {"count": len(scores), "refused": 0, "no digit": wrong, "answered": len(scores) - wrong}


def line_of(name, found):
    words = f"{name:20} {found['count']:6,}   refused {found['refused']:4}   no digit {found['no digit']:4}"
    words += f"   answered {found['answered']:6,}"
    if found.get("median") is not None:
        words += f"   probability {100 * found['median']:5.1f} %, {100 * found['90 %']:5.1f} %"
    return words


def contact_sheet(answered, path, across=25):
    """A row or more a kind: what the network saw of the pictures that it answered."""
    rows = [seen[i : i + across] for seen in answered.values() for i in range(0, len(seen), across)]
    sheet = Image.new("L", (30 * across, 30 * len(rows) or 30), 128)
    for row, images in enumerate(rows):
        for column, seen in enumerate(images):
            sheet.paste(Image.fromarray(_grey(seen.numpy())), (30 * column + 1, 30 * row + 1))
    sheet.save(path)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", metavar="FILE", help="use this model, and keep no figures")
    parser.add_argument("--digits", metavar="FOLDER", help="real digits, with a labels.csv")
    parser.add_argument("--sheet", metavar="FILE.png", help="what the network saw of non-digits that it answered")
    parser.add_argument(
        "--each", type=int, default=EACH, metavar="N", help="pictures of each kind; default %(default)s"
    )
    options = parser.parse_args(arguments)
    try:
        data = dataset.load_dataset("test", "mnist")
        sources = by_source(options.digits) if options.digits else {}
        model = infer.network(options.checkpoint)
        if model.novelty is None:
            raise ValueError("The checkpoint has no rule of what is no digit: train it with torchnn.py --train.")
    except (OSError, ValueError) as problem:
        parser.exit(2, f"{problem}\n")
    digits = data.images.numpy()
    apart = {
        "look like a digit": partial(printed, ALIKE),
        "turned digits": partial(turned, digits),
        "halves of digits": partial(half, digits),
    }
    result, answered = {"non-digits": {}, "apart": {}, "digits": {}}, {}
    for group, kinds in (("non-digits", KINDS), ("apart", apart)):
        print(f"\n{group}")
        for name, make in kinds.items():
            result[group][name], answered[name] = measured(model, pictures(make, options.each))
            print(line_of(name, result[group][name]), flush=True)
    print("\ndigits")
    result["digits"]["MNIST test"] = test_digits(model, data)
    print(line_of("MNIST test", result["digits"]["MNIST test"]))
    for name, images in {"simulated photos": simulated(data), **sources}.items():
        result["digits"][name], _ = measured(model, images)
        print(line_of(name, result["digits"][name]), flush=True)
    every = [result["digits"][name] for name in sources]
    if every:
        total = {key: sum(found[key] for found in every) for key in ("count", "refused", "no digit", "answered")}
        result["digits"]["all of the folder"] = total
        print(line_of("all of the folder", total))
    if options.sheet:
        contact_sheet(answered, options.sheet)
    if not options.checkpoint:
        for name in sources:  # the writers' names
            del result["digits"][name]
        infer.keep(result, "nondigits.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
