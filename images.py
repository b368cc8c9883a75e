"""Any image, a file or an array → grey values, upright and on white; what can't be used is refused in one sentence."""

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

# Without EPS, for which PIL runs Ghostscript, and TIFF, whose library prints to stderr.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM")
MAX_PIXELS = 64_000_000  # larger images are refused before decoding
WORKING_SIZE = 400  # longest side (pixels) of the image in which one digit is segmented


class ImageError(ValueError):
    """The image can't be used; the message says why."""


def read_image(image, longest=WORKING_SIZE):
    """A path, PIL image, array or tensor → grey values `(H, W)` float32 in [0, 1], 0 is black.

    Arrays: `(H, W)`, `(1, H, W)`, `(H, W, 1)`, `(H, W, 3)` or `(H, W, 4)`; bool, floats in [0, 1], or
    integers up to 255 or, for more than 8 bits, 1023, 4095, 16383 or 65535. EXIF orientation is
    applied, transparency laid onto white. An image whose longer side has more than `longest` pixels is
    scaled down to that.
    Raises FileNotFoundError, IsADirectoryError or another OSError for a path that can't be opened,
    ImageError for a file or array that is not an image, is empty, or is larger than 64 megapixels.
    """
    if isinstance(image, str | Path):
        return _from_file(Path(image), longest)
    if isinstance(image, Image.Image):
        return _decoded(image, "The image", longest)
    return _shrink(_from_array(image), longest)


def upright_size(image):
    """Width and height, in pixels, of what `read_image` reads, upright but not scaled down."""
    if isinstance(image, str | Path):
        with _opened(Path(image)) as opened:
            return upright_size(opened)
    if isinstance(image, Image.Image):
        return image.size if _orientation(image) < 5 else image.size[::-1]
    height, width = _plane(image).shape[:2]
    return width, height


def _from_file(path, longest):
    with _opened(path) as image:
        if image.format in ("JPEG", "MPO") and image.width * image.height <= MAX_PIXELS:
            # large photographs are decoded at a fraction, and only their brightness
            image.draft("L" if image.mode == "RGB" else None, (longest, longest))
        return _decoded(image, str(path), longest)


def _opened(path):
    """The file as a PIL image that is not decoded yet."""
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
            formats = FORMATS
            if b"ftyp" in _start(path):  # HEIC, what phones make
                pillow_heif = _heif(path)
                pillow_heif.register_heif_opener()
                formats = (*FORMATS, "HEIF")
            return Image.open(path, formats=formats)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(_unknown(path)) from None
    except Image.DecompressionBombError:
        raise ImageError(_too_large(path)) from None
    except PermissionError:
        raise PermissionError(f"{path} can't be opened: you have no permission to read it.") from None
    except Exception:
        raise ImageError(_damaged(path)) from None


def _heif(path):
    """The package for such a file, which is imported for one only."""
    try:
        import pillow_heif
    except ImportError:
        raise ImageError(f"{path} needs the package pillow-heif: run pip install -r requirements.txt again.") from None
    return pillow_heif


def _start(path):
    with open(path, "rb") as file:
        return file.read(12)


def _unknown(path):
    if _start(path).startswith(b"%PDF"):
        return f"{path} is a PDF, not an image: save its page as a PNG first, by a screenshot for example."
    return f"{path} is not an image that can be read: use PNG, JPEG, HEIC, BMP, GIF or WebP."


def _decoded(image, name, longest):
    try:
        return _grey(image, name, longest)
    except (ImageError, MemoryError):
        raise
    except Exception:  # PIL's decoders fail with nearly any exception on a damaged file
        raise ImageError(_damaged(name)) from None


def _damaged(name):
    return f"{name} is damaged and can't be read: use another copy of it."


def _too_large(name):
    return f"{name} is too large: at most {MAX_PIXELS // 1_000_000} megapixels are read; scale it down first."


def _grey(image, name, longest):
    """A PIL image, upright and on white, as grey values in [0, 1]."""
    if image.width * image.height == 0:
        raise ImageError(f"{name} is empty: it is {image.width}×{image.height} pixels.")
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(_too_large(name))
    orientation = _orientation(image)
    if image.mode.startswith(("I", "F")):  # 16 and 32 bits, which convert would clip at 255
        grey = _shrink(_scaled(np.asarray(image), name), longest)
    else:
        if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
            image = _small(image.convert("RGBA"), longest)
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        elif image.mode != "L":
            image = image.convert("RGB")
        grey = np.asarray(_small(image, longest).convert("L"), np.float32) / 255
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


def _small(image, longest):
    """The image, scaled down to so many pixels if its longer side has more."""
    scale = longest / max(image.size)
    if scale >= 1:
        return image
    size = [max(1, round(side * scale)) for side in image.size]
    return image.resize(size, Image.Resampling.BOX, reducing_gap=2)


def _shrink(grey, longest):
    """As `_small`, for grey values."""
    return np.asarray(_small(Image.fromarray(grey), longest), np.float32)


def _from_array(array):
    array = _plane(array)
    values = _scaled(array, "The array")
    if array.ndim == 3:
        grey = values[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as PIL's
        values = grey * values[..., 3] + 1 - values[..., 3] if array.shape[2] == 4 else grey
    return values


def _plane(array):
    """An array or tensor of any accepted shape as NumPy's, `(H, W)` or `(H, W, channels)`."""
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
    return array


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
