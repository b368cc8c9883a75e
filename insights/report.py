"""All of a model's insights in a folder: every figure as PNG, and one HTML page that needs nothing else."""

import base64
import copy
import html
import io
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch.utils.data import DataLoader

import insights
from checkpoint import write_atomically
from utils import MEAN, STD, get_loss, get_optimizer

EMBEDDED, DISTORTED = 2000, 1000  # images: enough to see, and the page is done in seconds

STYLE = """
:root { color-scheme: light dark; font-family: system-ui, sans-serif; line-height: 1.5 }
body { margin: 0 auto; max-width: 60rem; padding: 1rem }
figure { margin: 1rem 0 }
img { max-width: 100%; height: auto; background: white }
.wide { overflow-x: auto }
table { border-collapse: collapse; margin: 1rem 0 }
caption, th:first-child, td:first-child { text-align: left }
th, td { border-bottom: 1px solid gray; padding: 0.2rem 0.8rem; text-align: right }
"""


def write_report(model, folder, *, test_loader, validation_loader, device, name):
    """Write each figure as PNG and `index.html`, with the metrics, into `folder`; return the page's path.

    The page holds its pictures itself and loads nothing. `test_loader`: what the model is measured
    on; `validation_loader`: other images, that the model was not trained on, to fit the temperature;
    both normalised as `model.normalisation` says, else as `utils` does by default; `name`: what to
    call the model. What does not apply to it (filters of a network without convolutions, say) is
    left out, which the page says. Everything is computed before anything is written, and the page is
    replaced last, whole. Raises ValueError when a loader gives no image, OSError when the folder can't be written.
    """
    model = copy.deepcopy(model).to(device)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the same report each time
        seen = insights.predictions(model, test_loader)
        validation = insights.predictions(model, validation_loader)
        data = getattr(test_loader.dataset, "name", "the test set")
        title = f"{name} on {data}"
        sections, pictures, found = [], {}, {}
        contents = [("metrics", "Metrics")]
        for stem, heading, alt, caption, draw in _figures(model, seen, validation, validation_loader):
            contents.append((stem, heading))
            try:
                figure, found[stem] = draw()
            except ValueError as problem:  # each says in one sentence what the model or the data lacks
                sections.append(_section(stem, heading, f"<p>Left out: {html.escape(str(problem))}</p>"))
                continue
            pictures[f"{stem}.png"] = picture = _png(figure)
            source = base64.b64encode(picture).decode()
            image = f'<img src="data:image/png;base64,{source}" alt="{html.escape(alt)}">'
            text = html.escape(caption(found[stem]) if callable(caption) else caption)
            content = f"<figure>{image}<figcaption>{text}</figcaption></figure>"
            content += _layers(found[stem]) if stem == "receptive-field" else ""
            sections.append(_section(stem, heading, content))
    page = _page(title, contents, [_summary(model, seen, found), *sections])
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in pictures.items():
        write_atomically(folder / file, content)
    write_atomically(folder / "index.html", page.encode())
    return folder / "index.html"


def _figures(model, seen, validation, validation_loader):
    """(file stem, heading, alternative text, caption or a function of the numbers, function that draws)."""
    mistakes = (~seen.right).nonzero().flatten()
    shown = mistakes[seen.confidence[mistakes].argsort(descending=True)][:3].tolist()
    shown += [i for i in seen.confidence.argsort().tolist() if i not in shown][: 4 - len(shown)]
    mean, std = getattr(model, "normalisation", (MEAN, STD))
    convolutional = any(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    maps = ("grad_cam", "occlusion") if convolutional else ("occlusion",)
    return [
        (
            "confusion",
            "Which digits it confuses",
            "A matrix of counts, true digit by predicted digit; precision, recall and F1 of each; bars of confusions.",
            f"All {len(seen):,} test images: counts by true and predicted label, the three scores of each"
            " class, and the confusions that occur most often.",
            lambda: insights.confusion(seen),
        ),
        (
            "gallery",
            "Its mistakes, and where it was least certain",
            "Digits that were read wrongly, and digits that were read rightly with a low probability.",
            "Above, the mistakes in which it was most confident; below, the right answers with the least"
            " probability, each with the label that came second.",
            lambda: insights.gallery(seen),
        ),
        (
            "calibration",
            "Is it right as often as it says?",
            "Accuracy against confidence, before and after temperature scaling, over a histogram of confidence.",
            lambda numbers: (
                "On the diagonal the probabilities can be taken at their word; bins of few images scatter."
                f" The temperature {numbers['temperature']:.3f}, fitted on {len(validation):,} validation"
                f" images, takes the expected calibration error from {100 * numbers['before']['ece']:.2f} %"
                f" to {100 * numbers['after']['ece']:.2f} %."
            ),
            lambda: insights.calibration(seen, validation),
        ),
        (
            "filters",
            "Filters of the first layer",
            "The weights of the first convolution as small images.",
            "Each pattern is what one channel looks for, light for ink and dark for its absence.",
            lambda: insights.filters(model),
        ),
        (
            "feature-maps",
            "One digit, layer by layer",
            "The outputs of each layer for the first test image.",
            "The first test image; of each layer the maps that vary most over the image, after the activation.",
            lambda: insights.feature_maps(model, seen.images[0]),
        ),
        (
            "explanations",
            "Which pixels speak for the answer",
            f"Four digits with their {'Grad-CAM and ' if convolutional else ''}occlusion maps and probabilities.",
            ("" if convolutional else "Grad-CAM is left out, since this model has no convolution. ")
            + "The most confident mistakes first, if there are any. Light is where the prediction comes from:"
            + (" by the gradient at the last convolution (Grad-CAM);" if convolutional else "")
            + " by how far its log-probability falls when a patch there is blackened (occlusion).",
            lambda: insights.explanations(model, seen.images[shown], seen.labels[shown], maps=maps),
        ),
        (
            "receptive-field",
            "How much of the image a layer sees",
            "A table of the layers and bars of their receptive fields.",
            "The square of pixels that one output of each layer depends on.",
            lambda: insights.receptive_field(model),
        ),
        (
            "embedding",
            "The digits as the last layer meets them",
            "Points in two dimensions, each drawn as its digit, in groups; mistakes are circled.",
            lambda numbers: f"The first {len(numbers['labels']):,} test images, by t-SNE.",
            lambda: insights.embedding(seen, EMBEDDED),
        ),
        (
            "robustness",
            "What it withstands",
            "Six curves of accuracy against the strength of a distortion.",
            f"On the first {min(DISTORTED, len(seen)):,} test images.",
            lambda: insights.robustness({"this model": model}, seen, DISTORTED, mean=mean, std=std),
        ),
        (
            "rate-range",
            "A learning rate for this architecture",
            "Loss against a rising learning rate.",
            lambda numbers: (
                "A range test with new weights, AdamW and batches of 64 validation images: a rate of about"
                f" {numbers['suggested']:.2g} is a good start."
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


def _png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------------
# HTML
# ------------------------------------------------------------------------------------------------


def _summary(model, seen, found):
    scores, calibration = found["confusion"], found["calibration"]
    overall = [
        ("test images", f"{len(seen):,}"),
        ("parameters", f"{sum(p.numel() for p in model.parameters()):,}"),
        ("accuracy", f"{100 * seen.right.double().mean():.2f} %"),
        ("mistakes", f"{int((~seen.right).sum()):,}"),
        ("test loss (mean negative log-likelihood)", f"{calibration['nll_before']:.4f}"),
        ("expected calibration error", f"{100 * calibration['before']['ece']:.2f} %"),
        (
            f"the same after scaling by the temperature {calibration['temperature']:.3f}",
            f"{100 * calibration['after']['ece']:.2f} %",
        ),
    ]
    digits = [
        (name, *(f"{100 * scores[score][i]:.2f} %" for score in ("precision", "recall", "f1")), scores["support"][i])
        for i, name in enumerate(seen.classes)
    ]
    pairs = [(seen.classes[true], seen.classes[predicted], count) for true, predicted, count in scores["pairs"]]
    return _section(
        "metrics",
        "Metrics",
        _table("Overall", ("measure", "value"), overall)
        + _table("Each class", ("class", "precision", "recall", "F1", "images"), digits)
        + _table("Most often confused", ("true", "predicted", "images"), pairs),
    )


def _layers(numbers):
    rows = [
        (row["name"], *(row[key] for key in ("kernel", "stride", "jump", "output", "field")))
        for row in numbers["layers"]
    ]
    heads = ("layer", "kernel", "stride", "jump", "output size", "receptive field")
    return _table("In positions and pixels along a side", heads, rows)


def _table(caption, heads, rows):
    head = "".join(f'<th scope="col">{html.escape(each)}</th>' for each in heads)
    body = "".join(
        f'<tr><th scope="row">{html.escape(str(first))}</th>'
        + "".join(f"<td>{html.escape(str(each))}</td>" for each in rest)
        + "</tr>\n"
        for first, *rest in rows
    )
    return (
        f'<div class="wide"><table><caption>{html.escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
    )


def _section(stem, heading, content):
    return f'<section aria-labelledby="{stem}">\n<h2 id="{stem}">{html.escape(heading)}</h2>\n{content}</section>\n'


def _page(title, contents, sections):
    title = html.escape(title)
    links = "".join(f'<li><a href="#{stem}">{html.escape(heading)}</a></li>\n' for stem, heading in contents)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<header><h1>{title}</h1></header>
<nav aria-label="Contents"><ul>
{links}</ul></nav>
<main>
{"".join(sections)}</main>
</body>
</html>
"""
