"""Measure what the course costs, side by side in one run, as a table and as JSON.

    python benchmarks/speed.py                       # about ten minutes on two cores
    python benchmarks/speed.py --batches 20          # a shorter look, not kept
    python benchmarks/speed.py --profile             # what the time of an epoch is spent on

(a) one epoch of S5 through this project's loaders and loops; (b) the same number of bare steps on
one batch in memory, same precision and memory format: the floor; (c) the documents' way, as their
repositories do it: images transformed one at a time through PIL by two workers, fp32, contiguous.
Of each epoch half is run (60 batches of 512 of the 118) and the time scaled up, so that the repeats
can alternate quickly; each figure is a median.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import torch
import torchvision
from torchvision.transforms import v2
from tqdm import tqdm

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import accuracy  # noqa: E402

import dataset  # noqa: E402
import training  # noqa: E402
import utils  # noqa: E402
from model import Net  # noqa: E402

BATCH = 512
HALF = 60  # batches


class Short:
    """The first `batches` batches of a loader."""

    def __init__(self, loader, batches):
        self.loader, self.batches = loader, min(batches, len(loader))

    def __iter__(self):
        return islice(iter(self.loader), self.batches)

    def __len__(self):
        return self.batches


def sync(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


# The three ways ---------------------------------------------------------------------------------


def documents_loader(train, batch_size=BATCH):
    """The documents' loader: one PIL image at a time through torchvision, two workers."""
    normalise = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.1307,), (0.3081,))]
    augment = [
        v2.RandomApply([v2.CenterCrop(22)], p=0.1),
        v2.Resize((28, 28)),
        v2.RandomRotation((-15.0, 15.0), fill=0),
    ]
    data = torchvision.datasets.MNIST(
        dataset.data_root(), train=train, transform=v2.Compose(augment + normalise if train else normalise)
    )
    return torch.utils.data.DataLoader(data, batch_size=batch_size, shuffle=True, num_workers=2)


def documents_train(model, device, loader, optimizer):
    """The documents' loop, plainly written: fp32, the results read after every batch."""
    model.train()
    correct = seen = 0
    for images, labels in (bar := tqdm(loader, disable=True)):
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        output = model(images)
        loss = torch.nn.functional.nll_loss(output, labels)
        loss.backward()
        optimizer.step()
        correct += output.argmax(dim=1).eq(labels).sum().item()
        seen += len(images)
        bar.set_description(f"loss {loss.item():.4f}, accuracy {100 * correct / seen:.2f}")


def documents_test(model, device, loader):
    model.eval()
    loss = correct = 0
    with torch.no_grad():
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            output = model(images)
            loss += torch.nn.functional.nll_loss(output, labels, reduction="sum").item()
            correct += output.argmax(dim=1).eq(labels).sum().item()
    return 100 * correct / len(loader.dataset)


def bare_steps(model, device, batch, optimizer, steps):
    """The floor: forward, backward and step on one batch, in the precision that `train` takes."""
    images, labels = (part.to(device) for part in batch)
    bf16 = utils.get_precision(device) == "bf16"
    model.train()
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            output = model(images)
        torch.nn.functional.nll_loss(output, labels).backward()
        optimizer.step()


def glibc_keeps_freed_memory(keep):
    """Switch what `utils` switches on, so that the documents' way is measured without it."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    # 32 and 64 MiB are where glibc's own limits end up in a program with large tensors.
    mallopt(-3, 1 << 30 if keep else 32 << 20)
    mallopt(-1, (1 << 31) - 1 if keep else 64 << 20)


def measure_epochs(device, repeats, batches):
    """Seconds of an epoch for each way, as lists of `repeats`, scaled up from `batches`."""
    loader = Short(
        utils.get_MNISTdataset_with_loader(
            "train", {"batch_size": BATCH, "shuffle": True}, dataset="mnist", device=device
        ),
        batches,
    )
    scale = len(loader.loader) / len(loader)
    ours, theirs = Net().to(device), Net().to(device)
    ours.to(memory_format=torch.channels_last)
    our_optimizer, their_optimizer = utils.get_optimizer(ours), utils.get_optimizer(theirs)
    batch = next(iter(loader))
    criterion = utils.get_loss()
    slow_loader = Short(documents_loader(train=True), batches)
    fast = {}
    for name in ("fast1", "fast2"):
        recipe = training.RECIPES[name]
        fast_loader = training.recipe_loader(recipe, "train", dataset="mnist", device=device)
        part = Short(fast_loader, batches * BATCH // recipe["batch_size"])
        net = Net().to(device)
        optimizer = utils.get_optimizer(net, **recipe["optimizer"])
        steps = (repeats + 1) * len(part)
        scheduler = utils.get_scheduler(optimizer, **recipe["scheduler"], total_steps=steps)
        fast[name] = (part, net, optimizer, scheduler, recipe["epochs"] * len(fast_loader) / len(part))

    def run_fast(name):
        part, net, optimizer, scheduler, _ = fast[name]
        utils.train(net, device, part, optimizer, criterion, scheduler=scheduler)

    ways = {
        "a": (lambda: utils.train(ours, device, loader, our_optimizer, criterion), scale, True),
        "b": (lambda: bare_steps(ours, device, batch, our_optimizer, len(loader)), scale, True),
        "b, freed memory handed back": (
            lambda: bare_steps(ours, device, batch, our_optimizer, len(loader)),
            scale,
            False,
        ),
        "c": (lambda: documents_train(theirs, device, slow_loader, their_optimizer), scale, False),
        "fast1": (lambda: run_fast("fast1"), fast["fast1"][-1], True),
        "fast2": (lambda: run_fast("fast2"), fast["fast2"][-1], True),
    }
    bare_steps(ours, device, batch, our_optimizer, 3)  # warm up
    times = {name: [] for name in ways}
    for repeat in range(repeats):
        for name, (way, factor, keep) in ways.items():
            glibc_keeps_freed_memory(keep)
            sync(device)
            start = time.perf_counter()
            way()
            sync(device)
            times[name].append((time.perf_counter() - start) * factor)
            print(f"repeat {repeat + 1}, ({name}): {times[name][-1]:.1f} s", file=sys.stderr, flush=True)
    glibc_keeps_freed_memory(True)
    return times, ours


def measure_test(device, model, repeats):
    """Images per second over the 10,000 test images: this project's way and the documents'."""
    loader = utils.get_MNISTdataset_with_loader("test", {"batch_size": 500}, dataset="mnist", device=device)
    slow_loader, contiguous = documents_loader(train=False), Net().to(device)
    contiguous.load_state_dict(model.state_dict())
    criterion, times, found = utils.get_loss(), {"ours": [], "theirs": []}, {}
    for _ in range(repeats):
        for name, way, keep in (
            ("ours", lambda: utils.test(model, device, loader, criterion)[1], True),
            ("theirs", lambda: documents_test(contiguous, device, slow_loader), False),
        ):
            glibc_keeps_freed_memory(keep)
            start = time.perf_counter()
            found[name] = way()
            times[name].append(time.perf_counter() - start)
    glibc_keeps_freed_memory(True)
    exact = utils.test(model, device, loader, criterion, precision="fp32")[1]
    return {
        "images_per_second": len(loader.dataset) / statistics.median(times["ours"]),
        "documents_images_per_second": len(loader.dataset) / statistics.median(times["theirs"]),
        "accuracy": found["ours"],
        "accuracy_fp32": exact,
    }


# In processes of their own ----------------------------------------------------------------------


def python(code, *arguments):
    """Run code in a fresh interpreter in the project's folder; return its seconds and its output."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], check=True, capture_output=True, text=True, cwd=HERE.parent,
        env={**os.environ, "MNIST_DATA": str(dataset.data_root().resolve())},
    )  # fmt: skip
    return time.perf_counter() - start, done.stdout


def measure_imports(repeats):
    codes = {"utils": "import utils", "libraries": "import torch, torchvision.transforms.v2, matplotlib.pyplot"}
    times = {name: [] for name in codes}
    for _ in range(repeats + 1):  # the first reads the files from the disk, and is left out
        for name, code in codes.items():
            times[name].append(python(code)[0])
    return {name: statistics.median(t[1:]) for name, t in times.items()}


MEMORY = """
import json, resource, sys, time, torch
from itertools import islice
from pathlib import Path
import utils
from model import Net
def peak():  # MB
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where getrusage would give the parent's peak if that is higher
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
imports = peak()
size, device = int(sys.argv[1]), utils.get_device()
loader = utils.get_MNISTdataset_with_loader("train", {"batch_size": 512, "shuffle": True}, dataset="mnist")
data = loader.dataset
images, labels = data.images, data.labels
data.images, data.labels = torch.empty(size, 28, 28, dtype=torch.uint8), torch.empty(size, dtype=torch.int64)
for start in range(0, size, len(images)):  # in place: a copy on the way would count as peak memory
    part = min(len(images), size - start)
    data.images[start : start + part], data.labels[start : start + part] = images[:part], labels[:part]
loader = utils.make_loader(data, {"batch_size": 512, "shuffle": True})
start = time.perf_counter()
for batch in loader: pass
seconds = time.perf_counter() - start
model = Net().to(device)
utils.train(model, device, list(islice(loader, 6)), utils.get_optimizer(model), utils.get_loss())
print(json.dumps({"images": size, "us_per_image": seconds / size * 1e6, "data_mb": data.images.nbytes / 2**20,
    "peak_mb": peak() - imports}))
"""


def measure_growth(sizes):
    """Loading time an image and peak memory (MB) above the imports of a training process, by size."""
    if sys.platform == "win32":  # which has no `resource`
        return []
    return [json.loads(python(MEMORY, size)[1]) for size in sizes]


# The run ----------------------------------------------------------------------------------------


def report(result):
    """The measures beside their targets, as a Markdown table."""
    e, test, imports = result["epochs"], result["test"], result["imports"]
    whole = 20 * e["c"]
    rows = [
        ("(a) one epoch of S5, this project's way", f"{e['a']:.1f} s", ""),
        ("(b) the same steps bare: the floor", f"{e['b']:.1f} s", ""),
        ("(c) one epoch, the documents' way", f"{e['c']:.1f} s", ""),
        ("(a) / (b): loading, augmenting, bookkeeping", f"{e['a'] / e['b']:.3f}", "≤ 1.08"),
        ("(c) / (a): against the documents' way", f"{e['c'] / e['a']:.2f}", "≥ 3.0"),
        (
            "fast recipe, 1 epoch / the documents' 20 epochs",
            f"{e['fast1']:.1f} s = 1/{whole / e['fast1']:.0f}",
            "≤ 1/55",
        ),
        (
            "fast recipe, 2 epochs / the documents' 20 epochs",
            f"{e['fast2']:.1f} s = 1/{whole / e['fast2']:.0f}",
            "≤ 1/30",
        ),
        ("(b) with freed memory handed back to the system", f"{e['b, freed memory handed back']:.1f} s", ""),
        ("10,000 test images through `test`", f"{test['images_per_second']:,.0f} a second", ""),
        (
            "the same / the documents' way",
            f"{test['images_per_second'] / test['documents_images_per_second']:.2f}",
            "≥ 3",
        ),
        (
            "test accuracy as `test` computes it − in fp32",
            f"{test['accuracy'] - test['accuracy_fp32']:+.2f} points",
            "within ±0.05",
        ),
        (
            "`import utils` / importing torch, torchvision, matplotlib",
            f"{imports['utils']:.2f} s / {imports['libraries']:.2f} s = {imports['utils'] / imports['libraries']:.2f}",
            "≤ 1.1",
        ),
    ]
    for grown in result["growth"]:
        beyond = grown["peak_mb"] - grown["data_mb"]
        rows.append(
            (
                f"{grown['images']:,} images: loading one; peak memory above imports, and without the data",
                f"{grown['us_per_image']:.1f} µs; {grown['peak_mb']:,.0f} MB, {beyond:,.0f} MB",
                "≤ 1,500 MB" if grown["images"] == 60_000 else "flat",
            )
        )
    lines = ["| measure | measured | target |", "| --- | --- | --- |"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def profile(device):
    """Print where the time of twenty steps goes, by operator."""
    loader = Short(
        utils.get_MNISTdataset_with_loader(
            "train", {"batch_size": BATCH, "shuffle": True}, dataset="mnist", device=device
        ),
        20,
    )
    model, criterion = Net().to(device), utils.get_loss()
    optimizer = utils.get_optimizer(model)
    utils.train(model, device, list(islice(loader, 3)), optimizer, criterion)
    with torch.profiler.profile() as prof:
        utils.train(model, device, loader, optimizer, criterion)
    print(prof.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=50))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="repeats of each way (default 3)")
    parser.add_argument(
        "--batches",
        type=int,
        default=HALF,
        metavar="N",
        help=f"batches of an epoch that are run (default {HALF} of 118)",
    )
    parser.add_argument("--profile", action="store_true", help="only print a profile of the steps")
    parser.add_argument("--table", action="store_true", help="only print the table of the kept run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to keep the figures")
    options = parser.parse_args(arguments)
    if options.repeats < 1 or options.batches < 1:
        parser.error("--repeats and --batches must be at least 1")
    kept = HERE / "results" / "speed.json"
    if options.table:
        print(report(json.loads((options.json or kept).read_text(encoding="utf-8"))))
        return 0
    device = utils.get_device()
    utils.set_seed(1)
    try:
        dataset.load_dataset("test", "mnist")
    except OSError as problem:
        parser.exit(2, f"{problem}\n")
    if options.profile:
        profile(device)
        return 0
    times, model = measure_epochs(device, options.repeats, options.batches)
    result = {
        "device": utils.describe_device(device),
        "torch": torch.__version__,
        "repeats": options.repeats,
        "batches": options.batches,
        "epochs": {name: statistics.median(t) for name, t in times.items()},
        "epochs_each": times,
        "test": measure_test(device, model, options.repeats),
        "imports": measure_imports(5),
        "growth": measure_growth((6_000, 60_000, 600_000)),
    }
    print(report(result))
    print(f"\nOn {result['device']}; torch {result['torch']}; medians of {options.repeats}.")
    path = options.json or (kept if options.batches >= HALF else None)
    if path is not None:
        accuracy.keep(result, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
