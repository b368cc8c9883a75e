"""Any image of a single digit → 28×28 pixels as in MNIST → ten probabilities.

MNIST's digits were scaled to fit 20×20 pixels and centred by their mass in 28×28, white on black
(LeCun et al. 1998, Gradient-based learning applied to document recognition, section III.A). A
photograph or drawing is preprocessed in the same way before it goes into a network.
"""

import contextlib
import math
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from scipy import ndimage

from model import MEAN, STD

# Without EPS, for which PIL runs Ghostscript, and TIFF, whose library prints to stderr.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM")
MAX_PIXELS = 64_000_000  # larger images are refused before decoding
WORKING_SIZE = 400  # longest side (pixels) of the image in which the digit is segmented
SIDE, FRAME = 20, 28  # the digit's longest side and the frame's, in pixels
MIN_CONTRAST = 0.08  # of full scale: a smaller difference from the paper is not ink
MIN_STROKE = 2.0  # pixels at 20×20; MNIST's strokes are about 2 to 3, a ball-point pen's 0.5


class ImageError(ValueError):
    """The image can't be used; the message says why."""


# ------------------------------------------------------------------------------------------------
# Opening
# ------------------------------------------------------------------------------------------------


def read_image(image):
    """A path, PIL image, array or tensor → grey values `(H, W)` float32 in [0, 1], 0 is black.

    Arrays: `(H, W)`, `(1, H, W)`, `(H, W, 1)`, `(H, W, 3)` or `(H, W, 4)`; bool, floats in [0, 1], or
    integers up to 255 or, for more than 8 bits, 1023, 4095, 16383 or 65535. EXIF orientation is
    applied, transparency laid onto white. Sides longer than 400 pixels are scaled down to 400.
    Raises FileNotFoundError, IsADirectoryError or another OSError for a path that can't be opened,
    ImageError for a file or array that is not an image, is empty, or is larger than 64 megapixels.
    """
    if isinstance(image, str | Path):
        return _from_file(Path(image))
    if isinstance(image, Image.Image):
        return _decoded(image, "The image")
    return _shrink(_from_array(image))


def _from_file(path):
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name an image in it.")
    if not path.exists():
        raise FileNotFoundError(f"There is no image {path}.")
    if not path.is_file():
        raise ImageError(f"{path} is a device or a pipe, not an image file: save the image in a file first.")
    if path.stat().st_size == 0:
        raise ImageError(f"{path} is empty: it has no bytes.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's own limit warns first; ours is below
            image = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not an image that can be read: use PNG, JPEG, BMP, GIF or WebP.") from None
    except Image.DecompressionBombError:
        raise ImageError(_too_large(path)) from None
    except PermissionError:
        raise PermissionError(f"{path} can't be opened: you have no permission to read it.") from None
    except Exception:
        raise ImageError(_damaged(path)) from None
    with image:
        if image.format in ("JPEG", "MPO") and image.width * image.height <= MAX_PIXELS:
            image.draft(None, (WORKING_SIZE, WORKING_SIZE))  # decode large photographs at a fraction
        return _decoded(image, str(path))


def _decoded(image, name):
    try:
        return _grey(image, name)
    except (ImageError, MemoryError):
        raise
    except Exception:  # PIL's decoders fail with nearly any exception on a damaged file
        raise ImageError(_damaged(name)) from None


def _damaged(name):
    return f"{name} is damaged and can't be read: use another copy of it."


def _too_large(name):
    return f"{name} is too large: at most {MAX_PIXELS // 1_000_000} megapixels are read; scale it down first."


def _grey(image, name):
    """A PIL image, upright and on white, as grey values in [0, 1]."""
    if image.width * image.height == 0:
        raise ImageError(f"{name} is empty: it is {image.width}×{image.height} pixels.")
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(_too_large(name))
    orientation = _orientation(image)
    if image.mode.startswith(("I", "F")):  # 16 and 32 bits, which convert would clip at 255
        grey = _shrink(_scaled(np.asarray(image), name))
    else:
        if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
            image = _small(image.convert("RGBA"))
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        elif image.mode != "L":
            image = image.convert("RGB")
        grey = np.asarray(_small(image).convert("L"), np.float32) / 255
    return np.ascontiguousarray(_upright(grey, orientation))


def _orientation(image):
    """The EXIF orientation, 1 to 8; 1 where there is none or none that can be read."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # a damaged EXIF block hides only the orientation
        return 1
    return value if value in range(1, 9) else 1


def _upright(grey, orientation):
    """Undo the camera's rotation and mirroring (EXIF 2.32, tag 274).

    By hand, since `ImageOps.exif_transpose` also writes the EXIF block anew and raises where any other tag
    in it is damaged.
    """
    if orientation >= 5:
        grey = grey.T
    if orientation in (2, 3, 6, 7):
        grey = grey[:, ::-1]
    if orientation in (3, 4, 7, 8):
        grey = grey[::-1]
    return grey


def _small(image):
    """The image, scaled down to the working size if it is larger."""
    scale = WORKING_SIZE / max(image.size)
    if scale >= 1:
        return image
    size = [max(1, round(side * scale)) for side in image.size]
    return image.resize(size, Image.Resampling.BOX, reducing_gap=2)


def _shrink(grey):
    """As `_small`, for grey values."""
    return np.asarray(_small(Image.fromarray(grey)), np.float32)


def _from_array(array):
    kind = type(array).__name__
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()  # NumPy has no bfloat16
    try:
        array = np.asarray(array)
    except ValueError:
        raise ImageError("The image's rows differ in length: give (H, W) numbers.") from None
    if array.dtype.kind not in "buif":
        raise ImageError(f"An image is a path, a PIL image, or an array of numbers, not {kind}: give one of them.")
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(f"An array of shape {array.shape} is not an image: give (H, W), (H, W, 3) or (H, W, 4).")
    if array.size == 0:
        raise ImageError(f"The array is empty: its shape is {array.shape}.")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise ImageError(_too_large("The array"))
    values = _scaled(array, "The array")
    if array.ndim == 3:
        grey = values[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as PIL's
        values = grey * values[..., 3] + 1 - values[..., 3] if array.shape[2] == 4 else grey
    return values


def _scaled(array, name):
    """Numbers of any type as float32 in [0, 1]."""
    if not np.isfinite(array).all():
        raise ImageError(f"{name} holds values that are not finite (NaN or infinity): replace them.")
    if array.dtype.kind == "b":
        return array.astype(np.float32)
    low, high = array.min(), array.max()
    if array.dtype.kind == "f":
        full = 1 if high <= 1 else 255
    else:  # cameras and scanners store 10, 12 or 14 bits in 16
        full = next((full for full in (255, 1023, 4095, 16383) if high <= full), 65535)
    if low < 0 or high > full:
        raise ImageError(f"{name} holds values from {low} to {high}: give 0 to 255, or floats in [0, 1].")
    return array.astype(np.float32) / full


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
    ink = _ink(grey)
    mask = _digit(ink)
    if mask is None:
        raise ImageError(f"{name} is blank: no digit stands out from it. (What is transparent counts as white.)")
    ink = np.where(ndimage.binary_dilation(mask), ink, 0)  # with the blurred edge of the strokes
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    ink, mask = ink[box], mask[box]
    # The core of a stroke is white in MNIST, whatever the pen. In a dithered image most of the mask is paper, so
    # that the percentile may be 0: half the maximum then.
    full = max(np.percentile(ink[mask], 75), ink[mask].max() / 2)
    small = _fit_in_square(np.clip(ink / full, 0, 1), mask)
    return torch.from_numpy(_centred(small))


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
    far = np.where(abs(difference) > max(MIN_CONTRAST, 0.3 * abs(difference).max()), difference, 0)
    return difference if far.sum() >= 0 else -difference


def _digit(ink):
    """The digit's mask `(H, W)`, without specks and what touches the border; None for a blank page."""
    smooth = ndimage.gaussian_filter(ink, max(ink.shape) / 400)
    noise = 1.4826 * np.median(abs(ink - smooth))
    high = np.percentile(smooth, 99.95) if smooth.size > 4000 else smooth.max()
    if high < max(MIN_CONTRAST, 4 * noise):
        return None
    mask = smooth > max(_otsu(np.clip(smooth, 0, high)), MIN_CONTRAST / 2)
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
    stroke = 4 * ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1][mask].mean() * scale
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
