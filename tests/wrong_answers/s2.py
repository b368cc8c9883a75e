"""Wrong answers to Session 2's exercises, with a piece of the hint that each should get."""


def side(line):
    return f"def side_after(side, kernel, padding, stride):\n    {line}"


POOLING = """def my_pooling(maps, size):
    rows, columns = maps.shape[2] // size, maps.shape[3] // size
    result = {start}
    for i in range(rows):
        for j in range(columns):
            square = maps[:, :, size * i : size * i + size, size * j : size * j + size]
            result[:, :, i, j] = {value}
    return result
"""
EMPTY = "torch.empty(*maps.shape[:2], rows, columns)"

FIELD = """def field_after(layers):
    field, jump = {start}
    for kernel, stride in {layers}:
        {first}
        {second}
    return {result}
"""


def pooling(value, start=EMPTY):
    return POOLING.format(value=value, start=start)


def field(first="field += (kernel - 1) * jump", second="jump *= stride", start="1, 1", layers="layers", result="field"):
    return FIELD.format(first=first, second=second, start=start, layers=layers, result=result)


WRONG = {
    1: [
        (side("return None"), "it returns None: fill in"),
        (side("return (side + 2 * padding - kernel) // stride"), "so many steps, one place more"),
        (side("return (side + padding - kernel) // stride + 1"), "adds its width twice"),
        (side("return side + 2 * padding - kernel + 1"), "where is the stride?"),
        (side("return (side + 2 * padding - kernel) / stride + 1"), "round down to whole steps"),
        (side("return math.ceil((side + 2 * padding - kernel) / stride) + 1"), "is not taken: round down"),
        (side("return round((side + 2 * padding - kernel) / stride + 1)"), "not to the nearest"),
        (side("return (side + 2 * padding - kernel + 1) // stride"), "what is divided here?"),
        (side("return (side - kernel) // stride + 1"), "where is the padding?"),
        (side("return (side + 2 * padding) // stride"), "where is the kernel?"),
        (side("return side + 2 * padding - Kernel + 1"), "it raised NameError in case 1"),
        ("side_after = 26", "expected a function, not a int"),
    ],
    2: [
        ("my_kernel = torch.zeros(3, 3)", "gives 0 everywhere"),
        ("my_kernel = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])", "moves it to the left"),
        ("my_kernel = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])", "moves it down"),
        ("my_kernel = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])", "moves it up"),
        (
            "my_kernel = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])",
            "leaves the image where it is",
        ),
        ("my_kernel = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])", "adds up three neighbours"),
        ("my_kernel = torch.tensor([[0.0, 0.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.0, 0.0]])", "this finds edges"),
        ("my_kernel = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])", "brighter or darker"),
        ("my_kernel = torch.eye(3).roll(1, 1)", "this mixes several pixels"),
        ("my_kernel = torch.ones(3, 3) / 9", "this mixes several pixels"),
        (
            "my_kernel = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])",
            "in which row is the neighbour",
        ),
        (
            "my_kernel = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])",
            "in which row is the neighbour",
        ),
        ("my_kernel = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])", "down, and to the left"),
        ("my_kernel = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])", "up, and to the left"),
        ("my_kernel = torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])", "brighter or darker"),
        ("my_kernel = [[0, 0, 0], [1, 0, 0], [0, 0, 0]]", "a list, expected a tensor"),
        ("my_kernel = torch.tensor([1.0, 0.0, 0.0])", "shape (3,), expected (3, 3)"),
    ],
    3: [
        ("def my_pooling(maps, size):\n    return F.max_pool2d(maps, size)", "write it without `max_pool2d`"),
        ("my_pooling = torch.max_pool2d", "write it without `max_pool2d`"),
        ("def my_pooling(maps, size):\n    return nn.MaxPool2d(size)(maps)", "write it without `MaxPool2d`"),
        (
            "def my_pooling(maps, size):\n    return F.adaptive_max_pool2d(maps, maps.shape[2] // size)",
            "write it without `adaptive_max_pool2d`",
        ),
        (
            "def my_pooling(maps, size):\n    return F.adaptive_max_pool3d(maps, (maps.shape[1], 2, 2))",
            "write it without `adaptive_max_pool3d`",
        ),
        (pooling("square.mean(dim=(2, 3))"), "this is mean pooling"),
        (pooling("square.amin(dim=(2, 3))"), "the smallest, not the largest?"),
        (pooling("square[:, :, 0, 0]"), "upper left value"),
        (pooling("square.amax(dim=(2, 3)).clamp(min=0)"), "start from something else than 0"),
        (
            pooling("torch.maximum(result[:, :, i, j], square.amax(dim=(2, 3)))", EMPTY.replace("empty", "zeros")),
            "start from something else than 0",
        ),
        (pooling("(square * (square == square.amax(dim=(2, 3), keepdim=True))).sum(dim=(2, 3))"), "count one of them"),
        (pooling("square.amax()"), "each map of each image has its own"),
        (pooling("square[:, :, 0].amax(dim=2)"), "the upper row of each square only"),
        (
            "def my_pooling(maps, size):\n    return maps.unfold(2, size, 1).unfold(3, size, 1).amax(dim=(4, 5))",
            "the windows overlap",
        ),
        (
            "def my_pooling(maps, size):\n    n, c, h, w = maps.shape\n"
            "    return maps.reshape(n, c, h // 2, 2, w // 2, 2).amax(dim=(3, 5))",
            "it raised RuntimeError in case 3",
        ),
        (
            "def my_pooling(maps, size):\n    n, c, h, w = maps.shape\n"
            "    return maps.reshape(n, c, h // size, size, w // size, size).amax(dim=(3, 5))",
            "cut off the rows and columns that fill no whole square",
        ),
        (
            "def my_pooling(maps, size):\n    maps = maps[:, :, : maps.shape[2] // 2 * 2, : maps.shape[3] // 2 * 2]\n"
            "    return maps.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5))",
            "always 2×2 here",
        ),
        (
            "def my_pooling(maps, size):\n    n, c, h, w = maps.shape\n    h, w = h // size, w // size\n"
            "    return maps[:, :, : h * size, : w * size].reshape(n, c, h, w, -1).amax(dim=-1)",
            "pixels that lie one after another in a row",
        ),
    ],
    4: [
        (field(second="pass"), "where is the jump?"),
        (field("jump *= stride", "field += (kernel - 1) * jump"), "in which order?"),
        (field("field += kernel * jump"), "reaches over k − 1 steps"),
        (field(second="jump = stride"), "strides multiply"),
        (field(second="jump += stride"), "strides multiply"),
        (field(start="0, 1"), "the field starts at 1"),
        (field(layers="reversed(layers)"), "from the last layer to the first"),
        (field(result="jump"), "this is the jump, not the field"),
        (field(result="(field, jump)"), "return the field alone"),
        ("def field_after(layers):\n    return math.prod(kernel for kernel, _ in layers)", "product of the kernels"),
        ("def field_after(layers):\n    return sum(kernel for kernel, _ in layers)", "sum of the kernels"),
        (
            "def field_after(layers):\n    for kernel, stride in layers:\n"
            "        field = 1 + (kernel - 1) * stride\n    return field",
            "it raised UnboundLocalError in case 6",
        ),
    ],
}

RIGHT = {2: ["my_kernel = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 0, 0]])"], 3: [pooling("square.amax(dim=(2, 3))")]}
