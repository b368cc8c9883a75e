"""Damaged checkpoints and images: each is refused in one line, or used.

    python benchmarks/fuzz.py --count 1000

So many of each are made from whole ones by a fixed seed: bytes flipped, cut out, swapped; in
checkpoints also the members changed under valid checksums, and any value of any key replaced by a hostile
one of another kind, size or depth. Each goes through `torchnn.py --infer`,
and every checkpoint through `--train --resume` for one more epoch. A traceback, more than one line,
or more than 5 seconds is a failure. Kept in benchmarks/results/fuzz.json.
"""

import argparse
import contextlib
import io
import math
import os
import random
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pillow_heif
import torch
from PIL import Image

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import accuracy  # noqa: E402

import checkpoint  # noqa: E402
import dataset  # noqa: E402
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
        "phone.heic": (digit.convert("RGB"), {"exif": exif.tobytes()}),
    }
    pillow_heif.register_heif_opener()
    files = {}
    for name, (image, options) in kinds.items():
        content = io.BytesIO()
        image.save(content, name.split(".")[1].replace("jpg", "jpeg").replace("heic", "heif"), **options)
        files[name] = content.getvalue()
    return files


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
    """One member of a checkpoint's archive changed, under a valid checksum."""
    source, target = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    names = source.namelist()
    chosen = dice.choice([names[0], names[0], dice.choice(names)])  # mostly the pickle, which comes first
    with zipfile.ZipFile(target, "w") as archive:
        for name in names:
            archive.writestr(name, mutate(source.read(name), dice) if name == chosen else source.read(name))
    return target.getvalue()


def hostile(dice):
    """A value that should not be there: of another kind, far too large, or far too deep."""
    deep, doubled = [], []
    for _ in range(200):
        deep = [deep]
    for _ in range(30):
        doubled = [doubled, doubled]  # who walks through it visits 2³⁰ lists
    return dice.choice(
        [
            *(None, True, -1, 0, 10**30, 2**63, -1e300, math.nan, math.inf, "", "0", "x" * 10**6, "a\nb", b"bytes"),
            *([], [0] * 10**6, deep, doubled, {}, {"deep": deep}, {0: 0}, (1, 2, 3)),
            *(torch.zeros(1).expand(10**9), torch.zeros(1).expand(10**5, 10**5), torch.zeros(0), torch.tensor(3)),
            *(
                torch.full((10,), math.nan),
                torch.zeros(3).to_sparse(),
                torch.zeros(3, device="meta"),
                torch.zeros(10**6),
            ),
            *(torch.zeros(5056, dtype=torch.uint8), torch.ones(3, dtype=torch.complex64)),
        ]
    )


def tamper(content, dice):
    """One value in a checkpoint, at any depth, replaced by a hostile one, taken away, or put under another key."""
    whole = torch.load(io.BytesIO(content), weights_only=True)
    part = whole
    while True:
        keys = list(part) if isinstance(part, dict) else range(len(part))
        key = dice.choice(keys)
        inside = isinstance(part[key], dict | list) and len(part[key]) > 0
        if not inside or dice.random() < 0.25:
            break
        part = part[key]
    way = dice.choice(("replace", "replace", "replace", "remove", "rename"))
    if way == "remove":
        del part[key]
    elif way == "rename" and isinstance(part, dict):
        part[dice.choice((-1, "other", ("a", "b"), None, 10**30))] = part.pop(key)
    else:
        part[key] = hostile(dice)
    target = io.BytesIO()
    torch.save(whole, target)
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
def stopped_after(epochs):
    """Ctrl-C in the epoch after these, so that there is something to resume."""
    train, done = utils.train, []

    def train_or_stop(*arguments, **keywords):
        if len(done) == epochs:
            raise KeyboardInterrupt
        done.append(1)
        return train(*arguments, **keywords)

    utils.train = train_or_stop
    try:
        yield
    finally:
        utils.train = train


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
    dice = random.Random(SEED)
    with tempfile.TemporaryDirectory() as folder:
        good, run, bad, image = (Path(folder) / name for name in ("good", "run", "bad.pt", "good.png"))
        train = ("--train", "--dataset", "digits", "--arch", "MLP", "--batch-size", "512", "--epochs", "2")
        with stopped_after(1):
            command(*train, "--folder", good)
        resume = ("--train", "--resume", "--dataset", "digits", "--folder", run)
        content = (good / checkpoint.LAST).read_bytes()
        run.mkdir()
        images = whole_images()
        image.write_bytes(images["grey.png"])

        def checkpoints(number):
            changed = (mutate, mutate_member, tamper)[number % 3](content, dice)
            bad.write_bytes(changed)
            (run / checkpoint.LAST).write_bytes(changed)
            return ("--infer", image, "--checkpoint", bad), resume

        def pictures(number):
            name = dice.choice(list(images))
            (Path(folder) / name).write_bytes(mutate(images[name], dice))
            return (("--infer", Path(folder) / name, "--checkpoint", good / checkpoint.BEST),)

        return {"checkpoints": outcomes(count, checkpoints), "images": outcomes(count, pictures)}


def outcomes(count, damage):
    """Run the commands that `damage(number)` gives for each damaged file."""
    found = {"count": count, "used": 0, "refused": 0, "slowest": 0.0, "failures": []}
    for number in range(count):
        codes = []
        for arguments in damage(number):
            try:
                code, lines, seconds = command(*arguments)
            except Exception as problem:  # what main lets through, a user would see as a traceback
                found["failures"].append(f"{number}: {type(problem).__name__}: {problem}")
                continue
            codes.append(code)
            found["slowest"] = max(found["slowest"], seconds)
            if (code, len(lines)) not in ((0, 0), (2, 1)) or seconds > LIMIT:
                found["failures"].append(f"{number}: exit code {code}, {seconds:.1f} s, {lines[:3]}")
        found["refused" if 2 in codes else "used"] += 1
    return found


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
