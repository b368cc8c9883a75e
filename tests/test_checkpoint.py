"""Checkpoints: whole at any moment, resumed exactly, refused in one sentence."""

import errno
import os
import pickle
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from runs import loaders, same, trained

import checkpoint
import model as models
import utils

ROOT = Path(__file__).parents[1]


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


def test_an_odd_normalisation_is_damage(tmp_path):
    checkpoint.save_checkpoint(tmp_path / "a.pt", models.create_model())
    assert checkpoint.load_model(tmp_path / "a.pt").normalisation == (utils.MEAN, utils.STD)
    for odd in ([0.5], [0.5, 0.0], [0.5, "1"], [0.5, float("nan")]):
        assert "is not a mean and a standard deviation" in refused(changed(tmp_path / "a.pt", normalisation=odd))


def test_models_of_other_kinds_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match=r"Only models of model\.py .* Linear is not one of them"):
        checkpoint.save_checkpoint(tmp_path / "a.pt", torch.nn.Linear(2, 2))
    assert list(tmp_path.iterdir()) == []


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
    with pytest.raises(OSError, match="is a folder or a device, not a file"):
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
    assert "is a device or a pipe, not a checkpoint" in refused(tmp_path / "pipe")


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
    doubled = []
    for _ in range(40):
        doubled = [doubled, doubled]  # printed, it would fill any memory
    for odd in ([1] * 10**6, doubled, {"a": 1}, "x" * 10**6, None, torch.zeros(3)):
        assert "its arguments don't fit MLP" in refused(changed(path, arguments={"hidden_sizes": odd}))
    for odd in ({"name": doubled, "state": {}}, {"name": "SGD"}, {"name": "SGD", "state": doubled}):
        assert "'optimizer' is not a name and a state" in refused(changed(path, optimizer=odd))
    assert "'epoch' or 'best_loss'" in refused(changed(path, best_loss=float("nan")))
    assert "have no names" in refused(changed(path, weights={7: torch.zeros(1)}))
    assert len(refused(changed(path, architecture="x" * 10**6))) < 500
    assert "does not fit MLP" in refused(changed(path, arguments={"hidden_sizes": [10**9, 10**9]}))  # 4 exabytes
    weights = torch.load(changed(path), weights_only=True)["weights"]
    first = next(iter(weights))
    less = {key: value for key, value in weights.items() if key != first}
    assert f"{first} is in only one of the two" in refused(changed(path, weights=less))
    assert "torch.float16" in refused(changed(path, weights={**weights, first: weights[first].half()}))
    for odd in ("text", weights[first].to_sparse(), weights[first].to("meta"), torch.zeros(1).expand(10**9, 10**9)):
        assert "is not a plain tensor, expected" in refused(changed(path, weights={**weights, first: odd}))
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
        {"random": {**whole["random"], "numpy": torch.zeros(1).expand(10**9)}},  # which would be iterated over
        {"random": {**whole["random"], "numpy": ["MT19937", torch.zeros(1).expand(10**9), 1, 0, 0.0]}},
        {"random": {**whole["random"], "python": [3, [1] * 10, None]}},
        {"random": {**whole["random"], "loaders": [7]}},
    ):
        torch.save({**whole, **changes}, last)
        start = time.perf_counter()
        with pytest.raises(checkpoint.CheckpointError, match="can't be resumed from"):
            trained(tmp_path, 2, resume=True)
        assert time.perf_counter() - start < 2


@pytest.mark.slow
def test_damaged_files_by_the_hundred(tmp_path):
    """The benchmark itself, with fewer files."""
    command = [sys.executable, str(ROOT / "benchmarks" / "fuzz.py"), "--count", "40"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(", 0 failures") == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_weight_that_is_not_finite_is_damage(tmp_path, value):
    model = models.create_model(hidden_sizes=())
    with torch.no_grad():
        next(model.parameters())[3, 5] = value
    checkpoint.save_checkpoint(tmp_path / "a.pt", model)
    assert "layers.0.weight holds numbers that are not finite" in refused(tmp_path / "a.pt")
