"""What arguments are checked for; each error says in one sentence what was wrong and what would do."""

import operator


def whole_number(name, value, low=1, high=None):
    """The value as an int, NumPy's and PyTorch's integers too.

    Raises ValueError, naming the argument, unless it is a whole number from `low` (to `high`).
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < low or (high is not None and number > high):
        span = f"from {low}" + ("" if high is None else f" to {high}")
        raise ValueError(f"{name} must be a whole number {span}, not {value!r}.")
    return number


def choose(what, name, choices):
    """`choices[name]`; raises ValueError, listing the choices, for an unknown name."""
    if not isinstance(name, str) or name not in choices:
        raise ValueError(f"Unknown {what} {name!r}: choose one of {', '.join(choices)}.")
    return choices[name]
