"""Real handwriting through `predict`: accuracy by source and by category, and a contact sheet of the failures.

    python benchmarks/handwriting.py FOLDER [--checkpoint FILE] [--sheet FILE.png]

FOLDER holds images and `labels.csv`, a line an image: its path below FOLDER, its label, its source (who wrote it)
and its category ("photo", "scan", …); other columns are not read. The set that the course was developed with is not
published with it. Without a checkpoint the command line's default network is trained first.
"""

import argparse
import csv
import json
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import accuracy  # noqa: E402
import infer  # noqa: E402

import checkpoint  # noqa: E402
import images  # noqa: E402
import plots  # noqa: E402
import predict  # noqa: E402
import utils  # noqa: E402

COLUMNS = ("path", "label", "source", "category")
SURE = 0.99  # answers above this probability are counted apart
CLASSICAL = "classical"  # categories that begin so are not counted among the own digits


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
    """(digit, probability, what the network saw) of an image; None for the three where it is refused."""
    try:
        probabilities, seen = predict.predict(model, path)
    except images.ImageError:
        return None, None, None
    return int(probabilities.argmax()), probabilities.max().item(), seen


def measure(model, folder):
    """Read every image of the folder; rows with what was answered, and the seconds an image."""
    rows, start = read_labels(folder), time.perf_counter()
    for row in rows:
        row["answer"], row["probability"], row["seen"] = answer(model, Path(folder) / row["path"])
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
    sure = [row for row in rows if row["probability"] is not None and row["probability"] > SURE]
    return {
        "own": (sum(row["right"] for row in own), len(own)),
        "refused": sum(row["answer"] is None for row in rows),
        "sure": (sum(row["right"] for row in sure), len(sure)),
        "sources": counts(rows, "source"),
        "categories": counts(rows, "category"),
    }


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
        model = checkpoint.load_model(options.checkpoint) if options.checkpoint else infer.trained()
        rows, seconds = measure(model.cpu().eval(), options.folder)
    except (OSError, ValueError) as problem:
        parser.exit(2, f"{problem}\n")
    result = summary(rows) | {"milliseconds": 1000 * seconds}
    for title in ("categories", "sources"):
        print(f"{title}:")
        for name, (right, count) in result[title].items():
            print(f"  {name:24} {right:4} of {count:4}  {100 * right / count:5.1f} %")
    for words, (right, count) in (("own digits", result["own"]), (f"answers above {SURE:.0%}", result["sure"])):
        print(f"{words}: {right} of {count} right, {100 * right / max(count, 1):.1f} %")
    print(f"{result['refused']} refused; {result['milliseconds']:.0f} ms an image")
    if options.sheet and not all(row["right"] for row in rows):
        sheet(rows, options.folder).savefig(options.sheet, dpi=80)
        print(f"Failures: {options.sheet}")
    if not options.checkpoint:
        result |= {"device": utils.describe_device("cpu"), "torch": torch.__version__}
        accuracy.keep(json.loads(json.dumps(result)), accuracy.RESULTS / "handwriting.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
