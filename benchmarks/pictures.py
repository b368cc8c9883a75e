"""Take the README's pictures from the outputs of S5.ipynb, so that they show the committed run.

python benchmarks/pictures.py
"""

import base64
import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "pictures"
CELLS = {  # picture → a piece of the source of the cell that draws it
    "augmented.png": 'figure = post_display(get_MNISTdataset_with_loader("train"',
    "curves.png": "figure = post_accuracyplots(",
    "recipes.png": "figure = post_recipes(",
}


def pictures():
    """File name → PNG bytes, from the cells' outputs. Raises LookupError for a cell without one."""
    text = (ROOT / "S5.ipynb").read_text(encoding="utf-8")
    if "MNIST, train: 60,000 images" not in text:
        raise LookupError("S5.ipynb does not hold a run on MNIST: fetch it with dataset.py, and run the notebook.")
    cells = json.loads(text)["cells"]
    found = {}
    for name, piece in CELLS.items():
        for cell in cells:
            if cell["cell_type"] == "code" and piece in "".join(cell["source"]):
                found[name] = [o["data"]["image/png"] for o in cell["outputs"] if "image/png" in o.get("data", {})]
        if not found.get(name):
            raise LookupError(f"S5.ipynb has no output for {name}: run the notebook first.")
    return {name: base64.b64decode(images[0]) for name, images in found.items()}


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    for name, content in pictures().items():
        (PICTURES / name).write_bytes(content)
        print(f"pictures/{name}")
