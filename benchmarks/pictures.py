"""Take the README's pictures from the outputs of the notebooks, so that they show the committed runs.

python benchmarks/pictures.py
"""

import base64
import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "pictures"
CELLS = {  # picture → notebook, and a piece of the source of the cell that draws it
    "augmented.png": ("S5", 'figure = post_display(get_MNISTdataset_with_loader("train"'),
    "curves.png": ("S5", "figure = post_accuracyplots("),
    "recipes.png": ("S5", "figure = post_recipes("),
    "explanations.png": ("S5", "figure, _ = explanations("),
    "photos.png": ("S4", "figure = post_images([*pictures, *seen]"),
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


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    for name, content in pictures().items():
        (PICTURES / name).write_bytes(content)
        print(f"pictures/{name}")
