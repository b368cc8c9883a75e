"""Each exercise's check says "not yet" to the cell as it is given, and "right" to the folded solution."""

import json
import re
from pathlib import Path

import matplotlib
import pytest
import torch

from exercises import check

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ["S1", "S2", "S3", "S4"]


def parts(name):
    """The imports' cell, the exercises and their checks by number, and the solutions in order."""
    cells = json.loads((ROOT / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    tagged = {tag: text for cell, text in zip(cells, sources, strict=True) for tag in cell["metadata"].get("tags", [])}
    (folded,) = [text for text in sources if "<details>" in text]
    assert folded == sources[-1]
    assert "</details>" in folded
    imports = next(text for cell, text in zip(cells, sources, strict=True) if cell["cell_type"] == "code")
    return imports, tagged, re.findall(r"```python\n(.*?)```", folded, re.DOTALL)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_solutions_are_right_and_placeholders_are_not_yet(name, capsys):
    imports, tagged, solutions = parts(name)
    assert len(solutions) == 3
    with matplotlib.rc_context():
        for number, solution in enumerate(solutions, start=1):
            for answer, expected in ((tagged[f"exercise-{number}"], "not yet\n"), (solution, "right\n")):
                names = {}
                exec(imports, names)
                exec(answer, names)
                exec(tagged[f"check-{number}"], names)
                assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    ("name", "number", "answer"),
    [
        ("S1", 1, "parameters = 784 * 256 + 256 * 128 + 128 * 10 + 256 + 128 + 9"),  # one bias too few
        ("S2", 1, "def side_after(side, kernel, padding): return side + 2 * padding - kernel"),
        ("S3", 3, "def value_at(share, low, high): return (high / low) ** share"),
        ("S3", 3, "def value_at(share, low, high): return low + share * (high - low)"),
        ("S3", 3, "def value_at(share, low, high): return high**share"),
        ("S4", 3, "def best_epoch(history): return 2"),
        (  # the epoch before the loss first rises
            "S4",
            3,
            "def best_epoch(history):\n"
            "    losses = history['validation_loss']\n"
            "    return next(i for i in range(1, len(losses)) if losses[i] > losses[i - 1])",
        ),
        ("S4", 3, "def best_epoch(history): return len(history['validation_loss']) - 1"),
        ("S4", 3, "def best_epoch(history): return history['validation_loss'].index(min(history['validation_loss']))"),
        (
            "S4",
            3,
            "def best_epoch(history): return 1 + history['validation_acc'].index(max(history['validation_acc']))",
        ),
    ],
)
def test_near_misses_are_not_yet(name, number, answer, capsys):
    imports, tagged, _ = parts(name)
    names = {}
    with matplotlib.rc_context():
        exec(imports, names)
        exec(answer, names)
        exec(tagged[f"check-{number}"], names)
    assert capsys.readouterr().out == "not yet\n"


@pytest.mark.parametrize(
    ("answer", "expected", "says"),
    [
        (3, 3, "right"),
        (None, 3, "not yet"),
        ([1, None], [1, 2], "not yet"),
        ([1, 2, 3], [1, 2], "not yet"),
        (torch.ones(2), [1, 1], "right"),
        ([1, 1], torch.ones(2), "right"),
        (torch.ones(2, 1), torch.ones(1, 2), "not yet"),
        (torch.ones(2) + 1e-6, torch.ones(2), "right"),
        (torch.full((2,), torch.nan), torch.ones(2), "not yet"),
        ("two", 2, "not yet"),
        (235_145, 235_146, "not yet"),
        (235_146.0, 235_146, "right"),
        ([100_000, 2], (100_001, 2), "not yet"),
        (torch.tensor([10_000, 1]), torch.tensor([10_001, 1]), "not yet"),
        (1.0002, 1.0, "not yet"),
        (1.00005, 1.0, "right"),
        (1e-4, 1.5e-4, "not yet"),
        (0.0, 1e-7, "right"),
    ],
)
def test_check(answer, expected, says, capsys):
    check(answer, expected)
    assert capsys.readouterr().out == says + "\n"
