"""The command line, as a user types it."""

import contextlib
import io
import json
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from runs import same

import checkpoint
import dataset
import model as models
import torchnn
import training
import utils

ROOT = Path(__file__).parents[1]
SCRIPT = str(ROOT / "torchnn.py")
TINY = ("--dataset", "digits", "--batch-size", "64", "--arch", "MLP")


def run(*arguments, capsys):
    """The exit code, stdout and stderr of a command, whether main returns or argparse exits."""
    try:
        code = torchnn.main([str(a) for a in arguments])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(*arguments, capsys):
    """The one line with which a command is refused."""
    code, _, err = run(*arguments, capsys=capsys)
    assert (code, len(err.splitlines())) == (2, 1), err
    return err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of two epochs in a new folder, what it printed, and images of three test digits."""
    folder = tmp_path_factory.mktemp("run") / "new" / "folder"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert torchnn.main(["--train", *TINY, "--epochs", "2", "--folder", str(folder)]) == 0
    (folder / "printed.txt").write_text(printed.getvalue())
    test = dataset.load_dataset("test", "digits")
    for row in range(3):
        picture = Image.fromarray(255 - test.images[row].numpy()).resize((200, 200), Image.Resampling.BICUBIC)
        picture.save(folder / f"{row}.png")
    return folder


@pytest.fixture
def best(folder):
    return folder / checkpoint.BEST


# ------------------------------------------------------------------------------------------------
# --train
# ------------------------------------------------------------------------------------------------


def test_train_prints_an_epoch_a_line_and_a_report(folder):
    lines, device = (folder / "printed.txt").read_text().splitlines(), utils.get_device()
    assert lines[0] == f"Device: {utils.describe_device(device)}"
    assert lines[1] == "scikit-learn digits, train: 1,150 images of 28×28; 287 for validation"
    assert [line.startswith(f"Epoch  {n}: training loss") for n, line in enumerate(lines[2:4], 1)] == [True, True]
    losses = checkpoint.load_checkpoint(folder / "last.pt")["history"]["validation_loss"]
    assert lines[4] == f"Best model: epoch {1 + int(np.argmin(losses))}, kept as {folder / 'best_model.pt'}"
    model = checkpoint.load_model(folder / "best_model.pt", device)
    loader = utils.get_MNISTdataset_with_loader("test", {"batch_size": 500}, dataset="digits")
    loss, accuracy = utils.test(model, device, loader, utils.get_loss())
    assert f"loss {loss:.4f}, accuracy {accuracy:.2f} %" in lines[5]
    assert lines[6].startswith("0: ")


def test_the_run_is_that_of_the_recipe(tmp_path, capsys, monkeypatch):
    """Each number of the recipe stands in training.py only, and what the run is told replaces its own."""
    recipe = training.RECIPES["torchnn"]
    assert torchnn._recipe(torchnn._defaults()) == recipe
    assert set(torchnn._rates()) == set(utils.OPTIMIZERS)
    assert torchnn._rates()["AdamW"] == recipe["optimizer"]["learningrate"]
    flipped = utils.RandomHorizontalFlipEach()
    other = {
        **recipe,
        "arch": "TinyNet",
        "epochs": 2,
        "batch_size": 100,
        "augmentation": (flipped,),
        "optimizer": {"optname": "RMSprop", "learningrate": 0.002, "weight_decay": 0.125},
        "scheduler": {"name": "StepLR", "stepsize": 1, "gamma_val": 0.5},
    }
    monkeypatch.setitem(training.RECIPES, "torchnn", other)
    seen, fit = {}, training.fit

    def noted(model, device, train_loader, *arguments, **keywords):
        seen["steps"] = train_loader.dataset.transform.transforms
        return fit(model, device, train_loader, *arguments, **keywords)

    monkeypatch.setattr(training, "fit", noted)
    assert run("--train", "--dataset", "digits", "--folder", tmp_path, capsys=capsys)[0] == 0
    assert flipped in seen["steps"]
    content = checkpoint.load_checkpoint(tmp_path / "last.pt")
    group = content["optimizer"]["state"]["param_groups"][0]
    assert content["history"]["rate"] == [0.002, 0.001]
    assert group["weight_decay"] == 0.125
    assert content["settings"] == {
        "arch": "TinyNet",
        "epochs": 2,
        "patience": None,
        "batch_size": 100,
        "lr": 0.002,
        "optimizer": "RMSprop",
        "scheduler": "StepLR",
        "seed": 1,
        "data": "scikit-learn digits",
    }
    code, out, _ = run("--help", capsys=capsys)
    words = " ".join(out.split())
    assert code == 0
    for name in ("TinyNet", "2", "100", "RMSprop", "StepLR"):
        assert f"default {name} " in words
    assert "0.002 for RMSprop" in words


def test_networks_without_batch_norm_get_their_own_rate(tmp_path, capsys):
    plain = {name for name, make in models.ARCHITECTURES.items() if "BatchNorm" not in str(make())}
    assert set(torchnn.WITHOUT_BATCH_NORM) == plain
    options = ("--train", "--dataset", "digits", "--epochs", 1, "--batch-size", 500)
    for arch in ("MLP", "TinyNet"):
        assert run(*options, "--arch", arch, "--folder", tmp_path / arch, capsys=capsys)[0] == 0
    kept = {arch: checkpoint.load_checkpoint(tmp_path / arch / "last.pt") for arch in ("MLP", "TinyNet")}
    for arch, recipe in (("MLP", "torchnn-net"), ("TinyNet", "torchnn")):
        optimizer = training.RECIPES[recipe]["optimizer"]
        assert kept[arch]["settings"]["lr"] == optimizer["learningrate"]
        assert kept[arch]["optimizer"]["state"]["param_groups"][0]["max_lr"] == optimizer["learningrate"]


def test_each_scheduler_gets_what_suits_the_number_of_epochs():
    settings = {**torchnn._defaults(), "epochs": 9}
    steps = {"StepLR": 6, "CosineAnnealingLR": 9, "ReduceLROnPlateau": 2}
    for name in utils.SCHEDULERS:
        schedule = torchnn._recipe({**settings, "scheduler": name})["scheduler"]
        assert schedule == ({"name": name, "stepsize": steps[name]} if name in steps else training.ONE_CYCLE)
    assert torchnn._recipe({**settings, "scheduler": "StepLR", "epochs": 1})["scheduler"]["stepsize"] == 1


@pytest.mark.parametrize("scheduler", [*utils.SCHEDULERS, "none"])
def test_resume_gives_the_weights_of_one_go(scheduler, tmp_path, capsys, monkeypatch):
    options = ("--train", *TINY, "--scheduler", scheduler, "--epochs", 3)
    assert run(*options, "--folder", tmp_path / "whole", capsys=capsys)[0] == 0
    train, calls = utils.train, []

    def stopped(*arguments, **keywords):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*arguments, **keywords)

    monkeypatch.setattr(utils, "train", stopped)
    code, _, err = run(*options, "--folder", tmp_path / "parts", capsys=capsys)
    assert code == 130
    assert "continue with --resume" in err
    monkeypatch.undo()
    # the settings of the run are in its checkpoint
    resume = ("--train", "--dataset", "digits", "--resume", "--folder", tmp_path / "parts")
    code, out, err = run(*resume, capsys=capsys)
    assert (code, err) == (0, "")
    assert "Epoch  1" not in out
    one, two = (checkpoint.load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    assert all(torch.equal(one["weights"][key], two["weights"][key]) for key in one["weights"])
    assert one["settings"] == two["settings"]
    assert one["scheduler"] == two["scheduler"]


def test_options_reach_the_run(tmp_path, capsys):
    options = ("--train", *TINY, "--epochs", 2)
    flags = ("--optimizer", "SGD", "--lr", 0.125, "--scheduler", "none", "--seed", 5)
    runs = {"plain": (), "again": (), "seed": ("--seed", 2), "flags": flags}
    for name, more in runs.items():
        assert run(*options, *more, "--folder", tmp_path / name, capsys=capsys)[0] == 0
    plain, again, seed, flags = (checkpoint.load_checkpoint(tmp_path / name / "last.pt") for name in runs)
    assert plain["history"]["train_loss"] == again["history"]["train_loss"] != seed["history"]["train_loss"]
    assert (plain["optimizer"]["name"], plain["scheduler"]["name"]) == ("AdamW", "OneCycleLR")
    assert (flags["optimizer"]["name"], flags["scheduler"]) == ("SGD", None)
    assert flags["history"]["rate"] == [0.125] * 2
    assert plain["settings"]["lr"] == training.RECIPES["torchnn-net"]["optimizer"]["learningrate"]
    assert flags["settings"]["seed"] == 5


def test_patience_stops_early_and_is_kept(tmp_path, capsys, monkeypatch):
    test, losses = utils.test, iter([0.5, 0.6, 0.7])
    monkeypatch.setattr(utils, "test", lambda *a, **k: (next(losses), 90.0) if len(a) == 4 and k else test(*a, **k))
    options = ("--train", *TINY, "--epochs", 9, "--patience", 2, "--folder", tmp_path)
    code, out, _ = run(*options, capsys=capsys)
    assert code == 0
    assert "Stopped early" in out
    assert checkpoint.load_checkpoint(tmp_path / "last.pt")["epoch"] == 3
    assert checkpoint.load_checkpoint(tmp_path / "last.pt")["settings"]["patience"] == 2


def test_resume_refuses_other_settings_and_other_data(folder, tmp_path, capsys):
    resume = ("--train", "--resume", "--folder", folder, "--epochs", 2, "--dataset", "digits")
    err = refused(*resume, "--batch-size", 32, capsys=capsys)
    assert "has --batch-size 64, not 32: leave out --batch-size to continue it, or leave out --resume" in err
    err = refused(*resume, "--epochs", 6, capsys=capsys)
    assert "has --epochs 2, not 6: leave out --epochs to continue it, or leave out --resume" in err
    code, out, _ = run(*resume, capsys=capsys)  # complete already: the report again
    assert code == 0
    assert "Epoch" not in out
    assert "the run is complete after 2 epochs" in out
    settings = {**torchnn._defaults(), "arch": "MLP", "data": "MNIST"}
    checkpoint.save_checkpoint(tmp_path / "last.pt", models.create_model(), settings=settings)
    err = refused("--train", "--resume", "--folder", tmp_path, "--dataset", "digits", capsys=capsys)
    assert "was trained on 'MNIST', and this is 'scikit-learn digits': give the same --dataset" in err


def test_epochs_and_patience_may_change_where_the_schedule_allows(tmp_path, capsys):
    options = ("--train", *TINY, "--scheduler", "none", "--folder", tmp_path)
    assert run(*options, "--epochs", 1, capsys=capsys)[0] == 0
    assert run(*options, "--resume", "--epochs", 2, "--patience", 7, capsys=capsys)[0] == 0
    content = checkpoint.load_checkpoint(tmp_path / "last.pt")
    assert (content["epoch"], content["settings"]["epochs"], content["settings"]["patience"]) == (2, 2, 7)


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


HOSTILE = [
    ("arch", "Nat"),
    ("arch", "Net --folder=elsewhere"),
    ("arch", "x" * 10**6),
    ("arch", ["Net"]),
    ("epochs", True),
    ("epochs", None),
    ("epochs", 10**600),
    ("lr", 10**600),
    ("batch_size", 0),
    ("lr", "fast"),
    ("lr", float("nan")),
    ("seed", "one"),
    ("seed", torch.ones(3)),
    ("scheduler", {}),
    ("scheduler", nested(300)),
    ("patience", 0),
    ("patience", []),
    ("data", None),
    ("data", 7 * ["MNIST"]),
]


def test_hostile_settings_are_refused(tmp_path, capsys):
    resume = ("--train", "--resume", "--dataset", "digits", "--folder", tmp_path)
    settings = {**torchnn._defaults(), "arch": "MLP", "data": "scikit-learn digits"}
    odd = [{**settings, name: value} for name, value in HOSTILE]
    odd += [{key: value for key, value in settings.items() if key != name} for name in settings]  # one is missing
    for kept in odd:
        checkpoint.save_checkpoint(tmp_path / "last.pt", models.create_model(), settings=kept)
        start = time.perf_counter()
        assert "lacks the settings that torchnn.py keeps" in refused(*resume, capsys=capsys)
        assert time.perf_counter() - start < 5
    settings["data"] = "\33[2J\n" + "x" * 10**6
    checkpoint.save_checkpoint(tmp_path / "last.pt", models.create_model(), settings=settings)
    err = refused(*resume, capsys=capsys)
    assert len(err) < 400
    assert err.rstrip().isprintable()


def test_unknown_settings_are_not_kept(tmp_path, capsys):
    options = ("--train", *TINY, "--scheduler", "none", "--folder", tmp_path)
    assert run(*options, "--epochs", 1, capsys=capsys)[0] == 0
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    content["settings"] |= {"folder": "elsewhere", "extra": 7}
    torch.save(content, tmp_path / "last.pt")
    assert run(*options, "--resume", "--epochs", 2, capsys=capsys)[0] == 0
    content = checkpoint.load_checkpoint(tmp_path / "last.pt")
    assert content["epoch"] == 2
    assert set(content["settings"]) == {*torchnn.SETTINGS, "data"}


def test_a_state_beyond_all_numbers_is_refused(tmp_path, capsys):
    options = ("--train", *TINY, "--folder", tmp_path)
    for scheduler, key, value, message in (
        ("none", "betas", (0.9, 1e200), "its optimizer or random states don't fit"),
        ("OneCycleLR", "max_momentum", 1e29, ""),  # becomes a beta on the way
        ("none", "lr", 1e29, "the loss is "),
    ):
        assert run(*options, "--scheduler", scheduler, "--epochs", 1, capsys=capsys)[0] == 0
        content = torch.load(tmp_path / "last.pt", weights_only=True)
        content["optimizer"]["state"]["param_groups"][0][key] = value
        content["epoch"], content["history"] = 0, {name: [] for name in content["history"]}
        if scheduler != "none":
            content["scheduler"]["state"]["last_epoch"] = 0
        torch.save(content, tmp_path / "last.pt")
        code, _, err = run(*options, "--resume", capsys=capsys)
        assert (code, err.count("\n")) == (2, 1)
        assert message in err


def test_resume_without_a_checkpoint_starts(tmp_path, capsys):
    code, out, _ = run("--train", *TINY, "--epochs", 1, "--resume", "--folder", tmp_path, capsys=capsys)
    assert code == 0
    assert "starting with the first epoch" in out


def test_ctrl_c_exits_with_130_and_leaves_a_checkpoint(tmp_path, capsys, monkeypatch):
    """The script as a program, in this process, with a signal after the first epoch."""
    write = training.write_history

    def write_and_stop(*arguments):
        write(*arguments)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(training, "write_history", write_and_stop)
    monkeypatch.setattr(sys, "argv", [SCRIPT, "--train", *TINY, "--epochs", "500", "--folder", str(tmp_path)])
    # a job in the background inherits that the signal is ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(SCRIPT, run_name="__main__")
    except KeyboardInterrupt:  # which would end pytest
        pytest.fail("main let KeyboardInterrupt through")
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
    assert stop.value.code == 130
    err = capsys.readouterr().err
    assert (
        err == f"torchnn.py: Stopped. {tmp_path / 'last.pt'} holds the last complete epoch: continue with --resume.\n"
    )
    assert checkpoint.load_checkpoint(tmp_path / "last.pt")["epoch"] == 1


def test_ctrl_c_while_the_choices_are_imported(capsys, monkeypatch):
    def stopped(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(torchnn, "read_options", stopped)
    assert run("--help", capsys=capsys) == (130, "", "")


# ------------------------------------------------------------------------------------------------
# --infer
# ------------------------------------------------------------------------------------------------


def test_infer_from_another_folder_imports_no_more_than_it_needs(folder, best):
    """Relative names are of the folder that one is in; a cold start must not wait for plots, data or torchvision."""
    line = [sys.executable, "-X", "importtime", SCRIPT, "--infer", "0.png", "1.png", "--checkpoint", best.name]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120, cwd=folder)
    assert done.returncode == 0
    first, second = done.stdout.splitlines()
    assert first.startswith("0.png: ")
    assert first.count("%") == second.count("%") == 3
    lines = done.stderr.splitlines()
    assert {line.split(":")[0] for line in lines} == {"import time"}
    imported = {line.split("|")[-1].strip().split(".")[0] for line in lines}
    assert "torch" in imported
    unneeded = {"matplotlib", "torchvision", "sklearn", "utils", "training", "dataset", "insights", "onnx", "pandas"}
    assert not unneeded & imported


def test_infer_json_and_top(folder, best, capsys):
    code, out, _ = run(
        "--infer", folder / "0.png", folder / "1.png", "--checkpoint", best, "--json", "--top", 10, capsys=capsys
    )
    assert code == 0
    from predict import predict

    model = checkpoint.load_model(best)
    for row, line in enumerate(out.splitlines()):
        answer = json.loads(line)
        probabilities, _ = predict(model, folder / f"{row}.png")
        assert answer["image"] == str(folder / f"{row}.png")
        assert answer["digit"] == int(probabilities.argmax())
        assert answer["probability"] == pytest.approx(probabilities.max().item())
        assert sum(t["probability"] for t in answer["top"]) == pytest.approx(1)
        assert [t["digit"] for t in answer["top"]] == probabilities.argsort(descending=True).tolist()


def test_infer_expands_patterns_where_no_shell_has_done_it(folder, best, tmp_path, capsys):
    for name in ("1.png", "2.png", "[12].png", "3.jpg"):
        (tmp_path / name).write_bytes((folder / "0.png").read_bytes())

    def names(*patterns):
        out = run("--infer", *(tmp_path / p for p in patterns), "--checkpoint", best, capsys=capsys)[1]
        return [Path(line.split(": ")[0]).name for line in out.splitlines()]

    assert names("3.jpg", "*.png") == ["3.jpg", "1.png", "2.png", "[12].png"]
    assert names("[12].png") == ["[12].png"]  # the file of this name
    assert names("[13].*") == ["1.png", "3.jpg"]
    err = refused("--infer", tmp_path / "*.gif", "--checkpoint", best, capsys=capsys)
    assert f"There is no image {tmp_path / '*.gif'}" in err
    err = refused("--infer", tmp_path / "*.png", "--save-figure", tmp_path / "1.png", capsys=capsys)
    assert "is an input and would be overwritten" in err


def test_infer_continues_after_a_file_that_is_not_an_image(folder, best, tmp_path, capsys):
    (tmp_path / "text.png").write_text("text")
    names = (tmp_path / "text.png", folder / "0.png", tmp_path / "none.png", tmp_path)
    code, out, err = run("--infer", *names, "--checkpoint", best, capsys=capsys)
    assert code == 2
    assert out.startswith(f"{folder / '0.png'}: ")
    assert out.count("\n") == 1
    lines = err.splitlines()
    assert len(lines) == 3
    assert "text.png is not an image" in lines[0]
    assert "There is no image" in lines[1]
    assert "is a folder" in lines[2]


def test_infer_draws_what_it_saw(folder, best, tmp_path, capsys):
    names = [folder / f"{row}.png" for row in range(3)]
    for form, used in (("png", names), ("svg", names[:1]), ("pdf", names[:1])):
        file = tmp_path / f"seen.{form}"
        code, out, _ = run("--infer", *used, "--checkpoint", best, "--save-figure", file, capsys=capsys)
        assert (code, out.splitlines()[-1]) == (0, f"Figure: {file}")
        assert file.stat().st_size > 5000
    with Image.open(tmp_path / "seen.png") as picture:
        assert picture.height > picture.width * 0.8  # three rows
        assert np.asarray(picture.convert("L")).std() > 20
    line = ("--infer", names[0], "--checkpoint", best, "--json")
    code, out, _ = run(*line, "--save-figure", tmp_path / "a", capsys=capsys)  # PNG by default; JSON stays JSON
    assert (code, len(out.splitlines()), (tmp_path / "a").read_bytes()[1:4]) == (0, 1, b"PNG")
    assert "not .xyz" in refused(*line, "--save-figure", tmp_path / "a.xyz", capsys=capsys)
    assert not (tmp_path / "a.xyz").exists()


@pytest.fixture(scope="module")
def page(folder):
    """A page with two lines of digits, 28 and 49 pixels from the edges, and the digits' boxes."""
    images = dataset.load_dataset("test", "digits").images[:5]
    pixels, boxes = np.full((420, 600), 255, np.uint8), []
    for i, image in enumerate(images):
        large = Image.fromarray(image.numpy()).resize((112, 112), Image.Resampling.BICUBIC)
        left, top = 40 + 170 * (i % 3), 40 + 200 * (i // 3)
        pixels[top : top + 112, left : left + 112] = 255 - np.asarray(large)
        x, y, right, bottom = large.point(lambda value: 255 * (value > 100)).getbbox()
        boxes.append((left + x, top + y, left + right, top + bottom))
    Image.fromarray(pixels).save(folder / "page.png")
    return folder / "page.png", boxes


def test_infer_all_prints_the_lines_as_they_stand(page, best, capsys):
    from predict import predict_all

    file, _ = page
    code, out, err = run("--infer", file, "--all", "--checkpoint", best, capsys=capsys)
    assert (code, err) == (0, "")
    first, *lines = out.splitlines()
    assert first == f"{file}: 5 digits"
    readings = predict_all(checkpoint.load_model(best), file)
    shown = [line.split("   less sure: ") for line in lines]
    seen = [str(r.digit) if r.is_digit else "?" for r in readings]
    assert [part[0] for part in shown] == [f"  {' '.join(seen[:3])}", f"  {' '.join(seen[3:])}"]
    for line, part in ((0, readings[:3]), (1, readings[3:])):
        doubtful = [f"{r.digit} ({100 * r.probability:.0f} %)" for r in part if r.is_digit and r.probability < 0.9]
        assert shown[line][1:] == ([", ".join(doubtful)] if doubtful else [])


def test_what_is_no_digit_is_a_question_mark_in_its_line(page, best, tmp_path, capsys, monkeypatch):
    from predict import predict_all

    def odd(model, image):
        readings = predict_all(model, image)
        return [reading._replace(is_digit=i != 1) for i, reading in enumerate(readings)]

    monkeypatch.setattr(torchnn, "predict_all", odd)
    out = run("--infer", page[0], "--all", "--checkpoint", best, capsys=capsys)[1]
    assert out.splitlines()[1].split()[1] == "?"
    assert out.splitlines()[0].endswith(": 4 digits, and 1 other mark (?)")
    assert "".join(out.splitlines()[1:]).count("?") == 1


def test_infer_all_json_has_boxes_in_pixels(page, best, tmp_path, capsys):
    file, boxes = page
    large = tmp_path / "large.png"
    with Image.open(file) as image:
        image.resize((2400, 1680)).save(large)
    code, out, _ = run("--infer", file, large, "--all", "--json", "--checkpoint", best, capsys=capsys)
    assert code == 0
    for line, name, scale in zip(out.splitlines(), (file, large), (1, 4), strict=True):
        answer = json.loads(line)
        assert answer["image"] == str(name)
        found = answer["digits"]
        assert [digit["line"] for digit in found] == [0, 0, 0, 1, 1]
        difference = np.array([digit["box"] for digit in found]) - scale * np.array(boxes)
        assert np.abs(difference).max() <= 5 * scale
        assert all(set(digit) == {"digit", "probability", "box", "line", "no_digit"} for digit in found)
        assert all(0.1 <= digit["probability"] <= 1 and digit["no_digit"] in (True, False) for digit in found)


def test_infer_all_writes_a_figure_for_each_image(page, folder, best, tmp_path, capsys):
    line = ("--all", "--checkpoint", best, "--save-figure", tmp_path / "name.png")
    assert run("--infer", page[0], *line, capsys=capsys)[0] == 0
    assert [file.name for file in tmp_path.iterdir()] == ["name.png"]
    (tmp_path / "name.png").unlink()
    assert run("--infer", page[0], folder / "0.png", *line, capsys=capsys)[0] == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["name-1.png", "name-2.png"]
    with Image.open(tmp_path / "name-1.png") as wide, Image.open(tmp_path / "name-2.png") as square:
        assert wide.width / wide.height > 1.2
        assert np.asarray(square.convert("L")).std() > 10


def test_figures_of_pages_overwrite_no_page(page, best, tmp_path, capsys):
    pages = [tmp_path / f"page-{number}.png" for number in (1, 2)]
    for file in pages:
        file.write_bytes(page[0].read_bytes())
    line = ("--infer", *pages, "--all", "--checkpoint", best, "--save-figure")
    assert "page-1.png is an input and would be overwritten" in refused(*line, tmp_path / "page.png", capsys=capsys)
    assert all(file.read_bytes() == page[0].read_bytes() for file in pages)
    (tmp_path / "page-1.png").write_text("no image")
    out = run(*line, tmp_path / "boxes.png", capsys=capsys)[1]
    assert out.splitlines()[-1] == f"Figure: {tmp_path / 'boxes-2.png'}"  # the number is the image's
    assert (tmp_path / "boxes-2.png").exists()
    assert not (tmp_path / "boxes-1.png").exists()
    assert "--top goes without --all" in refused("--infer", page[0], "--all", "--top", "2", capsys=capsys)


def test_infer_all_goes_on_after_an_image_without_digits(page, best, tmp_path, capsys):
    Image.new("L", (300, 200), 255).save(tmp_path / "blank.png")
    code, out, err = run("--infer", tmp_path / "blank.png", page[0], "--all", "--checkpoint", best, capsys=capsys)
    assert code == 2
    assert out.startswith(f"{page[0]}: 5 digits")
    assert f"{tmp_path / 'blank.png'} is blank" in err


def test_two_digits_are_refused_with_the_way_to_read_them(page, best, tmp_path, capsys):
    with Image.open(page[0]) as image:
        image.crop((30, 30, 340, 170)).save(tmp_path / "pair.png")
    err = refused("--infer", tmp_path / "pair.png", "--checkpoint", best, capsys=capsys)
    assert "holds 2 digits, and one was asked for" in err
    assert "--all" in err


def test_outputs_never_replace_inputs(folder, best, capsys):
    before = (folder / "0.png").read_bytes(), best.read_bytes()
    image = folder / "0.png"
    for arguments in (
        ("--infer", image, "--checkpoint", best, "--save-figure", folder / "." / "0.png"),
        ("--export", best, "--checkpoint", best),
        ("--export", best, "--folder", folder),
    ):
        assert "is an input and would be overwritten" in refused(*arguments, capsys=capsys)
    assert (image.read_bytes(), best.read_bytes()) == before


def test_odd_names_in_the_figure(folder, best, tmp_path, capsys):
    names = [tmp_path / name for name in ("a$x^$.png", "数字.png", "a name with spaces\nand a line.png")]
    for name in names:
        name.write_bytes((folder / "0.png").read_bytes())
    line = ("--infer", *names, "--checkpoint", best, "--save-figure", tmp_path / "figure.png")
    code, _, err = run(*line, capsys=capsys)
    assert (code, err) == (0, "")


@pytest.mark.parametrize("arguments", [{"output_size": 5}, {"input_size": 100}])
def test_networks_for_other_tasks_are_refused(arguments, folder, tmp_path, capsys):
    checkpoint.save_checkpoint(tmp_path / "best_model.pt", models.create_model(**arguments))
    for what in (("--infer", folder / "0.png"), ("--evaluate", "--dataset", "digits"), ("--export", tmp_path / "a")):
        err = refused(*what, "--folder", tmp_path, capsys=capsys)
        assert "does not read images of 28×28 into ten digits" in err


# ------------------------------------------------------------------------------------------------
# --evaluate, --export
# ------------------------------------------------------------------------------------------------


def evaluated(path, capsys):
    code, out, _ = run("--evaluate", "--checkpoint", path, "--dataset", "digits", "--json", capsys=capsys)
    assert code == 0
    return json.loads(out)


def test_evaluate_counts_each_digit(best, capsys):
    found, device = evaluated(best, capsys), utils.get_device()
    model, data = checkpoint.load_model(best, device), dataset.load_dataset("test", "digits")
    with torch.no_grad(), utils.autocast(device):
        outputs = model(utils.get_test_transforms()(data.images.unsqueeze(1)).to(device)).cpu()
    right = outputs.argmax(dim=1) == data.labels
    # one digit may change between two ways to compute the same
    assert found["accuracy"] == pytest.approx(100 * right.float().mean().item(), abs=0.3)
    for digit in range(10):
        expected = 100 * right[data.labels == digit].float().mean().item()
        assert found["digits"][digit] == pytest.approx(expected, abs=3)
    code, out, _ = run("--evaluate", "--checkpoint", best, "--dataset", "digits", capsys=capsys)
    assert code == 0
    assert f"accuracy {found['accuracy']:.2f} %" in out
    assert f"9: {found['digits'][9]:.1f} %" in out


def test_evaluate_normalises_as_the_model_was_trained(best, tmp_path, capsys):
    device = utils.get_device()
    model = checkpoint.load_model(best)
    model.normalisation = (0.9, 0.05)
    checkpoint.save_checkpoint(tmp_path / "a.pt", model)
    transform = utils.get_test_transforms(mean=0.9, std=0.05)
    loader = utils.get_MNISTdataset_with_loader("test", {"batch_size": 500}, dataset="digits", transform=transform)
    expected = utils.test(model.to(device), device, loader, utils.get_loss())[0]
    assert evaluated(tmp_path / "a.pt", capsys)["loss"] == pytest.approx(expected, rel=1e-3)
    assert evaluated(best, capsys)["loss"] != pytest.approx(expected, rel=0.05)


def test_evaluate_gives_the_report_what_it_needs(best, tmp_path, capsys, monkeypatch):
    """tests/test_report.py has the page itself."""
    from insights import report

    given = {}

    def written(model, folder, **options):
        given.update(options, model=model, folder=folder)
        return Path(folder) / "index.html"

    monkeypatch.setattr(report, "write_report", written)
    model = checkpoint.load_model(best)
    model.normalisation = (0.5, 0.25)
    checkpoint.save_checkpoint(tmp_path / "a.pt", model)
    options = ("--checkpoint", tmp_path / "a.pt", "--dataset", "digits", "--report", tmp_path / "report")
    code, out, err = run("--evaluate", *options, capsys=capsys)
    assert (code, out, err) == (0, f"Report: {tmp_path / 'report' / 'index.html'}\n", "")
    assert (given["name"], given["folder"]) == ("MLP", str(tmp_path / "report"))
    assert given["device"] == utils.get_device()
    assert next(given["model"].parameters()).device.type == utils.get_device().type
    test, validation = given["test_loader"].dataset, given["validation_loader"].dataset
    assert (test.split, len(test), validation.split, len(validation)) == ("test", 360, "validation", 287)
    for data in (test, validation):
        assert data[0][0].min().item() == pytest.approx(-2)  # (0 - 0.5) / 0.25


@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_export_gives_onnx_runtime_the_same_answers(name, tmp_path, capsys):
    model = models.ARCHITECTURES[name]()
    checkpoint.save_checkpoint(tmp_path / "a.pt", model)
    code, out, err = run("--export", tmp_path / "a.onnx", "--checkpoint", tmp_path / "a.pt", capsys=capsys)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 1
    assert str(ROOT).encode() not in (tmp_path / "a.onnx").read_bytes()
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    data = dataset.load_dataset("test", "digits")
    images = utils.get_test_transforms()(data.images.unsqueeze(1))
    (found,) = session.run(["log_probabilities"], {"images": images.numpy()})
    with torch.inference_mode():
        assert np.abs(found - model.eval()(images).numpy()).max() < 1e-4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "a.pt"]


# ------------------------------------------------------------------------------------------------
# Bad input
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "one of the arguments --train --infer --evaluate --export is required"),
        (("--train", "--evaluate"), "not allowed with argument --train"),
        (("--train", "--epochs", "0"), "invalid whole number from 1 value: '0'"),
        (("--train", "--epochs", str(2**32)), "invalid whole number from 1 value"),
        (("--train", "--epochs", "many"), "invalid whole number from 1 value: 'many'"),
        (("--train", "--lr", "-1"), "invalid number above 0 value: '-1'"),
        (("--train", "--lr", "nan"), "invalid number above 0 value: 'nan'"),
        (("--train", "--arch", "Transformer"), "choose from Net, CNN, ImageClassifier, MLP"),
        (("--train", "--optimizer", "Adagrad"), "choose from SGD, Adam, AdamW, RMSprop"),
        (("--train", "--scheduler", "CyclicLR"), "choose from StepLR, OneCycleLR, CosineAnnealingLR"),
        (("--train", "--dataset", "cifar"), "choose from auto, mnist"),
        (("--infer",), "expected at least one argument"),
        (("--infer", "a.png", "--checkpoint", "nowhere.pt"), "There is no checkpoint nowhere.pt: train one"),
        (("--evaluate", "--checkpoint", SCRIPT), "is not a checkpoint"),
        (("--export", "a.onnx", "--checkpoint", str(ROOT)), "is a folder"),
        (("--train", "--dataset", "mnist", "--data", "/nowhere/at all"), "MNIST is not complete in"),
        (("--train", *TINY, "--epochs", "1", "--folder", SCRIPT), SCRIPT),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(dataset, "download", refuse_to_download)
    err = refused(*arguments, capsys=capsys)
    assert message in err.replace("'", "") or message in err
    assert "[Errno" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--infer", "x.png", "--resume", "--epochs", "3"), "--epochs goes with --train, not with --infer"),
        (("--infer", "x.png", "--resume"), "--resume goes with --train, not with --infer"),
        (("--infer", "x.png", "--seed", "0"), "--seed goes with --train, not with --infer"),
        (("--infer", "x.png", "--report", "folder"), "--report goes with --evaluate, not with --infer"),
        (("--infer", "x.png", "--dataset", "auto"), "--dataset goes with --train or --evaluate, not with --infer"),
        (("--train", "--top", "3"), "--top goes with --infer, not with --train"),  # 3 is the default, too
        (("--train", "--checkpoint", "a.pt"), "--checkpoint goes with --infer or --evaluate or --export, not with"),
        (("--export", "f", "--json"), "--json goes with --infer or --evaluate, not with --export"),
        (
            ("--export", "f", "--device", "cpu"),
            "--device goes with --train or --infer or --evaluate, not with --export",
        ),
        (("--evaluate", "--save-figure", "f"), "--save-figure goes with --infer, not with --evaluate"),
        (("--train", "--all"), "--all goes with --infer, not with --train"),
        (("--evaluate", "--all"), "--all goes with --infer, not with --evaluate"),
        (("--evaluate", "--seed", "1"), "--seed goes with --train, not with --evaluate"),
        (("--evaluate", "--json", "--report", "f"), "--report: not allowed with argument --json"),
        (
            ("--infer", "x.png", "--folder", "f", "--checkpoint", "c"),
            "--checkpoint: not allowed with argument --folder",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments, message, capsys):
    assert message in refused(*arguments, capsys=capsys)


def test_every_option_says_what_it_goes_with():
    names = {action.dest for action in torchnn.parser()._actions}
    assert names == {"help", "folder", *torchnn.COMMANDS, *torchnn.GOES_WITH}
    assert set(sum(torchnn.GOES_WITH.values(), ())) == set(torchnn.COMMANDS)


CUDA = "CUDA error: no kernel image is available for execution on the device\nCompile with `TORCH_USE_CUDA_DSA`.\n"


@pytest.mark.parametrize(
    ("problem", "infer", "train"),
    [
        (RuntimeError(CUDA), "PyTorch can't do this here: CUDA error: no kernel image is available for execution on"
         " the device.", "the device."),
        (RuntimeError(), "PyTorch can't do this here: RuntimeError.", "here: RuntimeError."),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "not enough memory for this: use a computer"
         " with more", "use a smaller --batch-size"),
        (MemoryError(), "not enough memory for this: use a computer with more", "use a smaller --batch-size"),
        (OverflowError("math range error"), "The model's numbers left the range of floating-point numbers: use another"
         " checkpoint", "The training left the range of floating-point numbers: start a new run with a smaller --lr"),
        (FloatingPointError("Epoch 1: the loss is nan"), "Epoch 1: the loss is nan", "Epoch 1: the loss is nan"),
        (OSError(28, "No space left", "a file"), "a file can't be used: No space left. Give", "a file can't be used"),
    ],
    ids=lambda each: type(each).__name__,
)  # fmt: skip
def test_what_libraries_raise_is_said_in_one_line(problem, infer, train, folder, best, tmp_path, capsys, monkeypatch):
    def fails(*_, **__):
        raise problem

    monkeypatch.setattr(torchnn, "predict", fails)
    monkeypatch.setattr(utils, "train", fails)
    err = refused("--infer", folder / "0.png", "--checkpoint", best, capsys=capsys)
    assert infer in err
    assert "--device cpu" not in err  # it is the default
    err = refused("--train", *TINY, "--epochs", 1, "--folder", tmp_path, "--device", "cpu", capsys=capsys)
    assert train in err
    assert "--device cpu" not in err


def test_what_fails_on_a_gpu_is_told_to_use_the_cpu(folder, best, capsys, monkeypatch):
    """The network is checked on the CPU, lest a GPU's error be taken for one of the checkpoint."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    line = ("--infer", folder / "0.png", "--checkpoint", best, "--device", "cuda")
    for problem, message in (
        (RuntimeError(CUDA), "on the device. Use --device cpu."),
        (torch.OutOfMemoryError("CUDA out of memory"), "with more of it, or --device cpu."),
    ):

        def fails(images, problem=problem):
            raise problem

        def moved(model, device, fails=fails):
            if torch.device(device).type == "cuda":
                model.forward = fails
            return model

        monkeypatch.setattr(models.MLP, "to", moved)
        assert message in refused(*line, capsys=capsys)


def test_the_digits_that_stand_in_are_said_so_in_one_line(best, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(dataset, "download", refuse_to_download)
    code, out, err = run("--evaluate", "--checkpoint", best, "--data", tmp_path, capsys=capsys)
    assert code == 0
    assert out.startswith("scikit-learn digits, test: 360 images")
    assert err.startswith("torchnn.py: USING SCIKIT-LEARN'S EMBEDDED DIGITS INSTEAD OF MNIST")
    assert len(err.splitlines()) == 1


def refuse_to_download(name, root, missing):
    raise dataset.DataMissing(f"MNIST is not complete in {root}, and it could not be downloaded.")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(best, capsys):
    assert "There is no CUDA device here" in refused(
        "--evaluate", "--device", "cuda", "--checkpoint", best, capsys=capsys
    )


def test_help_shows_examples(capsys):
    code, out, _ = run("--help", capsys=capsys)
    assert code == 0
    assert "python torchnn.py --infer seven.jpg" in out
    for line in torchnn.__doc__.splitlines():
        if "python torchnn.py" in line:  # every example is a line that the parser takes
            words = line.split("python torchnn.py")[1].split("  ")[0].split()
            assert "--" + torchnn.read_options(words).command in words


def test_the_results_are_those_of_the_best_model_not_the_last(tmp_path, monkeypatch):
    losses, reported = iter([0.5, 0.9]), []
    monkeypatch.setattr(utils, "test", lambda *_, **__: (next(losses), 90.0))
    monkeypatch.setattr(torchnn, "_print_results", lambda model, *_: reported.append(model.cpu()))
    assert torchnn.main(["--train", *TINY, "--epochs", "2", "--folder", str(tmp_path)]) == 0
    best, last = (checkpoint.load_model(tmp_path / name) for name in (checkpoint.BEST, checkpoint.LAST))
    assert same(reported[0], best)
    assert not same(reported[0], last)


@pytest.mark.parametrize(("name", "rate"), [("SGD", 0.01), ("Adam", 0.001), ("RMSprop", 0.001), ("AdamW", 0.015)])
def test_each_optimizer_has_its_own_rate_unless_one_is_given(name, rate, tmp_path):
    for given, expected in (((), rate), (("--lr", "0.5"), 0.5)):
        options = torchnn.read_options(["--train", "--optimizer", name, *given])
        assert torchnn._settings(options, tmp_path / "none.pt")["lr"] == expected


def test_no_onnx_file_where_onnx_runtime_answers_otherwise(tmp_path, capsys, monkeypatch):
    wrong = SimpleNamespace(run=lambda names, feeds: (np.zeros((len(feeds["images"]), 10), np.float32),))
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: wrong)
    checkpoint.save_checkpoint(tmp_path / "a.pt", models.create_model(hidden_sizes=()))
    message = refused("--export", tmp_path / "a.onnx", "--checkpoint", tmp_path / "a.pt", capsys=capsys)
    assert "a.onnx was not written: ONNX Runtime's answers differ by" in message
    assert not (tmp_path / "a.onnx").exists()
