"""Checkpoints that can't be lost: save, load, restore exactly.

A checkpoint is one file of plain types and tensors, written by `torch.save` and read with
`weights_only=True`, so that opening one never runs code. A write goes to a temporary file beside
it that then takes its place: killed at any moment, the earlier file is still whole.
"""

import contextlib
import copy
import errno
import io
import math
import os
import pickle
import random
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch

from model import ARCHITECTURES, MEAN, STD
from novelty import features

FORMAT = 1  # raised when a reader of the format before could not use the file
KEYS = {  # what a checkpoint holds, and its type
    "format": int,
    "architecture": str,
    "arguments": dict,
    "normalisation": list,  # [mean, std] of the images that it was trained on
    "weights": dict,
    "novelty": dict | None,  # the rule of novelty.py; files from before it lack the key
    "optimizer": dict | None,  # {"name", "state"}
    "scheduler": dict | None,  # likewise
    "epoch": int,
    "history": dict,
    "best_loss": float,
    "settings": dict,
    "random": dict,
}
BEST, LAST = "best_model.pt", "last.pt"  # what `training.fit` keeps of a run


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
            raise OSError(errno.EINVAL, "what is there is a folder or a device, not a file")
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
    path, model, *, optimizer=None, scheduler=None, epoch=0, history=None, best_loss=math.inf, settings=None, loaders=()
):
    """Write a model of model.py, and what its training needs to go on, into one file.

    `epoch`: how many are complete; `history`: lists with a number an epoch; `best_loss`: the best
    validation loss so far; `settings`: a dict of plain types, for the caller's own use. The random
    states of Python, NumPy, PyTorch and the `loaders`' own generators are kept too. Raises ValueError
    for a model of another kind, OSError when the file can't be written (the earlier one is whole then).
    """
    architecture = getattr(model, "architecture", None)
    if architecture not in ARCHITECTURES:
        raise ValueError(f"Only models of model.py can be saved, and {type(model).__name__} is not one of them.")
    content = {
        "format": FORMAT,
        "architecture": architecture,
        "arguments": model.arguments,
        "normalisation": list(getattr(model, "normalisation", (MEAN, STD))),
        "weights": dict(model.state_dict()),
        "novelty": getattr(model, "novelty", None),
        "optimizer": _named_state(optimizer),
        "scheduler": _named_state(scheduler),
        "epoch": epoch,
        "history": history or {},
        "best_loss": float(best_loss),
        "settings": settings or {},
        "random": random_states(loaders),
    }
    _write(path, content)


def keep_novelty(path, rule):
    """Write a checkpoint anew with this rule of `novelty.learn_digits`, all else as it was; raises as load and save."""
    _write(path, load_checkpoint(path) | {"novelty": rule})


def _write(path, content):
    buffer = io.BytesIO()
    torch.save(_plain(content), buffer)
    write_atomically(path, buffer.getvalue())


def _plain(value):
    """NumPy's numbers as Python's, at any depth: reading others would take more than plain types."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return value


def _named_state(part):
    """The state with the class's name, since neither optimizers nor schedulers say what they are."""
    return None if part is None else {"name": _name(part), "state": part.state_dict()}


def _name(part):
    return type(part).__name__


def _generators(loaders):
    """The loaders' own random generators, each once; a loader without one draws from PyTorch's."""
    found = {}
    for loader in loaders:
        batches = getattr(loader, "batch_sampler", None)
        for part in (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)):
            generator = getattr(part, "generator", None)
            if isinstance(generator, torch.Generator):
                found[id(generator)] = generator
    return list(found.values())


def random_states(loaders=()):
    """Every generator that training draws from, as plain types and tensors; `restore_random_states` puts them back."""
    version, numbers, gauss = random.getstate()
    kind, keys, *position = np.random.get_state()
    states = {
        "python": [version, list(numbers), gauss],
        "numpy": [kind, keys.tolist(), *position],
        "torch": torch.get_rng_state(),
        "loaders": [generator.get_state() for generator in _generators(loaders)],
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_random_states(states, loaders=()):
    """Put back what `random_states` gave, with the same loaders or others built alike."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *position = states["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *position))
    torch.set_rng_state(states["torch"])
    for generator, state in zip(_generators(loaders), states["loaders"], strict=True):
        generator.set_state(state)
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
        raise CheckpointError(f"{path} is a device or a pipe, not a checkpoint.")
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
    """Refuse what is damaged by the archive's own sizes and CRC-32 sums, which torch.load doesn't look at."""
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
        raise CheckpointError(f"{path} is not a checkpoint of this course (weights alone?): save with save_checkpoint.")
    if content["format"] > FORMAT:
        raise CheckpointError(
            f"{path} is of format {content['format']}; this version reads up to {FORMAT}: update the course's code."
        )
    content.setdefault("novelty", None)
    for key, kind in KEYS.items():
        if not isinstance(content.get(key), kind) or (key not in content):
            raise CheckpointError(f"{path} is damaged: its {key!r} is missing or of the wrong type.")
    if not is_normalisation(content["normalisation"]):
        raise CheckpointError(f"{path} is damaged: its 'normalisation' is not a mean and a standard deviation.")
    for key in ("optimizer", "scheduler"):
        part = content[key]
        if part is not None and not (_is_word(part.get("name")) and isinstance(part.get("state"), dict)):
            raise CheckpointError(f"{path} is damaged: its {key!r} is not a name and a state.")
    if content["epoch"] < 0 or math.isnan(content["best_loss"]):
        raise CheckpointError(f"{path} is damaged: its 'epoch' or 'best_loss' is not a count or a loss.")
    if content["architecture"] not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise CheckpointError(
            f"{path} holds the architecture {content['architecture'][:50]!r}; model.py has {known}: update it."
        )


def is_normalisation(pair):
    """Is it a list or tuple of a mean and a standard deviation, two floats below a million, the latter above 0?"""
    return len(pair) == 2 and all(type(n) is float and abs(n) < 1e6 for n in pair) and pair[1] > 1e-6


def load_model(path, device="cpu", *, architecture=None):
    """Rebuild the model of a checkpoint, in eval mode on `device`; `model.normalisation` is (mean, std) of its images.

    `model.novelty` is the rule that tells what is no digit, or None where none was learned.

    `architecture`: the one that it must be, where only one will do. Raises what `load_checkpoint`
    raises, and CheckpointError for another architecture or weights that don't fit it.
    """
    return model_from(load_checkpoint(path), path, architecture=architecture).to(device)


def model_from(content, path, *, architecture=None):
    """As `load_model`, on the CPU, from a checkpoint that is read already; `path` is for messages."""
    found, arguments = content["architecture"], content["arguments"]
    if architecture not in (None, found):
        raise CheckpointError(f"{path} holds the architecture {found}, not {architecture}.")
    if not all(_is_argument(value, len(content["weights"])) for value in arguments.values()):
        raise CheckpointError(f"{path} is damaged: its arguments don't fit {found}.")
    try:
        with torch.device("meta"):  # no memory yet: the arguments may ask for any amount of it
            model = ARCHITECTURES[found](**arguments)
    except Exception as problem:
        raise CheckpointError(f"{path} is damaged: no {found} can be built from its arguments ({problem}).") from None
    _check_weights(path, model, content["weights"])
    model.load_state_dict(content["weights"], assign=True)
    model.normalisation = tuple(content["normalisation"])
    _check_novelty(path, model, content["novelty"])
    model.novelty = content["novelty"]
    return model.eval()


def _is_word(value):
    """A short string: a message may name it. (Lists that hold each other twice, 40 deep, are printed for years.)"""
    return isinstance(value, str) and len(value) < 50


def _is_argument(value, layers):
    """A number, a short string, or a list of at most so many numbers."""
    if isinstance(value, list):
        return len(value) <= layers and all(isinstance(number, int | float) for number in value)
    return isinstance(value, int | float) or _is_word(value)


def _check_weights(path, model, weights):
    expected, name = model.state_dict(), model.architecture
    if not all(isinstance(key, str) for key in weights):
        raise CheckpointError(f"{path} is damaged: its weights have no names.")
    if odd := sorted(expected.keys() ^ weights.keys()):
        raise CheckpointError(f"{path} does not fit {name}: {', '.join(odd[:3])} is in only one of the two.")
    for key, tensor in expected.items():
        found = weights[key]
        if not _is_stored(found) or (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
            what = f"{tuple(found.shape)} {found.dtype}" if _is_stored(found) else "not a plain tensor"
            raise CheckpointError(
                f"{path} does not fit {name}: {key} is {what}, expected {tuple(tensor.shape)} {tensor.dtype}."
            )
        if not found.isfinite().all():
            raise CheckpointError(f"{path} is damaged: {key} holds numbers that are not finite.")


def _check_novelty(path, model, rule):
    """Refuse a rule of another form than novelty.py's for this model, or with numbers that are not finite."""
    if rule is None:
        return
    try:
        units, width = rule["bias"].shape[0], features(model, torch.zeros(1, 28, 28)).shape[1]
        vector, weight = torch.empty(units, device="meta"), torch.empty(units, width, device="meta")  # of any size
        _check_alike(rule, {"weight": weight, "bias": vector, "out": vector, "threshold": 0.0, "temperature": 1.0})
        if not all(rule[key].isfinite().all() for key in ("weight", "bias", "out")) or not rule["temperature"] >= 1:
            raise ValueError("A rule's numbers are finite, and its temperature is at least 1.")
    except Exception:  # whatever is wrong with it comes from the file
        raise CheckpointError(f"{path} is damaged: its 'novelty' does not fit {model.architecture}.") from None


def restore(path, model, *, optimizer=None, scheduler=None, loaders=()):
    """Bring model, optimizer, scheduler and random states to where the checkpoint was; return its content.

    `loaders`: those whose own generators go on too, built as they were. Raises what `load_model` raises,
    and CheckpointError when it has no state for the optimizer or scheduler given, or that of another kind.
    """
    content = load_checkpoint(path)
    saved = model_from(content, path, architecture=getattr(model, "architecture", None))
    _check_weights(path, model, content["weights"])  # built with other arguments, it may have other shapes
    for key, part in (("optimizer", optimizer), ("scheduler", scheduler)):
        has, wants = (content[key] or {}).get("name"), _name(part) if part else None
        if has != wants:
            raise CheckpointError(f"{path} was trained with the {key} {has}, not {wants}: give the same to go on.")
    states = {"loaders": [], **content["random"]}  # earlier checkpoints kept none of the loaders
    given = len(_generators(loaders))
    if isinstance(states["loaders"], list) and len(states["loaders"]) != given:
        raise CheckpointError(
            f"{path} can't be resumed from: it keeps the states of {len(states['loaders'])} generators of its loaders,"
            f" and these have {given}: give loaders built as they were."
        )
    try:
        _check_random_states(states)
        if optimizer is not None:
            state = content["optimizer"]["state"]
            _check_optimizer_state(optimizer, state, content["epoch"])
            optimizer.load_state_dict(state)
        if scheduler is not None:
            _check_alike(content["scheduler"]["state"], _plain(scheduler.state_dict()))
            scheduler.load_state_dict(content["scheduler"]["state"])
        restore_random_states(states, loaders)
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


def _check_optimizer_state(optimizer, state, epoch):
    """Raise unless the optimizer can go on from this state: a copy makes a step from it, with zero gradients."""
    _check_alike(state["param_groups"], _plain(optimizer.state_dict()["param_groups"]))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, entries in state["state"].items():
        for value in entries.values():
            if value is not None and not (_is_stored(value) and value.numel() in (1, parameters[number].numel())):
                raise ValueError("A state has another form than its parameter's.")
    trial = copy.deepcopy(optimizer)
    trial.load_state_dict(copy.deepcopy(state))  # which keeps the tensors it is given
    copies = [parameter for group in trial.param_groups for parameter in group["params"]]
    for number, parameter in enumerate(copies):  # what is frozen or unused has no state, and gets no gradient
        if parameter.requires_grad and (number in state["state"] or not state["state"]):
            parameter.grad = torch.zeros_like(parameter)
    trial.step()
    if epoch > 0:  # a step adds what was missing
        _check_alike(state["state"], _plain(trial.state_dict()["state"]))


def _check_random_states(states):
    """Raise unless the states have the form, the lengths and the kinds of values of this process's own."""
    own = random_states()
    for key in ("python", "numpy", "torch"):
        _check_alike(states[key], own[key], optional=True)
    for generators in (states["loaders"], states.get("cuda", [])):
        if not isinstance(generators, list) or not all(map(_is_stored, generators)):
            raise ValueError("A generator's state is a tensor.")


def _check_alike(found, own, optional=False):
    """Raise ValueError unless both have the same keys, lengths, shapes and kinds of values.

    Only what has the form of `own` is looked into, so that nothing in the file sets the time this
    takes. `optional`: a number may be None, and None a number.
    """
    if optional and (found is None or own is None):
        alike, parts = found is None or isinstance(found, float), []
    elif isinstance(own, dict):
        alike = isinstance(found, dict) and found.keys() == own.keys()
        parts = [(found[key], own[key]) for key in own] if alike else []
    elif isinstance(own, list | tuple):
        alike = isinstance(found, list | tuple) and len(found) == len(own)
        parts = list(zip(found, own, strict=True)) if alike else []
    elif isinstance(own, torch.Tensor):
        alike, parts = _is_stored(found) and (found.shape, found.dtype) == (own.shape, own.dtype), []
    elif isinstance(own, int | float) and not isinstance(own, bool):
        alike = isinstance(found, int | float) and not isinstance(found, bool)
        alike, parts = alike and (abs(found) < 1e30 or found == own), []  # float32 ends at 3e38
    else:
        alike, parts = type(found) is type(own), []
    if not alike:
        raise ValueError("A state has another form than its owner's.")
    for pair in parts:
        _check_alike(*pair, optional)
