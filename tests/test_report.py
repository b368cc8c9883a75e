"""The report: whole, self-contained, and shown by a browser without a complaint."""

import html
import re
import shutil

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import insights
import utils
from insights import report
from model import create_model

DEVICE = utils.get_device()
NAMES = [
    *("confusion", "gallery", "calibration", "filters", "feature-maps", "explanations"),
    *("receptive-field", "embedding", "robustness", "rate-range"),
]


class Branches(nn.Module):
    """A convolution beside a shortcut, of which no receptive field is derived."""

    def __init__(self):
        super().__init__()
        self.convolution, self.last = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(784, 10)

    def forward(self, x):
        return torch.log_softmax(self.last((x + self.convolution(x)).flatten(1)), dim=1)


@pytest.fixture(scope="module")
def loaders():
    """Loaders of 120 test and 100 validation digits, normalised otherwise than MNIST, by name."""
    transform = utils.get_test_transforms(mean=0.5, std=0.5)
    kwargs, found = {"batch_size": 50}, {}
    for split, count in (("test", 120), ("validation", 100)):
        options = {"dataset": "digits", "transform": transform, "holdout": count if split == "validation" else 0}
        loader = found[f"{split}_loader"] = utils.get_MNISTdataset_with_loader(split, kwargs, **options)
        data = loader.dataset
        data.images, data.labels = data.images[:count], data.labels[:count]
    return found


def write(model, folder, loaders, name="A <small> network"):
    return report.write_report(model, folder, **loaders, device=DEVICE, name=name)


@pytest.fixture(scope="module", autouse=True)
def _few():
    """Fewer images than a real report shows, for the tests' time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "EMBEDDED", 60)
        patch.setattr(report, "DISTORTED", 50)
        yield


@pytest.fixture
def _undrawn(monkeypatch):
    """Figures are made but not drawn, which takes most of a report's time."""
    monkeypatch.setattr(report, "_png", lambda figure: b"a picture")


@pytest.fixture
def calls(monkeypatch):
    """Figure → the arguments that it was last called with; the slow ones are not even made."""
    found = {}
    for figure in ("gallery", "feature_maps", "explanations", "embedding", "robustness", "rate_range"):

        def noted(*args, figure=figure, **kwargs):
            found[figure] = (*args, *kwargs.values())
            return None, {"labels": [], "suggested": 0.01}

        monkeypatch.setattr(insights, figure, noted)
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory, loaders):
    """A convolutional network's report: (model, page)."""
    utils.set_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten()),
        *(nn.Linear(392, 10), nn.LogSoftmax(dim=1)),
    ).to(DEVICE)
    model.normalisation = (0.5, 0.5)
    kwargs = {"batch_size": 32, "shuffle": True}
    transform = loaders["test_loader"].dataset.transform
    loader = utils.get_MNISTdataset_with_loader("train", kwargs, dataset="digits", transform=transform)
    optimizer = utils.get_optimizer(model, "Adam", 0.005)
    for _ in range(2):
        utils.train(model, DEVICE, loader, optimizer, utils.get_loss())
    before, state = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    page = write(model, tmp_path_factory.mktemp("reports") / "new" / "report", loaders)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    return model, page


def cells(page, caption):
    """The rows of a table of the page: lists of text."""
    table = re.search(rf"<caption>{caption}</caption>(.*?)</table>", page.read_text(encoding="utf-8"), re.DOTALL)[1]
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    return [[html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows[1:]]


def test_all_figures_and_the_metrics_are_there(made, loaders):
    model, page = made
    text = page.read_text(encoding="utf-8")
    assert page.name == "index.html"
    assert sorted(file.name for file in page.parent.iterdir()) == sorted([*(f"{s}.png" for s in NAMES), "index.html"])
    assert text.count("<img ") == len(NAMES) == len(re.findall(r'alt="[^"]{20,}"', text))
    assert "Left out" not in text
    assert "<title>A &lt;small&gt; network on scikit-learn digits</title>" in text
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    assert re.findall(r'<a href="#(.*?)">', text) == re.findall(r'<h2 id="(.*?)">', text) == ["metrics", *NAMES]
    for name, section in zip(["metrics", *NAMES], text.split("<section ")[1:], strict=True):
        assert section.startswith(f'aria-labelledby="{name}"')
        assert len(re.findall("<figcaption>[^<]{20,}</figcaption>", section)) == (name != "metrics")
    assert text.count('<th scope="col">') == 2 + 5 + 3 + 6
    assert text.count('<tr><th scope="row">') == text.count("<tr>") - 4  # tables, each with a row of heads
    assert 'content="width=device-width, initial-scale=1"' in text
    loss, accuracy = utils.test(model, DEVICE, loaders["test_loader"], utils.get_loss())
    overall = dict(cells(page, "Overall"))
    assert overall["accuracy"] == f"{accuracy:.2f} %"
    assert float(overall["test loss (mean negative log-likelihood)"]) == pytest.approx(loss, abs=1e-3)
    assert overall["parameters"] == "4,010"  # (9 + 1) · 8 of the convolution, (392 + 1) · 10
    answers = insights.predictions(model, loaders["test_loader"])
    assert 60 < accuracy < 100
    _, numbers = insights.calibration(answers, insights.predictions(model, loaders["validation_loader"]))
    assert overall["expected calibration error"] == f"{100 * numbers['before']['ece']:.2f} %"
    scaled = f"the same after temperature scaling, T = {numbers['temperature']:.3f}"
    assert overall[scaled] == f"{100 * numbers['after']['ece']:.2f} %"
    assert "for the first 60 test images" in text
    assert overall["mistakes"] == str(int((~answers.right).sum()))
    classes = cells(page, "Each class")
    assert [int(row[-1]) for row in classes] == torch.bincount(answers.labels).tolist()
    right = ((answers.predicted == 3) & (answers.labels == 3)).sum() / (answers.labels == 3).sum()
    assert classes[3][2] == f"{100 * right:.2f} %"
    true, predicted, count = map(int, cells(page, "Most frequent confusions")[0])
    assert ((answers.labels == true) & (answers.predicted == predicted)).sum() == count
    fields = cells(page, "In positions and pixels along a side")
    assert [(row[0], row[-1]) for row in fields] == [("0", "3"), ("2", "6"), ("4", "30")]


def test_a_browser_shows_it_without_a_complaint(made):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    url, complaints, requests = made[1].as_uri(), [], []
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = opened.new_page(viewport={"width": 390, "height": 800})  # a phone
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(request.url[:80]))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(url)
        page.wait_for_load_state("networkidle")
        widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
        too_wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
        opened.close()
    assert complaints == []
    assert [address for address in requests if not address.startswith("data:")] == [url]
    assert len(widths) == len(NAMES)
    assert min(widths) > 300
    assert not too_wide


@pytest.mark.usefixtures("_undrawn")
def test_what_does_not_apply_is_left_out_and_said_so(tmp_path, loaders):
    page = write(create_model(hidden_sizes=()), tmp_path, loaders)
    text = html.unescape(page.read_text(encoding="utf-8"))
    assert text.count("Left out:") == 2
    assert "Left out: Filters need a convolution, and this model has none" in text
    assert "Left out: A receptive field needs a convolution, and this model has none" in text
    assert "Grad-CAM is left out, since this model has no convolution." in text
    assert {file.stem for file in tmp_path.glob("*.png")} == {*NAMES} - {"filters", "receptive-field"}


@pytest.mark.usefixtures("_undrawn")
def test_branches_and_four_images_of_a_data_set_of_ones_own(tmp_path):
    samples = [{"image": torch.rand(1, 28, 28), "label": i % 10} for i in range(80)]

    def collate(batch):
        return torch.stack([each["image"] for each in batch]), torch.tensor([each["label"] for each in batch])

    loaders = {
        "test_loader": DataLoader(samples[:4], collate_fn=collate),
        "validation_loader": DataLoader(samples, batch_size=40, collate_fn=collate),
    }
    text = html.unescape(write(Branches(), tmp_path, loaders).read_text(encoding="utf-8"))
    reasons = re.findall(r'<h2 id="(.*?)">[^<]*</h2>\n<p>Left out: (.*?)</p>', text)
    assert [name for name, _ in reasons] == ["explanations", "receptive-field", "embedding"]
    assert (
        reasons[0][1]
        == reasons[1][1]
        == ("Receptive fields are derived for a chain of layers, and this model has branches.")
    )
    assert reasons[2][1] == "An embedding needs at least 5 images, not 4."
    assert "<title>A <small> network on the test set</title>" in text


@pytest.mark.usefixtures("_undrawn")
def test_the_range_test_starts_from_new_weights_the_same_each_time(tmp_path, loaders, calls):
    model, starts = create_model(hidden_sizes=()), []
    for seed in (1, 2):
        utils.set_seed(seed)
        text = write(model, tmp_path, loaders).read_text(encoding="utf-8")
        fresh, optimizer, batches, _ = calls["rate_range"]
        assert optimizer.param_groups[0]["params"][0] is fresh.layers[0].weight
        assert len(next(iter(batches))[0]) == 64
        starts.append(fresh.layers[0].weight.detach().cpu())
    assert "a learning rate of about 0.01 is a good start" in text
    assert torch.equal(*starts)
    assert not torch.equal(starts[0], model.layers[0].weight)


@pytest.mark.usefixtures("_undrawn")
def test_each_figure_gets_its_images(made, tmp_path, loaders, calls):
    model = made[0]
    write(model, tmp_path, loaders)
    answers = insights.predictions(model, loaders["test_loader"])
    sure, indices = answers.confidence.tolist(), range(120)
    mistakes = sorted((i for i in indices if not answers.right[i]), key=lambda i: -sure[i])
    shown = mistakes[:3] + [i for i in sorted(indices, key=lambda i: sure[i]) if i not in mistakes[:3]][:1]
    _, images, labels, maps = calls["explanations"]
    assert torch.equal(images, answers.images[shown])
    assert torch.equal(labels, answers.labels[shown])
    assert maps == ("grad_cam", "occlusion")
    assert calls["embedding"][1:] == (60,)
    assert calls["robustness"][2:] == (50,)
    assert torch.equal(calls["feature_maps"][1], answers.images[0])


@pytest.mark.usefixtures("_undrawn")
@pytest.mark.parametrize("figure", ["confusion", "calibration", "embedding"])
@pytest.mark.parametrize("fault", [ValueError, RuntimeError])
def test_a_fault_goes_through_and_leaves_an_older_page_whole(figure, fault, tmp_path, loaders, calls, monkeypatch):
    """A ValueError is no word for "does not apply": NumPy raises it for shapes that do not fit, too."""
    (tmp_path / "index.html").write_text("older")

    def broken(*_):
        raise fault("operands could not be broadcast together")

    monkeypatch.setattr(insights, figure, broken)
    with pytest.raises(fault, match="could not be broadcast"):
        write(create_model(hidden_sizes=()), tmp_path, loaders)
    assert (tmp_path / "index.html").read_text() == "older"
    assert [file.name for file in tmp_path.iterdir()] == ["index.html"]


def test_no_image_is_said_so(tmp_path):
    empty = DataLoader(TensorDataset(torch.zeros(0, 1, 28, 28), torch.zeros(0, dtype=torch.long)))
    with pytest.raises(ValueError, match="The data gave no image"):
        write(create_model(), tmp_path, {"test_loader": empty, "validation_loader": empty})
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("_undrawn")
def test_the_page_is_written_last_and_each_file_atomically(tmp_path, loaders, monkeypatch):
    written, kept = [], report.write_atomically
    monkeypatch.setattr(
        report, "write_atomically", lambda path, content: written.append(path.name) or kept(path, content)
    )
    write(create_model(hidden_sizes=()), tmp_path, loaders)
    assert written[-1] == "index.html"
    assert sorted(written) == sorted(file.name for file in tmp_path.iterdir())
