"""Training that is kept: resumed exactly, one run at a time, stopped early; accuracy of each digit."""

import csv
import math
import os
import random
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import BF16, loaders, same, trained
from scipy import ndimage
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.transforms import v2

import checkpoint
import dataset
import model as models
import training
import utils

ROOT = Path(__file__).parents[1]

# ------------------------------------------------------------------------------------------------
# Recipes
# ------------------------------------------------------------------------------------------------


def test_a_recipe_trains_on_shuffled_images_that_are_not_held_out_in_one_cycle(monkeypatch):
    tiny = {**training.RECIPES["torchnn"], "arch": "MLP", "epochs": 3, "batch_size": 100}
    monkeypatch.setitem(training.RECIPES, "tiny", tiny)
    runs = []
    monkeypatch.setattr(utils, "train", lambda *given, **options: runs.append((given[2], options["scheduler"])))
    training.train_recipe("tiny", 1, holdout=287, dataset="digits")
    loader, scheduler = runs[0]
    assert (len(runs), len(loader.dataset), len(loader)) == (3, 1_437 - 287, 12)
    assert scheduler.total_steps == 3 * 12
    assert not torch.equal(next(iter(loader))[1], loader.dataset.labels[:100])


def test_augmented_images_are_normalised_as_the_recipe_says():
    turned = (utils.RandomAffineEach(degrees=10),)
    recipe = {**training.RECIPES["torchnn"], "augmentation": turned, "mean": 0.25, "std": 0.5}
    for split in ("train", "validation"):
        loader = training.recipe_loader(recipe, split, dataset="digits", holdout=287)
        assert next(iter(loader))[0].min().item() == pytest.approx(-0.5)


EUROPEAN = {"batch_size": 100, "augmentation": None, "european": 0.3}


def changed_by(recipe, split="train"):
    """Which images of a recipe's loader are not as in the data set, and the labels of all."""
    data = dataset.load_dataset(split, "digits", holdout=287)
    found = training.recipe_loader(recipe, split, dataset="digits", holdout=287).dataset
    assert torch.equal(found.labels, data.labels)
    assert found.images.dtype == data.images.dtype
    return (found.images != data.images).flatten(1).any(dim=1), data.labels


def test_the_share_of_ones_and_sevens_is_redrawn_and_nothing_else():
    changed, labels = changed_by(EUROPEAN)
    for digit in (1, 7):
        assert changed[labels == digit].float().mean() == pytest.approx(0.3, abs=0.1)
    assert not changed[(labels != 1) & (labels != 7)].any()
    whole, _ = changed_by({**EUROPEAN, "european": 1})
    assert torch.equal(whole, (labels == 1) | (labels == 7))


def test_the_redrawn_digits_are_the_same_in_each_run_and_lie_as_mnists_do():
    one, two = (training.recipe_loader(EUROPEAN, "train", dataset="digits").dataset.images for _ in range(2))
    assert torch.equal(one, two)
    changed, _ = changed_by(EUROPEAN)
    images = training.recipe_loader(EUROPEAN, "train", dataset="digits", holdout=287).dataset.images[changed]
    for image in images.numpy():
        assert image.max() == 255
        assert ndimage.center_of_mass(image) == pytest.approx((14, 14), abs=0.3)


def test_only_training_digits_are_redrawn(monkeypatch):
    for split in ("validation", "test"):
        assert not changed_by(EUROPEAN, split)[0].any()
    assert not changed_by({key: EUROPEAN[key] for key in ("batch_size", "augmentation")})[0].any()
    make = utils.get_MNISTdataset_with_loader

    def of_clothes(*given, **options):
        loader = make(*given, **options)
        loader.dataset.classes = [
            "Top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Boot",
        ]
        return loader

    monkeypatch.setattr(utils, "get_MNISTdataset_with_loader", of_clothes)
    assert not changed_by(EUROPEAN)[0].any()


# ------------------------------------------------------------------------------------------------
# fit and resume
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optname", ["SGD", "AdamW"])
@pytest.mark.parametrize("scheduler", [None, "StepLR", "OneCycleLR", "ReduceLROnPlateau"])
def test_two_epochs_and_two_more_are_bit_for_bit_four(tmp_path, optname, scheduler):
    whole, history = trained(tmp_path / "whole", 4, optname=optname, scheduler=scheduler)
    trained(tmp_path / "parts", 2, optname=optname, scheduler=scheduler)
    random.seed(5), np.random.seed(5)
    parts, joined = trained(tmp_path / "parts", 4, seed=99, optname=optname, scheduler=scheduler, resume=True)
    assert same(whole, parts)
    for name in ("train_loss", "train_acc", "validation_loss", "validation_acc", "rate"):
        assert joined[name] == history[name]
    one, two = (checkpoint.load_checkpoint(tmp_path / run / "last.pt") for run in ("whole", "parts"))
    assert torch.equal(one["random"]["torch"], two["random"]["torch"])
    assert one["random"]["python"] == two["random"]["python"]  # of the first process, not seed 5's
    assert one["random"]["numpy"] == two["random"]["numpy"]
    assert same(*(checkpoint.load_model(tmp_path / run / "best_model.pt") for run in ("whole", "parts")))


@pytest.mark.parametrize("precision", ["fp32", BF16])
def test_convolutions_are_resumed_exactly_too(tmp_path, precision):
    whole, _ = trained(tmp_path / "whole", 2, build=models.CNN, precision=precision)
    trained(tmp_path / "parts", 1, build=models.CNN, precision=precision)
    parts, _ = trained(tmp_path / "parts", 2, seed=9, build=models.CNN, precision=precision, resume=True)
    assert same(whole, parts)


def test_history_best_and_last(tmp_path):
    model, history = trained(tmp_path, 3)
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert [float(row["validation_loss"]) for row in rows] == history["validation_loss"]
    assert same(checkpoint.load_model(tmp_path / "last.pt"), model)
    best = checkpoint.load_model(tmp_path / "best_model.pt")
    loss, _ = utils.test(best, "cpu", loaders()[1], utils.get_loss())
    assert loss == min(history["validation_loss"])
    assert checkpoint.load_checkpoint(tmp_path / "best_model.pt")["best_loss"] == loss


def test_the_best_model_is_not_the_last_where_it_gets_worse(tmp_path, monkeypatch):
    losses = iter([0.5, 0.2, 0.4])
    monkeypatch.setattr(utils, "test", lambda *_, **__: (next(losses), 90.0))
    trained(tmp_path, 3)
    assert checkpoint.load_checkpoint(tmp_path / "best_model.pt")["epoch"] == 2
    assert checkpoint.load_checkpoint(tmp_path / "last.pt")["best_loss"] == 0.2


def test_early_stopping(tmp_path, monkeypatch, capsys):
    losses = iter([0.5, 0.4, 0.45, 0.4, 0.3])
    monkeypatch.setattr(utils, "test", lambda *_, **__: (next(losses), 90.0))
    _, history = trained(tmp_path, 9, patience=2, verbose=True)
    assert history["validation_loss"] == [0.5, 0.4, 0.45, 0.4]
    assert "Stopped early: no lower validation loss in 2 epochs." in capsys.readouterr().out
    _, history = trained(tmp_path, 9, patience=2, resume=True, verbose=True)  # and it stays stopped
    assert len(history["rate"]) == 4
    assert capsys.readouterr().out == "Stopped early: no lower validation loss in 2 epochs.\n"


class Interrupting:
    """A loader that is stopped by Ctrl-C in its second pass."""

    def __init__(self, loader):
        self.loader, self.passes = loader, 0

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        self.passes += 1
        for number, batch in enumerate(self.loader):
            if self.passes == 2 and number == 3:
                raise KeyboardInterrupt
            yield batch


def test_ctrl_c_leaves_a_run_that_goes_on_exactly(tmp_path):
    whole, _ = trained(tmp_path / "whole", 3)
    train_loader, validation_loader = loaders()
    with pytest.raises(KeyboardInterrupt):
        trained(
            tmp_path / "parts", 3, data=(Interrupting(train_loader), validation_loader), normalisation=(0.1307, 0.3081)
        )
    assert checkpoint.load_checkpoint(tmp_path / "parts" / "last.pt")["epoch"] == 1
    assert same(trained(tmp_path / "parts", 3, seed=7, resume=True)[0], whole)


def test_ctrl_c_in_the_first_epoch_leaves_a_checkpoint_too(tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(utils, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts", 2)
    monkeypatch.undo()
    assert checkpoint.load_checkpoint(tmp_path / "parts" / "last.pt")["epoch"] == 0
    assert same(trained(tmp_path / "parts", 2, seed=7, resume=True)[0], trained(tmp_path / "whole", 2)[0])


def test_a_new_run_sets_the_earlier_one_aside(tmp_path):
    first, _ = trained(tmp_path, 1)
    second, _ = trained(tmp_path, 1, seed=4)
    trained(tmp_path, 1, seed=5)
    assert same(checkpoint.load_model(tmp_path / "earlier-1" / "last.pt"), first)
    assert same(checkpoint.load_model(tmp_path / "earlier-2" / "best_model.pt"), second)
    assert (tmp_path / "earlier-2" / "history.csv").exists()


def test_resume_without_last_sets_the_best_model_aside_too(tmp_path):
    first, _ = trained(tmp_path, 1)
    (tmp_path / "last.pt").unlink()
    trained(tmp_path, 1, seed=4, resume=True)
    assert same(checkpoint.load_model(tmp_path / "earlier-1" / "best_model.pt"), first)


def test_resume_refuses_other_batches(tmp_path):
    trained(tmp_path, 1, scheduler="OneCycleLR")
    with pytest.raises(checkpoint.CheckpointError, match="made 18 steps, and 1 epochs are 9 of them here"):
        trained(tmp_path, 2, scheduler="OneCycleLR", data=loaders(128), planned=8, resume=True)


def test_a_cycle_cannot_be_prolonged_and_nothing_is_moved(tmp_path):
    trained(tmp_path, 2, scheduler="OneCycleLR", planned=2)
    for resume in (True, False):
        with pytest.raises(ValueError, match=r"one cycle ends after 2 epochs, and can't be prolonged to 3"):
            trained(tmp_path, 3, scheduler="OneCycleLR", planned=2, resume=resume)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "best_model.pt", "history.csv", "last.pt"]


@pytest.mark.parametrize("options", [{"epochs": 0}, {"epochs": 1, "patience": 0}])
def test_fit_refuses_no_epochs(tmp_path, options):
    with pytest.raises(ValueError, match="must be a whole number from 1, not 0"):
        trained(tmp_path, **options)


def test_resume_refuses_another_optimizer_scheduler_or_model(tmp_path):
    trained(tmp_path, 1, optname="SGD")
    before = (tmp_path / "last.pt").read_bytes()

    def larger():
        return models.create_model(hidden_sizes=(33,), dropout=0.3)

    with pytest.raises(checkpoint.CheckpointError, match="trained with the optimizer SGD, not Adam:"):
        trained(tmp_path, 2, optname="Adam", resume=True)
    with pytest.raises(checkpoint.CheckpointError, match="trained with the scheduler None, not StepLR:"):
        trained(tmp_path, 2, optname="SGD", scheduler="StepLR", resume=True)
    with pytest.raises(checkpoint.CheckpointError, match="holds the architecture MLP, not CNN"):
        trained(tmp_path, 2, optname="SGD", build=models.CNN, resume=True)
    with pytest.raises(
        checkpoint.CheckpointError, match=r"does not fit MLP: .* is \(32, 784\) .* expected \(33, 784\)"
    ):
        trained(tmp_path, 2, optname="SGD", build=larger, resume=True)
    assert (tmp_path / "last.pt").read_bytes() == before


def known(monkeypatch, train_losses, validation_losses):
    """The loops replaced by ones that give these losses, an epoch each."""
    train_losses, validation_losses = iter(train_losses), iter(validation_losses)
    monkeypatch.setattr(utils, "train", lambda *_, **__: (next(train_losses), 90.0))
    monkeypatch.setattr(utils, "test", lambda *_, **__: (next(validation_losses), 90.0))


def test_plateau_is_stepped_with_the_validation_loss(tmp_path, monkeypatch):
    known(monkeypatch, [0.9, 0.8, 0.7, 0.6, 0.5], [0.5] * 5)  # learned by heart
    _, history = trained(tmp_path, 5, scheduler="ReduceLROnPlateau")
    assert history["rate"] == pytest.approx([0.003, 0.003, 0.003, 0.0003, 0.0003])


def test_a_tie_is_not_better_and_counts_as_an_epoch_without_gain(tmp_path, monkeypatch):
    known(monkeypatch, [0.5] * 4, [0.4] * 4)
    _, history = trained(tmp_path, 9, patience=2)
    assert len(history["rate"]) == 3
    assert checkpoint.load_checkpoint(tmp_path / "best_model.pt")["epoch"] == 1


def test_the_best_loss_is_known_after_a_resume(tmp_path, monkeypatch):
    losses = iter([0.4, 0.2, 0.3, 0.25])  # better than the first epoch, and not than the best
    monkeypatch.setattr(utils, "test", lambda *_, **__: (next(losses), 90.0))
    trained(tmp_path, 2)
    trained(tmp_path, 4, resume=True)
    assert checkpoint.load_checkpoint(tmp_path / "best_model.pt")["epoch"] == 2
    assert checkpoint.load_checkpoint(tmp_path / "last.pt")["best_loss"] == 0.2


def test_training_and_validation_are_in_the_precision_asked_for(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(utils, "autocast", lambda device, precision=None: asked.append(precision) or nullcontext())
    trained(tmp_path, 2, precision="fp32")
    assert asked == ["fp32"] * 4


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("writes", range(1, 7))
def test_killed_between_two_writes(tmp_path, monkeypatch, writes):
    """Of one epoch's best_model.pt, last.pt and history.csv, whichever is written first: all three come out whole."""
    whole, history = trained(tmp_path / "whole", 2)
    done, write = [], checkpoint.write_atomically

    def count(path, content):
        if len(done) == writes:
            raise Killed
        done.append(path)
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomically", count)
        patch.setattr(training, "write_atomically", count)
        with pytest.raises(Killed):
            trained(tmp_path / "parts", 2)
    parts, again = trained(tmp_path / "parts", 2, seed=8, resume=True)
    assert same(whole, parts)
    assert again["validation_loss"] == history["validation_loss"]
    assert same(*(checkpoint.load_model(tmp_path / run / "best_model.pt") for run in ("whole", "parts")))
    rows = [list(csv.DictReader((tmp_path / run / "history.csv").open())) for run in ("whole", "parts")]
    assert [row["validation_loss"] for row in rows[0]] == [row["validation_loss"] for row in rows[1]]


@pytest.mark.parametrize(
    ("scheduler", "step_every"), [("CosineAnnealingLR", "batch"), ("StepLR", "batch"), ("CosineAnnealingLR", None)]
)
def test_schedulers_in_batches_and_epochs(tmp_path, scheduler, step_every):
    """The rate at the start of each epoch, against PyTorch's scheduler stepped by hand."""
    torch_optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.003)
    reference = utils.get_scheduler(torch_optimizer, 1, name=scheduler)
    expected = []
    for _ in range(3):
        expected.append(torch_optimizer.param_groups[0]["lr"])
        for _ in range(len(loaders()[0]) if step_every == "batch" else 1):
            torch_optimizer.step()
            reference.step()
    _, history = trained(tmp_path / "whole", 3, scheduler=scheduler, step_every=step_every)
    assert history["rate"] == pytest.approx(expected)
    trained(tmp_path / "parts", 2, scheduler=scheduler, step_every=step_every)
    _, joined = trained(tmp_path / "parts", 3, scheduler=scheduler, step_every=step_every, resume=True)
    assert joined["validation_loss"] == history["validation_loss"]
    other = None if step_every == "batch" else "batch"
    with pytest.raises(checkpoint.CheckpointError, match="and the same step_every"):
        trained(tmp_path / "parts", 4, scheduler=scheduler, step_every=other, resume=True)


def test_loaders_with_generators_of_their_own_are_resumed_exactly(tmp_path):
    def own(seed):
        plain = loaders()
        return [
            DataLoader(each.dataset, batch_size=64, shuffle=True, generator=torch.Generator().manual_seed(seed + i))
            for i, each in enumerate(plain)
        ]

    whole, history = trained(tmp_path / "whole", 3, data=own(5))
    trained(tmp_path / "parts", 1, data=own(5))
    parts, joined = trained(tmp_path / "parts", 3, seed=9, data=own(77), resume=True)
    assert same(whole, parts)
    assert joined["validation_loss"] == history["validation_loss"]
    with pytest.raises(checkpoint.CheckpointError, match="states of 2 generators of its loaders, and these have 0"):
        trained(tmp_path / "parts", 4, resume=True)


def test_numpy_numbers_are_numbers(tmp_path):
    """Also in what is kept, which is read as plain types."""

    def numpy_run(epochs, **options):
        utils.set_seed(3)
        model = models.create_model(hidden_sizes=(8,))
        optimizer = torch.optim.SGD(model.parameters(), lr=np.float32(0.01), momentum=np.float64(0.9))
        scheduler = utils.get_scheduler(optimizer, np.int64(1), np.float64(0.5))
        settings = {"a": [np.float64(1), (np.int64(2),)]}
        parts = {"scheduler": scheduler, "settings": settings, "folder": tmp_path, "verbose": False}
        return training.fit(
            model,
            "cpu",
            *loaders(),
            optimizer,
            utils.get_loss(),
            epochs=epochs,
            patience=np.int32(5),
            **parts,
            **options,
        )

    numpy_run(np.int64(1))
    assert checkpoint.load_checkpoint(tmp_path / "last.pt")["settings"] == {"a": [1.0, (2,)]}
    assert len(numpy_run(np.int64(2), resume=True)["rate"]) == 2


@pytest.mark.parametrize("optname", ["SGD", "Adam"])
def test_a_run_with_frozen_weights_is_resumed_exactly(tmp_path, optname):
    def frozen():
        model = models.create_model(hidden_sizes=(32,), dropout=0.3)
        model.layers[0].weight.requires_grad_(False)
        return model

    whole, _ = trained(tmp_path / "whole", 2, optname=optname, build=frozen)
    trained(tmp_path / "parts", 1, optname=optname, build=frozen)
    parts, _ = trained(tmp_path / "parts", 2, optname=optname, build=frozen, seed=8, resume=True)
    assert same(whole, parts)


def test_a_refused_resume_leaves_the_optimizer_as_it_was(tmp_path):
    trained(tmp_path, 1)
    model = models.create_model(hidden_sizes=(32,), dropout=0.3)
    optimizer = utils.get_optimizer(model, "AdamW", 0.5)
    own = DataLoader(loaders()[0].dataset, shuffle=True, generator=torch.Generator())
    with pytest.raises(checkpoint.CheckpointError, match="states of 0 generators of its loaders, and these have 1"):
        checkpoint.restore(tmp_path / "last.pt", model, optimizer=optimizer, loaders=(own,))
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert not optimizer.state


def test_a_chained_scheduler_is_resumed(tmp_path):
    def run(folder, epochs, resume=False):
        utils.set_seed(3)
        model = models.create_model(hidden_sizes=(8,))
        optimizer = utils.get_optimizer(model, "SGD", 0.1)
        parts = [torch.optim.lr_scheduler.StepLR(optimizer, 1), torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]
        chain = torch.optim.lr_scheduler.ChainedScheduler(parts, optimizer)
        options = {"epochs": epochs, "scheduler": chain, "folder": folder, "resume": resume, "verbose": False}
        return training.fit(model, "cpu", *loaders(), optimizer, utils.get_loss(), **options)["rate"]

    run(tmp_path / "parts", 1)
    assert run(tmp_path / "parts", 3, resume=True) == run(tmp_path / "whole", 3)


# ------------------------------------------------------------------------------------------------
# The normalisation that is kept
# ------------------------------------------------------------------------------------------------


def with_transform(transform, wrap=lambda data: data):
    train_loader, validation_loader = loaders()
    train_loader.dataset.transform = transform
    return DataLoader(wrap(train_loader.dataset), batch_size=64), validation_loader


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (lambda: with_transform(utils.get_train_transforms()), (0.1307, 0.3081)),
        (lambda: with_transform(utils.get_test_transforms(mean=0.5, std=0.25)), (0.5, 0.25)),
        (
            lambda: with_transform(utils.get_test_transforms(mean=0.5, std=0.25), lambda d: Subset(d, range(200))),
            (0.5, 0.25),
        ),
        (
            lambda: with_transform(
                utils.get_test_transforms(mean=0.2, std=0.3), lambda d: Subset(Subset(d, range(200)), range(100))
            ),
            (0.2, 0.3),
        ),
        (lambda: with_transform(v2.Compose([v2.Compose([utils.get_test_transforms(mean=0.4)])])), (0.4, 0.3081)),
        (
            lambda: with_transform(transforms.Compose([lambda x: x / 255, transforms.Normalize(0.5, 0.6)])),
            (0.5, 0.6),
        ),
    ],
)
def test_the_normalisation_is_found_and_kept(tmp_path, data, expected):
    model, _ = trained(tmp_path, 1, data=data())
    assert model.normalisation == expected
    assert checkpoint.load_model(tmp_path / "best_model.pt").normalisation == expected


def test_the_normalisation_is_never_guessed(tmp_path):
    twice = transforms.Compose([lambda x: x / 255, transforms.Normalize(0.5, 0.5), transforms.Normalize(0.1, 0.2)])
    channels = transforms.Compose([lambda x: x / 255, transforms.Normalize([0.5, 0.5], [0.5, 0.5])])
    batches = [(torch.rand(4, 1, 28, 28), torch.arange(4))]
    for number, (data, count) in enumerate(
        (
            (with_transform(lambda images: images / 255), 0),
            (with_transform(None), 0),
            (with_transform(twice), 2),
            ((batches, batches), 0),
        )
    ):
        with pytest.raises(ValueError, match=rf"found {count} Normalize steps .* pass normalisation=\(mean, std\)"):
            trained(tmp_path / str(number), 1, data=data)
        assert not (tmp_path / str(number)).exists()
    with pytest.raises(ValueError, match="of one channel"):
        trained(tmp_path / "channels", 1, data=with_transform(channels))
    given, _ = trained(tmp_path / "given", 1, data=(batches, batches), normalisation=(0, 1))
    assert given.normalisation == (0.0, 1.0)
    for odd in ((0.5, 0), (0.5,), 0.5, (None, 1), (127.5, 1e7), ("a", "b"), (math.nan, 1)):
        with pytest.raises(ValueError, match=r"^normalisation must be \(mean, standard deviation\), .*, not "):
            trained(tmp_path / "odd", 1, normalisation=odd)
    assert not (tmp_path / "odd").exists()
    with pytest.raises(checkpoint.CheckpointError, match=r"normalised by \(0.0, 1.0\), and these are by \(0.1307"):
        trained(tmp_path / "given", 2, resume=True)


# ------------------------------------------------------------------------------------------------
# One run at a time
# ------------------------------------------------------------------------------------------------


def test_a_second_run_in_the_folder_is_refused(tmp_path):
    """From within the first: another fit of the same process is another run, too."""
    train_loader, validation_loader = loaders()
    refusals = []

    class Meddling(list):
        def __iter__(self):
            try:
                trained(tmp_path, 1)
            except training.RunningError as problem:
                refusals.append(str(problem))
            return iter(train_loader)

    model, _ = trained(tmp_path, 1, data=(Meddling(train_loader), validation_loader), normalisation=(0.1307, 0.3081))
    assert re.fullmatch(
        rf"A run goes on in {re.escape(str(tmp_path))} \(process {os.getpid()} on .*, since \d.*\): wait for .*",
        refusals[0],
    )
    assert same(checkpoint.load_model(tmp_path / "last.pt"), model)
    assert not list(tmp_path.glob("earlier-*"))
    trained(tmp_path, 1)  # and now it is free
    assert (tmp_path / "earlier-1").exists()


@pytest.mark.skipif(os.name != "posix", reason="kills with SIGKILL")
def test_the_lock_of_a_killed_run_does_not_block(tmp_path):
    """With loader workers, which outlive their parent for seconds."""
    code = (
        "import sys, torch, model, training, utils\n"
        "kwargs = {'batch_size': 64, 'num_workers': 2, 'persistent_workers': True}\n"
        "train, validation = (utils.get_MNISTdataset_with_loader(split, kwargs, dataset='digits', holdout=287)\n"
        "                     for split in ('train', 'validation'))\n"
        "net = model.create_model(hidden_sizes=(8,))\n"
        "training.fit(net, 'cpu', train, validation, utils.get_optimizer(net), utils.get_loss(), epochs=10**6,\n"
        "             folder=sys.argv[1])\n"
    )
    line = [sys.executable, "-u", "-c", code, str(tmp_path)]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert "Epoch" in process.stdout.readline()
        with pytest.raises(training.RunningError, match=f"process {process.pid} on "):
            trained(tmp_path, 1)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    trained(tmp_path, 1)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_runs_at_the_same_moment():
    """The benchmark itself, with fewer starts."""
    command = [sys.executable, str(ROOT / "benchmarks" / "race.py"), "--starts", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=r"^Could not write .*file: File exists\.$"):
        trained(tmp_path / "file", 1)
    assert (tmp_path / "file").read_text() == "mine"


def test_what_killed_writes_left_is_swept_up_and_nothing_else(tmp_path):
    ours, new, theirs = (tmp_path / name for name in (".last.pt.1.tmp", ".last.pt.2.tmp", ".notes.tmp"))
    for file in (ours, new, theirs):
        file.write_bytes(b"")
    for file in (ours, theirs):
        os.utime(file, (1, 1))  # long ago
    trained(tmp_path, 1)
    assert not ours.exists()
    assert new.exists()
    assert theirs.exists()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_moments(tmp_path):
    """The benchmark itself, with fewer kills."""
    command = [sys.executable, str(ROOT / "benchmarks" / "kill.py"), "--kills", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 resumed to the same weights" in done.stdout


# ------------------------------------------------------------------------------------------------
# Accuracy of each digit
# ------------------------------------------------------------------------------------------------


def test_the_accuracy_of_each_digit_is_that_of_a_loop():
    model, (_, loader) = models.create_model(hidden_sizes=(16,)), loaders()
    utils.train(model, "cpu", loaders()[0], utils.get_optimizer(model, "Adam", 0.003), utils.get_loss())
    loss, accuracy, digits = training.evaluate(model, "cpu", loader)
    assert (loss, accuracy) == utils.test(model, "cpu", loader, utils.get_loss())
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    guesses = [int(model(image[None]).argmax()) for image in images]
    for digit in range(10):
        rows = [i for i in range(len(labels)) if labels[i] == digit]
        assert digits[digit] == pytest.approx(100 * sum(guesses[i] == digit for i in rows) / len(rows), abs=0.5)
    no_nine = [(images[labels < 9], labels[labels < 9])]
    assert np.isnan(training.evaluate(model, "cpu", no_nine)[2][9])
