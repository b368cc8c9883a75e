"""The committed notebooks are whole runs; nbval itself runs their cells (see pyproject.toml)."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("S[0-9].ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_run_top_to_bottom_without_error_warning_or_machine_path(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error"]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    for output in outputs:
        output.get("data", {}).pop("image/png", None)
    text = json.dumps([notebook["metadata"], [[cell["metadata"], cell["outputs"]] for cell in cells]])
    assert not re.findall(r"(?<![\w.])/(?:[\w.-]+/)+[\w.-]*|[A-Z]:\\+\w", text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs_are_of_a_full_run_on_mnist(path):
    text = path.read_text(encoding="utf-8")
    assert "MNIST, train: 60,000 images" in text
    assert "scikit-learn digits, train" not in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_look_at_their_networks_with_the_insights(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    (imported,) = [
        names for text in sources for names in re.findall(r"^from insights import ([^(\n]+|\([^)]+)", text, re.M)
    ]
    for name in re.findall(r"\w+", imported):
        assert any(f"{name}(" in text for text in sources)


def test_they_are_there():
    assert "S5" in [path.stem for path in NOTEBOOKS]
