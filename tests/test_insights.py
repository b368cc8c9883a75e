"""The numbers of the figures, against scikit-learn, Captum, loops and cases worked out by hand."""

import copy
import math
import random
import re
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import classification_report
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

import dataset
import insights
import utils
from insights import inside
from model import ARCHITECTURES, CNN, ImageClassifier, Net, create_model

CPU = torch.device("cpu")
CONVOLUTIONAL = {
    **{name: ARCHITECTURES[name] for name in ("SmallNet", "TinyNet", "MicroNet")},
    "Net": Net,
    "CNN": CNN,
    "CNN without padding": lambda: CNN(padding=0),
    "classifier": ImageClassifier,
}


def small():
    """A convolutional stand-in, quick to train, with what the course's networks lack: strides, one module twice."""
    pool = nn.MaxPool2d(2)
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.BatchNorm2d(8), nn.ReLU(inplace=True), pool),
        *(nn.Conv2d(8, 16, 3, padding="same", dilation=2), nn.ReLU(), pool),
        *(nn.AvgPool2d(2, stride=1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, 10), nn.LogSoftmax(dim=1)),
    )


def averaged(padding=1):
    """Convolution, ReLU, mean of each map, linear layer: the network of which CAM is known exactly."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=padding), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        *(nn.Linear(6, 10), nn.LogSoftmax(dim=1)),
    )


@pytest.fixture(scope="module")
def trained():
    """The stand-in after two epochs on the embedded digits: right most of the time, and not always."""
    utils.set_seed(0)
    model = small()
    loader = utils.get_MNISTdataset_with_loader("train", {"batch_size": 32, "shuffle": True}, dataset="digits")
    optimizer = utils.get_optimizer(model, "Adam", 0.005)
    for _ in range(2):
        utils.train(model, CPU, loader, optimizer, utils.get_loss(), precision="fp32")
    return model


@pytest.fixture(scope="module")
def answers(trained):
    loader = utils.get_MNISTdataset_with_loader("test", {"batch_size": 100}, dataset="digits")
    return insights.predictions(trained, loader, precision="fp32")


def made_up(log_probabilities, labels):
    count = len(labels)
    images = torch.zeros(count, 1, 28, 28)
    return insights.Predictions(images, torch.tensor(labels), log_probabilities, None, [str(c) for c in range(10)])


def certain(predicted, probability=0.91):
    """Log-probabilities with `probability` for the predicted class, the rest shared by the others."""
    rest = torch.full((len(predicted), 10), (1 - probability) / 9)
    return rest.scatter(1, torch.tensor(predicted)[:, None], probability).log()


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


# The model's answers ----------------------------------------------------------------------------


def test_predictions_are_what_test_measures_and_leave_the_model_as_it_was(trained, digits):
    model = copy.deepcopy(trained).train()
    before, strides = state(model), model[4].weight.stride()
    answers = insights.predictions(model, digits[1], precision="fp32")
    assert model.training
    assert model[4].weight.stride() == strides
    assert not model[10]._forward_pre_hooks
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    loss, accuracy = utils.test(model, CPU, digits[1], utils.get_loss(), precision="fp32")
    assert F.nll_loss(answers.log_probabilities, answers.labels).item() == pytest.approx(loss, rel=1e-5)
    assert 100 * answers.right.float().mean().item() == pytest.approx(accuracy)
    assert 60 < accuracy < 100  # or the tests below would not see a mistake
    torch.testing.assert_close(F.log_softmax(model[10](answers.features), dim=1), answers.log_probabilities)
    assert torch.equal(answers.labels, digits[1].dataset.labels)
    half = answers[::2]
    assert len(half) == 180
    assert torch.equal(half.predicted, answers.predicted[::2])


def test_a_data_set_may_stand_in_for_its_loader(trained, answers):
    data = dataset.load_dataset("test", "digits", transform=utils.get_test_transforms())
    again = insights.predictions(trained, data, precision="fp32")
    torch.testing.assert_close(again.log_probabilities, answers.log_probabilities, atol=1e-5, rtol=1e-4)
    data.classes = list("abcdefghij")
    assert insights.predictions(trained, data).classes == data.classes
    one_batch = [next(iter(dataset.make_loader(data, {})))]  # of no data set that names its classes
    assert insights.predictions(trained, one_batch).classes == [str(digit) for digit in range(10)]


def test_no_data_is_said_so(trained, answers, digits):
    empty = DataLoader(TensorDataset(torch.zeros(0, 1, 28, 28), torch.zeros(0, dtype=torch.long)))
    optimizer = utils.get_optimizer(trained)
    for call in (
        lambda: insights.predictions(trained, empty),
        lambda: insights.robustness({"one": trained}, empty),
        lambda: insights.rate_range(trained, optimizer, empty, utils.get_loss()),
        lambda: insights.confusion(answers[:0]),
        lambda: insights.gallery(answers[:0]),
        lambda: insights.calibration(answers[:0]),
        lambda: insights.calibration(answers, answers[:0]),
        lambda: insights.embedding(answers[:0]),
        lambda: insights.explanations(trained, answers.images[:0]),
    ):
        with pytest.raises(ValueError, match=r"no image|at least"):
            call()


# Mistakes ---------------------------------------------------------------------------------------


def test_confusion_is_that_of_a_loop_and_of_scikit_learn(answers):
    _, numbers = insights.confusion(answers, pairs=90)
    counts = [[0] * 10 for _ in range(10)]
    for true, predicted in zip(answers.labels.tolist(), answers.predicted.tolist(), strict=True):
        counts[true][predicted] += 1
    assert numbers["matrix"].tolist() == counts
    for digit in range(10):
        right, read = counts[digit][digit], sum(row[digit] for row in counts)
        precision, recall = right / max(1, read), right / sum(counts[digit])
        assert numbers["precision"][digit] == pytest.approx(precision)
        assert numbers["recall"][digit] == pytest.approx(recall)
        assert numbers["f1"][digit] == pytest.approx(2 * precision * recall / (precision + recall))
    report = classification_report(answers.labels, answers.predicted, output_dict=True)
    assert numbers["f1"].mean() == pytest.approx(report["macro avg"]["f1-score"])
    wrong = {(t, p): counts[t][p] for t in range(10) for p in range(10) if t != p and counts[t][p]}
    assert {(t, p): count for t, p, count in numbers["pairs"]} == wrong
    assert [count for *_, count in numbers["pairs"]] == sorted(wrong.values(), reverse=True)


def test_confusion_of_a_class_never_predicted_and_of_no_mistake():
    figure, numbers = insights.confusion(made_up(certain([1, 1, 2, 2]), [1, 1, 2, 3]))
    assert numbers["pairs"] == [(3, 2, 1)]
    assert numbers["recall"][[1, 2, 3]].tolist() == [1, 1, 0]
    assert numbers["precision"][[1, 2, 3]].tolist() == [1, 0.5, 0]
    assert figure.axes[0].get_title() == "3 of 4 correct"
    drawn = {text.get_position(): text.get_text() for text in figure.axes[0].texts}  # (predicted, true) → count
    assert drawn == {(1, 1): "2", (2, 2): "1", (2, 3): "1"}
    for line, name in zip(figure.axes[1].lines, ("precision", "recall", "f1"), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), 100 * numbers[name])
    assert [label.get_text() for label in figure.axes[2].get_yticklabels()] == ["3 → 2"]
    assert [bar.get_width() for bar in figure.axes[2].patches] == [1]
    figure, numbers = insights.confusion(made_up(certain([1, 2]), [1, 2]))
    assert numbers["pairs"] == []
    assert figure.axes[2].get_title() == "No mistakes"


def test_gallery_is_sorted_by_confidence(answers):
    figure, numbers = insights.gallery(answers, count=5)
    sure = answers.log_probabilities.exp().max(dim=1).values.tolist()
    wrong = [i for i in range(len(answers)) if answers.log_probabilities[i].argmax() != answers.labels[i]]
    assert numbers["mistakes"] == sorted(wrong, key=lambda i: -sure[i])[:5]
    right = sorted(set(range(len(answers))) - set(wrong), key=lambda i: sure[i])
    assert numbers["uncertain"] == right[:5]
    first = numbers["mistakes"][0]
    words = f"true {answers.labels[first]}, pred. {answers.predicted[first]}\n{100 * sure[first]:.1f} %"
    assert figure.subfigs[0].axes[0].get_title() == words
    for part, indices in zip(figure.subfigs, numbers.values(), strict=True):
        for ax, i in zip(part.axes, indices, strict=False):
            np.testing.assert_array_equal(ax.images[0].get_array(), answers.images[i, 0])
    _, numbers = insights.gallery(made_up(certain([1, 2]), [1, 2]))
    assert numbers == {"mistakes": [], "uncertain": [1, 0]}


def test_gallery_of_ties_says_what_was_predicted():
    """Of two equally probable digits the first counts as the prediction, in the titles too."""
    pairs = [(a, b) for a in range(10) for b in range(a + 1, 10)]
    values = torch.full((len(pairs), 10), 0.01)
    for row, pair in zip(values, pairs, strict=True):
        row[list(pair)] = 0.46
    figure, _ = insights.gallery(made_up(values.log(), [a for a, _ in pairs]), count=len(pairs))
    titles = {ax.get_title().split("\n")[0] for ax in figure.subfigs[1].axes} - {""}
    assert titles == {f"{a}, second {b}" for a, b in pairs}


# Calibration ------------------------------------------------------------------------------------


def test_ece_of_a_case_worked_out_by_hand():
    """Ten answers at 0.91 of which 7 are right, and ten at 0.55 of which 8 are: (10 · 0.21 + 10 · 0.25) / 20."""
    values = torch.cat([certain([0] * 10, 0.91), certain([0] * 10, 0.55)])
    labels = torch.tensor([0] * 7 + [1] * 3 + [0] * 8 + [1] * 2)
    found = insights.reliability(values, labels)
    assert found["ece"] == pytest.approx(0.23, abs=1e-6)
    assert found["count"][13] == found["count"][8] == 10  # of 15 bins: (13/15, 14/15] and (8/15, 9/15]
    assert found["accuracy"][13] == pytest.approx(0.7)
    assert found["confidence"][8] == pytest.approx(0.55)
    assert insights.reliability(certain([0, 0], 1 - 1e-9), torch.tensor([0, 0]))["ece"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("bins", [15, 20])
def test_ece_is_that_of_a_loop(answers, bins):
    total, counts = 0, []
    for i in range(bins):
        in_bin = [n for n in range(len(answers)) if i / bins < answers.confidence[n].item() <= (i + 1) / bins]
        counts.append(len(in_bin))
        total += abs(sum(answers.right[n].item() - answers.confidence[n].item() for n in in_bin)) / len(answers)
    _, numbers = insights.calibration(answers, bins=bins)
    assert numbers["before"]["count"].tolist() == counts
    assert numbers["before"]["ece"] == pytest.approx(total, rel=1e-5)
    assert numbers["nll_before"] == pytest.approx(F.nll_loss(answers.log_probabilities, answers.labels).item())
    assert "after" not in numbers


@pytest.mark.parametrize("factor", [0.1, 3.0, 10.0])
def test_temperature_scaling_finds_the_factor_of_the_logits(factor):
    """Labels drawn from a softmax: multiply its logits, and the temperature is the multiplier."""
    logits = 2 * torch.randn(20_000, 10)
    labels = torch.multinomial(logits.softmax(1), 1).squeeze(1)
    values = (factor * logits + torch.randn(20_000, 1)).log_softmax(1)  # any shift a row
    temperature = insights.fit_temperature(values, labels)
    assert temperature == pytest.approx(factor, rel=0.03)
    least = F.nll_loss(insights.apply_temperature(values, temperature), labels)
    for other in (0.97, 1.03):
        assert F.nll_loss(insights.apply_temperature(values, other * temperature), labels) > least
    torch.testing.assert_close(insights.apply_temperature(values, factor), logits.log_softmax(1), atol=1e-4, rtol=1e-4)


def test_calibration_with_a_validation_split_shows_both(answers):
    overconfident = replace(answers, log_probabilities=(4 * answers.log_probabilities).log_softmax(1))
    validation = overconfident[1::2]
    figure, numbers = insights.calibration(overconfident[::2], validation)
    assert numbers["temperature"] > 1.5
    assert numbers["temperature"] == insights.fit_temperature(validation.log_probabilities, validation.labels)
    for line, name in zip(figure.axes[0].lines[1:], ("before", "after"), strict=True):
        filled = numbers[name]["count"] > 0
        np.testing.assert_array_equal(line.get_xdata(), 100 * numbers[name]["confidence"][filled])
        np.testing.assert_array_equal(line.get_ydata(), 100 * numbers[name]["accuracy"][filled])
        assert line.get_label() == f"{name} scaling: ECE {100 * numbers[name]['ece']:.2f} %"
    assert numbers["after"]["ece"] < numbers["before"]["ece"]
    assert numbers["nll_after"] < numbers["nll_before"]


# The embedding ----------------------------------------------------------------------------------


def test_embedding_keeps_groups_apart_and_is_the_same_each_time():
    labels = torch.arange(90) % 3
    features = 20 * torch.eye(3, 12)[labels] + torch.randn(90, 12)
    predicted = labels.tolist()
    predicted[7] = 5  # one mistake
    answers = replace(made_up(certain(predicted), labels.tolist()), features=features)
    figure, numbers = insights.embedding(answers, images=60)
    points = torch.from_numpy(numbers["points"])
    assert points.shape == (60, 2)
    nearest = torch.cdist(points, points).fill_diagonal_(math.inf).argmin(dim=1)
    assert torch.equal(labels[:60][nearest], labels[:60])
    np.testing.assert_array_equal(insights.embedding(answers, images=60)[1]["points"], numbers["points"])
    *clouds, circles = figure.axes[0].collections
    for label, cloud in enumerate(clouds):
        np.testing.assert_allclose(cloud.get_offsets(), points[labels[:60] == label], rtol=1e-6)
    assert len({tuple(cloud.get_facecolor()[0]) for cloud in clouds}) == 10
    np.testing.assert_allclose(circles.get_offsets(), points[7:8], rtol=1e-6)
    assert circles.get_label() == "1 misclassified"
    assert "60 images" in figure.axes[0].get_title()


# Robustness -------------------------------------------------------------------------------------


def test_no_distortion_gives_the_plain_accuracy(trained, digits):
    other = create_model()
    _, numbers = insights.robustness({"trained": trained, "new": other}, digits[1], images=360)
    assert list(numbers) == ["rotation", "shift", "zoom", "blur", "noise", "contrast"]
    for name, model in (("trained", trained), ("new", other)):
        _, accuracy = utils.test(copy.deepcopy(model), CPU, digits[1], utils.get_loss())
        for kind, found in numbers.items():
            assert len(found[name]) == len(found["levels"])
            assert found["levels"] == sorted(found["levels"])
            plain = insights.DISTORTIONS[kind][2][0]
            assert found[name][found["levels"].index(plain)] == pytest.approx(accuracy, abs=0.3)  # bf16: an image
    for models in ({}, dict.fromkeys("abcde", trained)):
        with pytest.raises(ValueError, match="1 to 4 models"):
            insights.robustness(models, digits[1])


def test_each_model_of_a_robustness_test_gets_its_own_normalisation(trained, monkeypatch):
    """Against the loop written out; the third model has none of its own, and takes that of the data."""
    monkeypatch.setattr(utils, "get_precision", lambda device: "fp32")
    models = {name: copy.deepcopy(trained) for name in ("first", "second", "third")}
    models["first"].normalisation, models["second"].normalisation = (0.3, 0.2), (0.1, 0.5)
    used = {"first": (0.3, 0.2), "second": (0.1, 0.5), "third": (0.3, 0.2)}
    data = dataset.load_dataset("test", "digits", transform=utils.get_test_transforms(mean=0.3, std=0.2))
    figure, numbers = insights.robustness(models, data, images=60)
    found, ax = numbers["noise"], figure.axes[4]
    assert ax.get_title() == "Noise"
    assert ax.lines[-1].get_xdata() == [0, 0]  # dotted: undistorted
    for line, name in zip(ax.lines, models, strict=False):
        assert line.get_label() == name
        np.testing.assert_array_equal(line.get_data(), (found["levels"], found[name]))
    pixels, labels = data.images[:60].unsqueeze(1) / 255, data.labels[:60]
    for level, *accuracies in zip(found["levels"], *(found[name] for name in models), strict=True):
        noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
        noisy = (pixels + level * noise).clamp(0, 1)
        for accuracy, (name, (mean, std)) in zip(accuracies, used.items(), strict=True):
            predicted = models[name].eval()((noisy - mean) / std).argmax(dim=1)
            assert accuracy == pytest.approx(100 * (predicted == labels).float().mean().item(), abs=1e-3)
    assert found["first"] == found["third"] != found["second"]
    data.transform = utils.get_test_transforms(mean=0.2, std=0.6)
    alone = {"third": models.pop("third")}
    assert insights.robustness(models, data, images=60, mean=0.2, std=0.6)[1]["noise"]["first"] == found["first"]
    assert insights.robustness(alone, data, images=60, mean=0.2, std=0.6)[1]["noise"]["third"] != found["third"]
    data.transform = utils.get_test_transforms()  # MNIST's normalisation, as `trained` had it
    plain = insights.robustness({"trained": trained}, data, images=60)[1]["noise"]["trained"]
    predicted = trained.eval()(data.transform(data.images[:60].unsqueeze(1))).argmax(dim=1)
    assert plain[0] == pytest.approx(100 * (predicted == labels).float().mean().item(), abs=1e-3)


def test_distortions_are_what_they_are_called():
    images = torch.rand(8, 1, 28, 28)
    generator = torch.Generator().manual_seed(0)
    distort = {name: parts[0] for name, parts in insights.DISTORTIONS.items()}
    for name, (function, _, levels) in insights.DISTORTIONS.items():
        torch.testing.assert_close(function(images, levels[0], generator), images, atol=1e-5, rtol=0, msg=name)
    turned = distort["rotation"](images, 90, generator)
    torch.testing.assert_close(turned[::2], images[::2].rot90(-1, (2, 3)), atol=1e-4, rtol=0)
    torch.testing.assert_close(turned[1::2], images[1::2].rot90(1, (2, 3)), atol=1e-4, rtol=0)
    right, left, down, up = distort["shift"](images[:4], 3, generator)
    torch.testing.assert_close(right, F.pad(images[0], (3, 0))[..., :28], atol=1e-5, rtol=0)
    torch.testing.assert_close(left, F.pad(images[1], (0, 3))[..., 3:], atol=1e-5, rtol=0)
    torch.testing.assert_close(down, F.pad(images[2], (0, 0, 3, 0))[..., :28, :], atol=1e-5, rtol=0)
    torch.testing.assert_close(up, F.pad(images[3], (0, 0, 0, 3))[..., 3:, :], atol=1e-5, rtol=0)
    square = F.pad(torch.ones(1, 1, 8, 8), (10, 10, 10, 10))
    assert distort["zoom"](square, 2.0, generator).sum() == pytest.approx(4 * 64, rel=0.1)
    noise = distort["noise"](torch.zeros(50, 1, 28, 28), 0.3, generator)
    assert noise.std().item() == pytest.approx(0.3, rel=0.02)
    spot = torch.zeros(1, 1, 28, 28)
    spot[..., 14, 14] = 1
    blurred, away = distort["blur"](spot, 2.0, generator)[0, 0], torch.arange(28) - 14.0
    assert blurred.sum().item() == pytest.approx(1, abs=0.01)
    assert (blurred.sum(0) * away**2).sum().item() == pytest.approx(4, rel=0.05)  # its variance is σ²
    flat = distort["contrast"](images, 0.25, generator)
    torch.testing.assert_close(flat.mean((1, 2, 3)), images.mean((1, 2, 3)))
    torch.testing.assert_close(flat.std((1, 2, 3)), 0.25 * images.std((1, 2, 3)))


# Learning-rate range test -----------------------------------------------------------------------


def test_range_test_leaves_everything_as_it_was(trained):
    model = copy.deepcopy(trained)
    generator = torch.Generator().manual_seed(5)
    # Steps that draw from each generator: PyTorch's own, Python's and NumPy's
    steps = (utils.RandomAffineEach(degrees=10), lambda images: images * (random.random() + np.random.rand()))
    data = dataset.load_dataset("train", "digits", transform=utils.get_train_transforms(*steps))
    loader = dataset.make_loader(data, {"batch_size": 64, "shuffle": True, "generator": generator})
    optimizer = utils.get_optimizer(model, "SGD", 0.02)
    utils.train(model, CPU, first_batches(loader, 2), optimizer, utils.get_loss())  # momentum, gradients
    model.eval()
    weights, kept = state(model), copy.deepcopy(optimizer.state_dict())
    gradients = [parameter.grad.clone() for parameter in model.parameters()]

    def drawn():
        """The next number of each generator, which is put back to where it was."""
        np_state, state, states = (
            np.random.get_state(),
            random.getstate(),
            (torch.get_rng_state(), generator.get_state()),
        )
        numbers = np.random.rand(), random.random(), torch.rand(()).item(), torch.rand((), generator=generator).item()
        np.random.set_state(np_state)
        random.setstate(state)
        torch.set_rng_state(states[0])
        generator.set_state(states[1])
        return numbers

    before = drawn()
    insights.rate_range(model, optimizer, loader, utils.get_loss(), steps=30)
    assert not model.training
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert all(torch.equal(g, p.grad) for g, p in zip(gradients, model.parameters(), strict=True))
    after = optimizer.state_dict()
    assert after["param_groups"] == kept["param_groups"]
    for i, values in kept["state"].items():
        assert torch.equal(values["momentum_buffer"], after["state"][i]["momentum_buffer"])
    assert drawn() == before
    next(iter(loader))
    assert all(now != then for now, then in zip(drawn(), before, strict=True))  # or nothing was there to put back


def first_batches(loader, count):
    return [batch for batch, _ in zip(loader, range(count), strict=False)]


def test_range_test_is_a_training_with_a_rising_rate(monkeypatch):
    """Against the loop written out, on a linear model; it stops when the loss has blown up."""
    monkeypatch.setattr(utils, "get_precision", lambda device: "fp32")
    images = torch.randn(8, 1, 28, 28).repeat(12, 1, 1, 1)  # twelve times the same, with labels that differ
    labels = torch.randint(0, 10, (96,))
    loader = DataLoader(TensorDataset(images, labels), batch_size=32)  # three batches, over and over
    model = create_model(hidden_sizes=())
    optimizer = utils.get_optimizer(model, "SGD", 0.1, momentumval=0)
    figure, numbers = insights.rate_range(model, optimizer, loader, F.nll_loss, low=1e-4, high=1e3, steps=50)
    weight = model.layers[0].weight.detach().clone().requires_grad_()
    bias = model.layers[0].bias.detach().clone().requires_grad_()
    for step, found in enumerate(numbers["losses"]):
        rate = 1e-4 * 1e7 ** (step / 49)
        assert numbers["rates"][step] == pytest.approx(rate)
        part = slice(32 * (step % 3), 32 * (step % 3) + 32)
        loss = F.cross_entropy(images[part].flatten(1) @ weight.T + bias, labels[part])
        assert found == pytest.approx(loss.item(), rel=1e-3, abs=1e-3)
        for value, gradient in zip((weight, bias), torch.autograd.grad(loss, (weight, bias)), strict=True):
            value.data -= rate * gradient
    losses, smoothed = numbers["losses"], numbers["smoothed"]
    shares = np.array([0.9**i for i in range(len(losses))][::-1])
    assert smoothed[-1] == pytest.approx((shares * losses).sum() / shares.sum())
    assert len(losses) < 50
    assert smoothed[-1] > 4 * smoothed.min() >= smoothed[-2] / 4
    assert numbers["suggested"] == pytest.approx(numbers["rates"][smoothed.argmin()] / 10)
    assert f"{numbers['suggested']:.2g}" in figure.axes[0].get_legend().get_texts()[-1].get_text()


def test_range_test_refuses_what_it_cannot_use(digits):
    model = create_model()
    optimizer = utils.get_optimizer(model)
    for options, message in (
        ({"low": 0}, "0 < low < high, not 0 and 1.0"),
        ({"low": 1, "high": 0.1}, "0 < low < high, not 1 and 0.1"),
        ({"steps": 3}, "steps must be a whole number from 10, not 3"),
    ):
        with pytest.raises(ValueError, match=message):
            insights.rate_range(model, optimizer, digits[0], F.nll_loss, **options)
    model.layers[0].weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match="not finite from the start"):
        insights.rate_range(model, optimizer, digits[0], F.nll_loss)


# Layers: receptive fields, filters, feature maps ------------------------------------------------


@pytest.mark.parametrize("name", [*CONVOLUTIONAL, "stand-in"])
def test_receptive_field_is_where_the_gradient_of_one_output_reaches(name):
    """For every layer: the pixels that reach a centre output lie from edge to edge of the field in the table."""
    model = {**CONVOLUTIONAL, "stand-in": small}[name]().eval()
    for parameter in model.parameters():  # positive, so that no gradient is cut off or cancels out
        parameter.data.abs_()
    images = torch.rand(64, 1, 28, 28)  # max-pooling passes it to the largest pixel only: so, many draws
    rows = insights.receptive_field(model)[1]["layers"]
    recorder = inside.trace(model, images)
    given = recorder.kept[0]
    assert len(rows) == len(recorder.layers)
    for row, layer in zip(rows, recorder.layers, strict=True):
        output = layer.output if layer.output.dim() == 4 else layer.output[..., None, None]
        assert output.shape[-1] == row["output"]
        at = row["output"] // 2
        (gradient,) = torch.autograd.grad(output[:, :, at, at].sum(), given, retain_graph=True)
        reached = (gradient[:, 0] != 0).any(0)
        centre = row["centre"] + at * row["jump"]
        first, last = (centre + sign * (row["field"] - 1) / 2 for sign in (-1, 1))
        for direction in (0, 1):
            found = reached.any(direction).nonzero().flatten().tolist()
            assert (found[0], found[-1]) == (max(0, first), min(27, last)), row


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_receptive_field_of_same_padding_lies_where_the_gradient_does(kernel, dilation):
    """Of an odd total, PyTorch pads the larger part on the right and below: even kernels are off centre."""
    convolution = nn.Conv2d(1, 1, kernel, padding="same", dilation=dilation)
    convolution.weight.data.fill_(1)
    model = nn.Sequential(convolution, nn.Flatten(), nn.Linear(784, 10), nn.LogSoftmax(dim=1))
    row = insights.receptive_field(model)[1]["layers"][0]
    assert row["field"] == (kernel - 1) * dilation + 1
    images = torch.rand(1, 1, 28, 28, requires_grad=True)
    output = convolution(images)
    for at in (0, 14):
        (gradient,) = torch.autograd.grad(output[0, 0, at, at], images, retain_graph=True)
        first, last = (row["centre"] + at + sign * (row["field"] - 1) / 2 for sign in (-1, 1))
        for direction in (0, 1):
            reached = (gradient[0, 0] != 0).any(direction).nonzero().flatten().tolist()
            assert reached == [pixel for pixel in range(int(first), int(last) + 1, dilation) if pixel >= 0]
            assert (first, last) == (int(first), int(last))


def test_receptive_fields_of_net_are_those_in_its_comments():
    figure, numbers = insights.receptive_field(Net())
    names = ["conv1", "conv2", "max_pool2d", "conv3", "conv4", "max_pool2d (2)", "fc1", "fc2"]
    assert [row["name"] for row in numbers["layers"]] == names
    assert [row["field"] for row in numbers["layers"]] == [3, 5, 6, 10, 14, 16, 28, 28]
    assert [row["output"] for row in numbers["layers"]] == [26, 24, 12, 10, 8, 4, 1, 1]
    assert [row["jump"] for row in numbers["layers"]] == [1, 1, 2, 2, 2, 4, 4, 4]
    assert "24×24" in [text.get_text() for text in figure.axes[0].texts]
    assert [bar.get_width() for bar in figure.axes[1].patches] == [3, 5, 6, 10, 14, 16, 28, 28]
    assert figure.axes[1].lines[0].get_xdata() == [28, 28]


def test_layers_keep_their_names_and_a_module_that_runs_twice_has_two():
    names = [layer.name for layer in inside.trace(small(), torch.rand(1, 1, 28, 28)).layers]
    assert names == ["0", "3", "4", "3 (2)", "7", "10"]
    names = [layer.name for layer in inside.trace(ImageClassifier(), torch.rand(1, 1, 28, 28)).layers]
    assert names == ["layers.0", "layers.2", "layers.4", "layers.6", "layers.8"]


class Branches(nn.Module):
    def __init__(self, join):
        super().__init__()
        self.first, self.second, self.join = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), join
        self.last = nn.LazyLinear(10)

    def forward(self, x):
        x = self.first(x)
        return F.log_softmax(self.last(self.join(x, self.second(x)).flatten(1)), dim=1)


@pytest.mark.parametrize("join", [torch.add, lambda a, b: torch.cat([a, b], dim=1)])
def test_branches_and_unknown_windows_are_refused(join):
    model = Branches(join)
    model(torch.rand(1, 1, 28, 28))
    with pytest.raises(insights.DoesNotApply, match="has branches"):
        insights.receptive_field(model)
    for odd in (
        nn.Conv2d(1, 2, (3, 5), padding=(1, 2)),
        nn.MaxPool2d(2, stride=(2, 1)),
        nn.AdaptiveAvgPool2d(5),
        nn.Upsample(56),
    ):
        model = nn.Sequential(nn.Conv2d(1, 1, 1), odd, nn.Flatten(), nn.LazyLinear(10))
        model(torch.rand(1, 1, 28, 28))
        with pytest.raises(insights.DoesNotApply, match=r"field of layer '.+' is not known"):
            insights.receptive_field(model)


def test_filters_are_the_first_convolutions_weights():
    model = Net()
    figure, numbers = insights.filters(model)
    np.testing.assert_array_equal(numbers["weights"], model.conv1.weight.detach()[:, 0])
    assert numbers["layer"] == "conv1"
    (image,) = figure.axes[0].images
    drawn = np.pad(image.get_array(), ((0, 1), (0, 1))).reshape(4, 4, 8, 4).swapaxes(1, 2)  # 4 rows of 8, with gaps
    np.testing.assert_array_equal(drawn[:, :, :3, :3].reshape(32, 3, 3), numbers["weights"])
    assert image.norm.vmax == abs(numbers["weights"]).max()
    least, zero, most = image.cmap(image.norm([-image.norm.vmax, 0, image.norm.vmax]))[:, :3]
    assert zero.min() > 0.95  # white
    assert least[2] > 2 * least[0]  # blue
    assert most[0] > 2 * most[2]  # red


def test_feature_maps_are_what_each_layer_gives(answers):
    model, image = Net().eval(), answers.images[0]
    figure, numbers = insights.feature_maps(model, image)
    x = F.relu(model.conv2(F.relu(model.conv1(image[None]))))
    torch.testing.assert_close(torch.from_numpy(numbers["conv2"]), x[0])
    most = sorted(range(64), key=lambda channel: -((x[0, channel] - x[0, channel].mean()) ** 2).mean().item())[:8]
    ax = figure.axes[1]
    assert [text.get_text() for text in ax.texts[:-1]] == [str(channel) for channel in sorted(most)]
    assert ax.texts[-1].get_text() == "conv2\n64×24×24"
    for i, channel in enumerate(sorted(most)):
        drawn, one = ax.images[0].get_array()[:24, 25 * i : 25 * i + 24], x[0, channel].detach()
        np.testing.assert_allclose(drawn, (one - one.min()) / (one.max() - one.min()), atol=1e-5)
    x = F.relu(model.conv4(F.relu(model.conv3(F.max_pool2d(x, 2)))))
    torch.testing.assert_close(torch.from_numpy(numbers["conv4"]), x[0])
    x = F.relu(model.fc1(F.max_pool2d(x, 2).flatten(1)))
    torch.testing.assert_close(torch.from_numpy(numbers["fc1"]), x[0])
    torch.testing.assert_close(torch.from_numpy(numbers["fc2"]).log_softmax(0), model(image[None])[0])
    no_activation = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 26**2, 10))
    drawn = insights.feature_maps(no_activation, image)[0].axes[0].images[0].get_array()
    for one in (drawn[:26, :26], drawn[:26, 27:53]):  # from its lowest to its highest value, also below 0
        assert (one.min(), one.max()) == (0, 1)
    figure, numbers = insights.feature_maps(ImageClassifier().eval(), image)
    means = list(numbers.values())[-2]  # of each map, drawn as numbers
    assert means.shape == (64, 1, 1)
    np.testing.assert_array_equal(figure.axes[-2].images[0].get_array(), means.reshape(1, 64))
    _, numbers = insights.feature_maps(create_model(), image)
    assert [output.shape for output in numbers.values()] == [(128,), (64,), (10,)]
    with pytest.raises(ValueError, match=r"one image of shape \(1, 28, 28\)"):
        insights.feature_maps(model, answers.images[:2])
    with pytest.raises(insights.DoesNotApply, match="Feature maps need a convolution, pooling or linear layer"):
        insights.feature_maps(nn.Flatten(), image)


def traced(model):
    """The shapes that the modules give and get, by hooks: where one's output is not the next one's input, both."""
    shapes = [(1, 28, 28)]

    def note(module, given, output):
        for shape in (tuple(given[0].shape[1:]), tuple(output.shape[1:])):
            if shape != shapes[-1]:
                shapes.append(shape)

    leaves = [module for module in model.modules() if not list(module.children())]
    handles = [module.register_forward_hook(note) for module in leaves]
    model(torch.zeros(1, 1, 28, 28))
    for handle in handles:
        handle.remove()
    return shapes


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_words_of_the_blocks_do_not_overlap(architecture):
    figure, _ = insights.network_blocks(ARCHITECTURES[architecture]())
    figure.draw_without_rendering()
    texts = [text for text in figure.axes[0].texts if text.get_text()]
    boxes = [text.get_window_extent().shrunk(0.98, 0.98) for text in texts]
    for i, box in enumerate(boxes):
        assert box.count_overlaps(boxes[i + 1 :]) == 0, texts[i].get_text()


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "stand-in"])
def test_blocks_have_the_shapes_that_hooks_see_and_all_parameters(architecture):
    model = {**ARCHITECTURES, "stand-in": small}[architecture]().eval()
    expected = [shape for shape in traced(model) if shape != (10,)]
    model.train()
    before = torch.get_rng_state()
    figure, numbers = insights.network_blocks(model)
    rows = numbers["blocks"]
    changed = [row["shape"] for i, row in enumerate(rows) if i == 0 or row["shape"] != rows[i - 1]["shape"]]
    changed = [shape for shape in changed if shape != (10,)]
    for i in range(len(changed) - 1, 0, -1):  # what F.max_pool2d hands to torch.flatten no hook sees
        if changed[i - 1] not in expected:
            assert changed[i] == (math.prod(changed[i - 1]),)
            del changed[i - 1]
    assert changed == expected
    own = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert [row["parameters"] for row in rows if row["parameters"]] == [
        sum(p.numel() for p in module.parameters()) for module in own
    ]
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert [text for text in texts if text == "1×28×28"] == ["1×28×28"]
    for row in rows:
        assert "×".join(f"{size:,}" for size in row["shape"]) in texts
        assert row["parameters"] == 0 or f"{row['parameters']:,}" in texts
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), before)


def test_blocks_name_the_layers_on_their_arrows():
    rows = insights.network_blocks(CNN())[1]["blocks"]
    assert [(row["name"], row["kind"], row["kernel"]) for row in rows] == [
        ("", "image", None),
        ("conv1", "conv", 3),
        ("", "max pool", 2),
        ("conv2", "conv", 3),
        ("", "max pool", 2),
        ("", "flatten", None),
        ("fc1", "linear", None),
        ("fc2", "linear", None),
    ]
    assert [row["shape"] for row in rows[-4:]] == [(64, 7, 7), (3136,), (128,), (10,)]
    assert ("layers.6", "mean pool", 22) in [
        (row["name"], row["kind"], row["kernel"]) for row in insights.network_blocks(ImageClassifier())[1]["blocks"]
    ]
    branched = Branches(torch.add)
    branched(torch.rand(1, 1, 28, 28))
    for model in (branched, nn.Flatten()):
        with pytest.raises(insights.DoesNotApply, match="Blocks are drawn for a chain"):
            insights.network_blocks(model)


# What each layer costs --------------------------------------------------------------------------


def separable():
    """What the course's networks lack: strides, padding, dilation, groups, 1×1 and oblong windows, no biases."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 12, 1), nn.Conv2d(12, 6, (3, 1), groups=3, dilation=2)),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 5 * 7, 20, bias=False), nn.BatchNorm1d(20, affine=False)),
        *(nn.Linear(20, 10), nn.LogSoftmax(dim=1)),
    )


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "stand-in", "separable"])
def test_costs_are_those_that_torch_counts(architecture):
    model = {**ARCHITECTURES, "stand-in": small, "separable": separable}[architecture]()
    before = state(model)
    rows = insights.layer_costs(model)[1]["layers"]
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 1, 28, 28))
    assert sum(row["multiply_adds"] for row in rows) == counter.get_total_flops() / 2 > 0
    assert sum(row["parameters"] for row in rows) == sum(p.numel() for p in model.parameters())
    module = dict(model.named_modules())
    for row in rows:
        assert row["parameters"] == sum(p.numel() for p in module[row["name"]].parameters())


def test_costs_of_a_case_worked_out_by_hand():
    figure, numbers = insights.layer_costs(Net())
    assert [tuple(row.values()) for row in numbers["layers"]] == [
        ("conv1", "conv", (32, 26, 26), 320, 26 * 26 * 32 * 9),
        ("conv2", "conv", (64, 24, 24), 18_496, 24 * 24 * 64 * 32 * 9),
        ("conv3", "conv", (128, 10, 10), 73_856, 10 * 10 * 128 * 64 * 9),
        ("conv4", "conv", (256, 8, 8), 295_168, 8 * 8 * 256 * 128 * 9),
        ("fc1", "linear", (50,), 204_850, 4096 * 50),
        ("fc2", "linear", (10,), 510, 500),
    ]
    assert list(numbers["layers"][0]) == ["name", "kind", "shape", "parameters", "multiply_adds"]
    assert figure.get_suptitle() == "Net: 593,200 parameters, 37,263,988 multiply-adds for one image"
    for ax, column in zip(figure.axes, ("parameters", "multiply_adds"), strict=True):
        assert [bar.get_width() for bar in ax.patches] == [row[column] for row in numbers["layers"]]
        heights = [ax.transData.transform((0, bar.get_y()))[1] for bar in ax.patches]
        assert heights == sorted(heights, reverse=True)  # the first layer on top
    assert [text.get_text() for text in figure.axes[0].texts][1:3] == ["18,496 (3.1 %)", "73,856 (12.5 %)"]
    assert figure.axes[0].get_yticklabels()[0].get_text() == "conv1, conv, 32×26×26"
    rows = insights.layer_costs(separable())[1]["layers"]
    assert [(row["kind"], row["shape"], row["parameters"], row["multiply_adds"]) for row in rows] == [
        ("conv", (8, 14, 14), 8 * 25, 14 * 14 * 8 * 25),
        ("batch norm", (8, 14, 14), 16, 0),
        ("conv", (8, 14, 14), 80, 14 * 14 * 8 * 9),  # each channel for itself
        ("conv", (12, 14, 14), 108, 14 * 14 * 12 * 8),
        ("conv", (6, 10, 14), 6 * (4 * 3 + 1), 10 * 14 * 6 * 4 * 3),
        ("linear", (20,), 4200, 4200),
        ("batch norm", (20,), 0, 0),
        ("linear", (10,), 210, 200),
    ]


def test_a_layer_that_runs_twice_works_twice_and_has_its_parameters_once():
    again, tied = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3)
    tied.weight = again.weight
    model = nn.Sequential(nn.Conv2d(1, 4, 1), again, nn.MaxPool2d(2), again, tied, nn.Flatten(), nn.Linear(576, 10))
    rows = insights.layer_costs(model)[1]["layers"]
    work = 4 * 4 * 9
    assert [(row["name"], row["parameters"], row["multiply_adds"]) for row in rows] == [
        ("0", 8, 28 * 28 * 4),
        ("1", 148, 28 * 28 * work),
        ("1 (2)", 0, 14 * 14 * work),
        ("4", 4, 12 * 12 * work),  # its bias
        ("6", 5770, 5760),
    ]


def test_costs_that_are_not_known_are_refused():
    with pytest.raises(insights.DoesNotApply, match="this model has none"):
        insights.layer_costs(nn.Flatten())
    with pytest.raises(insights.DoesNotApply, match=r"What 1 \(PReLU\) costs is not known"):
        insights.layer_costs(nn.Sequential(nn.Conv2d(1, 2, 3), nn.PReLU()))


# Layers: Grad-CAM, occlusion --------------------------------------------------------------------


def test_grad_cam_is_cam_where_the_maps_are_averaged(answers):
    """Zhou et al. 2016: the maps weighted by the linear layer's weights, here a 28² of them each."""
    model, images = averaged(), answers.images[:4]
    found = insights.grad_cam(model, images, targets=[3, 1, 4, 1])
    maps, weights = F.relu(model[0](images)), model[4].weight[[3, 1, 4, 1]]
    expected = F.relu(torch.einsum("nk,nkhw->nhw", weights, maps)) / 28**2
    assert expected.max() > 0
    torch.testing.assert_close(found, expected.detach(), atol=1e-6, rtol=1e-4)


def hookable():
    """A network whose ReLUs are modules, which Captum can hook, and whose maps need no enlarging."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 14 * 14, 10), nn.LogSoftmax(dim=1)),
    ).eval()


def captums_grad_cam(model, images, targets, relu):
    """Captum's Grad-CAM `(N, 28, 28)` of `hookable()` after the ReLU of this number."""
    from captum.attr import LayerGradCam  # here, since the import takes a second

    maps = LayerGradCam(model[:-1], model[relu]).attribute(images, targets, relu_attributions=True)
    assert maps.max() > 0
    return maps[:, 0].detach()


def test_grad_cam_is_captums(answers):
    model, images = hookable(), answers.images[:4]
    targets = model(images).argmax(dim=1)
    for name, relu in (("0", 1), ("2", 3), (None, 3)):
        expected = captums_grad_cam(model, images, targets, relu)
        torch.testing.assert_close(insights.grad_cam(model, images, layer=name), expected)


def test_grad_cam_lies_where_the_digit_is():
    """One bright pixel through an unpadded 9×9 window that copies its middle: the map is brightest at that pixel."""
    model = averaged()
    model[0] = nn.Conv2d(1, 6, 9, bias=False)
    model[0].weight.data.zero_()[:, 0, 4, 4] = 1
    model[4].weight.data.fill_(1)
    for y, x in ((6, 20), (13, 9), (23, 4)):
        image = torch.zeros(1, 1, 28, 28)
        image[0, 0, y, x] = 1
        found = insights.grad_cam(model, image)[0]
        assert divmod(int(found.argmax()), 28) == (y, x)


def occluded(model, image, target, window, stride):
    """Occlusion of one image `(1, 1, 28, 28)`, as a loop over the patches: `(28, 28)`."""
    falls, counts = torch.zeros(28, 28), torch.zeros(28, 28)
    with torch.no_grad():
        plain = model(image)[0, target]
        for y in range(0, 28 - window + 1, stride):
            for x in range(0, 28 - window + 1, stride):
                covered = image.clone()
                covered[..., y : y + window, x : x + window] = (0 - utils.MEAN) / utils.STD
                falls[y : y + window, x : x + window] += plain - model(covered)[0, target]
                counts[y : y + window, x : x + window] += 1
    return falls / counts


def test_occlusion_is_that_of_a_loop(trained, answers):
    image = answers.images[:1]
    target = trained.eval()(image).argmax(1).item()
    found = insights.occlusion(trained, image, window=8, stride=4)[0]
    torch.testing.assert_close(found, occluded(trained, image, target, 8, 4), atol=1e-4, rtol=1e-3)


def test_explanations_show_both_maps_and_the_probabilities(answers):
    model, images = hookable(), answers.images[:2]
    outputs = model(images).detach()
    for targets, layer, relu in ((None, None, 3), ([3, 5], "0", 1)):
        figure, numbers = insights.explanations(model, images, answers.labels[:2], targets=targets, layer=layer)
        targets = outputs.argmax(dim=1).tolist() if targets is None else targets
        assert numbers["targets"].tolist() == targets
        np.testing.assert_allclose(numbers["probabilities"], outputs.exp(), atol=1e-5)
        expected = captums_grad_cam(model, images, torch.tensor(targets), relu)
        np.testing.assert_allclose(numbers["grad_cam"], expected, atol=1e-5)
        for i, target in enumerate(targets):
            expected = occluded(model, images[i : i + 1], target, 6, 2)
            np.testing.assert_allclose(numbers["occlusion"][i], expected, atol=1e-4)
            image, cam, occlusion, bars = figure.axes[4 * i : 4 * i + 4]
            np.testing.assert_array_equal(image.images[0].get_array(), images[i, 0])
            np.testing.assert_array_equal(cam.images[0].get_array(), numbers["grad_cam"][i])
            np.testing.assert_array_equal(occlusion.images[0].get_array(), numbers["occlusion"][i])
            np.testing.assert_allclose([bar.get_height() for bar in bars.patches], 100 * outputs[i].exp(), atol=1e-3)
            titles = [f"true: {answers.labels[i]}", f"Grad-CAM for {target}"]
            assert [ax.get_title() for ax in (image, cam)] == titles
            most = numbers["occlusion"][i].max()
            assert occlusion.get_title() == f"occlusion for {target}, max. {most:.2g}"
    _, numbers = insights.explanations(create_model(), images, targets=[3, 5], maps=("occlusion",))
    assert numbers["targets"].tolist() == [3, 5]
    assert "grad_cam" not in numbers


def test_a_model_without_convolutions_and_an_unknown_layer(answers):
    model, images = create_model(), answers.images[:1]
    for call in (
        lambda: insights.filters(model),
        lambda: insights.receptive_field(model),
        lambda: insights.grad_cam(model, images),
        lambda: insights.explanations(model, images),
    ):
        with pytest.raises(insights.DoesNotApply, match=r"needs? a convolution, and this model has none"):
            call()
    with pytest.raises(ValueError, match="no layer 'conv9' with feature maps: choose one of conv1, conv2, max_pool2d"):
        insights.explanations(Net(), images, layer="conv9")
    with pytest.raises(insights.DoesNotApply, match="inputs of the last linear layer, and this model has none"):
        insights.embedding(replace(answers, features=None))


# All figures ------------------------------------------------------------------------------------


def check_axis_names(figure):
    assert isinstance(figure, plt.Figure)
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis) if ax.axison else ():
            assert axis.get_label_text() or not any(tick.label1.get_visible() for tick in axis.get_major_ticks())


def test_figures_of_answers_have_axis_names(trained, answers):
    for figure, _ in (
        insights.confusion(answers),
        insights.calibration(answers[::2], answers[1::2]),
        insights.embedding(answers, images=60),
        insights.robustness({"a": trained, "b": trained}, answers, images=20),
    ):
        assert any(ax.axison for ax in figure.axes)
        check_axis_names(figure)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_is_looked_into(architecture, digits):
    model = ARCHITECTURES[architecture]().to(utils.get_device())
    answers = insights.predictions(model, first_batches(digits[1], 1), precision="fp32")
    assert len(answers) == 100
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1].cpu()
    torch.testing.assert_close(F.log_softmax(last(answers.features), dim=1), answers.log_probabilities)
    last.to(utils.get_device())
    figures = [insights.feature_maps(model, answers.images[0]), insights.network_blocks(model)]
    figures.append(insights.layer_costs(model))
    if architecture == "MLP":
        figures.append(insights.explanations(model, answers.images[:2], maps=("occlusion",)))
    else:
        figures += [insights.explanations(model, answers.images[:2]), insights.filters(model)]
        figures.append(insights.receptive_field(model))
    for figure, _ in figures:
        check_axis_names(figure)
    assert model.training


def test_bad_numbers_and_names_are_named():
    model, images = Net(), torch.zeros(6, 1, 28, 28)
    loader = [(images, torch.arange(6))]
    answers = insights.predictions(model, loader)
    other = utils.get_optimizer(Net(), "SGD", 0.1)
    for call, message in (
        (lambda: insights.grad_cam(model, images[:1], targets=[12]), "1 whole numbers from 0 to 9, not [12]"),
        (lambda: insights.occlusion(model, images[:2], targets=[1]), "2 whole numbers from 0 to 9, not [1]"),
        (lambda: insights.grad_cam(model, images[:0]), "no image to explain"),
        (lambda: insights.occlusion(model, images[:0]), "no image to explain"),
        (lambda: insights.explanations(model, images[:1], maps=("gradcam",)), "Unknown map gradcam"),
        (lambda: insights.embedding(answers, images=1), "at least 5 images, not 1"),
        (lambda: insights.embedding(answers, images=-2), "images must be a whole number from 1, not -2"),
        (lambda: insights.calibration(answers, bins=0), "bins must be a whole number from 1, not 0"),
        (lambda: insights.robustness({"a": model}, answers, images=0), "images must be a whole number from 1, not 0"),
        (lambda: insights.feature_maps(model, images[0], channels=0), "channels must be a whole number from 1, not 0"),
        (lambda: insights.rate_range(model, other, loader, utils.get_loss()), "other parameters than this model's"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            call()


def test_a_bin_of_confidence_holds_its_upper_edge():
    halves = torch.tensor([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]], dtype=torch.float64).log()
    assert insights.reliability(halves, torch.tensor([0, 1, 0]), bins=2)["count"].tolist() == [1, 2]
