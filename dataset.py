"""MNIST found, verified or downloaded; the embedded digits; one batched Dataset.

As a command it checks a data folder, fetches what is missing, and repairs what is damaged:

    python dataset.py [--dataset mnist] [--data FOLDER] [--repair]
"""

import argparse
import contextlib
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils.collate import default_collate_fn_map
from torchvision import datasets

from checks import whole_number

# ------------------------------------------------------------------------------------------------
# What there is
# ------------------------------------------------------------------------------------------------

SOURCES = {  # our name → torchvision's class, which knows the mirrors and the MD5 of each archive
    "mnist": datasets.MNIST,
    "fashion_mnist": datasets.FashionMNIST,
    "kmnist": datasets.KMNIST,
}
CHOICES = ("auto", *SOURCES, "digits")
FILES = {  # split → (images, labels), as torchvision names them under <root>/<class name>/raw
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
ALL_FILES = FILES["train"] + FILES["test"]
MNIST_SHA256 = {  # of the uncompressed files
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
SUMS_FILE = "SHA256SUMS"  # written beside a download; the only sums known for the other two sets
CONNECT_LIMIT = 4  # seconds to connect to one address of a mirror, which may have eight
STALL_LIMIT = 15  # seconds without a new byte after which a mirror is given up
RETRY_AFTER = 60  # seconds for which a failed download is not tried again
HOLDOUT = 5_000  # training images that holdout="auto" holds out for validation …
DIGITS_HOLDOUT = 287  # … and of the embedded digits, a fifth of their 1,437


class DataMissing(FileNotFoundError):
    """The data set asked for is not in the folder and could not be downloaded."""


class DataDamaged(OSError):
    """A file of the data set is there, but its content is wrong."""


class DigitsInstead(UserWarning):
    """MNIST could not be loaded, and the embedded digits stand in for it."""


# ------------------------------------------------------------------------------------------------
# One batched data set
# ------------------------------------------------------------------------------------------------


class Sample(tuple):
    """One `(image, label)`; a type of its own, since `default_collate` goes by the type of the samples."""

    __slots__ = ()


class Batch(Sequence):
    """N samples fetched at once: `images` `(N, 1, 28, 28)`, `labels` `(N,)`; `batch[i]` is a `Sample`."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return Sample((self.images[index], int(self.labels[index])))


def collate_samples(batch, *, collate_fn_map=None):
    """Samples as `(images (N, 1, 28, 28), labels (N,) int64)`: a `Batch` as it is, a list by stacking."""
    if isinstance(batch, Batch):
        return batch.images, batch.labels
    images, labels = zip(*batch, strict=True)
    return torch.stack(images), torch.tensor(labels)


default_collate_fn_map[Sample] = collate_samples  # PyTorch's way to extend a DataLoader's default collate_fn


class DigitImages(Dataset):
    """Images and labels held as two tensors, fetched a whole batch at a time.

    `images`: uint8 `(N, 28, 28)`, 0 is background; `labels`: int64 `(N,)`; `classes`: names of
    the labels; `name` and `split` say which data this is. `dataset[i]` is `(transform(image),
    int)` with an image `(1, 28, 28)`. A DataLoader calls `__getitems__` instead, which fetches a
    `Batch` by one tensor index and transforms its `(N, 1, 28, 28)` images together.
    """

    def __init__(self, images, labels, *, name, split, classes, transform=None):
        self.images, self.labels = images, labels
        self.name, self.split, self.classes = name, split, list(classes)
        self.transform = transform

    def __len__(self):
        return len(self.labels)

    def __getitems__(self, indices):
        index = torch.as_tensor(indices, device=self.images.device)
        images = self.images[index].unsqueeze(1)  # (N, 1, 28, 28)
        if self.transform is not None:
            images = self.transform(images)
        return Batch(images, self.labels[index])

    def __getitem__(self, index):
        return self.__getitems__([index])[0]

    def __repr__(self):
        return f"{self.name}, {self.split}: {len(self):,} images of 28×28"

    def to(self, device):
        """Move both tensors to `device`, unless they would take over half of a GPU's free memory."""
        device = torch.device(device)
        if device.type == "cuda" and 2 * self.images.nbytes > torch.cuda.mem_get_info(device)[0]:
            return self
        self.images, self.labels = self.images.to(device), self.labels.to(device)
        return self


def load_dataset(split, dataset="auto", root=None, *, transform=None, holdout=0):
    """Load one split as a `DigitImages`.

    `split`: 'train', 'test', or 'validation', which is `holdout` images taken from the training
    set by a fixed random choice; 'train' with the same `holdout` is the rest of it.
    `holdout`: a number of images, 0 for none, or 'auto' for the usual number: 5,000 images (HOLDOUT)
    of the big sets, 287 (DIGITS_HOLDOUT) of the embedded digits. The test set is never divided.
    `dataset`: 'mnist', 'fashion_mnist', 'kmnist', 'digits' (scikit-learn's, embedded), or 'auto':
    MNIST if it is there or can be downloaded, else the embedded digits, with a warning that says why.
    `root`: the folder that holds `MNIST/raw`; by default the variable MNIST_DATA, else `data/`
    beside this file.

    Raises ValueError for an unknown split or data set, or a holdout that is no whole number below
    the size of the training set; DataMissing when a data set asked for by name is neither there nor
    to be downloaded; DataDamaged for a file with the wrong content.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"Unknown split {split!r}: choose 'train', 'validation' or 'test'.")
    if dataset not in CHOICES:
        raise ValueError(f"Unknown data set {dataset!r}: choose one of {', '.join(CHOICES)}.")
    stored, root = "test" if split == "test" else "train", data_root(root)
    if dataset == "digits":
        data = _embedded_digits(stored)
    else:
        try:
            data = _from_files(dataset if dataset != "auto" else "mnist", stored, root)
        except DataMissing as problem:
            if dataset != "auto":
                raise
            if root not in _told:
                _told.add(root)
                warnings.warn(
                    "USING SCIKIT-LEARN'S EMBEDDED DIGITS INSTEAD OF MNIST: 1,797 real 8×8 digits brought to"
                    f" 28×28; accuracies on them are not accuracies on MNIST. Why: {problem}",
                    DigitsInstead,
                    stacklevel=2,
                )
            data = _embedded_digits(stored)
    data.transform = transform
    return _hold_out(data, split, holdout)


_told = set()  # roots without MNIST; one warning for each is enough


def _hold_out(data, split, holdout):
    if split == "test":
        return data
    if isinstance(holdout, str) and holdout == "auto":
        holdout = HOLDOUT if len(data) > HOLDOUT else DIGITS_HOLDOUT
    holdout = whole_number("holdout", holdout, low=0 if split == "train" else 1, high=len(data) - 1)
    if holdout == 0:
        return data  # in the order of the files
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    keep = order[:holdout] if split == "validation" else order[holdout:]
    data.images, data.labels, data.split = data.images[keep], data.labels[keep], split
    return data


class BatchesOnDevice:
    """Batches of indices that are drawn on the device, so that not even they are copied to it."""

    def __init__(self, length, device, batch_size=1, shuffle=False, drop_last=False):
        self.length, self.device, self.batch_size = length, device, whole_number("batch_size", batch_size)
        self.shuffle, self.drop_last = shuffle, drop_last

    def __iter__(self):
        order = (torch.randperm if self.shuffle else torch.arange)(self.length, device=self.device)
        return iter(order.split(self.batch_size)[: len(self)])

    def __len__(self):
        return self.length // self.batch_size if self.drop_last else -(-self.length // self.batch_size)


def make_loader(data, kwargs, device=None):
    """A DataLoader of `DigitImages` with the caller's kwargs; see `utils.get_MNISTdataset_with_loader`.

    `device`: keep the data there if it fits, and draw the batches there; with `batch_size=None` single
    samples, as always. Raises ValueError for kwargs that don't go with data on a device.
    """
    kwargs = dict(kwargs)
    if device is not None and torch.device(device).type != "cpu" and data.to(device).images.device.type != "cpu":
        if kwargs.get("num_workers") or kwargs.get("pin_memory"):
            raise ValueError("Data kept on the device needs num_workers=0 and pin_memory=False.")
        if own := {"sampler", "batch_sampler", "generator"} & {name for name in kwargs if kwargs[name] is not None}:
            raise ValueError(f"Data kept on the device is drawn there: leave out {', '.join(sorted(own))}, or device.")
        if kwargs.get("batch_size", 1) is not None:
            choice = {name: kwargs.pop(name) for name in ("batch_size", "shuffle", "drop_last") if name in kwargs}
            kwargs["batch_sampler"] = BatchesOnDevice(len(data), data.images.device, **choice)
            # default_collate looks at the first sample, and to make its label an int would wait for the device.
            kwargs["collate_fn"] = kwargs.get("collate_fn") or collate_samples
    return DataLoader(data, **kwargs)


# ------------------------------------------------------------------------------------------------
# MNIST and its relatives: found, verified, downloaded
# ------------------------------------------------------------------------------------------------


def data_root(root=None):
    """The data folder: the argument, else the variable MNIST_DATA, else `data/` beside this file."""
    return Path(root or os.environ.get("MNIST_DATA") or Path(__file__).parent / "data").expanduser()


def raw_folder(name, root):
    """Where torchvision keeps the files of this data set: `<root>/<class name>/raw`."""
    return Path(root) / SOURCES[name].__name__ / "raw"


def _from_files(name, split, root):
    folder = raw_folder(name, root)
    if missing := [file for file in ALL_FILES if not (folder / file).is_file()]:
        download(name, root, missing)
    contents = {file: verify(name, folder / file) for file in ALL_FILES}
    for image_file, label_file in FILES.values():
        if len(contents[image_file]) != len(contents[label_file]) or contents[label_file].max(initial=0) > 9:
            what = f"its labels do not fit the {len(contents[image_file])} images of {image_file}"
            raise DataDamaged(_damage(name, folder / label_file, what))
    images, labels = (contents[file] for file in FILES[split])
    classes = range(10) if name == "mnist" else SOURCES[name].classes
    title = SOURCES[name].__name__
    return DigitImages(
        torch.from_numpy(images),
        torch.from_numpy(labels).long(),
        name=title,
        split=split,
        classes=[str(c) for c in classes],
    )


def verify(name, path):
    """Read one IDX file, check its SHA-256 and its header, and return its array (uint8).

    MNIST's sums are known here; those of the others were written when they were downloaded.
    Format: http://yann.lecun.com/exdb/mnist/. Raises DataDamaged, which names the file, both
    sums and the command that repairs it.
    """
    content = bytearray(path.read_bytes())  # a bytearray, so that the tensor may own it
    found, expected = hashlib.sha256(content).hexdigest(), _known_sums(name, path.parent).get(path.name)
    if expected and found != expected:
        raise DataDamaged(_damage(name, path, f"its SHA-256 is {found}, expected {expected}"))
    dimensions = 3 if "images" in path.name else 1
    header = 4 + 4 * dimensions
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4))
    size = header + int(np.prod(shape, dtype=object))
    if content[:4] != bytes([0, 0, 8, dimensions]) or shape[1:] != (28, 28)[: dimensions - 1]:
        raise DataDamaged(_damage(name, path, "it does not start like an IDX file of 28×28 bytes"))
    if len(content) != size:
        raise DataDamaged(_damage(name, path, f"it has {len(content)} bytes, expected {size}"))
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _damage(name, path, what):
    root = path.parent.parent.parent
    return (
        f"The file {path} is damaged: {what}. To fetch it again (the damaged one is kept beside it)"
        f' run: python dataset.py --dataset {name} --data "{root}" --repair'
    )


def _known_sums(name, folder):
    """File name → SHA-256, as far as known."""
    if name == "mnist":
        return MNIST_SHA256
    sums = folder / SUMS_FILE
    lines = sums.read_text().splitlines() if sums.is_file() else []
    return {file: total for total, _, file in (line.partition("  ") for line in lines)}


_failures = {}  # (name, root) → (when, why), so that a dead network is waited for only once


def download(name, root, wanted=ALL_FILES):
    """Download the `wanted` files of a data set into its raw folder, from the mirrors torchvision knows.

    A file is moved to its place only when all are complete and verified. Raises DataMissing when no
    mirror gives the files; one that sends no byte for STALL_LIMIT seconds is given up. (Looking up a
    host name has the system's own limit, some 10 to 30 seconds.)
    """
    folder = raw_folder(name, root)
    when, why = _failures.get((name, str(root)), (None, None))
    if why is None or time.monotonic() - when >= RETRY_AFTER:
        why = _try_download(name, Path(root), folder, wanted)
        _failures[name, str(root)] = (time.monotonic(), why)
    if why is not None:
        title = SOURCES[name].__name__
        raise DataMissing(
            f"{title} is not complete in {folder} (wanted: {', '.join(wanted)}), and it could not be"
            f" downloaded: {why}. Put the four files there, or point MNIST_DATA at a folder that"
            f' holds {title}/raw, or try again later with: python dataset.py --dataset {name} --data "{root}"'
        )


def _try_download(name, root, folder, wanted):
    """Return None when the files are in place, else the reason why not."""
    existed = root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as fresh:
            if why := _fetch(SOURCES[name], wanted, fresh):
                return why
            sums = {file: hashlib.sha256(Path(fresh, file).read_bytes()).hexdigest() for file in wanted}
            for file in wanted:
                if name == "mnist" and sums[file] != MNIST_SHA256[file]:
                    return f"what came as {file} has the SHA-256 {sums[file]}, expected {MNIST_SHA256[file]}"
            sums = _known_sums(name, folder) | sums
            Path(fresh, SUMS_FILE).write_text("".join(f"{sums[file]}  {file}\n" for file in sums))
            folder.mkdir(parents=True, exist_ok=True)
            for file in (*wanted, SUMS_FILE):
                os.replace(Path(fresh, file), folder / file)
    except OSError as problem:
        return f"{problem.strerror or problem}" + (f" ({problem.filename})" if problem.filename else "")
    finally:
        if not existed:
            with contextlib.suppress(OSError):  # it is not empty: the download has succeeded
                root.rmdir()
    return None


def _fetch(source, wanted, folder):
    """Fetch and unpack the `wanted` files of torchvision's class `source`, checking each archive's MD5.

    A mirror goes on where the one before it failed. Returns None, or how each of them failed.
    """
    import pooch  # here, since few runs download

    pooch.get_logger().setLevel("ERROR")
    limits, failures = pooch.HTTPDownloader(timeout=(CONNECT_LIMIT, STALL_LIMIT)), []
    for mirror in source.mirrors:
        try:
            for archive, md5 in source.resources:
                if (file := archive.removesuffix(".gz")) in wanted:
                    unpack = pooch.Decompress(name=file)
                    pooch.retrieve(mirror + archive, f"md5:{md5}", archive, folder, unpack, limits)
            return None
        except (OSError, ValueError) as problem:  # of the network or the disk; another MD5
            failures.append(f"{mirror} ({_in_brief(problem)})")
    return "; ".join(failures)


def _in_brief(problem):
    """The cause in a few words, which requests and urllib3 wrap in several layers of their own."""
    text = str(problem)
    if "connect timeout" in text:
        return f"no connection within {CONNECT_LIMIT} seconds"
    if "timed out" in text:
        return f"no byte arrived for {STALL_LIMIT} seconds"
    system = re.search(r"\[\w+ -?\d+\] ([^'\")]+)", text)  # such as "[Errno 111] Connection refused"
    return system[1] if system else text.partition(". ")[0]


# ------------------------------------------------------------------------------------------------
# The embedded digits
# ------------------------------------------------------------------------------------------------


def _embedded_digits(split):
    """scikit-learn's `load_digits` in MNIST's manner: a 20×20 digit in a 28×28 frame.

    1,797 digits of the UCI set "Optical Recognition of Handwritten Digits" (8×8, 0 to 16), split
    once and for all, stratified, into 1,437 for training and 360 for the test.
    """
    from sklearn.datasets import load_digits  # here, since its import takes a second
    from sklearn.model_selection import train_test_split

    small, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(small).float().view(-1, 1, 8, 8) * (255 / 16)
    large = torch.nn.functional.interpolate(small, size=(20, 20), mode="bilinear")
    images = torch.nn.functional.pad(large, (4, 4, 4, 4)).squeeze(1).round().byte()  # (N, 28, 28)
    parts = train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=0)
    rows = parts[0] if split == "train" else parts[1]
    return DigitImages(
        images[rows],
        torch.from_numpy(labels[rows]).long(),
        name="scikit-learn digits",
        split=split,
        classes=[str(c) for c in range(10)],
    )


# ------------------------------------------------------------------------------------------------
# Command line
# ------------------------------------------------------------------------------------------------


def main(arguments=None):
    """Check, fetch or repair a data folder; the exit code is 0 when the data is whole, else 2."""
    parser = argparse.ArgumentParser(description="Check a data folder, fetch what is missing.")
    parser.add_argument("--dataset", choices=SOURCES, default="mnist")
    parser.add_argument("--data", metavar="FOLDER", help="default: MNIST_DATA, else data/")
    parser.add_argument("--repair", action="store_true", help="fetch damaged files again")
    options = parser.parse_args(arguments)
    root = data_root(options.data)
    folder = raw_folder(options.dataset, root)
    try:
        if options.repair:
            _repair(options.dataset, root, folder)
        _from_files(options.dataset, "test", root)
    except OSError as problem:
        print(problem, file=sys.stderr)
        return 2
    print(f"{SOURCES[options.dataset].__name__} in {folder} is complete and verified.")
    return 0


def _repair(name, root, folder):
    damaged = []
    for file in ALL_FILES:
        try:
            if (folder / file).is_file():
                verify(name, folder / file)
        except DataDamaged:
            damaged.append(file)
    for file in damaged:
        kept, number = folder / f"{file}.damaged", 1
        while kept.exists():
            kept, number = folder / f"{file}.damaged{number + 1}", number + 1
        shutil.copy2(folder / file, kept)
        print(f"Kept the damaged file as {kept}.")
    if damaged:
        download(name, root, damaged)  # replaces them only once the new ones are verified
        print(f"Fetched again: {', '.join(damaged)}.")


if __name__ == "__main__":
    sys.exit(main())
