"""Wrong answers to Session 6's exercises, with a piece of the hint that each should get."""


def parameters(a="3 * 3 * 16 * 24 + 2 * 24", b="24 * 16 + 16", c="3 * 3 * 16 + 16 * 24 + 2 * 24"):
    return f"parameters = [{a}, {b}, {c}]"


SIDES = """def multiply_adds(layer, shape):
    height, width = (
        {side}
        for n, k, s, p in zip(shape[1:], layer.kernel_size, layer.stride, layer.padding)
    )
    return {work}
"""


def work(work="layer.weight.numel() * height * width", side="(n + 2 * p - k) // s + 1"):
    return SIDES.format(side=side, work=work)


def work_only(expression):
    return f"def multiply_adds(layer, shape):\n    return {expression}"


COUNTER = """from torch.utils.flop_counter import FlopCounterMode


def multiply_adds(layer, shape):
    counter = FlopCounterMode(display=False)
    with counter:
        layer(torch.zeros(1, *shape))
    return counter.get_total_flops() // 2
"""

SQUARE = """def multiply_adds(layer, shape):
    k, s, p = layer.kernel_size[0], layer.stride[0], layer.padding[0]
    height, width = ((n + 2 * p - k) // s + 1 for n in shape[1:])
    return layer.out_channels * (layer.in_channels // layer.groups) * k * k * height * width
"""

BY_A_HOOK = """def multiply_adds(layer, shape):
    sizes = []
    hook = layer.register_forward_hook(lambda layer, inputs, output: sizes.append(output[0].numel()))
    with torch.no_grad():
        layer(torch.zeros(1, *shape))
    hook.remove()
    return sizes[0] * layer.weight[0].numel()
"""

WINDOWS = """def depthwise(images, kernels):
    height, width = {sides}
    result = {start}
    for i in {rows}:
        for j in {columns}:
            window = images[:, :, i : i + height, j : j + width]
            {step}
    return {result}
"""


def windows(
    weight="kernels[:, i, j].view(-1, 1, 1)",
    *,
    sides="images.shape[2] - 2, images.shape[3] - 2",
    start="0",
    rows="range(3)",
    columns="range(3)",
    step="result = result + {weight} * window",
    result="result",
):
    step = step.format(weight=weight)
    return WINDOWS.format(sides=sides, start=start, rows=rows, columns=columns, step=step, result=result)


PLACES = """def depthwise(images, kernels):
    count, channels, height, width = images.shape
    result = torch.zeros(count, channels, {height}, {width})
    for i in range({height}):
        for j in range({width}):
            result[:, :, i, j] = {value}
    return result
"""


def places(value="(images[:, :, i : i + 3, j : j + 3] * kernels).sum((2, 3))", height="height - 2", width="width - 2"):
    return PLACES.format(value=value, height=height, width=width)


UNFOLDED = """def depthwise(images, kernels):
    count, channels, height, width = images.shape
    parts = F.unfold(images, 3).view(count, {order}, -1)
    return torch.einsum({rule}, parts, kernels.flatten(1)).view(count, channels, height - 2, width - 2)
"""

FOLD = """def fold(convolution, norm):
    deviation = {deviation}
    factor = {factor}
    folded = copy.deepcopy(convolution)
    folded.weight = nn.Parameter({weight})
    folded.bias = nn.Parameter({bias})
    return {result}
"""


def fold(
    *,
    deviation="(norm.running_var + norm.eps).sqrt()",
    factor="norm.weight / deviation",
    weight="convolution.weight * factor.view(-1, 1, 1, 1)",
    bias="norm.bias - norm.running_mean * factor",
    result="folded",
):
    return FOLD.format(deviation=deviation, factor=factor, weight=weight, bias=bias, result=result)


MADE = """def fold(convolution, norm):
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    folded = nn.Conv2d({settings})
    with torch.no_grad():
        {copies}
        folded.bias.copy_(norm.bias - norm.running_mean * factor)
    return folded
"""
SETTINGS = (
    "convolution.in_channels, convolution.out_channels, convolution.kernel_size, stride=convolution.stride,"
    " padding=convolution.padding, groups=convolution.groups"
)


def made(settings=SETTINGS, copies="folded.weight.copy_(convolution.weight * factor.reshape(-1, 1, 1, 1))"):
    return MADE.format(settings=settings, copies=copies)


IN_PLACE = """def fold(convolution, norm):
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    convolution.weight.data *= factor.view(-1, 1, 1, 1)
    convolution.bias = nn.Parameter(norm.bias - norm.running_mean * factor)
    return convolution
"""

BY_PROBING = """def fold(convolution, norm):
    with torch.no_grad():
        shift = norm(torch.zeros(1, convolution.out_channels, 1, 1)).flatten()
        factor = norm(torch.ones(1, convolution.out_channels, 1, 1)).flatten() - shift
        folded = copy.deepcopy(convolution)
        folded.bias = nn.Parameter(shift)
        for kernel, number in zip(folded.weight, factor):
            kernel *= number
    return folded
"""

BY_A_DIAGONAL = """def fold(convolution, norm):
    factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    bias = norm.bias - norm.running_mean * factor
    folded = nn.Conv2d(**{name: getattr(convolution, name) for name in (
        "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")})
    folded.load_state_dict({
        "weight": (torch.diag(factor) @ convolution.weight.flatten(1)).view_as(convolution.weight), "bias": bias})
    return folded
"""

WRONG = {
    1: [
        ("parameters = 3504", "a int, expected a list of three numbers"),
        ("parameters = [3504, 400]", "2 values, expected 3"),
        (parameters(a="None"), "(a) there is no answer yet"),
        (parameters(a="3 * 3 * 16 * 24"), "(a) batch norm learns something too"),
        (parameters(a="3 * 3 * 16 * 24 + 24"), "(a) 24 more than the weights"),
        (parameters(a="(3 * 3 * 16 + 1) * 24 + 2 * 24"), "(a) the convolution has no bias"),
        (parameters(a="3 * 3 * 16 * 24 + 4 * 24"), "(a) running means and variances are measured"),
        (parameters(a="(3 * 3 * 16 + 1) * 24 + 4 * 24"), "(a) no bias here; and running means"),
        (parameters(a="3 * 3 * 16 * 24 + 2 * 16"), "(a) batch norm comes after the convolution"),
        (parameters(a="16 * 24 + 2 * 24"), "(a) a kernel of 3×3 has more than one weight"),
        (parameters(a="3 * 16 * 24 + 2 * 24"), "(a) how many weights are 3×3?"),
        (parameters(a="3 * 3 * 24 + 2 * 24"), "(a) each kernel reads all 16 channels, with other weights"),
        (parameters(a="3 * 3 * 16 + 2 * 24"), "(a) that is one kernel"),
        (parameters(a="3 * 3 * 16 + 16 * 24 + 2 * 24"), "(a) that is the depthwise way"),
        (parameters(a="3 * 3 * 16 * 24 * 2"), "(a) too large"),
        (parameters(b="24 * 16"), "(b) this convolution has a bias"),
        (parameters(b="24 * 16 + 24"), "(b) a bias belongs to a channel that comes out"),
        (parameters(b="24 * 16 + 1"), "(b) is one bias enough"),
        (parameters(b="24 * 16 + 2 * 16"), "(b) no batch norm here, only a bias"),
        (parameters(b="24 * 16 + 16 + 2 * 16"), "(b) no batch norm here."),
        (parameters(b="3 * 3 * 24 * 16 + 16"), "(b) a 1×1 kernel reads one place"),
        (parameters(b="1 * 1 * 16 + 16"), "(b) each kernel reads all 24 channels"),
        (parameters(b="24 + 16"), "(b) a weight for each pair"),
        (parameters(b="16 * 16 + 16"), "(b) 24 channels go in"),
        (parameters(b="'400'"), "(b) a str, expected a number"),
        (parameters(c="3 * 3 * 16 + 16 * 24"), "(c) batch norm learns something too"),
        (parameters(c="3 * 3 * 16 + 16 * 24 + 24"), "(c) 24 more than the weights"),
        (parameters(c="3 * 3 * 16 + (16 + 1) * 24 + 2 * 24"), "(c) the convolutions have no bias: batch norm"),
        (parameters(c="(3 * 3 + 1) * 16 + 16 * 24 + 2 * 24"), "(c) the depthwise convolution has no bias"),
        (parameters(c="(3 * 3 + 1) * 16 + (16 + 1) * 24 + 2 * 24"), "(c) neither of the convolutions has a bias"),
        (parameters(c="(3 * 3 + 1) * 16 + (16 + 1) * 24"), "(c) no biases here, but a batch norm"),
        (parameters(c="3 * 3 * 16 + 16 * 24 + 4 * 24"), "(c) running means and variances are measured"),
        (parameters(c="3 * 3 * 16 + 2 * 16 + 16 * 24 + 2 * 24"), "(c) there is one batch norm only"),
        (parameters(c="3 * 3 * 16 + 16 * 24 + 2 * 16"), "(c) batch norm comes last"),
        (parameters(c="3 * 3 * 16 * 16 + 16 * 24 + 2 * 24"), "(c) that is an ordinary 3×3 convolution first"),
        (parameters(c="3 * 3 * 16 * 24 + 16 * 24 + 2 * 24"), "(c) depthwise: each of the 16 channels has one kernel"),
        (parameters(c="3 * 3 * 16 * 24 + 2 * 24"), "(c) that is the ordinary convolution of (a)"),
        (parameters(c="3 * 3 + 16 * 24 + 2 * 24"), "(c) one kernel for all channels?"),
        (parameters(c="3 * 3 * 24 + 16 * 24 + 2 * 24"), "(c) the depthwise convolution comes first"),
        (parameters(c="3 * 3 * 16 + 2 * 24"), "(c) where is the 1×1 convolution?"),
        (parameters(c="16 * 24 + 2 * 24"), "(c) where is the depthwise convolution?"),
        (parameters(c="3 * 3 * 16 + 3 * 3 * 16 * 24 + 2 * 24"), "(c) the second convolution is 1×1"),
    ],
    2: [
        ("multiply_adds = 1000", "expected a function, not a int"),
        (COUNTER, "without `FlopCounterMode`"),
        (
            f"from insights import layer_costs\n\n\n{work_only('layer_costs(layer)[1]')}",
            "write it without `layer_costs`",
        ),
        (work_only("layer.nothing"), "has no attribute 'nothing': Conv2d(3, 8"),
        (work("layer.weight.numel() * layer.groups * height * width"), "where are the groups?"),
        (work("layer.out_channels * layer.in_channels * math.prod(layer.kernel_size) * height * width"), "the groups?"),
        (work("layer.weight.numel() // layer.groups * height * width"), "there are as many kernels as before"),
        (work(side="n + 2 * p - k + 1"), "a window moves on by the stride"),
        (work(side="(n - k) // s + 1"), "the frame that padding adds"),
        (work(side="(n + p - k) // s + 1"), "adds its width twice"),
        (work_only("layer.weight.numel() * shape[1] * shape[2]"), "each place of the map that comes out"),
        (work(side="n // s"), "a window must also fit in"),
        (work(side="(n + 2 * p - k) // s"), "and one place more"),
        (work(side="math.ceil((n + 2 * p - k) / s) + 1"), "is not taken: round down"),
        (work(side="(n + 2 * p - k) / s + 1"), "round down to whole steps"),
        (work("2 * layer.weight.numel() * height * width"), "twice as many"),
        (
            work("(layer.weight.numel() + (layer.out_channels if layer.bias is not None else 0)) * height * width"),
            "adding a bias at each place",
        ),
        (work("sum(part.numel() for part in layer.parameters()) * height * width"), "adding a bias at each place"),
        (
            work("layer.weight.numel() * height * width + (0 if layer.bias is None else len(layer.bias))"),
            "biases multiply nothing",
        ),
        (work_only("layer.weight.numel()"), "that is the number of weights"),
        (work_only("sum(part.numel() for part in layer.parameters())"), "that is the number of parameters"),
        (work_only("layer(torch.zeros(1, *shape)).numel()"), "that is how many numbers come out"),
        (work("layer.out_channels * math.prod(layer.kernel_size) * height * width"), "a kernel reads several channels"),
        (work("layer.weight[0].numel() * height * width"), "the work of one kernel"),
        (
            work("layer.out_channels * layer.in_channels // layer.groups * layer.kernel_size[0] ** 2 * height * width"),
            "a kernel need not be square",
        ),
        (SQUARE, "a number for the height and one for the width"),
        (
            work().replace("shape[1:], layer.kernel_size", "shape[:0:-1], layer.kernel_size"),
            "of each pair the first number is for the height",
        ),
        (work("layer.weight.numel() * height * height"), "the map's height twice"),
        (
            work("2 * sum(part.numel() for part in layer.parameters()) * height * width"),
            "in case 1 of 6: too large: Conv",
        ),
        (work("2 * layer.weight.numel() * layer.groups * height * width"), "in case 1 of 6: too large: Conv2d(3, 8"),
        (work_only("None"), "it returns None: fill in"),
    ],
    3: [
        (
            "def depthwise(images, kernels):\n    return F.conv2d(images, kernels[:, None], groups=len(kernels))",
            "`conv2d`",
        ),
        (
            "def depthwise(images, kernels):\n    layer = nn.Conv2d(images.shape[1], 4, 3, groups=images.shape[1])\n"
            "    layer.weight.data = kernels[:, None]\n    return layer(images)",
            "write it without `Conv2d`",
        ),
        ("depthwise = torch.conv2d", "write it without `conv2d`"),
        (windows(result="result.sum(1, keepdim=True)"), "the channels are added up to one map"),
        (places("(images[:, :, i : i + 3, j : j + 3] * kernels).sum((1, 2, 3))[:, None]"), "each map is the same"),
        (
            "def depthwise(images, kernels):\n    parts = images.unfold(2, 3, 1).unfold(3, 3, 1)\n"
            "    return torch.einsum('nchwij,cij->nhw', parts, kernels)[:, None]",
            "the channels are added up to one map",
        ),
        (
            "def depthwise(images, kernels):\n    parts = images.unfold(2, 3, 1).unfold(3, 3, 1)\n"
            "    return torch.einsum('nchwij,dij->ndhw', parts, kernels)",
            "each kernel reads the sum of all channels",
        ),
        (windows("kernels[0, i, j]"), "the first one's kernel"),
        (windows("kernels[-1, i, j]"), "the last one's kernel"),
        (places("(images[:, :1, i : i + 3, j : j + 3] * kernels).sum((2, 3))"), "all maps come from the first channel"),
        (windows("kernels[:, 2 - i, 2 - j].view(-1, 1, 1)"), "turned by half a turn"),
        (windows("kernels[:, j, i].view(-1, 1, 1)"), "rows and columns of the kernel have changed places"),
        (windows("kernels[:, i, -1 - j].view(-1, 1, 1)"), "the kernel's columns are in the wrong order"),
        (windows("kernels[:, 2 - i, j].view(-1, 1, 1)"), "the kernel's rows are in the wrong order"),
        (
            windows(sides="images.shape[2:]").replace("result = 0", "result, images = 0, F.pad(images, (1, 1, 1, 1))"),
            "there is a frame of zeros",
        ),
        (places(height="height - 3", width="width - 3"), "where does the range end?"),
        (places("(images[:, :, i : i + 3, j : j + 3] * kernels).mean((2, 3))"), "the mean of the nine products"),
        (places("(images[:, :, i : i + 3, j : j + 3] * kernels).amax((2, 3))"), "the largest of the nine products"),
        (windows(rows="range(1, 2)", columns="range(1, 2)"), "only the middle of each kernel is used"),
        (windows("kernels.mean((1, 2)).view(-1, 1, 1)"), "they weight different neighbours"),
        (windows(result="F.relu(result)"), "no ReLU here"),
        (windows(step="result = result + {weight} * window[:1]"), "the first image only: all"),
        (windows(step="result = result + {weight} * window[0]"), "its dimension is lost"),
        (windows(result="result.sum(0, keepdim=True)"), "the images of the batch are added up"),
        (places(width="height - 2"), "images need not be square"),
        (UNFOLDED.format(order="9, channels", rule="'nkcp,ck->ncp'"), "channels and places are mixed up"),
        (windows("kernels[:, i, j]"), "do the channels stand where (N, C, H, W) has them?"),
        (windows(rows="range(2)"), "in case 1 of 5: "),
        (windows(start="images", result="result"), "it raised RuntimeError in case 1"),
        (
            windows(start="images[:, :, 1:-1, 1:-1]", step="result += {weight} * window"),
            "it changes its arguments",
        ),
        ("def depthwise(images, kernels):\n    return None", "it returns None: fill in"),
    ],
    4: [
        ("fold = nn.Conv2d(2, 4, 3)", "it raised TypeError in case 1"),
        ("fold = 3", "expected a function, not a int"),
        (
            "from torch.nn.utils.fusion import fuse_conv_bn_eval\n\n\ndef fold(convolution, norm):\n"
            "    return fuse_conv_bn_eval(convolution.eval(), norm.eval())",
            "write it without `fuse_conv_bn_eval`",
        ),
        ("fold = torch.nn.utils.fuse_conv_bn_eval", "write it without `fuse_conv_bn_eval`"),
        ("def fold(convolution, norm):\n    return nn.Sequential(convolution, norm)", "a Sequential, expected one nn"),
        (
            "def fold(convolution, norm):\n    return lambda images: norm(convolution(images))",
            "a function, expected one",
        ),
        ("def fold(convolution, norm):\n    return nn.Conv2d", "a type, expected one"),
        ("def fold(convolution, norm):\n    return convolution", "that is the convolution that was given"),
        (
            "def fold(convolution, norm):\n    return copy.deepcopy(convolution)",
            "no bias: where is what batch norm adds?",
        ),
        (fold(result="folded.weight, folded.bias"), "a tuple, expected one nn.Conv2d"),
        (IN_PLACE, "it changes the layers that it is given"),
        (fold(result="folded, norm.train()").replace("folded, norm.train()", "norm.train() and folded"), "changes the"),
        (made(SETTINGS.replace("stride=convolution.stride, ", "")), "`stride` of the new"),
        (made(SETTINGS.replace(" padding=convolution.padding,", "")), "`padding` of the new"),
        (made(SETTINGS.replace(", groups=convolution.groups", "")), "`groups` of the new"),
        (fold(deviation="norm.running_var + norm.eps"), "not by the variance"),
        (fold(deviation="norm.running_var.sqrt()"), "where is `eps`?"),
        (fold(deviation="(norm.running_var + 1e-5).sqrt()"), "`eps` is not the same for every batch norm"),
        (fold(deviation="norm.running_var.sqrt() + norm.eps"), "before the root is taken"),
        (fold(factor="norm.weight * deviation"), "here something is multiplied by it"),
        (fold(deviation="(norm.running_var**2 + norm.eps).sqrt()"), "`running_var` is a variance"),
        (fold(factor="1 / deviation"), "learned factor, its `weight`, is missing"),
        (
            fold(bias="norm.bias - norm.running_mean / deviation"),
            "the mean is multiplied by batch norm's learned factor",
        ),
        (fold(weight="convolution.weight / deviation.view(-1, 1, 1, 1)"), "in the bias, but not in the weights"),
        (fold(factor="norm.weight"), "batch norm's variance is missing"),
        (fold(bias="-norm.running_mean * factor"), "learned shift, its `bias`, is missing"),
        (fold(bias="norm.bias"), "the running mean is missing"),
        (fold(bias="torch.zeros_like(norm.bias)"), "the bias stayed 0"),
        (fold(bias="norm.bias - norm.running_mean"), "what becomes of it then?"),
        (fold(bias="(norm.bias - norm.running_mean) * factor"), "nothing multiplies it any more."),
        (fold(bias="norm.bias * factor"), "And where is the mean?"),
        (fold(bias="norm.bias + norm.running_mean * factor"), "batch norm subtracts the running mean"),
        (fold(bias="norm.running_mean * factor - norm.bias"), "the bias has the wrong sign"),
        (fold(weight="convolution.weight.clone()"), "the weights are the old ones"),
        (fold(bias="norm.bias - 2 * norm.running_mean * factor"), "the weights are right, the bias is not"),
        (
            fold(weight="2 * convolution.weight * factor.view(-1, 1, 1, 1)"),
            "in case 1 of 5: the bias is right, the weights are not",
        ),
        (fold(factor="2 * norm.weight / deviation"), "neither the weights nor the bias are right"),
        (made(copies="pass"), "were their weights copied?"),
        (fold(weight="convolution.weight * factor"), "which of the weights' four dimensions"),
        (fold(weight="convolution.weight * factor.view(1, -1, 1, 1)"), "which of the weights' four dimensions"),
        (
            fold(weight="convolution.weight.sum((2, 3), keepdim=True) * factor.view(-1, 1, 1, 1)"),
            "the new weights have the shape (4, 2, 1, 1)",
        ),
        (fold(bias="(norm.bias - norm.running_mean * factor).view(-1, 1, 1)"), "it raised RuntimeError in case 1"),
        (made(copies="folded.weight = convolution.weight * factor.view(-1, 1, 1, 1)"), "it raised TypeError in case 1"),
        ("def fold(convolution, norm):\n    return None", "it returns None: fill in"),
    ],
}

RIGHT = {
    1: [
        "parameters = [3504, 400, 576]",
        "parameters = (3504.0, 400, 576)",
        """parameters = [sum(p.numel() for layer in layers for p in layer.parameters()) for layers in (
            (nn.Conv2d(16, 24, 3, bias=False), nn.BatchNorm2d(24)),
            (nn.Conv2d(24, 16, 1),),
            (nn.Conv2d(16, 16, 3, groups=16, bias=False), nn.Conv2d(16, 24, 1, bias=False), nn.BatchNorm2d(24)),
        )]""",
    ],
    2: [
        work(),
        work(
            "layer.out_channels * (layer.in_channels // layer.groups) * math.prod(layer.kernel_size) * height * width"
        ),
        work_only("layer.weight[0].numel() * layer(torch.zeros(1, *shape)).numel()"),
        BY_A_HOOK,
    ],
    3: [
        windows(),
        windows("kernels[:, i, j][None, :, None, None]", start="torch.zeros(*images.shape[:2], height, width)"),
        places(),
        UNFOLDED.format(order="channels, 9", rule="'nckp,ck->ncp'"),
        "def depthwise(images, kernels):\n    parts = images.unfold(2, 3, 1).unfold(3, 3, 1)\n"
        "    return torch.einsum('nchwij,cij->nchw', parts, kernels)",
        "def depthwise(images, kernels):\n    parts = images.unfold(2, 3, 1).unfold(3, 3, 1)\n"
        "    return (parts * kernels[:, None, None]).sum((-2, -1))",
    ],
    4: [fold(), made(), BY_PROBING, BY_A_DIAGONAL, fold(deviation="(norm.running_var + norm.eps) ** 0.5")],
}
