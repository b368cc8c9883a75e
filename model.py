"""Every architecture of the course. Of packages it imports torch only.

All models return log-probabilities of shape (N, 10), float32: `nll_loss` fits them directly, and
`cross_entropy` too, since log-softmax of log-probabilities changes nothing. Each carries what it
was built with: `model.architecture`, a name in `ARCHITECTURES`, and `model.arguments`.
"""

import math
from collections import OrderedDict
from numbers import Integral, Real

import torch
import torch.nn.functional as F
from torch import nn

MEAN, STD = 0.1307, 0.3081  # of MNIST's training pixels in [0, 1]: images are normalised so, unless said otherwise


def _check_images(name, x):
    if x.shape[1:] != (1, 28, 28):
        raise ValueError(f"{name} takes images of shape (N, 1, 28, 28), not {tuple(x.shape)}.")


def _dropout(value):
    if not isinstance(value, Real) or not 0 <= value < 1:
        raise ValueError(f"dropout must be a number from 0 to below 1, not {value!r}.")
    return float(value)


class Net(nn.Module):
    """The capstone's network: four convolutions, two linear layers, 593,200 parameters.

    Shapes: `(N, 1, 28, 28)` float in, log-probabilities `(N, 10)` float32 out.
    Raises ValueError for any other input shape.
    """

    def __init__(self):
        super().__init__()
        self.architecture, self.arguments = "Net", {}
        self.conv1 = nn.Conv2d(1, 32, kernel_size=3)  # 320 parameters
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3)  # 18,496
        self.conv3 = nn.Conv2d(64, 128, kernel_size=3)  # 73,856
        self.conv4 = nn.Conv2d(128, 256, kernel_size=3)  # 295,168
        self.fc1 = nn.Linear(256 * 4 * 4, 50)  # 204,850
        self.fc2 = nn.Linear(50, 10)  # 510

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _check_images("Net", x)
        # Each line's comment: output shape, receptive field in pixels of the image.
        x = F.relu(self.conv1(x))  # (N, 32, 26, 26), 3×3
        x = F.relu(self.conv2(x))  # (N, 64, 24, 24), 5×5
        x = F.max_pool2d(x, 2)  # (N, 64, 12, 12), 6×6
        x = F.relu(self.conv3(x))  # (N, 128, 10, 10), 10×10
        x = F.relu(self.conv4(x))  # (N, 256, 8, 8), 14×14
        x = F.max_pool2d(x, 2)  # (N, 256, 4, 4), 16×16
        x = torch.flatten(x, 1)  # (N, 4096); view would refuse channels_last memory
        x = F.relu(self.fc1(x))  # (N, 50), 28×28: the whole image
        x = self.fc2(x)  # (N, 10), 28×28
        # float32 because under bf16 autocast a rounded log-probability would coarsen the loss
        return F.log_softmax(x, dim=1, dtype=torch.float32)  # (N, 10)


ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "tanh": nn.Tanh}


class MLP(nn.Module):
    """A feed-forward network; `create_model` describes its parameters."""

    def __init__(self, input_size, hidden_sizes, output_size, activation, dropout, batch_norm):
        super().__init__()
        if not isinstance(hidden_sizes, list | tuple):
            raise ValueError(f"hidden_sizes must be a list or tuple of sizes, not {hidden_sizes!r}.")
        sizes = [("input_size", input_size), ("output_size", output_size)]
        for name, size in sizes + [("each of hidden_sizes", size) for size in hidden_sizes]:
            if not isinstance(size, Integral) or isinstance(size, bool) or size < 1:
                raise ValueError(f"{name} must be a whole number from 1, not {size!r}.")
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            raise ValueError(f"Unknown activation {activation!r}: choose one of {', '.join(ACTIVATIONS)}.")
        dropout = _dropout(dropout)
        if not isinstance(batch_norm, bool):
            raise ValueError(f"batch_norm must be True or False, not {batch_norm!r}.")
        self.architecture = "MLP"
        self.arguments = {
            "input_size": int(input_size),  # plain, also where NumPy's were given
            "hidden_sizes": [int(size) for size in hidden_sizes],
            "output_size": int(output_size),
            "activation": activation,
            "dropout": dropout,
            "batch_norm": batch_norm,
        }
        layers, before = [], input_size
        for size in hidden_sizes:
            layers.append(nn.Linear(before, size))
            layers += [nn.BatchNorm1d(size)] if batch_norm else []
            layers.append(ACTIVATIONS[activation]())
            layers += [nn.Dropout(dropout)] if dropout else []
            before = size
        self.layers = nn.Sequential(*layers, nn.Linear(before, output_size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = self.arguments["input_size"]
        side = math.isqrt(size)
        shapes = ((1, side, side), (size,)) if side * side == size else ((size,),)
        if tuple(x.shape[1:]) not in shapes:
            choices = " or ".join(str(("N", *shape)).replace("'", "") for shape in shapes)
            raise ValueError(f"This MLP takes images of shape {choices}, not {tuple(x.shape)}.")
        x = torch.flatten(x, 1)  # (N, input_size)
        return F.log_softmax(self.layers(x), dim=1, dtype=torch.float32)  # (N, output_size)


def create_model(
    input_size=784, hidden_sizes=(128, 64), output_size=10, activation="relu", dropout=0.0, batch_norm=False
):
    """A feed-forward network (multilayer perceptron), 109,386 parameters by default.

    `hidden_sizes`: units of each hidden layer, () for none; `activation`: 'relu', 'leaky_relu',
    'elu' or 'tanh'; `dropout`: the fraction of each hidden layer's outputs set to 0 in training, from
    0 to below 1 (Srivastava et al. 2014); `batch_norm`: normalise each hidden layer before its
    activation (Ioffe and Szegedy 2015).

    Shapes: `(N, 1, 28, 28)` or `(N, 784)` float in (any other `input_size` likewise),
    log-probabilities `(N, output_size)` float32 out. Raises ValueError for any other argument or
    input shape.
    """
    return MLP(input_size, hidden_sizes, output_size, activation, dropout, batch_norm)


class CNN(nn.Module):
    """A first convolutional network: two convolutions, two linear layers, 421,642 parameters.

    `padding`: of the second convolution: 1 keeps 14×14 pixels, 0 leaves 12×12 (and 315,146
    parameters in all), 2 makes 16×16; `dropout`: the fraction of each linear layer's inputs set
    to 0 in training, from 0 to below 1 (Srivastava et al. 2014).

    Shapes: `(N, 1, 28, 28)` float in, log-probabilities `(N, 10)` float32 out. Raises ValueError
    for any other argument or input shape.
    """

    def __init__(self, padding=1, dropout=0.0):
        super().__init__()
        if not isinstance(padding, Integral) or padding not in (0, 1, 2):
            raise ValueError(f"padding must be 0, 1 or 2, not {padding!r}.")
        dropout = _dropout(dropout)
        self.architecture, self.arguments = "CNN", {"padding": int(padding), "dropout": dropout}
        self.conv1 = nn.Conv2d(1, 32, kernel_size=3, padding=1)  # 320 parameters
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=padding)  # 18,496
        side = (14 + 2 * padding - 2) // 2  # what a 3×3 window, then the pooling, leave of 14 pixels
        self.fc1 = nn.Linear(64 * side * side, 128)  # 401,536; without padding 295,040
        self.fc2 = nn.Linear(128, 10)  # 1,290

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _check_images("CNN", x)
        dropout = self.arguments["dropout"]
        x = F.relu(self.conv1(x))  # (N, 32, 28, 28)
        x = F.max_pool2d(x, 2)  # (N, 32, 14, 14)
        x = F.relu(self.conv2(x))  # (N, 64, 14, 14), or 12×12 without padding
        x = F.max_pool2d(x, 2)  # (N, 64, 7, 7), or 6×6
        x = torch.flatten(x, 1)  # (N, 3136), or 2304
        x = F.relu(self.fc1(F.dropout(x, dropout, self.training)))  # (N, 128)
        x = self.fc2(F.dropout(x, dropout, self.training))  # (N, 10)
        return F.log_softmax(x, dim=1, dtype=torch.float32)  # (N, 10)


class ImageClassifier(nn.Module):
    """Three convolutions, their maps averaged, one linear layer: 56,394 parameters.

    Shapes: `(N, 1, 28, 28)` float in, log-probabilities `(N, 10)` float32 out. Raises ValueError
    for any other input shape.
    """

    def __init__(self):
        super().__init__()
        self.architecture, self.arguments = "ImageClassifier", {}
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, kernel_size=3),  # (N, 32, 26, 26), 320 parameters
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=3),  # (N, 64, 24, 24), 18,496
            nn.ReLU(),
            nn.Conv2d(64, 64, kernel_size=3),  # (N, 64, 22, 22), 36,928
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),  # (N, 64, 1, 1): the mean of each map (Lin et al. 2014, Network In Network)
            nn.Flatten(),  # (N, 64)
            nn.Linear(64, 10),  # (N, 10), 650
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _check_images("ImageClassifier", x)
        return F.log_softmax(self.layers(x), dim=1, dtype=torch.float32)  # (N, 10)


def _convolution(before, after):
    """A 3×3 convolution, batch norm (which makes a bias needless) and ReLU."""
    conv = nn.Conv2d(before, after, kernel_size=3, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(after), relu=nn.ReLU()))


def _separable(before, after):
    """The same, its convolution taken apart: 3×3 within each channel, then 1×1 across them (Howard et al. 2017)."""
    depthwise = nn.Conv2d(before, before, kernel_size=3, groups=before, bias=False)
    pointwise = nn.Conv2d(before, after, kernel_size=1, bias=False)
    parts = {"depthwise": depthwise, "pointwise": pointwise, "norm": nn.BatchNorm2d(after), "relu": nn.ReLU()}
    return nn.Sequential(OrderedDict(parts))


class _Row(nn.Sequential):
    """Layers in a row that make ten scores of an image, and the log-softmax of these."""

    def __init__(self, **layers):
        super().__init__(OrderedDict(layers))
        self.architecture, self.arguments = type(self).__name__, {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _check_images(self.architecture, x)
        return F.log_softmax(super().forward(x), dim=1, dtype=torch.float32)  # (N, 10)


class SmallNet(_Row):
    """Fewer than 20,000 parameters: 18,554.

    Five convolutions, each with batch norm (Ioffe and Szegedy 2015), one pooling, the mean of each map (Lin et
    al. 2014, Network In Network), one linear layer.

    Shapes: `(N, 1, 28, 28)` float in, log-probabilities `(N, 10)` float32 out. Raises ValueError
    for any other input shape.
    """

    def __init__(self):
        # Each line's comment: output shape, receptive field in pixels of the image, parameters.
        super().__init__(
            conv1=_convolution(1, 16),  # (N, 16, 26, 26), 3×3, 176
            conv2=_convolution(16, 16),  # (N, 16, 24, 24), 5×5, 2,336
            pool=nn.MaxPool2d(2),  # (N, 16, 12, 12), 6×6
            conv3=_convolution(16, 24),  # (N, 24, 10, 10), 10×10, 3,504
            conv4=_convolution(24, 24),  # (N, 24, 8, 8), 14×14, 5,232
            conv5=_convolution(24, 32),  # (N, 32, 6, 6), 18×18, 6,976
            mean=nn.AdaptiveAvgPool2d(1),  # (N, 32, 1, 1), 28×28: the whole image
            flatten=nn.Flatten(),  # (N, 32)
            fc=nn.Linear(32, 10),  # (N, 10), 330
        )


class TinyNet(_Row):
    """Fewer than 8,000 parameters: 7,070. Its last four convolutions are depthwise-separable.

    Shapes: `(N, 1, 28, 28)` float in, log-probabilities `(N, 10)` float32 out. Raises ValueError
    for any other input shape.
    """

    def __init__(self):
        # Each line's comment: output shape, receptive field in pixels of the image, parameters.
        super().__init__(
            conv1=_convolution(1, 12),  # (N, 12, 26, 26), 3×3, 132
            conv2=_convolution(12, 16),  # (N, 16, 24, 24), 5×5, 1,760
            pool=nn.MaxPool2d(2),  # (N, 16, 12, 12), 6×6
            conv3=_separable(16, 32),  # (N, 32, 10, 10), 10×10, 720
            conv4=_separable(32, 32),  # (N, 32, 8, 8), 14×14, 1,376
            conv5=_separable(32, 32),  # (N, 32, 6, 6), 18×18, 1,376
            conv6=_separable(32, 32),  # (N, 32, 4, 4), 22×22, 1,376
            mean=nn.AdaptiveAvgPool2d(1),  # (N, 32, 1, 1), 28×28: the whole image
            flatten=nn.Flatten(),  # (N, 32)
            fc=nn.Linear(32, 10),  # (N, 10), 330
        )


class MicroNet(_Row):
    """How far it goes: 1,116 parameters, and still 99 of 100 test images right. Only its first convolution is whole.

    Shapes: `(N, 1, 28, 28)` float in, log-probabilities `(N, 10)` float32 out. Raises ValueError
    for any other input shape.
    """

    def __init__(self):
        # Each line's comment: output shape, receptive field in pixels of the image, parameters.
        super().__init__(
            conv1=_convolution(1, 6),  # (N, 6, 26, 26), 3×3, 66
            conv2=_separable(6, 10),  # (N, 10, 24, 24), 5×5, 134
            pool=nn.MaxPool2d(2),  # (N, 10, 12, 12), 6×6
            conv3=_separable(10, 12),  # (N, 12, 10, 10), 10×10, 234
            conv4=_separable(12, 12),  # (N, 12, 8, 8), 14×14, 276
            conv5=_separable(12, 12),  # (N, 12, 6, 6), 18×18, 276
            mean=nn.AdaptiveAvgPool2d(1),  # (N, 12, 1, 1), 28×28: the whole image
            flatten=nn.Flatten(),  # (N, 12)
            fc=nn.Linear(12, 10),  # (N, 10), 130
        )


# Name → what rebuilds a model from its keyword arguments: ARCHITECTURES[m.architecture](**m.arguments)
ARCHITECTURES = {
    "Net": Net,
    "CNN": CNN,
    "ImageClassifier": ImageClassifier,
    "MLP": create_model,
    "SmallNet": SmallNet,
    "TinyNet": TinyNet,
    "MicroNet": MicroNet,
}
