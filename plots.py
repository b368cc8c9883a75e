"""Plots of samples and runs, in the one style of all figures. Each returns its figure, and shows none.

`utils` re-exports these, so that a notebook needs one import line.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FixedLocator, MaxNLocator

from checks import whole_number

# Training and test differ in colour, in lightness (for print in grey) and in line style.
TRAIN_STYLE = {"color": "#E69F00", "linestyle": "--", "marker": "o", "markersize": 3}
TEST_STYLE = {"color": "#0072B2", "linestyle": "-", "marker": "s", "markersize": 3}
STYLE = {"axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False}
CURVES = [  # one for each model, told apart in grey too; colours: Okabe and Ito 2008, Color Universal Design
    TEST_STYLE,
    TRAIN_STYLE,
    {"color": "#009E73", "linestyle": "-.", "marker": "^", "markersize": 3},
    {"color": "#CC79A7", "linestyle": ":", "marker": "D", "markersize": 3},
]
VALUES = "viridis"  # the colour map of computed values: perceptually uniform, its lightness rises from low to high


def post_display(train_loader):
    """A 4×4 grid of the first 16 images that the loader gives, as the network sees them.

    The title of each is its label. Raises ValueError if the first batch holds fewer than 16.
    """
    images, labels = next(iter(train_loader), ((), ()))
    if len(images) < 16:
        raise ValueError(f"post_display shows 16 images; the first batch has {len(images)}: use batch_size ≥ 16.")
    names = getattr(train_loader.dataset, "classes", None)
    figure, axes = plt.subplots(4, 4, figsize=(5, 5.6), layout="constrained")
    for ax, image, label in zip(axes.flat, images.cpu().numpy(), labels.tolist(), strict=False):
        ax.imshow(image[0], cmap="gray")
        ax.set_title(names[label] if names else label)
        ax.axis("off")
    return figure


def post_accuracyplots(train_losses, test_losses, train_acc, test_acc, *, names=("training", "test")):
    """Two axes over the epochs: training and test loss, training and test accuracy in %.

    Takes the four lists that `train` and `test` filled, one number an epoch; `names`: of the two
    curves in the legend. Raises ValueError when there is nothing to plot.
    """
    if len(train_losses) + len(test_losses) == 0:
        raise ValueError("There is nothing to plot yet: run the training loop first.")
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
        for ax, name, unit, pair in (
            (left, "Loss", "mean negative log-likelihood", (train_losses, test_losses)),
            (right, "Accuracy", "accuracy (%)", (train_acc, test_acc)),
        ):
            for label, values, style in zip(names, pair, (TRAIN_STYLE, TEST_STYLE), strict=True):
                ax.plot(range(1, len(values) + 1), values, label=label, **style)
            ax.set(title=name, xlabel="epoch", ylabel=unit)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.legend()
        if min([*train_losses, *test_losses]) > 0:
            left.set_yscale("log")
        _stretch_near_100(right)
    return figure


def _stretch_near_100(ax):
    """An accuracy axis that is logarithmic in the error, so that 99.0 and 99.5 stand apart."""
    ax.set_yscale(
        "function",
        functions=(lambda a: -np.log(100.05 - np.minimum(a, 100)), lambda y: 100.05 - np.exp(-y)),
    )
    low, high = ax.get_ylim()
    ticks = [tick for tick in (0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 100) if low <= tick <= high]
    if len(ticks) > 1:
        ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_ylabel(f"{ax.get_ylabel()}, stretched towards 100")


def post_recipes(recipes):
    """Two axes that compare recipes: test accuracy against training seconds, rate over the run.

    `recipes`: name → {"seconds", "accuracy", "rates"}, each a sequence with one number a point: the
    training time until then, the test accuracy in %, the learning rate. Rates are drawn in percent of each
    recipe's highest, which the legend names: those of different optimizers are not the same thing.
    """
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
        errors = []
        for (name, recipe), style in zip(recipes.items(), CURVES[:2], strict=True):
            accuracy, rates = list(recipe["accuracy"]), list(recipe["rates"])
            errors += [100 - value for value in accuracy]
            left.plot(list(recipe["seconds"]), accuracy, label=name, **style)
            # Each rate holds until the next point; the last one until the end of the run.
            fraction = [100 * i / len(rates) for i in range(len(rates) + 1)]
            relative = [100 * rate / max(rates) for rate in [*rates, rates[-1]]]
            right.plot(fraction, relative, label=f"{name} (100 %: {max(rates):.2g})", drawstyle="steps-post", **style)
        left.set(title="Accuracy over time", xlabel="training time (s)", ylabel="test accuracy (%)", xscale="log")
        right.set(title="Learning rate", xlabel="fraction of the run (%)", ylabel="rate (% of its highest)")
        left.set_ylim(100 - 1.25 * max(errors), 100 - 0.8 * min(errors))
        _stretch_near_100(left)
        left.legend()
        right.legend(loc="lower center", bbox_to_anchor=(0.46, 0))
    return figure


def post_images(images, titles=None, *, columns=10, limits=None, cmap="gray"):
    """Images `(H, W)` or `(1, H, W)` in rows of `columns`, each under its title if there are any.

    `images`: a tensor of them, or a list in which their sizes may differ.
    `limits`: the values shown as black and white; by default each image's own lowest and highest.
    Raises ValueError when there is none.
    """
    columns = whole_number("columns", columns)
    images = [np.asarray(image).reshape(image.shape[-2:]) for image in images]
    if not images:
        raise ValueError("There is no image to show: give at least one.")
    rows = -(-len(images) // columns)
    height = 8 / columns + (0.3 if titles else 0.05)
    figure, axes = plt.subplots(rows, columns, figsize=(8, height * rows), squeeze=False)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02)
    low, high = limits or (None, None)
    for ax in axes.flat:
        ax.axis("off")
    for i, (ax, image) in enumerate(zip(axes.flat, images, strict=False)):
        ax.imshow(image, cmap=cmap, vmin=low, vmax=high)
        if titles is not None:
            ax.set_title(titles[i], fontsize=9)
    return figure
