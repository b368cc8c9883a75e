"""Wrong answers to Session 3's exercises, with a piece of the hint that each should get."""

STOPS = """\
def stops_after(losses, patience):
    best = 0
    for epoch, loss in enumerate(losses):
        if loss {compare} losses[{other}]:
            best = epoch
        if epoch - best >= patience{more}:
            return epoch{plus}
    return {end}
"""


def stops(compare="<", other="best", more="", plus=" + 1", end="len(losses)"):
    return STOPS.format(compare=compare, other=other, more=more, plus=plus, end=end)


NOT_IN_A_ROW = """\
def stops_after(losses, patience):
    lowest, waited = losses[0], 0
    for epoch, loss in enumerate(losses[1:], start=2):
        if loss < lowest:
            lowest = loss
        else:
            waited += 1
        if waited == patience:
            return epoch
    return len(losses)
"""

BEFORE = """\
def stops_after(losses, patience):
    waited = 0
    for i in range(1, len(losses)):
        waited = 0 if losses[i] < losses[i - 1] else waited + 1
        if waited == patience:
            return i + 1
    return len(losses)
"""

KEPT = stops(plus=" - patience + 1").replace("return len(losses)", "return best + 1")

SORTS = """\
def stops_after(losses, patience):
    losses.sort()
    return len(losses)
"""

WRONG = {
    1: [
        (stops(compare="<="), "a loss equal to the lowest so far is not a new lowest"),
        (BEFORE, "not with that of the epoch before"),
        (NOT_IN_A_ROW, "so many epochs in a row"),
        (stops(plus="", end="len(losses) - 1"), "the index, which counts from 0"),
        (stops(more=" + 1"), "an epoch too late"),
        (KEPT, "the epoch whose model is kept"),
        ("def stops_after(losses, patience):\n    return losses.index(min(losses)) + 1", "the lowest loss of all"),
        (stops(end="None"), "returns None in case 2 of 7"),
        (SORTS, "changes its arguments"),
        ("stops_after = 6", "expected a function"),
    ],
    2: [
        ("def my_dropout(x, kept, p, training):\n    return x * kept if training else x", "must be scaled"),
        ("def my_dropout(x, kept, p, training):\n    return x * kept / p if training else x", "being dropped"),
        (
            "def my_dropout(x, kept, p, training):\n    return x * kept * (1 - p) if training else x",
            "the wrong way: where",
        ),
        ("def my_dropout(x, kept, p, training):\n    return x * kept * (1 + p) if training else x", "scaled by 1 + p"),
        (
            "def my_dropout(x, kept, p, training):\n    return x * ~kept / (1 - p) if training else x",
            "True for those that stay",
        ),
        ("def my_dropout(x, kept, p, training):\n    return x * kept / (1 - p)", "look at the third case"),
        (
            "def my_dropout(x, kept, p, training):\n    return x * kept if training else x * (1 - p)",
            "the scaling belongs to the training",
        ),
        (
            "def my_dropout(x, kept, p, training):\n    return x if training else x * kept / (1 - p)",
            "the wrong way round",
        ),
        ("def my_dropout(x, kept, p, training):\n    return F.dropout(x, p, training)", "without `dropout`"),
        (
            "def my_dropout(x, kept, p, training):\n    return torch.nn.Dropout(p).train(training)(x)",
            "without `Dropout`",
        ),
        (
            "def my_dropout(x, kept, p, training):\n    if training:\n        x[~kept] = 0\n    return x / (1 - p)",
            "changes its arguments",
        ),
        (
            "def my_dropout(x, kept, p, training):\n    return x * kept / kept.float().mean() if training else x",
            "this mask happens to keep",
        ),
        ("def my_dropout(x, kept, p, training):\n    return x[kept] / (1 - p) if training else x", "shape (34,)"),
    ],
    3: [
        ("def value_at(share, low, high):\n    return low + share * (high - low)", "add equal amounts"),
        (
            "def value_at(share, low, high):\n"
            "    return math.log10(low) + share * (math.log10(high) - math.log10(low))",
            "base 10",
        ),
        (
            "def value_at(share, low, high):\n    return math.log(low) + share * (math.log(high) - math.log(low))",
            "the natural logarithm",
        ),
        (
            "def value_at(share, low, high):\n"
            "    return math.exp(math.log10(low) + share * (math.log10(high) - math.log10(low)))",
            "a power of another",
        ),
        ("def value_at(share, low, high):\n    return high * (low / high) ** share", "from the wrong end"),
        ("def value_at(share, low, high):\n    return (high / low) ** share", "it starts at 1"),
        ("def value_at(share, low, high):\n    return low * high ** share", "not high"),
        ("def value_at(share, low, high):\n    return low * (high / low) * share", "not yet a power"),
        (
            "def value_at(share, low, high):\n    return np.geomspace(low, high, 601)[round(600 * share)]",
            "without `geomspace`",
        ),
        (
            "def value_at(share, low, high):\n"
            "    return torch.logspace(math.log10(low), math.log10(high), 601)[round(600 * share)]",
            "without `logspace`",
        ),
    ],
}
