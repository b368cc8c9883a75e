"""Take the README's pictures from the outputs of the notebooks, so that they show the committed runs.

    python benchmarks/pictures.py
    python benchmarks/pictures.py --times   # the sessions' durations too, after full runs on a quiet machine with bf16

A notebook's duration is the sum of its cells', as `jupyter execute` notes them in the notebook; it is kept in
benchmarks/results/sessions.json. The clock times themselves are taken out of the notebooks.
"""

import argparse
import base64
import json
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "pictures"
SESSIONS = ROOT / "benchmarks" / "results" / "sessions.json"
CELLS = {  # picture → notebook, and a piece of the source of the cell that draws it
    "augmented.png": ("S5", 'figure = post_display(get_MNISTdataset_with_loader("train"'),
    "curves.png": ("S5", "figure = post_accuracyplots("),
    "recipes.png": ("S5", "figure = post_recipes("),
    "explanations.png": ("S5", "figure, maps = explanations("),
    "parameters.png": ("S6", "figure = post_parameters("),
    "preparation.png": ("S4", "figure = post_images([*hard.values(), *prepared]"),
    "page.png": ("S4", "figure = post_boxes(page, readings)"),
}


def pictures():
    """File name → PNG bytes, from the cells' outputs. Raises LookupError for a cell without one."""
    found = {}
    for name, (notebook, piece) in CELLS.items():
        text = (ROOT / f"{notebook}.ipynb").read_text(encoding="utf-8")
        if "MNIST, train: 60,000 images" not in text:
            raise LookupError(
                f"{notebook}.ipynb holds no run on MNIST: fetch it with dataset.py, and run the notebook."
            )
        for cell in json.loads(text)["cells"]:
            if cell["cell_type"] == "code" and piece in "".join(cell["source"]):
                found[name] = [o["data"]["image/png"] for o in cell["outputs"] if "image/png" in o.get("data", {})]
        if not found.get(name):
            raise LookupError(f"{notebook}.ipynb has no output for {name}: run the notebook first.")
    return {name: base64.b64decode(images[0]) for name, images in found.items()}


def minutes(notebook):
    """How long the cells of a notebook (its JSON) ran, or None where their times are not noted."""
    seconds = 0.0
    for cell in notebook["cells"]:
        times = cell["metadata"].get("execution", {})
        start, end = (times.get(name) for name in ("iopub.execute_input", "shell.execute_reply"))
        if start and end:
            seconds += (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
    return seconds / 60 or None


def durations():
    """Session → minutes; of a notebook without times, what was kept before."""
    found = json.loads(SESSIONS.read_text(encoding="utf-8")) if SESSIONS.exists() else {}
    for path in sorted(ROOT.glob("S[0-9].ipynb")):
        if time := minutes(json.loads(path.read_text(encoding="utf-8"))):
            found[path.stem] = round(time, 2)
    return found


def strip():
    """Take the clock times out of the notebooks."""
    for path in ROOT.glob("S[0-9].ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            cell["metadata"].pop("execution", None)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", action="store_true", help="keep the sessions' durations too")
    options = parser.parse_args(arguments)
    PICTURES.mkdir(exist_ok=True)
    for name, content in pictures().items():
        (PICTURES / name).write_bytes(content)
        print(f"pictures/{name}")
    if options.times:
        SESSIONS.write_text(json.dumps(durations(), indent=1) + "\n", encoding="utf-8")
        print(SESSIONS.relative_to(ROOT))
    strip()


if __name__ == "__main__":
    main()
