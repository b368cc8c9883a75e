"""What a session needs: transforms, loaders, optimizers, schedulers, losses and loops; plots re-exported."""

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

from augment import RandomAffineEach, RandomHorizontalFlipEach  # noqa: F401 (re-exported)
from checks import choose
from dataset import load_dataset, make_loader
from model import MEAN, STD
from plots import (  # noqa: F401 (re-exported)
    post_accuracyplots,
    post_display,
    post_images,
    post_parameters,
    post_recipes,
)

# ------------------------------------------------------------------------------------------------
# Device, precision, memory, seed
# ------------------------------------------------------------------------------------------------


def get_device():
    """The accelerator that PyTorch can use here (CUDA, Apple's MPS, …), else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


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
        threads = torch.get_num_threads()
        name = f"{threads} thread{'s' if threads > 1 else ''}"
    if get_precision(device) == "bf16":
        how = "bf16 autocast and channels_last memory, since this hardware computes in bf16 natively"
    else:
        how = "fp32 and channels_last memory, since this hardware has no native bf16"
    return f"{device.type} ({name}): {how}"


def autocast(device, precision=None):
    """The context for a forward pass: bfloat16 where it is safe for 'bf16', nothing for 'fp32'.

    `precision`: by default what `get_precision` says. Raises ValueError for any other.
    """
    device = torch.device(device)
    precision = precision or get_precision(device)
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"Unknown precision {precision!r}: choose 'fp32' or 'bf16'.")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def memory_format(device):
    """How weights lie in memory: channels last, which convolutions prefer, but on MPS contiguous."""
    return torch.contiguous_format if torch.device(device).type == "mps" else torch.channels_last


def set_seed(seed):
    """Seed Python, NumPy and PyTorch on every device: the same seed gives the same losses.

    For the rest of the process cuDNN takes deterministic algorithms only, and tries out none.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


@functools.cache
def _keep_freed_memory():
    """Have glibc keep freed blocks for the next batch, where it would hand them back to the system.

    Getting the pages of the large activations anew, batch after batch, costs a quarter of an epoch
    on a CPU (`benchmarks/speed.py` measures it). It holds for the rest of the process, which keeps
    its peak memory; elsewhere than on glibc it does nothing.
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


def get_optimizer(model, optname="SGD", learningrate=0.01, momentumval=0.9, **kwargs):
    """The optimizer of this name: SGD, Adam, AdamW or RMSprop.

    `momentumval` is SGD's momentum, the others have their own; `kwargs` are passed on
    (weight_decay, betas, …). Raises ValueError for an unknown name.
    """
    kind = choose("optimizer", optname, OPTIMIZERS)
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

    def __reduce__(self):  # for pickle, which can't find a class that is made on the fly
        return _unpickled, (type(self).__name__,), self.__dict__


@functools.cache
def _verbose(name):
    return type(name, (_SaysRate, SCHEDULERS[name]), {})


def _unpickled(name):
    return object.__new__(_verbose(name))


def get_scheduler(optimizer, stepsize=10, gamma_val=0.1, verbose_bool=False, *, name="StepLR", **kwargs):
    """The learning-rate scheduler of this name; `verbose_bool` prints the rate when it changes.

    - StepLR: the rate × `gamma_val` every `stepsize` steps.
    - OneCycleLR: up to `max_lr` (by default the optimizer's rate) and down again over
      `total_steps` batches. Smith and Topin 2018, Super-Convergence.
    - CosineAnnealingLR: down to `eta_min` in `stepsize` steps (T_max).
    - ReduceLROnPlateau: the rate × `gamma_val` after `stepsize` epochs (patience) without a
      lower loss; step it with that loss.

    A step is an epoch, or a batch: see `get_step_every`. `kwargs` are passed on. Raises ValueError
    for an unknown name.
    """
    kind = choose("scheduler", name, SCHEDULERS)
    if name == "StepLR":
        kwargs = {"step_size": stepsize, "gamma": gamma_val, **kwargs}
    elif name == "OneCycleLR":
        kwargs = {"max_lr": [group["lr"] for group in optimizer.param_groups], **kwargs}
        kwargs.setdefault("cycle_momentum", optimizer.defaults.get("momentum") != 0)  # none stays none
    elif name == "CosineAnnealingLR":
        kwargs = {"T_max": stepsize, **kwargs}
    else:
        kwargs = {"patience": stepsize, "factor": gamma_val, **kwargs}
    return (_verbose(name) if verbose_bool else kind)(optimizer, **kwargs)


def get_step_every(scheduler, step_every=None):
    """When the scheduler steps: after each 'batch' or each 'epoch'; None without a scheduler.

    By default 'batch' for OneCycleLR and CyclicLR, whose arguments count batches, and 'epoch' for
    every other. Raises ValueError for another word, or for a ReduceLROnPlateau each batch.
    """
    if step_every not in (None, "batch", "epoch"):
        raise ValueError(f"Unknown step_every {step_every!r}: choose 'batch' or 'epoch'.")
    if scheduler is None:
        return None
    if step_every == "batch" and isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        raise ValueError("ReduceLROnPlateau steps by the validation loss of an epoch: leave out step_every.")
    counts_batches = isinstance(scheduler, lr_scheduler.OneCycleLR | lr_scheduler.CyclicLR)
    return step_every or ("batch" if counts_batches else "epoch")


def get_loss(loss_name="nll_loss"):
    """The loss function of this name: 'nll_loss' (for log-probabilities) or 'cross_entropy'.

    Called with `(N, 10)` outputs and `(N,)` labels it gives their mean. Raises ValueError for an
    unknown name.
    """
    return choose("loss", loss_name, LOSSES)


# ------------------------------------------------------------------------------------------------
# What the loops count, and show
# ------------------------------------------------------------------------------------------------

READ_EVERY = {"cpu": 1, "gpu": 50}  # batches: reading a number off a GPU waits until it has computed it


def _correct(outputs, labels):
    return (outputs.argmax(dim=1) == labels).sum()


def GetCorrectPredCount(pPrediction, pLabels):
    """How many rows of `pPrediction` `(N, 10)` have their largest value at the label `(N,)`: int."""
    return int(_correct(pPrediction, pLabels))


class _Tally:
    """Adds up losses and correct predictions of batches; the means are over the samples.

    Batches are kept on the device until they are read, every few on a GPU. Reading raises
    FloatingPointError at a loss that is not finite, naming the batch and the learning rate it had.
    """

    def __init__(self, title, device, optimizer=None):
        self.title, self.optimizer = title, optimizer
        self.read_every = READ_EVERY.get(device.type, READ_EVERY["gpu"])
        self.unread = []  # (loss, correct, size, rate) of batches
        self.batches = self.samples = self.correct = 0
        self.loss = 0.0  # summed over the samples, so that a short last batch counts right

    def add(self, loss, outputs, labels):
        if loss.ndim > 0:
            raise ValueError("The loss must be a mean over the batch: give it reduction='mean'.")
        rate = self.optimizer.param_groups[0]["lr"] if self.optimizer else None
        self.unread.append((loss.detach(), _correct(outputs, labels), len(labels), rate))
        if len(self.unread) == self.read_every:
            self.read()

    def read(self):
        losses, correct, sizes, rates = zip(*self.unread, strict=True)
        self.unread.clear()
        for loss, size, rate in zip(torch.stack(losses).tolist(), sizes, rates, strict=True):
            self.batches += 1
            if not math.isfinite(loss):
                at = f" at learning rate {rate:.3g}. Try a tenth of it, or fp32;" if rate else ";"
                raise FloatingPointError(
                    f"{self.title}, batch {self.batches}: the loss is {loss}{at}"
                    " look for weights or inputs that are not finite."
                )
            self.loss += loss * size
        self.correct += int(torch.stack(correct).sum())
        self.samples += sum(sizes)

    def means(self):
        """`(loss, accuracy %)` of all batches. Raises ValueError when there was none."""
        if self.unread:
            self.read()
        if not self.samples:
            raise ValueError("The loader gave no batch: is its data set empty, or drop_last on?")
        return self.loss / self.samples, 100 * self.correct / self.samples

    def __str__(self):
        if not self.samples:
            return ""
        return f"loss {self.loss / self.samples:.4f}, {100 * self.correct / self.samples:.2f} %"


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
    """The loader under a progress bar, which is shown where it is watched, and gone when done.

    In a notebook it is text on stdout, which the line printed next overwrites in what is saved; the
    widget of tqdm.auto would stay there, dead, once for every pass.
    """
    return tqdm(
        loader,
        desc=title,
        ncols=64,
        bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}{postfix}",
        leave=False,
        disable=not _watched(),
        file=sys.stderr if sys.stderr.isatty() else sys.stdout,
    )


# ------------------------------------------------------------------------------------------------
# One epoch of training, one pass of testing
# ------------------------------------------------------------------------------------------------


def _ready(model, device, criterion, channels_last):
    """Lay out the weights as the device prefers; the device, as such."""
    device = torch.device(device)
    if getattr(criterion, "reduction", "mean") != "mean":
        raise ValueError("The loss must be a mean over the batch: give it reduction='mean'.")
    layouts = {None: memory_format(device), True: torch.channels_last, False: torch.contiguous_format}
    model.to(memory_format=layouts[channels_last])
    if device.type == "cpu":
        _keep_freed_memory()
    return device


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
    step_every=None,
    precision=None,
    channels_last=None,
    epoch=None,
):
    """Train for one epoch; return `(loss, accuracy %)`, means over the samples, each as its batch was met.

    Both are also appended to the lists that are given. `scheduler`: stepped after each batch, or once
    after the epoch: `step_every` ('batch' or 'epoch'), by default as `get_step_every` says. Leave it
    out and step it yourself if you prefer. `precision`: 'fp32' or 'bf16' (autocast), by default what
    `get_precision` says. `channels_last`: the weights' memory format, by default True except on MPS.
    `epoch`: its number, for messages; by default counted from the list. On a CPU, glibc then keeps freed
    memory for the rest of the process, which saves a quarter of the time.

    Raises FloatingPointError when the loss is not finite, naming the epoch, batch and rate, before
    that batch changes the weights (on a GPU: up to 50 batches later); ValueError for a scheduler
    that needs the validation loss, an unknown precision, or a loader without a batch.
    """
    step_every = get_step_every(scheduler, step_every)
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        raise ValueError("ReduceLROnPlateau steps by a validation loss: call its step(loss) after test, or use fit.")
    if epoch is None and train_losses is not None:
        epoch = len(train_losses) + 1
    title = "Training" if epoch is None else f"Epoch {epoch}"
    device, context = _ready(model, device, criterion, channels_last), autocast(device, precision)
    tally = _Tally(title, device, optimizer)

    model.train()
    with _progress(train_loader, title) as batches:
        for images, labels in batches:
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            with context:
                outputs = model(images)  # 1. predict: log-probabilities (N, 10)
            loss = criterion(outputs.float(), labels)  # 2. compare with the labels
            tally.add(loss, outputs, labels)
            optimizer.zero_grad()  # 3. forget the gradients of the batch before
            loss.backward()  # 4. compute the gradient of every weight
            optimizer.step()  # 5. move every weight against its gradient
            if step_every == "batch":
                scheduler.step()
            batches.set_postfix_str(str(tally), refresh=False)
    means = tally.means()
    if step_every == "epoch":
        scheduler.step()
    return _noted(means, train_losses, train_acc)


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
    device, context = _ready(model, device, criterion, channels_last), autocast(device, precision)
    tally = _Tally("Testing", device)

    model.eval()
    with torch.no_grad(), _progress(test_loader, "Testing") as batches:
        for images, labels in batches:
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            with context:
                outputs = model(images)
            tally.add(criterion(outputs.float(), labels), outputs, labels)
            batches.set_postfix_str(str(tally), refresh=False)
    return _noted(tally.means(), test_losses, test_acc)


def _noted(means, losses, accuracies):
    for values, value in zip((losses, accuracies), means, strict=True):
        if values is not None:
            values.append(value)
    return means
