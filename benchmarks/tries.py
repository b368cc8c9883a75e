"""Networks that were tried on the way to session 6's small ones, each measured on the images held out.

    python benchmarks/tries.py                        # their names, and the table of the kept results
    python benchmarks/tries.py tiny-plain --seeds 2   # train one, and measure it on the validation images

Nothing here has seen the test set. A run is kept in benchmarks/results/tries.json under the name of its try.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import accuracy  # noqa: E402

from augment import RandomAffineEach  # noqa: E402
from training import GENTLE, HANDS, RECIPES  # noqa: E402

KEPT = accuracy.RESULTS / "tries.json"
STROKE, SLANT = HANDS  # what the recipe `torchnn` adds to `small`, and on top of both a share of European 1s and 7s
MORE = (RandomAffineEach(degrees=13, zoom=(0.87, 1.13), shift=0.08, mode="bicubic"),)


class Tried(nn.Module):
    """A network from a line of words: "16 16 pool 24s 24s 32p".

    A number is a 3×3 convolution to so many channels, with s depthwise-separable, with p 1×1; each is followed by
    batch norm and ReLU. Then the mean of each map, and a linear layer. `(N, 1, 28, 28)` → log-probabilities.
    """

    def __init__(self, words):
        super().__init__()
        self.architecture, self.arguments = "Tried", {"words": words}
        layers, before = [], 1
        for word in words.split():
            if word == "pool":
                layers.append(nn.MaxPool2d(2))
                continue
            after = int(word.strip("sp"))
            if word.endswith("s"):
                layers.append(nn.Conv2d(before, before, 3, groups=before, bias=False))
            small = word.endswith(("s", "p"))
            layers += [nn.Conv2d(before, after, 1 if small else 3, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            before = after
        self.layers, self.fc = nn.Sequential(*layers), nn.Linear(before, 10)

    def forward(self, x):
        return F.log_softmax(self.fc(self.layers(x).mean((2, 3))), dim=1, dtype=torch.float32)


def recipe(words, epochs=12, rate=0.015, batch_size=128, **changes):
    """SmallNet's recipe for the network that the words describe; twelve epochs tell as much as its twenty, sooner."""
    optimizer = {"optname": "AdamW", "learningrate": rate, "weight_decay": changes.pop("weight_decay", 0.05)}
    own = {"arch": Tried, "arguments": {"words": words}, "epochs": epochs, "batch_size": batch_size}
    return {**RECIPES["small"], **own, "optimizer": optimizer, **changes}


TINY, MICRO = (
    "12 16 pool 32s 32s 32s 32s",
    {"epochs": 20, "rate": 0.03, "weight_decay": 0.0, "augmentation": RECIPES["micro"]["augmentation"]},
)
ONE = {"epochs": 1, "batch_size": 64, "rate": 0.02}
TRIES = {
    "small": recipe("16 16 pool 24 24 32"),
    "small-deeper": recipe("16 16 16 pool 20 20 20 24"),
    "small-separable": recipe("16 24 pool 60s 60s 60s 60s"),
    "small-separable-augmented": recipe("16 24 pool 60s 60s 60s 60s", augmentation=MORE),
    "small-batch64": recipe("16 16 pool 24 24 32", rate=0.01, batch_size=64),
    "small-augmented": recipe("16 16 pool 24 24 32", augmentation=MORE),
    "small-deeper-augmented": recipe("16 16 16 pool 20 20 20 24", augmentation=MORE),
    "small4": recipe("16 16 pool 24 24 32", 4, 0.02),
    "small4-batch64": recipe("16 16 pool 24 24 32", 4, 0.015, 64),
    "hands4-stroke": recipe("16 16 pool 24 24 32", 4, 0.02, augmentation=(STROKE, *GENTLE)),
    "hands4-slant": recipe("16 16 pool 24 24 32", 4, 0.02, augmentation=(SLANT,)),
    "hands4-european": recipe("16 16 pool 24 24 32", 4, 0.02, european=0.3),
    "hands4": recipe("16 16 pool 24 24 32", 4, 0.02, augmentation=HANDS, european=0.3),
    "tiny": recipe(TINY),
    "tiny-plain": recipe("10 10 pool 14 16 16 16p"),
    "tiny-plain-2": recipe("10 10 pool 12 14 14 16"),
    "tiny-deeper": recipe("10 12 pool 32s 32s 32s 32s 32s"),
    "tiny-early-separable": recipe("12 24s pool 36s 36s 36s 36s"),
    "tiny-wider-start": recipe("16 16 pool 32s 32s 32s 32s"),
    "tiny1-batch64": recipe(TINY, **ONE),
    "tiny1-rate0.04": recipe(TINY, **{**ONE, "rate": 0.04}),
    "tiny1-batch32": recipe(TINY, **{**ONE, "batch_size": 32}),
    "tiny1": recipe(
        TINY, **{**ONE, "batch_size": 16, "rate": 0.01}, scheduler={"name": "OneCycleLR", "pct_start": 0.15}
    ),
    "tiny1-plain-images": recipe(TINY, **{**ONE, "batch_size": 32}, augmentation=None),
    "tiny1-plain": recipe("10 10 pool 14 16 16 16p", **ONE),
    "micro-1238": recipe("6 10s pool 12s 14s 14s", **MICRO),
    "micro-816": recipe("4 8s pool 8s 10s 12s", **MICRO),
    "micro-726": recipe("4 6s pool 8s 10s 10s", **MICRO),
    "micro-968-40": recipe("5 8s pool 10s 12s 12s", **{**MICRO, "epochs": 40}),
}


def table(kept):
    """The kept tries as Markdown."""
    rows = []
    for name in filter(kept.get, TRIES):
        found, words = kept[name], TRIES[name]["arguments"]["words"]
        runs = found["runs"]
        accuracies, losses = (
            ", ".join(form.format(**run) for run in runs) for form in ("{accuracy:.2f}", "{loss:.4f}")
        )
        rows.append((f"`{name}`", words, f"{found['parameters']:,}", f"{found['epochs']}", accuracies, losses))
    columns = ("try", "layers", "parameters", "epochs", "validation accuracy (%) of each seed", "loss")
    return accuracy.markdown(columns, *rows)


def read():
    """Name → what was kept of it."""
    return json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", choices=TRIES, metavar="NAME", help="the try to measure again")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds 1 … N (default 1)")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    if options.name is None:
        print(", ".join(TRIES), table(read()), sep="\n\n")
        return 0
    try:
        result = accuracy.measure(options.name, options.seeds, TRIES[options.name], validation=True)
    except OSError as problem:
        parser.exit(2, f"{problem}\n")
    del result["arch"], result["recipe"]
    accuracy.keep(read() | {options.name: result}, KEPT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
