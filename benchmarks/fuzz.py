"""Damaged checkpoints and images: each is refused in one line, or used.

    python benchmarks/fuzz.py --count 1000

So many of each are made from whole ones by a fixed seed: bytes flipped, cut out, swapped, and in
checkpoints also the members changed under right checksums. Each goes through `torchnn.py --infer`;
every checkpoint is also resumed from. A traceback, more than one line, or more than 5 seconds is a
failure. Kept in benchmarks/results/fuzz.json.
"""

import argparse
import contextlib
import io
import os
import random
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import accuracy  # noqa: E402

import checkpoint  # noqa: E402
import dataset  # noqa: E402
import model as models  # noqa: E402
import torchnn  # noqa: E402
import utils  # noqa: E402

SEED, LIMIT = 0, 5  # seconds that one file may take


def whole_images():
    """One digit in each kind of file that predict reads: name → bytes."""
    digit = Image.fromarray(255 - dataset.load_dataset("test", "digits").images[0].numpy()).resize((120, 140))
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.asarray(digit).astype(np.uint16) * 257)
    kinds = {
        "grey.png": (digit, {}),
        "deep.png": (deep, {}),
        "palette.png": (digit.convert("P"), {"transparency": 0}),
        "alpha.png": (digit.convert("RGBA"), {}),
        "photo.jpg": (digit.convert("RGB"), {"exif": exif}),
        "press.jpg": (digit.convert("CMYK"), {}),
        "old.bmp": (digit, {}),
        "old.gif": (digit, {}),
        "new.webp": (digit.convert("RGB"), {}),
    }
    files = {}
    for name, (image, options) in kinds.items():
        content = io.BytesIO()
        image.save(content, name.split(".")[1].replace("jpg", "jpeg"), **options)
        files[name] = content.getvalue()
    return files


def parts():
    """A small network and its optimizer, which has taken a step."""
    model = models.create_model(hidden_sizes=(16,))
    optimizer = utils.get_optimizer(model, "Adam", 0.001)
    model(torch.randn(2, 1, 28, 28)).sum().backward()
    optimizer.step()
    return model, optimizer


def mutate(content, dice):
    """Bytes flipped, a piece cut out, the end cut off, or two pieces swapped."""
    content, way = bytearray(content), dice.choice(("flip", "cut", "end", "swap"))
    size = len(content)
    if way == "flip":
        for _ in range(dice.choice((1, 3, 30))):
            content[dice.randrange(size)] ^= dice.randrange(1, 256)
    elif way == "cut":
        start = dice.randrange(size)
        del content[start : start + dice.randrange(1, max(2, size // 4))]
    elif way == "end":
        del content[dice.randrange(size) :]
    else:
        length = dice.randrange(1, max(2, size // 8))
        one, two = (dice.randrange(max(1, size - length)) for _ in range(2))
        content[one : one + length], content[two : two + length] = (
            content[two : two + length],
            content[one : one + length],
        )
    return bytes(content)


def mutate_member(content, dice):
    """One member of a checkpoint's archive changed, under a checksum that is right."""
    source, target = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    names = source.namelist()
    chosen = dice.choice([names[0], names[0], dice.choice(names)])  # mostly the pickle, which comes first
    with zipfile.ZipFile(target, "w") as archive:
        for name in names:
            archive.writestr(name, mutate(source.read(name), dice) if name == chosen else source.read(name))
    return target.getvalue()


def command(*arguments):
    """Run torchnn.py's main; return (exit code, lines on stderr, seconds)."""
    out, err, start = io.StringIO(), io.StringIO(), time.perf_counter()
    with below_python() as written, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = torchnn.main([str(a) for a in arguments])
        seconds = time.perf_counter() - start
        written.seek(0)
        lines = err.getvalue().splitlines() + written.read().decode(errors="replace").splitlines()
    return code, lines, seconds


@contextlib.contextmanager
def below_python():
    """The file that takes what C libraries write to stderr."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield file
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def measure(count):
    """Send so many damaged files of each kind through the command line; return what became of them."""
    dice, result = random.Random(SEED), {}
    with tempfile.TemporaryDirectory() as folder:
        good, bad, image = (Path(folder) / name for name in ("good.pt", "bad.pt", "good.png"))
        model, optimizer = parts()
        checkpoint.save_checkpoint(good, model, optimizer=optimizer, epoch=1)
        images, content = whole_images(), good.read_bytes()
        image.write_bytes(images["grey.png"])
        for kind in ("checkpoints", "images"):
            found = {"count": count, "used": 0, "refused": 0, "resumed": 0, "slowest": 0.0, "failures": []}
            for number in range(count):
                if kind == "checkpoints":
                    bad.write_bytes((mutate if number % 2 else mutate_member)(content, dice))
                    arguments = ("--infer", image, "--checkpoint", bad)
                else:
                    name = dice.choice(list(images))
                    file = Path(folder) / name
                    file.write_bytes(mutate(images[name], dice))
                    arguments = ("--infer", file, "--checkpoint", good)
                try:
                    code, lines, seconds = command(*arguments)
                    if kind == "checkpoints":
                        with contextlib.suppress(checkpoint.CheckpointError, OSError):
                            checkpoint.restore(bad, model, optimizer=optimizer)
                            found["resumed"] += 1
                except Exception as problem:  # what main lets through, a user would see as a traceback
                    found["failures"].append(f"{number}: {type(problem).__name__}: {problem}")
                    continue
                found["used" if code == 0 else "refused"] += 1
                found["slowest"] = max(found["slowest"], seconds)
                if (code, len(lines)) not in ((0, 0), (2, 1)) or seconds > LIMIT:
                    found["failures"].append(f"{number}: exit code {code}, {seconds:.1f} s, {lines[:3]}")
            result[kind] = found
    return result


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="of each kind")
    options = parser.parse_args(arguments)
    result = measure(options.count)
    for kind, found in result.items():
        print(
            f"{found['count']} damaged {kind}: {found['refused']} refused in one line, {found['used']} used,"
            f" {len(found['failures'])} failures; the slowest took {found['slowest']:.2f} s"
        )
        for failure in found["failures"][:10]:
            print(f"  {failure}")
    if options.count >= 1000:
        accuracy.keep(result, accuracy.RESULTS / "fuzz.json")
    return 1 if any(found["failures"] for found in result.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
