"""Session 5's tasks."""

import copy
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import utils
from dataset import DIGITS_HOLDOUT, HOLDOUT, load_dataset
from exercises.checking import same
from insights import Predictions, predictions
from model import Net, create_model

MNIST, DIGITS = "MNIST", "scikit-learn digits"  # the data sets as they call themselves
NOTHING_YET = "there is no answer yet: fill in the cell above, and run it."

# ------------------------------------------------------------------------------------------------
# 1. Mend the loop
# ------------------------------------------------------------------------------------------------

EPOCHS = 4
CURVES = ("train_loss", "train_acc", "validation_loss", "validation_acc")  # one number an epoch
ENDS = ("test_loss", "test_acc")


class _Batches:
    """A split of the embedded digits in batches, the last one smaller; `dataset` as a DataLoader has it."""

    def __init__(self, name, images, labels, size):
        self.name, self.images, self.labels, self.batch_size = name, images, labels, size
        self.dataset = TensorDataset(images, labels)

    def __iter__(self):
        return iter(zip(self.images.split(self.batch_size), self.labels.split(self.batch_size), strict=True))

    def __len__(self):
        return -(-len(self.labels) // self.batch_size)


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
    torch.manual_seed(7)  # with this seed and rate neither the last epoch is the best nor that of the highest accuracy
    model = create_model(hidden_sizes=(32,), dropout=0.5)
    return model, loaders, utils.get_optimizer(model, "SGD", 0.2)


def _by_the_toolkit():
    """What the function should return; and the test loss of the weights after each epoch."""
    (model, loaders, optimizer), criterion = _case(), utils.get_loss()
    options = {"precision": "fp32", "channels_last": False}
    found, tested = {name: [] for name in CURVES}, []
    lists = list(found.values())
    for _ in range(EPOCHS):
        utils.train(model, "cpu", loaders["train"], optimizer, criterion, *lists[:2], **options)
        utils.test(model, "cpu", loaders["validation"], criterion, *lists[2:], **options)
        tested.append(utils.test(model, "cpu", loaders["test"], criterion, **options))
    best = found["validation_loss"].index(min(found["validation_loss"]))
    return found | dict(zip(ENDS, tested[best], strict=True)), [loss for loss, _ in tested]


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


def _weighted(losses):
    return sum(loss * size for loss, size in losses) / sum(size for _, size in losses)


def _over_batches(losses):
    return sum(loss for loss, _ in losses) / len(losses)


def _watched(function):
    """What the function returns; and of each forward pass (split, number of images, in training mode?, loss)."""
    (model, loaders, optimizer), passes = _case(), []
    splits = {loader.images.untyped_storage().data_ptr(): loader for loader in loaders.values()}

    def note(model, inputs, outputs):
        images = inputs[0]
        if loader := splits.get(images.untyped_storage().data_ptr()):
            first = images.storage_offset() // images[0].numel()
            loss = F.nll_loss(outputs.detach(), loader.labels[first : first + len(images)]).item()
            passes.append((loader.name, len(images), model.training, loss))

    model.register_forward_hook(note)
    with mock.patch.object(utils, "_ready", side_effect=_Shortcut):  # with which `train` and `test` begin
        found = function(model, loaders, optimizer, EPOCHS)
    return found, passes


def _loop(function):
    if function is None:
        return NOTHING_YET
    if not callable(function):
        return f"expected the function of the cell above, not a {type(function).__name__}."
    with torch.random.fork_rng(devices=[]):
        try:
            found, passes = _watched(function)
        except _Shortcut:
            return "write the steps out: `train` and `test` of the toolkit are what it is compared with."
        except Exception as problem:  # whatever a student's code raises
            return f"it raised {type(problem).__name__}: {problem}"
        expected, tested = _by_the_toolkit()
        never, erased = _first_epoch("never"), _first_epoch("after backward")
    if not isinstance(found, dict) or set(found) != set(expected):
        return f"it should return a dict with {', '.join(expected)}, as it did."
    if any(not isinstance(found[name], list) or len(found[name]) != EPOCHS for name in CURVES):
        return f"{', '.join(CURVES)} should be lists with one number an epoch."
    return _training_fault(found, expected, passes, never, erased) or _testing_fault(found, expected, passes, tested)


def _agree(found, expected):
    try:
        found, expected = (torch.as_tensor(value, dtype=torch.float64) for value in (found, expected))
    except (TypeError, ValueError, RuntimeError):
        return False
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-6, atol=1e-6)


def _training_fault(found, expected, passes, never, erased):
    """What is wrong with the first epoch of training, and with the modes."""
    trained = [(loss, size) for name, size, _, loss in passes if name == "train"][: len(never)]
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


def _testing_fault(found, expected, passes, tested):
    """What is wrong with the evaluations, the choice and the later epochs."""
    looks = [(name, training) for name, _, training, _ in passes if name != "train"]
    if any(training for _, training in looks):
        return "the same weights would give another accuracy next time: in which mode is the network when it is judged?"
    times = sum(size for name, size, *_ in passes if name == "test") / 130
    if times > 1:
        return f"the test images are read {times:.0f} times: whatever is chosen by them, they no longer test."
    if times == 0:
        return "the test images are never read: at the end, the chosen weights are to be tested."
    if passes[-1][0] != "test":
        return "the test images are read before all is chosen: they come last."
    if not _agree(found["train_loss"], expected["train_loss"]):
        return "the training loss is right at first, and not that of `train` later: what differs from the first epoch?"
    first = [(loss, size) for name, size, _, loss in passes if name == "validation"][:3]
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


def _not_a_network(model):
    if model is None:
        return NOTHING_YET
    if isinstance(model, type) and issubclass(model, nn.Module):
        return "that is a class, and no network yet: make one of it, and train it."
    if not isinstance(model, nn.Module):
        return f"a {type(model).__name__}, expected a network."
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
        return f"{accuracy:.2f} % is what guessing gives: was this network trained, and on these classes?"
    target = targets[loader.dataset.name]
    if accuracy < target:
        return f"{accuracy:.2f} % of the test images, and the target is {target} %: what do the validation images say?"
    return None


def _other_data(model, loader):
    if hint := _not_a_network(model) or _not_the_test(loader, OTHER):
        return hint
    if not isinstance(model, Net):
        return f"a {type(model).__name__}, expected a Net: the question is what this network can do."
    return _reaches(model, loader, OTHER)


def _small(model, loader):
    if hint := _not_a_network(model):
        return hint
    count = sum(p.numel() for p in model.parameters())
    if count >= LIMIT:
        return f"{count:,} parameters, counting those that are frozen too: which layer has most of them?"
    if count == 0:
        return "it has no parameters: are its layers kept in the module, so that it knows them?"
    return _not_the_test(loader, SMALL) or _reaches(model, loader, SMALL)


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
    for name in names:
        try:
            values = [float(value) for value in results[name]]
        except (TypeError, ValueError):
            return f"the results of {name!r} should be a list of two accuracies."
        if len(values) != 2:
            return f"{name!r} has {len(values)} accuracies, expected one of each of two seeds."
        if not all(0 <= value <= 100 for value in values):
            return f"{name!r} has an accuracy outside 0 to 100 %."
    if all(value <= 1 for values in results.values() for value in values):
        return "accuracies as fractions: give them in %."
    if all(same(*values) for values in results.values()):
        return "both seeds give the same each time: is the seed set to another number before the network is made?"
    if all(same(results["classic"], results[name]) for name in CHANGES):
        return "every change gives what the classic settings give: do the changes reach the training?"
    if answer is None:
        return "the results are there; now say which change carries it."
    if answer not in (*CHANGES, "undecided"):
        return f"{answer!r} is none of {', '.join(CHANGES)}, undecided."
    best = max(CHANGES, key=lambda name: sum(results[name]))
    ahead = all(min(results[best]) > max(results[name]) for name in names if name != best)
    if answer == "undecided":
        hint = "one change is ahead with both seeds: look at the lowest of each, and the highest of the others."
        return hint if ahead else None
    if answer != best:
        return f"by your own results another change gains more than {answer!r}."
    return None if ahead else f"{answer!r} has the highest mean, but its seeds overlap with another's."


# ------------------------------------------------------------------------------------------------
# 5. Refuse to answer
# ------------------------------------------------------------------------------------------------

ANSWERED = {MNIST: 97.0, DIGITS: 95.0}  # % of the images
RIGHT = {MNIST: 99.8, DIGITS: 99.0}  # % of the answers
SIZES = {10_000: MNIST, 360: DIGITS}  # test images → data set
HELD_OUT = {MNIST: HOLDOUT, DIGITS: DIGITS_HOLDOUT}


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
    for answers in (held_out, tested):
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
    kept = {"held-out": held_out.confidence >= threshold, "test": tested.confidence >= threshold}
    shares = {split: 100 * answered.double().mean().item() for split, answered in kept.items()}
    for split, share in shares.items():
        if share < ANSWERED[name]:
            return f"it answers {share:.2f} % of the {split} images only, and {ANSWERED[name]:g} % are wanted."
    right = 100 * tested.right[kept["test"]].double().mean().item()
    if right < RIGHT[name]:
        what = f"{right:.2f} % of its answers to test images are right, and {RIGHT[name]} % are wanted"
        if all(share > ANSWERED[name] + 1 for share in shares.values()):
            return f"{what}: it may refuse more."
        return f"{what}: it refuses as many as it may, so it needs a better network."
    return None


JUDGES = {1: _loop, 2: _other_data, 3: _alone, 4: _small, 5: _refuse}
