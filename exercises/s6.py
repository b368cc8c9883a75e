"""Session 6's exercises."""

import math
import re

import torch
import torch.nn.functional as F
from torch import nn

from exercises.checking import judge_function, judge_value, same

# ------------------------------------------------------------------------------------------------
# 1. Parameters by arithmetic
# ------------------------------------------------------------------------------------------------


def _parameters(answer):
    full, across, depthwise = 3 * 3 * 16 * 24, 16 * 24, 3 * 3 * 16
    separable, norm = depthwise + across, 2 * 24
    # Each a pair: the right number, and what mistakes give → hint
    first = (
        full + norm,
        {
            full: "batch norm learns something too, for each channel.",
            full
            + 24: "24 more than the weights: the convolution has no bias, and what does batch norm learn beside its"
            " factor?",
            full + 24 + norm: "the convolution has no bias: batch norm's shift takes its place.",
            full + 2 * norm: "running means and variances are measured, not learned: buffers, no parameters.",
            full + 24 + 2 * norm: "no bias here; and running means and variances are measured, not learned.",
            full + 2 * 16: "batch norm comes after the convolution: how many channels are there then?",
            across + norm: "a kernel of 3×3 has more than one weight for each channel that it reads.",
            3 * across + norm: "how many weights are 3×3?",
            3 * 3 * 24 + norm: "each kernel reads all 16 channels, with other weights for each.",
            depthwise + norm: "that is one kernel: there is one for each channel that comes out.",
            separable + norm: "that is the depthwise way: here each kernel reads all 16 channels.",
        },
    )
    second = (
        across + 16,
        {
            across: "this convolution has a bias.",
            across + 24: "a bias belongs to a channel that comes out, not to one that goes in.",
            across + 1: "is one bias enough for all the channels that come out?",
            across + 2 * 16: "no batch norm here, only a bias for each channel.",
            across + 16 + 2 * 16: "no batch norm here.",
            9 * across + 16: "a 1×1 kernel reads one place: it has no neighbours to weight.",
            16 + 16: "each kernel reads all 24 channels, with a weight for each.",
            24 + 16: "a weight for each pair of a channel that goes in and one that comes out: a product, not a sum.",
            16 * 16 + 16: "24 channels go in: each kernel has a weight for each of them.",
        },
    )
    third = (
        separable + norm,
        {
            separable: "batch norm learns something too, for each channel.",
            separable + 24: "24 more than the weights: there is no bias, and what does batch norm learn beside its"
            " factor?",
            separable + 24 + norm: "the convolutions have no bias: batch norm's shift takes its place.",
            separable + 16 + norm: "the depthwise convolution has no bias.",
            separable + 16 + 24 + norm: "neither of the convolutions has a bias.",
            separable + 16 + 24: "no biases here, but a batch norm.",
            separable + 2 * norm: "running means and variances are measured, not learned: buffers, no parameters.",
            separable + 2 * 16 + norm: "there is one batch norm only, at the end.",
            separable + 2 * 16: "batch norm comes last: how many channels are there then?",
            3 * 3 * 16 * 16 + across + norm: "that is an ordinary 3×3 convolution first: a depthwise kernel reads one"
            " channel.",
            full + across + norm: "depthwise: each of the 16 channels has one kernel, and that kernel reads no other.",
            full + norm: "that is the ordinary convolution of (a).",
            3 * 3 + across + norm: "one kernel for all channels? Depthwise, each has its own.",
            3 * 3 * 24 + across + norm: "the depthwise convolution comes first, while there are 16 channels.",
            depthwise + norm: "where is the 1×1 convolution?",
            across + norm: "where is the depthwise convolution?",
            depthwise + full + norm: "the second convolution is 1×1.",
        },
    )
    right = [first[0], second[0], third[0]]
    if answer is not None and not isinstance(answer, list | tuple):
        return f"a {type(answer).__name__}, expected a list of three numbers."
    if answer is None or len(answer) != 3 or all(value is None for value in answer):
        return judge_value(answer, right)
    for letter, value, (expected, slips) in zip("abc", answer, (first, second, third), strict=True):
        if hint := judge_value(value, expected):
            return f"({letter}) {next((text for slip, text in slips.items() if same(value, slip)), hint)}"
    return None


# ------------------------------------------------------------------------------------------------
# 2. Multiply-adds
# ------------------------------------------------------------------------------------------------


def _multiply_adds(answer):
    # (settings of the layer, shape of the image); nothing square where that could hide a mistake
    cases = [
        ({"in_channels": 3, "out_channels": 8, "kernel_size": 3}, (3, 10, 12)),
        ({"in_channels": 4, "out_channels": 6, "kernel_size": 3, "stride": 2, "padding": 1, "bias": False}, (4, 9, 12)),
        ({"in_channels": 6, "out_channels": 6, "kernel_size": 3, "padding": 1, "groups": 6}, (6, 8, 11)),
        ({"in_channels": 5, "out_channels": 7, "kernel_size": 1}, (5, 6, 9)),
        (
            {"in_channels": 2, "out_channels": 3, "kernel_size": (3, 5), "stride": (1, 2), "padding": (0, 2)},
            (2, 9, 14),
        ),
        ({"in_channels": 4, "out_channels": 8, "kernel_size": 3, "stride": 3, "groups": 2, "bias": False}, (4, 11, 13)),
    ]

    def work(side=lambda n, k, p, s: (n + 2 * p - k) // s + 1, weights=lambda layer: layer.weight.numel()):
        """The work with one thing about it changed: a side of the map, or what a place of the map takes."""

        def function(layer, shape):
            sides = map(side, shape[1:], layer.kernel_size, layer.padding, layer.stride)
            return weights(layer) * math.prod(sides)

        return function

    right = work()

    def square(layer, shape):
        k, p, s = layer.kernel_size[0], layer.padding[0], layer.stride[0]
        weights = k * k * layer.in_channels * layer.out_channels // layer.groups
        return weights * math.prod((n + 2 * p - k) // s + 1 for n in shape[1:])

    def crossed(layer, shape):
        sides = zip(shape[1:], layer.kernel_size[::-1], layer.padding[::-1], layer.stride[::-1], strict=True)
        return layer.weight.numel() * math.prod((n + 2 * p - k) // s + 1 for n, k, p, s in sides)

    def biases(layer):
        return 0 if layer.bias is None else layer.bias.numel()

    slips = {
        "where are the groups? A kernel reads the channels of its own group only.": work(
            weights=lambda layer: layer.weight.numel() * layer.groups
        ),
        "groups make a kernel read fewer channels; there are as many kernels as before.": work(
            weights=lambda layer: layer.weight.numel() // layer.groups
        ),
        "a window moves on by the stride: at how many places does it stand?": work(
            lambda n, k, p, s: n + 2 * p - k + 1
        ),
        "the frame that padding adds gives the window more places.": work(lambda n, k, p, s: (n - k) // s + 1),
        "padding lies on both sides: it adds its width twice.": work(lambda n, k, p, s: (n + p - k) // s + 1),
        "the kernel is used at each place of the map that comes out, which need not have the image's size.": work(
            lambda n, k, p, s: n
        ),
        "dividing the side by the stride is not enough: a window must also fit in, frame included.": work(
            lambda n, k, p, s: n // s
        ),
        "so many steps, and one place more: where the window starts.": work(lambda n, k, p, s: (n + 2 * p - k) // s),
        "a step that would lead beyond the edge is not taken: round down.": work(
            lambda n, k, p, s: math.ceil((n + 2 * p - k) / s) + 1
        ),
        "half a step is none: round down to whole steps, for height and width each.": work(
            lambda n, k, p, s: (n + 2 * p - k) / s + 1
        ),
        "twice as many: a multiplication with the addition that follows counts as one here.": (
            lambda layer, shape: 2 * right(layer, shape)
        ),
        "adding a bias at each place multiplies nothing: leave it out.": work(
            weights=lambda layer: layer.weight.numel() + biases(layer)
        ),
        "biases multiply nothing: leave them out.": lambda layer, shape: right(layer, shape) + biases(layer),
        "that is the number of weights: each is used at many places.": lambda layer, shape: layer.weight.numel(),
        "that is the number of parameters: a weight is used at many places, and a bias multiplies nothing.": (
            lambda layer, shape: layer.weight.numel() + biases(layer)
        ),
        "that is how many numbers come out: how many multiplications does each of them take?": work(
            weights=lambda layer: layer.out_channels
        ),
        "a kernel reads several channels, and multiplies in each of them.": work(
            weights=lambda layer: layer.out_channels * math.prod(layer.kernel_size)
        ),
        "that is the work of one kernel: how many are there?": work(weights=lambda layer: layer.weight[0].numel()),
        "a kernel need not be square.": work(
            weights=lambda layer: layer.weight.numel() // layer.kernel_size[1] * layer.kernel_size[0]
        ),
        "kernel, stride and padding have a number for the height and one for the width.": square,
        "of each pair the first number is for the height, the second for the width.": crossed,
        "that is the map's height twice: it need not be square.": lambda layer, shape: (
            layer.weight.numel() * layer(torch.zeros(1, *shape)).shape[2] ** 2
        ),
    }

    def of_layer(function):
        return lambda settings, shape: function(nn.Conv2d(**settings), shape)

    hint = judge_function(
        of_layer(answer) if callable(answer) else answer,
        cases,
        of_layer(right),
        {hint: of_layer(slip) for hint, slip in slips.items()},
        banned=("FlopCounterMode", "layer_costs"),
    )
    if case := re.search(r"\bin case (\d+)", hint or ""):
        settings, shape = cases[int(case[1]) - 1]
        return f"{hint.rstrip('.')}: {nn.Conv2d(**settings)} with the shape {shape}."
    return hint


# ------------------------------------------------------------------------------------------------
# 3. A depthwise convolution
# ------------------------------------------------------------------------------------------------


def _depthwise(answer):
    draw = torch.Generator().manual_seed(0)

    def case(count, channels, height, width):
        shapes = [(count, channels, height, width), (channels, 3, 3)]
        # whole numbers: their sums are exact in whatever order they are added up
        return tuple(torch.randint(-4, 5, shape, generator=draw).float() for shape in shapes)

    # No image is higher than wide, so that code for square images gives one and the same mistake in all cases.
    cases = [case(2, 4, 6, 9), case(3, 3, 5, 5), case(1, 1, 4, 6), case(1, 5, 3, 3), case(2, 3, 4, 5)]

    def each(images, kernels, padding=0):
        return F.conv2d(images, kernels.unsqueeze(1), groups=len(kernels), padding=padding)

    def summed(images, kernels):
        return F.conv2d(images, kernels.unsqueeze(0))

    def mixed(images, kernels):
        parts = F.unfold(images, 3).reshape(len(images), 9, len(kernels), -1)  # which is not how they are laid out
        result = torch.einsum("nkcp,ck->ncp", parts, kernels.flatten(1))
        return result.view(len(images), len(kernels), images.shape[2] - 2, images.shape[3] - 2)

    hint = judge_function(
        answer,
        cases,
        each,
        {
            "the channels are added up to one map: here each stays one of its own.": summed,
            "the channels are added up, and each map is the same: nothing is summed over channels here.": (
                lambda x, k: summed(x, k).expand(-1, len(k), -1, -1)
            ),
            "each kernel reads the sum of all channels: it shall read its own only.": lambda x, k: each(
                x.sum(1, keepdim=True).expand_as(x), k
            ),
            "all channels have the first one's kernel: each has its own.": lambda x, k: each(x, k[:1].expand_as(k)),
            "all channels have the last one's kernel: each has its own.": lambda x, k: each(x, k[-1:].expand_as(k)),
            "all maps come from the first channel: each kernel reads its own.": lambda x, k: each(
                x[:, :1].expand_as(x), k
            ),
            "the kernel is turned by half a turn: in deep learning it is laid on the image as it is.": (
                lambda x, k: each(x, k.flip((1, 2)))
            ),
            "rows and columns of the kernel have changed places.": lambda x, k: each(x, k.mT),
            "the kernel's columns are in the wrong order.": lambda x, k: each(x, k.flip(2)),
            "the kernel's rows are in the wrong order.": lambda x, k: each(x, k.flip(1)),
            "there is a frame of zeros: without it, a window of 3×3 fits in at two places fewer a side.": (
                lambda x, k: each(x, k, padding=1)
            ),
            "the last row and column of places are missing: where does the range end?": lambda x, k: each(x, k)[
                ..., :-1, :-1
            ],
            "that is the mean of the nine products, not their sum.": lambda x, k: each(x, k) / 9,
            "that is the largest of the nine products, not their sum.": lambda x, k: (
                F.unfold(x, 3).unflatten(1, (-1, 9)).mul(k.flatten(1)[..., None]).amax(2).view_as(each(x, k))
            ),
            "only the middle of each kernel is used.": lambda x, k: x[..., 1:-1, 1:-1] * k[:, 1:2, 1:2],
            "each kernel is only the sum of its weights here: they weight different neighbours.": lambda x, k: each(
                x, k.mean((1, 2), keepdim=True).expand_as(k)
            ),
            "negative sums are results too: no ReLU here.": lambda x, k: each(x, k).clamp(min=0),
            "the first image only: all of the batch are wanted.": lambda x, k: each(x, k)[:1],
            "the first image only, and its dimension is lost: all of the batch are wanted.": lambda x, k: each(x, k)[0],
            "the images of the batch are added up: each stays one of its own.": lambda x, k: each(x, k).sum(
                0, keepdim=True
            ),
            "images need not be square: width and height have a range each.": lambda x, k: each(x, k)[
                ..., : x.shape[2] - 2
            ],
            "channels and places are mixed up: `unfold` gives all nine of the first channel first.": mixed,
        },
        banned=(
            *("conv1d", "conv2d", "conv3d", "Conv1d", "Conv2d", "Conv3d", "LazyConv1d", "LazyConv2d", "LazyConv3d"),
            *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution", "mkldnn_convolution"),
            *("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "cudnn_convolution", "conv_tbc"),
            *("correlate", "correlate2d", "convolve", "convolve2d", "convolve1d", "correlate1d", "fftconvolve"),
        ),
    )
    if hint and "non-singleton dimension" in hint:
        return f"{hint.rstrip('.')}: are the parts of one size, and do the channels stand where (N, C, H, W) has them?"
    return hint


# ------------------------------------------------------------------------------------------------
# 4. Batch norm folded into the convolution
# ------------------------------------------------------------------------------------------------


def _fold(answer):
    cases = [
        ({"in_channels": 2, "out_channels": 4, "kernel_size": 3}, 0.125),
        ({"in_channels": 3, "out_channels": 5, "kernel_size": 3, "stride": 2, "padding": 1}, 0.25 - 2**-10),
        ({"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": 1, "groups": 4}, 0.125),
        ({"in_channels": 3, "out_channels": 5, "kernel_size": 1}, 0.125),
        (
            {"in_channels": 2, "out_channels": 4, "kernel_size": (3, 1), "padding": (1, 0), "groups": 2},
            0.25 - 2**-10,
        ),
    ]
    problems, parts = [], []

    def folded(settings, eps):
        convolution, norm, images = _pair(settings, eps)
        result = answer(convolution, norm)
        if problem := _no_fold(result, convolution, norm, _pair(settings, eps)[:2]):
            problems.append(problem)
        if result is None or problem:
            return None
        parts.append((result.weight, result.bias))
        return result(images)

    def factor(norm):
        return norm.weight / (norm.running_var + norm.eps).sqrt()

    def by(factor=factor, bias=lambda norm, factor: norm.bias - norm.running_mean * factor(norm)):
        """What comes out with weights times `factor` and this bias."""

        def outputs(settings, eps):
            convolution, norm, images = _pair(settings, eps)
            convolution.weight = nn.Parameter(convolution.weight * factor(norm).view(-1, 1, 1, 1))
            convolution.bias = nn.Parameter(bias(norm, factor))
            return convolution(images)

        return outputs

    def by_norm(settings, eps):
        convolution, norm, images = _pair(settings, eps)
        return norm(convolution(images))

    hint = judge_function(
        folded if callable(answer) else answer,
        cases,
        by_norm,
        {
            "batch norm divides by the standard deviation, not by the variance.": by(
                lambda norm: norm.weight / (norm.running_var + norm.eps)
            ),
            "where is `eps`? Batch norm adds it to the variance.": by(
                lambda norm: norm.weight / norm.running_var.sqrt()
            ),
            "`eps` is not the same for every batch norm: this one knows its own.": by(
                lambda norm: norm.weight / (norm.running_var + 1e-5).sqrt()
            ),
            "`eps` is added to the variance, before the root is taken.": by(
                lambda norm: norm.weight / (norm.running_var.sqrt() + norm.eps)
            ),
            "batch norm divides by the standard deviation: here something is multiplied by it.": by(
                lambda norm: norm.weight * (norm.running_var + norm.eps).sqrt()
            ),
            "`running_var` is a variance: its square is not what batch norm divides by.": by(
                lambda norm: norm.weight / (norm.running_var**2 + norm.eps).sqrt()
            ),
            "batch norm's learned factor, its `weight`, is missing.": by(
                lambda norm: 1 / (norm.running_var + norm.eps).sqrt()
            ),
            "the mean is multiplied by batch norm's learned factor too.": by(
                bias=lambda norm, factor: norm.bias - norm.running_mean * factor(norm) / norm.weight
            ),
            "batch norm's learned factor is in the bias, but not in the weights.": by(
                lambda norm: factor(norm) / norm.weight, lambda norm, _: norm.bias - norm.running_mean * factor(norm)
            ),
            "batch norm's variance is missing: it does more than its learned factor.": by(lambda norm: norm.weight),
            "batch norm's learned shift, its `bias`, is missing.": by(
                bias=lambda norm, factor: -norm.running_mean * factor(norm)
            ),
            "the running mean is missing.": by(bias=lambda norm, factor: norm.bias),
            "the bias stayed 0: what does batch norm give where the convolution gives 0?": by(
                bias=lambda norm, factor: 0 * norm.bias
            ),
            "the mean is subtracted before batch norm divides and multiplies: what becomes of it then?": by(
                bias=lambda norm, factor: norm.bias - norm.running_mean
            ),
            "the learned shift comes last: nothing multiplies it any more.": by(
                bias=lambda norm, factor: (norm.bias - norm.running_mean) * factor(norm)
            ),
            "the learned shift comes last: nothing multiplies it any more. And where is the mean?": by(
                bias=lambda norm, factor: norm.bias * factor(norm)
            ),
            "batch norm subtracts the running mean.": by(
                bias=lambda norm, factor: norm.bias + norm.running_mean * factor(norm)
            ),
            "the bias has the wrong sign.": by(bias=lambda norm, factor: norm.running_mean * factor(norm) - norm.bias),
            "the weights are the old ones: batch norm multiplies what they give.": by(
                lambda norm: torch.ones_like(norm.bias), lambda norm, _: norm.bias - norm.running_mean * factor(norm)
            ),
        },
        banned=("fuse_conv_bn_eval", "fuse_conv_bn_weights", "fuse_conv_bn", "fuse_modules"),
    )
    if problems:
        return problems[0]
    if hint and "non-singleton dimension" in hint:
        return f"{hint.rstrip('.')}: which of the weights' four dimensions are the channels that come out?"
    if case := re.match(r"in case (\d+)", hint or ""):
        return f"{case[0]} of {len(cases)}: {_which_part(*parts[int(case[1]) - 1], *cases[int(case[1]) - 1])}"
    return hint


def _pair(settings, eps):
    """The convolution and its batch norm, and images for them.

    Weights are no multiples of each other's, none is 0, and the standard deviations are powers of 2: then all
    formulas that are right give the same numbers, however they round.
    """
    convolution = nn.Conv2d(**settings, bias=False)
    channels = convolution.out_channels
    norm = nn.BatchNorm2d(channels, eps=eps).eval()
    with torch.no_grad():
        convolution.weight.copy_(_scattered(convolution.weight.shape) / 4)
        norm.weight.copy_(torch.tensor([0.5, -1.5, 2.0, 1.25, 0.25])[:channels])
        norm.bias.copy_(torch.tensor([1.0, -0.5, 0.25, -2.0, 3.0])[:channels])
        norm.running_mean.copy_(torch.tensor([0.5, -2.0, 1.5, 3.0, -0.75])[:channels])
        norm.running_var.copy_(torch.tensor([2.0, 0.5, 4.0, 0.5, 1.0])[:channels] ** 2 - eps)
    return convolution, norm, _scattered((2, convolution.in_channels, 7, 8))


def _scattered(shape):
    """Numbers from -5.5 to 4.5 in this shape, with no order that could hide a mistake; none is 0."""
    return (torch.arange(math.prod(shape)) * 7 % 11 - 5.5).view(shape)


def _no_fold(result, convolution, norm, given):
    """What is wrong with the result before a number of it is looked at; None where it can be compared."""
    for layer, before in zip((convolution, norm), given, strict=True):
        if not same(dict(layer.state_dict()), dict(before.state_dict())) or layer.training != before.training:
            return "it changes the layers that it is given: they must stay as they are, so make a new convolution."
    if result is None:
        return None
    if result is convolution:
        return "that is the convolution that was given: make a new one, with batch norm in it."
    if isinstance(result, type) or not isinstance(result, nn.Conv2d):
        return f"a {type(result).__name__}, expected one nn.Conv2d that does the work of both."
    for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "groups", "dilation"):
        if getattr(result, name) != getattr(convolution, name):
            return f"`{name}` of the new convolution is not that of the one given."
    if result.weight.shape != convolution.weight.shape:
        return f"the new weights have the shape {tuple(result.weight.shape)}, which is not that of the old ones."
    if result.bias is None:
        return "the new convolution has no bias: where is what batch norm adds?"
    return None


def _which_part(weight, bias, settings, eps):
    """Which part of the new convolution is wrong."""
    convolution, norm, _ = _pair(settings, eps)
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    if same(weight, convolution.weight * factor.view(-1, 1, 1, 1)):
        return "the weights are right, the bias is not: what does batch norm give where the convolution gives 0?"
    ratios = (weight / convolution.weight).flatten(1)
    if not torch.allclose(ratios, ratios[:, :1]):
        return "the new kernels are not the given ones, each times a number: were their weights copied?"
    if same(bias, norm.bias - norm.running_mean * factor):
        return "the bias is right, the weights are not: by what does batch norm multiply?"
    return "neither the weights nor the bias are right: write batch norm's formula down, and sort it."


JUDGES = {1: _parameters, 2: _multiply_adds, 3: _depthwise, 4: _fold}
