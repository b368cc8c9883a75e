"""What a network learned, and where it errs, as figures.

`predictions` runs the model over the data once; the figures about its answers share what it returns.
Each figure comes as `(figure, numbers)`, numbers in a dict, and none is shown. A model gives
log-probabilities `(N, 10)` for normalised images `(N, 1, 28, 28)`, as all of `model.py` do; it is
used as a copy, in evaluation mode and on the device where it is, so that it stays as it was. The
figures about its layers (`layers.py`) and its calibration (`calibration.py`) are passed on here.
"""

import copy
import math
import random
from contextlib import contextmanager
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import LogNorm
from matplotlib.patheffects import withStroke
from torch import nn
from torch.utils.data import Dataset

from calibration import calibration, fit_temperature, reliability, scale  # noqa: F401 (passed on)
from dataset import make_loader
from layers import (  # noqa: F401 (passed on)
    device_of,
    evaluation_copy,
    explanations,
    feature_maps,
    filters,
    grad_cam,
    occlusion,
    receptive_field,
)
from model import check_size
from plots import CURVES, STYLE, TEST_STYLE, VALUES
from utils import MEAN, STD, get_precision

# ------------------------------------------------------------------------------------------------
# The model's answers, computed once
# ------------------------------------------------------------------------------------------------


@dataclass
class Predictions:
    """A model's answers to a data set, on the CPU, in the loader's order; `seen[::2]` is a part of them.

    `images`: `(N, 1, 28, 28)`, normalised; `labels`: `(N,)`; `log_probabilities`: `(N, 10)` float32;
    `features`: `(N, D)`, what goes into the last linear layer, or None without one; `classes`: the labels' names.
    """

    images: torch.Tensor
    labels: torch.Tensor
    log_probabilities: torch.Tensor
    features: torch.Tensor | None
    classes: list

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        names = ("images", "labels", "log_probabilities", "features")
        parts = {name: getattr(self, name) for name in names}
        return replace(self, **{name: part[index] for name, part in parts.items() if part is not None})

    @property
    def predicted(self):
        """The most probable class of each image, `(N,)`."""
        return self.log_probabilities.argmax(dim=1)

    @property
    def confidence(self):
        """The probability of that class, `(N,)`."""
        return self.log_probabilities.exp().amax(dim=1)

    @property
    def right(self):
        """Whether it is the label, `(N,)`."""
        return self.predicted == self.labels


def _loader(data):
    return make_loader(data, {"batch_size": 500}) if isinstance(data, Dataset) else data


def _ready(model):
    """An evaluation copy in the memory format that `utils.test` uses."""
    layout = torch.contiguous_format if device_of(model).type == "mps" else torch.channels_last
    return evaluation_copy(model).to(memory_format=layout)


def _forward(model, images, precision=None):
    device = device_of(model)
    precision = precision or get_precision(device)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        return model(images.to(device)).float().cpu()


def predictions(model, data, *, precision=None):
    """Run the model over a loader, or a `DigitImages` whose transform normalises; return `Predictions`.

    `precision`: 'fp32' or 'bf16', by default what `utils.get_precision` says, as in `utils.test`.
    Raises ValueError when the data holds no image.
    """
    loader = _loader(data)
    model = _ready(model)
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    features = []
    for module in last:
        module.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].float().cpu()))
    batches = [(images.cpu(), labels.cpu(), _forward(model, images, precision)) for images, labels in loader]
    if not batches:
        raise ValueError("The data gave no image: is the data set empty, or drop_last on?")
    images, labels, outputs = (torch.cat(parts) for parts in zip(*batches, strict=True))
    classes = getattr(getattr(loader, "dataset", None), "classes", None) or [str(c) for c in range(outputs.shape[1])]
    return Predictions(images, labels, outputs, torch.cat(features) if features else None, classes)


def _not_empty(seen):
    if len(seen) == 0:
        raise ValueError("There are no predictions to show: give at least one image.")


# ------------------------------------------------------------------------------------------------
# Mistakes
# ------------------------------------------------------------------------------------------------


def confusion(seen, pairs=8):
    """The confusion matrix, precision, recall and F1 of each class, and the pairs most often confused.

    Returns `(figure, {"matrix": (10, 10) counts, rows true, columns predicted; "precision",
    "recall", "f1": (10,); "support": (10,) images a class; "pairs": [(true, predicted, count), …]})`,
    computed by scikit-learn; a class that is never predicted has precision 0.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support  # here: it takes a second

    _not_empty(seen)
    labels, predicted, classes = seen.labels.numpy(), seen.predicted.numpy(), range(len(seen.classes))
    matrix = confusion_matrix(labels, predicted, labels=classes)
    scores = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    numbers = dict(zip(("precision", "recall", "f1", "support"), scores, strict=True))
    off = matrix - np.diag(np.diag(matrix))
    order = [divmod(int(i), len(matrix)) for i in off.ravel().argsort(kind="stable")[::-1][:pairs]]
    numbers |= {"matrix": matrix, "pairs": [(t, p, int(off[t, p])) for t, p in order if off[t, p] > 0]}
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(11, 5.6), layout="constrained")
        grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1))
        left, top, bottom = (figure.add_subplot(part) for part in (grid[:, 0], grid[0, 1], grid[1, 1]))
        left.imshow(np.ma.masked_equal(matrix, 0), cmap=VALUES, norm=LogNorm(1, max(2, matrix.max())))
        bright = matrix > max(2, matrix.max()) ** 0.6
        for t, p in np.argwhere(matrix):
            left.text(p, t, matrix[t, p], ha="center", va="center", color="black" if bright[t, p] else "white")
        left.set(title=f"{int(np.trace(matrix)):,} of {len(seen):,} right", xlabel="predicted", ylabel="true")
        long = max(map(len, seen.classes)) > 2
        for ax, axis in ((left, "x"), (left, "y"), (top, "x")):
            ax.set(**{f"{axis}ticks": classes, f"{axis}ticklabels": seen.classes})
            ax.tick_params(axis, rotation=90 if long and axis == "x" else 0)
        left.grid(False)
        left.spines[:].set_visible(False)
        for name, shift, style in zip(("precision", "recall", "f1"), (-0.2, 0, 0.2), CURVES, strict=False):
            style = {**style, "linestyle": "none", "markersize": 6}
            top.plot(np.arange(len(matrix)) + shift, 100 * numbers[name], label=name.replace("f1", "F1"), **style)
        top.set(xlabel="class", ylabel="score (%)")
        top.legend(ncols=3, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1))
        names = [f"{seen.classes[t]} read as {seen.classes[p]}" for t, p, _ in numbers["pairs"]]
        bars = bottom.barh(names, [count for *_, count in numbers["pairs"]], color=TEST_STYLE["color"])
        bottom.bar_label(bars, padding=3)
        bottom.set(title="Most often confused" if names else "No mistake", xlabel="images")
        bottom.set(ylabel="true label, prediction")
        bottom.invert_yaxis()
        bottom.grid(axis="y", visible=False)
        bottom.xaxis.get_major_locator().set_params(integer=True)
    return figure, numbers


def gallery(seen, count=16):
    """The mistakes, most confident first, and the right answers, least confident first.

    At most `count` of each. Returns `(figure, {"mistakes": indices, "uncertain": indices})` into `seen`.
    """
    _not_empty(seen)
    order = seen.confidence.argsort(descending=True, stable=True)
    mistakes = order[~seen.right[order]]
    uncertain = order[seen.right[order]].flip(0)
    numbers = {"mistakes": mistakes[:count].tolist(), "uncertain": uncertain[:count].tolist()}
    rows = [max(1, -(-len(indices) // 8)) for indices in numbers.values()]
    titles = (
        f"{len(mistakes):,} mistakes of {len(seen):,}: the most confident ones" if len(mistakes) else "No mistake",
        "Right, but least certain, and what was next",
    )
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(10, 1.75 * sum(rows) + 0.7), layout="constrained")
        parts = figure.subfigures(2, 1, height_ratios=rows)
        for part, title, indices, height in zip(parts, titles, numbers.values(), rows, strict=True):
            part.suptitle(title)
            axes = part.subplots(height, 8, squeeze=False)
            for ax in axes.flat:
                ax.axis("off")
            for ax, i in zip(axes.flat, indices, strict=False):
                ax.imshow(seen.images[i, 0].numpy(), cmap="gray")
                others = seen.log_probabilities[i].clone()
                others[seen.predicted[i]] = -math.inf  # of two equal ones, topk might name the other first
                first, second = seen.classes[seen.predicted[i]], seen.classes[others.argmax()]
                true = seen.classes[seen.labels[i]]
                words = (f"true {true},", f"read {first}") if first != true else (f"{true}, next", f"{second}")
                name = " ".join(words) if len(true + first) < 4 else "\n".join(words)
                ax.set_title(f"{name}\n{100 * seen.confidence[i]:.1f} %", fontsize="small")
    return figure, numbers


# ------------------------------------------------------------------------------------------------
# The embedding
# ------------------------------------------------------------------------------------------------


def embedding(seen, images=2000):
    """The features before the last layer in two dimensions, each image drawn as its true digit.

    The first `images` of them, by t-SNE (van der Maaten and Hinton 2008) from the two principal
    components, the same at every run. Returns `(figure, {"points": (n, 2), "labels": (n,)})`. Raises ValueError for a
    model without a linear layer, or fewer than 5 images.
    """
    from sklearn.manifold import TSNE

    if seen.features is None:
        raise ValueError("The embedding shows what goes into the last linear layer, and this model has none.")
    check_size("images", images)
    part = seen[:images]
    if len(part) < 5:
        raise ValueError(f"An embedding needs at least 5 images, not {len(part)}.")
    perplexity = min(30, (len(part) - 1) / 3)
    points = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(part.features.numpy())
    colours = plt.get_cmap(VALUES)(np.linspace(0, 0.9, len(seen.classes)))
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(7, 6.4), layout="constrained")
        for i, name in enumerate(seen.classes):
            x, y = points[(part.labels == i).numpy()].T
            marker = f"${name}$" if len(name) == 1 else f"${i}$"
            ax.scatter(x, y, s=28, marker=marker, color=colours[i], linewidths=0)
            if len(x):
                edge = [withStroke(linewidth=4, foreground="white")]
                at = {"ha": "center", "va": "center", "path_effects": edge}
                size = "xx-large" if len(name) == 1 else "medium"
                ax.text(np.median(x), np.median(y), name, size=size, weight="bold", **at)
        x, y = points[~part.right.numpy()].T
        label = f"the {len(x)} misread among them" if len(x) else "none is misread"
        ax.scatter(x, y, s=110, facecolors="none", edgecolors="black", label=label)
        ax.set(title=f"What goes into the last layer, {len(part):,} images in two dimensions")
        ax.set(xlabel="first t-SNE dimension", ylabel="second t-SNE dimension")
        ax.legend()
    return figure, {"points": points, "labels": part.labels.numpy()}


# ------------------------------------------------------------------------------------------------
# Robustness
# ------------------------------------------------------------------------------------------------


def _rotate(images, degrees, generator):
    return _affine(images, [(degrees, 0, 0, 1), (-degrees, 0, 0, 1)])


def _shift(images, pixels, generator):
    return _affine(images, [(0, pixels, 0, 1), (0, -pixels, 0, 1), (0, 0, pixels, 1), (0, 0, -pixels, 1)])


def _zoom(images, factor, generator):
    return _affine(images, [(0, 0, 0, factor)])


def _affine(images, kinds):
    """Each (degrees, x, y, factor) of `kinds` for its share of the images, in turn."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import affine

    out = torch.empty_like(images)
    for i, (degrees, x, y, factor) in enumerate(kinds):
        part = slice(i, None, len(kinds))
        out[part] = affine(images[part], degrees, [x, y], factor, [0.0, 0.0], InterpolationMode.BILINEAR)
    return out


def _blur(images, sigma, generator):
    from torchvision.transforms.v2.functional import gaussian_blur

    return gaussian_blur(images, 2 * math.ceil(3 * sigma) + 1, sigma) if sigma else images


def _noise(images, sigma, generator):
    return images + sigma * torch.randn(images.shape, generator=generator)


def _contrast(images, factor, generator):
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + factor * (images - mean)


DISTORTIONS = {  # name → (function, unit, levels; the one that changes nothing first)
    "rotation": (_rotate, "degrees, to either side", (0, 10, 20, 30, 45, 60, 90)),
    "shift": (_shift, "pixels, along an axis", (0, 1, 2, 3, 4, 6, 8)),
    "zoom": (_zoom, "factor", (1.0, 0.4, 0.55, 0.7, 0.85, 1.2, 1.5, 1.8)),
    "blur": (_blur, "σ of the Gaussian, in pixels", (0, 0.5, 1, 1.5, 2, 3)),
    "noise": (_noise, "σ, of black to white", (0, 0.1, 0.2, 0.3, 0.45, 0.6)),
    "contrast": (_contrast, "factor", (1.0, 0.7, 0.5, 0.35, 0.2, 0.1, 0.05)),
}


def robustness(models, data, images=1000, *, mean=MEAN, std=STD):
    """Accuracy against the strength of six distortions, a curve for each model.

    `models`: name → model; `data`: a loader, a `DigitImages` or `Predictions`, of which the
    first `images` are used, normalised by `mean` and `std`. The images in [0, 1] are rotated,
    shifted, zoomed, blurred, given Gaussian noise (the same for every model), or their contrast
    about their mean is scaled; cut to [0, 1] and normalised again (after Hendrycks and Dietterich
    2019, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations). Returns
    `(figure, {distortion: {"levels": […], model name: accuracies in %}})`. Raises ValueError when
    there is no model, more than four, or no image.
    """
    if not 1 <= len(models) <= len(CURVES):
        raise ValueError(f"robustness draws 1 to {len(CURVES)} models, not {len(models)}.")
    if not isinstance(data, Predictions):
        data = predictions(next(iter(models.values())), data)
    _not_empty(data)
    check_size("images", images)
    pixels, labels = data.images[:images] * std + mean, data.labels[:images]
    copies = {name: _ready(model) for name, model in models.items()}
    numbers = {}
    for name, (distort, _, levels) in DISTORTIONS.items():
        numbers[name] = {"levels": sorted(levels)} | {model: [] for model in copies}
        for level in numbers[name]["levels"]:
            distorted = distort(pixels, level, torch.Generator().manual_seed(0)).clamp(0, 1)
            for model, network in copies.items():
                parts = [_forward(network, (part - mean) / std) for part in distorted.split(500)]
                right = (torch.cat(parts).argmax(dim=1) == labels).double().mean().item()
                numbers[name][model].append(100 * right)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 3, figsize=(11, 6), sharey=True, layout="constrained")
        for ax, (name, found) in zip(axes.flat, numbers.items(), strict=True):
            for model, style in zip(copies, CURVES, strict=False):
                ax.plot(found["levels"], found[model], label=model, **{**style, "markersize": 4})
            _, unit, levels = DISTORTIONS[name]
            ax.axvline(levels[0], color="gray", linewidth=1, linestyle=":")
            ax.set(title=name.capitalize(), xlabel=f"{name} ({unit})", ylabel="accuracy (%)", ylim=(0, 103))
        axes[0, 0].legend(loc="lower left")
        figure.suptitle(f"Accuracy on {len(labels):,} distorted images (dotted: as they are)")
    return figure, numbers


# ------------------------------------------------------------------------------------------------
# Learning-rate range test
# ------------------------------------------------------------------------------------------------


@contextmanager
def _same_random_state(loader):
    """Python's, NumPy's, PyTorch's and the loader's random state are afterwards as they were."""
    before = random.getstate(), np.random.get_state()
    parts = loader, getattr(loader, "sampler", None)
    generators = [part.generator for part in parts if getattr(part, "generator", None) is not None]
    states = [generator.get_state() for generator in generators]
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)


def _endless(loader):
    while True:
        batch = None
        for batch in loader:
            yield batch
        if batch is None:
            raise ValueError("The data gave no image: is the data set empty, or drop_last on?")


def rate_range(model, optimizer, data, criterion, *, low=1e-5, high=1.0, steps=100):
    """The learning-rate range test: the loss while the rate rises exponentially from `low` to `high`.

    A copy of the model is trained for `steps` batches (again from the start of `data` if it has
    fewer) with a copy of the optimizer; it stops early when the smoothed loss is four times its
    least, or not finite (Smith 2017, Cyclical Learning Rates for Training Neural Networks). The
    suggested rate is a tenth of the one where that loss is least, which is near the edge of
    divergence (Howard and Gugger 2020, Deep Learning for Coders). Model, optimizer and random state
    are afterwards as they were.

    Returns `(figure, {"rates", "losses", "smoothed", "suggested"})`. Raises ValueError for data
    without a batch, an odd range of rates, or a loss that is not finite from the start.
    """
    if not 0 < low < high or steps < 10:
        raise ValueError(f"The range test needs 0 < low < high and 10 steps, not {low}, {high} and {steps}.")
    trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    if not trained <= set(model.parameters()):
        raise ValueError("The optimizer trains other parameters than this model's: make it from model.parameters().")
    loader, device = _loader(data), device_of(model)
    precision = get_precision(device)
    losses, smoothed, mean = [], [], 0.0
    rates = np.geomspace(low, high, steps)
    with _same_random_state(loader):
        model, optimizer = copy.deepcopy((model, optimizer))  # together, so that it holds the copy's weights
        model.train()
        for (images, labels), rate in zip(_endless(loader), rates, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = float(rate)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                outputs = model(images.to(device))
            loss = criterion(outputs.float(), labels.to(device))
            mean = 0.9 * mean + 0.1 * loss.item()
            if not math.isfinite(loss.item()):
                break
            losses.append(loss.item())
            smoothed.append(mean / (1 - 0.9 ** len(losses)))  # the mean starts at 0, which this makes good
            if smoothed[-1] > 4 * min(smoothed):
                break
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    if len(losses) < 3:
        raise ValueError("The loss is not finite from the start: give a smaller `low`, or look at the weights.")
    rates, smoothed = rates[: len(losses)], np.array(smoothed)
    suggested = float(rates[smoothed.argmin()]) / 10
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
        ax.plot(rates, losses, color="lightgray", linewidth=1, label="each batch")
        ax.plot(rates, smoothed, label="smoothed", **{**TEST_STYLE, "marker": ""})
        ax.axvline(suggested, color="black", linestyle="--", label=f"suggested: {suggested:.2g}")
        ax.set(title="Learning-rate range test", xlabel="learning rate", ylabel="loss", xscale="log")
        ax.set_ylim(0, 1.5 * max(smoothed[0], np.median(smoothed)))
        ax.legend(loc="lower left")
    return figure, {"rates": rates, "losses": np.array(losses), "smoothed": smoothed, "suggested": suggested}
