"""What the benchmark's recipes carry: the architecture's arguments, and the normalisation."""

import json
from pathlib import Path

import accuracy
import pytest

from training import RECIPES, recipe_loader, recipe_model

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mlp", 109_386),
        # weights and biases, and two numbers for each of the 256 + 128 normalised units
        ("mlp-all", 784 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10 + 2 * (256 + 128)),
        ("cnn", 421_642),
        ("cnn-nopad", 315_146),
        ("image-classifier", 56_394),
        ("s5", 593_200),
    ],
)
def test_networks_of_the_recipes(name, parameters):
    assert sum(p.numel() for p in recipe_model(RECIPES[name]).parameters()) == parameters


def test_normalisation_and_augmentation_of_the_recipes():
    for name, low in (("cnn", -1), ("s5", -0.1307 / 0.3081)):
        for split in ("train", "test"):
            images, _ = next(iter(recipe_loader(RECIPES[name], split, dataset="digits")))
            assert images.min().item() == pytest.approx(low)
    data = recipe_loader(RECIPES["cnn"], "train", dataset="digits").dataset
    assert (data[3][0] == data[3][0]).all()  # not augmented: the same twice
    data = recipe_loader(RECIPES["image-classifier"], "train", dataset="digits").dataset
    assert (data[3][0] != data[3][0]).any()


def test_recipes_without_a_scheduler_and_with_one_are_trained(monkeypatch):
    for name in ("mlp", "mlp-all"):
        monkeypatch.setitem(RECIPES, "tiny", {**RECIPES[name], "epochs": 1, "batch_size": 32})
        assert 0 < accuracy.run(RECIPES["tiny"], 1, dataset="digits")["accuracy"] <= 100


def test_session_4_trains_the_recipe_that_is_measured():
    text = (ROOT / "S4.ipynb").read_text(encoding="utf-8")
    source = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")
    recipe = RECIPES["image-classifier"]
    optimizer = recipe["optimizer"]
    for line in (
        f"(5_000, {recipe['epochs']})",
        f'{{"batch_size": {recipe["batch_size"]}, "shuffle": True}}',
        f'"{optimizer["optname"]}", {optimizer["learningrate"]}, weight_decay={optimizer["weight_decay"]}',
        f"pct_start={recipe['scheduler']['pct_start']}",
        f'RandomAffineEach(degrees={recipe["augmentation"][0].degrees}, mode="{recipe["augmentation"][0].mode}")',
    ):
        assert line in source
