"""Measure what the course costs, side by side in one run, as a table and as JSON.

    python benchmarks/speed.py                       # a quarter of an hour on two cores with bf16
    python benchmarks/speed.py --batches 20          # a shorter look, not kept
    python benchmarks/speed.py --profile             # what the time of an epoch is spent on
    python benchmarks/speed.py --table               # the table of all kept runs

(a) one epoch of S5 through this project's loaders and loops; (b) the same number of bare steps on
one batch in memory, same precision and memory format: the floor; (c) the documents' way, as their
repositories do it: images transformed one at a time through PIL by two workers, fp32, contiguous.
Of each epoch half is run (60 batches of 512 of the 118) and the time scaled up, so that the repeats
can alternate quickly; each figure is a median.

One run is kept for each kind of CPU: benchmarks/results/speed-bf16.json where the hardware computes in
bfloat16, speed-fp32.json elsewhere. A machine with bf16 imitates one without, an hour or two long, by

    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/speed.py --precision fp32
"""

import argparse
import copy
import ctypes
import json
import os
import platform
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
TIMED = ("fast1", "fast2", "small4", "torchnn", "mlp", "cnn", "image-classifier")  # recipes, timed besides
LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")  # variables that limit oneDNN's and PyTorch's own kernels


class Short:
    """The first `batches` batches of a loader."""

    def __init__(self, loader, batches):
        self.loader, self.batches = loader, min(batches, len(loader))

    def __iter__(self):
        return islice(iter(self.loader), self.batches)

    def __len__(self):
        return self.batches


def sync(device):
    if device.type != "cpu":
        torch.accelerator.synchronize()


# The kind of CPU --------------------------------------------------------------------------------


def cpu():
    """The CPU: its model where it can be had, the instructions that PyTorch uses, native bf16, what limits it."""
    limits = [f"limited to {os.environ[name].upper()} by {name}" for name in LIMITS if os.environ.get(name)]
    return {
        "model": torch.cpu.get_capabilities().get("cpu_name") or platform.processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "native_bf16": utils.get_precision("cpu") == "bf16",
        "limited": limits[0] if limits else "",
    }


def where(result):
    """The device, its precision and the kind of CPU of a kept run, in words."""
    about = result["cpu"]
    parts = [accuracy.where(result["device"], result["precision"]), about["model"], about["capability"]]
    return ", ".join(part for part in (*parts, about["limited"]) if part)


def kept_path(device, precision):
    """The file of the run on this kind of device."""
    kind = precision if device.type == "cpu" else f"{device.type}-{precision}"
    return accuracy.RESULTS / f"speed-{kind}.json"


def kept():
    """The kept runs, with bf16 first."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(accuracy.RESULTS.glob("speed-*.json"))]


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


def bare_steps(model, device, batch, optimizer, steps, precision=None):
    """The floor: forward, backward and step on one batch, in the precision that `train` takes."""
    images, labels = (part.to(device) for part in batch)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        with utils.autocast(device, precision):
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


def measure_epochs(device, repeats, batches, *, data="mnist", precision=None):
    """Seconds of an epoch for each way, and of a recipe's training, as lists of `repeats`, scaled up from `batches`."""
    options = {"dataset": data, "device": device}
    loader = utils.get_MNISTdataset_with_loader("train", {"batch_size": BATCH, "shuffle": True}, **options)
    loader = Short(loader, batches)
    scale = len(loader.loader) / len(loader)
    ours, theirs = Net().to(device), Net().to(device)
    ours.to(memory_format=utils.memory_format(device))
    our_optimizer, their_optimizer = utils.get_optimizer(ours), utils.get_optimizer(theirs)
    batch = next(iter(loader))
    criterion = utils.get_loss()
    slow_loader = Short(documents_loader(train=True), batches)

    def bare():
        bare_steps(ours, device, batch, our_optimizer, len(loader), precision)

    def recipe_way(recipe):
        whole = training.recipe_loader(recipe, "train", **options)
        part = Short(whole, max(1, batches * BATCH // recipe["batch_size"]))
        net = training.recipe_model(recipe).to(device)
        optimizer, loss = utils.get_optimizer(net, **recipe["optimizer"]), utils.get_loss(recipe["loss"])
        scheduler = training.recipe_scheduler({**recipe, "epochs": repeats + 1}, optimizer, len(part))
        return (
            lambda: utils.train(net, device, part, optimizer, loss, scheduler=scheduler, precision=precision),
            recipe["epochs"] * len(whole) / len(part),
            True,
        )

    ways = {  # name → what to run, the factor to the whole, and is freed memory kept?
        "a": (lambda: utils.train(ours, device, loader, our_optimizer, criterion, precision=precision), scale, True),
        "b": (bare, scale, True),
        "b, freed memory handed back": (bare, scale, False),
        "c": (lambda: documents_train(theirs, device, slow_loader, their_optimizer), scale, False),
        **{name: recipe_way(training.RECIPES[name]) for name in TIMED},
    }
    bare_steps(ours, device, batch, our_optimizer, 3, precision)  # warm up
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


def measure_test(device, model, repeats, *, data="mnist", precision=None):
    """Images per second over the test images, this project's way and the documents'; accuracy, and that in fp32."""
    loader = utils.get_MNISTdataset_with_loader("test", {"batch_size": 500}, dataset=data, device=device)
    slow_loader, contiguous = documents_loader(train=False), copy.deepcopy(model)
    contiguous.to(memory_format=torch.contiguous_format)
    criterion, times, found = utils.get_loss(), {"ours": [], "theirs": []}, {}
    for _ in range(repeats):
        for name, way, keep in (
            ("ours", lambda: utils.test(model, device, loader, criterion, precision=precision)[1], True),
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
utils.train(model, device, list(islice(loader, 6)), utils.get_optimizer(model), utils.get_loss(), precision=sys.argv[2])
print(json.dumps({"images": size, "us_per_image": seconds / size * 1e6, "data_mb": data.images.nbytes / 2**20,
    "peak_mb": peak() - imports}))
"""


def measure_growth(sizes, precision):
    """Loading time an image and peak memory (MB) above the imports of a training process, by size."""
    if sys.platform == "win32":  # which has no `resource`
        return []
    return [json.loads(python(MEMORY, size, precision)[1]) for size in sizes]


# Tables -----------------------------------------------------------------------------------------


def _duration(seconds):
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _part(whole, seconds):
    return f"{seconds:.1f} s = 1/{whole / seconds:.0f}"


def _imports(found):
    return f"{found['utils']:.2f} s / {found['libraries']:.2f} s = {found['utils'] / found['libraries']:.2f}"


def _grown(found, images):
    found = next(each for each in found if each["images"] == images)
    beyond = found["peak_mb"] - found["data_mb"]
    return f"{found['us_per_image']:.1f} µs; {found['peak_mb']:,.0f} MB, {beyond:,.0f} MB"


WITH_BF16 = "with bf16"  # a target that the others need not meet
# What is measured, how a kept run says it, and the target, which was set before measuring
MEASURES = [
    ("measured on", where, ""),
    ("(a) one epoch of S5, this project's way", lambda r: f"{r['epochs']['a']:.1f} s", ""),
    ("(b) the same steps bare: the floor", lambda r: f"{r['epochs']['b']:.1f} s", ""),
    ("(c) one epoch, the documents' way", lambda r: f"{r['epochs']['c']:.1f} s", ""),
    (
        "(a) / (b): loading, augmenting, bookkeeping",
        lambda r: f"{r['epochs']['a'] / r['epochs']['b']:.3f}",
        "≤ 1.08",
    ),
    (
        "(c) / (a): against the documents' way",
        lambda r: f"{r['epochs']['c'] / r['epochs']['a']:.2f}",
        f"{WITH_BF16} ≥ 3.0",
    ),
    (
        "`fast1`, 1 epoch / the documents' 20 epochs",
        lambda r: _part(20 * r["epochs"]["c"], r["epochs"]["fast1"]),
        f"{WITH_BF16} ≤ 1/55",
    ),
    (
        "`fast2`, 2 epochs / the documents' 20 epochs",
        lambda r: _part(20 * r["epochs"]["c"], r["epochs"]["fast2"]),
        f"{WITH_BF16} ≤ 1/30",
    ),
    (
        f"`small4`, SmallNet's {training.RECIPES['small4']['epochs']} epochs / Net's `fast2`: both pass 99.4 %",
        lambda r: f"{r['epochs']['small4']:.1f} s = 1/{r['epochs']['fast2'] / r['epochs']['small4']:.1f}",
        "in fp32 ≤ 1/3",
    ),
    *(
        (f"`{name}`, {training.RECIPES[name]['epochs']} epochs", lambda r, name=name: f"{r['epochs'][name]:.1f} s", "")
        for name in ("torchnn", "mlp", "cnn", "image-classifier")
    ),
    (
        "(b) with freed memory handed back to the system",
        lambda r: f"{r['epochs']['b, freed memory handed back']:.1f} s",
        "",
    ),
    ("10,000 test images through `test`", lambda r: f"{r['test']['images_per_second']:,.0f} a second", ""),
    (
        "the same / the documents' way",
        lambda r: f"{r['test']['images_per_second'] / r['test']['documents_images_per_second']:.2f}",
        f"{WITH_BF16} ≥ 3",
    ),
    (
        "test accuracy as `test` computes it − in fp32",
        lambda r: f"{r['test']['accuracy'] - r['test']['accuracy_fp32']:+.2f} points",
        "within ±0.05",
    ),
    (
        "`import utils` / importing torch, torchvision, matplotlib",
        lambda r: _imports(r["imports"]),
        "≤ 1.1",
    ),
    *(
        (
            f"{images:,} images: loading one; peak memory above the imports, with the data and without",
            lambda r, images=images: _grown(r["growth"], images),
            target,
        )
        for images, target in ((6_000, "flat"), (60_000, "≤ 1,500 MB"), (600_000, "flat"))
    ),
]
ESSENTIALS = [  # for those who want to know how long it takes
    ("measured on", where),
    ("one epoch of S5's `Net`", lambda r: _duration(r["epochs"]["a"])),
    ("S5's twenty epochs", lambda r: _duration(20 * r["epochs"]["a"])),
    ("the same as usually written: PIL, two workers, fp32", lambda r: _duration(20 * r["epochs"]["c"])),
    ("`torchnn.py --train`, twenty epochs of `SmallNet`", lambda r: _duration(r["epochs"]["torchnn"])),
]
NOT_MEASURED = "–"
SESSIONS = {  # what most of its time goes to
    "S1": "mlp",
    "S2": "cnn",
    "S3": "cnn",
    "S4": "image-classifier",
    "S5": "a",
    "S6": "fast1",
}


def _columns(results):
    names = {"bf16": WITH_BF16, "fp32": "without bf16"}
    return [names[r["precision"]] if r["device"].startswith("cpu") else r["device"].split(":")[0] for r in results]


def _value(text, result):
    try:
        return text(result)
    except (KeyError, StopIteration):
        return NOT_MEASURED


def report(results):
    """All measures, a column for each of the runs, and their targets, as Markdown."""
    bf16 = any(result["precision"] == "bf16" for result in results)
    rows = [
        (name, *(_value(text, result) for result in results), target if bf16 or WITH_BF16 not in target else "")
        for name, text, target in MEASURES
    ]
    return accuracy.markdown(("measure", *_columns(results), "target"), *rows)


def essentials(results):
    """How long things take on each kind of CPU, as Markdown."""
    rows = [(name, *(_value(text, result) for result in results)) for name, text in ESSENTIALS]
    return accuracy.markdown(("", *_columns(results)), *rows)


def durations(minutes, results):
    """Session → minutes with bf16, as its notebook was run, and without, by the ratio of its training's times."""
    epochs = {result["precision"]: result["epochs"] for result in results if result["device"].startswith("cpu")}
    found = {}
    for session, way in SESSIONS.items():
        with_bf16, without = (epochs.get(precision, {}).get(way) for precision in ("bf16", "fp32"))
        known = session in minutes and with_bf16 and without
        found[session] = minutes.get(session), minutes[session] * without / with_bf16 if known else None
    return found


# The run ----------------------------------------------------------------------------------------


def profile(device, precision=None):
    """Print where the time of twenty steps goes, by operator."""
    kwargs = {"batch_size": BATCH, "shuffle": True}
    loader = Short(utils.get_MNISTdataset_with_loader("train", kwargs, dataset="mnist", device=device), 20)
    model, criterion = Net().to(device), utils.get_loss()
    optimizer = utils.get_optimizer(model)
    utils.train(model, device, list(islice(loader, 3)), optimizer, criterion, precision=precision)
    with torch.profiler.profile() as prof:
        utils.train(model, device, loader, optimizer, criterion, precision=precision)
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
    parser.add_argument("--precision", choices=["fp32"], help="compute in fp32 also where there is bf16")
    parser.add_argument("--profile", action="store_true", help="only print a profile of the steps")
    parser.add_argument("--table", action="store_true", help="only print the table of the kept runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to keep the figures")
    options = parser.parse_args(arguments)
    if options.repeats < 1 or options.batches < 1:
        parser.error("--repeats and --batches must be at least 1")
    if options.table:
        print(report([json.loads(options.json.read_text(encoding="utf-8"))] if options.json else kept()))
        return 0
    device = utils.get_device()
    precision = options.precision or utils.get_precision(device)
    utils.set_seed(1)
    try:
        dataset.load_dataset("test", "mnist")
    except OSError as problem:
        parser.exit(2, f"{problem}\n")
    if options.profile:
        profile(device, precision)
        return 0
    times, model = measure_epochs(device, options.repeats, options.batches, precision=precision)
    result = {
        "device": utils.describe_device(device),
        "precision": precision,
        "cpu": cpu(),
        "torch": torch.__version__,
        "repeats": options.repeats,
        "batches": options.batches,
        "epochs": {name: statistics.median(t) for name, t in times.items()},
        "epochs_each": times,
        "test": measure_test(device, model, options.repeats, precision=precision),
        "imports": measure_imports(5),
        "growth": measure_growth((6_000, 60_000, 600_000), precision),
    }
    print(report([result]))
    print(f"\nOn {where(result)}; torch {result['torch']}; medians of {options.repeats}.")
    path = options.json or (kept_path(device, precision) if options.batches >= HALF else None)
    if path is not None:
        accuracy.keep(result, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
