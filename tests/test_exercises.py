"""Each exercise's check says "right" to the folded solution, and to wrong answers what is wrong with them."""

import functools
import importlib
import json
import re
from pathlib import Path

import matplotlib
import pytest
import torch
from torch.nn import functional as F

from exercises import check
from exercises.checking import judge_function, judge_value, same

ROOT = Path(__file__).parents[1]
SESSIONS = sorted(path.stem.upper() for path in (ROOT / "tests" / "wrong_answers").glob("s*.py"))
WRONG = {name: importlib.import_module(f"wrong_answers.{name.lower()}").WRONG for name in SESSIONS}
ANSWERS = [(name, number, *row) for name in SESSIONS for number, rows in WRONG[name].items() for row in rows]

RIGHT = [
    (name, number, answer)
    for name in SESSIONS
    for number, answers in getattr(importlib.import_module(f"wrong_answers.{name.lower()}"), "RIGHT", {}).items()
    for answer in answers
]


def test_every_session_has_exercises():
    assert [path.stem for path in sorted(ROOT.glob("S[0-9].ipynb"))] == SESSIONS


@functools.cache
def cells(name):
    notebook = json.loads((ROOT / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return [(cell["cell_type"], cell["metadata"].get("tags", []), "".join(cell["source"])) for cell in notebook]


def parts(name):
    """What the exercises need (cells tagged "setup", in order), the tagged cells, and the folded solutions in order."""
    found = cells(name)
    setup = [text for _, tags, text in found if "setup" in tags]
    tagged = {tag: text for _, tags, text in found for tag in tags}
    (folded,) = [text for kind, _, text in found if kind == "markdown" and "<summary>Solutions</summary>" in text]
    assert "</details>" in folded
    return setup, tagged, re.findall(r"```python\n(.*?)```", folded, re.DOTALL)


def said(name, number, answer, capsys):
    """What the check cell prints after this answer's cell."""
    setup, tagged, _ = parts(name)
    names = {}
    with matplotlib.rc_context():
        for text in [*setup, answer]:
            exec(text, names)
        capsys.readouterr()
        exec(tagged[f"check-{number}"], names)
    return capsys.readouterr().out


@pytest.mark.parametrize("name", SESSIONS)
def test_every_exercise_has_its_cells_a_judge_a_solution_and_five_wrong_answers(name):
    setup, tagged, solutions = parts(name)
    judges = importlib.import_module(f"exercises.{name.lower()}").JUDGES
    numbers = list(range(1, len(judges) + 1))
    assert list(judges) == list(WRONG[name]) == numbers
    assert len(solutions) == len(numbers) >= 3
    assert {tag for tag in tagged if tag.startswith(("exercise", "check"))} == {
        f"{kind}-{number}" for kind in ("exercise", "check") for number in numbers
    }
    assert setup
    assert all(len(rows) >= 5 for rows in WRONG[name].values())


@pytest.mark.parametrize("name", SESSIONS)
def test_every_exercise_says_how_hard_it_is_and_how_long_it_takes(name):
    found = cells(name)
    for i, (_, tags, _) in enumerate(found):
        for tag in tags:
            if tag.startswith("exercise-"):
                number = tag.removeprefix("exercise-")
                assert re.search(rf"\*\*{number}\.\*\* \*(easy|medium|hard), \d+ minutes\*", found[i - 1][2])


EXERCISES = [(name, number) for name in SESSIONS for number in WRONG[name]]


@pytest.mark.parametrize(("name", "number"), EXERCISES)
def test_a_cell_as_given_is_not_yet(name, number, capsys):
    _, tagged, _ = parts(name)
    assert re.fullmatch(r"not yet: .*\n", said(name, number, tagged[f"exercise-{number}"], capsys))


@pytest.mark.parametrize(("name", "number"), EXERCISES)
def test_the_solution_is_right(name, number, capsys):
    _, _, solutions = parts(name)
    assert said(name, number, solutions[number - 1], capsys) == "right\n"


@pytest.mark.parametrize(("name", "number", "answer", "hint"), ANSWERS)
def test_wrong_answers_get_their_hint(name, number, answer, hint, capsys):
    out = said(name, number, answer, capsys)
    assert re.fullmatch(r"not yet: .*\n", out)
    assert hint in out


@pytest.mark.parametrize(("name", "number", "answer"), RIGHT)
def test_other_right_answers_are_right(name, number, answer, capsys):
    assert said(name, number, answer, capsys) == "right\n"


# `check` itself ---------------------------------------------------------------------------------


@pytest.mark.parametrize("exercise", ["S1.9", "S0.1", "S1", "1", "S1.x", "checking.1", 1.2])
def test_an_unknown_exercise_is_named(exercise):
    with pytest.raises(ValueError, match=f"no exercise '?{exercise}'?: write session and number"):
        check(exercise, 1)


@pytest.mark.parametrize(
    ("answer", "expected", "hint"),
    [
        (3, 3, None),
        (None, 3, "no answer yet"),
        ([None, None], [1, 2], "no answer yet"),
        (torch.ones(2, 2), [torch.ones(2), torch.ones(2)], "a Tensor, expected 2 values."),
        ([1, None], [1, 2], "1 of 2 values are wrong, the first at index 1."),
        ([1, 2, 3], [1, 2], "3 values, expected 2."),
        (torch.ones(2), [1, 1], None),
        ([1, 1], torch.ones(2), None),
        (torch.ones(2, 1), torch.ones(1, 2), "shape (2, 1), expected (1, 2)."),
        (torch.ones(2) + 1e-6, torch.ones(2), None),
        (torch.full((2,), torch.nan), torch.ones(2), "infinite or no number (NaN)"),
        ("two", 2, "a str, expected a number."),
        ("two", torch.ones(2), "a str, expected a tensor."),
        (2, "two", "a int, expected a word."),
        ("one", "two", "'one' is not it."),
        ("two", "two", None),
        (235_145, 235_146, "too small."),
        (235_147, 235_146, "too large."),
        (2.5, 2, "expected a whole number."),
        (235_146.0, 235_146, None),
        ([100_000, 2], (100_001, 2), "1 of 2 values are wrong, the first at index 0."),
        (torch.tensor([10_000, 1]), torch.tensor([10_001, 1]), "1 of 2 values are wrong, the first at index 0."),
        (torch.tensor([[1, 2], [3, 5]]), torch.tensor([[1, 2], [3, 4]]), "the first at index (1, 1)."),
        ([torch.ones(2), torch.ones(2)], [torch.ones(2), torch.zeros(2)], "at index 1: 2 of 2 values are wrong"),
        (1.0002, 1.0, "too large."),
        (1.00005, 1.0, None),
        (1e-4, 1.5e-4, "too small."),
        (0.0, 1e-7, None),
        (torch.tensor([1.0, -2.0]), torch.tensor([-1.0, 2.0]), "the sign is the wrong way round."),
        (7, 14, "half of it?"),
    ],
)
def test_values(answer, expected, hint):
    found = judge_value(answer, expected, {"half of it?": 7})
    assert (found is None) if hint is None else (hint in found)


def doubled(x):
    return x * 2


def helper(x):
    return F.relu(x)


alias = F.relu


@pytest.mark.parametrize(
    ("function", "hint"),
    [
        (lambda x: x + x, None),
        (lambda x: x, "twice, not once"),
        (3, "expected a function, not a int."),
        (None, "expected a function, not a NoneType."),
        (lambda x: None, "it returns None: fill in"),
        (lambda x: 2 * x if x.sum() > 0 else None, "it returns None in case 2 of 2."),
        (lambda x: x.nothing, "it raised AttributeError in case 1: 'Tensor' object has no attribute 'nothing'"),
        (lambda x: 2 * x[:1], "in case 1 of 2: shape (1,), expected (2,)."),
        (lambda x: x.mul_(2), "it changes its arguments"),
        (lambda x: F.relu(x), "write it without `relu`."),
        (F.relu, "write it without `relu`."),
        (lambda x: helper(x), "write it without `relu`."),
        (lambda x: alias(x), "write it without `alias`."),
        (lambda x: (lambda y: F.relu(y))(x), "write it without `relu`."),
        (torch.relu, "write it without `relu`."),
        (lambda x: 2 * x.abs(), "in case 2 of 2: the sign is the wrong way round."),
    ],
)
def test_functions(function, hint):
    cases = [(torch.tensor([1.0, 2.0]),), (torch.tensor([-1.0, -2.0]),)]
    found = judge_function(function, cases, doubled, {"twice, not once": lambda x: x}, banned=("relu", "ReLU"))
    assert (found is None) if hint is None else (hint in found)


NOTEBOOK = """
from functools import partial
from torch import nn
from torch.nn import functional as F


def helper(x):
    return F.relu(x)


def relu(x):
    return x + x


class Helper:
    def __init__(self, function=None):
        self.function = function

    def __call__(self, x):
        return F.relu(x)

    def method(self, x):
        return self.function(x)


class Layer(nn.ReLU):
    pass


def makes(function):
    return lambda x: function(x)


layer, functions, given = nn.Sequential(nn.ReLU()), [abs, F.relu], Helper()
"""


@pytest.mark.parametrize(
    ("expression", "hint"),
    [
        ("lambda x: relu(x)", None),  # of one's own, whatever it is called
        ("relu", None),
        ("partial(relu)", None),
        ("Helper(relu).method", "write it without `relu`."),  # its class holds the other one
        ("partial(helper)", "write it without `relu`."),
        ("partial(F.relu, inplace=False)", "write it without `relu`."),
        ("lambda x, function=F.relu: function(x)", "write it without `relu`."),
        ("lambda x: functions[1](x)", "write it without `relu`."),
        ("makes(F.relu)", "write it without `relu`."),
        ("makes(relu)", None),
        ("Helper(F.relu).method", "write it without `relu`."),
        ("given", "write it without `relu`."),
        ("lambda x: given(x)", "write it without `relu`."),
        ("lambda x: Helper()(x)", "write it without `relu`."),
        ("layer", "write it without `ReLU`."),
        ("lambda x: layer(x)", "write it without `ReLU`."),
        ("Layer()", "write it without `ReLU`."),
    ],
)
def test_what_a_notebook_hides(expression, hint):
    names = {}
    exec(NOTEBOOK, names)
    cases = [(torch.tensor([1.0, 2.0]),)]
    assert judge_function(eval(expression, names), cases, doubled, banned=("relu", "ReLU")) == hint


def test_a_function_that_calls_itself_can_be_judged():
    def halves(x):
        return 0 if x < 2 else 1 + halves(x // 2)

    assert judge_function(halves, [(8,), (5,)], lambda x: [0, 0, 1, 1, 2, 2, 2, 2, 3][x], banned=("log2",)) is None


def test_same_takes_values_from_anywhere():
    assert same(torch.nn.Parameter(torch.ones(2)), torch.ones(2))
    assert not same([1], torch.ones(2, 2))
    assert not same("1", 1)
