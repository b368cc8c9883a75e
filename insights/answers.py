"""A model's answers, computed once, and figures about them: confusion matrix, mistakes, embedding."""

import math
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import LogNorm
from matplotlib.patheffects import withStroke
from torch import nn
from torch.utils.data import Dataset

from checks import whole_number
from dataset import make_loader
from insights.inside import DoesNotApply, device_of, evaluation_copy
from plots import CURVES, TEST_STYLE, VALUES, styled
from utils import autocast, memory_format

CLASSES = "tab10"  # the colour map of ten classes: qualitative, since none is more than another

# ------------------------------------------------------------------------------------------------
# Predictions
# ------------------------------------------------------------------------------------------------


@dataclass
class Predictions:
    """A model's answers to a data set, on the CPU, in the loader's order; `answers[::2]` is a part of them.

    `images`: `(N, 1, 28, 28)`, normalised; `labels`: `(N,)`; `log_probabilities`: `(N, 10)` float32;
    `features`: `(N, D)`, the inputs of the last linear layer, or None without one; `classes`: the labels' names.
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
        """The most probable class of each image, `(N,)`; of equal ones the first."""
        return self.log_probabilities.argmax(dim=1)

    @property
    def confidence(self):
        """The probability of the most probable class, `(N,)`."""
        return self.log_probabilities.exp().amax(dim=1)

    @property
    def right(self):
        """Whether the most probable class is the label, `(N,)`."""
        return self.predicted == self.labels


def _loader(data):
    return make_loader(data, {"batch_size": 500}) if isinstance(data, Dataset) else data


def ready(model):
    """An evaluation copy in the memory format that `utils.test` uses."""
    return evaluation_copy(model).to(memory_format=memory_format(device_of(model)))


def forward(model, images, precision=None):
    """The model's log-probabilities for a batch, `(N, 10)` float32 on the CPU."""
    device = device_of(model)
    with torch.no_grad(), autocast(device, precision):
        return model(images.to(device)).float().cpu()


def predictions(model, data, *, precision=None):
    """Run the model over a loader, or a `DigitImages` whose transform normalises; return `Predictions`.

    `precision`: 'fp32' or 'bf16', by default what `utils.get_precision` says, as in `utils.test`.
    Raises ValueError when the data holds no image.
    """
    loader = _loader(data)
    model = ready(model)
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    features = []
    for module in last:
        module.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].float().cpu()))
    batches = [(images.cpu(), labels.cpu(), forward(model, images, precision)) for images, labels in loader]
    if not batches:
        raise ValueError("The data gave no image: is the data set empty, or drop_last on?")
    images, labels, outputs = (torch.cat(parts) for parts in zip(*batches, strict=True))
    classes = getattr(getattr(loader, "dataset", None), "classes", None) or [str(c) for c in range(outputs.shape[1])]
    return Predictions(images, labels, outputs, torch.cat(features) if features else None, classes)


def not_empty(answers):
    if len(answers) == 0:
        raise ValueError("There are no predictions to show: give at least one image.")


# ------------------------------------------------------------------------------------------------
# Mistakes
# ------------------------------------------------------------------------------------------------


def confusion(answers, pairs=8):
    """The confusion matrix, precision, recall and F1 of each class, and the most frequent confusions.

    `answers`: `Predictions`; `pairs`: how many of the confusions are named at most.

    Returns `(figure, {"matrix": (10, 10) counts, rows true, columns predicted; "precision",
    "recall", "f1": (10,); "support": (10,) images a class; "pairs": [(true, predicted, count), …]})`,
    computed by scikit-learn; a class that is never predicted has precision 0.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support  # here: it takes a second

    not_empty(answers)
    labels, predicted, classes = answers.labels.numpy(), answers.predicted.numpy(), range(len(answers.classes))
    matrix = confusion_matrix(labels, predicted, labels=classes)
    scores = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    numbers = dict(zip(("precision", "recall", "f1", "support"), scores, strict=True))
    off = matrix - np.diag(np.diag(matrix))
    order = [divmod(int(i), len(matrix)) for i in off.ravel().argsort(kind="stable")[::-1][:pairs]]
    numbers |= {"matrix": matrix, "pairs": [(t, p, int(off[t, p])) for t, p in order if off[t, p] > 0]}
    with styled():
        figure = plt.figure(figsize=(11, 5.6), layout="constrained")
        grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1))
        left, top, bottom = (figure.add_subplot(part) for part in (grid[:, 0], grid[0, 1], grid[1, 1]))
        left.imshow(np.ma.masked_equal(matrix, 0), cmap=VALUES, norm=LogNorm(1, max(2, matrix.max())))
        bright = matrix > max(2, matrix.max()) ** 0.6
        for t, p in np.argwhere(matrix):
            left.text(p, t, matrix[t, p], ha="center", va="center", color="black" if bright[t, p] else "white")
        left.set(title=f"{int(np.trace(matrix)):,} of {len(answers):,} correct", xlabel="predicted", ylabel="true")
        long = max(map(len, answers.classes)) > 2
        for ax, axis in ((left, "x"), (left, "y"), (top, "x")):
            ax.set(**{f"{axis}ticks": classes, f"{axis}ticklabels": answers.classes})
            ax.tick_params(axis, rotation=90 if long and axis == "x" else 0)
        left.grid(False)
        left.spines[:].set_visible(False)
        for name, shift, style in zip(("precision", "recall", "f1"), (-0.2, 0, 0.2), CURVES, strict=False):
            style = {**style, "linestyle": "none", "markersize": 6}
            top.plot(np.arange(len(matrix)) + shift, 100 * numbers[name], label=name.replace("f1", "F1"), **style)
        top.set(xlabel="class", ylabel="score (%)")
        top.legend(ncols=3, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1))
        names = [f"{answers.classes[t]} → {answers.classes[p]}" for t, p, _ in numbers["pairs"]]
        bars = bottom.barh(names, [count for *_, count in numbers["pairs"]], color=TEST_STYLE["color"])
        bottom.bar_label(bars, padding=3)
        bottom.set(title="Most frequent confusions" if names else "No mistakes", xlabel="images")
        bottom.set(ylabel="true → predicted")
        bottom.invert_yaxis()
        bottom.grid(axis="y", visible=False)
        bottom.xaxis.get_major_locator().set_params(integer=True)
    return figure, numbers


def gallery(answers, count=16):
    """The mistakes, most confident first, and the correct predictions, least confident first.

    At most `count` of each. Returns `(figure, {"mistakes": [index, …], "uncertain": [index, …]})`, positions
    in `answers`, which are `Predictions`.
    """
    not_empty(answers)
    order = answers.confidence.argsort(descending=True, stable=True)
    mistakes = order[~answers.right[order]]
    uncertain = order[answers.right[order]].flip(0)
    numbers = {"mistakes": mistakes[:count].tolist(), "uncertain": uncertain[:count].tolist()}
    rows = [max(1, -(-len(indices) // 8)) for indices in numbers.values()]
    wrong = f"{len(mistakes):,} mistakes in {len(answers):,} images, most confident first"
    titles = (
        wrong if len(mistakes) else "No mistakes",
        "Correct predictions, least confident first, with the second most probable class",
    )
    with styled():
        figure = plt.figure(figsize=(10, 1.75 * sum(rows) + 0.7), layout="constrained")
        parts = figure.subfigures(2, 1, height_ratios=rows)
        for part, title, indices, height in zip(parts, titles, numbers.values(), rows, strict=True):
            part.suptitle(title)
            axes = part.subplots(height, 8, squeeze=False)
            for ax in axes.flat:
                ax.axis("off")
            for ax, i in zip(axes.flat, indices, strict=False):
                ax.imshow(answers.images[i, 0].numpy(), cmap="gray")
                others = answers.log_probabilities[i].clone()
                others[answers.predicted[i]] = -math.inf  # of two equal ones, topk might name the other first
                first, second = answers.classes[answers.predicted[i]], answers.classes[others.argmax()]
                true = answers.classes[answers.labels[i]]
                words = (f"true {true},", f"pred. {first}") if first != true else (f"{true}, second", f"{second}")
                name = " ".join(words) if len(true + first) < 4 else "\n".join(words)
                ax.set_title(f"{name}\n{100 * answers.confidence[i]:.1f} %", fontsize="small")
    return figure, numbers


# ------------------------------------------------------------------------------------------------
# The embedding
# ------------------------------------------------------------------------------------------------


def embedding(answers, images=2000):
    """The inputs of the last linear layer in two dimensions, each image drawn as its true digit.

    The first `images` of `answers`, which are `Predictions`, by t-SNE (van der Maaten and Hinton 2008) started
    from the two principal components, with a fixed seed. Returns `(figure, {"points": (n, 2), "labels": (n,)})`.
    Raises DoesNotApply for a model without a linear layer, or fewer than 5 images.
    """
    from sklearn.manifold import TSNE

    if answers.features is None:
        raise DoesNotApply("The embedding shows the inputs of the last linear layer, and this model has none.")
    images = whole_number("images", images)
    part = answers[:images]
    if len(part) < 5:
        raise DoesNotApply(f"An embedding needs at least 5 images, not {len(part)}.")
    perplexity = min(30, (len(part) - 1) / 3)
    points = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(part.features.numpy())
    colours = plt.get_cmap(CLASSES).colors
    with styled():
        figure, ax = plt.subplots(figsize=(7, 6.4), layout="constrained")
        for i, name in enumerate(answers.classes):
            x, y = points[(part.labels == i).numpy()].T
            marker = f"${name}$" if len(name) == 1 else f"${i}$"
            colour = colours[i % len(colours)]
            ax.scatter(x, y, s=28, marker=marker, color=colour, linewidths=0)
            if len(x):
                edge = [withStroke(linewidth=4, foreground="white")]
                at = {"color": colour, "ha": "center", "va": "center", "path_effects": edge}
                size = "xx-large" if len(name) == 1 else "medium"
                ax.text(np.median(x), np.median(y), name, size=size, weight="bold", **at)
        x, y = points[~part.right.numpy()].T
        label = f"{len(x):,} misclassified" if len(x) else "none misclassified"
        ax.scatter(x, y, s=110, facecolors="none", edgecolors="black", label=label)
        ax.set(title=f"Inputs of the last linear layer: t-SNE of {len(part):,} images")
        ax.set(xlabel="t-SNE dimension 1", ylabel="t-SNE dimension 2")
        ax.legend()
    return figure, {"points": points, "labels": part.labels.numpy()}
