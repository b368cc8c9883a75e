"""Session 5's tasks."""

import copy
import functools
import math
from types import FunctionType, MethodType, ModuleType
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import utils
from dataset import DIGITS_HOLDOUT, HOLDOUT, load_dataset
from exercises.checking import loaded, same
from insights import Predictions, predictions
from model import Net, create_model

MNIST, DIGITS = "MNIST", "scikit-learn digits"  # the data sets as they call themselves
HELD_OUT = {MNIST: HOLDOUT, DIGITS: DIGITS_HOLDOUT}  # … → images that `holdout="auto"` holds out
NOTHING_YET = "there is no answer yet: fill in the cell above, and run it."

# ------------------------------------------------------------------------------------------------
# 1. Mend the loop
# ------------------------------------------------------------------------------------------------

EPOCHS, SEED = 4, 7
EACH_EPOCH = ("train_loss", "train_acc", "validation_loss", "validation_acc")  # one number an epoch
AT_THE_END = ("test_loss", "test_acc")


class _Batches:
    """A split of the embedded digits in batches, the last one smaller; `dataset` as a DataLoader has it."""

    def __init__(self, name, images, labels, size):
        self.name, self.images, self.labels, self.batch_size = name, images, labels, size
        self.dataset, self.reads = TensorDataset(images, labels), 0

    def __iter__(self):
        self.reads += 1
        return iter(zip(self.images.split(self.batch_size), self.labels.split(self.batch_size), strict=True))

    def __len__(self):
        return -(-len(self.labels) // self.batch_size)


class _Dropout(nn.Module):
    """Dropout by a count of its own: whatever else draws random numbers, its n-th mask is the same."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        if not self.training:
            return x
        self.calls += 1
        return 2 * x * (torch.rand(x.shape, generator=torch.Generator().manual_seed(self.calls)) < 0.5)


class _Shortcut(Exception):
    """The toolkit's `train` or `test` was called."""


def _case():
    """A small network with dropout, its three loaders, an optimizer; the same each time."""
    data, transform = load_dataset("train", "digits"), utils.get_test_transforms()
    images, labels = transform(data.images.unsqueeze(1)), data.labels
    rows = {"train": (0, 330, 100), "validation": (330, 460, 50), "test": (460, 590, 50)}
    loaders = {
        name: _Batches(name, images[low:high].clone(), labels[low:high], size)
        for name, (low, high, size) in rows.items()
    }
    # with this seed and rate neither the last epoch is the best nor that of the highest accuracy
    torch.manual_seed(SEED)
    model = create_model(hidden_sizes=(32,), dropout=0.5)
    model.layers[2] = _Dropout()
    return model, loaders, utils.get_optimizer(model, "SGD", 0.2)


def _by_the_toolkit():
    """What the function should return; and the test loss of the weights after each epoch."""
    (model, loaders, optimizer), criterion = _case(), utils.get_loss()
    options = {"precision": "fp32", "channels_last": False}
    found, tested = {name: [] for name in EACH_EPOCH}, []
    lists = list(found.values())
    for _ in range(EPOCHS):
        utils.train(model, "cpu", loaders["train"], optimizer, criterion, *lists[:2], **options)
        utils.test(model, "cpu", loaders["validation"], criterion, *lists[2:], **options)
        tested.append(utils.test(model, "cpu", loaders["test"], criterion, **options))
    best = found["validation_loss"].index(min(found["validation_loss"]))
    return found | dict(zip(AT_THE_END, tested[best], strict=True)), [loss for loss, _ in tested]


def _first_epoch(clear):
    """The losses and sizes of the first epoch's batches when `clear` is done "never" or "after backward"."""
    (model, loaders, optimizer), losses = _case(), []
    model.train()
    for images, labels in loaders["train"]:
        loss = F.nll_loss(model(images), labels)
        loss.backward()
        if clear == "after backward":
            optimizer.zero_grad()
        optimizer.step()
        losses.append((loss.item(), len(labels)))
    return losses


def _over_batches(losses):
    return sum(loss for loss, _ in losses) / len(losses) if losses else math.nan


def _first(count, passes, split):
    """The losses and sizes of the first batches of a split."""
    return [(loss, size) for name, size, _, loss in passes if name == split][:count]


def _known(loaders):
    """An image's content → its split and label; no two images of the splits are the same."""
    known = {}
    for name, loader in loaders.items():
        for image, label in zip(loader.images, loader.labels, strict=True):
            known[_content(image)] = name, int(label)
    assert len(known) == sum(len(loader.labels) for loader in loaders.values())
    return known


def _content(image):
    return image.detach().reshape(-1).numpy().tobytes()


def _watched(function):
    """What the function returns; of each forward pass (split, number of images, in training mode?, loss); test reads.

    An image is known by its content, in whatever tensor it comes; a pass of several splits counts for each.
    """
    (model, loaders, optimizer), passes = _case(), []
    known, forward = _known(loaders), type(model).forward

    def watched(model, images, *more, **options):
        outputs = forward(model, images, *more, **options)
        found = [known.get(_content(image)) for image in images]
        for name in loaders:
            rows = [row for row, split in enumerate(found) if split and split[0] == name]
            if rows:
                labels = torch.tensor([found[row][1] for row in rows])
                loss = F.nll_loss(outputs.detach()[rows], labels).item()
                passes.append((name, len(rows), model.training, loss))
        return outputs

    with (  # `_ready` is that with which `train` and `test` begin
        mock.patch.object(type(model), "forward", watched),
        mock.patch.object(utils, "_ready", side_effect=_Shortcut),
    ):
        found = function(model, loaders, optimizer, EPOCHS)
    return found, passes, loaders["test"].reads


def _loop(function):
    if function is None:
        return NOTHING_YET
    if not callable(function):
        return f"expected the function of the cell above, not a {type(function).__name__}."
    with torch.random.fork_rng(devices=[]):
        try:
            found, passes, reads = _watched(function)
        except _Shortcut:
            return "write the steps out: `train` and `test` of the toolkit are what it is compared with."
        except Exception as problem:  # whatever a student's code raises
            return f"it raised {type(problem).__name__}: {problem}"
        expected, tested = _by_the_toolkit()
        never, erased = _first_epoch("never"), _first_epoch("after backward")
    if not isinstance(found, dict) or set(found) != set(expected):
        return f"it should return a dict with {', '.join(expected)}, as it did."
    found = {name: _figures(value) for name, value in found.items()}
    if any(not isinstance(found[name], list) or len(found[name]) != EPOCHS for name in EACH_EPOCH):
        return f"{', '.join(EACH_EPOCH)} should be lists with one number an epoch."
    fault = _training_fault(found, expected, passes, never, erased)
    if fault and _as_given(found, passes, never):
        return (
            "its figures differ from those of `train` and `test` in several ways: begin with the loop over the"
            " training images."
        )
    return fault or _testing_fault(found, expected, passes, reads, tested)


def _figures(value):
    """A list of floats, or a float, of what may be a tensor, an array, or a list of them; else None."""
    try:
        if isinstance(value, list | tuple):
            return [float(part) for part in value]
        return torch.as_tensor(value, dtype=torch.float64).tolist()
    except (TypeError, ValueError, RuntimeError):
        return None


def _as_given(found, passes, never):
    """Are all the faults of the exercise's cell still there?"""
    trained = _first(len(never), passes, "train")
    return (
        _agree([loss for loss, _ in trained], [loss for loss, _ in never])
        and _agree(found["train_loss"][0], _over_batches(trained))
        and any(training for name, _, training, _ in passes if name != "train")
        and not any(name == "validation" for name, *_ in passes)
    )


def _agree(found, expected):
    try:
        found, expected = (torch.as_tensor(value, dtype=torch.float64) for value in (found, expected))
    except (TypeError, ValueError, RuntimeError):
        return False
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-6, atol=1e-6)


def _training_fault(found, expected, passes, never, erased):
    """What is wrong with the first epoch of training, and with the modes."""
    trained = _first(len(never), passes, "train")
    if any(name == "train" and not training for name, _, training, _ in passes):
        return "it trains in evaluation mode, without dropout: what switches that off, and what on again?"
    if _agree([loss for loss, _ in trained], [loss for loss, _ in never]):
        return "a step is made with more than its own batch's gradient: what is a weight's `grad` before each backward?"
    if _agree([loss for loss, _ in trained], [loss for loss, _ in erased]):
        return "the weights stay as they are: what is left of the gradient when the step is made?"
    if not _agree(found["train_acc"][0], expected["train_acc"][0]):
        return "the first epoch's training accuracy is not that of `train`: in %, each batch as it is met."
    if not _agree(found["train_loss"][0], expected["train_loss"][0]):
        if _agree(found["train_loss"][0], _over_batches(trained)):
            return "a training loss is not the mean over the images: how many did the last batch have?"
        return "the first epoch's training loss is not that of `train`."
    return None


def _testing_fault(found, expected, passes, reads, tested):
    """What is wrong with the evaluations, the choice and the later epochs."""
    looks = [(name, training) for name, _, training, _ in passes if name != "train"]
    if any(training for _, training in looks):
        return "the same weights would give another accuracy next time: in which mode is the network when it is judged?"
    times = math.ceil(sum(size for name, size, *_ in passes if name == "test") / 130)
    times = max(times, reads) if times == 0 or reads >= EPOCHS else times  # a pass may go round `forward`
    if times > 1:
        return f"the test images are read {times} times: whatever is chosen by them, they no longer test."
    if times == 0:
        return "the test images are never read: at the end, the chosen weights are to be tested."
    if any(name == "test" for name, _ in looks) and passes[-1][0] != "test":
        return "the test images are read before all is chosen: they come last."
    if not _agree(found["train_loss"], expected["train_loss"]):
        return "the training loss is right at first, and not that of `train` later: what differs from the first epoch?"
    first = _first(3, passes, "validation")
    if not _agree(found["validation_loss"], expected["validation_loss"]):
        if _agree(found["validation_loss"][0], _over_batches(first)):
            return "a validation loss is not the mean over the images: how many did the last batch have?"
        return "the validation losses are not those of `test`."
    for name in ("train_acc", "validation_acc"):
        if not _agree(found[name], expected[name]):
            return f"{name} is not what the toolkit finds: in %, over the images."
    if not _agree(found["test_loss"], expected["test_loss"]):
        if _agree(found["test_loss"], tested[-1]):
            return "the last epoch's weights are tested: were the best ones copied, and loaded again?"
        if _agree(found["test_loss"], tested[found["validation_acc"].index(max(found["validation_acc"]))]):
            return "the epoch is the one of the highest validation accuracy, and not of the lowest loss."
        return "the test loss is not that of the epoch with the lowest validation loss."
    return None if _agree(found["test_acc"], expected["test_acc"]) else "the test accuracy is not right: in %."


# ------------------------------------------------------------------------------------------------
# 2 and 4. A network that is trained
# ------------------------------------------------------------------------------------------------

OTHER = {"FashionMNIST": 92.0, DIGITS: 97.0}  # data set → accuracy in % that Net is to reach
SMALL = {MNIST: 99.4, DIGITS: 97.0}  # … and a network with fewer parameters than
LIMIT = 20_000


def _tensors(model):
    return [*model.parameters(), *model.buffers()]


def _not_a_network(model):
    if model is None:
        return NOTHING_YET
    if isinstance(model, type) and issubclass(model, nn.Module):
        return "that is a class, and no network yet: make one of it, and train it."
    if not isinstance(model, nn.Module):
        return f"a {type(model).__name__}, expected a network."
    if any(map(nn.parameter.is_lazy, _tensors(model))):
        return "a lazy layer has no weights before the first images: show it a batch, or give its size."
    return None


def _not_the_test(loader, targets):
    data = getattr(loader, "dataset", None)
    if not isinstance(loader, DataLoader) or not hasattr(data, "split"):
        return "the second argument should be a loader that `get_MNISTdataset_with_loader` gives, with all its images."
    if data.split != "test":
        return f"these are {data.split} images: the target is for the test images."
    if data.name not in targets:
        return f"these are images of {data.name}: the task is about another data set."
    if not torch.equal(data.__getitems__(range(16)).images, data.__getitems__(range(16)).images):
        return "the test images are augmented, and differ each time: take the test transforms."
    return None


def _accuracy(model, loader):
    """(accuracy in %, None), or (None, hint)."""
    images, _ = next(iter(loader))
    try:
        shape = tuple(copy.deepcopy(model).eval()(images[:2].to(next(model.parameters()).device)).shape)
        if shape != (2, 10):
            return None, f"for two images it gives the shape {shape}, expected (2, 10): a number for each class."
        answers = predictions(model, loader)
    except Exception as problem:  # whatever a student's network raises
        return None, f"it raised {type(problem).__name__} for a batch of test images: {problem}"
    if len(answers) != len(loader.dataset):
        return None, f"the loader gives {len(answers)} of {len(loader.dataset)} test images: is drop_last on?"
    if not answers.log_probabilities.isfinite().all():
        return None, "some of its outputs are infinite or no number (NaN): did the training loss stay finite?"
    return 100 * answers.right.double().mean().item(), None


def _reaches(model, loader, targets):
    accuracy, hint = _accuracy(model, loader)
    if hint:
        return hint
    if accuracy < 25:
        return "no more than what guessing gives: was this network trained, and on these classes?"
    target = targets[loader.dataset.name]
    if accuracy < target:
        return f"below the target of {target} % on the test images: go back to the validation images."
    return None


def _other_data(model, loader):
    if hint := _not_a_network(model) or _not_the_test(loader, OTHER):
        return hint
    kind = type(model)
    if (kind.__module__, kind.__name__) != (Net.__module__, Net.__name__):
        if kind.__name__ != Net.__name__ and not isinstance(model, Net):
            return f"a {kind.__name__}, expected a Net: the question is what this network can do."
        return "that is a class of your own: import `Net` from model.py, and train it as it is."
    if "forward" in vars(model) or _shapes(model) != _shapes(Net()):
        return "this Net has other layers than that of model.py: train it as it is."
    return _reaches(model, loader, OTHER)


def _shapes(model):
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _small(model, loader):
    if hint := _not_a_network(model):
        return hint
    count = sum(tensor.numel() for tensor in _tensors(model))
    if count >= LIMIT:
        return f"{count:,} parameters and buffers, counting those that are frozen too: which layer has most of them?"
    if (kept := _kept(model)) >= LIMIT:
        return (
            f"{kept - count:,} numbers are kept beside its parameters and buffers, in a list perhaps: they count too."
        )
    if not list(model.parameters()):
        return "it has no parameters: are its layers kept in the module, so that it knows them?"
    return _not_the_test(loader, SMALL) or _reaches(model, loader, SMALL)


def _kept(model):
    """How many numbers lie in tensors and arrays that the network can reach, registered or not."""
    count, seen, todo = 0, {}, [model]
    while todo:
        value = todo.pop()
        if id(value) in seen or isinstance(value, str | bytes | int | float | type | ModuleType | type(None)):
            continue
        seen[id(value)] = value  # which keeps it, and so its id
        if isinstance(value, torch.Tensor):
            count += value.numel()
        elif isinstance(value, np.ndarray):
            count += value.size
        elif isinstance(value, list | tuple | set | frozenset):
            todo += value
        elif isinstance(value, dict):
            todo += value.values()
        elif isinstance(value, functools.partial):
            todo += [value.func, *value.args, *value.keywords.values()]
        elif isinstance(value, MethodType):
            todo += [value.__self__, value.__func__]
        elif isinstance(value, FunctionType):
            todo += [part for _, part in loaded(value)] if "__file__" not in value.__globals__ else []
        elif hasattr(value, "__dict__"):
            todo += vars(value).values()
            for base in type(value).__mro__:
                if base is not object and not base.__module__.startswith("torch."):
                    parts = vars(base).items()
                    todo += [part for name, part in parts if name == "forward" or not isinstance(part, FunctionType)]
    return count


# ------------------------------------------------------------------------------------------------
# 3. One change alone
# ------------------------------------------------------------------------------------------------

CHANGES = ("batch size", "AdamW", "one cycle", "augmentation")


def _alone(results, answer):
    names = ("classic", *CHANGES)
    if results is None:
        return NOTHING_YET
    if not isinstance(results, dict) or set(results) != set(names):
        return f"the results should be a dict with the names {', '.join(names)}."
    results = {name: _percentages(results[name]) for name in names}
    for name, values in results.items():
        if values is None:
            return f"the results of {name!r} should be a list of two accuracies."
        if len(values) != 2:
            return f"{name!r} has {len(values)} accuracies, expected one of each of two seeds."
        if not all(0 <= value <= 100 for value in values):
            return f"{name!r} has an accuracy outside 0 to 100 %."
    if all(value <= 1 for values in results.values() for value in values):
        return "accuracies as fractions: give them in %."
    if not any(_shares(results.values(), count) for count in HELD_OUT.values()):
        mnist, digits = (f"{100 / count:.4g} % with {count:,}" for count in HELD_OUT.values())
        return f"an accuracy is a multiple of {mnist} validation images, of {digits} digits: give what was measured."
    if all(same(*values) for values in results.values()):
        return "both seeds give the same each time: is the seed set to another number before the network is made?"
    if all(same(results["classic"], results[name]) for name in CHANGES):
        return "every change gives what the classic settings give: do the changes reach the training?"
    if answer is None:
        return "the results are there; now say which change carries it."
    if not isinstance(answer, str):
        return f"a {type(answer).__name__} as the answer, expected one of {', '.join(CHANGES)}, undecided."
    if answer not in (*CHANGES, "undecided"):
        return f"{answer!r} is none of {', '.join(CHANGES)}, undecided."
    ahead = [
        name for name in CHANGES if all(min(results[name]) > max(results[other]) for other in names if other != name)
    ]
    if answer == "undecided":
        hint = "one change is ahead with both seeds: look at the lowest of each, and the highest of the others."
        return hint if ahead else None
    if max(sum(results[name]) for name in CHANGES) > sum(results[answer]) + 1e-6:
        return f"by your own results another change gains more than {answer!r}."
    if answer not in ahead:
        return f"{answer!r} has the highest mean, but does its lower seed beat the higher one of everything else?"
    return None


def _percentages(values):
    """A list of floats, or None of what is no list of numbers."""
    if isinstance(values, str | bytes | dict):
        return None
    try:
        values = list(values)
        return None if any(isinstance(value, str | bytes) for value in values) else [float(value) for value in values]
    except (TypeError, ValueError, RuntimeError):
        return None


def _shares(results, count):
    """Can all of these be accuracies in % of so many images? (They may be rounded to two decimals.)"""
    right = [value * count / 100 for values in results for value in values]
    return all(abs(value - round(value)) < 0.02 for value in right)


# ------------------------------------------------------------------------------------------------
# 5. Refuse to answer
# ------------------------------------------------------------------------------------------------

ANSWERED = {MNIST: 97.0, DIGITS: 95.0}  # % of the images
RIGHT = {MNIST: 99.8, DIGITS: 99.0}  # % of the answers
SIZES = {10_000: MNIST, 360: DIGITS}  # test images → data set
FILES = {MNIST: "mnist", DIGITS: "digits"}


def _refuse(threshold, held_out, tested):
    if threshold is None or held_out is None or tested is None:
        return NOTHING_YET
    for what, answers in (("second", held_out), ("third", tested)):
        if not isinstance(answers, Predictions):
            return f"the {what} argument is a {type(answers).__name__}, expected what `predictions` gives."
    name = SIZES.get(len(tested))
    if name is None:
        if len(held_out) in SIZES:
            return "the answers to held-out and to test images are the wrong way round."
        return f"the third argument has answers to {len(tested):,} images: expected those to the whole test set."
    if len(held_out) == len(tested):
        return "the threshold is chosen on the test images: hold out some of the training images for it."
    if len(held_out) != HELD_OUT[name]:
        return f'{len(held_out):,} held-out images, expected {HELD_OUT[name]:,}: those of `holdout="auto"`.'
    for answers, split in ((held_out, "validation"), (tested, "test")):
        if not _labels_of(answers, split, name):
            return f"these are not the {split} images of {name}: their labels are others."
        if not torch.allclose(answers.log_probabilities.exp().sum(dim=1), torch.ones(len(answers)), atol=0.02):
            return "the probabilities of an image do not add up to 1: does the network end in log-softmax?"
        if 100 * answers.right.double().mean() < 25:
            return "the network guesses: was it trained?"
    try:
        threshold = float(threshold)
    except (TypeError, ValueError):
        return f"a {type(threshold).__name__}, expected a number: the least probability with which it answers."
    if threshold > 1:
        return "a probability is at most 1: give no percentages."
    if not threshold >= 0:
        return "a probability is at least 0: was its logarithm left?"
    answered, wanted = held_out.confidence >= threshold, ANSWERED[name]
    share = 100 * answered.double().mean().item()
    if share < wanted:
        return f"it answers {share:.2f} % of the held-out images only, and {wanted:g} % are wanted."
    kept = tested.confidence >= threshold
    if 100 * kept.double().mean().item() < wanted:
        return f"{wanted:g} % of the held-out images are answered, but not of the test images: leave a wider margin."
    if 100 * tested.right[kept].double().mean().item() < RIGHT[name]:
        right = 100 * held_out.right[answered].double().mean().item()
        what = f"below the target of {RIGHT[name]} % right answers on the test images (held-out: {right:.2f} %)"
        if share > wanted + 1:
            return f"{what}: with {share:.2f} % of the held-out images answered, it may refuse more."
        return f"{what}: there is hardly room to refuse more, so it needs a better network."
    return None


def _labels_of(answers, split, name):
    """Are the labels those of the split, in whatever order? (Yes, where the data is not there to be compared.)"""
    try:
        labels = load_dataset(split, FILES[name], holdout=HELD_OUT[name]).labels
    except OSError:
        return True
    return torch.equal(labels.sort().values, answers.labels.sort().values)


JUDGES = {1: _loop, 2: _other_data, 3: _alone, 4: _small, 5: _refuse}
