"""The command line, as a user types it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import checkpoint
import dataset
import model as models
import torchnn
import utils

ROOT = Path(__file__).parents[1]
SCRIPT = str(ROOT / "torchnn.py")
TINY = ("--dataset", "digits", "--batch-size", "64", "--arch", "CNN")


def run(*arguments, capsys):
    code = torchnn.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def command(*arguments, **options):
    line = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=120, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of two epochs, and images of three test digits."""
    folder = tmp_path_factory.mktemp("run")
    assert torchnn.main(["--train", *TINY, "--epochs", "4", "--folder", str(folder)]) == 0
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


def test_train_prints_an_epoch_a_line_and_a_report(tmp_path, capsys):
    code, out, _ = run("--train", *TINY, "--epochs", 2, "--folder", tmp_path / "new" / "run", capsys=capsys)
    assert code == 0
    lines = out.splitlines()
    assert [line.startswith(f"Epoch  {n}: training loss") for n, line in enumerate(lines[2:4], 1)] == [True, True]
    assert f"kept as {tmp_path / 'new' / 'run' / 'best_model.pt'}" in lines[4]
    model = checkpoint.load_model(tmp_path / "new" / "run" / "best_model.pt")
    loader = utils.get_MNISTdataset_with_loader("test", {"batch_size": 500}, dataset="digits")
    loss, accuracy = utils.test(model, "cpu", loader, utils.get_loss())
    assert f"loss {loss:.4f}, accuracy {accuracy:.2f} %" in lines[5]
    assert lines[6].startswith("0: ")


@pytest.mark.parametrize("scheduler", ["OneCycleLR", "StepLR", "CosineAnnealingLR", "ReduceLROnPlateau", "none"])
def test_resume_gives_the_weights_of_one_go(scheduler, tmp_path, capsys, monkeypatch):
    options = ("--train", *TINY, "--arch", "MLP", "--scheduler", scheduler, "--epochs", 3)
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
    assert "go on with --resume" in err
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
    options = ("--train", *TINY, "--arch", "MLP", "--epochs", 3)
    flags = ("--optimizer", "SGD", "--lr", 0.125, "--scheduler", "none", "--seed", 5)
    runs = {"plain": (), "again": (), "seed": ("--seed", 2), "flags": flags}
    for name, more in runs.items():
        assert run(*options, *more, "--folder", tmp_path / name, capsys=capsys)[0] == 0
    plain, again, seed, flags = (checkpoint.load_checkpoint(tmp_path / name / "last.pt") for name in runs)
    assert plain["history"]["train_loss"] == again["history"]["train_loss"] != seed["history"]["train_loss"]
    assert (plain["optimizer"]["name"], plain["scheduler"]["name"]) == ("AdamW", "OneCycleLR")
    assert (flags["optimizer"]["name"], flags["scheduler"]) == ("SGD", None)
    assert flags["history"]["rate"] == [0.125] * 3


def test_patience_stops_early_and_is_kept(tmp_path, capsys, monkeypatch):
    test, losses = utils.test, iter([0.5, 0.6, 0.7])
    monkeypatch.setattr(utils, "test", lambda *a, **k: (next(losses), 90.0) if len(a) == 4 and k else test(*a, **k))
    options = ("--train", *TINY, "--arch", "MLP", "--epochs", 9, "--patience", 2, "--folder", tmp_path)
    code, out, _ = run(*options, capsys=capsys)
    assert code == 0
    assert "Stopped early" in out
    assert checkpoint.load_checkpoint(tmp_path / "last.pt")["epoch"] == 3
    assert checkpoint.load_checkpoint(tmp_path / "last.pt")["settings"]["patience"] == 2


def test_resume_refuses_other_settings_and_other_data(folder, capsys):
    resume = ("--train", "--resume", "--folder", folder, "--epochs", 4)
    code, _, err = run(*resume, "--dataset", "digits", "--batch-size", 32, capsys=capsys)
    assert code == 2
    assert "has --batch-size 64, not 32: leave --batch-size out to go on, or leave out --resume" in err
    code, _, err = run("--train", "--resume", "--folder", folder, "--epochs", 6, "--dataset", "digits", capsys=capsys)
    assert code == 2
    assert "has --epochs 4, not 6: leave --epochs out to go on, or leave out --resume" in err
    code, out, _ = run(*resume, "--dataset", "digits", capsys=capsys)  # complete already: the report again
    assert code == 0
    assert "Epoch" not in out
    assert "the run is complete after 4 epochs" in out
    other = folder / "other"
    settings = {**torchnn.SETTINGS, "arch": "MLP", "lr": 0.1, "data": "MNIST"}
    odd = {"arch": "Nat", "lr": "fast", "seed": "one", "batch_size": 0, "epochs": True, "scheduler": [], "patience": 0}
    for name, value in odd.items():
        checkpoint.save_checkpoint(other / "last.pt", models.create_model(), settings={**settings, name: value})
        code, _, err = run("--train", "--resume", "--folder", other, capsys=capsys)
        assert (code, err.count("\n")) == (2, 1)
        assert "lacks the settings that torchnn.py keeps" in err
    checkpoint.save_checkpoint(other / "last.pt", models.create_model(), settings=settings)
    code, _, err = run("--train", "--resume", "--folder", other, "--dataset", "digits", capsys=capsys)
    assert code == 2
    assert "was trained on MNIST, and this is scikit-learn digits: give the same" in err


def test_a_state_beyond_all_numbers_is_refused(tmp_path, capsys):
    options = ("--train", *TINY, "--arch", "MLP", "--folder", tmp_path)
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
    code, out, _ = run(
        "--train", *TINY, "--arch", "MLP", "--epochs", 1, "--resume", "--folder", tmp_path, capsys=capsys
    )
    assert code == 0
    assert "starting with the first epoch" in out


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_exits_with_130_and_leaves_a_checkpoint(tmp_path):
    line = [sys.executable, "-u", SCRIPT, "--train", *TINY, "--epochs", "500", "--folder", str(tmp_path)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    for text in process.stdout:
        if text.startswith("Epoch"):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert checkpoint.load_checkpoint(tmp_path / "last.pt")["epoch"] >= 1


# ------------------------------------------------------------------------------------------------
# --infer
# ------------------------------------------------------------------------------------------------


def test_infer_from_another_folder(folder, best):
    """Relative names are of the folder that one is in."""
    done = command("--infer", "0.png", "1.png", "--checkpoint", best.name, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first.startswith("0.png: ")
    assert first.count("%") == second.count("%") == 3


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


def test_infer_goes_on_after_an_image_that_is_none(folder, best, capsys):
    (folder / "text.png").write_text("text")
    names = (folder / "text.png", folder / "0.png", folder / "none.png", folder)
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
    for form in ("png", "svg", "pdf"):
        file = tmp_path / f"seen.{form}"
        code, out, _ = run("--infer", *names, "--checkpoint", best, "--save-figure", file, capsys=capsys)
        assert (code, out.splitlines()[-1]) == (0, f"Figure: {file}")
        assert file.stat().st_size > 5000
    with Image.open(tmp_path / "seen.png") as picture:
        assert picture.height > picture.width * 0.8  # three rows
        assert np.asarray(picture.convert("L")).std() > 20
    code, _, err = run("--infer", names[0], "--checkpoint", best, "--save-figure", tmp_path / "a.xyz", capsys=capsys)
    assert code == 2
    assert "not .xyz" in err
    assert not (tmp_path / "a.xyz").exists()


def test_outputs_never_replace_inputs(folder, best, capsys):
    before = (folder / "0.png").read_bytes(), best.read_bytes()
    image = folder / "0.png"
    for arguments in (
        ("--infer", image, "--checkpoint", best, "--save-figure", folder / "." / "0.png"),
        ("--export", best, "--checkpoint", best),
        ("--export", best, "--folder", folder),
    ):
        code, _, err = run(*arguments, capsys=capsys)
        assert code == 2
        assert "is an input, and would be lost" in err
    assert (image.read_bytes(), best.read_bytes()) == before


def test_odd_names_in_the_figure(folder, best, tmp_path, capsys):
    for name in ("a$x^$.png", "数字.png", "a name with spaces\nand a line.png"):
        (tmp_path / name).write_bytes((folder / "0.png").read_bytes())
        figure = tmp_path / "figure.png"
        code, _, err = run("--infer", tmp_path / name, "--checkpoint", best, "--save-figure", figure, capsys=capsys)
        assert (code, err) == (0, "")


@pytest.mark.parametrize("arguments", [{"output_size": 5}, {"input_size": 100}])
def test_networks_for_other_tasks_are_refused(arguments, folder, tmp_path, capsys):
    checkpoint.save_checkpoint(tmp_path / "best_model.pt", models.create_model(**arguments))
    for what in (("--infer", folder / "0.png"), ("--evaluate", "--dataset", "digits"), ("--export", tmp_path / "a")):
        code, _, err = run(*what, "--folder", tmp_path, capsys=capsys)
        assert code == 2
        assert "does not read images of 28×28 into ten digits" in err


def test_infer_imports_no_more_than_it_needs(folder, best):
    """A cold start must not wait for plots, data sets or torchvision."""
    code = (
        "import sys, torchnn\n"
        f"assert torchnn.main(['--infer', {str(folder / '0.png')!r}, '--checkpoint', {str(best)!r}]) == 0\n"
        "print(sorted({'matplotlib', 'torchvision', 'sklearn', 'utils', 'onnx', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# ------------------------------------------------------------------------------------------------
# --evaluate, --export
# ------------------------------------------------------------------------------------------------


def test_evaluate_counts_each_digit(best, capsys):
    code, out, _ = run("--evaluate", "--checkpoint", best, "--dataset", "digits", "--json", capsys=capsys)
    assert code == 0
    found = json.loads(out)
    model, data = checkpoint.load_model(best), dataset.load_dataset("test", "digits")
    with torch.inference_mode():
        outputs = model(utils.get_test_transforms()(data.images.unsqueeze(1)))
    right = outputs.argmax(dim=1) == data.labels
    assert found["accuracy"] == pytest.approx(100 * right.float().mean().item(), abs=0.3)  # bf16, perhaps
    for digit in range(10):
        expected = 100 * right[data.labels == digit].float().mean().item()
        assert found["digits"][digit] == pytest.approx(expected, abs=3)
    code, out, _ = run("--evaluate", "--checkpoint", best, "--dataset", "digits", capsys=capsys)
    assert code == 0
    assert f"accuracy {found['accuracy']:.2f} %" in out
    assert f"9: {found['digits'][9]:.1f} %" in out


def test_evaluate_normalises_as_the_model_was_trained(best, tmp_path, capsys):
    model = checkpoint.load_model(best)
    accuracies = []
    for normalisation in (model.normalisation, (0.9, 0.05)):
        model.normalisation = normalisation
        checkpoint.save_checkpoint(tmp_path / "a.pt", model)
        command = ("--evaluate", "--checkpoint", tmp_path / "a.pt", "--dataset", "digits", "--json")
        accuracies.append(json.loads(run(*command, capsys=capsys)[1])["accuracy"])
    mean, std = model.normalisation
    transform = utils.get_test_transforms(mean=mean, std=std)
    loader = utils.get_MNISTdataset_with_loader("test", {"batch_size": 500}, dataset="digits", transform=transform)
    assert accuracies[1] == utils.test(model, "cpu", loader, utils.get_loss())[1] != accuracies[0]


def test_evaluate_writes_a_report(best, tmp_path, capsys, monkeypatch):
    from insights import report

    monkeypatch.setattr(report, "EMBEDDED", 50)  # images, for the test's time
    monkeypatch.setattr(report, "DISTORTED", 20)
    options = ("--checkpoint", best, "--dataset", "digits", "--report", tmp_path / "report")
    code, out, err = run("--evaluate", *options, capsys=capsys)
    assert (code, out, err) == (0, f"Report: {tmp_path / 'report' / 'index.html'}\n", "")
    assert "CNN on scikit-learn digits" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert len(list((tmp_path / "report").glob("*.png"))) == 10


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
        (("--infer", "a.png", "--report", "folder"), "--report goes with --evaluate"),
        (("--train", "--epochs", "0"), "invalid whole number from 1 value: '0'"),
        (("--train", "--epochs", "many"), "invalid whole number from 1 value: 'many'"),
        (("--train", "--lr", "-1"), "invalid number above 0 value: '-1'"),
        (("--train", "--lr", "nan"), "invalid number above 0 value: 'nan'"),
        (("--train", "--arch", "Transformer"), "choose from Net, CNN, ImageClassifier, MLP"),
        (("--infer",), "expected at least one argument"),
        (("--infer", "a.png", "--checkpoint", "nowhere.pt"), "There is no checkpoint nowhere.pt: train one"),
        (("--evaluate", "--checkpoint", SCRIPT), "is not a checkpoint"),
        (("--export", "a.onnx", "--checkpoint", str(ROOT)), "is a folder"),
        (("--train", "--dataset", "mnist", "--data", "/nowhere/at all"), "MNIST is not complete in"),
        (("--train", "--dataset", "digits", "--arch", "MLP", "--epochs", "1", "--folder", SCRIPT), "Could not write"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(dataset, "download", refuse_to_download)
    try:
        code = torchnn.main(list(arguments))
    except SystemExit as stop:
        code = stop.code
    err = capsys.readouterr().err
    assert code == 2
    assert message in err.replace("'", "") or message in err
    assert len(err.splitlines()) == 1


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
    code, _, err = run("--evaluate", "--device", "cuda", "--checkpoint", best, capsys=capsys)
    assert code == 2
    assert "There is no CUDA device here" in err


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        torchnn.main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "python torchnn.py --infer seven.jpg" in out
    for line in torchnn.__doc__.splitlines():
        if "python torchnn.py" in line:  # every example is a line that the parser takes
            words = line.split("python torchnn.py")[1].split("  ")[0].split()
            torchnn.parser().parse_args(words)
