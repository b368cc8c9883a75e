"""Any image of digits → 28×28 pixels as in MNIST → ten probabilities, for one digit or for each on a page.

MNIST's digits were scaled to fit 20×20 pixels and centred by their mass in 28×28, white on black
(LeCun et al. 1998, Gradient-based learning applied to document recognition, section III.A). A
photograph or drawing is preprocessed in the same way before it goes into a network.
"""

import contextlib
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage

from images import WORKING_SIZE, ImageError, read_image, upright_size
from ink import digit_ink, is_cropped
from model import MEAN, STD
from novelty import are_digits, temperature
from pages import READING_SIZE, find_digits, several

SIDE, FRAME = 20, 28  # the digit's longest side and the frame's, in pixels
MIN_STROKE = 2.0  # pixels at 20×20; MNIST's strokes are about 2 to 3, a ball-point pen's 0.5


# ------------------------------------------------------------------------------------------------
# Preparing
# ------------------------------------------------------------------------------------------------


def prepare(image):
    """Any image of a single digit → `(28, 28)` float32 in [0, 1], white on black, as MNIST's are.

    Dark on light or light on dark; uneven lighting, ruled lines and a box around the digit are removed. Takes what
    `read_image` takes and raises what it raises, and ImageError for an image that is blank or too small, or holds
    several digits.
    """
    _, mask, digit, _ = _one(image)
    if (count := several(mask)) > 1:
        raise ImageError(f"{_name(image)} holds {count} digits, and one was asked for: use predict_all, or --all.")
    return digit


def _one(image):
    """The grey values, the mask of the only digit, its `(28, 28)` pixels, and its box in pixels of the grey values."""
    grey = _read(image, WORKING_SIZE)
    found = digit_ink(grey)
    if found is None:
        raise ImageError(_blank(image))
    ink, mask, box = found
    return grey, mask, _as_mnist(ink, mask), box


def _as_mnist(ink, mask):
    """A digit's crop: its ink and where it is, both `(h, w)` → `(28, 28)` in [0, 1]."""
    # The core of a stroke is white in MNIST, whatever the pen. In a dithered image most of the mask is paper, so
    # that the percentile may be 0: half the maximum then.
    full = max(np.percentile(ink[mask], 85), ink[mask].max() / 2)
    small = _fit_in_square(np.clip(ink / full, 0, 1), mask)
    return torch.from_numpy(_centred(small))


def _read(image, longest):
    """As `read_image`; raises ImageError for what is too small, too."""
    grey = read_image(image, longest)
    if min(grey.shape) < 4 or max(grey.shape) < 8:
        size = f"{grey.shape[1]}×{grey.shape[0]}"
        raise ImageError(f"{_name(image)} is too small for a digit: {size} pixels. Use a larger one.")
    return grey


def _name(image):
    return str(image) if isinstance(image, str | Path) else "The image"


def _blank(image):
    return f"{_name(image)} is blank: no digit stands out from it. (What is transparent counts as white.)"


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


def predict(model, image, *, mean=None, std=None):
    """Ten probabilities `(10,)`, and the image `(28, 28)` in [0, 1] that the network saw.

    `model`: one of model.py, evaluated as in `model.eval()` whatever its mode; `image`: what `prepare`
    takes. `mean` and `std`: the normalisation that the model was trained with, by default what `fit` or
    `load_model` noted in `model.normalisation`, else MNIST's. Raises what `prepare` raises, and
    ValueError when the answer is not finite. Whether it is a digit at all says `novelty.is_digit`.
    """
    digit = prepare(image)
    return _probabilities(model, digit[None], mean, std)[0], digit


class Reading(NamedTuple):
    """One digit of an image, as it was read."""

    digit: int
    probability: float
    probabilities: torch.Tensor  # (10,)
    image: torch.Tensor  # (28, 28) in [0, 1], what the network saw
    box: tuple  # (left, top, right, bottom) in pixels of the upright image, right and bottom exclusive
    line: int  # of writing, from 0
    is_digit: bool  # False where it is like none that the network learned


def predict_all(model, image, *, mean=None, std=None):
    """Every digit of an image, as a list of `Reading`: line by line, from left to right.

    The arguments are `predict`'s. Raises what `read_image` raises, ImageError for an image without a digit, and
    ValueError when the answer is not finite.
    """
    grey = _read(image, READING_SIZE)

    def answers_to(found):
        digits = torch.stack([_as_mnist(each.ink, each.mask) for each in found])  # (N, 28, 28)
        return digits, _probabilities(model, digits, mean, std)  # (N, 10)

    alone = is_cropped(grey) and several(_one(image)[1]) == 1
    found = [] if alone else find_digits(grey, lambda found: answers_to(found)[1].amax(dim=1).numpy())
    if len(found) > 1:
        digits, answers = answers_to(found)
        boxes, lines = [each.box for each in found], [each.line for each in found]
    else:  # of a single digit `prepare` knows more: one that fills the picture, or a very faint one
        grey, _, digit, box = _one(image)
        digits, boxes, lines = digit[None], [box], [0]
        answers = _probabilities(model, digits, mean, std)
    width, height = upright_size(image)
    scales = (width / grey.shape[1], height / grey.shape[0]) * 2
    return [
        Reading(
            int(answer.argmax()),
            float(answer.max()),
            answer,
            digit,
            tuple(round(side * scale) for side, scale in zip(box, scales, strict=True)),
            line,
            known,
        )
        for digit, answer, box, line, known in zip(
            digits, answers, boxes, lines, are_digits(model, digits), strict=True
        )
    ]


@torch.no_grad()  # not inference_mode: what comes back may go into a computation with gradients
def _probabilities(model, digits, mean, std):
    """Digits `(N, 28, 28)` in [0, 1] → `(N, 10)` on the CPU."""
    noted = getattr(model, "normalisation", (MEAN, STD))
    mean, std = noted[0] if mean is None else mean, noted[1] if std is None else std
    device = next(model.parameters()).device
    with _evaluating(model):
        outputs = model(((digits - mean) / std)[:, None].to(device)).float()
    probabilities = F.softmax(outputs / temperature(model), dim=1).cpu()
    if not probabilities.isfinite().all():
        raise ValueError("The model's answer is not a number: its weights are damaged. Use another checkpoint.")
    return probabilities
