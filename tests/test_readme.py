"""The README shows what the kept results and the committed notebook say."""

import json
import re
from pathlib import Path

import accuracy
import claims
import pytest
import speed

import pictures
from training import RECIPES

ROOT = Path(__file__).parents[1]

README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(name):
    return re.search(rf"<!-- {name}:.*?-->\n(.*?)\n<!-- end -->", README, re.DOTALL)[1]


def test_accuracy_table_is_that_of_the_kept_results():
    assert section("accuracy") == accuracy.table()
    assert accuracy.table().count("\n") >= 2


def test_speed_table_is_that_of_the_kept_run():
    assert section("speed") == speed.report(
        json.loads((ROOT / "benchmarks/results/speed.json").read_text(encoding="utf-8"))
    )


def test_claims_are_those_of_the_kept_runs_and_hold():
    assert section("claims") == claims.table()
    infer, kill, fuzz, report = (claims.kept(name) for name in ("infer", "kill", "fuzz", "report"))
    assert infer["photos"]["accuracy"] >= 97
    assert infer["photos"]["count"] == 500
    assert infer["start"]["ratio"] <= 1.3
    assert kill["same_weights"] == kill["kills"] >= 50
    assert [found["count"] for found in fuzz.values()] == [1000, 1000]
    assert not any(found["failures"] for found in fuzz.values())
    assert report["seconds"] <= 60
    assert report["images"] == 10_000


def test_kept_accuracies_are_of_their_runs():
    for path in accuracy.RESULTS.glob("accuracy-*.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        found = [run["accuracy"] for run in result["runs"]]
        mean = sum(found) / len(found)
        assert result["n"] == len(found) >= 3
        assert result["mean"] == pytest.approx(mean)
        assert result["sd"] == pytest.approx((sum((a - mean) ** 2 for a in found) / (len(found) - 1)) ** 0.5)
        assert [run["seed"] for run in result["runs"]] == list(range(1, len(found) + 1))
        assert mean >= {"s5": 99.25, "fast1": 99.30, "fast2": 99.45}.get(result["recipe"], 0)


def test_test_changes_no_reported_accuracy_by_more_than_005_points():
    test = json.loads((ROOT / "benchmarks/results/speed.json").read_text(encoding="utf-8"))["test"]
    assert abs(test["accuracy"] - test["accuracy_fp32"]) <= 0.05


def test_pictures_are_those_of_the_notebook():
    for name, content in pictures.pictures().items():
        assert (ROOT / "pictures" / name).read_bytes() == content
        assert f"pictures/{name}" in README


def test_files_named_in_the_layout_exist():
    table = README.split("## Layout")[1].split("```")[0]
    names = re.findall(r"`([^` ]+\.[a-z]+|[a-z]+/)`", table)
    assert len(names) >= 5
    assert all((ROOT / name).exists() for name in names)


def test_a_recipe_is_trained_and_summed_up(monkeypatch, capsys):
    """The benchmark itself, on the embedded digits, with two seeds."""
    monkeypatch.setitem(RECIPES, "tiny", {**RECIPES["fast1"], "batch_size": 32})
    result = accuracy.measure("tiny", 2, dataset="digits")
    first, second = result["runs"]
    assert first["loss"] != second["loss"]
    assert min(first["accuracy"], second["accuracy"]) > 60
    assert accuracy.measure("tiny", 1, dataset="digits")["runs"][0]["loss"] == first["loss"]
    assert result["mean"] == pytest.approx((first["accuracy"] + second["accuracy"]) / 2)
    assert f"tiny: {result['mean']:.2f} ± {result['sd']:.2f} %, n = 2" in capsys.readouterr().out
    assert accuracy.main(["--table"]) == 0
    with pytest.raises(SystemExit) as stop:
        accuracy.main(["--recipe", "s5", "--seeds", "0"])
    assert stop.value.code == 2


def test_the_notebook_trains_the_recipes_that_are_measured():
    """S5's hyperparameters are those of the benchmark's recipes."""
    source = "\n".join(
        "".join(cell["source"])
        for cell in json.loads((ROOT / "S5.ipynb").read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    )
    s5, fast = RECIPES["s5"], RECIPES["fast1"]
    for line in (
        f"batch_size = {s5['batch_size']}\n",
        f"learning_rate = {s5['optimizer']['learningrate']}\n",
        f"momentum = {s5['optimizer']['momentumval']}\n",
        f"step_size = {s5['scheduler']['stepsize']}\n",
        f"gamma = {s5['scheduler']['gamma_val']}\n",
        f"else {s5['epochs']}\n",
        f'{{"batch_size": {fast["batch_size"]}, "shuffle": True}}',
        f'"AdamW", {fast["optimizer"]["learningrate"]}, weight_decay={fast["optimizer"]["weight_decay"]}',
        f"pct_start={fast['scheduler']['pct_start']}",
        f"RandomAffineEach(degrees={fast['augmentation'][0].degrees}, zoom={fast['augmentation'][0].zoom},"
        f' shift={fast["augmentation"][0].shift}, mode="{fast["augmentation"][0].mode}")',
    ):
        assert line in source
