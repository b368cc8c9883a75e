"""What trains: `fit`, which keeps a run that can't be lost; recipes by name; the range test; accuracy of each digit."""

import contextlib
import copy
import csv
import io
import math
import os
import socket
import time
from datetime import datetime
from pathlib import Path

import filelock
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.optim import lr_scheduler
from torch.utils.data import Dataset

import utils
from augment import RandomAffineEach, RandomStrokeEach
from checkpoint import (
    BEST,
    LAST,
    CheckpointError,
    is_normalisation,
    random_states,
    restore,
    restore_random_states,
    save_checkpoint,
    write_atomically,
)
from checks import choose, whole_number
from dataset import make_loader
from drawn import european, place
from model import ARCHITECTURES
from plots import TEST_STYLE, styled

# ------------------------------------------------------------------------------------------------
# Recipes: what is measured, trained from the command line and told in the sessions, each once
# ------------------------------------------------------------------------------------------------

# Turned, zoomed and shifted a little, as another hand might have written the digit.
GENTLE = (RandomAffineEach(degrees=10, zoom=(0.9, 1.1), shift=0.06, mode="bicubic"),)
ONE_CYCLE = {"name": "OneCycleLR", "pct_start": 0.25}
STEP = {"name": "StepLR", "stepsize": 10, "gamma_val": 0.1}
SGD = {"optname": "SGD", "learningrate": 0.003}
ADAM = {"optname": "Adam", "learningrate": 0.001}
ADAMW = {"optname": "AdamW", "learningrate": 0.003, "weight_decay": 0.05}
HALVES = {"mean": 0.5, "std": 0.5}  # the documents' normalisation, in sessions 1 to 3: [0, 1] becomes [-1, 1]
FAST1 = {
    "arch": "Net", "epochs": 1, "batch_size": 64, "augmentation": GENTLE,
    "optimizer": ADAMW, "scheduler": ONE_CYCLE, "loss": "nll_loss",
}  # fmt: skip
# What real pens do besides: slanted, wider or narrower, with thicker or thinner strokes …
HANDS = (
    RandomStrokeEach(thinner=0.7, thicker=1.0, p=0.5),
    RandomAffineEach(degrees=10, zoom=(0.9, 1.1), shift=0.06, mode="bicubic", stretch=0.15, shear=0.2),
)
SMALL = {
    "arch": "SmallNet", "epochs": 20, "batch_size": 128, "augmentation": GENTLE,
    "optimizer": {**ADAMW, "learningrate": 0.015}, "scheduler": ONE_CYCLE, "loss": "nll_loss",
}  # fmt: skip

# `augmentation`: steps for `utils.get_train_transforms`, () for its default, None for none at all. What may be
# left out: `arguments` of the architecture, `scheduler`, `mean` and `std` of the normalisation, `european`: the
# share of the 1s that get a flag or a foot, and of the 7s that get a bar, as few of MNIST's have.
RECIPES = {
    "mlp": {
        **HALVES, "arch": "MLP", "epochs": 15, "batch_size": 64, "augmentation": None,
        "optimizer": SGD, "loss": "nll_loss",
    },
    "mlp-all": {
        **HALVES, "arch": "MLP", "epochs": 15, "batch_size": 64, "augmentation": None,
        "arguments": {"hidden_sizes": (256, 128), "dropout": 0.2, "batch_norm": True},
        "optimizer": ADAM, "scheduler": STEP, "loss": "nll_loss",
    },
    "cnn": {
        **HALVES, "arch": "CNN", "epochs": 10, "batch_size": 64, "augmentation": None,
        "optimizer": ADAM, "loss": "cross_entropy",
    },
    "cnn-nopad": {
        **HALVES, "arch": "CNN", "epochs": 10, "batch_size": 64, "augmentation": None, "arguments": {"padding": 0},
        "optimizer": ADAM, "loss": "cross_entropy",
    },
    "image-classifier": {
        "arch": "ImageClassifier", "epochs": 10, "batch_size": 128,
        "augmentation": (RandomAffineEach(degrees=10, mode="bicubic"),),
        "optimizer": {"optname": "AdamW", "learningrate": 0.01, "weight_decay": 0.01},
        "scheduler": ONE_CYCLE, "loss": "nll_loss",
    },
    "s5": {
        "arch": "Net", "epochs": 20, "batch_size": 512, "augmentation": (),
        "optimizer": {"optname": "SGD", "learningrate": 0.01, "momentumval": 0.9},
        "scheduler": {"name": "StepLR", "stepsize": 15, "gamma_val": 0.1}, "loss": "nll_loss",
    },
    "fast1": FAST1,
    # with one of its four changes against s5 taken back, for the ablation in session 5, and the rate chosen anew
    "fast1-batch512": {**FAST1, "batch_size": 512, "optimizer": {**ADAMW, "learningrate": 0.024}},
    "fast1-sgd": {**FAST1, "optimizer": {"optname": "SGD", "learningrate": 0.1}},
    "fast1-constant": {**FAST1, "scheduler": None},
    "fast1-classic-augmentation": {**FAST1, "augmentation": ()},
    "fast2": {
        "arch": "Net", "epochs": 2, "batch_size": 128, "augmentation": GENTLE,
        "optimizer": {**ADAMW, "betas": (0.9, 0.98)}, "scheduler": ONE_CYCLE, "loss": "nll_loss",
    },
    # session 6's small networks: each in full, then as quickly as it gets to a mark
    "small": SMALL,
    "small4": {**SMALL, "epochs": 4, "optimizer": {**ADAMW, "learningrate": 0.02}},
    "tiny": {**SMALL, "arch": "TinyNet"},
    "tiny1": {
        **SMALL, "arch": "TinyNet", "epochs": 1, "batch_size": 16,
        "optimizer": {**ADAMW, "learningrate": 0.01}, "scheduler": {**ONE_CYCLE, "pct_start": 0.15},
    },
    "micro": {
        **SMALL, "arch": "MicroNet", "epochs": 40,
        "augmentation": (RandomAffineEach(degrees=5, zoom=(0.95, 1.05), shift=0.03, mode="bicubic"),),
        "optimizer": {"optname": "AdamW", "learningrate": 0.03, "weight_decay": 0.0},
    },
    # what `torchnn.py --train` does unless it is told otherwise: by default, and for networks without batch norm
    "torchnn": {**SMALL, "augmentation": HANDS, "european": 0.3},
    "torchnn-net": {
        "arch": "Net", "epochs": 10, "batch_size": 128, "augmentation": HANDS, "european": 0.3,
        "optimizer": {"optname": "AdamW", "learningrate": 0.003}, "scheduler": ONE_CYCLE, "loss": "nll_loss",
    },
}  # fmt: skip


def recipe_loader(recipe, split, **options):
    """The recipe's DataLoader of a split; 'train' is augmented and shuffled. `options`: see the loaders of `utils`."""
    normalise = {key: recipe[key] for key in ("mean", "std") if key in recipe}
    kwargs, options["transform"] = {"batch_size": 500}, utils.get_test_transforms(**normalise)
    if split == "train":
        kwargs = {"batch_size": recipe["batch_size"], "shuffle": True}
        if recipe["augmentation"] is not None:
            options["transform"] = utils.get_train_transforms(*recipe["augmentation"], **normalise)
    loader = utils.get_MNISTdataset_with_loader(split, kwargs, **options)
    if split == "train" and loader.dataset.classes == [str(digit) for digit in range(10)]:  # and no clothes
        _draw_european(loader.dataset, recipe.get("european", 0))
    return loader


def _draw_european(data, share):
    """Redraw this share of the 1s and 7s of `DigitImages`, the same in each run."""
    rows = ((data.labels == 1) | (data.labels == 7)).nonzero()[:, 0]
    rows = rows[torch.rand(len(rows), generator=torch.Generator().manual_seed(0)).to(rows.device) < share]
    if len(rows):
        own, labels = data.images[rows].cpu(), data.labels[rows].cpu()
        changed = place(european(own, labels, torch.Generator().manual_seed(1), 1, 1))
        data.images = data.images.index_copy(0, rows, (255 * changed).round().to(data.images))


def recipe_model(recipe):
    """The recipe's network, new. Its `arch` is a name in `ARCHITECTURES`, or what makes a network."""
    make = recipe["arch"]
    return (make if callable(make) else ARCHITECTURES[make])(**recipe.get("arguments", {}))


def recipe_scheduler(recipe, optimizer, batches):
    """The recipe's scheduler for epochs of so many batches, or None."""
    schedule = recipe.get("scheduler")
    if schedule is None:
        return None
    plan = {"total_steps": recipe["epochs"] * batches} if schedule["name"] == "OneCycleLR" else {}
    return utils.get_scheduler(optimizer, **schedule, **plan)


def train_recipe(recipe, seed, *, holdout=0, dataset="mnist", root=None, precision=None):
    """Train a recipe, a name in RECIPES or a dict like those, from scratch; return the model and the training seconds.

    `seed`: of weights, order and augmentation; `holdout`, `dataset`, `root`: see `dataset.load_dataset`. Raises
    ValueError for an unknown name, and what loading and `utils.train` raise.
    """
    recipe = recipe if isinstance(recipe, dict) else choose("recipe", recipe, RECIPES)
    device = utils.get_device()
    utils.set_seed(seed)
    model = recipe_model(recipe).to(device)
    loader = recipe_loader(recipe, "train", dataset=dataset, root=root, holdout=holdout, device=device)
    optimizer = utils.get_optimizer(model, **recipe["optimizer"])
    scheduler = recipe_scheduler(recipe, optimizer, len(loader))
    criterion, options = utils.get_loss(recipe["loss"]), {"scheduler": scheduler, "precision": precision}
    start = time.perf_counter()
    for epoch in range(1, recipe["epochs"] + 1):
        utils.train(model, device, loader, optimizer, criterion, epoch=epoch, **options)
    return model, time.perf_counter() - start


# ------------------------------------------------------------------------------------------------
# Accuracy of each digit
# ------------------------------------------------------------------------------------------------


def evaluate(model, device, loader):
    """Loss, accuracy in % and the accuracy of each of the ten digits in % (NaN for one that is not there)."""
    correct, count = torch.zeros(10), torch.zeros(10)
    criterion = utils.get_loss()

    def counting(outputs, labels):
        digits, hits = labels.cpu(), (outputs.argmax(dim=1) == labels).float().cpu()
        correct.index_add_(0, digits, hits)
        count.index_add_(0, digits, torch.ones(len(digits)))
        return criterion(outputs, labels)

    loss, accuracy = utils.test(model, device, loader, counting)
    return loss, accuracy, (100 * correct / count).tolist()


# ------------------------------------------------------------------------------------------------
# Training that is kept
# ------------------------------------------------------------------------------------------------

HISTORY = "history.csv"  # beside LAST and BEST
COLUMNS = ("train_loss", "train_acc", "validation_loss", "validation_acc", "rate", "seconds")


def fit(
    model,
    device,
    train_loader,
    validation_loader,
    optimizer,
    criterion,
    *,
    epochs,
    scheduler=None,
    step_every=None,
    folder="checkpoints",
    patience=None,
    resume=False,
    precision=None,
    normalisation=None,
    settings=None,
    verbose=True,
):
    """Train for `epochs` epochs in all, validate after each, and keep the run in `folder`.

    There lie `best_model.pt` (the lowest validation loss), `last.pt` (the last complete epoch) and
    `history.csv`. `scheduler`, `step_every`, `precision`: as for `utils.train`, but ReduceLROnPlateau is
    stepped too, with the validation loss. `patience`: stop after this many epochs without a lower
    validation loss. `normalisation`: the `(mean, std)` of the images, by default that of the one Normalize
    step in the training loader's transform; it is kept for those who use the model. `settings`: kept in
    the checkpoints. `verbose`: print a line an epoch.

    `resume=True` goes on from `last.pt`, where there is one, exactly as if there had been no stop;
    otherwise an earlier run in `folder` is moved into `earlier-1`, `earlier-2`, … there. Ctrl-C or
    a kill loses the epoch in progress only. While a run goes on in `folder`, no other can.

    Returns the history: a dict of lists with one number an epoch, "train_loss", "train_acc" (%),
    "validation_loss", "validation_acc" (%), "rate" (at the epoch's start), "seconds" (training).
    Raises ValueError for epochs or patience that don't fit, or a normalisation that can't be seen;
    RunningError where another run goes on; and what `restore` and `train` raise.
    """
    epochs = whole_number("epochs", epochs)
    patience = None if patience is None else whole_number("patience", patience)
    step_every = utils.get_step_every(scheduler, step_every)
    normalisation = _normalisation(train_loader, normalisation)
    folder, loaders = Path(folder), (train_loader, validation_loader)
    steps = len(train_loader) if step_every == "batch" else 1  # of the scheduler, an epoch
    history, best_loss = {name: [] for name in COLUMNS}, math.inf

    def save(name):
        parts = {"optimizer": optimizer, "scheduler": scheduler, "loaders": loaders, "settings": settings}
        save_checkpoint(folder / name, model, epoch=len(history["rate"]), history=history, best_loss=best_loss, **parts)

    with _only_run(folder):
        resume = resume and (folder / LAST).exists()
        if resume:
            content = restore(folder / LAST, model, optimizer=optimizer, scheduler=scheduler, loaders=loaders)
            history, best_loss = _history(folder / LAST, content), content["best_loss"]
            if tuple(content["normalisation"]) != normalisation:
                raise CheckpointError(
                    f"{folder / LAST} can't be resumed from: its images were normalised by"
                    f" {tuple(content['normalisation'])}, and these are by {normalisation}: give the same."
                )
            _check_steps(folder / LAST, scheduler, len(history["rate"]), steps)
        model.normalisation, model.novelty = normalisation, None  # a rule learned before is of other weights
        _check_plan(scheduler, epochs, steps)
        if not resume:
            _set_aside(folder)
        _sweep(folder)
        done = len(history["rate"])
        if done == 0:
            save(LAST)  # so that a run can be resumed from its first moment; a full disk shows now, too
        else:
            write_history(folder / HISTORY, history)  # a kill may have come between last.pt and it
        for epoch in range(done + 1, epochs + 1):
            if patience is not None and _epochs_without_gain(history) >= patience:
                if verbose:
                    print(f"Stopped early: no lower validation loss in {patience} epochs.")
                break
            row = _one_epoch(
                model, device, loaders, optimizer, criterion, scheduler, step_every, precision=precision, epoch=epoch
            )
            for name, value in zip(COLUMNS, row, strict=True):
                history[name].append(value)
            better = history["validation_loss"][-1] < best_loss
            if better:
                best_loss = history["validation_loss"][-1]
                save(BEST)  # before last.pt: after a kill in between, this epoch is trained again
            save(LAST)
            write_history(folder / HISTORY, history)
            if verbose:
                print(_line(history) + (" (best so far)" if better else ""), flush=True)
        else:
            if verbose and done >= epochs:
                print(f"There was nothing left to train: the run is complete after {done} epochs.")
    return history


def _one_epoch(model, device, loaders, optimizer, criterion, scheduler, step_every, **options):
    """Train and validate once; a value for each of COLUMNS."""
    plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
    steps = {} if plateau else {"scheduler": scheduler, "step_every": step_every}
    rate, start = float(optimizer.param_groups[0]["lr"]), time.perf_counter()
    train_loss, train_acc = utils.train(model, device, loaders[0], optimizer, criterion, **steps, **options)
    seconds = time.perf_counter() - start
    loss, accuracy = utils.test(model, device, loaders[1], criterion, precision=options["precision"])
    if plateau:
        scheduler.step(loss)
    return train_loss, train_acc, loss, accuracy, rate, seconds


def _line(history):
    """The last epoch in words."""
    last = {name: values[-1] for name, values in history.items()}
    return (
        "Epoch {epoch:2d}: training loss {train_loss:.4f}, accuracy {train_acc:5.2f} %;"
        " validation loss {validation_loss:.4f}, accuracy {validation_acc:5.2f} %"
    ).format(epoch=len(history["rate"]), **last)


class RunningError(OSError):
    """Another run goes on in the folder; the message names it."""


@contextlib.contextmanager
def _only_run(folder):
    """Hold the folder's lock; raise RunningError while another process, or another fit of this one, does.

    The operating system lets go of the lock when its process ends, however it ends.
    """
    lock, owner = filelock.FileLock(folder / ".lock"), folder / ".lock-owner"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0.5)  # by when a run that starts at the same moment has said who it is
        since = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}, since {since}", encoding="utf-8")
    except filelock.Timeout:
        first = owner.read_text(encoding="utf-8") if owner.exists() else "it has just begun"
        raise RunningError(f"A run goes on in {folder} ({first}): wait for its end, or take another folder.") from None
    except OSError as problem:
        lock.release()
        raise type(problem)(f"Could not write {folder}: {problem.strerror or problem}.") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            owner.unlink()
        lock.release()


def _normalisation(loader, given):
    """The `(mean, std)` of the loader's images: as given, else of the one Normalize step in its transform."""
    if given is not None:
        try:
            pair = tuple(map(float, given))
        except (TypeError, ValueError):
            pair = ()
        if not is_normalisation(pair):
            raise ValueError(f"normalisation must be (mean, standard deviation), the latter above 0, not {given!r}.")
        return pair
    data = getattr(loader, "dataset", None)
    while hasattr(data, "dataset"):  # Subset
        data = data.dataset
    found = list(_normalise_steps(getattr(data, "transform", None)))
    values = [np.ravel(number) for step in found for number in (step.mean, step.std)]
    if len(found) != 1 or any(len(each) != 1 for each in values):
        raise ValueError(
            f"fit keeps the normalisation of the images with the model, and found {len(found)} Normalize steps of one"
            " channel in the training loader's transform: pass normalisation=(mean, std), (0, 1) for none."
        )
    mean, std = (float(each[0]) for each in values)
    return mean, std


def _normalise_steps(transform):
    """The Normalize steps in a transform of torchvision, in Compose at any depth."""
    if type(transform).__name__ == "Normalize":
        yield transform
    for step in getattr(transform, "transforms", ()):
        yield from _normalise_steps(step)


def _check_steps(path, scheduler, epochs, steps):
    """Refuse loaders of other lengths than those that the scheduler has counted; it makes so many steps an epoch."""
    made = getattr(scheduler, "last_epoch", epochs * steps)  # a ChainedScheduler counts none
    if made != epochs * steps:
        raise CheckpointError(
            f"{path} can't be resumed from: its scheduler made {made} steps, and {epochs} epochs are"
            f" {epochs * steps} of them here: give a loader with the same batches, and the same step_every."
        )


def _check_plan(scheduler, epochs, steps):
    """Refuse a cycle that ends before the training does."""
    total = getattr(scheduler, "total_steps", None)
    if total is not None and total < epochs * steps:
        raise ValueError(
            f"The scheduler's one cycle ends after {total / steps:g} epochs, and can't be prolonged to"
            f" {epochs}: train for no more, or start anew with total_steps=epochs * len(train_loader)."
        )


def _history(path, content):
    """The history of a checkpoint that `fit` wrote: one number an epoch in each column."""
    history, epoch = content["history"], content["epoch"]
    columns = [history.get(name) for name in COLUMNS]
    if not all(isinstance(c, list) and len(c) == epoch and all(isinstance(v, float) for v in c) for c in columns):
        raise CheckpointError(f"{path} can't be resumed from: its history does not fit its {epoch} epochs.")
    return {name: list(history[name]) for name in COLUMNS}


def _epochs_without_gain(history):
    losses = history["validation_loss"]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def write_history(path, history):
    """The history as CSV: a line of names, then a line an epoch."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", *history])
    writer.writerows([epoch, *row] for epoch, row in enumerate(zip(*history.values(), strict=True), start=1))
    write_atomically(path, text.getvalue().encode())


def _set_aside(folder):
    """Move an earlier run's files out of the way of a new one: nothing of the user's is lost."""
    found = [folder / name for name in (LAST, BEST, HISTORY) if (folder / name).exists()]
    if found:
        number = 1
        while (folder / f"earlier-{number}").exists():
            number += 1
        (folder / f"earlier-{number}").mkdir()
        for file in found:
            os.replace(file, folder / f"earlier-{number}" / file.name)


def _sweep(folder):
    """Remove what kills in the middle of a write have left of our files; an hour old, lest it be in use."""
    for name in (LAST, BEST, HISTORY):
        for file in folder.glob(f".{name}.*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - file.stat().st_mtime > 3600:
                    file.unlink()


# ------------------------------------------------------------------------------------------------
# Learning-rate range test
# ------------------------------------------------------------------------------------------------


def _endless(loader):
    while True:
        batch = None
        for batch in loader:
            yield batch
        if batch is None:
            raise ValueError("The data gave no image: is the data set empty, or drop_last on?")


def rate_range(model, optimizer, data, criterion, *, low=1e-5, high=1.0, steps=100):
    """The learning-rate range test: the loss while the rate rises exponentially from `low` to `high`.

    A copy of the model is trained for `steps` batches (again from the start of `data` if it has
    fewer) with a copy of the optimizer; it stops early when the smoothed loss is four times its
    least, or not finite (Smith 2017, Cyclical Learning Rates for Training Neural Networks). The
    suggested rate is a tenth of the one where that loss is least, which is near the edge of
    divergence (Howard and Gugger 2020, Deep Learning for Coders). Model, optimizer and random state
    are afterwards as they were.

    Returns `(figure, {"rates", "losses", "smoothed", "suggested"})`. Raises ValueError for data
    without a batch, an odd range of rates, or a loss that is not finite from the start.
    """
    steps = whole_number("steps", steps, 10)
    if not 0 < low < high:
        raise ValueError(f"The range test needs 0 < low < high, not {low} and {high}.")
    trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    if not trained <= set(model.parameters()):
        raise ValueError("The optimizer trains other parameters than this model's: make it from model.parameters().")
    loader = make_loader(data, {"batch_size": 500}) if isinstance(data, Dataset) else data
    device = next(model.parameters()).device
    context, states = utils.autocast(device), random_states((loader,))
    losses, smoothed, mean = [], [], 0.0
    rates = np.geomspace(low, high, steps)
    try:
        model, optimizer = copy.deepcopy((model, optimizer))  # together, so that it holds the copy's weights
        model.train()
        for (images, labels), rate in zip(_endless(loader), rates, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = float(rate)
            with context:
                outputs = model(images.to(device))
            loss = criterion(outputs.float(), labels.to(device))
            mean = 0.9 * mean + 0.1 * loss.item()
            if not math.isfinite(loss.item()):
                break
            losses.append(loss.item())
            smoothed.append(mean / (1 - 0.9 ** len(losses)))  # bias correction: the mean starts at 0
            if smoothed[-1] > 4 * min(smoothed):
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    finally:
        restore_random_states(states, (loader,))
    if len(losses) < 3:
        raise ValueError("The loss is not finite from the start: give a smaller `low`, or look at the weights.")
    rates, smoothed = rates[: len(losses)], np.array(smoothed)
    suggested = float(rates[smoothed.argmin()]) / 10
    with styled():
        figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
        ax.plot(rates, losses, color="lightgray", linewidth=1, label="each batch")
        ax.plot(rates, smoothed, label="smoothed", **{**TEST_STYLE, "marker": ""})
        ax.axvline(suggested, color="black", linestyle="--", label=f"suggested: {suggested:.2g}")
        ax.set(title="Learning-rate range test", xlabel="learning rate", ylabel="loss", xscale="log")
        ax.set_ylim(0, 1.5 * max(smoothed[0], np.median(smoothed)))
        ax.legend(loc="lower left")
    return figure, {"rates": rates, "losses": np.array(losses), "smoothed": smoothed, "suggested": suggested}
