"""One digit's ink told from paper: light that is uneven, a margin that is missing, lines, boxes and edges around it."""

import math

import numpy as np
from PIL import Image
from scipy import ndimage

MIN_CONTRAST = 0.08  # of full scale: a smaller difference from the paper is not ink …
FAINT = 0.03  # … but on paper as even as a drawing program's even a fainter line is
MIN_SIZE = 112  # longest side (pixels) below which an image is enlarged, so that a line of one pixel has a width


def digit_ink(grey):
    """Grey values `(H, W)` in [0, 1] of a picture of one digit → its ink, its mask and its box.

    `ink`: float32, positive where there is ink, and `mask`: bool, True on the digit's strokes, are of the same
    size, cropped to the digit; `box`: (left, top, right, bottom) in pixels of `grey`. None for a blank page.
    """
    padded = _with_margin(grey)
    large = _enlarged(padded)
    ink, mask = _found(large) if large is padded else _seen(_ink(large))
    if mask is None:
        return None
    ink = np.where(ndimage.binary_dilation(mask), ink, 0)  # with the blurred edge of the strokes
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    crop = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    times, margin = len(large) // len(padded), (len(padded) - len(grey)) // 2
    ends = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / times - margin
    (height, width), (left, top, right, bottom) = grey.shape, ends.tolist()
    return ink[crop], mask[crop], (max(left, 0), max(top, 0), min(right, width), min(bottom, height))


def is_cropped(grey):
    """Does a digit, it seems, fill the picture `(H, W)` from rim to rim?"""
    return _with_margin(grey) is not grey


def _with_margin(grey):
    """The grey values; where a digit is cropped so tightly that it touches the rim, with paper laid around it.

    Such a picture has two levels, and both lie on the rim. The paper is the one that has more of the rim and of
    the corners; which of the two is thinner or smaller would not tell: a thick pen's holes are both.
    """
    if np.ptp(grey) < FAINT:
        return grey
    dark = grey <= _otsu(grey.ravel())
    rim = np.concatenate([dark[0], dark[-1], dark[:, 0], dark[:, -1]])
    within = dark.mean() * grey[dark].var() + (1 - dark.mean()) * grey[~dark].var()
    limit = 0.05 if max(grey.shape) > 32 else 0.35  # so small is no photograph, and its edges are most of its ink
    if not 0.03 < rim.mean() < 0.97 or within > limit * grey.var():
        return grey
    corners = dark[[0, 0, -1, -1], [0, -1, 0, -1]]
    paper = dark if (rim.mean() - 0.5) + (corners.mean() - 0.5) / 2 > 0 else ~dark
    return np.pad(grey, max(grey.shape) // 4, constant_values=np.median(grey[paper]))


def _enlarged(grey):
    """Small images at a few times their size."""
    times = math.ceil(MIN_SIZE / max(grey.shape))
    if times == 1:
        return grey
    size = [side * times for side in grey.shape[::-1]]
    return np.clip(np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC)), 0, 1)


def _seen(ink):
    """The ink without lines, and the digit's mask in it, which is None for a blank page."""
    ink = without_lines(ink)
    return ink, _digit(ink)


def _found(grey):
    """As `_seen`, for grey values."""
    ink, mask = _seen(_ink(grey))
    if mask is None or not _doubtful(ink, mask):
        return ink, mask
    # A shadow's or a page's edge, or a lamp's spot: such light is no smooth surface. A local background follows it,
    # but leaves less of thick strokes, and finds something anywhere; so it comes second.
    window = round(0.15 * max(grey.shape))
    closing, opening = ndimage.grey_closing(grey, window), ndimage.grey_opening(grey, window)
    candidates = []
    for local in (closing - grey, grey - opening):
        local, found = _seen(local)
        # (a large part of the picture would be the squares between lines)
        if found is not None and found.mean() < 0.3 and not _doubtful(local, found):
            candidates.append((local, found))
    same = any((found & mask).sum() > 0.5 * mask.sum() for _, found in candidates)
    if not candidates or (same and not _on_rim(mask)):  # no shadow but a blurred digit, and this is the whole of it
        return ink, mask
    return max(candidates, key=lambda each: each[0][each[1]].mean())


def _on_rim(mask):
    """Does the mask lie along a side of the picture?"""
    return max(mask[0].mean(), mask[-1].mean(), mask[:, 0].mean(), mask[:, -1].mean()) > 0.4


def _doubtful(ink, mask):
    """Does the mask lie along a side of the picture, or is it without edges, as a shadow or a lamp's spot is?"""
    if _on_rim(mask):
        return True
    depth = ndimage.distance_transform_edt(mask)
    size = _longest(mask.astype(int))
    steep = np.hypot(*np.gradient(ndimage.gaussian_filter(ink, 1)))[mask & (depth <= 1)]
    return ink[mask].mean() > np.percentile(steep, 30) * 0.1 * size


def _ink(grey):
    """How much each pixel of grey values `(H, W)` differs from the paper, positive where there is ink.

    The paper's brightness is modelled as a quadratic surface, fitted by iteratively reweighted least
    squares so that the ink does not count; the ink is on the side of the larger deviations, and may be
    darker or lighter than the paper.
    """
    height, width = grey.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
    values = grey.ravel()
    step = max(1, values.size // 20_000)  # enough points to fit six numbers
    points, samples = terms[::step], values[::step]
    # The border of the picture shows paper, even where a thick digit fills more than half of it.
    weight = np.clip((np.maximum(abs(x), abs(y)).ravel()[::step] - 0.5) * 2, 0.05, 1) ** 2
    start, keep = weight, np.ones(len(samples), bool)
    for _ in range(12):
        surface = np.linalg.lstsq(points * weight[:, None], samples * weight, rcond=None)[0]
        off = abs(samples - points @ surface)
        limit = max(3 * 1.4826 * np.median(off[keep]), 0.02)
        keep = off < limit
        if keep.sum() < 50:
            break
        weight = start * np.clip(1 - (off / limit) ** 2, 0, 1)  # Tukey's biweight
    difference = (terms @ surface).reshape(grey.shape) - grey
    far = np.where(abs(difference) > max(FAINT, 0.3 * abs(difference).max()), difference, 0)
    return difference if far.sum() >= 0 else -difference


def without_lines(ink):
    """The ink without thin straight lines across the whole picture: ruled or squared paper, a printed box.

    A line may rise or fall by up to 0.06 of its length. Where a stroke crosses it, the stroke is kept. Where
    nothing of a digit's size would be left, the lines are the digit.
    """
    (level, rows), (upright, columns) = _level_lines(ink), _level_lines(ink.T)
    lines = rows | columns.T
    if not lines.any():
        return ink
    left = np.where(rows & columns.T, 0, np.minimum(level, upright.T))  # lines that cross keep nothing of each other
    labels, count = ndimage.label(left > 0.3 * np.percentile(left, 99.5))
    # a line that is bent leaves thin pieces beside the straight one
    thin = 0.04 * max(ink.shape)
    near = ndimage.mean(ndimage.binary_dilation(lines, iterations=math.ceil(thin)), labels, range(1, count + 1)) > 0.8
    sides = np.array([[p.stop - p.start for p in part] for part in ndimage.find_objects(labels)]).reshape(-1, 2)
    remains = np.concatenate([[False], near & (sides.min(axis=1) < thin)])[labels]
    left = np.where(ndimage.binary_dilation(remains, iterations=3), 0, left)
    return left if _longest(np.where(remains, 0, labels)) > max(ink.shape) / 6 else ink


def _longest(labels):
    """The longest side of any labelled part, in pixels."""
    return max((max(p.stop - p.start for p in part) for part in ndimage.find_objects(labels) if part), default=0)


def _level_lines(ink, parts=16):
    """The ink without lines from left to right, and the mask of where they were."""
    height, width = ink.shape
    lines = np.zeros(ink.shape, bool)
    if width < 2 * parts:
        return ink, lines
    # The mean of each row in each of the parts; then lines of every rise are sums of shifted parts.
    edges = np.linspace(0, width, parts + 1).astype(int)[:-1]
    means = np.add.reduceat(ink, edges, axis=1) / np.diff(edges, append=width)  # (H, parts)
    apart = max(2, round(0.03 * height))  # a line is darker than what is above and below it, a stroke or shadow is not
    padded = np.pad(means, ((apart, apart), (0, 0)))
    means = means - np.maximum(padded[: -2 * apart], padded[2 * apart :])
    rises = np.arange(-0.06, 0.0601, max(0.005, 1 / width)) * width
    rises = rises[np.argsort(abs(rises), kind="stable")]  # in a drawing several fit alike, and the first is taken
    middles = (np.arange(parts) + 0.5) / parts - 0.5
    rows = np.arange(height)[None, :, None] + np.round(rises[:, None, None] * middles).astype(int)  # (rises, H, parts)
    along = np.where((rows >= 0) & (rows < height), means[rows.clip(0, height - 1), np.arange(parts)], 0)
    inner = np.sort(along[..., 1:-1], axis=2)[..., 2]  # two parts may be worn
    ends = np.minimum(along[..., 0], along[..., -1])
    least = 0.05 * np.percentile(ink, 99.5)  # no stroke goes through all the parts, so little is enough
    across, boxed = (_peaks(strength, least, height) for strength in (np.minimum(inner, ends), inner))
    if len(boxed) > 1 and np.ptp([row for _, row, _ in boxed]) > height / 2:  # the upper and the lower side of a box
        across = boxed
    if width < 0.6 * height and len(across) < 2:  # a stroke might span the short side
        across = []
    cleaned, at = ink.copy(), np.arange(width)
    for rise, row, half in across:
        centre = row + np.round(rises[rise] * ((at + 0.5) / width - 0.5)).astype(int)
        band = centre + np.arange(-half, half + 1)[:, None]  # (thickness, W)
        # A stroke that crosses the line has ink on both sides of it; it may do so at any angle.
        above, below = (
            ndimage.maximum_filter1d(ink[c.clip(0, height - 1), at], 5) for c in (band[0] - 1, band[-1] + 1)
        )
        where = band.clip(0, height - 1), at[None]
        cleaned[where] = np.minimum(cleaned[where], np.minimum(above, below))
        lines[where] = True
    return cleaned, lines


def _peaks(strength, least, height):
    """The lines (index of the rise, row, half the thickness) in strengths `(rises, H)`, the strongest first."""
    found, left = [], strength.copy()
    thick = max(1, round(0.025 * height))
    while len(found) < 100:
        rise, row = np.unravel_index(left.argmax(), left.shape)
        if left[rise, row] <= max(least, 1e-6):
            break
        profile = strength[rise] < left[rise, row] / 3
        up, down = profile[: row + 1][::-1].argmax() or row + 1, profile[row:].argmax() or height - row
        half = max(up, down)
        if half <= thick + 1:
            found.append((rise, row, half))
        left[:, max(0, row - half - 1) : row + half + 2] = 0
    return found


def _digit(ink):
    """The digit's mask `(H, W)`, without specks and what touches the border; None for a blank page."""
    smooth = ndimage.gaussian_filter(ink, max(ink.shape) / 400)
    noise = 1.4826 * np.median(abs(ink - smooth))
    # Uneven paper deviates from its surface; the more it does, the more a line must to be told from it.
    contrast = np.clip(10 * 1.4826 * np.median(abs(ink)), FAINT, MIN_CONTRAST)
    labels = _parts(smooth, contrast, noise)
    if labels is None:
        return None
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    if border.any():  # look for the digit without what comes in from outside, which may be darker
        outside = np.isin(labels, border[border > 0])
        shade, _ = ndimage.label(smooth > max(contrast / 2, 3 * noise), np.ones((3, 3)))  # with its blurred edge
        outside = np.isin(shade, np.unique(shade[outside]))
        within = _parts(np.where(outside, 0, smooth), contrast, noise)
        if within is not None and _longest(within) >= 0.15 * max(ink.shape):  # else the digit touches the border
            labels = within
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= 0.05 * sizes.max())[labels]


def _parts(smooth, contrast, noise):
    """The labels `(H, W)` of the connected parts of the ink; None for a blank page."""
    high = np.percentile(smooth, 99.95) if smooth.size > 4000 else smooth.max()
    if high < max(contrast, 4 * noise):
        return None
    return ndimage.label(smooth > max(_otsu(np.clip(smooth, 0, high)), contrast / 2), np.ones((3, 3)))[0]


def _otsu(values, bins=128):
    """The threshold with the largest variance between the two classes (Otsu 1979)."""
    counts, edges = np.histogram(values, bins)
    centres = (edges[:-1] + edges[1:]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * centres)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return centres[np.nanargmax(between)]
