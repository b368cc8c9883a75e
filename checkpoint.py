"""Checkpoints that can't be lost: save, load, train with `fit`, resume exactly.

A checkpoint is one file of plain types and tensors, written by `torch.save` and read with
`weights_only=True`, so that opening one never runs code. A write goes to a temporary file beside
it that then takes its place: killed at any moment, the earlier file is still whole.
"""

import contextlib
import copy
import csv
import errno
import io
import math
import os
import pickle
import random
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch.optim import lr_scheduler

from model import ARCHITECTURES, MEAN, STD

FORMAT = 1  # raised when a reader of the format before could not use the file
KEYS = {  # what a checkpoint holds, and its type
    "format": int,
    "architecture": str,
    "arguments": dict,
    "normalisation": list,  # [mean, std] of the images that it was trained on
    "weights": dict,
    "optimizer": dict | None,  # {"name", "state"}
    "scheduler": dict | None,  # likewise
    "epoch": int,
    "history": dict,
    "best_loss": float,
    "settings": dict,
    "random": dict,
}
BEST, LAST, HISTORY = "best_model.pt", "last.pt", "history.csv"
COLUMNS = ("train_loss", "train_acc", "validation_loss", "validation_acc", "rate", "seconds")


class CheckpointError(ValueError):
    """The file is there, but no checkpoint that can be used here; the message says why."""


# ------------------------------------------------------------------------------------------------
# Writing
# ------------------------------------------------------------------------------------------------


def write_atomically(path, content):
    """Write bytes so that at any moment `path` holds all of the old content or all of the new.

    A temporary file in the same folder, flushed to the disk, takes its place. Raises OSError,
    which names the file, when that fails (a full disk, say) or something is there that is no
    file or is read-only; what was there is whole then.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "there is something that is no file")
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "the file there is read-only")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as problem:
        why = problem.strerror or str(problem)
        sentence = type(problem)(f"Could not write {path}: {why}. What was there before is whole.")
        sentence.errno = problem.errno
        raise sentence from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    with contextlib.suppress(OSError):  # the folder's entry too, where folders can be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def save_checkpoint(
    path, model, *, optimizer=None, scheduler=None, epoch=0, history=None, best_loss=math.inf, settings=None
):
    """Write a model of model.py, and what its training needs to go on, into one file.

    `epoch`: how many are complete; `history`: lists with a number an epoch; `best_loss`: the best
    validation loss so far; `settings`: a dict of plain types, for the caller's own use. The random
    states of Python, NumPy and PyTorch are kept too. Raises ValueError for a model of another
    kind, OSError when the file can't be written (the earlier one is whole then).
    """
    architecture = getattr(model, "architecture", None)
    if architecture not in ARCHITECTURES:
        raise ValueError(f"Only models of model.py can be saved, and {type(model).__name__} is none of them.")
    content = {
        "format": FORMAT,
        "architecture": architecture,
        "arguments": model.arguments,
        "normalisation": list(getattr(model, "normalisation", (MEAN, STD))),
        "weights": dict(model.state_dict()),
        "optimizer": _named_state(optimizer),
        "scheduler": _named_state(scheduler),
        "epoch": epoch,
        "history": history or {},
        "best_loss": float(best_loss),
        "settings": settings or {},
        "random": _random_states(),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def _named_state(part):
    """The state with the class's name, since neither optimizers nor schedulers say what they are."""
    return None if part is None else {"name": _name(part), "state": part.state_dict()}


def _name(part):
    return type(part).__name__


def _random_states():
    """Every generator that training draws from, as plain types and tensors."""
    version, numbers, gauss = random.getstate()
    kind, keys, *position = np.random.get_state()
    states = {
        "python": [version, list(numbers), gauss],
        "numpy": [kind, keys.tolist(), *position],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def _restore_random_states(states):
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *position = states["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *position))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available():
        for index, state in enumerate(states.get("cuda", [])[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, index)
    if torch.backends.mps.is_available() and "mps" in states:
        torch.mps.set_rng_state(states["mps"])


# ------------------------------------------------------------------------------------------------
# Reading
# ------------------------------------------------------------------------------------------------


def load_checkpoint(path):
    """Read a checkpoint, tensors on the CPU; return what `save_checkpoint` wrote, as a dict (see KEYS).

    Never runs code from the file. Raises FileNotFoundError or another OSError when it can't be
    opened, CheckpointError when it is no checkpoint, damaged, of a newer format, or wants to run
    something.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name the checkpoint in it, such as {path / BEST}.")
    if not path.exists():
        raise FileNotFoundError(f"There is no checkpoint {path}: train one with fit, or with torchnn.py --train.")
    if not path.is_file():
        raise CheckpointError(f"{path} is no regular file, so it can't be a checkpoint.")
    try:
        _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.load warns of what is refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except OSError as problem:
        raise type(problem)(f"{path} can't be read: {problem.strerror or problem}.") from None
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} was refused: it holds more than plain types and tensors, and opening it could run code."
        ) from None
    except Exception:  # whatever a damaged file leads to, the caller gets one sentence
        raise CheckpointError(f"{path} is damaged, and can't be read: use another copy of it.") from None
    _check_content(path, content)
    return content


def _check_archive(path):
    """torch.load takes a damaged archive's word for much; its CRC-32 sums and sizes tell."""
    with open(path, "rb") as file:
        start = file.read(4)
    if not zipfile.is_zipfile(path):
        if start[:2] == b"PK":
            raise CheckpointError(f"{path} is truncated or damaged: use another copy of it.")
        if start[:1] == b"\x80":
            raise CheckpointError(f"{path} was refused: it is a bare pickle, and opening one can run code.")
        raise CheckpointError(f"{path} is not a checkpoint: those are written by save_checkpoint and fit.")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(m.compress_type != zipfile.ZIP_STORED for m in members):
            raise CheckpointError(f"{path} is not a checkpoint, but some other zip archive.")
        if sum(m.file_size for m in members) > path.stat().st_size or archive.testzip():
            raise CheckpointError(f"{path} is damaged: its checksums don't match. Use another copy of it.")


def _check_content(path, content):
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise CheckpointError(f"{path} is no checkpoint of this course (weights alone?): save with save_checkpoint.")
    if content["format"] > FORMAT:
        raise CheckpointError(
            f"{path} is of format {content['format']}; this version reads up to {FORMAT}: update the course's code."
        )
    for key, kind in KEYS.items():
        if not isinstance(content.get(key), kind) or (key not in content):
            raise CheckpointError(f"{path} is damaged: its {key!r} is missing or of the wrong type.")
    numbers = content["normalisation"]
    if len(numbers) != 2 or not all(type(n) is float and abs(n) < 1e6 for n in numbers) or numbers[1] <= 1e-6:
        raise CheckpointError(f"{path} is damaged: its 'normalisation' is no mean and standard deviation.")
    if content["architecture"] not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise CheckpointError(
            f"{path} holds the architecture {content['architecture']!r}; model.py has {known}: update it."
        )


def load_model(path, device="cpu", *, architecture=None):
    """Rebuild the model of a checkpoint, in eval mode on `device`; `model.normalisation` is (mean, std) of its images.

    `architecture`: the one that it must be, where only one will do. Raises what `load_checkpoint`
    raises, and CheckpointError for another architecture or weights that don't fit it.
    """
    return model_from(load_checkpoint(path), path, architecture=architecture).to(device)


def model_from(content, path, *, architecture=None):
    """As `load_model`, on the CPU, from a checkpoint that is read already; `path` is for messages."""
    found, arguments = content["architecture"], content["arguments"]
    if architecture not in (None, found):
        raise CheckpointError(f"{path} holds the architecture {found}, not {architecture}.")
    try:
        with torch.device("meta"):  # no memory yet: the arguments may ask for any amount of it
            model = ARCHITECTURES[found](**arguments)
    except Exception as problem:
        raise CheckpointError(f"{path} is damaged: no {found} can be built from its arguments ({problem}).") from None
    _check_weights(path, model, content["weights"])
    model.load_state_dict(content["weights"], assign=True)
    model.normalisation = tuple(content["normalisation"])
    return model.eval()


def _check_weights(path, model, weights):
    expected, name = model.state_dict(), model.architecture
    if odd := sorted(map(str, expected.keys() ^ weights.keys())):
        raise CheckpointError(f"{path} does not fit {name}: {', '.join(odd[:3])} is in only one of the two.")
    for key, tensor in expected.items():
        found = weights[key]
        if not _is_stored(found) or (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
            what = f"{tuple(found.shape)} {found.dtype}" if _is_stored(found) else "no plain tensor"
            raise CheckpointError(
                f"{path} does not fit {name}: {key} is {what}, expected {tuple(tensor.shape)} {tensor.dtype}."
            )
        if not found.isfinite().all():
            raise CheckpointError(f"{path} is damaged: {key} holds numbers that are not finite.")


def restore(path, model, *, optimizer=None, scheduler=None):
    """Bring model, optimizer, scheduler and random states to where the checkpoint was; return its content.

    Raises what `load_model` raises, and CheckpointError when it has no state for the optimizer or
    scheduler given, or that of another kind.
    """
    content = load_checkpoint(path)
    saved = model_from(content, path, architecture=getattr(model, "architecture", None))
    _check_weights(path, model, content["weights"])  # built with other arguments, it may have other shapes
    for key, part in (("optimizer", optimizer), ("scheduler", scheduler)):
        has, wants = (content[key] or {}).get("name"), _name(part) if part else None
        if has != wants:
            raise CheckpointError(f"{path} was trained with the {key} {has}, not {wants}: give the same to go on.")
    try:
        if optimizer is not None:
            state = content["optimizer"]["state"]
            _check_alike(state["param_groups"], optimizer.state_dict()["param_groups"])
            if content["epoch"] > 0:
                _check_alike(state["state"], _state_after_a_step(optimizer))
            _state_after_a_step(optimizer, state)  # raises for numbers that no step can be made with
            optimizer.load_state_dict(state)
        if scheduler is not None:
            _check_alike(content["scheduler"]["state"], scheduler.state_dict())
            scheduler.load_state_dict(content["scheduler"]["state"])
        _restore_random_states(content["random"])
    except Exception:  # the states come from the file: whatever is wrong with them, it is the file
        raise CheckpointError(f"{path} can't be resumed from: its optimizer or random states don't fit.") from None
    model.load_state_dict(saved.state_dict())
    return content


def _is_stored(value):
    """A tensor whose every number is in the file: a view may claim any size of memory."""
    return (
        isinstance(value, torch.Tensor)
        and (value.layout, value.device.type) == (torch.strided, "cpu")
        and value.untyped_storage().nbytes() >= value.numel() * value.element_size()
    )


def _state_after_a_step(optimizer, state=None):
    """What the optimizer, from `state` on, keeps for each parameter once it has stepped; a copy makes the step."""
    trial = copy.deepcopy(optimizer)
    if state is not None:
        trial.load_state_dict(copy.deepcopy(state))  # which keeps the tensors it is given
    for group in trial.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    trial.step()
    return trial.state_dict()["state"]


def _check_alike(found, own):
    """Raise ValueError unless both have the same keys, lengths, shapes and kinds of values."""
    if isinstance(own, dict):
        alike = isinstance(found, dict) and found.keys() == own.keys()
        parts = [(found[key], own[key]) for key in own] if alike else []
    elif isinstance(own, list | tuple):
        alike = isinstance(found, list | tuple) and len(found) == len(own)
        parts = list(zip(found, own, strict=True)) if alike else []
    elif isinstance(own, torch.Tensor):
        alike, parts = _is_stored(found) and found.shape == own.shape, []
    elif isinstance(own, int | float) and not isinstance(own, bool):
        alike = isinstance(found, int | float) and not isinstance(found, bool)
        alike, parts = alike and (abs(found) < 1e30 or found == own), []  # float32 ends at 3e38
    else:
        alike, parts = type(found) is type(own), []
    if not alike:
        raise ValueError("A state has another form than its owner's.")
    for pair in parts:
        _check_alike(*pair)


# ------------------------------------------------------------------------------------------------
# Training that is kept
# ------------------------------------------------------------------------------------------------


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
    folder="checkpoints",
    patience=None,
    resume=False,
    precision=None,
    settings=None,
    verbose=True,
):
    """Train for `epochs` epochs in all, validate after each, and keep the run in `folder`.

    There lie `best_model.pt` (the lowest validation loss), `last.pt` (the last complete epoch) and
    `history.csv`. `scheduler`: any; OneCycleLR and CyclicLR are stepped after each batch,
    ReduceLROnPlateau with the validation loss, the others after each epoch. `patience`: stop after
    this many epochs without a lower validation loss. `precision` as for `train`. `settings`: kept
    in the checkpoints. `verbose`: print a line an epoch.

    `resume=True` goes on from `last.pt`, where there is one, exactly as if there had been no stop;
    otherwise an earlier run in `folder` is moved into `earlier-1`, `earlier-2`, … there. Ctrl-C or
    a kill loses the epoch in progress only.

    Returns the history: a dict of lists with one number an epoch, "train_loss", "train_acc" (%),
    "validation_loss", "validation_acc" (%), "rate" (at the epoch's start), "seconds" (training).
    Raises ValueError for epochs or patience that don't fit, and what `restore` and `train` raise.
    """
    from utils import test, train  # here, since their plots would double the start of an inference

    if epochs < 1 or (patience is not None and patience < 1):
        raise ValueError("epochs and patience must be at least 1.")
    folder = Path(folder)
    history, done, best_loss = {name: [] for name in COLUMNS}, 0, math.inf
    per_batch = isinstance(scheduler, lr_scheduler.OneCycleLR | lr_scheduler.CyclicLR)
    resume = resume and (folder / LAST).exists()
    if resume:
        content = restore(folder / LAST, model, optimizer=optimizer, scheduler=scheduler)
        history, done, best_loss = _history(folder / LAST, content), content["epoch"], content["best_loss"]
        steps = done * (len(train_loader) if per_batch else 1)
        if scheduler is not None and scheduler.last_epoch != steps:
            raise CheckpointError(
                f"{folder / LAST} can't be resumed from: its scheduler made {scheduler.last_epoch} steps, and {done}"
                f" epochs are {steps} of them here: give a loader with the same batches."
            )
    model.normalisation = _normalisation(train_loader) or getattr(model, "normalisation", (MEAN, STD))
    total = getattr(scheduler, "total_steps", None)
    if per_batch and total is not None and total < epochs * len(train_loader):
        raise ValueError(
            f"The scheduler's one cycle ends after {total / len(train_loader):g} epochs, and can't be prolonged to"
            f" {epochs}: train for no more, or start anew with total_steps=epochs * len(train_loader)."
        )

    def save(name, epoch):
        save_checkpoint(
            folder / name,
            model,
            optimizer=optimizer,
            scheduler=scheduler,
            epoch=epoch,
            history=history,
            best_loss=best_loss,
            settings=settings,
        )

    if not resume:
        _set_aside(folder)
    _sweep(folder)
    if done == 0:
        save(LAST, 0)  # so that a run can be resumed from its first moment; a full disk shows now, too
    for epoch in range(done + 1, epochs + 1):
        if patience is not None and _epochs_without_gain(history) >= patience:
            if verbose:
                print(f"Stopped early: no lower validation loss in {patience} epochs.")
            break
        rate, start = float(optimizer.param_groups[0]["lr"]), time.perf_counter()
        steps = {"scheduler": scheduler} if per_batch else {}
        train_loss, train_acc = train(
            model, device, train_loader, optimizer, criterion, precision=precision, epoch=epoch, **steps
        )
        seconds = time.perf_counter() - start
        loss, accuracy = test(model, device, validation_loader, criterion, precision=precision)
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            scheduler.step(loss)
        elif scheduler is not None and not per_batch:
            scheduler.step()
        for name, value in zip(COLUMNS, (train_loss, train_acc, loss, accuracy, rate, seconds), strict=True):
            history[name].append(value)
        better = loss < best_loss
        if better:
            best_loss = loss
            save(BEST, epoch)  # before last.pt: after a kill in between, this epoch is trained again
        save(LAST, epoch)
        write_history(folder / HISTORY, history)
        if verbose:
            print(
                f"Epoch {epoch:2d}: training loss {train_loss:.4f}, accuracy {train_acc:5.2f} %;"
                f" validation loss {loss:.4f}, accuracy {accuracy:5.2f} %{' (best so far)' if better else ''}",
                flush=True,
            )
    if verbose and 0 < done == len(history["rate"]):
        print(f"There was nothing left to train: the run is complete after {done} epochs.")
    return history


def _normalisation(loader):
    """The (mean, std) of the Normalize step in the loader's transform, or None where there is none to be found."""
    transform = getattr(getattr(loader, "dataset", None), "transform", None)
    for step in getattr(transform, "transforms", []):
        if _name(step) == "Normalize":
            return float(step.mean[0]), float(step.std[0])
    return None


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
    """Remove what kills in the middle of a write have left; an hour old, so that no other run's is taken."""
    for file in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > 3600:
                file.unlink()
