"""Real handwriting through `predict`: accuracy by source and by category, and a contact sheet of the failures.

    python benchmarks/handwriting.py FOLDER [--checkpoint FILE] [--sheet FILE.png]

FOLDER holds images and `labels.csv`, a line an image: its path below FOLDER, its label, its source (who wrote it)
and its category ("photo", "scan", …); other columns are not read. The set that the course was developed with is not
published with it. The network is what `torchnn.py --train` has left in checkpoints/, and the figures are kept in
benchmarks/results/handwriting.json, unless another checkpoint is given.
"""

import argparse
import csv
import itertools
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import infer  # noqa: E402

import images  # noqa: E402
import novelty  # noqa: E402
import plots  # noqa: E402
import predict  # noqa: E402

COLUMNS = ("path", "label", "source", "category")
SURE = 0.99  # answers above this probability are counted apart
CLASSICAL = "classical"  # categories that begin so are not counted among the own digits
BINS = (0, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999, 1)  # of the probability, for the reliability


def read_labels(folder):
    """The rows of FOLDER/labels.csv as dicts; ValueError or OSError says what is wrong with it."""
    path = Path(folder) / "labels.csv"
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: name a folder with images and a labels.csv.")
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or any(not all(row.get(name) for name in COLUMNS) for row in rows):
        raise ValueError(f"{path} needs the columns {', '.join(COLUMNS)}, and something in each line of them.")
    return rows


def answer(model, path):
    """Of an image: the digit, its probability, what the network saw, and whether it was taken for a digit.

    Where it is refused the first three are None.
    """
    try:
        probabilities, seen = predict.predict(model, path)
    except images.ImageError:
        return None, None, None, False
    return int(probabilities.argmax()), probabilities.max().item(), seen, novelty.is_digit(model, seen)


def measure(model, folder):
    """Read every image of the folder; rows with what was answered, and the seconds an image."""
    rows, start = read_labels(folder), time.perf_counter()
    for row in rows:
        row["answer"], row["probability"], row["seen"], row["known"] = answer(model, Path(folder) / row["path"])
        row["right"] = row["answer"] == int(row["label"])
    return rows, (time.perf_counter() - start) / len(rows)


def counts(rows, column):
    """Name → (right, all) for each value of a column, the worst first."""
    found = defaultdict(lambda: [0, 0])
    for row in rows:
        found[row[column]][0] += row["right"]
        found[row[column]][1] += 1
    return {name: tuple(found[name]) for name in sorted(found, key=lambda name: found[name][0] / found[name][1])}


def summary(rows):
    """The figures that are kept: right and all of the own digits, each source, each category, and of sure answers."""
    own = [row for row in rows if not row["category"].startswith(CLASSICAL)]
    answered = [row for row in rows if row["probability"] is not None]
    sure = [row for row in answered if row["probability"] > SURE]
    return {
        "own": (sum(row["right"] for row in own), len(own)),
        "refused": len(rows) - len(answered),
        "all": len(rows),
        "own_said": sum(row["right"] and row["known"] for row in own),  # as --infer says it
        "all_said": sum(row["right"] and row["known"] for row in rows),
        "own_refused": sum(not row["known"] for row in own),
        "all_refused": sum(not row["known"] for row in rows),
        "reliability": reliability(answered),
        "sure": (sum(row["right"] for row in sure), len(sure)),
        "sources": counts(rows, "source"),
        "own_sources": list(counts(own, "source").values()),  # the worst first
        "categories": counts(rows, "category"),
    }


def reliability(rows):
    """For each of BINS that has any answer: their count, how many are right, and the mean of their probabilities."""
    found = []
    for low, high in itertools.pairwise(BINS):
        part = [row for row in rows if low < row["probability"] <= high]
        if part:
            mean = sum(row["probability"] for row in part) / len(part)
            found.append({"count": len(part), "right": sum(row["right"] for row in part), "probability": mean})
    return found


def sheet(rows, folder):
    """A figure of the failures: each picture, and below it what the network saw and answered."""
    wrong = [row for row in rows if not row["right"]]
    blank = torch.zeros(predict.FRAME, predict.FRAME)
    pictures = [images.read_image(Path(folder) / row["path"]) for row in wrong]
    said = ["refused" if r["answer"] is None else f"{r['answer']} ({100 * r['probability']:.0f} %)" for r in wrong]
    columns = 10
    pairs, titles = [], []
    for start in range(0, len(wrong), columns):  # a row of pictures, then one of what the network saw
        part = slice(start, start + columns)
        fill = columns - len(wrong[part])
        pairs += pictures[part] + [blank] * fill
        pairs += [blank if row["seen"] is None else row["seen"] for row in wrong[part]] + [blank] * fill
        titles += [f"{row['label']}: {row['source'][:14]}" for row in wrong[part]] + [""] * fill
        titles += said[part] + [""] * fill
    return plots.post_images(pairs, titles, columns=columns)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", help="images and labels.csv")
    parser.add_argument("--checkpoint", metavar="FILE", help="use this model, and keep no figures")
    parser.add_argument("--sheet", metavar="FILE.png", help="draw the failures")
    options = parser.parse_args(arguments)
    try:
        read_labels(options.folder)
        rows, seconds = measure(infer.network(options.checkpoint), options.folder)
    except (OSError, ValueError) as problem:
        parser.exit(2, f"{problem}\n")
    result = summary(rows) | {"milliseconds": 1000 * seconds}
    for title in ("categories", "sources"):
        print(f"{title}:")
        for name, (right, count) in result[title].items():
            print(f"  {name:24} {right:4} of {count:4}  {100 * right / count:5.1f} %")
    for words, (right, count) in (("own digits", result["own"]), (f"answers above {SURE:.0%}", result["sure"])):
        print(f"{words}: {right} of {count} right, {100 * right / max(count, 1):.1f} %")
    print(
        f"{result['refused']} refused; these or no digits: {result['own_refused']} own, {result['all_refused']} of all"
    )
    print(f"right and not called no digit: {result['own_said']} own, {result['all_said']} of all")
    print(f"{result['milliseconds']:.0f} ms an image")
    if options.sheet and not all(row["right"] for row in rows):
        sheet(rows, options.folder).savefig(options.sheet, dpi=80)
        print(f"Failures: {options.sheet}")
    if not options.checkpoint:
        del result["sources"]  # the writers' names
        infer.keep(result, "handwriting.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
