"""Train a recipe from scratch with several seeds, and report the accuracy on the test set.

    python benchmarks/accuracy.py --recipe s5 --seeds 3
    python benchmarks/accuracy.py --recipe s5 --seeds 3 --validation   # to choose by
    python benchmarks/accuracy.py --recipe s5 --seeds 1 --validation --rate 0.02   # at another learning rate
    python benchmarks/accuracy.py --table                              # the table of the kept results

The test set is used once for each seed, after the last epoch. A run with at least three seeds on the
test set is kept in `benchmarks/results/` (or where `--json` says), from which `--table` makes the table.
"""

import argparse
import json
import re
import statistics
import sys
from pathlib import Path

import torch
import torchvision

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import utils  # noqa: E402
from dataset import HOLDOUT  # noqa: E402
from training import RECIPES, recipe_loader, recipe_model, train_recipe  # noqa: E402

RESULTS = HERE / "results"


def run(recipe, seed, *, validation=False, dataset="mnist", precision=None):
    """Train a recipe with one seed; return its final loss, accuracy (%) and training seconds."""
    device, holdout = utils.get_device(), "auto" if validation else 0
    model, seconds = train_recipe(recipe, seed, holdout=holdout, dataset=dataset, precision=precision)
    split = "validation" if validation else "test"
    loader = recipe_loader(recipe, split, dataset=dataset, holdout=holdout, device=device)
    loss, accuracy = utils.test(model, device, loader, utils.get_loss(recipe["loss"]), precision=precision)
    return {"seed": seed, "loss": loss, "accuracy": accuracy, "seconds": seconds}


def measure(name, seeds, recipe=None, **options):
    """Run a recipe, by default the one of this name, with seeds 1 … `seeds`; print each and the summary; return all."""
    recipe, runs = recipe or RECIPES[name], []
    for seed in range(1, seeds + 1):
        runs.append(run(recipe, seed, **options))
        print("seed {seed}: {accuracy:.2f} %, loss {loss:.4f}, {seconds:.1f} s".format(**runs[-1]), flush=True)
    accuracies = [r["accuracy"] for r in runs]
    result = {
        "recipe": name,
        "arch": recipe["arch"],
        "parameters": sum(p.numel() for p in recipe_model(recipe).parameters()),
        "epochs": recipe["epochs"],
        "n": seeds,
        "mean": statistics.mean(accuracies),
        "sd": statistics.stdev(accuracies) if seeds > 1 else None,
        "seconds": statistics.median(r["seconds"] for r in runs),
        "device": utils.describe_device(utils.get_device()),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "runs": runs,
    }
    print(f"{name}: {spread(result)} %, n = {seeds}, {result['seconds']:.1f} s of training (median)")
    return result


def keep(result, path):
    """Write the figures as JSON, and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"Kept in {path}.")


def spread(result):
    """Mean ± standard deviation, or the mean alone for one seed."""
    return f"{result['mean']:.2f}" + (f" ± {result['sd']:.2f}" if result["sd"] is not None else "")


def where(device, precision=None):
    """What `utils.describe_device` said, in short: the device, and the precision if no other is given."""
    name, _, how = device.partition(": ")
    name = re.sub(r"\(1 threads\)", "(1 thread)", name)  # as it said earlier
    return f"{name}, {precision or ('bf16' if how.startswith('bf16') else 'fp32')}"


def markdown(*lines):
    """A table in Markdown: the names of its columns, then the cells of each row."""
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([rows[0], f"|{' --- |' * len(lines[0])}", *rows[1:]])


def table(recipes=tuple(RECIPES), *, short=False):
    """The kept results of these recipes in this order, as Markdown; `short`: without how they were measured."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("accuracy-*.json"))]
    results = sorted((r for r in results if r["recipe"] in recipes), key=lambda r: list(recipes).index(r["recipe"]))
    columns = {
        "recipe": lambda r: f"`{r['recipe']}`",
        "network": lambda r: r["arch"],
        "parameters": lambda r: f"{r['parameters']:,}",
        "epochs": lambda r: f"{r['epochs']}",
        "test accuracy (%), mean ± sd": spread,
        "seeds": lambda r: f"{r['n']}",
    }
    if not short:
        columns["training, median"] = lambda r: f"{r['seconds']:,.0f} s"
        columns["on"] = lambda r: where(r["device"])
    return markdown(columns, *([text(r) for text in columns.values()] for r in results))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=RECIPES, help="what to train")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 1 … N (default 3)")
    parser.add_argument("--validation", action="store_true", help=f"evaluate on {HOLDOUT:,} held-out training images")
    parser.add_argument("--rate", type=float, help="another learning rate than the recipe's, with --validation")
    parser.add_argument("--table", action="store_true", help="print the table of the kept results")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to keep the figures")
    options = parser.parse_args(arguments)
    if options.table:
        print(table())
        return 0
    if options.recipe is None or options.seeds < 1:
        parser.error("name a --recipe and at least one seed, or ask for the --table")
    if options.rate is not None:
        if not options.validation:
            parser.error("a recipe is measured at its own rate: to choose another --rate, add --validation")
        recipe = RECIPES[options.recipe]
        RECIPES[options.recipe] = {**recipe, "optimizer": {**recipe["optimizer"], "learningrate": options.rate}}
    try:
        result = measure(options.recipe, options.seeds, validation=options.validation)
    except OSError as problem:
        parser.exit(2, f"{problem}\n")
    path = options.json
    if path is None and options.seeds >= 3 and not options.validation:
        path = RESULTS / f"accuracy-{options.recipe}.json"
    if path is not None:
        keep(result, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
