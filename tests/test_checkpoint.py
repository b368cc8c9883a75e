"""Checkpoints: whole at any moment, resumed exactly, refused in one sentence."""

import csv
import errno
import os
import pickle
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import checkpoint
import model as models
import training
import utils

ROOT = Path(__file__).parents[1]


def loaders(batch_size=64):
    options = {"dataset": "digits", "holdout": 287}
    return (
        utils.get_MNISTdataset_with_loader("train", {"batch_size": batch_size, "shuffle": True}, **options),
        utils.get_MNISTdataset_with_loader("validation", {"batch_size": 100}, **options),
    )


def trained(folder, epochs, *, seed=3, optname="AdamW", scheduler=None, planned=4, build=None, data=None, **options):
    """Fit a small network with dropout; `planned` epochs are what a one-cycle rate is laid out for."""
    utils.set_seed(seed)
    train_loader, validation_loader = data or loaders()
    model = build() if build else models.create_model(hidden_sizes=(32,), dropout=0.3)
    optimizer = utils.get_optimizer(model, optname, 0.003)
    steps = {"total_steps": planned * len(train_loader)} if scheduler == "OneCycleLR" else {"stepsize": 1}
    schedule = scheduler and utils.get_scheduler(optimizer, name=scheduler, **steps)
    options = {"epochs": epochs, "scheduler": schedule, "folder": folder, "verbose": False, **options}
    history = training.fit(model, "cpu", train_loader, validation_loader, optimizer, utils.get_loss(), **options)
    return model, history


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# ------------------------------------------------------------------------------------------------
# Save and load
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_every_architecture_comes_back_in_eval_mode(name, tmp_path):
    model = models.ARCHITECTURES[name]()
    checkpoint.save_checkpoint(tmp_path / "a.pt", model)
    found = checkpoint.load_model(tmp_path / "a.pt", "cpu")
    assert type(found) is type(model)
    assert not found.training
    assert same(found, model)
    images = torch.randn(3, 1, 28, 28)
    assert torch.equal(found(images), model.eval()(images))


def test_arguments_of_an_architecture_come_back(tmp_path):
    model = models.create_model(hidden_sizes=(20, 30, 40), activation="tanh", dropout=0.5, batch_norm=True)
    model(torch.randn(8, 784))  # batch norm's running statistics are part of it
    checkpoint.save_checkpoint(tmp_path / "a.pt", model)
    found = checkpoint.load_model(tmp_path / "a.pt")
    assert same(found, model)
    assert str(found) == str(model)
    found.train()
    found(torch.randn(4, 784)).sum().backward()  # and it can be trained on


def test_a_checkpoint_is_plain(tmp_path):
    trained(tmp_path, 1, scheduler="OneCycleLR", settings={"note": "mine"})
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert content.keys() == checkpoint.KEYS.keys()
    assert (content["architecture"], content["epoch"], content["settings"]) == ("MLP", 1, {"note": "mine"})
    assert content["optimizer"]["name"] == "AdamW"
    assert content["scheduler"]["state"]["last_epoch"] == len(loaders()[0])


def test_the_normalisation_is_kept(tmp_path):
    train_loader, validation_loader = loaders()
    assert trained(tmp_path / "mnist", 1)[0].normalisation == (utils.MEAN, utils.STD)
    train_loader.dataset.transform = utils.get_train_transforms(mean=0.5, std=0.25)
    model, _ = trained(tmp_path / "half", 1, data=(train_loader, validation_loader))
    assert model.normalisation == (0.5, 0.25)
    assert checkpoint.load_model(tmp_path / "half" / "best_model.pt").normalisation == (0.5, 0.25)
    checkpoint.save_checkpoint(tmp_path / "a.pt", models.create_model())
    assert checkpoint.load_model(tmp_path / "a.pt").normalisation == (utils.MEAN, utils.STD)
    for odd in ([0.5], [0.5, 0.0], [0.5, "1"], [0.5, float("nan")]):
        assert "is no mean and standard deviation" in refused(changed(tmp_path / "a.pt", normalisation=odd))


def test_models_of_other_kinds_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match=r"Only models of model\.py .* Linear is none"):
        checkpoint.save_checkpoint(tmp_path / "a.pt", torch.nn.Linear(2, 2))
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
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
    _, history = trained(tmp_path, 9, patience=2, resume=True)  # and it stays stopped
    assert len(history["rate"]) == 4


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
        trained(tmp_path / "parts", 3, data=(Interrupting(train_loader), validation_loader))
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
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best_model.pt", "history.csv", "last.pt"]


@pytest.mark.parametrize("options", [{"epochs": 0}, {"epochs": 1, "patience": 0}])
def test_fit_refuses_no_epochs(tmp_path, options):
    with pytest.raises(ValueError, match="at least 1"):
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


# ------------------------------------------------------------------------------------------------
# Writes that fail
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_earlier_file_whole(tmp_path, monkeypatch, step):
    path = tmp_path / "a.pt"
    model = models.create_model()
    checkpoint.save_checkpoint(path, model)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint.os, step, full)
    with pytest.raises(
        OSError, match=r"^Could not write .*a\.pt: No space left on device\. What .* whole\.$"
    ) as caught:
        checkpoint.save_checkpoint(path, models.create_model())
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert same(checkpoint.load_model(path), model)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="folders can't be opened")
def test_file_and_folder_are_flushed_to_the_disk(tmp_path, monkeypatch):
    flushed, fsync = [], os.fsync
    monkeypatch.setattr(checkpoint.os, "fsync", lambda fd: flushed.append(os.fstat(fd).st_ino) or fsync(fd))
    checkpoint.write_atomically(tmp_path / "a", b"content")
    assert flushed == [(tmp_path / "a").stat().st_ino, tmp_path.stat().st_ino]


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
def test_only_files_that_may_be_written_are_replaced(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="there is something that is no file"):
        checkpoint.write_atomically(tmp_path / "pipe", b"")
    (tmp_path / "mine").write_bytes(b"mine")
    monkeypatch.setattr(checkpoint.os, "access", lambda *_: False)  # as for a read-only file; root may write any
    with pytest.raises(PermissionError, match="the file there is read-only"):
        checkpoint.write_atomically(tmp_path / "mine", b"")
    assert (tmp_path / "mine").read_bytes() == b"mine"
    monkeypatch.undo()
    (tmp_path / "link").symlink_to("mine")
    checkpoint.write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "mine").read_bytes() == b"new"


def test_what_killed_writes_left_is_swept_up(tmp_path):
    old, new = tmp_path / ".last.pt.1.tmp", tmp_path / ".last.pt.2.tmp"
    old.write_bytes(b"")
    new.write_bytes(b"")
    os.utime(old, (1, 1))
    trained(tmp_path, 1)
    assert not old.exists()
    assert new.exists()  # another run may be writing it


@pytest.mark.skipif(os.name != "posix", reason="limits a file's size by setrlimit")
def test_a_disk_that_is_full_for_real(tmp_path):
    path, model = tmp_path / "a.pt", models.create_model(hidden_sizes=(8,))
    checkpoint.save_checkpoint(path, model)
    code = (
        "import resource, signal, sys, checkpoint, model\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try: checkpoint.save_checkpoint(sys.argv[1], model.Net())\n"
        "except OSError as problem: print(problem)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Could not write" in done.stdout
    assert same(checkpoint.load_model(path), model)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_moments(tmp_path):
    """The benchmark itself, with fewer kills."""
    command = [sys.executable, str(ROOT / "benchmarks" / "kill.py"), "--kills", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 resumed to the same weights" in done.stdout


# ------------------------------------------------------------------------------------------------
# Files that are refused
# ------------------------------------------------------------------------------------------------


class RunsSomething:
    """Unpickled, it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def refused(path, error=checkpoint.CheckpointError):
    with pytest.raises(error) as caught:
        checkpoint.load_model(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def changed(path, **changes):
    """A whole checkpoint with some of its content replaced."""
    checkpoint.save_checkpoint(path, models.create_model(hidden_sizes=(8,)))
    torch.save({**torch.load(path, weights_only=True), **changes}, path)
    return path


def test_missing_folder_and_other_files(tmp_path):
    path = tmp_path / "a.pt"
    assert "There is no checkpoint" in refused(path, FileNotFoundError)
    assert "is a folder" in refused(tmp_path, IsADirectoryError)
    path.write_bytes(b"")
    assert "is not a checkpoint" in refused(path)
    path.write_text("just text")
    assert "is not a checkpoint" in refused(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", "text" * 1000)
    assert "some other zip archive" in refused(path)
    torch.save(models.Net().state_dict(), path)
    assert "save with save_checkpoint" in refused(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in refused(tmp_path / "pipe")


def test_truncated_and_flipped(tmp_path):
    path = tmp_path / "a.pt"
    checkpoint.save_checkpoint(path, models.create_model())
    content = path.read_bytes()
    for length in (10, 1000, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert "damaged" in refused(path)
    middle = len(content) // 2  # in the weights, where only a checksum can tell
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    assert "checksums don't match" in refused(path)


def test_code_is_never_run(tmp_path):
    path, trace = tmp_path / "a.pt", tmp_path / "trace"
    path.write_bytes(pickle.dumps(RunsSomething(trace)))
    assert "bare pickle" in refused(path)
    torch.save(RunsSomething(trace), path)
    assert "could run code" in refused(path)
    assert "could run code" in refused(changed(path, settings={"a": RunsSomething(trace)}))
    assert not trace.exists()


def test_other_architectures_shapes_and_formats(tmp_path):
    path = tmp_path / "a.pt"
    assert "'Transformer'; model.py has Net, CNN" in refused(changed(path, architecture="Transformer"))
    assert "this version reads up to 1: update" in refused(changed(path, format=2))
    assert "'epoch' is missing or of the wrong type" in refused(changed(path, epoch="three"))
    assert "does not fit MLP" in refused(changed(path, arguments={"hidden_sizes": [9]}))
    assert "no MLP can be built" in refused(changed(path, arguments={"hidden_sizes": [-1]}))
    assert "does not fit MLP" in refused(changed(path, arguments={"hidden_sizes": [10**9, 10**9]}))  # 4 exabytes
    assert "is in only one of the two" in refused(changed(path, weights={}))
    weights = torch.load(changed(path), weights_only=True)["weights"]
    first = next(iter(weights))
    assert "torch.float16" in refused(changed(path, weights={**weights, first: weights[first].half()}))
    for odd in ("text", weights[first].to_sparse(), weights[first].to("meta"), torch.zeros(1).expand(10**9, 10**9)):
        assert "is no plain tensor, expected" in refused(changed(path, weights={**weights, first: odd}))
    assert "not finite" in refused(changed(path, weights={**weights, first: weights[first] / 0}))
    with pytest.raises(checkpoint.CheckpointError, match="holds the architecture MLP, not Net"):
        checkpoint.load_model(changed(path), architecture="Net")


def test_states_that_do_not_fit_are_refused_on_resume(tmp_path):
    trained(tmp_path, 1)
    last = tmp_path / "last.pt"
    whole = torch.load(last, weights_only=True)
    state = whole["optimizer"]["state"]
    huge = {**state["state"][0], "exp_avg": torch.zeros(1).expand(10**6, 10**6)}
    less = {name: value for name, value in state["state"][0].items() if name != "exp_avg_sq"}
    groups = [{**state["param_groups"][0], "lr": "fast"}]
    for changes in (
        {"random": {}},
        {"random": {**whole["random"], "torch": torch.zeros(3)}},
        {"optimizer": {"name": "AdamW", "state": {**state, "state": {**state["state"], 0: huge}}}},
        {"optimizer": {"name": "AdamW", "state": {**state, "state": {**state["state"], 0: less}}}},
        {"optimizer": {"name": "AdamW", "state": {**state, "state": {}}}},
        {"optimizer": {"name": "AdamW", "state": {**state, "param_groups": groups}}},
        {"history": {}},
        {"epoch": 5},
    ):
        torch.save({**whole, **changes}, last)
        with pytest.raises(checkpoint.CheckpointError, match="can't be resumed from"):
            trained(tmp_path, 2, resume=True)


def test_damaged_files_by_the_hundred(tmp_path):
    """The benchmark itself, with fewer files."""
    command = [sys.executable, str(ROOT / "benchmarks" / "fuzz.py"), "--count", "40"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(", 0 failures") == 2
