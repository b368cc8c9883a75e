"""What happens between image and prediction: blocks, costs, receptive fields, filters, maps, Grad-CAM, occlusion.

Each figure is returned as `(figure, numbers)`, numbers in a dict. A model is a network of `model.py` or one
of its kind: images `(N, 1, 28, 28)`, normalised, in, log-probabilities `(N, 10)` out, its layers a chain.
It is used as a copy, in evaluation mode and on the device where it is, so that it stays as it was.
"""

import copy
import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.ticker import MaxNLocator
from torch import nn
from torch.overrides import TorchFunctionMode

from checks import whole_number
from plots import TEST_STYLE, VALUES, styled

SIGNED = "RdBu_r"  # the colour map of weights: diverging, blue below 0, white at 0, red above


class DoesNotApply(ValueError):
    """This model or data cannot have the figure (a network without convolutions has no filters, say)."""


# ------------------------------------------------------------------------------------------------
# The layers that a forward pass runs through
# ------------------------------------------------------------------------------------------------

CONVOLUTIONS = {"conv2d"}
WINDOWS = {"max_pool2d", "avg_pool2d"}
ADAPTIVE = {"adaptive_avg_pool2d", "adaptive_max_pool2d", "mean"}
SOFTMAX = {"softmax", "log_softmax"}


@dataclass
class Layer:
    """A convolution, pooling or linear layer as it ran, with what follows it elementwise (ReLU, batch norm).

    `kernel`, `stride`, `padding` (on the left and above), `dilation`: in its input's positions, None where
    they are not known; `output`: `(N, C, H, W)` or `(N, C)`.
    """

    name: str
    kind: str
    output: torch.Tensor
    kernel: int | None = None
    stride: int | None = None
    padding: int | None = 0
    dilation: int | None = 1


def evaluation_copy(model):
    """A copy in evaluation mode, which may be hooked and moved while the model stays as it is."""
    return copy.deepcopy(model).eval()


def device_of(model):
    """The device of the model's parameters."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


class _Recorder(TorchFunctionMode):
    """Notes the layers of a forward pass, whether modules or functions (F.max_pool2d) do the work."""

    def __init__(self, images):
        super().__init__()
        self.layers, self.logits, self.chain = [], None, True
        self.running = []  # (name, module) of the modules whose forward is running, outermost first
        self.kept, self.tail = [images], {id(images)}  # kept: or an id might be given anew

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        output = function(*args, **kwargs)
        known = {id(tensor) for tensor in self.kept}
        tensors = []
        for given in (*args, *kwargs.values()):
            several = given if isinstance(given, tuple | list) else (given,)  # torch.cat takes a list of them
            tensors += [each for each in several if isinstance(each, torch.Tensor) and id(each) in known]
        if tensors and isinstance(output, torch.Tensor):
            self._note(function.__name__, tensors, args, kwargs, output)
        return output

    def _note(self, function, tensors, args, kwargs, output):
        before = tensors[0]
        self.chain &= all(id(tensor) in self.tail for tensor in tensors)
        self.kept.append(output)
        self.tail.add(id(output))

        def given(position, name, otherwise):
            value = args[position] if len(args) > position else kwargs.get(name)
            value = otherwise if value is None else value
            value = set(value) if isinstance(value, tuple | list) else {value}
            return value.pop() if len(value) == 1 else None  # one number for both directions

        layer = None
        if function in SOFTMAX:
            self.logits = before
        elif function in CONVOLUTIONS:
            size = set(args[1].shape[2:])
            kernel = size.pop() if len(size) == 1 else None
            dilation, padding = given(5, "dilation", 1), given(4, "padding", 0)
            if isinstance(padding, str):
                # of an odd total, PyTorch puts the larger part on the right and below
                padding = dilation * (kernel - 1) // 2 if padding == "same" and kernel and dilation else 0
            layer = Layer("", "convolution", output, kernel, given(3, "stride", 1), padding, dilation)
        elif function in WINDOWS:
            kernel = given(1, "kernel_size", None)
            dilation = given(4, "dilation", 1) if function == "max_pool2d" else 1
            stride, padding = given(2, "stride", kernel), given(3, "padding", 0)
            layer = Layer("", "pooling", output, kernel, stride, padding, dilation)
        elif function in ADAPTIVE and before.dim() == 4 and output.shape[:2] == before.shape[:2]:
            size, positions = before.shape[-1], output.shape[-1] if output.dim() == 4 else 1
            whole = size // positions if size % positions == 0 else None  # else the windows differ in size
            layer = Layer("", "pooling", output, whole, whole)
        elif function == "linear":
            layer = Layer("", "linear", output)
        elif output.dim() == 4 and output.shape[2:] != before.shape[2:]:
            layer = Layer("", function, output)  # it moves pixels in a way that is not known here
        elif self.layers and output.shape == self.layers[-1].output.shape:
            self.layers[-1].output = output
        if layer is not None:
            layer.name = self._name(function)
            self.layers.append(layer)
            self.tail = {id(output)}

    def _name(self, function):
        name, module = self.running[-1]
        name = name if name and not list(module.children()) else function
        taken = sum(layer.name.split(" ")[0] == name for layer in self.layers)
        return f"{name} ({taken + 1})" if taken else name


def trace(model, images):
    """Run `images` `(N, 1, 28, 28)` through a copy of the model; return a `_Recorder`.

    Its `layers` are the `Layer`s in running order, their outputs differentiable; its `logits`
    `(N, 10)` what went into the (log-)softmax. A module that runs twice is two layers, the second
    named "pool (2)"; a function is named as it is in torch.nn.functional.
    """
    model = evaluation_copy(model)
    images = images.detach().to(device_of(model)).clone().requires_grad_()
    recorder = _Recorder(images)
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda module, _, name=name: recorder.running.append((name, module)))
        module.register_forward_hook(lambda *_: recorder.running.pop() and None)
    with torch.enable_grad(), recorder:
        output = model(images)
    if recorder.logits is None:
        recorder.logits = output
    return recorder


def _convolutional(recorder, what):
    found = [layer for layer in recorder.layers if layer.kind == "convolution"]
    if not found:
        raise DoesNotApply(f"{what} needs a convolution, and this model has none: give a convolutional model.")
    return found


# ------------------------------------------------------------------------------------------------
# The network as blocks
# ------------------------------------------------------------------------------------------------


def network_blocks(model):
    """The network as a row of blocks: each feature tensor with its shape, on the arrow the layer that makes it.

    A block is as high as the maps' side and as wide as the logarithm of their number; a plain column is a row
    of numbers. Above an arrow: the layer's name, what it is, its window; below: its parameters. ReLU and the
    like leave the shape as it is, and are not drawn. Returns `(figure, {"blocks": rows})`, a row a block: `name`,
    `kind`, `kernel`, `parameters` (weights and biases of this layer), `shape` (`(C, H, W)` or `(C,)`). Raises
    DoesNotApply for a model without convolution, pooling or linear layers, or one with branches.
    """
    recorder = trace(model, torch.zeros(1, 1, 28, 28))
    if not recorder.layers or not recorder.chain:
        raise DoesNotApply("Blocks are drawn for a chain of convolutions, poolings and linear layers.")
    modules = dict(model.named_modules())
    nothing = {"name": "", "kernel": None, "parameters": 0}
    rows = [{**nothing, "kind": "image", "shape": (1, 28, 28)}]
    for layer in recorder.layers:
        if layer.kind == "linear" and len(before := rows[-1]["shape"]) == 3:
            rows.append({**nothing, "kind": "flatten", "shape": (math.prod(before),)})
        name = layer.name.split(" ")[0]  # of a layer that runs again, "pool (2)"
        module, called, row = modules.get(name), name, dict(nothing)
        if module is not None:  # and no function
            called = type(module).__name__
            row |= {"name": name, "parameters": sum(p.numel() for p in module.parameters())}
        kind = {"convolution": "conv"}.get(layer.kind, layer.kind)
        if kind == "pooling":
            kind = "max pool" if "max" in called.lower() else "mean pool"
        rows.append({**row, "kind": kind, "kernel": layer.kernel, "shape": tuple(layer.output.shape[1:])})
    return _blocks_figure(model, rows), {"blocks": rows}


def _blocks_figure(model, rows):
    total = 10.0  # in inches, as is everything here
    sizes = []  # width, height, and how far the top and the right side reach to the back
    for row in rows:
        if len(row["shape"]) == 3:
            height = max(0.1, 1.5 * row["shape"][1] / 28)
            sizes.append((0.06 * math.log2(1 + row["shape"][0]), height, 0.12 * height))
        else:
            sizes.append((0.1, 0.13 * math.log2(1 + row["shape"][0]), 0))
    gap = (total - 0.7 - sum(width + back for width, _, back in sizes)) / (len(rows) - 1)
    crowded = len(rows) > 12
    figure, ax = plt.subplots(figsize=(total, 3.1 if crowded else 2.6), layout="constrained")
    x = 0.35
    small = {"ha": "center", "fontsize": 7 if crowded else 8.5}
    for row, (width, height, back) in zip(rows, sizes, strict=True):
        if row["kind"] != "image":
            ax.annotate("", (x, 0), (x - gap, 0), arrowprops={"arrowstyle": "-|>", "color": "0.3", "shrinkA": 3})
            window = f"{row['kernel']}×{row['kernel']}" if row["kernel"] else None
            words = filter(None, (row["name"], row["kind"], window))
            if crowded:  # upright, in one line
                ax.text(x - gap / 2, 0.09, " ".join(words), va="bottom", rotation=90, **small)
            else:
                ax.text(x - gap / 2, 0.06, "\n".join(words), va="bottom", **small)
            if row["parameters"]:
                ax.text(x - gap / 2, -0.07, f"{row['parameters']:,}", va="top", color="0.3", **small)
        low, high, right = -height / 2, height / 2, x + width
        faces = {  # colour → corners: the front, the top, the right side
            "#7fb8da": [(x, low), (right, low), (right, high), (x, high)],
            "#b5d8ec": [(x, high), (right, high), (right + back, high + back), (x + back, high + back)],
            "#4a8db5": [(right, low), (right + back, low + back), (right + back, high + back), (right, high)],
        }
        for colour, corners in faces.items():
            ax.add_patch(plt.Polygon(corners, facecolor=colour, edgecolor="black", linewidth=0.7))
        shape = "×".join(f"{size:,}" for size in row["shape"])
        ax.text(x + (width + back) / 2, -0.95, shape, ha="center", va="top", fontsize=7.5 if crowded else 10)
        x = right + back + gap
    count = sum(p.numel() for p in model.parameters())
    ax.set_title(f"{type(model).__name__}: {count:,} parameters (below an arrow: those of its layer)")
    ax.set(xlim=(0, total), ylim=(-1.2, 1.5 if crowded else 1), aspect="equal")
    ax.axis("off")
    return figure


# ------------------------------------------------------------------------------------------------
# What each layer costs
# ------------------------------------------------------------------------------------------------


def layer_costs(model):
    """What each layer with weights costs: its parameters, and its multiply-adds for one image.

    Returns `(figure, {"layers": rows})`, a row a layer in running order: `name`, `kind` ("conv", "batch norm",
    "linear"), `shape` of its output without N, `parameters`, `multiply_adds`: of a convolution output positions ×
    output channels × input channels / groups × kernel area, of a linear layer inputs × outputs. Biases,
    activations and pooling count nothing, nor does batch norm, since at inference it can be folded into the
    convolution before it; torch.utils.flop_counter counts likewise, a multiplication and an addition as two.
    A module that runs twice is two layers, the second named "conv (2)": its work counts each time, its
    parameters once. Raises DoesNotApply for a model without such layers, or with weights in others.
    """
    model, rows, runs, counted = evaluation_copy(model), [], {}, set()

    def note(name, module, output):
        runs[name] = runs.get(name, 0) + 1
        new = {id(p): p.numel() for p in module.parameters() if id(p) not in counted}
        counted.update(new)
        if isinstance(module, nn.Conv2d):
            kind, each = "conv", module.in_channels // module.groups * math.prod(module.kernel_size)
        elif isinstance(module, nn.Linear):
            kind, each = "linear", module.in_features
        else:
            kind, each = "batch norm", 0
        row = {"name": name if runs[name] == 1 else f"{name} ({runs[name]})", "kind": kind}
        row |= {"shape": tuple(output.shape[1:]), "parameters": sum(new.values())}
        rows.append({**row, "multiply_adds": output.numel() * each})

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d):
            module.register_forward_hook(lambda module, _, output, name=name: note(name, module, output))
        elif list(module.parameters(recurse=False)):
            raise DoesNotApply(
                f"What {name or 'the model itself'} ({type(module).__name__}) costs is not known: of layers with"
                " weights convolutions, batch norms and linear layers are counted."
            )
    with torch.no_grad():
        model(torch.zeros(1, 1, 28, 28, device=device_of(model)))
    if not rows:
        raise DoesNotApply("Costs are counted of convolutions, batch norms and linear layers: this model has none.")
    return _costs_figure(model, rows), {"layers": rows}


def _costs_figure(model, rows):
    totals = {column: sum(row[column] for row in rows) for column in ("parameters", "multiply_adds")}
    with styled():
        figure, axes = plt.subplots(1, 2, figsize=(10, 1.3 + 0.3 * len(rows)), sharey=True, layout="constrained")
        for ax, (column, total) in zip(axes, totals.items(), strict=True):
            values = [row[column] for row in rows]
            ax.barh(range(len(rows)), values, color=TEST_STYLE["color"], height=0.65)
            for y, value in enumerate(values):
                share = f" ({100 * value / total:.1f} %)" if value else ""
                ax.annotate(f"{value:,}{share}", (value, y), (3, 0), textcoords="offset points", va="center")
            ax.set_xlim(0, 1.6 * max(*values, 1))  # room for the longest bar's label
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.xaxis.set_major_formatter("{x:,.0f}")
            ax.grid(axis="y", visible=False)
            ax.tick_params(left=False)
        axes[0].set_yticks(
            range(len(rows)), [f"{row['name']}, {row['kind']}, {'×'.join(map(str, row['shape']))}" for row in rows]
        )
        axes[0].set_ylim(len(rows) - 0.5, -0.5)  # the first layer on top
        axes[0].set(xlabel="parameters", ylabel="layer, kind, output")
        axes[1].set_xlabel("multiply-adds for one image")
        figure.suptitle(
            f"{type(model).__name__}: {totals['parameters']:,} parameters,"
            f" {totals['multiply_adds']:,} multiply-adds for one image"
        )
    return figure


# ------------------------------------------------------------------------------------------------
# Receptive fields, filters, feature maps
# ------------------------------------------------------------------------------------------------


def receptive_field(model, size=28):
    """The table of receptive fields: for each layer the square of image pixels that one output depends on.

    Returns `(figure, {"layers": rows})`, a row a layer: `name`, `kind`, `kernel`, `stride`, `jump`
    (the distance in pixels between the centres of two neighbouring outputs), `output` (positions
    along a side), `field` (pixels along a side; with padding it may be larger than the image) and
    `centre` (of the first output's field along a side, in pixels; 0 is the centre of the image's first pixel).
    From a layer to the next: field += (kernel − 1) · jump, jump ×= stride (Dumoulin and Visin 2016,
    A guide to convolution arithmetic; Araujo et al. 2019, Computing Receptive Fields). A linear
    layer after the flattening is a window over all positions. Raises DoesNotApply for a model without
    convolutions, one with branches, or one with windows that are not square.
    """
    recorder = trace(model, torch.zeros(1, 1, size, size))
    _convolutional(recorder, "A receptive field")
    rows = _geometry(recorder, size)
    return _field_figure(rows, size), {"layers": rows}


def _geometry(recorder, size):
    if not recorder.chain:
        raise DoesNotApply("Receptive fields are derived for a chain of layers, and this model has branches.")
    rows, field, jump, centre, positions = [], 1, 1, 0.0, size
    for layer in recorder.layers:
        kernel, stride = (positions, 1) if layer.kind == "linear" else (layer.kernel, layer.stride)
        if None in (kernel, stride, layer.padding, layer.dilation):
            raise DoesNotApply(
                f"The receptive field of layer {layer.name!r} is not known: it is not a convolution or pooling with"
                " square windows of one size."
            )
        reach = (kernel - 1) * layer.dilation * jump
        field += reach
        centre += reach / 2 - layer.padding * jump
        jump *= stride
        positions = layer.output.shape[-1] if layer.output.dim() == 4 else 1
        rows.append(
            {"name": layer.name, "kind": layer.kind, "kernel": kernel, "stride": stride, "jump": jump}
            | {"output": positions, "field": field, "centre": centre}
        )
    return rows


def _field_figure(rows, size):
    with styled():
        figure, (table, bars) = plt.subplots(
            1, 2, figsize=(10, 1.2 + 0.36 * len(rows)), width_ratios=(3, 2), sharey=True, layout="constrained"
        )
        table.axis("off")
        columns = ("name", "kernel", "stride", "jump", "output")
        for x, column in zip((0, 0.42, 0.57, 0.72, 0.88), columns, strict=True):
            heading = "layer" if column == "name" else column
            table.text(x, 1.02, heading, weight="bold", transform=table.transAxes, va="bottom")
            for y, row in enumerate(rows):
                text = f"{row[column]}×{row[column]}" if column in ("kernel", "output") else str(row[column])
                table.text(x, y, text, transform=table.get_yaxis_transform(), va="center")
        bars.barh(range(len(rows)), [row["field"] for row in rows], color=TEST_STYLE["color"], height=0.6)
        for y, row in enumerate(rows):
            bars.annotate(f"{row['field']}", (row["field"], y), (3, 0), textcoords="offset points", va="center")
        bars.axvline(size, color="black", linestyle="--")
        bars.set(title=f"receptive field (dashed: the image, {size})", xlabel="pixels along a side")
        bars.set_xlim(0, 1.12 * max(size, *(row["field"] for row in rows)))
        bars.tick_params(left=False, labelleft=False)
        bars.grid(axis="y", visible=False)
        bars.set_ylim(len(rows) - 0.5, -0.5)
    return figure


def _strip(maps):
    """Maps `(C, H, W)` in a row, a gap after each and below."""
    apart = np.pad(maps, ((0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    return np.concatenate(list(apart), axis=1)


def filters(model):
    """The kernels of the first convolution, as images on one common scale with 0 in its middle.

    Returns `(figure, {"weights": (filters, height, width), "layer": name})`; of a layer with
    several input channels the first is shown. Raises DoesNotApply for a model without convolutions.
    """
    convolutions = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    if not convolutions:
        raise DoesNotApply("Filters need a convolution, and this model has none: give a convolutional model.")
    name, first = convolutions[0]
    weights = first.weight.detach().float().cpu().numpy()[:, 0]
    columns, limit = 8, float(abs(weights).max())
    rows = -(-len(weights) // columns)
    empty = np.full((rows * columns - len(weights), *weights.shape[1:]), np.nan, np.float32)
    lines = np.concatenate([weights, empty]).reshape(rows, columns, *weights.shape[1:])
    mosaic = np.concatenate([_strip(line) for line in lines])[:-1, :-1]  # gaps between the filters only
    with styled():
        figure, ax = plt.subplots(figsize=(7.2, 0.75 * rows + 0.9), layout="constrained")
        # grey between the filters, where white would look like weights of 0
        colours = plt.get_cmap(SIGNED).with_extremes(bad="0.6")
        figure.colorbar(ax.imshow(mosaic, cmap=colours, vmin=-limit, vmax=limit), label="weight", shrink=0.8)
        size = f"{weights.shape[1]}×{weights.shape[2]}"
        ax.set_title(f"The {len(weights)} filters of {name}, {size} weights each (white: 0)")
        ax.axis("off")
    return figure, {"layer": name, "weights": weights}


def feature_maps(model, image, channels=8):
    """The outputs of every layer for one image, after its activation: the `channels` maps of largest variance.

    `image`: `(1, 28, 28)`, normalised. Returns `(figure, {layer name: output})`, each output
    `(C, H, W)`, or `(C,)` for a linear layer, which is drawn as one strip, as are means of maps. Each map has its
    own scale.
    Raises DoesNotApply for a model without convolution, pooling or linear layers, ValueError for another
    shape, or no channel.
    """
    channels = whole_number("channels", channels)
    if image.shape[-3:] != (1, 28, 28) or image.numel() != 784:
        raise ValueError(f"feature_maps shows one image of shape (1, 28, 28), not {tuple(image.shape)}.")
    recorder = trace(model, image.reshape(1, 1, 28, 28))
    outputs = {layer.name: layer.output.detach().float().cpu().numpy()[0] for layer in recorder.layers}
    if not outputs:
        raise DoesNotApply("Feature maps need a convolution, pooling or linear layer, and this model has none.")
    # maps of one pixel are numbers, as those of a linear layer
    drawn = {name: output.reshape(-1) if output.size == len(output) else output for name, output in outputs.items()}
    heights = [1 if output.ndim == 3 else 0.3 for output in drawn.values()]
    with styled():
        figure, axes = plt.subplots(
            *(len(outputs), 1),
            figsize=(channels + 1.6, 1.02 * sum(heights) + 0.35 * len(heights)),
            height_ratios=heights,
            squeeze=False,
            layout="constrained",
        )
        for ax, (name, output) in zip(axes.flat, drawn.items(), strict=True):
            if output.ndim == 1:
                strip, numbers, width = output[None], range(len(output) if len(output) <= 10 else 0), 1
            else:
                numbers = sorted(output.var(axis=(1, 2)).argsort()[::-1][:channels].tolist())
                chosen, width = output[numbers], output.shape[2] + 1
                low, high = chosen.min((1, 2), keepdims=True), chosen.max((1, 2), keepdims=True)
                strip = _strip((chosen - low) / np.maximum(high - low, 1e-12))
            ax.imshow(strip, cmap=VALUES, aspect="auto" if output.ndim == 1 else "equal", interpolation="nearest")
            for i, number in enumerate(numbers):
                middle = i * width + (width - 1) / 2 - (output.ndim == 3) / 2
                above = {"textcoords": "offset points", "ha": "center", "fontsize": "x-small"}
                ax.annotate(f"{number}", (middle, -0.5), (0, 2), **above)
            words = f"{name}\n{'×'.join(map(str, outputs[name].shape))}"
            ax.text(-0.01, 0.5, words, transform=ax.transAxes, ha="right", va="center")
            ax.axis("off")
        figure.suptitle(
            f"Outputs of each layer for one image: the {channels} maps of largest variance, numbered by channel"
        )
    return figure, outputs


# ------------------------------------------------------------------------------------------------
# Which pixels a prediction rests on
# ------------------------------------------------------------------------------------------------


def _choose(recorder, layer):
    convolutions = _convolutional(recorder, "Grad-CAM")
    if layer is None:
        return convolutions[-1]
    spatial = {each.name: each for each in recorder.layers if each.output.dim() == 4}
    if layer not in spatial:
        raise ValueError(f"This model has no layer {layer!r} with feature maps: choose one of {', '.join(spatial)}.")
    return spatial[layer]


def _targets(log_probabilities, targets):
    if targets is None:
        return log_probabilities.argmax(dim=1)
    targets, (count, classes) = torch.as_tensor(targets), log_probabilities.shape
    if (
        targets.shape != (count,)
        or targets.is_floating_point()
        or not bool(((targets >= 0) & (targets < classes)).all())
    ):
        raise ValueError(f"targets must be {count} whole numbers from 0 to {classes - 1}, not {targets.tolist()}.")
    return targets.to(log_probabilities.device)


def _some_images(images):
    if len(images) == 0:
        raise ValueError("There is no image to explain: give at least one.")


def grad_cam(model, images, targets=None, layer=None):
    """Grad-CAM, where a layer's features support a digit: `(N, 28, 28)`, 0 where they do not.

    The layer's maps after its activation, weighted by the mean gradient of the digit's logit,
    summed and cut at 0 (Selvaraju et al. 2017, Grad-CAM). They are enlarged bilinearly, each value
    lying at the centre of its receptive field: without padding, outputs do not reach the image's
    edge, and stretching the map over the whole image would shift it. `images`: `(N, 1, 28, 28)`; `targets`:
    `(N,)` digits, by default the predicted ones; `layer`: its name, by default the last
    convolution. Raises DoesNotApply for a model without convolutions, with branches or with windows that
    are not square; ValueError for no image, an unknown layer, or targets that are not digits.
    """
    _some_images(images)
    recorder = trace(model, images)
    chosen = _choose(recorder, layer)
    targets = _targets(recorder.logits, targets)
    score = recorder.logits.gather(1, targets.view(-1, 1)).sum()
    (gradient,) = torch.autograd.grad(score, chosen.output)
    maps = F.relu((gradient.mean((2, 3), keepdim=True) * chosen.output).sum(1, keepdim=True)).detach()
    size = images.shape[-1]
    place = next(row for row in _geometry(recorder, size) if row["name"] == chosen.name)
    # Where each pixel lies among the map's positions, from −1 (the first one's edge) to 1 (the last one's).
    at = (torch.arange(size, device=maps.device) - place["centre"]) / place["jump"]
    at = (2 * at + 1) / maps.shape[-1] - 1
    grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), dim=-1).expand(len(maps), -1, -1, -1)
    return F.grid_sample(maps, grid, align_corners=False)[:, 0].cpu()


def occlusion(model, images, targets=None, window=6, stride=2):
    """Occlusion: how much the digit's log-probability falls when a patch is blackened: `(N, 28, 28)`.

    Each pixel holds the mean fall over the `window`×`window` patches that cover it; negative where
    blackening helps. Black is the least value in the images. Zeiler and Fergus 2014, Visualizing
    and Understanding Convolutional Networks; computed by Captum. `images`, `targets`: as for
    `grad_cam`. Works for any model. Raises ValueError for no image or targets that are not digits.
    """
    _some_images(images)
    from captum.attr import Occlusion  # here, since its import takes a second

    model = evaluation_copy(model)
    images = images.detach().to(device_of(model)).clone()
    with torch.no_grad():
        targets = _targets(model(images), targets)
        maps = Occlusion(model).attribute(
            images,
            sliding_window_shapes=(1, window, window),
            strides=(1, stride, stride),
            baselines=images.min().item(),
            target=targets,
            perturbations_per_eval=max(1, 256 // len(images)),
        )
    return maps[:, 0].cpu()


def explanations(model, images, labels=None, *, targets=None, layer=None, maps=("grad_cam", "occlusion")):
    """For each image a row: the image, its Grad-CAM, its occlusion map, and the predicted probabilities.

    Brighter is higher, each map on its own scale; the occlusion map's title gives its maximum.
    `images`: `(N, 1, 28, 28)`, a handful; `labels`: `(N,)` true digits, for the titles; `targets`,
    `layer`: as for `grad_cam`; `maps`: which of the two, since Grad-CAM needs convolutions. Returns
    `(figure, {"probabilities": (N, 10), "targets": (N,), "grad_cam": (N, 28, 28), "occlusion": …})`.
    Raises what `grad_cam` raises, and ValueError for an unknown map.
    """
    _some_images(images)
    if unknown := set(maps) - {"grad_cam", "occlusion"}:
        raise ValueError(f"Unknown map {', '.join(map(str, unknown))}: choose grad_cam, occlusion or both.")
    recorder = trace(model, images)
    probabilities = recorder.logits.detach().float().softmax(dim=1).cpu()
    targets = _targets(probabilities, targets)
    numbers = {"probabilities": probabilities.numpy(), "targets": targets.numpy()}
    if "grad_cam" in maps:
        numbers["grad_cam"] = grad_cam(model, images, targets, layer).numpy()
    if "occlusion" in maps:
        numbers["occlusion"] = occlusion(model, images, targets).numpy()
    titles = {"grad_cam": "Grad-CAM for {}", "occlusion": "occlusion for {}, max. {:.2g}"}
    with styled():
        figure, axes = plt.subplots(
            len(images), 2 + len(maps), figsize=(2.2 * (2 + len(maps)) + 0.8, 2.15 * len(images)), squeeze=False,
            width_ratios=(*[1] * (1 + len(maps)), 1.4), layout="constrained",
        )  # fmt: skip
        for i, row in enumerate(axes):
            digit = images[i, 0].cpu().numpy()
            row[0].imshow(digit, cmap="gray")
            row[0].set_title("the image" if labels is None else f"true: {int(labels[i])}")
            for ax, name in zip(row[1:-1], maps, strict=True):
                ax.imshow(numbers[name][i], cmap=VALUES)
                ax.contour(digit, levels=[(digit.min() + digit.max()) / 2], colors="white", linewidths=0.8)
                ax.set_title(titles[name].format(int(targets[i]), numbers[name][i].max()))
            for ax in row[:-1]:
                ax.axis("off")
            row[-1].bar(range(10), 100 * numbers["probabilities"][i], color=TEST_STYLE["color"])
            row[-1].set(xticks=range(10), ylim=(0, 105), ylabel="probability (%)", xlabel="digit")
            row[-1].grid(axis="x", visible=False)
    return figure, numbers
