"""Time the whole report on MNIST's 10,000 test images: all figures, and the page.

    python benchmarks/time_report.py                          # trains the recipe fast1 first, a minute
    python benchmarks/time_report.py --checkpoint best.pt --folder report

The time is kept in `benchmarks/results/report.json`; the report itself goes to a temporary folder,
unless one is named. The imports of scikit-learn, SciPy and Captum are part of the time.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import accuracy  # noqa: E402

import utils  # noqa: E402
from checkpoint import load_model  # noqa: E402
from insights.report import write_report  # noqa: E402
from training import train_recipe  # noqa: E402


def measure(model, device, folder, dataset="mnist"):
    """Write the report, the temperature fitted on held-out images; return the seconds it took, and on what."""
    kwargs = {"batch_size": 500}
    options = {"dataset": dataset, "device": device}
    test_loader = utils.get_MNISTdataset_with_loader("test", kwargs, **options)
    validation_loader = utils.get_MNISTdataset_with_loader("validation", kwargs, holdout="auto", **options)
    name = model.architecture
    loaders = {"test_loader": test_loader, "validation_loader": validation_loader}
    start = time.perf_counter()
    page = write_report(model, folder, **loaders, device=device, name=name)
    return {
        "model": name,
        "images": len(test_loader.dataset),
        "seconds": time.perf_counter() - start,
        "page_bytes": page.stat().st_size,
        "device": utils.describe_device(device),
        "torch": torch.__version__,
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="the model (default: train the recipe fast1)")
    parser.add_argument("--folder", type=Path, help="where to write the report (default: a temporary folder)")
    options = parser.parse_args(arguments)
    device = utils.get_device()
    try:
        model = (
            load_model(options.checkpoint, device)
            if options.checkpoint
            else train_recipe("fast1", seed=1, holdout="auto")[0]
        )
        with tempfile.TemporaryDirectory() as folder:
            result = measure(model, device, options.folder or folder)
    except (OSError, ValueError) as problem:
        parser.exit(2, f"{problem}\n")
    print("{model}, {images:,} test images: the report took {seconds:.1f} s on {device}".format(**result))
    accuracy.keep(result, accuracy.RESULTS / "report.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
