"""Photographs of digits through `predict`, and the cold start of `torchnn.py --infer`.

    python benchmarks/infer.py [--checkpoint FILE]

Makes "photos" of 500 test digits of MNIST, and reports how many of them are classified correctly. Then it times one
image from a cold start against importing torch and torchvision alone, and a photograph of 12 megapixels against
decoding it. The network is what `torchnn.py --train` has left in checkpoints/, and the figures are kept in
benchmarks/results/infer.json, unless another checkpoint is given.
"""

import argparse
import io
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy import ndimage

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import accuracy  # noqa: E402

import checkpoint  # noqa: E402
import dataset  # noqa: E402
import predict  # noqa: E402
import torchnn  # noqa: E402
import utils  # noqa: E402

PHOTOS, SEED, STARTS = 500, 0, 7


def photo(digit, generator):
    """A JPEG (bytes) of one digit `(28, 28)` uint8, like a photograph of a digit on paper under a lamp.

    200 to 800 pixels a side, dark ink on light paper, uneven light with a soft shadow, the digit
    off-centre, rotated by up to ±10°, blurred, noisy, compressed.
    """

    def between(low, high, size=None):
        return generator.uniform(low, high, size)

    width, height = generator.integers(200, 801, 2)
    side = int(between(0.4, 0.9) * min(width, height))  # of the digit's 28×28 frame
    pen = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
    pen = pen.rotate(between(-10, 10), Image.Resampling.BICUBIC)
    left, top = (int(between(0, room - side)) for room in (width, height))
    ink = np.zeros((height, width), np.float32)
    ink[top : top + side, left : left + side] = np.asarray(pen, np.float32) / 255

    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    slope = between(-0.12, 0.12, 2)
    centre, spread = between(-1, 1, 2), between(0.5, 1.2)
    shadow = between(0, 0.25) * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * spread**2))
    light = between(0.72, 0.92) + slope[0] * x + slope[1] * y - shadow
    grain = ndimage.gaussian_filter(generator.standard_normal((height, width)), 3)
    paper = light + 0.01 * grain / grain.std()
    pixels = paper * (1 - ink) + between(0.05, 0.3) * light * ink
    pixels = ndimage.gaussian_filter(pixels, between(0.3, 1.2) * max(width, height) / 400)
    tint = 1 + np.outer(between(-0.04, 0.04), [1, 0, -1]).reshape(1, 1, 3)
    colours = pixels[..., None] * tint + between(0.005, 0.03) * generator.standard_normal((height, width, 3))
    content = io.BytesIO()
    image = Image.fromarray((255 * np.clip(colours, 0, 1)).astype(np.uint8))
    image.save(content, "JPEG", quality=int(between(50, 95)))
    return content.getvalue()


def photos(model, data, count):
    """Classify photos of `count` digits of a data set, by a fixed seed; also the rows of those not read rightly."""
    generator = np.random.default_rng(SEED)
    chosen = generator.choice(len(data), count, replace=False)
    wrong, seconds = [], 0.0
    for row in chosen.tolist():
        content = photo(data.images[row].numpy(), generator)
        start = time.perf_counter()
        try:
            answer = int(predict.predict(model, Image.open(io.BytesIO(content)))[0].argmax())
        except predict.ImageError:  # blank, it says, or several digits
            answer = None
        seconds += time.perf_counter() - start
        if answer != int(data.labels[row]):
            wrong.append(row)
    return {
        "data": str(data),
        "count": count,
        "accuracy": 100 * (1 - len(wrong) / count),
        "wrong": wrong,
        "milliseconds": 1000 * seconds / count,
    }


def seconds_of(*command):
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return time.perf_counter() - start


def cold_start(model, digit):
    """Medians of the seconds for `--infer` with one photo, and for the two imports, taken in turn."""
    with tempfile.TemporaryDirectory() as folder:
        kept, image = Path(folder) / "model.pt", Path(folder) / "photo.jpg"
        checkpoint.save_checkpoint(kept, model)
        image.write_bytes(photo(digit, np.random.default_rng(SEED)))
        infer = (str(HERE.parent / "torchnn.py"), "--infer", str(image), "--checkpoint", str(kept))
        imports = ("-c", "import torch, torchvision")
        seconds_of(*imports), seconds_of(*infer)  # the files are read from the disk once
        pairs = [(seconds_of(*imports), seconds_of(*infer)) for _ in range(STARTS)]
    imports, infer = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"imports": imports, "infer": infer, "ratio": infer / imports}


def large_photo(model):
    """Medians of the seconds for reading one photograph of 12 megapixels, and for decoding it in full."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "large.jpg"
        pen = Image.new("L", (4000, 3000), 210)
        ImageDraw.Draw(pen).line([(1400, 800), (2500, 850), (1900, 2300)], fill=40, width=120, joint="curve")
        noise = np.random.default_rng(SEED).normal(0, 3, (3000, 4000))
        Image.fromarray(np.clip(np.asarray(pen) + noise, 0, 255).astype(np.uint8)).convert("RGB").save(file, quality=90)
        times = {"decoding": lambda: np.asarray(Image.open(file)), "reading": lambda: predict.predict(model, file)}
        times["reading all"] = lambda: predict.predict_all(model, file)
        pairs = [{name: _seconds(what) for name, what in times.items()} for _ in range(STARTS)]
    return {name: statistics.median(pair[name] for pair in pairs) for name in times}


def _seconds(what):
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def network(path=None):
    """The network of a checkpoint, by default of the one that `torchnn.py --train` has left; raises as `load_model`."""
    return checkpoint.load_model(path or torchnn.FOLDER / checkpoint.BEST).eval()


def keep(result, name):
    """Keep figures of the default checkpoint, with what it was trained with."""
    settings = checkpoint.load_checkpoint(torchnn.FOLDER / checkpoint.BEST)["settings"]
    result |= {"trained": settings, "device": utils.describe_device("cpu"), "torch": torch.__version__}
    accuracy.keep(result, accuracy.RESULTS / name)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", metavar="FILE", help="use this model, and keep no figures")
    options = parser.parse_args(arguments)
    try:
        data = dataset.load_dataset("test", "mnist")
        model = network(options.checkpoint)
    except (OSError, ValueError) as problem:
        parser.exit(2, f"{problem}\n")
    result = {"photos": photos(model, data, PHOTOS), "start": cold_start(model, data.images[0].numpy())}
    result["large"] = large_photo(model)
    print(
        "{accuracy:.1f} % of {count} photos classified correctly, {milliseconds:.0f} ms each".format(**result["photos"])
    )
    print(
        "--infer {infer:.2f} s, importing torch and torchvision {imports:.2f} s: {ratio:.2f}".format(**result["start"])
    )
    large = result["large"]
    for what in ("reading", "reading all"):
        print(f"{what} a photograph of 12 megapixels / decoding it: {large[what] / large['decoding']:.2f}")
    if not options.checkpoint:
        keep(result, "infer.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
