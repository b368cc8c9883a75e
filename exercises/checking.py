"""`check`, and what the judges of the exercises have in common.

A judge takes what a student gives and returns None where it is right, else a hint: what is wrong, and where to look,
never the answer. Those of Session 1 stand in s1.py under their numbers, `JUDGES = {1: …, 2: …}`, and so on.
"""

import copy
import dis
import importlib
import re
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType

import torch


def check(exercise, *answer):
    """Print "right", or "not yet: " with a hint.

    `exercise`: session and number, "S1.2"; `answer`: what its check cell gives. Raises ValueError for an
    exercise that is not there.
    """
    session, _, number = str(exercise).partition(".")
    try:
        if not re.fullmatch(r"[Ss]\d+", session):
            raise ValueError
        judge = importlib.import_module(f"exercises.{session.lower()}").JUDGES[int(number)]
    except (ModuleNotFoundError, KeyError, ValueError):
        raise ValueError(f"There is no exercise {exercise!r}: write session and number, as in 'S1.2'.") from None
    hint = judge(*answer)
    print("right" if hint is None else f"not yet: {hint}")


# ------------------------------------------------------------------------------------------------
# Values
# ------------------------------------------------------------------------------------------------


def judge_value(answer, expected, slips=None):
    """None where the answer is the expected one, else a hint.

    Both may be numbers, strings, tensors, or lists of them, and must agree in shape. Where whole numbers are
    expected, the answer must be exactly these; floating-point numbers may be off by 1e-6 + 1e-4 of their size.
    `slips`: hint → the value that this mistake gives.
    """
    if _missing(answer):
        return "there is no answer yet: replace None in the cell above, and run it."
    if same(answer, expected):
        return None
    for hint, slip in (slips or {}).items():
        if same(answer, slip):
            return hint
    return _difference(answer, expected)


def same(answer, expected):
    """Is the answer the expected one, as `judge_value` compares?"""
    if isinstance(answer, list | tuple) and isinstance(expected, list | tuple):
        return len(answer) == len(expected) and all(map(same, answer, expected))
    if isinstance(answer, dict) and isinstance(expected, dict):
        return answer.keys() == expected.keys() and all(same(answer[key], expected[key]) for key in expected)
    if isinstance(answer, str) or isinstance(expected, str):
        return isinstance(answer, str) and isinstance(expected, str) and answer == expected
    try:
        answer, expected, exact = _numbers(answer, expected)
    except (TypeError, ValueError, RuntimeError):
        return False
    if answer.shape != expected.shape:
        return False
    return torch.equal(answer, expected) if exact else torch.allclose(answer, expected, rtol=1e-4, atol=1e-6)


def _missing(answer):
    if isinstance(answer, list | tuple):
        return len(answer) > 0 and all(map(_missing, answer))
    return answer is None


def _numbers(answer, expected):
    """Both as float64 tensors, and whether they must be exactly the same."""
    exact = not torch.as_tensor(expected).is_floating_point()
    answer, expected = (torch.as_tensor(value).detach().cpu().to(torch.float64) for value in (answer, expected))
    return answer, expected, exact


def _difference(answer, expected):
    """What can be said of two values that differ, without the right one."""
    if isinstance(answer, list | tuple) and isinstance(expected, list | tuple):
        if len(answer) != len(expected):
            return f"{len(answer)} values, expected {len(expected)}."
        if not any(isinstance(value, torch.Tensor | list | tuple) for value in expected):
            wrong = [i for i, pair in enumerate(zip(answer, expected, strict=True)) if not same(*pair)]
            return f"{len(wrong)} of {len(expected)} values are wrong, the first at index {wrong[0]}."
        i, pair = next((i, pair) for i, pair in enumerate(zip(answer, expected, strict=True)) if not same(*pair))
        return f"at index {i}: {_difference(*pair)}"
    if isinstance(expected, list | tuple) and any(isinstance(value, torch.Tensor | list | tuple) for value in expected):
        return f"a {type(answer).__name__}, expected {len(expected)} values."
    if isinstance(expected, str):
        return f"{answer!r} is not it." if isinstance(answer, str) else f"a {type(answer).__name__}, expected a word."
    try:
        answer, expected, exact = _numbers(answer, expected)
    except (TypeError, ValueError, RuntimeError):
        wanted = "a tensor" if isinstance(expected, torch.Tensor) and expected.ndim else "a number"
        return f"a {type(answer).__name__}, expected {wanted}."
    if answer.shape != expected.shape:
        return f"shape {tuple(answer.shape)}, expected {tuple(expected.shape)}."
    if not answer.isfinite().all() and expected.isfinite().all():
        return "there is a value that is infinite or no number (NaN)."
    if answer.ndim == 0:
        if exact and answer != answer.round():
            return "expected a whole number."
        return "too large." if answer > expected else "too small."
    if same(answer, -expected):
        return "the sign is the wrong way round."
    wrong = (answer != expected) if exact else ~torch.isclose(answer, expected, rtol=1e-4, atol=1e-6)
    first = tuple(wrong.nonzero()[0].tolist())
    first = first[0] if len(first) == 1 else first
    return f"{int(wrong.sum())} of {wrong.numel()} values are wrong, the first at index {first}."


# ------------------------------------------------------------------------------------------------
# Functions
# ------------------------------------------------------------------------------------------------


def judge_function(function, cases, reference, slips=None, banned=()):
    """None where the function gives what `reference` gives for each case (a tuple of arguments), else a hint.

    `slips`: hint → the function that this mistake makes; it is recognised where it agrees with the student's in
    every case. `banned`: names that the function must do without, as in "nll_loss". It must leave its
    arguments as they are.
    """
    if not callable(function):
        return f"expected a function, not a {type(function).__name__}."
    if name := _uses(function, banned):
        return f"write it without `{name}`."
    given = []
    for number, case in enumerate(cases, start=1):
        arguments = copy.deepcopy(case)
        try:
            given.append(function(*arguments))
        except NotImplementedError:
            return "there is no answer yet: fill in the function above, and run its cell."
        except Exception as problem:  # whatever a student's code raises
            return f"it raised {type(problem).__name__} in case {number}: {problem}"
        if not same(list(arguments), list(case)):
            return "it changes its arguments: work on a copy, or make a new tensor."
    if _missing(given):
        return "it returns None: fill in the function above, and run its cell."
    expected = [reference(*copy.deepcopy(case)) for case in cases]
    right = [same(*pair) for pair in zip(given, expected, strict=True)]
    if all(right):
        return None
    for hint, slip in (slips or {}).items():
        if same(given, [slip(*copy.deepcopy(case)) for case in cases]):
            return hint
    number = right.index(False)
    if given[number] is None:
        return f"it returns None in case {number + 1} of {len(cases)}."
    return f"in case {number + 1} of {len(cases)}: {_difference(given[number], expected[number])}"


def _uses(function, banned):
    """The first banned name that the function uses, itself or by way of what the student has written; else None.

    Functions of the notebook are looked into, whatever they are called, and so are classes of the notebook, and
    objects and partial functions that it has made. What stands in a module's file goes by its name.
    """
    home, seen, todo = getattr(function, "__globals__", None), [], [(None, function)]
    if "__file__" in (home or {}) and function.__name__ in banned:
        return function.__name__
    while todo:
        name, value = todo.pop(0)
        if isinstance(value, FunctionType) and (value.__globals__ is home or _of_a_notebook(value.__globals__)):
            if all(value is not other for other in seen):
                seen.append(value)
                todo += loaded(value)
            continue
        called = getattr(value, "__name__", None)
        if (name in banned or called in banned) and (callable(value) or isinstance(value, ModuleType)):
            return name or called
        kinds = value.__mro__ if isinstance(value, type) else type(value).__mro__
        if made := next((kind.__name__ for kind in kinds if kind.__name__ in banned), None):
            return made
        if isinstance(value, str | torch.Tensor | ModuleType) or any(value is other for other in seen):
            continue
        seen.append(value)
        todo += [(None, part) for part in _inside(value)]
    return None


def _of_a_notebook(names):
    return "__file__" not in names


def loaded(function):
    """The (name, value) of all that the function loads and holds; of an attribute its name is the only clue."""
    held = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # empty so far
            continue
    codes = [function.__code__]
    for code in codes:
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval in function.__globals__:
                yield step.argval, function.__globals__[step.argval]
            elif step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"):
                yield step.argval, _Attribute
    yield from ((None, value) for value in held)


class _Attribute:
    """Stands for the value of an attribute, which is known only when the code runs."""


def _inside(value):
    """What a value of the student's is made of, as far as it may compute something."""
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, list | tuple | set):
        return list(value)[:100]
    if isinstance(value, dict):
        return list(value.values())[:100]
    kind = value if isinstance(value, type) else type(value)
    methods = [method for base in kind.__mro__ for method in vars(base).values() if isinstance(method, FunctionType)]
    own = [method for method in methods if _of_a_notebook(method.__globals__)]
    if isinstance(value, type):
        return own
    parts = list(getattr(value, "__dict__", {}).values()) if own or isinstance(value, torch.nn.Module) else []
    return [*own, *parts]
