"""Train a recipe from scratch with several seeds, and report the accuracy on the test set.

    python benchmarks/accuracy.py --recipe s5 --seeds 3
    python benchmarks/accuracy.py --recipe s5 --seeds 3 --validation   # to choose by
    python benchmarks/accuracy.py --table                              # the README's table

The test set is looked at once for each seed, after the last epoch. A run with at least three seeds
on the test set is kept in `benchmarks/results/` (or where `--json` says), from which `--table` makes
the README's table.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
import torchvision

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import model as models  # noqa: E402
import utils  # noqa: E402

RESULTS = HERE / "results"
HOLDOUT = 5_000  # training images kept apart with --validation

FAST = {
    "arch": "Net",
    "augmentation": (utils.RandomAffineEach(degrees=10, zoom=(0.9, 1.1), shift=0.06, mode="bicubic"),),
    "optimizer": {"optname": "AdamW", "learningrate": 0.003, "weight_decay": 0.05},
    "scheduler": {"name": "OneCycleLR", "pct_start": 0.25},
    "loss": "nll_loss",
}
PLAIN = {"batch_size": 64, "augmentation": None, "mean": 0.5, "std": 0.5, "scheduler": None}  # sessions 1 and 2
ADAM = {"epochs": 10, "loss": "cross_entropy", "optimizer": {"optname": "Adam", "learningrate": 0.001}}
RECIPES = {  # "arguments" of the architecture, "mean" and "std" of the transforms may be left out
    "mlp": {
        **PLAIN,
        "arch": "MLP",
        "epochs": 15,
        "loss": "nll_loss",
        "optimizer": {"optname": "SGD", "learningrate": 0.003},
    },
    "mlp-all": {
        **PLAIN,
        "arch": "MLP",
        "arguments": {"hidden_sizes": (256, 128), "dropout": 0.2, "batch_norm": True},
        "epochs": 15,
        "loss": "nll_loss",
        "optimizer": {"optname": "Adam", "learningrate": 0.001},
        "scheduler": {"name": "StepLR", "stepsize": 10, "gamma_val": 0.1},
    },
    "cnn": {**PLAIN, **ADAM, "arch": "CNN"},
    "cnn-nopad": {**PLAIN, **ADAM, "arch": "CNN", "arguments": {"padding": 0}},
    "image-classifier": {
        **FAST,
        "arch": "ImageClassifier",
        "epochs": 10,
        "batch_size": 128,
        "augmentation": (utils.RandomAffineEach(degrees=10, mode="bicubic"),),
        "optimizer": {"optname": "AdamW", "learningrate": 0.01, "weight_decay": 0.01},
    },
    "s5": {
        "arch": "Net",
        "epochs": 20,
        "batch_size": 512,
        "augmentation": (),
        "optimizer": {"optname": "SGD", "learningrate": 0.01, "momentumval": 0.9},
        "scheduler": {"name": "StepLR", "stepsize": 15, "gamma_val": 0.1},
        "loss": "nll_loss",
    },
    "fast1": {**FAST, "epochs": 1, "batch_size": 64},
    "fast2": {**FAST, "epochs": 2, "batch_size": 128, "optimizer": {**FAST["optimizer"], "betas": (0.9, 0.98)}},
}


def loader(recipe, split, **options):
    """The recipe's DataLoader; the training split is augmented and shuffled."""
    normalise = {key: recipe[key] for key in ("mean", "std") if key in recipe}
    kwargs, options["transform"] = {"batch_size": 500}, utils.get_test_transforms(**normalise)
    if split == "train":
        kwargs = {"batch_size": recipe["batch_size"], "shuffle": True}
        if recipe["augmentation"] is not None:
            options["transform"] = utils.get_train_transforms(*recipe["augmentation"], **normalise)
    return utils.get_MNISTdataset_with_loader(split, kwargs, **options)


def build(recipe):
    """The recipe's network, new."""
    return models.ARCHITECTURES[recipe["arch"]](**recipe.get("arguments", {}))


def trained(recipe, seed, *, validation=False, dataset="mnist", precision=None):
    """Train the recipe's network from scratch with one seed; return it and the training seconds."""
    device = utils.get_device()
    utils.set_seed(seed)
    model = build(recipe).to(device)
    options = {"dataset": dataset, "holdout": HOLDOUT if validation else 0, "device": device}
    train_loader = loader(recipe, "train", **options)
    optimizer = utils.get_optimizer(model, **recipe["optimizer"])
    schedule = recipe["scheduler"]
    per_batch = schedule is not None and schedule["name"] == "OneCycleLR"
    steps = {"total_steps": recipe["epochs"] * len(train_loader)} if per_batch else {}
    scheduler = utils.get_scheduler(optimizer, **schedule, **steps) if schedule else None
    criterion = utils.get_loss(recipe["loss"])
    start = time.perf_counter()
    for epoch in range(1, recipe["epochs"] + 1):
        utils.train(
            model,
            device,
            train_loader,
            optimizer,
            criterion,
            scheduler=scheduler if per_batch else None,
            precision=precision,
            epoch=epoch,
        )
        if scheduler and not per_batch:
            scheduler.step()
    return model, time.perf_counter() - start


def run(recipe, seed, *, validation=False, dataset="mnist", precision=None):
    """Train with one seed; return its final loss, accuracy (%) and training seconds."""
    model, seconds = trained(recipe, seed, validation=validation, dataset=dataset, precision=precision)
    device = utils.get_device()
    options = {"dataset": dataset, "holdout": HOLDOUT if validation else 0, "device": device}
    test_loader = loader(recipe, "validation" if validation else "test", **options)
    loss, accuracy = utils.test(model, device, test_loader, utils.get_loss(recipe["loss"]), precision=precision)
    return {"seed": seed, "loss": loss, "accuracy": accuracy, "seconds": seconds}


def measure(name, seeds, **options):
    """Run a recipe with seeds 1 … `seeds`; print a line each and the summary; return all of it."""
    recipe, runs = RECIPES[name], []
    for seed in range(1, seeds + 1):
        runs.append(run(recipe, seed, **options))
        print("seed {seed}: {accuracy:.2f} %, loss {loss:.4f}, {seconds:.1f} s".format(**runs[-1]), flush=True)
    accuracies = [r["accuracy"] for r in runs]
    result = {
        "recipe": name,
        "arch": recipe["arch"],
        "parameters": sum(p.numel() for p in build(recipe).parameters()),
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


def table(recipes=tuple(RECIPES)):
    """The README's results table, as Markdown, from the kept results of these recipes."""
    rows = [
        "| recipe | network | parameters | epochs | test accuracy (%), mean ± sd | seeds | training, median | on |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("accuracy-*.json"))]
    results = [r for r in results if r["recipe"] in recipes]
    for r in sorted(results, key=lambda r: list(recipes).index(r["recipe"])):
        rows.append(
            f"| `{r['recipe']}` | {r['arch']} | {r['parameters']:,} | {r['epochs']} | {spread(r)} |"
            f" {r['n']} | {r['seconds']:,.0f} s | {r['device'].split(':')[0]} |"
        )
    return "\n".join(rows)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=RECIPES, help="what to train")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 1 … N (default 3)")
    parser.add_argument("--validation", action="store_true", help=f"evaluate on {HOLDOUT:,} held-out training images")
    parser.add_argument("--table", action="store_true", help="print the README's table")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to keep the figures")
    options = parser.parse_args(arguments)
    if options.table:
        print(table())
        return 0
    if options.recipe is None or options.seeds < 1:
        parser.error("name a --recipe and at least one seed, or ask for the --table")
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
