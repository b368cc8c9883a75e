"""What the check cells of the notebooks say."""

import torch


def check(answer, expected):
    """Print "right" if the answer is the expected one, else "not yet".

    Both may be numbers, tensors, or lists of them, and must agree in shape. Where whole numbers are
    expected, the answer must be exactly these; floating-point numbers may be off by 1e-6 + 1e-4 of
    their size. An answer that is still missing (None) is "not yet".
    """
    print("right" if _same(answer, expected) else "not yet")


def _same(answer, expected):
    if isinstance(answer, list | tuple) and isinstance(expected, list | tuple):
        return len(answer) == len(expected) and all(map(_same, answer, expected))
    try:
        exact = not torch.as_tensor(expected).is_floating_point()
        answer, expected = (torch.as_tensor(value, dtype=torch.float64) for value in (answer, expected))
    except (TypeError, ValueError, RuntimeError):
        return False
    if answer.shape != expected.shape:
        return False
    return torch.equal(answer, expected) if exact else torch.allclose(answer, expected, rtol=1e-4, atol=1e-6)
