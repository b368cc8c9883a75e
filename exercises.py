"""What the check cells of the notebooks say."""

import torch


def check(answer, expected):
    """Print "right" if the answer is the expected one, else "not yet".

    Both may be numbers, tensors, or lists of them; they must agree in shape, and in value to 1e-4.
    An answer that is still missing (None) is "not yet".
    """
    print("right" if _same(answer, expected) else "not yet")


def _same(answer, expected):
    if isinstance(answer, list | tuple) and isinstance(expected, list | tuple):
        return len(answer) == len(expected) and all(map(_same, answer, expected))
    try:
        answer, expected = (torch.as_tensor(value, dtype=torch.float64) for value in (answer, expected))
    except (TypeError, ValueError, RuntimeError):
        return False
    return answer.shape == expected.shape and torch.allclose(answer, expected, rtol=1e-4, atol=1e-4)
