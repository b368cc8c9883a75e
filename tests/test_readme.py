"""Both READMEs show what the kept results and the committed notebooks say, and what they tell you to run works.

The benchmarks' own arithmetic is checked with made-up results, whose tables are known by hand.
"""

import json
import re
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace

import accuracy
import claims
import cost
import infer
import pytest
import speed
import torch
import tries
from PIL import Image
from torch import nn

import dataset
import model as models
import pictures
import torchnn
import utils
from training import RECIPES

ROOT = Path(__file__).parents[1]
TEXTS = {file: (ROOT / file).read_text(encoding="utf-8") for file in claims.SECTIONS}
README, MEASUREMENTS = TEXTS.values()
CPU = torch.device("cpu")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def flowing(text):
    """The text without line breaks."""
    return " ".join(text.split())


def write(folder, **results):
    for name, result in results.items():
        (folder / f"{name.replace('_', '-')}.json").write_text(json.dumps(result), encoding="utf-8")


# The tables in the READMEs ----------------------------------------------------------------------


@pytest.mark.parametrize(("file", "name"), [(file, name) for file in claims.SECTIONS for name in claims.SECTIONS[file]])
def test_tables_are_those_of_the_kept_results(file, name):
    (found,) = claims.section(name).finditer(TEXTS[file])
    assert found[2] == claims.SECTIONS[file][name](found[2])
    assert found[2].count("\n") >= 3


def test_every_marked_table_is_made():
    for file, text in TEXTS.items():
        assert re.findall(r"<!-- (\w+):", text) == list(claims.SECTIONS[file])


def test_write_changes_the_tables_and_nothing_else(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    for file, text in TEXTS.items():
        changed = re.sub(r"(<!-- (?!sessions)\w+:.*?-->\n).*?(<!-- end -->)", r"\1\2", text, flags=re.DOTALL)
        changed = re.sub(r"(^\| \[`S\d.*\|).*\|.*\|$", r"\1 9 min | 9 min |", changed, flags=re.MULTILINE)
        assert changed != text
        (tmp_path / file).write_text(changed, encoding="utf-8")
    claims.write(tmp_path)
    assert {file: (tmp_path / file).read_text(encoding="utf-8") for file in TEXTS} == TEXTS


def test_numbers_in_the_text_are_those_of_the_code():
    readme, measurements = flowing(README), flowing(MEASUREMENTS)
    assert f"{sum(p.numel() for p in models.Net().parameters()):,} parameters" in readme
    train, test = (len(dataset.load_dataset(split, "digits")) for split in ("train", "test"))
    assert f"{train + test:,} digits" in readme
    assert f"{train:,} for training and {test} for the test" in readme
    assert f"sends nothing for {dataset.STALL_LIMIT} seconds" in readme
    assert f"{dataset.HOLDOUT:,} held-out training images" in readme
    assert f"{dataset.HOLDOUT:,} images held out" in measurements
    assert f"{speed.HALF} of the {-(-60_000 // speed.BATCH)} batches" in measurements
    assert RECIPES["torchnn"]["epochs"] == 20
    assert "# twenty epochs of SmallNet" in README
    assert RECIPES["s5"]["epochs"] == 20


# What the READMEs point to ----------------------------------------------------------------------


def test_layout_names_every_file_of_the_root():
    try:
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git can't say which files belong to the course")
    tops = {top + ("/" if rest else "") for top, _, rest in (path.partition("/") for path in listing.split("\0"))}
    expected = {top for top in tops if top and not top.startswith(".") and (ROOT / top).exists()}
    table = README.split("## Layout")[1].split("\n## ")[0]
    named = [name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(.*?)`", row)]
    first, last = (int(name[1]) for name in named[:2])
    named[:2] = [f"S{number}.ipynb" for number in range(first, last + 1)]
    assert sorted(named) == sorted(expected)


@pytest.mark.parametrize("file", TEXTS)
def test_links_lead_somewhere(file):
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", TEXTS[file]) if "://" not in link]
    assert len(links) >= 3
    for link in links:
        path, _, anchor = link.partition("#")
        target = (ROOT / file).parent / path if path else ROOT / file
        assert target.exists()
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


def test_both_commands_do_the_whole_set_up():
    for last in ("papermill --log-output S5.ipynb S5.run.ipynb", "python -m pytest"):
        line = f"python3 -m venv .venv && .venv/bin/pip install -r requirements.txt && .venv/bin/{last}\n"
        assert line in blocks(README, "bash")
    packages = re.findall(r"^[\w-]+", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"papermill", "pytest", "nbval", "jupyter"} <= set(packages)


@pytest.mark.parametrize("file", TEXTS)
def test_commands_name_scripts_and_options_that_exist(file):
    lines = [line for block in blocks(TEXTS[file], "bash") for line in block.splitlines()]
    found = 0
    for line in lines:
        for command in re.split(" && ", line):
            words = shlex.split(command, comments=True)
            scripts = [number for number, word in enumerate(words) if word.endswith(".py")]
            for number in scripts:
                script, arguments = ROOT / words[number], words[number + 1 :]
                options = [word for word in arguments if word.startswith("--")]
                source = script.read_text(encoding="utf-8")
                assert all(f'"{option}"' in source for option in options)
                if script.name == "torchnn.py":
                    torchnn.parser().parse_args(arguments)
                found += 1
    assert found >= 5


def test_own_code_runs(monkeypatch, tmp_path, capsys):
    """On the embedded digits: there is no MNIST in the folder, and none to be downloaded."""

    def offline(name, root, wanted):
        raise dataset.DataMissing("There is no network.")

    monkeypatch.setattr(dataset, "download", offline)
    monkeypatch.setenv("MNIST_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    names = {}
    (code,) = blocks(README, "python")
    with pytest.warns(dataset.DigitsInstead):
        exec(compile(code, "README.md", "exec"), names)
    loss, accuracy_ = eval(capsys.readouterr().out.splitlines()[-1])
    assert loss > 0
    assert 20 < accuracy_ <= 100
    assert names["test_loader"].dataset.name == "scikit-learn digits"
    assert (tmp_path / "confusion.png").stat().st_size > 1000


def test_pictures_are_those_of_the_notebooks():
    for name, content in pictures.pictures().items():
        assert (ROOT / "pictures" / name).read_bytes() == content
        assert f"pictures/{name}" in README + MEASUREMENTS


def test_minutes_are_the_sum_of_the_cells():
    def cell(start, end):
        times = {"iopub.execute_input": start, "shell.execute_reply": end}
        return {"metadata": {"execution": {name: f"2026-01-01T{time}Z" for name, time in times.items()}}}

    cells = [{"metadata": {}}, cell("10:00:00.0", "10:01:30.0"), cell("23:00:00.5", "23:00:31.0")]
    assert pictures.minutes({"cells": cells}) == pytest.approx(2 + 0.5 / 60)
    assert pictures.minutes({"cells": cells[:1]}) is None


def test_clock_times_are_taken_out_and_nothing_else(monkeypatch, tmp_path):
    monkeypatch.setattr(pictures, "ROOT", tmp_path)
    cell = {"cell_type": "code", "metadata": {"tags": ["setup"]}, "source": ["x = '×'"], "outputs": []}
    timed = {**cell, "metadata": {"execution": {"shell.execute_reply": "2026-01-01T10:00:00Z"}, "tags": ["setup"]}}
    (tmp_path / "S1.ipynb").write_text(json.dumps({"cells": [timed], "nbformat": 4}), encoding="utf-8")
    pictures.strip()
    assert json.loads((tmp_path / "S1.ipynb").read_text(encoding="utf-8")) == {"cells": [cell], "nbformat": 4}


def test_sessions_name_their_durations(monkeypatch, tmp_path):
    monkeypatch.setattr(claims, "SECTIONS", {})
    monkeypatch.setattr(claims, "TWO_CORES", ("S2",))
    monkeypatch.setattr(speed, "durations", lambda minutes, results: {"S1": (12.6, None), "S2": (2.4, 7.7)})
    before = {"S1": "**Time:** 99 minutes.", "S2": "**Time:** 1 minute;\nmore"}
    after = {
        "S1": "**Time:** 13 minutes on one CPU core with bfloat16 arithmetic; seconds with `SMOKE=1`.",
        "S2": "**Time:** 2 minutes on two CPU cores with bfloat16 arithmetic, about 8 without; seconds with"
        " `SMOKE=1`.\nmore",
    }
    for name, text in before.items():
        (tmp_path / f"{name}.ipynb").write_text(json.dumps({"source": [f"a\n{text}"]}), encoding="utf-8")
    claims.write(tmp_path)
    for name, text in after.items():
        notebook = json.loads((tmp_path / f"{name}.ipynb").read_text(encoding="utf-8"))
        assert notebook == {"source": [f"a\n{text}"]}


def test_durations_stay_where_none_are_noted(monkeypatch, tmp_path):
    monkeypatch.setattr(pictures, "ROOT", tmp_path)
    monkeypatch.setattr(pictures, "SESSIONS", tmp_path / "sessions.json")
    monkeypatch.setattr(pictures, "minutes", lambda notebook: notebook["cells"])
    write(tmp_path, sessions={"S1": 3.5, "S2": 4})
    for name, time in (("S1", None), ("S2", 7.123)):
        (tmp_path / f"{name}.ipynb").write_text(json.dumps({"cells": time}), encoding="utf-8")
    assert pictures.durations() == {"S1": 3.5, "S2": 7.12}


# Accuracy ---------------------------------------------------------------------------------------


def kept_accuracy(recipe, **changes):
    result = {
        "recipe": recipe, "arch": "Net", "parameters": 593200, "epochs": 20, "n": 3, "mean": 99.276, "sd": 0.0173,
        "seconds": 1234.5, "device": "cpu (1 threads): bf16 autocast and so on",
    }  # fmt: skip
    return result | changes


def test_accuracy_table_of_made_up_results(monkeypatch, tmp_path):
    monkeypatch.setattr(accuracy, "RESULTS", tmp_path)
    other = {"arch": "MLP", "parameters": 1000, "epochs": 2, "n": 1, "mean": 90, "sd": None, "seconds": 2.4}
    where = "cpu (16 threads): fp32 and channels_last"
    write(tmp_path, accuracy_s5=kept_accuracy("s5"), accuracy_mlp=kept_accuracy("mlp", **other, device=where))
    rows = [
        "| recipe | network | parameters | epochs | test accuracy (%), mean ± sd | seeds | training, median | on |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| `mlp` | MLP | 1,000 | 2 | 90.00 | 1 | 2 s | cpu (16 threads), fp32 |",
        "| `s5` | Net | 593,200 | 20 | 99.28 ± 0.02 | 3 | 1,234 s | cpu (1 thread), bf16 |",
    ]
    assert accuracy.table().splitlines() == rows  # in the order of RECIPES
    assert accuracy.table(["s5", "mlp"]).splitlines() == [*rows[:2], rows[3], rows[2]]
    assert accuracy.table(["s5"], short=True).splitlines() == [
        "| recipe | network | parameters | epochs | test accuracy (%), mean ± sd | seeds |",
        "| --- | --- | --- | --- | --- | --- |",
        "| `s5` | Net | 593,200 | 20 | 99.28 ± 0.02 | 3 |",
    ]


def test_mean_and_deviation_of_made_up_runs(monkeypatch, capsys):
    def run(name, seed, **options):
        accuracy_, seconds = {1: (98.0, 5.0), 2: (99.0, 30.0), 3: (100.0, 6.0)}[seed]
        return {"seed": seed, "loss": 0.1, "accuracy": accuracy_, "seconds": seconds}

    monkeypatch.setattr(accuracy, "run", run)
    result = accuracy.measure("fast2", 3)
    assert (result["mean"], result["sd"], result["seconds"], result["n"]) == (99.0, 1.0, 6.0, 3)
    assert (result["arch"], result["parameters"], result["epochs"]) == ("Net", 593_200, 2)
    assert accuracy.spread(result) == "99.00 ± 1.00"
    assert "fast2: 99.00 ± 1.00 %, n = 3, 6.0 s" in capsys.readouterr().out
    assert accuracy.spread(accuracy.measure("fast2", 1)) == "98.00"


def test_only_whole_measurements_on_the_test_set_are_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(accuracy, "RESULTS", tmp_path)
    monkeypatch.setattr(accuracy, "measure", lambda name, seeds, **options: {"recipe": name, "n": seeds})
    assert accuracy.main(["--recipe", "s5", "--seeds", "2"]) == 0
    assert accuracy.main(["--recipe", "s5", "--seeds", "3", "--validation"]) == 0
    assert not list(tmp_path.iterdir())
    assert accuracy.main(["--recipe", "s5"]) == 0
    assert json.loads((tmp_path / "accuracy-s5.json").read_text(encoding="utf-8")) == {"recipe": "s5", "n": 3}


def test_another_rate_is_tried_on_validation_images_only(monkeypatch, capsys):
    monkeypatch.setitem(RECIPES, "tiny", {**RECIPES["fast1"], "arch": "MLP"})
    tried = []
    monkeypatch.setattr(accuracy, "measure", lambda name, seeds, **options: tried.append((RECIPES[name], options)))
    assert accuracy.main(["--recipe", "tiny", "--seeds", "1", "--validation", "--rate", "0.02"]) == 0
    ((recipe, options),) = tried
    assert options == {"validation": True}
    assert recipe["optimizer"] == {"optname": "AdamW", "learningrate": 0.02, "weight_decay": 0.05}
    assert RECIPES["fast1"]["optimizer"]["learningrate"] == 0.003
    with pytest.raises(SystemExit) as stop:
        accuracy.main(["--recipe", "tiny", "--rate", "0.02"])
    assert stop.value.code == 2
    assert "add --validation" in capsys.readouterr().err


def test_a_recipe_is_trained_and_summed_up(monkeypatch, capsys):
    """The benchmark itself, on the embedded digits, with two seeds."""
    monkeypatch.setitem(RECIPES, "tiny", {**RECIPES["fast1"], "arch": "MLP", "batch_size": 32})
    result = accuracy.measure("tiny", 2, dataset="digits")
    first, second = result["runs"]
    assert first["loss"] != second["loss"]
    assert min(first["accuracy"], second["accuracy"]) > 60
    assert accuracy.measure("tiny", 1, dataset="digits")["runs"][0]["loss"] == first["loss"]
    assert result["mean"] == pytest.approx((first["accuracy"] + second["accuracy"]) / 2)
    assert f"tiny: {result['mean']:.2f} ± {result['sd']:.2f} %, n = 2" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        accuracy.main(["--recipe", "s5", "--seeds", "0"])
    assert stop.value.code == 2


TARGETS = {"s5": 99.25, "fast1": 99.30, "fast2": 99.45}


def test_data_kept_accuracies_are_of_their_runs_and_reach_their_targets():
    """A check of the committed files, not of the code: nobody has edited one by hand, or kept a worse result."""
    for path in accuracy.RESULTS.glob("accuracy-*.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        found = [run["accuracy"] for run in result["runs"]]
        mean = sum(found) / len(found)
        assert result["n"] == len(found) >= 3
        assert result["mean"] == pytest.approx(mean)
        assert result["sd"] == pytest.approx((sum((a - mean) ** 2 for a in found) / (len(found) - 1)) ** 0.5)
        assert [run["seed"] for run in result["runs"]] == list(range(1, len(found) + 1))
        assert mean >= TARGETS.get(result["recipe"], 0)


def test_what_the_small_networks_missed_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(accuracy, "RESULTS", tmp_path)
    monkeypatch.setattr(claims, "SMALL", {"a": ("`A`", 99.5), "b": ("`B`, quickly", 99.0), "c": ("`C`", 98)})
    for recipe, mean in (("a", 99.499), ("b", 99.0)):
        write(tmp_path, **{f"accuracy-{recipe}": {"mean": mean, "sd": 0.125, "n": 5}})
    with pytest.raises(FileNotFoundError, match=r"accuracy-c.json is missing: .*accuracy.py --recipe c --seeds 5`"):
        claims.small()
    write(tmp_path, **{"accuracy-c": {"mean": 98.5, "sd": 0.5, "n": 3}})
    assert claims.small().splitlines()[2:] == [
        "| `A` | ≥ 99.50 | 99.50 ± 0.12 | 5 | missed |",
        "| `B`, quickly | ≥ 99.00 | 99.00 ± 0.12 | 5 | reached |",
        "| `C` | ≥ 98.00 | 98.50 ± 0.50 | 3 | reached |",
    ]


# What was tried ---------------------------------------------------------------------------------


def test_words_make_the_network_that_they_describe():
    """With TinyNet's and MicroNet's weights in order it gives the same."""
    for theirs, words in (
        (models.TinyNet(), "12 16 pool 32s 32s 32s 32s"),
        (models.MicroNet(), "6 10s pool 12s 12s 12s"),
    ):
        ours = tries.Tried(words)
        values = theirs.state_dict().values()
        ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)))
        images = torch.randn(2, 1, 28, 28)
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))
    mixed = tries.Tried("4 8p pool 6")
    assert sum(p.numel() for p in mixed.parameters()) == 36 + 8 + 32 + 16 + 9 * 48 + 12 + 70
    for name in ("small", "small4", "tiny", "tiny1"):  # what was tried is what was taken, then with more epochs
        words = ("arch", "arguments") if name.endswith(("4", "1")) else ("arch", "arguments", "epochs")
        tried = {key: value for key, value in tries.TRIES[name].items() if key not in words}
        assert tried == {key: value for key, value in RECIPES[name].items() if key not in words}


def test_a_try_is_measured_on_validation_images_and_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tries, "KEPT", tmp_path / "tries.json")
    monkeypatch.setitem(tries.TRIES, "tiny", tries.recipe("4 pool 6", epochs=1, batch_size=64))
    run, seen = accuracy.run, []

    def on_digits(recipe, seed, **options):
        seen.append(options)
        return run(recipe, seed, dataset="digits", **options)

    monkeypatch.setattr(accuracy, "run", on_digits)
    assert tries.main(["tiny", "--seeds", "2"]) == 0
    assert [options["validation"] for options in seen] == [True, True]
    kept = tries.read()["tiny"]
    assert (kept["parameters"], kept["epochs"], kept["n"]) == (36 + 8 + 9 * 24 + 12 + 70, 1, 2)
    accuracies = ", ".join(f"{run['accuracy']:.2f}" for run in kept["runs"])
    capsys.readouterr()
    assert tries.main([]) == 0
    assert f"| `tiny` | 4 pool 6 | 342 | 1 | {accuracies} | " in capsys.readouterr().out
    for arguments in (["nothing"], ["tiny", "--seeds", "0"]):
        with pytest.raises(SystemExit) as stop:
            tries.main(arguments)
        assert stop.value.code == 2


def test_data_kept_tries_are_those_that_are_named():
    """A check of the committed file, not of the code."""
    kept = tries.read()
    assert kept.keys() == tries.TRIES.keys()
    for name, found in kept.items():
        network = tries.Tried(tries.TRIES[name]["arguments"]["words"])
        assert found["parameters"] == sum(p.numel() for p in network.parameters())
        assert found["epochs"] == tries.TRIES[name]["epochs"]
        assert [run["seed"] for run in found["runs"]] == list(range(1, found["n"] + 1))


# Speed ------------------------------------------------------------------------------------------


def kept_speed(precision, factor=1, **changes):
    """A made-up run; `factor`: how many times as long its epochs take."""
    epochs = {"a": 30, "b": 25, "b, freed memory handed back": 40, "c": 90}
    epochs |= {"fast1": 36, "fast2": 60, "small4": 15, "torchnn": 50, "mlp": 10}
    result = {
        "device": "cpu (2 threads): bf16 autocast and so on",
        "precision": precision,
        "cpu": {"model": "Abacus", "capability": "AVX512", "native_bf16": True, "limited": ""},
        "epochs": {name: factor * seconds for name, seconds in epochs.items()},
        "test": {
            "images_per_second": 8000, "documents_images_per_second": 2000, "accuracy": 99.33, "accuracy_fp32": 99.35,
        },
        "imports": {"utils": 3.3, "libraries": 3.0},
        "growth": [{"images": 6_000, "us_per_image": 10.04, "data_mb": 5, "peak_mb": 1005}],
    }  # fmt: skip
    return result | changes


def test_speed_table_of_made_up_results(monkeypatch):
    limited = {"model": "", "capability": "AVX2", "native_bf16": True, "limited": "limited to AVX2 by a variable"}
    plain = kept_speed("fp32", 7, cpu=limited)
    growth = "images: loading one; peak memory above the imports, with the data and without"
    assert speed.report([kept_speed("bf16"), plain]).splitlines() == [
        "| measure | with bf16 | without bf16 | target |",
        "| --- | --- | --- | --- |",
        "| measured on | cpu (2 threads), bf16, Abacus, AVX512 |"
        " cpu (2 threads), fp32, AVX2, limited to AVX2 by a variable |  |",
        "| (a) one epoch of S5, this project's way | 30.0 s | 210.0 s |  |",
        "| (b) the same steps bare: the floor | 25.0 s | 175.0 s |  |",
        "| (c) one epoch, the documents' way | 90.0 s | 630.0 s |  |",
        "| (a) / (b): loading, augmenting, bookkeeping | 1.200 | 1.200 | ≤ 1.08 |",
        "| (c) / (a): against the documents' way | 3.00 | 3.00 | with bf16 ≥ 3.0 |",
        "| `fast1`, 1 epoch / the documents' 20 epochs | 36.0 s = 1/50 | 252.0 s = 1/50 | with bf16 ≤ 1/55 |",
        "| `fast2`, 2 epochs / the documents' 20 epochs | 60.0 s = 1/30 | 420.0 s = 1/30 | with bf16 ≤ 1/30 |",
        "| `small4`, SmallNet's 4 epochs / Net's `fast2`: both pass 99.4 % |"
        " 15.0 s = 1/4.0 | 105.0 s = 1/4.0 | in fp32 ≤ 1/3 |",
        "| `torchnn`, 20 epochs | 50.0 s | 350.0 s |  |",
        "| `mlp`, 15 epochs | 10.0 s | 70.0 s |  |",
        "| `cnn`, 10 epochs | – | – |  |",
        "| `image-classifier`, 10 epochs | – | – |  |",
        "| (b) with freed memory handed back to the system | 40.0 s | 280.0 s |  |",
        "| 10,000 test images through `test` | 8,000 a second | 8,000 a second |  |",
        "| the same / the documents' way | 4.00 | 4.00 | with bf16 ≥ 3 |",
        "| test accuracy as `test` computes it − in fp32 | -0.02 points | -0.02 points | within ±0.05 |",
        "| `import utils` / importing torch, torchvision, matplotlib |"
        " 3.30 s / 3.00 s = 1.10 | 3.30 s / 3.00 s = 1.10 | ≤ 1.1 |",
        f"| 6,000 {growth} | 10.0 µs; 1,005 MB, 1,000 MB | 10.0 µs; 1,005 MB, 1,000 MB | flat |",
        f"| 60,000 {growth} | – | – | ≤ 1,500 MB |",
        f"| 600,000 {growth} | – | – | flat |",
    ]
    alone = speed.report([plain]).splitlines()
    assert alone[0] == "| measure | without bf16 | target |"
    assert "| (c) / (a): against the documents' way | 3.00 |  |" in alone  # no target without bf16
    assert "| (a) / (b): loading, augmenting, bookkeeping | 1.200 | ≤ 1.08 |" in alone


def test_essentials_of_made_up_results():
    gpu = kept_speed("bf16", 0.1, device="cuda (Abacus 2): bf16 autocast")
    assert speed.essentials([kept_speed("bf16"), kept_speed("fp32", 7), gpu]).splitlines() == [
        "|  | with bf16 | without bf16 | cuda (Abacus 2) |",
        "| --- | --- | --- | --- |",
        "| measured on | cpu (2 threads), bf16, Abacus, AVX512 | cpu (2 threads), fp32, Abacus, AVX512 |"
        " cuda (Abacus 2), bf16, Abacus, AVX512 |",
        "| one epoch of S5's `Net` | 30 s | 4 min | 3 s |",
        "| S5's twenty epochs | 10 min | 70 min | 60 s |",
        "| the same as usually written: PIL, two workers, fp32 | 30 min | 210 min | 3 min |",
        "| `torchnn.py --train`, twenty epochs of `SmallNet` | 50 s | 6 min | 5 s |",
    ]


def test_durations_without_bf16_go_by_the_ratio_of_the_training(monkeypatch, tmp_path):
    minutes = {"S1": 12.0, "S2": 2.0, "S5": 11.0}
    results = [kept_speed("bf16"), kept_speed("fp32", 7)]
    found = speed.durations(minutes, results)
    unknown = dict.fromkeys(("S3", "S4", "S6"), (None, None))
    assert found == {"S1": (12, 84), "S2": (2, None), "S5": (11, 77), **unknown}
    assert speed.durations(minutes, results[:1])["S5"] == (11, None)
    monkeypatch.setattr(accuracy, "RESULTS", tmp_path)
    write(tmp_path, sessions=minutes, speed_bf16=results[0], speed_fp32=results[1])
    assert (
        claims.sessions("| [`S5`](S5.ipynb) | a | b | – | 1 min |") == "| [`S5`](S5.ipynb) | a | b | 11 min | 77 min |"
    )
    assert claims.sessions("| [`S2`](S2.ipynb) | a | 1 min | 2 min |") == "| [`S2`](S2.ipynb) | a | 2 min | – |"


def test_kind_of_cpu(monkeypatch):
    for name in speed.LIMITS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": "Abacus", "avx2": True})
    found = speed.cpu()
    assert (found["model"], found["native_bf16"], found["limited"]) == ("Abacus", False, "")
    assert found["capability"] == torch.backends.cpu.get_cpu_capability()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx2")
    assert speed.cpu()["native_bf16"]
    assert speed.cpu()["limited"] == "limited to AVX2 by ONEDNN_MAX_CPU_ISA"


def test_one_run_is_kept_for_each_kind(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(accuracy, "RESULTS", tmp_path)
    assert speed.kept_path(CPU, "fp32").name == "speed-fp32.json"
    assert speed.kept_path(torch.device("cuda"), "bf16").name == "speed-cuda-bf16.json"
    write(tmp_path, speed_fp32=kept_speed("fp32"), speed_bf16=kept_speed("bf16"))
    assert [result["precision"] for result in speed.kept()] == ["bf16", "fp32"]
    assert speed.main(["--table"]) == 0
    assert capsys.readouterr().out == speed.report(speed.kept()) + "\n"
    assert speed.main(["--table", "--json", str(tmp_path / "speed-fp32.json")]) == 0
    assert capsys.readouterr().out.startswith("| measure | without bf16 | target |")
    with pytest.raises(SystemExit) as stop:
        speed.main(["--batches", "0"])
    assert stop.value.code == 2


def digits(split, batch_size=64):
    transform = utils.get_test_transforms()
    return utils.get_MNISTdataset_with_loader(split, {"batch_size": batch_size}, dataset="digits", transform=transform)


def test_the_three_ways_do_the_same_steps():
    """In fp32 on the same batches, the documents' loop and the bare steps end with the weights that `train` gives."""
    loader = digits("train")
    trained = {}
    for name in ("ours", "documents", "bare"):
        utils.set_seed(0)
        model = models.create_model()
        optimizer = utils.get_optimizer(model, learningrate=0.05)
        if name == "ours":
            utils.train(model, CPU, loader, optimizer, utils.get_loss(), precision="fp32")
        elif name == "documents":
            speed.documents_train(model, CPU, loader, optimizer)
        else:
            for batch in loader:
                speed.bare_steps(model, CPU, batch, optimizer, 1, "fp32")
        trained[name] = model
    ours, *others = ([p.detach() for p in model.parameters()] for model in trained.values())
    for other in others:
        torch.testing.assert_close(other, ours)
    test_loader = digits("test", 100)
    exact = utils.test(trained["ours"], CPU, test_loader, utils.get_loss(), precision="fp32")[1]
    assert speed.documents_test(trained["documents"], CPU, test_loader) == pytest.approx(exact)
    assert exact > 50


def test_documents_loader_prepares_images_as_this_project_does(monkeypatch):
    image = Image.fromarray(dataset.load_dataset("test", "digits").images[0].numpy())

    class Stub(torch.utils.data.Dataset):
        def __init__(self, root, train, transform):
            self.train, self.transform = train, transform

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return self.transform(image), 0

    monkeypatch.setattr(speed.torchvision.datasets, "MNIST", Stub)
    loader = speed.documents_loader(train=False)
    assert (loader.num_workers, loader.batch_size, loader.dataset.train) == (2, 512, False)
    torch.testing.assert_close(torch.as_tensor(loader.dataset[0][0]), utils.get_test_transforms()(image))
    loader = speed.documents_loader(train=True, batch_size=7)
    assert (loader.batch_size, loader.dataset.train) == (7, True)
    assert not torch.equal(loader.dataset[0][0], loader.dataset[0][0])  # augmented, image by image
    assert loader.dataset[0][0].shape == (1, 28, 28)


@pytest.fixture
def clock(monkeypatch):
    """The benchmark's clock, which only goes on where a test says so."""
    found = SimpleNamespace(now=0.0)
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: found.now))

    def takes(module, name, seconds):
        function = getattr(module, name)

        def slow(*arguments, **keywords):
            found.now += seconds
            return function(*arguments, **keywords)

        monkeypatch.setattr(module, name, slow)

    found.takes = takes
    return found


def test_epochs_in_miniature(monkeypatch, clock):
    """One batch of 64 of the 1,437 embedded digits stands for an epoch of 23."""
    precisions, autocast = set(), utils.autocast
    monkeypatch.setattr(utils, "autocast", lambda device, p=None: precisions.add(p) or autocast(device, p))
    monkeypatch.setattr(speed, "BATCH", 64)
    monkeypatch.setattr(speed, "documents_loader", lambda train: digits("train" if train else "test"))
    clock.takes(utils, "train", 1)
    clock.takes(speed, "bare_steps", 0.5)
    clock.takes(speed, "documents_train", 4)
    times, model = speed.measure_epochs(CPU, 2, 1, data="digits", precision="fp32")
    expected = {
        "a": 23, "b": 11.5, "b, freed memory handed back": 11.5, "c": 92, "fast1": 23,
        "fast2": 24,  # two epochs of 12 batches of 128
        "small4": 48, "torchnn": 240,
        "mlp": 15 * 23, "cnn": 10 * 23, "image-classifier": 10 * 12,
    }  # fmt: skip
    assert times == {name: [pytest.approx(seconds)] * 2 for name, seconds in expected.items()}
    assert precisions == {"fp32"}
    assert isinstance(model, models.Net)


class Rounded(nn.Module):
    """Knows the test labels, and takes a tenth of them wrong unless it computes in bf16."""

    def __init__(self):
        super().__init__()
        self.labels = dataset.load_dataset("test", "digits").labels

    def forward(self, x):
        answers = self.labels[: len(x)].clone()
        if not torch.is_autocast_enabled("cpu"):
            answers[:36] = (answers[:36] + 1) % 10
        return torch.log_softmax(10.0 * nn.functional.one_hot(answers, 10).float(), dim=1)


def test_testing_in_miniature(monkeypatch, clock):
    monkeypatch.setattr(speed, "documents_loader", lambda train: digits("train" if train else "test", 500))
    clock.takes(utils, "test", 1)
    clock.takes(speed, "documents_test", 4)
    assert speed.measure_test(CPU, Rounded(), 3, data="digits", precision="bf16") == {
        "images_per_second": 360, "documents_images_per_second": 90, "accuracy": 100, "accuracy_fp32": 90,
    }  # fmt: skip


def test_bf16_changes_no_accuracy_by_much():
    """A network that learned in a few steps answers the embedded digits in bf16 as in fp32, all but one or two."""
    utils.set_seed(0)
    model, loader = models.create_model(), digits("train", 32)
    utils.train(model, CPU, loader, utils.get_optimizer(model, "Adam", 0.003), utils.get_loss(), precision="fp32")
    test_loader, criterion = digits("test", 100), utils.get_loss()
    found = [utils.test(model, CPU, test_loader, criterion, precision=p)[1] for p in ("bf16", "fp32")]
    assert min(found) > 80
    assert abs(found[0] - found[1]) <= 100 * 2 / 360


def test_data_kept_speeds_are_of_their_kinds():
    """A check of the committed files, not of the code."""
    for result in speed.kept():
        assert abs(result["test"]["accuracy"] - result["test"]["accuracy_fp32"]) <= 0.05
        assert result["epochs"].keys() <= result["epochs_each"].keys()
        for name, times in result["epochs_each"].items():
            assert min(times) <= result["epochs"][name] <= max(times)
    assert (accuracy.RESULTS / "speed-bf16.json").exists()
    assert claims.kept("sessions").keys() == speed.SESSIONS.keys()
    by_precision = {result["precision"]: result["epochs"]["a"] for result in speed.kept()}
    if "fp32" in by_precision:  # "several times as long", says the README
        assert by_precision["fp32"] > 2 * by_precision["bf16"]


# Cost -------------------------------------------------------------------------------------------


def test_cost_table_of_made_up_results(monkeypatch, tmp_path, capsys):
    times = {"step_ms": {"fp32": [9, 1.25, 3], "bf16": [2, 2, 2]}, "images_per_second": {"fp32": [1, 8000.4, 9000]}}
    net = {"parameters": 593200, "multiply_adds": 37263988, "bytes": 7145400}
    result = kept_speed("fp32 and bf16", repeats=3, networks={"Net": net | times, "Other": net | times})
    row = "593,200 | 37,263,988 | 3.0 | 2.0 | 8,000 | – | 7,145 |"
    assert cost.table(result).splitlines() == [
        "| network | parameters | multiply-adds an image | step fp32 (ms) | step bf16 (ms) |"
        " test images a second, fp32 | test images a second, bf16 | file (kB) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        f"| `Net` | {row}",
        f"| `Other` | {row}",
        "",
        "On cpu (2 threads), fp32 and bf16, Abacus, AVX512; medians of 3.",
    ]
    monkeypatch.setattr(accuracy, "RESULTS", tmp_path)
    with pytest.raises(SystemExit) as stop:
        cost.main(["--table"])
    assert stop.value.code == 2
    assert "cost.json is missing: make it by `python benchmarks/cost.py`" in capsys.readouterr().err
    write(tmp_path, cost=result)
    assert cost.main(["--table"]) == 0
    assert capsys.readouterr().out == cost.table(result) + "\n"
    with pytest.raises(SystemExit) as stop:
        cost.main(["--repeats", "0"])
    assert stop.value.code == 2


def test_costs_in_miniature(monkeypatch, tmp_path, clock, capsys):
    """Two networks, in both precisions, by a clock that says what each call takes; a short look is not kept."""
    order, train = [], utils.train

    def noted(model, device, batches, *arguments, precision):
        order.append((model.architecture, precision, [len(images) for images, _ in batches]))
        return train(model, device, batches, *arguments, precision="fp32")

    monkeypatch.setattr(utils, "train", noted)
    monkeypatch.setattr(utils, "get_device", lambda: CPU)
    monkeypatch.setattr(utils, "get_precision", lambda device: "bf16")
    monkeypatch.setattr(cost, "ARCHITECTURES", {"MLP": models.create_model, "CNN": models.CNN})
    monkeypatch.setattr(cost, "IMAGES", 1000)
    monkeypatch.setattr(cost, "time", speed.time)
    monkeypatch.setattr(accuracy, "RESULTS", tmp_path)
    clock.takes(utils, "train", 0.3)
    clock.takes(utils, "test", 0.5)
    ways = [(name, precision) for name in ("MLP", "CNN") for precision in ("fp32", "bf16")]
    assert cost.main(["--repeats", "2", "--batches", "3"]) == 0
    assert not list(tmp_path.iterdir())
    assert order == [(*way, [128] * 2) for way in ways] + 2 * [(*way, [128] * 3) for way in ways]
    shown = capsys.readouterr().out
    assert cost.main(["--repeats", "2", "--batches", "3", "--json", str(tmp_path / "short.json")]) == 0
    result = json.loads((tmp_path / "short.json").read_text(encoding="utf-8"))
    assert shown == cost.table(result) + "\n"
    assert result["precision"] == "fp32 and bf16"
    assert list(result["networks"]) == ["MLP", "CNN"]
    for name, found in result["networks"].items():
        assert found["step_ms"] == {precision: pytest.approx([100, 100]) for precision in ("fp32", "bf16")}
        assert found["images_per_second"] == {precision: pytest.approx([2000] * 2) for precision in ("fp32", "bf16")}
        parameters = sum(p.numel() for p in models.ARCHITECTURES[name]().parameters())
        assert found["parameters"] == parameters
        assert 12 * parameters < found["bytes"] < 12 * parameters + 60_000  # fp32, AdamW's two moments; the rest


def test_costs_are_compared_with_torchs_counter(monkeypatch, capsys):
    assert cost.counted(models.Net()) == {"parameters": 593_200, "multiply_adds": 37_263_988}
    rows = [{"parameters": 593_200, "multiply_adds": 37_263_987}]
    monkeypatch.setattr(cost, "layer_costs", lambda model: (None, {"layers": rows}))
    with pytest.raises(ValueError, match=r"Net: layer_costs counts 37,263,987 multiply-adds, .* 37,263,988"):
        cost.counted(models.Net())


def test_data_kept_costs_are_of_todays_networks():
    """A check of the committed file, not of the code."""
    result = claims.kept("cost")
    assert result["networks"].keys() == models.ARCHITECTURES.keys()
    for name, found in result["networks"].items():
        assert cost.counted(models.ARCHITECTURES[name]()).items() <= found.items()
        for times in (found["step_ms"], found["images_per_second"]):
            assert {len(each) for each in times.values()} == {result["repeats"]}


# What holds besides -----------------------------------------------------------------------------


def claimed():
    return {
        "infer": {
            "photos": {"count": 500, "accuracy": 99.8, "milliseconds": 28.4},
            "start": {"infer": 1.5, "imports": 3.0, "ratio": 0.5},
            "device": "cpu (2 threads): fp32 and so on",
        },
        "kill": {"kills": 50, "temporary": 6, "same_weights": 49},
        "race": {"starts": 20, "one_trained": 20, "named": 18, "same_weights": 19},
        "fuzz": {
            "checkpoints": {"count": 1000, "used": 82, "refused": 918, "slowest": 0.17, "failures": []},
            "images": {"count": 1000, "used": 400, "refused": 599, "slowest": 0.001, "failures": ["one", "two"]},
        },
        "report": {"images": 10000, "seconds": 39.4},
    }


def test_claims_of_made_up_results(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(accuracy, "RESULTS", tmp_path)
    write(tmp_path, **claimed())
    assert claims.table().splitlines() == [
        "| what | measured | by |",
        "| --- | --- | --- |",
        "| 500 photographs made of test digits, classified correctly by the default network |"
        " 99.8 %, 28 ms each (cpu (2 threads), fp32) | `benchmarks/infer.py` |",
        "| `--infer` with one image from a cold start / importing torch and torchvision |"
        " 1.50 s / 3.00 s = 0.50 (cpu (2 threads), fp32) | `benchmarks/infer.py` |",
        "| 50 runs killed at random moments, 6 of them in the middle of a write, resumed to the weights of an"
        " uninterrupted run | 49 of 50 | `benchmarks/kill.py` |",
        "| 20 pairs of runs started in one folder at the same moment: one is refused in one line that names the other,"
        " which ends with the weights of a run alone | 18 of 20 | `benchmarks/race.py` |",
        "| 1,000 damaged checkpoints, refused in one line or used, each within 0.17 s | 1,000 of 1,000 |"
        " `benchmarks/fuzz.py` |",
        "| 1,000 damaged images, refused in one line or used, each within 0.01 s | 997 of 1,000 |"
        " `benchmarks/fuzz.py` |",
        "| the report's page with all its figures, from 10,000 test images | 39 s | `benchmarks/time_report.py` |",
    ]
    assert claims.main([]) == 0
    assert capsys.readouterr().out == claims.table() + "\n"
    (tmp_path / "race.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"race.json is missing: make it by `python benchmarks/race.py --starts"
    ):
        claims.table()
    with pytest.raises(SystemExit) as stop:
        claims.main([])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("race.json is missing")


def test_data_claims_hold():
    """A check of the committed files, not of the code: `kill.py`, `race.py` and `fuzz.py` check that when they run."""
    infer_, kill, race, fuzz, report = (claims.kept(name) for name in ("infer", "kill", "race", "fuzz", "report"))
    assert infer_["photos"]["accuracy"] >= 99.8
    assert infer_["large"]["reading"] <= 3 * infer_["large"]["decoding"]
    hand, pages = claims.kept("handwriting"), claims.kept("pages")
    assert hand["own"][0] >= 0.988 * hand["own"][1] > 600
    assert sum(count for _, count in hand["own_sources"]) == hand["own"][1]
    assert hand["sure"][0] >= 0.998 * hand["sure"][1]
    assert hand["own_refused"] <= 0.01 * hand["own"][1]
    assert pages["pages"]["kinds"]["all"]["read"] >= 0.98 * pages["pages"]["kinds"]["all"]["digits"]
    assert infer_["photos"]["count"] == infer.PHOTOS == 500
    assert infer_["start"]["ratio"] <= 1.3
    assert kill["same_weights"] == kill["kills"] >= 50
    assert race["same_weights"] == race["named"] == race["one_trained"] == race["starts"] >= 20
    assert [found["count"] for found in fuzz.values()] == [1000, 1000]
    assert not any(found["failures"] for found in fuzz.values())
    assert report["seconds"] <= 60
    assert report["images"] == 10_000


def test_handwriting_of_made_up_results(monkeypatch, tmp_path):
    monkeypatch.setattr(accuracy, "RESULTS", tmp_path)
    hand = {
        "own_said": 97,
        "all_said": 105,
        "own": [99, 100],
        "sure": [50, 50],
        "own_refused": 1,
        "all_refused": 3,
        "all": 120,
    }
    hand |= {"own_sources": [[2, 3], [9, 10], [88, 87]], "categories": {"classical 16x16": [10, 20]}}
    page = {"pages": 5, "digits": 200, "found": 199, "read": 190, "false": 7}
    pages = {"pages": {"kinds": {"all": page}}, "touching": {"kinds": {"all": {**page, "read": 150}}}}
    pages["pairs"] = {"count": 40, "noticed": 38}
    none = {"refused": 5, "no digit": 35, "answered": 10, "count": 50}
    others = {
        "non-digits": {"letters": {**none, "no digit": 20}, "shapes": none, "empty paper": {**none, "refused": 15}}
    }
    infer_ = {"photos": {"count": 500, "accuracy": 99.8}, "large": {"reading": 1, "reading all": 4, "decoding": 2}}
    write(tmp_path, handwriting=hand, pages=pages, nondigits=others, infer=infer_)
    assert [row.split(" | ")[-2:] for row in claims.handwriting().splitlines()[2:]] == [
        ["99.0 % (99 of 100)", "≥ 98.8 % |"],
        ["97.0 % (97 of 100)", " |"],
        ["87.5 % (105 of 120)", " |"],
        ["90.0 % (9 of 10)", "≥ 93 % |"],
        ["50.0 % (10 of 20)", "≥ 85 % |"],
        ["100.0 % (50 of 50)", "≥ 99.8 % |"],
        ["1.0 % (1 of 100)", "≤ 1 % |"],
        ["2.5 % (3 of 120)", " |"],
        ["99.8 % (499 of 500)", "≥ 99.8 % |"],
        ["76.7 % (115 of 150)", " |"],
        ["2 of 3", "all |"],
        ["95.0 % (190 of 200)", "≥ 98 % |"],
        ["7", " |"],
        ["75.0 % (150 of 200)", " |"],
        ["95.0 % (38 of 40)", " |"],
        ["0.50", "≤ 3 |"],
        ["2.00", "≤ 3 |"],
    ]
    assert "at least 80 % are; the others: letters 50 % |" in claims.handwriting()


def test_photographs_of_digits_are_classified():
    """The benchmark itself, with five photographs of the embedded digits and networks of known answers."""
    data = dataset.load_dataset("test", "digits")

    class Always(nn.Linear):  # for predict takes the device from the parameters
        def forward(self, x):
            return torch.log_softmax(10.0 * nn.functional.one_hot(torch.full((len(x),), 3), 10), dim=1)

    found = infer.photos(Always(1, 1), data, 5)
    rows = torch.as_tensor(found["wrong"])
    assert not (data.labels[rows] == 3).any()
    assert found["accuracy"] == pytest.approx(100 * (5 - len(rows)) / 5)
    assert found["milliseconds"] > 0


# The notebooks ----------------------------------------------------------------------------------


def test_the_capstone_trains_the_recipes_that_are_measured():
    """S5's hyperparameters are those of the recipe `s5`; `fast1` it takes by its name."""
    cells = json.loads((ROOT / "S5.ipynb").read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    s5 = RECIPES["s5"]
    for line in (
        f"batch_size = {s5['batch_size']}\n",
        f"learning_rate = {s5['optimizer']['learningrate']}\n",
        f"momentum = {s5['optimizer']['momentumval']}\n",
        f"step_size = {s5['scheduler']['stepsize']}\n",
        f"gamma = {s5['scheduler']['gamma_val']}\n",
        f"else {s5['epochs']}\n",
        'RECIPES["fast1"]',
    ):
        assert line in source
