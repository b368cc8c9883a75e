"""Any image of a single digit → 28×28 pixels as in MNIST → ten probabilities.

MNIST's digits were scaled to fit 20×20 pixels and centred by their mass in 28×28, white on black
(LeCun et al. 1998, Gradient-based learning applied to document recognition, section III.A). A
photograph or drawing is preprocessed in the same way before it goes into a network.
"""

import contextlib
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from images import ImageError, read_image
from model import MEAN, STD

SIDE, FRAME = 20, 28  # the digit's longest side and the frame's, in pixels
MIN_CONTRAST = 0.08  # of full scale: a smaller difference from the paper is not ink …
FAINT = 0.03  # … but on paper as even as a drawing program's even a fainter line is
MIN_SIZE = 112  # longest side (pixels) below which an image is enlarged, so that a line of one pixel has a width
MIN_STROKE = 2.0  # pixels at 20×20; MNIST's strokes are about 2 to 3, a ball-point pen's 0.5


# ------------------------------------------------------------------------------------------------
# Finding the digit
# ------------------------------------------------------------------------------------------------


def prepare(image):
    """Any image of a single digit → `(28, 28)` float32 in [0, 1], white on black, as MNIST's are.

    Dark on light or light on dark; uneven lighting is removed. Takes what `read_image` takes and
    raises what it raises, and ImageError for an image that is blank or too small.
    """
    grey = read_image(image)
    name = str(image) if isinstance(image, str | Path) else "The image"
    if min(grey.shape) < 4 or max(grey.shape) < 8:
        raise ImageError(f"{name} is too small for a digit: {grey.shape[1]}×{grey.shape[0]} pixels. Use a larger one.")
    ink = without_lines(_ink(_enlarged(_with_margin(grey))))
    mask = _digit(ink)
    if mask is None:
        raise ImageError(f"{name} is blank: no digit stands out from it. (What is transparent counts as white.)")
    ink = np.where(ndimage.binary_dilation(mask), ink, 0)  # with the blurred edge of the strokes
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    ink, mask = ink[box], mask[box]
    # The core of a stroke is white in MNIST, whatever the pen. In a dithered image most of the mask is paper, so
    # that the percentile may be 0: half the maximum then.
    full = max(np.percentile(ink[mask], 85), ink[mask].max() / 2)
    small = _fit_in_square(np.clip(ink / full, 0, 1), mask)
    return torch.from_numpy(_centred(small))


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
    if not 0.03 < rim.mean() < 0.97 or within > 0.05 * grey.var():
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
    """The ink without thin straight lines from rim to rim: ruled or squared paper, a printed box, a page's edge.

    A line may rise or fall by up to 0.06 of its length. Where a stroke crosses it, the stroke is kept. Where
    nothing of a digit's size would be left, the lines are the digit.
    """
    (level, rows), (upright, columns) = _level_lines(ink), _level_lines(ink.T)
    lines = rows | columns.T
    if not lines.any():
        return ink
    left = np.where(rows & columns.T, 0, np.minimum(level, upright.T))  # lines that cross keep nothing of each other
    labels, count = ndimage.label(left > 0.3 * np.percentile(left, 99.5))
    # a line that is bent leaves pieces beside the straight one
    beside = ndimage.binary_dilation(lines, iterations=math.ceil(0.03 * max(ink.shape)))
    remains = np.concatenate([[False], ndimage.mean(beside, labels, range(1, count + 1)) > 0.8])
    left = np.where(ndimage.binary_dilation(remains[labels], iterations=3), 0, left)
    longest = max(
        (
            max(p.stop - p.start for p in part)
            for part in ndimage.find_objects(np.where(remains[labels], 0, labels))
            if part
        ),
        default=0,
    )
    return left if longest > max(ink.shape) / 6 else ink


def _level_lines(ink, parts=16):
    """The ink without lines from the left rim to the right one, and the mask of where they were."""
    height, width = ink.shape
    if width < 0.6 * height:  # a stroke might span it
        return ink, np.zeros(ink.shape, bool)
    at, least = np.arange(width), max(FAINT, 0.15 * np.percentile(ink, 99.5))

    def sloped(rise):
        return np.arange(height)[:, None] + np.round(rise * (at / width - 0.5)).astype(int)  # (H, W) rows

    best, lines = (0, None, None), np.zeros(ink.shape, bool)
    for rise in np.arange(-0.06, 0.0601, max(0.01, 1 / width)) * width:
        rows = sloped(rise)
        sheared = np.where((rows >= 0) & (rows < height), ink[rows.clip(0, height - 1), at], 0)
        along = np.stack([part.mean(axis=1) for part in np.array_split(sheared, parts, axis=1)])
        # ink at both ends, and in all parts of the way but two, where it may be worn
        strength = np.minimum(np.sort(along, axis=0)[2], np.minimum(along[0], along[-1]))
        best = max(best, (strength.max(), rows, strength), key=lambda found: found[0])
    peak, rows, strength = best
    ink = ink.copy()
    labels, count = ndimage.label(strength > least / 2) if peak > least else (None, 0)
    for number in range(1, count + 1):
        band = np.flatnonzero(labels == number)
        if strength[band].max() < least or len(band) > max(2, 0.05 * height):
            continue
        # A stroke that crosses the line has ink on both sides of it.
        above, below = (_beside(ink, rows[row.clip(0, height - 1)], at) for row in (band[0] - 1, band[-1] + 1))
        where = rows[band].clip(0, height - 1), at[None]
        ink[where] = np.minimum(ink[where], np.minimum(above, below))
        lines[where] = True
    return ink, lines


def _beside(ink, rows, columns):
    """The ink along a line's edge, widened, since strokes cross at any angle."""
    return ndimage.maximum_filter1d(ink[rows.clip(0, len(ink) - 1), columns], 5)


def _digit(ink):
    """The digit's mask `(H, W)`, without specks and what touches the border; None for a blank page."""
    smooth = ndimage.gaussian_filter(ink, max(ink.shape) / 400)
    noise = 1.4826 * np.median(abs(ink - smooth))
    # Uneven paper deviates from its surface; the more it does, the more a line must to be told from it.
    contrast = np.clip(10 * 1.4826 * np.median(abs(ink)), FAINT, MIN_CONTRAST)
    high = np.percentile(smooth, 99.95) if smooth.size > 4000 else smooth.max()
    if high < max(contrast, 4 * noise):
        return None
    mask = smooth > max(_otsu(np.clip(smooth, 0, high)), contrast / 2)
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    inside = sizes.copy()
    inside[border] = 0
    if inside.max() >= 0.2 * sizes.max():  # else the digit itself touches the border
        sizes = inside
    return (sizes >= 0.05 * sizes.max())[labels] & mask


def _otsu(values, bins=128):
    """The threshold with the largest variance between the two classes (Otsu 1979)."""
    counts, edges = np.histogram(values, bins)
    centres = (edges[:-1] + edges[1:]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * centres)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return centres[np.nanargmax(between)]


def _fit_in_square(ink, mask):
    """The cropped digit scaled to 20 pixels on its longest side, its aspect ratio kept."""
    scale = SIDE / max(ink.shape)
    # In a strip of width w the mean distance to the edge is w / 4. The strokes of a thin pen would fade when they
    # are scaled down to 20 pixels, and are made wider first.
    stroke = 4 * (ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1][mask].mean() - 0.5) * scale
    if stroke < MIN_STROKE:
        extra = math.ceil((MIN_STROKE - stroke) / scale / 2)
        y, x = np.mgrid[-extra : extra + 1, -extra : extra + 1]
        ink = ndimage.grey_dilation(np.pad(ink, extra), footprint=x * x + y * y <= extra * extra)
        scale = SIDE / max(ink.shape)
    size = [max(1, round(side * scale)) for side in ink.shape[::-1]]
    resample = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    small = np.asarray(Image.fromarray(ink).resize(size, resample), np.float32)
    return np.clip(small / small.max(), 0, 1)


def _centred(small):
    """The digit in a 28×28 frame, its centre of mass at pixel (14, 14), where MNIST's are."""
    frame = np.zeros((FRAME, FRAME), np.float32)
    corner = []
    for side, centre in zip(small.shape, ndimage.center_of_mass(small), strict=True):
        start = round(FRAME / 2 - centre)
        corner.append(min(max(start, 0), FRAME - side))
    top, left = corner
    frame[top : top + small.shape[0], left : left + small.shape[1]] = small
    return frame


# ------------------------------------------------------------------------------------------------
# Predicting
# ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _evaluating(model):
    """Eval mode; afterwards each module's mode is as it was, that of a frozen BatchNorm too."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@torch.no_grad()  # not inference_mode: what comes back may go into a computation with gradients
def predict(model, image, *, mean=None, std=None):
    """Ten probabilities `(10,)`, and the image `(28, 28)` in [0, 1] that the network saw.

    `model`: one of model.py, evaluated as in `model.eval()` whatever its mode; `image`: what `prepare`
    takes. `mean` and `std`: the normalisation that the model was trained with, by default what `fit` or
    `load_model` noted in `model.normalisation`, else MNIST's. Raises what `prepare` raises, and
    ValueError when the answer is not finite.
    """
    digit = prepare(image)
    noted = getattr(model, "normalisation", (MEAN, STD))
    mean, std = noted[0] if mean is None else mean, noted[1] if std is None else std
    device = next(model.parameters()).device
    with _evaluating(model):
        outputs = model(((digit - mean) / std).view(1, 1, FRAME, FRAME).to(device))
    probabilities = outputs[0].float().exp().cpu()
    if not probabilities.isfinite().all():
        raise ValueError("The model's answer is not a number: its weights are damaged. Use another checkpoint.")
    return probabilities, digit
