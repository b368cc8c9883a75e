"""The benchmark on real handwriting, on a small folder: its counts against loops, its sheet, what it refuses."""

import csv
import itertools

import handwriting
import numpy as np
import pytest
from PIL import Image

import checkpoint
import dataset
import predict
import utils
from model import CNN

SOURCES, CATEGORIES = ("Ada", "Ben", "Semeion"), ("photo", "scan", "classical 16x16")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A checkpoint that is right often, but not always."""
    utils.set_seed(0)
    loader = utils.get_MNISTdataset_with_loader("train", {"batch_size": 32, "shuffle": True}, dataset="digits")
    model = CNN()
    utils.train(model, "cpu", loader, utils.get_optimizer(model, "AdamW", 0.002), utils.get_loss())
    path = tmp_path_factory.mktemp("network") / "cnn.pt"
    checkpoint.save_checkpoint(path, model)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """30 pictures, every tenth of them blank, and their labels."""
    folder = tmp_path_factory.mktemp("handwriting")
    data = dataset.load_dataset("test", "digits")
    lines = [["path", "label", "source", "category", "more"]]
    for row in range(30):
        pixels = np.full((28, 28), 255) if row % 10 == 9 else 255 - data.images[row].numpy()
        Image.fromarray(pixels.astype(np.uint8)).resize((84, 84)).save(folder / f"{row}.png")
        kind = row % 3 if row < 24 else 0
        lines.append([f"{row}.png", int(data.labels[row]), SOURCES[kind], CATEGORIES[kind], ""])
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)
    return folder


@pytest.fixture(scope="module")
def rows(folder, network):
    return handwriting.measure(checkpoint.load_model(network), folder)[0]


def by_hand(folder, network):
    """The label, answer and probability of each picture, in a loop."""
    model, found = checkpoint.load_model(network), []
    for line in csv.DictReader((folder / "labels.csv").open()):
        try:
            probabilities = predict.predict(model, folder / line["path"])[0]
            found.append((line, int(probabilities.argmax()), float(probabilities.max())))
        except predict.ImageError:
            found.append((line, None, None))
    return found


def test_counts_are_those_of_a_loop(folder, network, rows):
    found, result = by_hand(folder, network), handwriting.summary(rows)
    for title, column, names in (("sources", "source", SOURCES), ("categories", "category", CATEGORIES)):
        expected = {}
        for name in names:
            part = [answer == int(line["label"]) for line, answer, _ in found if line[column] == name]
            expected[name] = (sum(part), len(part))
        assert result[title] == expected
        shares = [right / count for right, count in result[title].values()]
        assert shares == sorted(shares)
    own = [answer == int(line["label"]) for line, answer, _ in found if line["category"] != "classical 16x16"]
    assert result["own"] == (sum(own), len(own))
    assert 0 < sum(own) < len(own)
    sure = [answer == int(line["label"]) for line, answer, p in found if p is not None and p > 0.99]
    assert result["sure"] == (sum(sure), len(sure))


def test_what_is_refused_counts_as_wrong_and_as_no_digit(rows):
    refused = [row for row in rows if row["answer"] is None]
    assert len(refused) == handwriting.summary(rows)["refused"] >= 3
    assert not any(row["right"] or row["known"] for row in refused)
    others = [row for row in rows if row["answer"] is not None]
    assert all(row["known"] for row in others)  # the network has no rule
    own = sum(row["category"] != "classical 16x16" for row in refused)
    result = handwriting.summary(rows)
    assert (result["own_refused"], result["all_refused"]) == (own, len(refused))


def test_the_bins_of_the_reliability_hold_each_answer_once(rows):
    answered = [row for row in rows if row["probability"] is not None]
    bins = handwriting.reliability(answered)
    assert sum(each["count"] for each in bins) == len(answered)
    assert sum(each["right"] for each in bins) == sum(row["right"] for row in rows)
    total = sum(each["count"] * each["probability"] for each in bins)
    assert total == pytest.approx(sum(row["probability"] for row in answered))
    for one, two in itertools.pairwise(bins):
        assert one["probability"] < two["probability"]
    edge = [{"probability": p, "right": p > 0.9} for p in (0.1, 0.5, 0.50001, 0.99, 1.0)]
    found = [(each["count"], each["right"]) for each in handwriting.reliability(edge)]
    assert found == [(2, 0), (1, 0), (1, 1), (1, 1)]


def test_it_prints_the_counts_and_draws_the_failures(folder, network, rows, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert handwriting.main([str(folder), "--checkpoint", str(network), "--sheet", str(sheet)]) == 0
    out, result = capsys.readouterr().out, handwriting.summary(rows)
    lines = [line.split() for line in out.splitlines()]
    for name in SOURCES:
        right, count = result["sources"][name]
        assert [name, str(right), "of", str(count), f"{100 * right / count:.1f}", "%"] in lines
    right, count = result["own"]
    assert f"own digits: {right} of {count} right" in out
    assert f"{result['refused']} refused" in out
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture.convert("L")).std() > 20
    figure = handwriting.sheet(rows, folder)
    wrong = [row for row in rows if not row["right"]]
    titles = [ax.get_title() for ax in figure.axes]
    assert sum(": " in title for title in titles) == len(wrong)
    assert titles.count("refused") == result["refused"]


def refused(folder, capsys):
    with pytest.raises(SystemExit) as stop:
        handwriting.main([str(folder), "--checkpoint", "none.pt"])
    error = capsys.readouterr().err
    assert (stop.value.code, error.count("\n")) == (2, 1)
    return error


def test_a_folder_without_labels_is_refused(folder, tmp_path, capsys):
    assert f"There is no {tmp_path / 'labels.csv'}" in refused(tmp_path, capsys)
    labels = tmp_path / "labels.csv"
    for content in ("", "path,label,source\n1.png,1,me\n", "path,label,source,category\n1.png,1,,photo\n"):
        labels.write_text(content)
        assert "needs the columns path, label, source, category" in refused(tmp_path, capsys)
    assert "There is no checkpoint none.pt" in refused(folder, capsys)
