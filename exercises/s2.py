"""Session 2's exercises."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from exercises.checking import judge_function, judge_value


def _side(answer):
    cases = [(28, 3, 1, 1), (28, 3, 0, 1), (28, 2, 0, 2), (14, 5, 2, 3), (9, 4, 1, 2), (12, 3, 0, 2), (11, 5, 0, 4)]

    def reference(side, kernel, padding, stride):
        layer = nn.Conv2d(1, 1, kernel, padding=padding, stride=stride)
        return layer(torch.zeros(1, 1, side, side)).shape[-1]

    return judge_function(
        answer,
        cases,
        reference,
        {
            "the place where the window starts is missing: so many steps, one place more.": (
                lambda n, k, p, s: (n + 2 * p - k) // s
            ),
            "the frame lies on both sides: it adds its width twice.": lambda n, k, p, s: (n + p - k) // s + 1,
            "where is the stride? The window moves on by so many pixels at once.": lambda n, k, p, s: n + 2 * p - k + 1,
            "a step that would lead beyond the edge is not taken: round down.": (
                lambda n, k, p, s: math.ceil((n + 2 * p - k) / s) + 1
            ),
            "half a step is none: round down, not to the nearest.": lambda n, k, p, s: round((n + 2 * p - k) / s + 1),
            "half a step is none: round down to whole steps.": lambda n, k, p, s: (n + 2 * p - k) / s + 1,
            "where is the padding?": lambda n, k, p, s: (n - k) // s + 1,
            "where is the kernel? A large one has fewer places to stand.": lambda n, k, p, s: (n + 2 * p) // s,
            "divide the way that the window can move, then add the place where it starts: what is divided here?": (
                lambda n, k, p, s: (n + 2 * p - k + 1) // s
            ),
        },
    )


def _kernel(answer):
    if answer is not None:
        if not isinstance(answer, torch.Tensor):
            return f"a {type(answer).__name__}, expected a tensor of 3×3 numbers."
        if answer.shape != (3, 3):
            return f"shape {tuple(answer.shape)}, expected (3, 3)."
        if answer[1, 0] not in (0, 1) and torch.count_nonzero(answer) == 1:
            return "this also makes it brighter or darker: how much shall the neighbour count?"

    def one(row, column):
        return torch.zeros(3, 3).index_put((torch.tensor(row), torch.tensor(column)), torch.tensor(1.0))

    hint = judge_value(
        answer,
        one(1, 0),
        {
            "this moves it to the left: from which neighbour must a pixel take its value?": one(1, 2),
            "this moves it down.": one(0, 1),
            "this moves it up.": one(2, 1),
            "this leaves the image where it is.": one(1, 1),
            "this kernel gives 0 everywhere.": torch.zeros(3, 3),
            "this moves it down too: in which row is the neighbour that it takes?": one(0, 0),
            "this moves it up too: in which row is the neighbour that it takes?": one(2, 0),
            "this moves it down, and to the left: which neighbour does it take?": one(0, 2),
            "this moves it up, and to the left: which neighbour does it take?": one(2, 2),
            "this adds up three neighbours: a pixel shall take the value of one.": torch.tensor([[1.0, 0.0, 0.0]] * 3),
            "this finds edges: what shall the pixel itself count for?": torch.tensor(
                [[0.0] * 3, [1.0, -1.0, 0.0], [0.0] * 3]
            ),
        },
    )
    if hint and "first at index" in hint:  # which would be the place, or next to it
        if torch.count_nonzero(answer) == 1:
            return "this moves it another way, and makes it brighter or darker: how much shall a neighbour count?"
        return "this mixes several pixels: how many of the nine numbers does a mere move need?"
    return hint


def _pooling(answer):
    images = torch.arange(2 * 3 * 7 * 9.0).mul(2.3).sin().view(2, 3, 7, 9)
    ties = torch.tensor([[1.0, 1.0, 0.0, 2.0], [1.0, 0.0, 2.0, 2.0], [-3.0, -1.0, 0.0, 0.0], [-1.0, -1.0, 0.0, 0.0]])
    cases = [(images[:, :, :6, :8], 2), (ties[None, None], 2), (images - 2, 3), (images, 2)]

    def pooled(maps, size, reduce):
        rows, columns = maps.shape[2] // size, maps.shape[3] // size
        maps = maps[:, :, : rows * size, : columns * size]
        parts = maps.unfold(2, size, size).unfold(3, size, size).flatten(-2)  # (N, C, rows, columns, size²)
        return reduce(parts)

    def pooled_runs(maps, size):
        count, channels, height, width = maps.shape
        rows, columns = height // size, width // size
        maps = maps[:, :, : rows * size, : columns * size]
        return maps.reshape(count, channels, rows, columns, -1).amax(dim=-1)

    hint = judge_function(
        answer,
        cases,
        lambda maps, size: F.max_pool2d(maps, size),
        {
            "this is mean pooling: keep the largest value.": lambda x, n: F.avg_pool2d(x, n),
            "the smallest, not the largest?": lambda x, n: -F.max_pool2d(-x, n),
            "the windows overlap: they shall stand side by side, `size` pixels apart.": lambda x, n: F.max_pool2d(
                x, n, 1
            ),
            "negative values too have a largest one: start from something else than 0.": (
                lambda x, n: F.max_pool2d(x, n).clamp(min=0)
            ),
            "the squares at the lower and right edge that are not whole shall be left out.": (
                lambda x, n: F.max_pool2d(x, n, ceil_mode=True)
            ),
            "that is the upper left value of each square, not the largest.": lambda x, n: pooled(
                x, n, lambda p: p[..., 0]
            ),
            "where several values of a square are equal, and the largest, count one of them only.": (
                lambda x, n: pooled(x, n, lambda p: (p * (p == p.amax(-1, keepdim=True))).sum(-1))
            ),
            "the largest of all images and maps at once: each map of each image has its own.": (
                lambda x, n: F.max_pool2d(x.amax((0, 1), keepdim=True), n).expand(*x.shape[:2], -1, -1)
            ),
            "the upper row of each square only: all its rows count.": lambda x, n: pooled(
                x, n, lambda p: p[..., :n].amax(-1)
            ),
            "this takes pixels that lie one after another in a row: a square has `size` rows.": (
                lambda x, n: pooled_runs(x, n)
            ),
            "along the rows only: the largest over both rows and columns of the square.": (
                lambda x, n: F.max_pool2d(x, (1, n))
            ),
            "along the columns only: the largest over both rows and columns of the square.": (
                lambda x, n: F.max_pool2d(x, (n, 1))
            ),
            "the squares are always 2×2 here: use `size`.": lambda x, n: F.max_pool2d(x, 2),
        },
        banned=(
            *("max_pool1d", "max_pool2d", "max_pool3d", "MaxPool1d", "MaxPool2d", "MaxPool3d", "fractional_max_pool2d"),
            *("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "FractionalMaxPool2d"),
            *("AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AdaptiveMaxPool3d", "FractionalMaxPool3d"),
            *("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices"),
            *("adaptive_max_pool2d_with_indices", "fractional_max_pool2d_with_indices", "fractional_max_pool3d"),
        ),
    )
    if hint and "invalid for input of size" in hint and "case 1" not in hint and "case 2" not in hint:
        return f"{hint.rstrip('.')}: cut off the rows and columns that fill no whole square, before reshaping."
    return hint


def _field(answer):
    cases = [
        ([(3, 1)],),
        ([(3, 1), (3, 1)],),
        ([(3, 1), (2, 2)],),
        ([(3, 1), (2, 2), (3, 1)],),
        ([(5, 2), (3, 1), (3, 2), (2, 2), (3, 1)],),
        ([],),
    ]

    def added(layers):
        field, jump = 1, 1
        for kernel, stride in layers:
            field += (kernel - 1) * jump
            jump += stride
        return field

    def both(layers):
        return walk(layers), math.prod(stride for _, stride in layers)

    def walk(layers, field=1, jump=1, first=False, plus=False):
        for kernel, stride in layers:
            if first:
                jump *= stride
            field += (kernel - (not plus)) * jump
            if not first:
                jump *= stride
        return field

    def last_jump(layers):
        field, jump = 1, 1
        for kernel, stride in layers:
            field += (kernel - 1) * jump
            jump = stride
        return field

    return judge_function(
        answer,
        cases,
        walk,
        {
            "where is the jump? After a stride of 2, neighbouring values lie two pixels apart.": (
                lambda layers: walk([(kernel, 1) for kernel, _ in layers])
            ),
            "a layer's own stride changes the jump of the layers after it, not its own: in which order?": (
                lambda layers: walk(layers, first=True)
            ),
            "a window of k values reaches over k − 1 steps between them.": lambda layers: walk(layers, plus=True),
            "strides multiply: the jump is the product of those so far, not the last one.": last_jump,
            "strides multiply: the jump is the product of those so far, not their sum.": added,
            "return the field alone, without the jump.": both,
            "a single pixel sees itself: the field starts at 1.": lambda layers: walk(layers, field=0),
            "this goes from the last layer to the first: the jump grows from the image on.": (
                lambda layers: walk(layers[::-1])
            ),
            "this is the jump, not the field.": lambda layers: math.prod(stride for _, stride in layers),
            "this is the product of the kernels: how far does each window reach beyond one value?": (
                lambda layers: math.prod(kernel for kernel, _ in layers)
            ),
            "this is the sum of the kernels: neighbouring windows overlap.": lambda layers: sum(k for k, _ in layers),
        },
    )


JUDGES = {1: _side, 2: _kernel, 3: _pooling, 4: _field}
