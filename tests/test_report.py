"""The report: whole, self-contained, and shown by a browser without a complaint."""

import html
import re
import shutil

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import insights
import utils
from insights import report
from model import CNN, create_model

CPU = torch.device("cpu")
STEMS = [
    *("confusion", "gallery", "calibration", "filters", "feature-maps", "explanations"),
    *("receptive-field", "embedding", "robustness", "rate-range"),
]


def write(model, folder, name="A <small> network"):
    loaders = {
        f"{split}_loader": utils.get_MNISTdataset_with_loader(
            split, {"batch_size": 100}, dataset="digits", holdout=300 if split == "validation" else 0
        )
        for split in ("test", "validation")
    }
    return report.write_report(model, folder, **loaders, device=CPU, name=name), loaders


@pytest.fixture(scope="module", autouse=True)
def _few():
    """Fewer images than a real report shows, for the tests' time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "EMBEDDED", 100)
        patch.setattr(report, "DISTORTED", 50)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A convolutional network's report: (model, page, loaders)."""
    utils.set_seed(0)
    model = CNN()
    loader = utils.get_MNISTdataset_with_loader("train", {"batch_size": 32, "shuffle": True}, dataset="digits")
    utils.train(model, CPU, loader, utils.get_optimizer(model, "Adam", 0.001), utils.get_loss())
    before, state = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    page, loaders = write(model, tmp_path_factory.mktemp("reports") / "new" / "report")
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    return model, page, loaders


def cells(page, caption):
    """The rows of a table of the page: lists of text."""
    table = re.search(rf"<caption>{caption}</caption>(.*?)</table>", page.read_text(encoding="utf-8"), re.DOTALL)[1]
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    return [[html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows[1:]]


def test_all_figures_and_the_metrics_are_there(made):
    model, page, loaders = made
    text = page.read_text(encoding="utf-8")
    assert page.name == "index.html"
    assert sorted(file.name for file in page.parent.iterdir()) == sorted([*(f"{s}.png" for s in STEMS), "index.html"])
    assert text.count("<img ") == len(STEMS) == len(re.findall(r'alt="[^"]{20,}"', text))
    assert "Left out" not in text
    assert "<title>A &lt;small&gt; network on scikit-learn digits</title>" in text
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    loss, accuracy = utils.test(model, CPU, loaders["test_loader"], utils.get_loss())
    overall = dict(cells(page, "Overall"))
    assert overall["accuracy"] == f"{accuracy:.2f} %"
    assert float(overall["test loss (mean negative log-likelihood)"]) == pytest.approx(loss, abs=1e-3)
    assert overall["parameters"] == "421,642"
    seen = insights.predictions(model, loaders["test_loader"])
    classes = cells(page, "Each class")
    assert [int(row[-1]) for row in classes] == torch.bincount(seen.labels).tolist()
    right = ((seen.predicted == 3) & (seen.labels == 3)).sum() / (seen.labels == 3).sum()
    assert classes[3][2] == f"{100 * right:.2f} %"
    true, predicted, count = map(int, cells(page, "Most often confused")[0])
    assert ((seen.labels == true) & (seen.predicted == predicted)).sum() == count
    fields = cells(page, "In positions and pixels along a side")
    assert [row[-1] for row in fields] == ["3", "4", "8", "10", "34", "34"]


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
    assert len(widths) == len(STEMS)
    assert min(widths) > 300
    assert not too_wide


def test_what_does_not_apply_is_left_out_and_said_so(tmp_path):
    page, _ = write(create_model(), tmp_path)
    text = html.unescape(page.read_text(encoding="utf-8"))
    assert text.count("Left out:") == 2
    assert "Left out: Filters need a convolution, and this model has none" in text
    assert "Left out: A receptive field needs a convolution, and this model has none" in text
    assert "Grad-CAM is left out, since this model has no convolution." in text
    assert not (tmp_path / "filters.png").exists()


def test_a_failure_leaves_an_older_page_whole(tmp_path, monkeypatch):
    (tmp_path / "index.html").write_text("older")
    empty = DataLoader(TensorDataset(torch.zeros(0, 1, 28, 28), torch.zeros(0, dtype=torch.long)))
    loaders = {"test_loader": empty, "validation_loader": empty}
    with pytest.raises(ValueError, match="The data gave no image"):
        report.write_report(create_model(), tmp_path, **loaders, device=CPU, name="x")

    def broken(*_):
        raise RuntimeError("a fault")

    monkeypatch.setattr(insights, "embedding", broken)
    with pytest.raises(RuntimeError, match="a fault"):
        write(create_model(), tmp_path)
    assert (tmp_path / "index.html").read_text() == "older"
    assert [file.name for file in tmp_path.iterdir()] == ["index.html"]
