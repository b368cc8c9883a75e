"""What each network costs, all of them side by side in one run, as a table and as JSON.

    python benchmarks/cost.py                # some minutes on two quiet cores
    python benchmarks/cost.py --batches 5    # a shorter look, not kept
    python benchmarks/cost.py --table        # the table of the kept run

For every architecture of model.py with its default arguments: parameters; multiply-adds for one image, as
`insights.layer_costs` counts them, which must be what torch.utils.flop_counter counts; milliseconds of a
training step (`utils.train` on batches of 128 in memory, AdamW, no augmentation); images a second through
`utils.test` (5,000 in batches of 500, in memory); and the size of `best_model.pt` as a training with AdamW
keeps it: the weights, AdamW's two moments of each, and the random states. In fp32 and, where the hardware
has it, in bf16. The images are noise, since what they show makes no difference. Each repeat measures every
network in every precision, so that a slower minute hits all alike; each figure is a median.

The run is kept in benchmarks/results/cost.json.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import accuracy  # noqa: E402
import speed  # noqa: E402

import utils  # noqa: E402
from checkpoint import BEST, save_checkpoint  # noqa: E402
from insights import layer_costs  # noqa: E402
from model import ARCHITECTURES  # noqa: E402

BATCH, TEST_BATCH, IMAGES = 128, 500, 5_000
BATCHES = 20  # of training, timed together


def noise(batches, size, device):
    """Batches of images like normalised noise, and labels, on the device."""
    return [
        (torch.randn(size, 1, 28, 28, device=device), torch.randint(0, 10, (size,), device=device))
        for _ in range(batches)
    ]


def counted(model):
    """Parameters, and multiply-adds for one image. Raises ValueError unless PyTorch's own counter agrees."""
    rows = layer_costs(model)[1]["layers"]
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 1, 28, 28, device=next(model.parameters()).device))
    found = {
        "parameters": sum(row["parameters"] for row in rows),
        "multiply_adds": sum(row["multiply_adds"] for row in rows),
    }
    if 2 * found["multiply_adds"] != counter.get_total_flops():
        raise ValueError(
            f"{model.architecture}: layer_costs counts {found['multiply_adds']:,} multiply-adds,"
            f" torch.utils.flop_counter {counter.get_total_flops() // 2:,}."
        )
    return found


def file_size(model, optimizer):
    """Bytes of the checkpoint that `fit` would keep."""
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder) / BEST, model, optimizer=optimizer)
        return (Path(folder) / BEST).stat().st_size


def seconds(device, way, *arguments, **keywords):
    """How long this call takes."""
    speed.sync(device)
    start = time.perf_counter()
    way(*arguments, **keywords)
    speed.sync(device)
    return time.perf_counter() - start


def measure(device, repeats, batches):
    """Name → its counts, the bytes of its file, and by precision the times of a step (ms) and the images a second.

    Those are lists, a number a repeat. Raises ValueError where the two counts of multiply-adds differ.
    """
    precisions = list(dict.fromkeys(["fp32", utils.get_precision(device)]))
    train_batches, test_batches = noise(batches, BATCH, device), noise(IMAGES // TEST_BATCH, TEST_BATCH, device)
    criterion, found, ready = utils.get_loss(), {}, {}
    for name, build in ARCHITECTURES.items():
        for precision in precisions:
            model = build().to(device)
            optimizer = utils.get_optimizer(model, "AdamW", 0.001)
            utils.train(model, device, train_batches[:2], optimizer, criterion, precision=precision)  # warm up
            utils.test(model, device, test_batches[:1], criterion, precision=precision)
            ready[name, precision] = model, optimizer
        times = {kind: {precision: [] for precision in precisions} for kind in ("step_ms", "images_per_second")}
        found[name] = {**counted(model), "bytes": file_size(model, optimizer), **times}
    for repeat in range(1, repeats + 1):
        for (name, precision), (model, optimizer) in ready.items():
            taken = seconds(
                device, utils.train, model, device, train_batches, optimizer, criterion, precision=precision
            )
            step = 1000 * taken / batches
            taken = seconds(device, utils.test, model, device, test_batches, criterion, precision=precision)
            rate = TEST_BATCH * len(test_batches) / taken
            found[name]["step_ms"][precision].append(step)
            found[name]["images_per_second"][precision].append(rate)
            line = f"repeat {repeat}, {name}, {precision}: {step:.1f} ms a step, {rate:,.0f} images a second"
            print(line, file=sys.stderr, flush=True)
    return found


def table(result):
    """Markdown: a row a network, the times as medians; where, and by how many repeats, in a line below."""

    def median(times, precision, form):
        return f"{statistics.median(times[precision]):{form}}" if precision in times else speed.NOT_MEASURED

    columns = {
        "network": lambda name, r: f"`{name}`",
        "parameters": lambda name, r: f"{r['parameters']:,}",
        "multiply-adds an image": lambda name, r: f"{r['multiply_adds']:,}",
        "step fp32 (ms)": lambda name, r: median(r["step_ms"], "fp32", ".1f"),
        "step bf16 (ms)": lambda name, r: median(r["step_ms"], "bf16", ".1f"),
        "test images a second, fp32": lambda name, r: median(r["images_per_second"], "fp32", ",.0f"),
        "test images a second, bf16": lambda name, r: median(r["images_per_second"], "bf16", ",.0f"),
        "file (kB)": lambda name, r: f"{r['bytes'] / 1000:,.0f}",
    }
    rows = [[text(name, found) for text in columns.values()] for name, found in result["networks"].items()]
    return f"{accuracy.markdown(columns, *rows)}\n\nOn {speed.where(result)}; medians of {result['repeats']}."


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="repeats of each network (default 5)")
    parser.add_argument(
        "--batches", type=int, default=BATCHES, metavar="N", help=f"batches trained in a repeat (default {BATCHES})"
    )
    parser.add_argument("--table", action="store_true", help="only print the table of the kept run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to keep the figures")
    options = parser.parse_args(arguments)
    if options.repeats < 1 or options.batches < 1:
        parser.error("--repeats and --batches must be at least 1")
    path = options.json or accuracy.RESULTS / "cost.json"
    if options.table:
        try:
            print(table(json.loads(path.read_text(encoding="utf-8"))))
        except FileNotFoundError:
            parser.exit(2, f"{path} is missing: make it by `python benchmarks/cost.py`.\n")
        return 0
    device = utils.get_device()
    utils.set_seed(1)
    try:
        networks = measure(device, options.repeats, options.batches)
    except ValueError as problem:
        parser.exit(2, f"{problem}\n")
    result = {
        "device": utils.describe_device(device),
        "precision": " and ".join(next(iter(networks.values()))["step_ms"]),
        "cpu": speed.cpu(),
        "torch": torch.__version__,
        "repeats": options.repeats,
        "batches": options.batches,
        "networks": networks,
    }
    print(table(result))
    if options.json or options.batches >= BATCHES:
        accuracy.keep(result, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
