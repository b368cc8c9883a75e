"""Pages of many digits through `predict_all`: how many are found, and how many are read in the right order.

    python benchmarks/page.py [--checkpoint FILE]

Makes 100 "photographs" of pages with 5 to 60 test digits of MNIST, and reports for each kind of page (plain, ruled,
squared, light on dark; dense or loose) the share of digits found, of those read right in reading order, and what
was found where there is no digit; then, apart from these, pages of pairs that touch, and images of one digit and of
two digits in two to see whether `predict` notices that there are two. The network is what `torchnn.py --train` has
left in checkpoints/, and the figures are kept in benchmarks/results/pages.json, unless another checkpoint is given.
"""

import argparse
import bisect
import io
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import infer  # noqa: E402

import dataset  # noqa: E402
import predict  # noqa: E402

PAGES, TOUCHING, PAIRS, SEED = 100, 20, 500, 1
KINDS = [f"{paper}, {spacing}" for paper in ("plain", "ruled", "squared", "dark") for spacing in ("dense", "loose")]


def page(data, kind, generator, *, touching=False):
    """A JPEG (bytes) of a page of digits, their labels in reading order, and their boxes (left, top, right, bottom).

    `data`: a data set of images `(28, 28)` uint8; `kind`: one of KINDS. 600 to 3000 pixels on the longer side,
    turned by up to ±5°, sizes and places jittered, uneven light with a soft shadow, blurred, noisy, compressed.
    `touching`: the digits stand in pairs that are pushed together until their ink meets.
    """

    def between(low, high, size=None):
        return generator.uniform(low, high, size)

    paper, spacing = kind.split(", ")
    longest = int(600 * 5 ** between(0, 1))
    shape = [longest, int(longest * between(0.6, 0.9))]
    height, width = shape if generator.random() < 0.5 else shape[::-1]
    count = int(generator.integers(5, 61))
    dense = spacing == "dense"
    gap, pitch = (between(0.1, 0.3), between(1.35, 1.6)) if dense else (between(0.5, 1.5), between(1.8, 3))
    # the largest size at which the digits fit into the middle of the page, or somewhat less
    inner = 0.86 * np.array([height, width])
    columns = 1 + np.arange(count)
    rows = -(-count // columns)
    sizes = np.minimum(inner[0] / (rows * pitch), inner[1] / (columns * (0.95 + gap)))
    best = int(sizes.argmax())
    columns, size = int(columns[best]), min(sizes[best], 0.35 * min(height, width)) * between(0.7, 1)

    angle = np.radians(between(-5, 5))
    cos, sin = np.cos(angle), np.sin(angle)
    middle = np.array([height, width]) / 2
    ink = np.zeros((height, width), np.float32)
    labels, boxes = [], []
    chosen = generator.choice(len(data), count, replace=False).tolist()
    top = -pitch * size * -(-count // columns) / 2
    scales = between(0.75, 1.25, -(-count // columns)) if generator.random() < 0.3 else np.ones(count)
    bases = []
    for row, first in enumerate(range(0, count, columns)):
        line = chosen[first : first + columns]
        base = top + pitch * size * (row + 0.85)
        bases.append(base)
        place = -inner[1] / 2 + between(0, 0.3) * size
        previous = None
        for i, index in enumerate(line):
            # the room for one of a pair is the room for a digit; the second is moved up to the first
            pen = _pen(data.images[index].numpy(), size * scales[row] * between(0.8, 1.1), np.degrees(angle))
            down = base - pen.shape[0] / 2 + between(-0.08, 0.08) * size
            across = place + pen.shape[1] / 2
            corner = [
                round(middle[0] + down * cos + across * sin - pen.shape[0] / 2),
                round(middle[1] - down * sin + across * cos - pen.shape[1] / 2),
            ]
            if touching and i % 2:
                while not _meets(ink, pen, corner) and corner[1] > previous:
                    corner[1] -= 1
            previous = corner[1]
            if min(corner) < 0 or corner[0] + pen.shape[0] > height or corner[1] + pen.shape[1] > width:
                continue  # a long line at the largest size, turned
            part = ink[corner[0] : corner[0] + pen.shape[0], corner[1] : corner[1] + pen.shape[1]]
            np.maximum(part, pen, out=part)
            labels.append(int(data.labels[index]))
            boxes.append((corner[1], corner[0], corner[1] + pen.shape[1], corner[0] + pen.shape[0]))
            place += pen.shape[1] + (gap + between(0, 0.1)) * size

    y, x = np.mgrid[:height, :width].astype(np.float32)
    down, across = (y - middle[0]) * cos - (x - middle[1]) * sin, (x - middle[1]) * cos + (y - middle[0]) * sin
    lines = np.zeros_like(ink)
    thick = max(1, between(0.001, 0.003) * longest) / 2
    if paper == "ruled":
        lines = (down - bases[0] + thick) % (pitch * size) < 2 * thick
    elif paper == "squared":
        square = size * between(0.5, 1.1)
        lines = (down % square < 2 * thick) | (across % square < 2 * thick)
    x, y = 2 * x / width - 1, 2 * y / height - 1
    slope, centre, spread = between(-0.12, 0.12, 2), between(-1, 1, 2), between(0.5, 1.2)
    shadow = between(0, 0.25) * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * spread**2))
    light = between(0.72, 0.92) + slope[0] * x + slope[1] * y - shadow
    pixels = light * (1 - between(0.1, 0.35) * lines)
    pixels = pixels * (1 - ink) + between(0.05, 0.3) * light * ink
    if paper == "dark":
        pixels = 1 - pixels
    pixels = ndimage.gaussian_filter(pixels, between(0.3, 1.2) * longest / 1200)
    pixels += between(0.005, 0.03) * generator.standard_normal(pixels.shape, np.float32)
    content = io.BytesIO()
    image = Image.fromarray((255 * np.clip(pixels, 0, 1)).astype(np.uint8))
    image.save(content, "JPEG", quality=int(between(50, 95)))
    return content.getvalue(), labels, boxes


def _pen(digit, size, angle):
    """A digit `(28, 28)` uint8 turned by so many degrees, cropped, so high: ink in [0, 1].

    `size`: the pixels of 20 in MNIST, the longest side of nearly every digit.
    """
    side = round(size * 28 / 20)
    pen = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC).rotate(angle, Image.Resampling.BICUBIC)
    pen = np.asarray(pen, np.float32) / 255
    rows, columns = (np.flatnonzero((pen > 0.3).any(axis=axis)) for axis in (1, 0))
    return pen[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _meets(ink, pen, corner):
    part = ink[corner[0] : corner[0] + pen.shape[0], corner[1] : corner[1] + pen.shape[1]]
    return part.shape == pen.shape and (np.minimum(part, pen) > 0.5).any()


def compare(readings, labels, boxes):
    """How many digits were found, how many of them read right in order, and how many others were read besides.

    Found: a reading's box and the true one overlap in half of their union. In order: the longest sequence of
    right readings that follow each other as on the page.
    """
    taken, places, right = set(), [], []
    for label, box in zip(labels, boxes, strict=True):
        overlaps = [0 if i in taken else overlap(reading.box, box) for i, reading in enumerate(readings)]
        if overlaps and max(overlaps) >= 0.5:
            place = int(np.argmax(overlaps))
            taken.add(place)
            places.append(place)
            if readings[place].digit == label:
                right.append(place)
    tails = []  # patience sorting: tails[k] is the lowest end of an increasing sequence of k + 1
    for place in right:
        at = bisect.bisect_left(tails, place)
        tails[at : at + 1] = [place]
    besides = sum(reading.is_digit for i, reading in enumerate(readings) if i not in taken)
    return {"digits": len(labels), "found": len(places), "read": len(tails), "false": besides}


def overlap(one, other):
    """Intersection over union of two boxes (left, top, right, bottom)."""
    width, height = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    both = max(width, 0) * max(height, 0)
    return both / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - both)


def measure(model, data, count=PAGES, *, touching=False):
    """For each kind of page, and over all, what `compare` counts; `seconds` a page for all of `predict_all`."""
    generator = np.random.default_rng(SEED)
    results, seconds = {}, 0.0
    for i in range(count):
        kind = KINDS[i % len(KINDS)]
        content, labels, boxes = page(data, kind, generator, touching=touching)
        start = time.perf_counter()
        try:
            readings = predict.predict_all(model, Image.open(io.BytesIO(content)))
        except predict.ImageError:
            readings = []
        seconds += time.perf_counter() - start
        counts = {"pages": 1, **compare(readings, labels, boxes)}
        for name in (kind, "all"):
            sums = results.setdefault(name, dict.fromkeys(counts, 0))
            for key, value in counts.items():
                sums[key] += value
    return {"kinds": results, "seconds": seconds / count}


def pair(data, generator):
    """Paper (uint8) with two digits side by side, 5 to 50 % of their height apart, or, one time in four, in rows."""
    one, two = (data.images[row].numpy() for row in generator.choice(len(data), 2, replace=False).tolist())
    size = generator.uniform(60, 200)
    pens = [_pen(digit, size * generator.uniform(0.85, 1), generator.uniform(-5, 5)) for digit in (one, two)]
    gap = round(generator.uniform(0.05, 0.5) * max(pen.shape[0] for pen in pens))
    if stacked := generator.random() < 0.25:
        pens = [pen.T for pen in pens]
    height = max(pen.shape[0] for pen in pens)
    pens = [np.pad(pen, ((room := (height - pen.shape[0]) // 2, height - pen.shape[0] - room), (0, 0))) for pen in pens]
    ink = np.pad(np.hstack([pens[0], np.zeros((height, gap)), pens[1]]), int(size * generator.uniform(0.2, 0.6)))
    return _paper(ink.T if stacked else ink, generator)


def single(data, generator):
    """As `pair`, with one digit."""
    digit = data.images[int(generator.integers(len(data)))].numpy()
    size = generator.uniform(60, 200)
    return _paper(
        np.pad(_pen(digit, size, generator.uniform(-5, 5)), int(size * generator.uniform(0.2, 0.6))), generator
    )


def _paper(ink, generator):
    pixels = generator.uniform(0.8, 0.95) * (1 - generator.uniform(0.6, 0.9) * ink)
    pixels = ndimage.gaussian_filter(pixels, 0.7) + 0.01 * generator.standard_normal(ink.shape)
    return (255 * np.clip(pixels, 0, 1)).astype(np.uint8)


def noticed(data, make, count=PAIRS):
    """In how many of so many images `predict.prepare` notices more than one digit."""
    generator = np.random.default_rng(SEED)
    refused = 0
    for _ in range(count):
        try:
            predict.prepare(make(data, generator))
        except predict.ImageError:
            refused += 1
    return refused


def table(kinds):
    for name, n in kinds.items():
        found, read = (100 * n[key] / n["digits"] for key in ("found", "read"))
        print(
            f"{name:15} {n['pages']:3} pages, {n['digits']:4} digits: {found:6.2f} % found, {read:6.2f} % read in"
            f" order, {n['false']} false finds"
        )


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", metavar="FILE", help="use this model, and keep no figures")
    options = parser.parse_args(arguments)
    try:
        data = dataset.load_dataset("test", "mnist")
        model = infer.network(options.checkpoint)
    except (OSError, ValueError) as problem:
        parser.exit(2, f"{problem}\n")
    result = {"pages": measure(model, data), "touching": measure(model, data, TOUCHING, touching=True)}
    result["pairs"] = {"count": PAIRS, "noticed": noticed(data, pair), "singles_refused": noticed(data, single)}
    table(result["pages"]["kinds"])
    print(f"{result['pages']['seconds']:.2f} s a page")
    table({f"touching: {name}": counts for name, counts in result["touching"]["kinds"].items() if name == "all"})
    print(
        "{noticed} of {count} pairs noticed, {singles_refused} of {count} single digits refused".format(
            **result["pairs"]
        )
    )
    if not options.checkpoint:
        infer.keep(result, "pages.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
