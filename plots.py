"""Plots of samples and runs, in the one style of all figures. Each returns its figure, and shows none.

`utils` re-exports these, so that a notebook needs one import line.
"""

import contextlib

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

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
PUBLISHED = "#D55E00"  # points measured by others; of the same palette
VALUES = "viridis"  # the colour map of computed values: perceptually uniform, its lightness rises from low to high


@contextlib.contextmanager
def styled():
    """The one style, for the figures that are made within.

    A bare rc_context would also undo what the first figure in a notebook sets: that figures are shown there.
    """
    with plt.rc_context(STYLE):
        yield
        interactive = plt.isinteractive()
    matplotlib.interactive(interactive)


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
    with styled():
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
    with styled():
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


def post_parameters(ours, published=()):
    """Test error against the number of parameters, both axes logarithmic: small and accurate is below on the left.

    `ours`: name → {"parameters", "accuracies"}, the test accuracy in % of each seed: a point at the mean error with
    a bar of one standard deviation (of the sample; none for one seed) to either side. `published`: a sequence of
    {"name", "parameters", "accuracy", "best_epoch"}; the last says whether the accuracy is that of the epoch that
    was best on the test set, which flatters: such a point is hollow. Raises ValueError when there is nothing to
    plot, or what has no logarithm: no parameters, or an accuracy that is not from 0 to below 100.
    """
    points = [(name, each["parameters"], list(each["accuracies"])) for name, each in ours.items()]
    points += [(each["name"], each["parameters"], [each["accuracy"]]) for each in published]
    if not points:
        raise ValueError("There is nothing to plot: give at least one network.")
    for name, parameters, accuracies in points:
        if not accuracies or not all(0 <= accuracy < 100 for accuracy in accuracies):
            raise ValueError(f"{name} needs accuracies from 0 to below 100 %, not {accuracies}.")
        if not parameters >= 1:
            raise ValueError(f"{name} needs a number of parameters from 1, not {parameters}.")
    names, x, runs = zip(*points, strict=True)
    y = [100 - np.mean(accuracies) for accuracies in runs]
    sd = [np.std(accuracies, ddof=1) if len(accuracies) > 1 else 0 for accuracies in runs]
    count, groups = len(ours), []
    with styled():
        figure, ax = plt.subplots(figsize=(10, 6.5), layout="constrained")
        if ours:
            style = {"color": TEST_STYLE["color"], "marker": "s", "markersize": 5, "capsize": 2, "elinewidth": 1}
            bars = {"yerr": sd[:count], "label": "this course, mean ± sd over seeds"}
            groups.append(ax.errorbar(x[:count], y[:count], linestyle="", **bars, **style))
        for best, label in ((False, "published"), (True, "published, best epoch on the test set")):
            if chosen := [count + i for i, point in enumerate(published) if bool(point["best_epoch"]) is best]:
                style = {"color": PUBLISHED, "marker": "o", "linestyle": "", "fillstyle": "none" if best else "full"}
                groups += ax.plot([x[i] for i in chosen], [y[i] for i in chosen], label=label, **style)
        ax.set(xscale="log", yscale="log", xlabel="parameters", ylabel="test error (%)")
        ax.set(xlim=(min(x) / 2, 2 * max(x)), ylim=(min(y) / 1.3, 1.15 * max(np.add(y, sd))))
        for axis, steps, form in ((ax.xaxis, (1, 2, 5), "{x:,.0f}"), (ax.yaxis, (1, 1.5, 2, 3, 5, 7), "{x:g}")):
            axis.set_major_locator(FixedLocator([step * 10.0**power for power in range(-4, 13) for step in steps]))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(form)
        ax.legend(handles=groups, loc="lower left")  # where there is nothing, unless somebody beats all of them
        _name_points(ax, names, x, y, sd)
    return figure


def _name_points(ax, names, x, y, sd):
    """Write each name beside its point, at the nearest place that covers no point, bar or other name.

    If there is none, where it covers least. From a place farther off a thin line leads back to the point.
    """
    ax.figure.draw_without_rendering()  # now the axes have their place, and what is in pixels holds
    low = np.maximum(np.subtract(y, sd), ax.get_ylim()[0])
    ends = [ax.transData.transform(np.column_stack([x, values])) for values in (low, np.add(y, sd))]
    pixels = ax.figure.dpi / 72  # a point
    taken = np.hstack([ends[0] - 3.5 * pixels, ends[1] + 3.5 * pixels])  # (left, bottom, right, top)
    taken = np.vstack([taken, ax.get_legend().get_window_extent().extents])
    frame = ax.get_window_extent().extents
    for i in np.argsort(y):
        text = ax.annotate(
            names[i], (x[i], y[i]), (0, 0), textcoords="offset points", ha="center", va="center", fontsize=8,
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "0.5", "shrinkA": 0, "shrinkB": 3},
        )  # fmt: skip
        text.set_in_layout(False)
        text.get_window_extent()  # puts it in its place, but counts the line too
        box = Text.get_window_extent(text).padded(pixels).extents  # that of the words alone, and a little more
        size = (box[2:] - box[:2]) / pixels
        tried = []
        for distance in (6, 12, 20, 30, 42):
            for angle in np.radians((0, 180, 30, 150, 330, 210, 60, 120, 300, 240, 90, 270)):
                offset = np.array([np.cos(angle), np.sin(angle)]) * (distance + size / 2)
                at = box + pixels * np.tile(offset, 2)
                sides = np.minimum(at[2:], taken[:, 2:]) - np.maximum(at[:2], taken[:, :2])
                inside = np.minimum(at[2:], frame[2:]) - np.maximum(at[:2], frame[:2])
                outside = np.prod(at[2:] - at[:2]) - np.prod(np.maximum(inside, 0))
                covered = np.prod(np.maximum(sides, 0), axis=1).sum() + outside
                tried.append((round(covered), len(tried), distance, offset, at))
        _, _, distance, offset, at = min(tried)
        text.set_position(offset)
        text.arrow_patch.set_visible(distance > 6)
        taken = np.vstack([taken, at])


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


def post_boxes(image, readings, size=None):
    """An image with a box around each digit, and above it the digit that was read and its probability in %.

    `image`: grey values `(H, W)` in [0, 1] or (H, W, 3); `readings`: what `predict.predict_all` gave for it, with
    boxes in its pixels or, where it was scaled down, in those of its original `size`, (width, height). What is less
    sure than 90 % is orange, and a question mark is what is no digit.
    """
    image = np.asarray(image)
    width, height = size or image.shape[1::-1]
    inches = 9 / max(width, height)  # for a pixel
    with styled():
        figure, ax = plt.subplots(figsize=(width * inches, height * inches + 0.4), layout="constrained")
        white = 1 if image.dtype.kind == "f" else 255
        ax.imshow(image, cmap="gray", vmin=0, vmax=white, extent=(0, width, height, 0))
        heights = [reading.box[3] - reading.box[1] for reading in readings]
        # for two lines of text a little more than half of the usual box's height
        font = min(max(72 * inches * np.median(heights or [0]) * 0.3, 4), 11)
        for reading in readings:
            left, top, right, bottom = reading.box
            sure = reading.is_digit and reading.probability >= 0.9
            style = {"color": TEST_STYLE["color"] if sure else PUBLISHED}
            ax.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, linewidth=1, **style))
            words = f"{reading.digit}\n{100 * reading.probability:.0f} %" if reading.is_digit else "?"
            place = {"ha": "center", "va": "bottom", "linespacing": 0.9}
            back = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.3}
            ax.text((left + right) / 2, top - 1, words, fontsize=font, bbox=back, **place, **style)
        known = sum(reading.is_digit for reading in readings)
        ax.set_title(f"{known} {'digit' if known == 1 else 'digits'} read, in orange where less sure than 90 %")
        ax.axis("off")
    return figure
