"""A page of many digits → each of them apart, in reading order.

The paper is what is left when narrow dark things are closed (or, for light ink, narrow light things opened); ink
is what stands out from it, measured against the strongest ink nearby. Ruled lines are taken out, the connected
parts of the rest are joined to digits and ordered into lines of writing.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree

READING_SIZE = 1600  # longest side (pixels) of the image in which a page is segmented
LEAST_CONTRAST = 0.08  # of full scale: what differs less from the paper is no ink
LEAST_HEIGHT = 6  # pixels: what is lower is a speck even where there is nothing else
LINE_SHARE = 0.5  # of the page's width: what is as long and thin is a ruled line,
LEAST_LINES = 3  # if there are so many at the same slant: a single one may be a large 1
CUTS = (0.3, 0.4, 0.5, 0.6, 0.7)  # of the width, where touching digits may be cut
TURNS = np.arange(-10, 10.1, 0.5)  # slants of lines, in degrees, that are tried


class Found(NamedTuple):
    """One digit on a page."""

    box: tuple  # (left, top, right, bottom) in pixels of the page, right and bottom exclusive
    line: int  # of writing, from 0
    ink: np.ndarray  # (bottom - top, right - left) float32, positive where there is ink
    mask: np.ndarray  # the same shape, bool: the digit's pixels


def find_digits(grey, score=None):
    """The digits on a page of grey values `(H, W)` in [0, 1] → list of `Found`, line by line, from left to right.

    Dark on light or light on dark, by uneven light, in lines of writing that may be turned by up to 10°, on blank,
    ruled or squared paper. Specks, dashes, and what is far larger than a digit are left out. Empty for a blank page.
    `score`: a function of a list of `Found` that gives how sure it is that each is one digit, `(n,)` in [0, 1]; with
    it, what is wide is cut in two where both pieces are digits more surely than the whole is.
    """
    ink = _ink(grey)
    smooth = ndimage.gaussian_filter(ink, max(grey.shape) / 2000, truncate=3)
    noise = 1.4826 * np.median(abs(smooth[::2, ::2]))
    least = max(LEAST_CONTRAST / 2, 3 * noise)
    strongest = _strongest(smooth)
    mask, whole = smooth > np.maximum(least, 0.4 * strongest), smooth > least
    mask, rulings = _without_rulings(mask, whole, smooth, strongest)
    labels, boxes, areas = _parts(mask, smooth, max(LEAST_CONTRAST, 5 * noise), rulings)
    groups = _joined(boxes, areas)
    if not groups:
        return []
    boxes = np.array([_around(boxes[group]) for group in groups])
    found = []
    for line, members in enumerate(_lines(boxes)):
        for i in members:
            left, top, right, bottom = boxes[i].tolist()
            inside = (slice(top, bottom), slice(left, right))
            digit = np.isin(labels[inside], groups[i] + 1)
            seen = np.where(ndimage.binary_dilation(digit), ink[inside], 0)
            found.append(Found((left, top, right, bottom), line, seen, digit))
    return _cut(found, score) if score else found


# ------------------------------------------------------------------------------------------------
# Ink
# ------------------------------------------------------------------------------------------------


def _ink(grey):
    """How much each pixel differs from the paper, as a fraction of it, positive where there is ink."""
    step = max(1, max(grey.shape) // 400)
    small = np.asarray(Image.fromarray(grey).reduce(step))
    if _is_light(small):
        grey, small = 1 - grey, 1 - small
    paper = ndimage.median_filter(small, 3) if step > 1 else small
    light = _surface(paper)  # without it a slope of the light would be closed at the page's border
    paper = light + ndimage.grey_closing(paper - light, size=max(3, max(small.shape) // 5))
    paper = np.asarray(Image.fromarray(paper).resize(grey.shape[::-1], Image.Resampling.BILINEAR))
    ink = (paper - grey) / np.maximum(paper, 0.2)  # in the shade all differences are smaller
    return ink - np.median(ink[::2, ::2])  # noise lifts what was closed above the paper


def _surface(grey):
    """The quadratic surface that most pixels are nearest to."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in grey.shape), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    step = max(1, max(grey.shape) // 100)
    points, values = terms[::step, ::step].reshape(-1, 6), grey[::step, ::step].ravel()
    near = np.ones(len(values), bool)
    for _ in range(6):
        surface = np.linalg.lstsq(points[near], values[near], rcond=None)[0]
        off = abs(values - points @ surface)
        near = off <= 2 * np.median(off)
    return terms @ surface


def _is_light(grey):
    """Whether the ink is lighter than the paper: on its side of the local median are the larger deviations."""
    tiny = Image.fromarray(grey)
    tiny.thumbnail((64, 64), Image.Resampling.BOX)
    paper = ndimage.median_filter(np.asarray(tiny), max(tiny.size) // 3)
    paper = np.asarray(Image.fromarray(paper).resize(grey.shape[::-1], Image.Resampling.BILINEAR))
    off = grey - paper
    return np.where(abs(off) > max(LEAST_CONTRAST, 0.3 * abs(off).max()), off, 0).sum() > 0


def _strongest(ink):
    """The strongest ink near each pixel."""
    step = max(1, max(ink.shape) // 200)
    padded = np.pad(ink, [(0, -side % step) for side in ink.shape], mode="edge")
    blocks = padded.reshape(padded.shape[0] // step, step, -1, step).max(axis=(1, 3))
    blocks = ndimage.maximum_filter(blocks, max(1, max(blocks.shape) // 16))
    return blocks.repeat(step, axis=0).repeat(step, axis=1)[: ink.shape[0], : ink.shape[1]]


# ------------------------------------------------------------------------------------------------
# Ruled lines
# ------------------------------------------------------------------------------------------------


def _without_rulings(mask, whole, ink, strongest):
    """The mask without the straight lines that cross the page from side to side or from top to bottom; their ink.

    `whole`: a mask in which the lines have no gaps; `ink`, `strongest`: of each pixel, and near it.
    """
    y, x = np.nonzero(mask)
    strong, gone, lines, highest = strongest[y, x], np.zeros(len(y), bool), 0, 0
    for i, j, part, full, values in ((y, x, mask, whole, ink), (x, y, mask.T, whole.T, ink.T)):
        found = _rulings(full, values)
        if found is None:
            continue
        on, level, thickness = found
        highest = max(highest, level)
        near = on(i, j)
        # A stroke that crosses a line is darker, or if it isn't, thicker from top to bottom.
        weak = values[i, j] < level + 0.35 * (strong - level)
        thin = _thin(part, thickness)[i, j]
        gone |= near & np.where(strong > 1.8 * level, weak, thin)
        lines = lines + (near & (strong <= 1.8 * level))
    gone |= lines == 2  # where two lines cross
    mask = mask.copy()
    mask[y[gone], x[gone]] = False
    return mask, highest


def _rulings(whole, ink):
    """Lines that run across the page from left to right: None, or a function that says of pixels (y, x) whether
    they are on one, the lines' ink (median) and thickness.
    """
    height, width = whole.shape
    y, x = np.nonzero(_thin(whole, max(3, height // 120)))
    if len(y) < LINE_SHARE * width:
        return None
    pad = height // 4 + width // 5  # lines of a turned page may begin above it or below

    def rows(bundle, y, x):
        """Where the line of the bundle that passes through (x, y) crosses the page's middle."""
        slope, spread = bundle
        x = (x - width / 2) / width
        # In perspective parallel lines meet at a point: their slopes change evenly from one to the next.
        row = (y - height / 2 - slope * width * x) / (1 + spread * x)
        return np.clip(np.round(row + height / 2).astype(int) + pad, 0, height + 2 * pad - 1)

    step = max(1, len(y) // 20_000)
    few = y[::step], x[::step]

    def sharpness(bundle, size):
        return (np.bincount(rows(bundle, *few) // size).astype(float) ** 2).sum()

    best = max(((np.tan(np.radians(turn)), 0) for turn in TURNS), key=lambda bundle: sharpness(bundle, 8))
    for reach, size in ((0.008, 4), (0.003, 2), (0.001, 1)):
        for direction in ((1, 0), (0, 4), (1, 0)):
            tried = [tuple(np.add(best, np.multiply(direction, d))) for d in np.linspace(-reach, reach, 9)]
            best = max(tried, key=lambda bundle, size=size: sharpness(bundle, size))
    counts = np.bincount(rows(best, y, x), minlength=height + 2 * pad)
    # how much of each line lies on the page
    edge = np.linspace(0, width - 1, 200)
    above, below = (
        np.bincount(rows(best, np.full(200, side), edge), minlength=len(counts)).cumsum() for side in (0, height - 1)
    )
    lines = counts > LINE_SHARE * width * np.maximum((above - below) / 200, 0.15)
    lines[[0, -1]] = False
    number = ndimage.label(lines)[1]
    if number < LEAST_LINES:
        return None
    thickness = round(lines.sum() / number) + 1
    level = np.median(ink[y, x][lines[rows(best, y, x)]])
    lines = ndimage.binary_dilation(lines, iterations=3)
    return lambda y, x: lines[rows(best, y, x)], level, thickness


def _thin(mask, thickest):
    """What of the mask is at most so many pixels thick from top to bottom."""
    thick = ndimage.minimum_filter1d(mask.view(np.uint8), thickest + 1, axis=0, mode="constant")
    thick = ndimage.maximum_filter1d(thick, thickest + 1, axis=0, mode="constant", origin=-(thickest % 2))
    return mask & (thick == 0)


# ------------------------------------------------------------------------------------------------
# Parts and digits
# ------------------------------------------------------------------------------------------------


def _parts(mask, ink, least, rulings):
    """Connected parts of the mask that may be a digit or a piece of one.

    Labels `(H, W)`, boxes `(n, 4)` and areas `(n,)`, where part i has the label i + 1; the area is 0
    if its ink has no peak above `least`, is that of the ruled lines, `rulings`, on a page with stronger ink, or
    touches the border of a ruled page.
    """
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    keep = areas >= 4
    keep[0] = False
    labels = (np.cumsum(keep) * keep)[labels]
    areas = areas[keep]
    if not len(areas):
        return labels, np.zeros((0, 4), int), areas
    slices = ndimage.find_objects(labels)
    boxes = np.array([(x.start, y.start, x.stop, y.stop) for y, x in slices])
    peaks, inside = np.zeros(len(areas) + 1, ink.dtype), labels > 0
    np.maximum.at(peaks, labels[inside], ink[inside])  # ndimage.maximum would sort all pixels
    areas = np.where(peaks[1:] >= least, areas, 0)
    if rulings and areas.any():
        means = ndimage.mean(ink, labels, np.arange(1, len(areas) + 1))
        usual = _middle(means, areas)
        if usual > 2 * rulings:
            areas = np.where(means > np.sqrt(usual * rulings), areas, 0)
        # In the corners the lines are too short to be known.
        areas = np.where((boxes[:, :2] > 0).all(axis=1) & (boxes[:, 2:] < mask.shape[::-1]).all(axis=1), areas, 0)
    return labels, boxes, areas


def _around(boxes):
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])


def _middle(values, weights):
    """The weighted median."""
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order])
    return values[order][np.searchsorted(cumulated, cumulated[-1] / 2)]


def _joined(boxes, areas):
    """The parts of each digit, as arrays of their rows; specks and dashes are in none."""
    if not areas.any():
        return []
    sizes = boxes[:, 2:] - boxes[:, :2]
    height = _middle(sizes[:, 1], areas)  # of the ink and not of the parts: specks, however many, have little weight
    sizes = sizes.max(axis=1)
    rows = np.flatnonzero((areas > 0) & (sizes >= 0.12 * height) & (sizes <= 4 * height))
    groups = {row: [row] for row in rows.tolist()}
    around = {row: boxes[row] for row in groups}
    where = dict(zip(groups, groups, strict=True))
    centres = (boxes[rows, :2] + boxes[rows, 2:]) / 2
    pairs = rows[cKDTree(centres).query_pairs(1.2 * height, output_type="ndarray")]
    gaps = np.maximum(boxes[pairs[:, 0], :2], boxes[pairs[:, 1], :2]) - np.minimum(
        boxes[pairs[:, 0], 2:], boxes[pairs[:, 1], 2:]
    )
    for one, two in pairs[np.argsort(np.maximum(gaps, 0).sum(axis=1), kind="stable")].tolist():
        one, two = where[one], where[two]
        if one != two and _belong(around[one], around[two], height):
            around[one] = _around(np.array([around[one], around.pop(two)]))
            for row in groups[two]:
                where[row] = one
            groups[one] += groups.pop(two)
    tall = max(0.4 * height, LEAST_HEIGHT)
    return [np.array(groups[row]) for row, box in around.items() if box[3] - box[1] >= tall]


def _belong(one, two, height):
    """Whether two boxes hold pieces of one digit; `height`: the usual digit's."""
    (left, top, right, bottom), (left2, top2, right2, bottom2) = one, two
    tall, tall2 = bottom - top, bottom2 - top2
    beside = max(left, left2) - min(right, right2)  # negative: one above the other
    apart = max(top, top2) - min(bottom, bottom2)  # negative: beside each other
    if max(bottom, bottom2) - min(top, top2) > 1.2 * max(height, min(max(tall, tall2), 2 * height)):
        return False
    if -beside >= 0.5 * min(right - left, right2 - left2) and apart <= 0.15 * height:
        return True
    # a bar beside the upper end, as that of a 5
    if tall > tall2:
        top, bottom, tall, top2, bottom2, tall2 = top2, bottom2, tall2, top, bottom, tall
    bar = tall <= 0.4 * height and tall2 > 0.6 * height and top + bottom < top2 + bottom2
    return bar and beside <= 0.1 * height and apart <= 0.05 * height


def several(mask):
    """How many digits the mask `(H, W)` of what was taken for one digit seems to hold; 1 where there is doubt.

    Only parts that stand clear of each other and are nearly as high as each other count: a 5's bar, the strokes of a
    4 and most pieces of a broken digit are not. In a mask of fewer than 20 pixels a side there is always doubt.
    """
    if max(mask.shape) < 20:
        return 1
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    boxes = np.array([(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels)])
    areas = np.bincount(labels.ravel())[1:]
    digits = []
    for i in np.argsort(-areas):
        if areas[i] >= 0.2 * areas.max() and all(_clear(boxes[i], boxes[j]) for j in digits):
            digits.append(i)
    return len(digits)


def _clear(one, two):
    """Whether two boxes are those of digits that stand beside or above each other."""
    (wide, tall), (wide2, tall2) = one[2:] - one[:2], two[2:] - two[:2]
    beside, apart = np.maximum(one[:2], two[:2]) - np.minimum(one[2:], two[2:])  # gaps; negative where they overlap
    low, high = min(tall, tall2), max(tall, tall2)
    in_a_line = beside >= -0.05 * high and -apart >= 0.5 * low
    in_rows = apart >= 0.05 * high and -beside >= 0.3 * min(wide, wide2)
    bar = tall < 0.6 * wide or tall2 < 0.6 * wide2
    return low >= 0.65 * high and not bar and (in_a_line or in_rows)


def _cut(found, score):
    """The same digits, touching ones apart.

    What is as wide as it is high, and as the usual digit is high, is as likely one digit as two; each tenth of it
    more counts for two like 1.2 in the log-odds. Fitted to pages of MNIST's digits, apart and touching.
    """
    usual = np.median([each.mask.shape[0] for each in found])
    for _ in range(2):  # three that touch are cut twice
        wide = np.array([each.mask.shape[1] / max(each.mask.shape[0], usual) for each in found])
        need = _log_odds(score(found)) + 1 - 12 * (wide - 1)
        cuts = {  # index → pairs of pieces
            i: [pair for at in CUTS for pair in _halves(found[i], at)] for i in np.flatnonzero(need < _log_odds(1))
        }
        pieces = [piece for pairs in cuts.values() for pair in pairs for piece in pair]
        if not pieces:
            break
        sure = iter(_log_odds(score(pieces)).reshape(-1, 2).min(axis=1).tolist())
        result, count = [], len(found)
        for i, each in enumerate(found):
            best, pair = max([(next(sure), j) for j in range(len(cuts.get(i, ())))], default=(-np.inf, None))
            result += cuts[i][pair] if best > need[i] else [each]
        found = result
        if len(found) == count:
            break
    return found


def _log_odds(probability):
    probability = np.clip(probability, 1e-4, 1 - 1e-4)
    return np.log(probability / (1 - probability))


def _halves(found, at):
    """The two pieces on either side of the path of least ink near a fraction `at` of the width; none if too small."""
    height, width = found.mask.shape
    start, stop = max(1, int((at - 0.15) * width)), min(width, int((at + 0.15) * width) + 1)
    if start >= stop:
        return []
    cost = np.clip(found.ink[:, start:stop], 0, None) + 0.02 * found.ink.max()
    total = cost.copy()
    for row in range(1, height):
        above = np.pad(total[row - 1], 1, constant_values=np.inf)
        total[row] += np.minimum(np.minimum(above[:-2], above[2:]), above[1:-1])
    path = np.empty(height, int)
    path[-1] = total[-1].argmin()
    for row in range(height - 2, -1, -1):
        low = max(path[row + 1] - 1, 0)
        path[row] = low + total[row, low : path[row + 1] + 2].argmin()
    left = found.mask & (np.arange(width) < (path + start)[:, None])
    pieces = []
    for mask in (left, found.mask & ~left):
        if mask.sum() < 0.12 * found.mask.sum():
            return []
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        inside = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        if rows[-1] - rows[0] < 0.45 * height:
            return []
        x, y = found.box[:2]
        box = (x + int(columns[0]), y + int(rows[0]), x + int(columns[-1]) + 1, y + int(rows[-1]) + 1)
        ink = np.where(ndimage.binary_dilation(mask[inside]), found.ink[inside], 0)
        pieces.append(Found(box, found.line, ink, mask[inside]))
    return [pieces]


# ------------------------------------------------------------------------------------------------
# Lines of writing
# ------------------------------------------------------------------------------------------------


def _lines(boxes):
    """The boxes' rows in reading order: a list of lists, one for each line of writing."""
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    heights = boxes[:, 3] - boxes[:, 1]
    usual = np.median(heights)
    best = None
    for turn in TURNS[np.argsort(abs(TURNS), kind="stable")]:
        level = np.sort(y - np.tan(np.radians(turn)) * x)
        # how closely the digits' middles lie together in lines
        near = np.searchsorted(level, level + 0.25 * usual) - np.searchsorted(level, level - 0.25 * usual)
        score = near.sum() * (1 - abs(turn) / 100)
        if best is None or score > best[0]:
            best = score, turn
    level = y - np.tan(np.radians(best[1])) * x
    lines = []
    for i in np.argsort(level):
        if lines and level[i] - np.mean(level[lines[-1]]) < 0.5 * max(usual, heights[i]):
            lines[-1].append(i)
        else:
            lines.append([i])
    return [sorted(line, key=lambda i: x[i]) for line in lines]
