"""The committed notebooks are whole runs in the form of the course; nbval itself runs their cells."""

import json
import re
import subprocess
import sys
from pathlib import Path

import claims
import prose
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("S[0-9].ipynb"))
EACH = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind=None):
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if kind in (None, cell["cell_type"])]


def source(cell):
    return "".join(cell["source"])


def markdown(path):
    return [source(cell) for cell in cells(path, "markdown")]


# A whole run ------------------------------------------------------------------------------------


@EACH
def test_run_top_to_bottom_without_error_warning_or_machine_path(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = cells(path, "code")
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error"]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    for output in outputs:
        output.get("data", {}).pop("image/png", None)
    text = json.dumps([notebook["metadata"], [[cell["metadata"], cell["outputs"]] for cell in code]])
    assert not re.findall(r"(?<![\w.])/(?:[\w.-]+/)+[\w.-]*|[A-Z]:\\+\w", text)


@EACH
def test_committed_outputs_are_of_a_full_run_on_mnist(path):
    text = path.read_text(encoding="utf-8")
    assert "MNIST, train: 60,000 images" in text
    assert "scikit-learn digits, train" not in text


@EACH
def test_no_clock_times(path):
    assert not [cell for cell in cells(path) if "execution" in cell["metadata"]]


@EACH
def test_every_number_in_the_text_is_explained(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert prose.unexplained(notebook, prose.ELSEWHERE.get(path.stem, ())) == []


@EACH
def test_every_number_from_elsewhere_is_needed(path):
    """What the list explains stands in the text, and nothing else explains it."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert set(prose.ELSEWHERE.get(path.stem, ())) <= set(prose.unexplained(notebook))


@EACH
def test_look_at_their_networks_with_the_insights(path):
    code = [source(cell) for cell in cells(path, "code")]
    imported = [
        names for text in code for names in re.findall(r"^from insights import ([^(\n]+|\([^)]+)", text, re.MULTILINE)
    ]
    assert imported
    for name in re.findall(r"\w+", " ".join(imported)):
        assert any(f"{name}(" in text for text in code)


def test_they_are_there():
    assert [path.stem for path in NOTEBOOKS][:6] == ["S1", "S2", "S3", "S4", "S5", "S6"]


# The form of a session --------------------------------------------------------------------------


@EACH
def test_cells_are_not_too_many(path):
    assert len(cells(path)) <= (75 if path.stem == "S5" else 60)


@EACH
def test_begins_with_goals_duration_contents_and_neighbours(path):
    first = markdown(path)[0]
    number = int(path.stem[1])
    assert first.startswith(f"# Session {number}: ")
    assert "**Goals**" in first
    headings = [line[3:] for text in markdown(path) for line in text.splitlines() if line.startswith("## ")]
    contents = re.findall(r"\[([^\]]+)\]\(#([^)]+)\)", first)
    assert [title for title, _ in contents] == headings
    assert all(anchor == title.replace(" ", "-") for title, anchor in contents)
    for other in (number - 1, number + 1):
        if f"S{other}" in [path.stem for path in NOTEBOOKS]:
            assert f"(S{other}.ipynb)" in first


@EACH
def test_duration_is_the_one_in_the_readme(path):
    (line,) = [line for text in markdown(path) for line in text.splitlines() if line.startswith("**Time:**")]
    assert line == claims.time_line(path.stem)


def test_alone_a_notebook_says_what_to_do(tmp_path):
    firsts = {source(cells(path, "code")[0]) for path in NOTEBOOKS}
    assert len(firsts) == 1
    (tmp_path / "first.py").write_text(firsts.pop(), encoding="utf-8")
    # -P: without the folder of the script; nothing else of the course is on the path
    alone = subprocess.run([sys.executable, "-P", "first.py"], cwd=tmp_path, capture_output=True, text=True)
    assert alone.returncode == 1
    said = alone.stderr.splitlines()[-1]
    for piece in ("ModuleNotFoundError: ", "clone the repository", "Colab", "pip install -r requirements.txt"):
        assert piece in said
    beside = subprocess.run([sys.executable, str(tmp_path / "first.py")], cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
    assert beside.returncode == 0


@EACH
def test_a_sentence_follows_each_figure(path):
    found = cells(path)
    for cell, following in zip(found, [*found[1:], None], strict=True):
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            assert following is not None
            assert following["cell_type"] == "markdown", source(cell)
            assert not source(following).startswith("#"), source(cell)


@EACH
def test_ends_with_a_recap(path):
    recap = "\n".join(markdown(path)).split("\n## You can now\n")[1]
    can, rest = recap.split("### Terms")
    terms, questions = rest.split("### Questions")
    assert len(re.findall(r"^[-*] ", can, re.MULTILINE)) == 5
    assert 8 <= len(re.findall(r"^\| ", terms, re.MULTILINE)) - 2 <= 14
    assert len(re.findall(r"<details>\s*<summary>\d+\. [^<]+\?</summary>.+?</details>", questions, re.DOTALL)) == 10


@EACH
def test_pictures_have_a_text_and_links_lead_somewhere(path):
    text = "\n".join(markdown(path))
    for alternative, target in re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", text):
        assert len(alternative) > 10, target
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target
    assert "<img" not in text


def test_no_refrain():
    """No sentence of some length stands twice in a session, and what all sessions say stands in their first cell."""
    rest = {}
    for path in NOTEBOOKS:
        flowing = " ".join(" ".join(re.sub(r"```.*?```", "", text, flags=re.S).split()) for text in markdown(path)[1:])
        sentences = [s for s in re.split(r"(?<=[.!?:])\s", flowing) if len(s.split()) >= 8]
        assert [s for s in set(sentences) if sentences.count(s) > 1] == []
        for sentence in set(sentences):
            rest.setdefault(sentence, []).append(path.stem)
    assert {sentence: where for sentence, where in rest.items() if len(where) > 2} == {}


# The search for numbers -------------------------------------------------------------------------


def notebook(text, *outputs, code=""):
    data = [{"output_type": "stream", "text": [out]} for out in outputs]
    table = {"output_type": "execute_result", "data": {"text/markdown": ["| 7 | 12.5 |"], "image/png": "99.9"}}
    code = {"cell_type": "code", "source": [code], "outputs": [*data, table]}
    return {"cells": [{"cell_type": "markdown", "source": [text]}, code]}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("an accuracy of 97.3 %", ["97.3%"]),
        ("an accuracy of 97.2 %", []),
        ("an accuracy of 97.15 %, or 97 %, or 97.25", ["97.25"]),
        ("97.150 has more places, but is the same; 97.151 is not", ["97.151"]),
        ("a fraction printed: 98.43 %", []),
        ("but not so: 98.43 points", ["98.43"]),
        ("41 of 1,009 and 42 of 1,135", ["42", "1,135"]),
        ("rounded to 41.4", ["41.4"]),
        ("from a table: 12.5; only in a picture: 99.9", ["99.9"]),
        ("small numbers, 3 or 17 of them, are left alone; 3 epochs are not", ["3"]),
        ("the rate 0.003 stands in the code, 60_000 as 60,000", []),
        ("a year (Smith 2017) is none, 2017 images are some", ["2017"]),
        ("`0.5` and [a link](https://x.org/1.2345) and <b 7.7>\n```python\nx = 4.56\n```\n## 1.25 heading", []),
        ("**1.** *easy, 55 minutes* and\n**Time:** 88 minutes on 66 images\nbut 88 minutes", ["88"]),
        ("$1{,}009$ and $z = 6.28$", ["6.28"]),
        ("5e-4 or 0.0005; 784 pixels", ["784"]),
    ],
)
def test_numbers_are_found(text, left):
    found = prose.unexplained(
        notebook(text, "97.15 % and 0.9843", "41 of 1,009", code="rate = 0.003\nn = 60_000; b = 5e-4")
    )
    assert [number.rstrip("%") for number in found] == [number.rstrip("%") for number in left]


def test_numbers_from_elsewhere_are_named(monkeypatch, tmp_path, capsys):
    (tmp_path / "S1.ipynb").write_text(json.dumps(notebook("12.5, 13.5 and 14.5")), encoding="utf-8")
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    monkeypatch.setattr(prose, "ELSEWHERE", {"S1": {"13.5": "a paper"}})
    assert prose.main() == 1
    assert capsys.readouterr().out == "S1.ipynb: 14.5\n1 unexplained\n"
    monkeypatch.setattr(prose, "ELSEWHERE", {"S1": {"13.5": "a paper", "14.5": "another"}})
    assert prose.main() == 0
