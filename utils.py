"""What a session needs: transforms, loaders, optimizers, schedulers, losses and loops; plots passed on."""

import ctypes
import functools
import math
import random
import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim import lr_scheduler
from torchvision.transforms import v2
from tqdm import tqdm

from augment import RandomAffineEach, RandomHorizontalFlipEach  # noqa: F401 (passed on to the notebooks)
from dataset import load_dataset, make_loader
from model import MEAN, STD
from plots import post_accuracyplots, post_display, post_images, post_recipes  # noqa: F401 (passed on to the notebooks)

# ------------------------------------------------------------------------------------------------
# Device, precision, seed
# ------------------------------------------------------------------------------------------------


def get_device():
    """The fastest device that this machine has: CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def get_precision(device):
    """'bf16' where the hardware computes in bfloat16 natively, else 'fp32'.

    An emulated bfloat16 gives the same numbers, slower than float32; so a CPU must have AVX-512
    or AMX bf16 instructions (x86) or bf16 ones (Arm), and a GPU compute capability 8.0.
    """
    device = torch.device(device)
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    elif device.type == "cpu":
        has = torch.cpu.get_capabilities()
        native = any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    else:
        native = False
    return "bf16" if native else "fp32"


def describe_device(device):
    """One line for the device check: the device, its precision and memory format, and why."""
    device = torch.device(device)
    if device.type == "mps":
        return "mps (Apple GPU): fp32 and contiguous memory; autocast is used on CUDA and CPUs only"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{torch.get_num_threads()} threads"
    if get_precision(device) == "bf16":
        how = "bf16 autocast and channels_last memory, since this hardware computes in bf16 natively"
    else:
        how = "fp32 and channels_last memory, since this hardware has no native bf16"
    return f"{device.type} ({name}): {how}"


def set_seed(seed):
    """Seed Python, NumPy and PyTorch on every device: the same seed gives the same losses."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


@functools.cache
def _keep_freed_memory():
    """Have glibc keep freed blocks for the next batch, where it would hand them back to the system.

    Getting the pages of the large activations anew, batch after batch, costs a quarter of an epoch
    on a CPU (`benchmarks/speed.py` measures it). Elsewhere than on glibc this does nothing.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        # M_MMAP_THRESHOLD: blocks up to 1 GiB come from the heap; some versions allow 32 MiB at most
        if not mallopt(-3, 1 << 30):
            mallopt(-3, 32 << 20)
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD: and the heap's free end stays
    except (OSError, AttributeError):
        pass


# ------------------------------------------------------------------------------------------------
# Transforms: one PIL image or a whole uint8 batch (N, 1, 28, 28)
# ------------------------------------------------------------------------------------------------


def _pipeline(mean, std, *steps):
    return v2.Compose(
        [
            v2.ToImage(),  # a PIL image becomes a tensor (1, 28, 28), a tensor stays as it is
            v2.Resize((28, 28)),
            v2.ToDtype(torch.float32, scale=True),  # 0 … 255 → [0, 1]
            *steps,
            v2.Normalize([mean], [std]),
            v2.ToPureTensor(),
        ]
    )


def get_train_transforms(*augmentation, mean=MEAN, std=STD):
    """Augmentation, then normalisation, by default by the mean and deviation of MNIST.

    By default the capstone's augmentation: with probability 0.1 a centre crop to 22 pixels resized
    to 28 (a zoom by 28/22), then a rotation uniform in ±15°; or the steps that are given instead,
    which see float images in [0, 1]. Takes one PIL image `28×28`, giving `(1, 28, 28)`, or a uint8
    tensor `(N, 1, 28, 28)`, drawing for each of its images.
    """
    return _pipeline(
        mean,
        std,
        *augmentation
        or (
            RandomAffineEach(zoom=(28 / 22, 28 / 22), zoom_probability=0.1),
            # The nearest pixel, as torchvision's RandomRotation takes by default: bilinear rotation
            # would blur every training image, and none of the test images.
            RandomAffineEach(degrees=15.0, mode="nearest"),
        ),
    )


def get_test_transforms(*, mean=MEAN, std=STD):
    """Scaled to [0, 1] and normalised; shapes as for `get_train_transforms`."""
    return _pipeline(mean, std)


# ------------------------------------------------------------------------------------------------
# Loaders
# ------------------------------------------------------------------------------------------------


def get_MNISTdataset_with_loader(
    datasettype, kwargs, *, dataset="auto", root=None, transform=None, holdout=0, device=None
):
    """A standard DataLoader of `(images (N, 1, 28, 28) float32, labels (N,) int64)` batches.

    `datasettype`: 'train', 'test', or 'validation' with a `holdout`; `kwargs`: for the DataLoader
    (batch_size, shuffle, num_workers, pin_memory, …); `dataset`, `root`, `holdout`: see
    `dataset.load_dataset`, also for what is raised; `transform`: by default the train transforms
    for 'train' and the test transforms otherwise; `device`: keep the data there if it fits,
    so that no batch is copied. `loader.dataset` says which data it holds.
    """
    if transform is None:
        transform = get_train_transforms() if datasettype == "train" else get_test_transforms()
    data = load_dataset(datasettype, dataset, root, transform=transform, holdout=holdout)
    return make_loader(data, kwargs, device)


# ------------------------------------------------------------------------------------------------
# Optimizer, scheduler, loss: by name
# ------------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": torch.optim.SGD,
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "RMSprop": torch.optim.RMSprop,
}
SCHEDULERS = {
    "StepLR": lr_scheduler.StepLR,
    "OneCycleLR": lr_scheduler.OneCycleLR,
    "CosineAnnealingLR": lr_scheduler.CosineAnnealingLR,
    "ReduceLROnPlateau": lr_scheduler.ReduceLROnPlateau,
}
LOSSES = {"nll_loss": F.nll_loss, "cross_entropy": F.cross_entropy}


def _choose(what, name, choices):
    if name not in choices:
        raise ValueError(f"Unknown {what} {name!r}: choose one of {', '.join(choices)}.")
    return choices[name]


def get_optimizer(model, optname="SGD", learningrate=0.01, momentumval=0.9, **kwargs):
    """The optimizer of this name: SGD, Adam, AdamW or RMSprop.

    `momentumval` is SGD's momentum, the others have their own; `kwargs` are passed on
    (weight_decay, betas, …). Raises ValueError for an unknown name.
    """
    kind = _choose("optimizer", optname, OPTIMIZERS)
    if optname == "SGD":
        kwargs.setdefault("momentum", momentumval)
    return kind(model.parameters(), lr=learningrate, **kwargs)


class _SaysRate:
    """Mixed into a scheduler class: `step` prints the learning rate when it changes."""

    def step(self, *args, **kwargs):
        before = [group["lr"] for group in self.optimizer.param_groups]
        super().step(*args, **kwargs)
        after = [group["lr"] for group in self.optimizer.param_groups]
        if after != before:
            print(f"Learning rate: {', '.join(f'{rate:.3g}' for rate in after)}")


def get_scheduler(optimizer, stepsize=10, gamma_val=0.1, verbose_bool=False, *, name="StepLR", **kwargs):
    """The learning-rate scheduler of this name; `verbose_bool` prints the rate when it changes.

    - StepLR: the rate × `gamma_val` every `stepsize` epochs.
    - OneCycleLR: up to `max_lr` (by default the optimizer's rate) and down again over
      `total_steps` batches; give it to `train`, which steps it after each batch.
      Smith and Topin 2018, Super-Convergence.
    - CosineAnnealingLR: down to `eta_min` in `stepsize` epochs (T_max).
    - ReduceLROnPlateau: the rate × `gamma_val` after `stepsize` epochs (patience) without a
      better loss; step it with that loss.

    `kwargs` are passed on. Raises ValueError for an unknown name.
    """
    kind = _choose("scheduler", name, SCHEDULERS)
    if name == "StepLR":
        kwargs = {"step_size": stepsize, "gamma": gamma_val, **kwargs}
    elif name == "OneCycleLR":
        kwargs = {"max_lr": [group["lr"] for group in optimizer.param_groups], **kwargs}
        kwargs.setdefault("cycle_momentum", optimizer.defaults.get("momentum") != 0)  # none stays none
    elif name == "CosineAnnealingLR":
        kwargs = {"T_max": stepsize, **kwargs}
    else:
        kwargs = {"patience": stepsize, "factor": gamma_val, **kwargs}
    if verbose_bool:
        kind = type(name, (_SaysRate, kind), {})
    return kind(optimizer, **kwargs)


def get_loss(loss_name="nll_loss"):
    """The loss function of this name: 'nll_loss' (for log-probabilities) or 'cross_entropy'.

    Called with `(N, 10)` outputs and `(N,)` labels it gives their mean. Raises ValueError for an
    unknown name.
    """
    return _choose("loss", loss_name, LOSSES)


# ------------------------------------------------------------------------------------------------
# One epoch of training, one pass of testing
# ------------------------------------------------------------------------------------------------


# Batches between two looks at the results: a look waits for the device, which on a CPU costs nothing.
LOOK_EVERY = {"cpu": 1, "gpu": 50}


def _correct(outputs, labels):
    return (outputs.argmax(dim=1) == labels).sum()


def GetCorrectPredCount(pPrediction, pLabels):
    """How many rows of `pPrediction` `(N, 10)` have their largest value at the label `(N,)`: int."""
    return int(_correct(pPrediction, pLabels))


def _watched():
    """Does somebody see the output as it comes? In a terminal and a live notebook, yes.

    Not in a notebook that a program runs (jupyter execute, nbval): such a program says that it
    cannot answer questions, and so tells itself from a browser.
    """
    if "IPython" in sys.modules:
        shell = sys.modules["IPython"].get_ipython()
        if hasattr(shell, "kernel"):
            return bool(shell.kernel.get_parent("shell").get("content", {}).get("allow_stdin"))
    return sys.stderr.isatty()


def _progress(loader, title):
    """A progress bar that leaves no trace: cleared when done, shown only where it is watched.

    In a notebook it goes to stdout, where the line printed next overwrites it in what is saved.
    """
    live_notebook = not sys.stderr.isatty()
    return tqdm(
        loader,
        desc=title,
        ncols=64,
        bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}{postfix}",
        leave=False,
        disable=not _watched(),
        file=sys.stdout if live_notebook else sys.stderr,
    )


def _one_pass(model, device, loader, criterion, title, precision, channels_last, optimizer=None, scheduler=None):
    """One pass over the loader, learning where an optimizer is given; returns `(loss, accuracy %)`."""
    device = torch.device(device)
    precision = precision or get_precision(device)
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"Unknown precision {precision!r}: choose 'fp32' or 'bf16'.")
    if getattr(criterion, "reduction", "mean") != "mean":
        raise ValueError("The loss must be a mean over the batch: give it reduction='mean'.")
    if channels_last is None:
        channels_last = device.type != "mps"
    model.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    if device.type == "cpu":
        _keep_freed_memory()

    look_every = LOOK_EVERY.get(device.type, LOOK_EVERY["gpu"])
    pending = []  # (loss, correct, size, rate) of the batches not looked at yet
    total_loss, correct, count, batch = 0.0, 0, 0, 0

    def look():
        nonlocal total_loss, correct, count
        losses, rights, sizes, rates = zip(*pending, strict=True)
        losses, rights = torch.stack(losses).tolist(), torch.stack(rights).tolist()
        for i, loss in enumerate(losses):
            if not math.isfinite(loss):
                at = f" at learning rate {rates[i]:.3g}. Try a tenth of it, or precision='fp32';" if rates[i] else ";"
                raise FloatingPointError(
                    f"{title}, batch {batch - len(losses) + i + 1}: the loss is {loss}{at}"
                    " look for weights or inputs that are not finite."
                )
            total_loss += loss * sizes[i]  # weighted, so that a short last batch counts right
        correct += sum(rights)
        count += sum(sizes)
        pending.clear()

    # The weights' memory format is changed above, since what inference_mode makes can't learn later.
    with torch.inference_mode(optimizer is None), _progress(loader, title) as bar:
        for batch, (images, labels) in enumerate(bar, start=1):
            images = images.to(device, non_blocking=True)
            labels = labels.to(device, non_blocking=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                outputs = model(images)
            loss = criterion(outputs.float(), labels)
            if loss.ndim > 0:
                raise ValueError("The loss must be a mean over the batch: give it reduction='mean'.")
            rate = optimizer.param_groups[0]["lr"] if optimizer else None
            pending.append((loss.detach(), _correct(outputs, labels), len(labels), rate))
            if batch % look_every == 0:
                look()  # before the step: a loss that is no number must not reach the weights
                bar.set_postfix_str(f"loss {total_loss / count:.4f}, {100 * correct / count:.2f} %", refresh=False)
            if optimizer is not None:
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            if scheduler is not None:
                scheduler.step()
    if pending:
        look()
    if not count:
        raise ValueError("The loader gave no batch: is its data set empty, or drop_last on?")
    return total_loss / count, 100 * correct / count


def train(
    model,
    device,
    train_loader,
    optimizer,
    criterion,
    train_losses=None,
    train_acc=None,
    *,
    scheduler=None,
    precision=None,
    channels_last=None,
    epoch=None,
):
    """Train for one epoch; return `(loss, accuracy %)`, means over the samples as they were seen.

    Both are also appended to the lists that are given. `scheduler`: one that counts batches
    (OneCycleLR, say), stepped after each; those that count epochs the caller steps. `precision`: 'fp32' or
    'bf16' (autocast), by default what `get_precision` says. `channels_last`: the weights' memory
    format, by default True except on MPS. `epoch`: its number, for messages; by default counted
    from the list.

    Raises FloatingPointError when the loss is not finite, naming the epoch, batch and rate, before
    that batch changes the weights (on a GPU: up to 50 batches later); ValueError for a scheduler
    that counts epochs, an unknown precision, or a loader without a batch.
    """
    if isinstance(scheduler, lr_scheduler.StepLR | lr_scheduler.ReduceLROnPlateau):
        kind = type(scheduler).__name__
        raise ValueError(f"train steps its scheduler after each batch; {kind} counts epochs: call its step() yourself.")
    if epoch is None and train_losses is not None:
        epoch = len(train_losses) + 1
    title = "Training" if epoch is None else f"Epoch {epoch}"
    model.train()
    loss, accuracy = _one_pass(
        model, device, train_loader, criterion, title, precision, channels_last, optimizer, scheduler
    )
    _append(train_losses, loss)
    _append(train_acc, accuracy)
    return loss, accuracy


def test(
    model,
    device,
    test_loader,
    criterion,
    test_losses=None,
    test_acc=None,
    *,
    precision=None,
    channels_last=None,
):
    """Evaluate without learning; return `(loss, accuracy %)`, the true means over the samples.

    Both are also appended to the lists that are given. Keywords and errors as for `train`.
    """
    model.eval()
    loss, accuracy = _one_pass(model, device, test_loader, criterion, "Testing", precision, channels_last)
    _append(test_losses, loss)
    _append(test_acc, accuracy)
    return loss, accuracy


def _append(values, value):
    if values is not None:
        values.append(value)
