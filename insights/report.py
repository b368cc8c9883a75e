"""All of a model's insights in a folder: every figure as PNG, and one HTML page that needs nothing else."""

import base64
import copy
import io
from dataclasses import dataclass
from pathlib import Path

import jinja2
import matplotlib.pyplot as plt
import torch
from torch.utils.data import DataLoader

import insights
from checkpoint import write_atomically
from utils import get_loss, get_optimizer

EMBEDDED, DISTORTED = 2000, 1000  # images: enough to see, and the page is done in seconds


@dataclass
class Section:
    """A section of the page, as `report.html` shows it: a figure, tables, or the reason why it is left out.

    `name`: of the PNG file and the link; `picture`: a PNG, base64; `alt`: its alternative text; `tables`:
    `(caption, column heads, rows)`, the first cell of a row naming it.
    """

    name: str
    heading: str
    picture: str = ""
    alt: str = ""
    caption: str = ""
    tables: tuple = ()
    left_out: str = ""


def write_report(model, folder, *, test_loader, validation_loader, device, name):
    """Write each figure as PNG and `index.html`, with the metrics, into `folder`; return the page's path.

    The page holds its pictures itself and loads nothing. `test_loader`: what the model is measured
    on; `validation_loader`: other images, that the model was not trained on, to fit the temperature;
    both normalised as `model.normalisation` says, else as `utils` does by default; `name`: what to
    call the model. A figure that does not apply to it (filters of a network without convolutions, say)
    is left out, and the page says why. Everything is computed before anything is written, and the page is
    replaced last, whole. Raises ValueError when a loader gives no image, OSError when the folder can't be written.
    """
    model = copy.deepcopy(model).to(device)
    sections, pictures, found = [], {}, {}
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the same report each time
        answers = insights.predictions(model, test_loader)
        validation = insights.predictions(model, validation_loader)
        for section, caption, draw in _figures(model, answers, validation, validation_loader):
            sections.append(section)
            try:
                figure, found[section.name] = draw()
            except insights.DoesNotApply as reason:  # any other error is a fault, and no page should hide it
                section.left_out = str(reason)
                continue
            pictures[f"{section.name}.png"] = picture = _png(figure)
            section.picture = base64.b64encode(picture).decode()
            section.caption = caption(found[section.name]) if callable(caption) else caption
            if section.name == "receptive-field":
                section.tables = (_layers(found[section.name]),)
    title = f"{name} on {getattr(test_loader.dataset, 'name', 'the test set')}"
    page = _page(title, [_metrics(model, answers, found), *sections])
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in pictures.items():
        write_atomically(folder / file, content)
    write_atomically(folder / "index.html", page.encode())
    return folder / "index.html"


def _figures(model, answers, validation, validation_loader):
    """(section, caption or a function of the figure's numbers, function that draws the figure) of each figure."""
    mistakes = (~answers.right).nonzero().flatten()
    shown = mistakes[answers.confidence[mistakes].argsort(descending=True)][:3].tolist()
    shown += [i for i in answers.confidence.argsort().tolist() if i not in shown][: 4 - len(shown)]
    convolutional = any(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    maps = ("grad_cam", "occlusion") if convolutional else ("occlusion",)
    return [
        (
            Section(
                "confusion",
                "Confusion matrix",
                alt="A matrix of counts, true digit by predicted digit; precision, recall and F1 of each class; bars of"
                " the most frequent confusions.",
            ),
            f"All {len(answers):,} test images: counts by true and predicted label, the three scores of each"
            " class, and the most frequent confusions.",
            lambda: insights.confusion(answers),
        ),
        (
            Section(
                "gallery",
                "Mistakes, and the least confident correct predictions",
                alt="Misclassified digits, and correctly classified digits of low confidence.",
            ),
            "Above, the most confident mistakes; below, the least confident correct predictions, each with the second"
            " most probable class. Each percentage is the probability of the predicted class.",
            lambda: insights.gallery(answers),
        ),
        (
            Section(
                "calibration",
                "Calibration",
                alt="Accuracy against confidence, before and after temperature scaling; a histogram of confidence.",
            ),
            lambda numbers: (
                "On the diagonal, confidence equals accuracy; bins of few images scatter."
                f" The temperature {numbers['temperature']:.3f}, fitted on {len(validation):,} validation"
                f" images, changes the expected calibration error (ECE) from {100 * numbers['before']['ece']:.2f} %"
                f" to {100 * numbers['after']['ece']:.2f} %."
            ),
            lambda: insights.calibration(answers, validation),
        ),
        (
            Section(
                "filters",
                "Filters of the first convolution",
                alt="The weights of the first convolution as small images.",
            ),
            "A filter responds to bright pixels where its weights are positive (red) and to dark ones where they are"
            " negative (blue).",
            lambda: insights.filters(model),
        ),
        (
            Section("feature-maps", "Feature maps", alt="The outputs of each layer for the first test image."),
            "The first test image: of each layer the maps of largest variance over the image, after the activation.",
            lambda: insights.feature_maps(model, answers.images[0]),
        ),
        (
            Section(
                "explanations",
                "Grad-CAM and occlusion" if convolutional else "Occlusion",
                alt=f"Four digits, their {'Grad-CAM and ' if convolutional else ''}occlusion maps and probabilities.",
            ),
            ("" if convolutional else "Grad-CAM is left out, since this model has no convolution. ")
            + "The most confident mistakes first, if there are any. Bright regions support the predicted class:"
            + (" by the gradient at the last convolution (Grad-CAM);" if convolutional else "")
            + " by how far its log-probability falls when a patch there is blackened (occlusion).",
            lambda: insights.explanations(model, answers.images[shown], answers.labels[shown], maps=maps),
        ),
        (
            Section("receptive-field", "Receptive fields", alt="A table of the layers and bars of receptive fields."),
            "The square of pixels that one output of each layer depends on.",
            lambda: insights.receptive_field(model),
        ),
        (
            Section(
                "embedding",
                "Embedding",
                alt="Points in two dimensions, each drawn as its digit, in groups; mistakes are circled.",
            ),
            lambda numbers: (
                f"The inputs of the last linear layer for the first {len(numbers['labels']):,} test images, in two"
                " dimensions by t-SNE."
            ),
            lambda: insights.embedding(answers, EMBEDDED),
        ),
        (
            Section(
                "robustness",
                "Robustness to distortions",
                alt="Six plots of accuracy against the strength of a distortion.",
            ),
            f"On the first {min(DISTORTED, len(answers)):,} test images.",
            lambda: insights.robustness({"this model": model}, answers, DISTORTED),
        ),
        (
            Section("rate-range", "Learning-rate range test", alt="Loss against a rising learning rate."),
            lambda numbers: (
                "The same architecture with new weights, AdamW and batches of 64 validation images: a learning rate of"
                f" about {numbers['suggested']:.2g} is a good start."
            ),
            lambda: _range_test(model, validation_loader),
        ),
    ]


def _range_test(model, loader):
    fresh = copy.deepcopy(model)
    for module in fresh.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    batches = DataLoader(loader.dataset, batch_size=64, shuffle=True, collate_fn=loader.collate_fn)
    return insights.rate_range(fresh, get_optimizer(fresh, "AdamW", 0.001), batches, get_loss())


def _metrics(model, answers, found):
    scores, calibration = found["confusion"], found["calibration"]
    overall = [
        ("test images", f"{len(answers):,}"),
        ("parameters", f"{sum(p.numel() for p in model.parameters()):,}"),
        ("accuracy", f"{100 * answers.right.double().mean():.2f} %"),
        ("mistakes", f"{int((~answers.right).sum()):,}"),
        ("test loss (mean negative log-likelihood)", f"{calibration['nll_before']:.4f}"),
        ("expected calibration error", f"{100 * calibration['before']['ece']:.2f} %"),
        (
            f"the same after temperature scaling, T = {calibration['temperature']:.3f}",
            f"{100 * calibration['after']['ece']:.2f} %",
        ),
    ]
    classes = [
        (name, *(f"{100 * scores[score][i]:.2f} %" for score in ("precision", "recall", "f1")), scores["support"][i])
        for i, name in enumerate(answers.classes)
    ]
    pairs = [(answers.classes[true], answers.classes[predicted], count) for true, predicted, count in scores["pairs"]]
    tables = (
        ("Overall", ("measure", "value"), overall),
        ("Each class", ("class", "precision", "recall", "F1", "images"), classes),
        ("Most frequent confusions", ("true", "predicted", "images"), pairs),
    )
    return Section("metrics", "Metrics", tables=tables)


def _layers(numbers):
    rows = [
        (row["name"], *(row[key] for key in ("kernel", "stride", "jump", "output", "field")))
        for row in numbers["layers"]
    ]
    heads = ("layer", "kernel", "stride", "jump", "output size", "receptive field")
    return "In positions and pixels along a side", heads, rows


def _png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()


def _page(title, sections):
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(title=title, sections=sections)
