"""What is no digit is called so: features, the rule, its checkpoint."""

import copy
import json
import random
import time

import fuzz
import matplotlib.pyplot as plt
import numpy as np
import pytest
import runs
import torch
from PIL import Image, ImageDraw
from scipy import ndimage

import checkpoint
import dataset
import drawn
import model as models
import novelty
import predict
import torchnn
import training
import utils


@pytest.fixture(scope="module")
def data():
    """The embedded digits: (training, validation)."""
    return [dataset.load_dataset(split, "digits", holdout="auto") for split in ("train", "validation")]


@pytest.fixture(scope="module")
def taught(data):
    """A small network that knows the embedded digits, and its rule."""
    utils.set_seed(0)
    model = models.TinyNet()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    loader = training.recipe_loader({"batch_size": 64, "augmentation": None}, "train", dataset="digits", holdout="auto")
    for _ in range(3):
        utils.train(model, "cpu", loader, optimizer, utils.get_loss())
    novelty.learn_digits(model, *data)
    return model.eval()


def generator():
    return torch.Generator().manual_seed(0)


# ------------------------------------------------------------------------------------------------
# Images to learn from
# ------------------------------------------------------------------------------------------------


def test_placed_images_lie_as_mnist_s_do(data):
    rolled = torch.roll(data[0].images[:50].float() / 255, (3, -2), (1, 2))
    for image in drawn.place(rolled).numpy():
        rows, columns = np.nonzero(image > 0.3)
        assert 18 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 22
        assert ndimage.center_of_mass(image) == pytest.approx((14, 14), abs=0.3)


@pytest.mark.parametrize("which", ["digits", "none"])
def test_what_is_made_is_an_image_and_repeats(data, which):
    def made():
        images, labels = data[0].images[:300], data[0].labels[:300]
        if which == "digits":
            return drawn.other_hands(images, labels, generator())
        return drawn.no_digits(images, labels, 240, generator())

    images = made()
    assert torch.equal(images, made())
    assert images.shape[1:] == (28, 28)
    assert 200 <= len(images) <= 300
    assert images.min() >= 0
    assert images.max() <= 1
    assert (images.amax(dim=(1, 2)) > 0.9).all()


def test_a_pen_leaves_what_lies_within_its_radius():
    points = torch.tensor([[[5.0, 9.0], [20.0, 9.0]]])
    line = drawn._pen(points, torch.tensor([1.5]))[0]
    y, x = np.mgrid[:28, :28]
    distance = np.minimum(np.hypot(x - 5, y - 9), np.hypot(x - 20, y - 9))
    np.testing.assert_allclose(line.numpy(), np.clip(2 - distance, 0, 1), atol=1e-5)


def test_only_one_and_seven_get_other_strokes(data):
    images, labels = data[0].images[:200].float() / 255, data[0].labels[:200]
    changed = (drawn.european(images, labels, generator(), 0.8, 0.5) != images).any(dim=(1, 2))
    assert set(labels[changed].tolist()) == {1, 7}
    assert 0.6 < changed[labels == 1].float().mean() < 1


def stroke(*points):
    """One image of a line between points (x, y), three pixels wide, 100 times."""
    image = Image.new("L", (28, 28))
    ImageDraw.Draw(image).line(points, fill=255, width=3)
    return torch.from_numpy(np.asarray(image, np.float32) / 255).expand(100, 28, 28)


def test_a_one_gets_a_flag_to_the_left_and_a_foot():
    one = stroke((14, 5), (14, 22))
    made = drawn.european(one, torch.ones(100, dtype=torch.long), generator(), 1, 1)
    added = (made - one).clamp_min(0) > 0.5
    upper, lower = added[:, :19], added[:, 20:]
    beside = upper[:, :, :12].any(2)  # rows with ink on the left
    assert beside.any(1).float().mean() > 0.9
    assert not upper[:, :, 18:].any()  # and nothing on the right
    # its first row is near the top, and where it goes further down it goes further to the left
    first = beside.int().argmax(1)[beside.any(1)]
    assert first.max() <= 12
    for image in upper[:, :, :13]:
        rows, columns = image.nonzero().T
        if len(rows) > 12:
            assert np.corrcoef(rows, columns)[0, 1] < -0.2
    feet = lower.any(2).any(1)
    assert 0.3 < feet.float().mean() < 0.6
    assert lower[feet][:, :, :12].any((1, 2)).all()
    assert lower[feet][:, :, 17:].any((1, 2)).all()


def test_a_seven_gets_a_bar_in_its_middle():
    seven = stroke((6, 6), (21, 6), (12, 23))
    made = drawn.european(seven, torch.full((100,), 7), generator(), 1, 1)
    added = (made - seven).clamp_min(0) > 0.5
    rows = added.any(2)
    assert rows.any(1).all()
    assert not rows[:, :9].any()
    assert not rows[:, 20:].any()
    columns = added.any(1)
    assert columns[:, :15].any(1).all()
    assert columns[:, 18:].any(1).float().mean() > 0.9


# ------------------------------------------------------------------------------------------------
# Features and the rule
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_features_of_every_architecture(name):
    model = models.ARCHITECTURES[name]()
    model.normalisation = (0.3, 0.7)
    modes = [module.training for module in model.modules()]
    images = torch.rand(300, 28, 28)
    found = novelty.features(model, images)
    assert found.shape[0] == 300
    assert found.shape[1] > 20
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    # the last ten are the scores before the log-softmax, and one image alone has the same features
    answers = model.eval()(((images - 0.3) / 0.7)[:, None])
    torch.testing.assert_close(found[:, -10:].log_softmax(1), answers, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(novelty.features(model, images[270:271])[0], found[270], atol=1e-4, rtol=1e-4)


def test_features_are_the_maps_means():
    model = models.Net().eval()
    image = torch.rand(1, 28, 28)
    with torch.no_grad():
        maps = model.conv1(((image - utils.MEAN) / utils.STD)[None]).relu()[0]  # (32, 26, 26)
    expected = [maps[:, rows, columns].mean((1, 2)) for rows in _thirds(26) for columns in _thirds(26)]
    found = novelty.features(model, image)[0, : 32 * 9].view(32, 9)
    torch.testing.assert_close(found, torch.stack(expected, dim=1), atol=1e-5, rtol=1e-5)


def _thirds(size):
    return [slice(i * size // 3, -(-(i + 1) * size // 3)) for i in range(3)]


def test_the_rule_is_a_small_network(taught, data):
    images = data[1].images[:20].float() / 255
    rule, inputs = taught.novelty, novelty.features(taught, images).numpy()
    hidden = np.maximum(inputs @ rule["weight"].numpy().T + rule["bias"].numpy(), 0)
    np.testing.assert_allclose(
        novelty.novelty_scores(taught, images), hidden @ rule["out"].numpy(), rtol=1e-3, atol=1e-3
    )


def test_the_classifier_takes_inputs_as_they_are():
    """Far from 0 and of a small scale; not linear, so that its units must bend where the inputs are."""
    inputs = 100 + 0.1 * torch.randn(4096, 3, generator=generator())
    none = (inputs[:, 0] - 100).abs() > 0.0674  # half of them
    rule = novelty._classifier(inputs, none.float(), generator())
    scores = (inputs @ rule["weight"].T + rule["bias"]).relu() @ rule["out"]
    found = scores > scores.median()
    assert (found == none).float().mean() > 0.9


def test_digits_are_digits_and_other_things_are_not(taught, data):
    digits = [image.float() / 255 for image in dataset.load_dataset("test", "digits").images[:100]]
    y, x = np.mgrid[:28, :28] - 14
    things = {
        "cross": (abs(x) < 2) | (abs(y) < 2),
        "frame": (np.maximum(abs(x), abs(y)) < 11) & (np.maximum(abs(x), abs(y)) > 8),
        "square": np.maximum(abs(x), abs(y)) < 10,
        "stripes": (x % 6 < 3) & (abs(y) < 10) & (abs(x) < 10),
        "noise": np.random.default_rng(0).random((28, 28)) * (np.hypot(x, y) < 11),
    }
    assert np.mean([novelty.is_digit(taught, digit) for digit in digits]) >= 0.95
    called = [name for name, thing in things.items() if not novelty.is_digit(taught, torch.tensor(thing).float())]
    assert len(called) >= 4, called


def test_the_threshold_lets_the_held_out_digits_through(taught, data):
    real = drawn.other_hands(data[1].images, data[1].labels, torch.Generator().manual_seed(7))
    through = novelty.novelty_scores(taught, real) <= taught.novelty["threshold"]
    assert through.float().mean() > 0.95
    assert not through.all() or novelty.SURE > 0.99


def test_learning_repeats_and_leaves_random_states(taught, data):
    model = copy.deepcopy(taught)
    before = torch.get_rng_state()
    novelty.learn_digits(model, *data)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.novelty["threshold"] == pytest.approx(taught.novelty["threshold"], rel=1e-3)
    assert all(not value.requires_grad for value in model.novelty.values() if isinstance(value, torch.Tensor))


def test_without_a_rule_all_are_digits():
    assert novelty.is_digit(models.TinyNet(), torch.zeros(28, 28))


# ------------------------------------------------------------------------------------------------
# The temperature
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0, 8.0])
def test_the_temperature_is_that_of_a_grid_search(sharpness):
    """Labels drawn from the scores' own probabilities; then the scores are made too sure, or too unsure."""
    scores = 2 * torch.randn(1000, 10, generator=generator())
    labels = scores.softmax(1).multinomial(1, generator=generator())[:, 0]
    scores = scores * sharpness
    grid = np.exp(np.linspace(0, np.log(10), 400))
    losses = [-(scores / t).log_softmax(1)[range(1000), labels].mean().item() for t in grid]
    found = novelty._fitted_temperature(scores, labels)
    assert found == pytest.approx(grid[np.argmin(losses)], rel=0.01)
    assert found == pytest.approx(max(sharpness, 1), rel=0.1)
    assert found >= 1


def test_the_learned_temperature_is_of_held_out_digits_as_other_hands_write_them(taught, data):
    real = drawn.other_hands(data[1].images, data[1].labels, torch.Generator().manual_seed(7))
    scores = novelty.features(taught, real)[:, -10:]
    loss = lambda t: torch.nn.functional.cross_entropy(scores / t, data[1].labels).item()  # noqa: E731
    temperature = taught.novelty["temperature"]
    assert 1 <= temperature < 10
    assert loss(temperature) < min(loss(10), loss(temperature * 1.5))
    assert loss(temperature) < loss(1) or temperature < 1.1


def test_predict_divides_by_the_temperature(taught, data):
    image = 1 - data[1].images[0].numpy() / np.float32(255)
    model = copy.deepcopy(taught)
    model.novelty["temperature"] = 2.5
    seen = predict.prepare(image)
    scores = novelty.features(model, seen[None])[0, -10:]
    expected = (scores / 2.5).exp() / (scores / 2.5).exp().sum()
    torch.testing.assert_close(predict.predict(model, image)[0], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(predict.predict_all(model, image)[0].probabilities, expected, atol=1e-5, rtol=1e-4)
    model.novelty = None
    torch.testing.assert_close(predict.predict(model, image)[0], scores.softmax(0), atol=1e-5, rtol=1e-4)


# ------------------------------------------------------------------------------------------------
# In a checkpoint
# ------------------------------------------------------------------------------------------------


def test_a_checkpoint_keeps_the_rule(taught, tmp_path):
    path, rule = tmp_path / "a.pt", taught.novelty
    plain = copy.deepcopy(taught)
    plain.novelty = None
    checkpoint.save_checkpoint(path, plain, epoch=3, settings={"note": "mine"})
    before = torch.load(path, weights_only=True)
    assert checkpoint.load_model(path).novelty is None
    checkpoint.keep_novelty(path, rule)
    found, after = checkpoint.load_model(path), torch.load(path, weights_only=True)
    assert found.novelty.keys() == rule.keys()
    assert all(torch.equal(found.novelty[key], rule[key]) for key in ("weight", "bias", "out"))
    assert found.novelty["threshold"] == rule["threshold"]
    assert found.novelty["temperature"] == rule["temperature"]
    assert before.keys() == after.keys()
    for key in before.keys() - {"weights", "random", "novelty"}:
        assert before[key] == after[key]
    assert all(torch.equal(before["weights"][key], after["weights"][key]) for key in before["weights"])
    assert torch.equal(before["random"]["torch"], after["random"]["torch"])
    image = torch.rand(1, 28, 28)
    torch.testing.assert_close(novelty.novelty_scores(found, image), novelty.novelty_scores(taught, image))


def test_a_checkpoint_from_before_has_no_rule(tmp_path):
    checkpoint.save_checkpoint(tmp_path / "a.pt", models.TinyNet())
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    del content["novelty"]
    torch.save(content, tmp_path / "a.pt")
    assert checkpoint.load_model(tmp_path / "a.pt").novelty is None


def test_hostile_rules_are_refused_at_once(taught, tmp_path):
    path, dice = tmp_path / "a.pt", random.Random(0)
    checkpoint.save_checkpoint(path, taught)
    content = torch.load(path, weights_only=True)
    rule = content["novelty"]
    changes = [{**rule, key: fuzz.hostile(dice)} for key in ("weight", "bias", "out") for _ in range(12)]
    changes += [{**rule, key: rule[key][:-1]} for key in ("weight", "bias", "out")]
    changes += [{**rule, "threshold": odd} for odd in (float("nan"), float("inf"), True, "0", None, torch.tensor(0.0))]
    odds = (float("nan"), float("inf"), True, "1", None, torch.tensor(1.0), 0, 0.0, -1.0, 1e-9, 1e300)
    changes += [{**rule, "temperature": odd} for odd in odds]
    changes += [{**rule, "weight": rule["weight"] / 0}, {**rule, "out": rule["out"].half()}]
    changes += [{key: value for key, value in rule.items() if key != "temperature"}]
    changes += [{**rule, "more": 1}, {key: rule[key] for key in ("weight", "bias", "out")}, {}, [], "rule", 3]
    changes += [dict.fromkeys(rule, torch.zeros(1).expand(10**9))]
    for odd in changes:
        torch.save({**content, "novelty": odd}, path)
        start = time.perf_counter()
        with pytest.raises(checkpoint.CheckpointError, match="is damaged: its 'novelty'") as caught:
            checkpoint.load_model(path)
        assert time.perf_counter() - start < 1
        assert "\n" not in str(caught.value)
    torch.save({**content, "architecture": "SmallNet", "weights": models.SmallNet().state_dict()}, path)
    with pytest.raises(checkpoint.CheckpointError, match="'novelty' does not fit SmallNet"):
        checkpoint.load_model(path)


# ------------------------------------------------------------------------------------------------
# From the command line
# ------------------------------------------------------------------------------------------------


def test_infer_says_so(taught, data, tmp_path, capsys):
    images = [tmp_path / f"{name}.png" for name in ("digit", "other")]
    digit = dataset.load_dataset("test", "digits").images[0].numpy()
    other = 255 * (np.indices((28, 28)).sum(0) % 8 < 4)
    for path, image in zip(images, (digit, other), strict=True):
        Image.fromarray(255 - image.astype(np.uint8)).resize((140, 140)).save(path)
    seen = [predict.prepare(path) for path in images]
    low, high = sorted(novelty.novelty_scores(taught, torch.stack(seen)).tolist())
    assert novelty.novelty_scores(taught, seen[0][None]).item() == pytest.approx(low, abs=1e-3)
    model = copy.deepcopy(taught)
    model.novelty["threshold"] = (low + high) / 2
    checkpoint.save_checkpoint(tmp_path / "a.pt", model)
    command = ["--infer", *map(str, images), "--checkpoint", str(tmp_path / "a.pt")]

    assert torchnn.main([*command, "--save-figure", str(tmp_path / "seen.png")]) == 0
    first, second, _ = capsys.readouterr().out.splitlines()
    nearest = int(predict.predict(model, images[1])[0].argmax())
    assert "%" in first
    assert "no digit" not in first
    assert second == f"{images[1]}: no digit (nearest: {nearest})"
    titles = [ax.get_title() for ax in plt.gcf().axes]
    assert f"no digit (nearest: {nearest})" in titles
    assert any(title.startswith("read as") for title in titles)

    assert torchnn.main([*command, "--json"]) == 0
    known, unknown = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (known.pop("no_digit"), unknown.pop("no_digit")) == (False, True)
    assert known.keys() == unknown.keys() == {"image", "digit", "probability", "top"}

    checkpoint.keep_novelty(tmp_path / "a.pt", None)
    assert torchnn.main(command) == 0
    assert "no digit" not in capsys.readouterr().out


def test_train_keeps_the_rule_with_the_best_model(tmp_path, capsys):
    train = ["--train", "--dataset", "digits", "--arch", "MLP", "--epochs", "1", "--folder", str(tmp_path)]
    assert torchnn.main(train) == 0
    best, last = (torch.load(tmp_path / name, weights_only=True) for name in (checkpoint.BEST, checkpoint.LAST))
    assert best["novelty"].keys() == {"weight", "bias", "out", "threshold", "temperature"}
    assert last["novelty"] is None
    for key in ("settings", "epoch", "history", "best_loss", "normalisation"):
        assert best[key] == last[key]


def test_training_on_forgets_the_rule(taught, tmp_path):
    runs.trained(tmp_path, 1, build=lambda: copy.deepcopy(taught))
    assert torch.load(tmp_path / checkpoint.BEST, weights_only=True)["novelty"] is None
