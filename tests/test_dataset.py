import gzip
import hashlib
import http.server
import logging
import socket
import sys
import threading
import time
import warnings

import numpy as np
import pooch
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset, random_split
from torchvision import datasets

import dataset
import utils
from dataset import DataDamaged, DataMissing, load_dataset


def idx(array):
    """An IDX file: magic number, sizes, bytes."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def small_mnist(monkeypatch):
    """File name → content of a little MNIST: 40 images and 20, whose sums are made the known ones."""
    rng = np.random.default_rng(0)
    files = {}
    for split, n in (("train", 40), ("test", 20)):
        images, labels = dataset.FILES[split]
        files[images] = idx(rng.integers(0, 256, (n, 28, 28)))
        files[labels] = idx(rng.integers(0, 10, n))
    monkeypatch.setattr(dataset, "MNIST_SHA256", {f: hashlib.sha256(c).hexdigest() for f, c in files.items()})
    return files


@pytest.fixture
def folder(tmp_path, small_mnist):
    """A data root that holds the little MNIST."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in small_mnist.items():
        (raw / name).write_bytes(content)
    return tmp_path


@pytest.fixture
def dead_network(monkeypatch):
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])  # refused at once


@pytest.fixture
def mirror(monkeypatch, small_mnist):
    """A web server that offers the little MNIST, also as FashionMNIST.

    Its `serve` may be changed by a test; `asked` lists the archives asked for.
    """
    archives = {f"/{name}.gz": gzip.compress(content, mtime=0) for name, content in small_mnist.items()}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path[1:])
            content = archives[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            server.serve(self.wfile, content)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.serve, server.asked = send, []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    sums = [(path[1:], hashlib.md5(content).hexdigest()) for path, content in archives.items()]
    for source in (datasets.MNIST, datasets.FashionMNIST):
        monkeypatch.setattr(source, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setattr(source, "resources", sums)
    yield server
    server.shutdown()
    server.server_close()


def send(stream, content):
    stream.write(content)


def send_half(stream, content):
    stream.write(content[: len(content) // 2])


def files_under(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# Found and verified -----------------------------------------------------------------------------


def test_found_files_are_read(folder, small_mnist):
    data = load_dataset("train", "mnist", folder)
    assert repr(data) == "MNIST, train: 40 images of 28×28"
    assert data.images.dtype == torch.uint8
    assert data.images.shape == (40, 28, 28)
    assert data.images.numpy().tobytes() == small_mnist["train-images-idx3-ubyte"][16:]
    assert bytes(data.labels.tolist()) == small_mnist["train-labels-idx1-ubyte"][8:]
    assert data.classes == list("0123456789")
    assert len(load_dataset("test", "auto", folder)) == 20


def test_root_from_argument_then_variable_then_data(monkeypatch, tmp_path):
    monkeypatch.setenv("MNIST_DATA", str(tmp_path))
    assert dataset.data_root("elsewhere").name == "elsewhere"
    assert dataset.data_root() == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))  # what "~" stands for, except on Windows …
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # … and there
    assert dataset.data_root("~/mnist") == tmp_path / "mnist"
    monkeypatch.delenv("MNIST_DATA")
    assert dataset.data_root().name == "data"


@pytest.mark.parametrize("how", ["truncated", "altered"])
@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_damage_is_named_and_nothing_is_deleted(folder, how, name):
    path = folder / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    if how == "truncated":
        del content[-100:]
    else:
        content[500] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataDamaged) as problem:
        load_dataset("train", name, folder)
    message = str(problem.value)
    assert str(path) in message
    assert hashlib.sha256(content).hexdigest() in message
    assert dataset.MNIST_SHA256[path.name] in message
    assert "python dataset.py --dataset mnist" in message
    assert "--repair" in message
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08\3",
        b"no IDX file at all",
        idx(np.zeros((2, 9, 9))),
        idx(np.zeros((2, 28, 27))),
        idx(np.zeros((40, 28, 28)))[:-1],
        idx(np.zeros((40, 28, 28))) + b"\0",
        b"\0\0\x0d" + idx(np.zeros((40, 28, 28)))[3:],  # 0x0d: float32
    ],
)
def test_a_set_without_known_sums_is_still_checked_for_its_form(tmp_path, folder, content):
    (tmp_path / "MNIST").rename(tmp_path / "FashionMNIST")
    data = load_dataset("test", "fashion_mnist", tmp_path)
    assert (data.name, len(data), data.classes[0]) == ("FashionMNIST", 20, "T-shirt/top")
    (tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataDamaged, match="train-images-idx3-ubyte is damaged"):
        load_dataset("test", "fashion_mnist", tmp_path)


@pytest.mark.parametrize("labels", [np.zeros(19), np.full(20, 10)])
def test_labels_that_do_not_fit_the_images_are_damage(tmp_path, folder, labels):
    (tmp_path / "MNIST").rename(tmp_path / "KMNIST")
    (tmp_path / "KMNIST" / "raw" / "t10k-labels-idx1-ubyte").write_bytes(idx(labels))
    with pytest.raises(DataDamaged, match="its labels do not fit the 20 images of t10k-images-idx3-ubyte"):
        load_dataset("train", "kmnist", tmp_path)


# Missing and unreachable ------------------------------------------------------------------------


def test_missing_by_name_is_an_error(tmp_path, dead_network):
    with pytest.raises(
        DataMissing,
        match=r"MNIST is not complete in .*raw \(wanted: .*\), and it could not be downloaded: .*refused\)\. ",
    ):
        load_dataset("train", "mnist", tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_missing_falls_back_loudly(tmp_path, dead_network):
    with pytest.warns(UserWarning, match="(?s)INSTEAD OF MNIST.*Why: MNIST is not complete in.*refused"):
        data = load_dataset("train", "auto", tmp_path)
    assert repr(data) == "scikit-learn digits, train: 1,437 images of 28×28"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        load_dataset("test", "auto", tmp_path)


def test_one_missing_file_means_that_both_splits_fall_back(folder, dead_network):
    (folder / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.warns(UserWarning, match=r"wanted: t10k-labels-idx1-ubyte\)"):
        assert load_dataset("train", "auto", folder).name == "scikit-learn digits"


def test_a_silent_server_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "CONNECT_LIMIT", 60)
    monkeypatch.setattr(dataset, "STALL_LIMIT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{silent.getsockname()[1]}/"])
        start = time.monotonic()
        with pytest.raises(DataMissing, match=r"no byte arrived for 0\.2 seconds"):
            load_dataset("test", "mnist", tmp_path)
        assert 0.2 <= time.monotonic() - start < 10
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="how a full queue of connections behaves is the system's own")
def test_a_server_that_takes_no_connection_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "CONNECT_LIMIT", 0.2)
    monkeypatch.setattr(dataset, "STALL_LIMIT", 60)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{full.getsockname()[1]}/"])
        start = time.monotonic()
        with pytest.raises(DataMissing, match=r"no connection within 0\.2 seconds"):
            load_dataset("test", "mnist", tmp_path)
        assert time.monotonic() - start < 10


def test_a_failed_download_is_not_tried_again_for_a_while(tmp_path, mirror, monkeypatch):
    mirror.serve = send_half
    for split in ("test", "train"):
        with pytest.raises(DataMissing, match="could not be downloaded"):
            load_dataset(split, "mnist", tmp_path)
    assert len(mirror.asked) == 1
    mirror.serve = send
    assert len(load_dataset("test", "fashion_mnist", tmp_path)) == 20  # another data set …
    assert len(load_dataset("test", "mnist", tmp_path / "new")) == 20  # … or folder has not failed
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + dataset.RETRY_AFTER + 1)
    assert len(load_dataset("test", "mnist", tmp_path)) == 20


def test_a_mirror_that_stalls_gives_way_to_the_next(tmp_path, mirror, monkeypatch):
    """Each mirror goes on where the one before it failed: what is whole is not fetched again."""
    monkeypatch.setattr(dataset, "STALL_LIMIT", 0.2)
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/", *datasets.MNIST.mirrors * 3])
    over = threading.Event()

    def stall(stream, content):
        send_half(stream, content)
        over.wait(60)

    ways = iter([send, stall, lambda stream, content: send(stream, bytes(len(content))), send, send, send])
    mirror.serve = lambda stream, content: next(ways)(stream, content)
    try:
        assert len(load_dataset("test", "mnist", tmp_path)) == 20
    finally:
        over.set()
    first, second, third, fourth = (archive for archive, _ in datasets.MNIST.resources)
    assert mirror.asked == [first, second, second, second, third, fourth]


def test_download_puts_verified_files_in_place(tmp_path, mirror, small_mnist, monkeypatch):
    said = []
    talker = logging.Handler()
    talker.emit = said.append
    pooch.get_logger().setLevel("INFO")
    monkeypatch.setattr(pooch.get_logger(), "handlers", [talker])
    data = load_dataset("test", "mnist", tmp_path / "new")
    assert data.images.numpy().tobytes() == small_mnist["t10k-images-idx3-ubyte"][16:]
    assert files_under(tmp_path) == sorted([*small_mnist, "SHA256SUMS"])
    assert said == []


def test_only_what_is_missing_is_downloaded(folder, mirror):
    (folder / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    assert len(load_dataset("test", "mnist", folder)) == 20
    assert mirror.asked == ["t10k-labels-idx1-ubyte.gz"]


def test_an_interrupted_download_is_never_taken_for_complete(tmp_path, mirror, monkeypatch):
    mirror.serve = send_half
    with pytest.raises(DataMissing, match="could not be downloaded"):
        load_dataset("test", "mnist", tmp_path)
    assert list(tmp_path.iterdir()) == []
    mirror.serve = send
    monkeypatch.setattr(dataset, "RETRY_AFTER", 0)
    assert len(load_dataset("test", "mnist", tmp_path)) == 20


def test_ctrl_c_leaves_nothing_behind(tmp_path, mirror, monkeypatch):
    retrieve = pooch.retrieve

    def interrupted(url, *arguments):
        if "labels" in url:
            raise KeyboardInterrupt
        return retrieve(url, *arguments)

    monkeypatch.setattr(pooch, "retrieve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_dataset("test", "mnist", tmp_path / "new")
    assert mirror.asked == ["train-images-idx3-ubyte.gz"]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path, mirror):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataMissing, match=r"could not be downloaded: .*file"):
        load_dataset("test", "mnist", tmp_path / "file")
    assert mirror.asked == []


def test_a_download_without_known_sums_is_checked_by_those_written_with_it(tmp_path, mirror, small_mnist):
    load_dataset("test", "fashion_mnist", tmp_path)
    raw = tmp_path / "FashionMNIST" / "raw"
    lines = {f"{hashlib.sha256(content).hexdigest()}  {name}" for name, content in small_mnist.items()}
    assert set((raw / "SHA256SUMS").read_text().splitlines()) == lines  # as `sha256sum --check` reads them
    for path in (raw / "train-images-idx3-ubyte", raw / "t10k-labels-idx1-ubyte"):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # the last pixel or label, still a valid one
        with pytest.raises(DataDamaged, match=f"{path.name} is damaged.*expected {hashlib.sha256(whole).hexdigest()}"):
            load_dataset("test", "fashion_mnist", tmp_path)
        assert dataset.main(["--dataset", "fashion_mnist", "--data", str(tmp_path), "--repair"]) == 0
        assert path.read_bytes() == whole
        assert set((raw / "SHA256SUMS").read_text().splitlines()) == lines
        assert mirror.asked.pop() == f"{path.name}.gz"  # and that one alone
    assert len(mirror.asked) == 4
    (raw / "SHA256SUMS").write_text("".join(f"{'0' * 64}  {name}\n" for name in small_mnist))
    assert dataset.main(["--dataset", "fashion_mnist", "--data", str(tmp_path), "--repair"]) == 0
    assert set((raw / "SHA256SUMS").read_text().splitlines()) == lines


def test_a_mirror_with_other_content_is_refused(tmp_path, mirror, monkeypatch):
    monkeypatch.setitem(dataset.MNIST_SHA256, "t10k-labels-idx1-ubyte", "0" * 64)
    with pytest.raises(DataMissing, match=r"what came as t10k-labels-idx1-ubyte has the SHA-256 .*expected 0000"):
        load_dataset("test", "mnist", tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_the_command_repairs_and_keeps_the_damaged_file(folder, mirror, capsys):
    path = folder / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    whole = path.read_bytes()
    path.write_bytes(b"broken")
    assert dataset.main(["--data", str(folder)]) == 2
    assert "is damaged" in capsys.readouterr().err
    assert dataset.main(["--data", str(folder), "--repair"]) == 0
    assert "is complete and verified" in capsys.readouterr().out
    assert path.read_bytes() == whole
    assert path.with_name(path.name + ".damaged").read_bytes() == b"broken"
    path.write_bytes(b"broken again")
    assert dataset.main(["--data", str(folder), "--repair"]) == 0
    assert path.with_name(path.name + ".damaged").read_bytes() == b"broken"
    assert path.with_name(path.name + ".damaged2").read_bytes() == b"broken again"


def test_the_command_without_a_network_says_so(tmp_path, dead_network, capsys):
    assert dataset.main(["--data", str(tmp_path)]) == 2
    assert "could not be downloaded" in capsys.readouterr().err


# The embedded digits ----------------------------------------------------------------------------


def test_digits_are_20_by_20_in_a_28_by_28_frame_and_split_evenly():
    train, test = load_dataset("train", "digits"), load_dataset("test", "digits")
    assert (len(train), len(test)) == (1437, 360)
    for data in (train, test):
        assert data.images.dtype == torch.uint8
        frame = data.images.clone()
        frame[:, 4:24, 4:24] = 0
        assert frame.sum() == 0
        share = torch.bincount(data.labels, minlength=10) / len(data)
        assert share.min() > 0.09
    again = load_dataset("train", "digits")
    assert torch.equal(train.images, again.images)
    rows = {tuple(image.flatten().tolist()) for image in train.images}
    assert not any(tuple(image.flatten().tolist()) in rows for image in test.images)


def test_digits_are_those_of_scikit_learn_enlarged():
    """Each digit once, under its own label, as Pillow enlarges it: bilinear, 0 … 16 becoming 0 … 255."""
    small, labels = load_digits(return_X_y=True)
    expected = np.zeros((len(small), 28, 28), np.float32)
    for image, digit in zip(expected, small.reshape(-1, 8, 8), strict=True):
        large = Image.fromarray((digit / 16 * 255).astype(np.float32)).resize((20, 20), Image.Resampling.BILINEAR)
        image[4:24, 4:24] = large
    expected = torch.from_numpy(expected)
    splits = load_dataset("train", "digits"), load_dataset("test", "digits")
    images = torch.cat([data.images for data in splits]).float()
    nearest = torch.cdist(images.flatten(1), expected.flatten(1)).argmin(1)
    assert nearest.sort().values.tolist() == list(range(1797))
    assert (images - expected[nearest]).abs().max() < 0.51  # rounded, not cut off
    assert torch.cat([data.labels for data in splits]).tolist() == labels[nearest].tolist()


def test_validation_is_held_out_of_training():
    whole = load_dataset("train", "digits")
    train, held = load_dataset("train", "digits", holdout=200), load_dataset("validation", "digits", holdout=200)
    assert (len(train), len(held), held.split) == (1237, 200, "validation")
    both = torch.cat([train.images, held.images]).flatten(1).tolist()
    assert sorted(both) == sorted(whole.images.flatten(1).tolist())
    again = load_dataset("validation", "digits", holdout=200)
    assert torch.equal(again.images, held.images)
    assert not torch.equal(held.images, whole.images[:200])  # by chance, since files may be sorted


def test_labels_go_with_their_images_into_both_parts():
    def pairs(split, **options):
        data = load_dataset(split, "digits", **options)
        return [(image.flatten().tolist(), int(label)) for image, label in zip(data.images, data.labels, strict=True)]

    assert sorted(pairs("train", holdout=200) + pairs("validation", holdout=200)) == sorted(pairs("train"))


def test_the_usual_holdout_is_5000_images_or_287_digits(folder, monkeypatch):
    assert (dataset.HOLDOUT, dataset.DIGITS_HOLDOUT) == (5_000, 287)
    held = load_dataset("validation", "digits", holdout="auto")
    assert len(held) == 287
    assert torch.equal(held.images, load_dataset("validation", "digits", holdout=287).images)
    assert len(load_dataset("train", "digits", holdout="auto")) == 1437 - 287
    assert len(load_dataset("test", "digits", holdout="auto")) == 360
    monkeypatch.setattr(dataset, "HOLDOUT", 12)
    assert len(load_dataset("validation", "mnist", folder, holdout="auto")) == 12
    assert len(load_dataset("train", "mnist", folder, holdout="auto")) == 40 - 12


@pytest.mark.parametrize("number", [np.int64, np.uint8, torch.tensor])
def test_a_holdout_of_numpy_or_pytorch(number):
    assert len(load_dataset("validation", "digits", holdout=number(200))) == 200
    assert torch.equal(
        load_dataset("train", "digits", holdout=number(0)).images, load_dataset("train", "digits").images
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trian",), "Unknown split 'trian': choose 'train', 'validation' or 'test'"),
        (("train", "cifar"), "Unknown data set 'cifar': choose one of auto, mnist, fashion_mnist, kmnist, digits"),
    ],
)
def test_unknown_names(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(*arguments)


@pytest.mark.parametrize("holdout", [0, -1, 1437, 0.5, True, "half", None])
def test_a_holdout_that_does_not_fit(holdout):
    with pytest.raises(ValueError, match=f"holdout must be a whole number from 1 to 1436, not {holdout!r}"):
        load_dataset("validation", "digits", holdout=holdout)
    if holdout != 0:
        with pytest.raises(ValueError, match="holdout must be a whole number from 0 to 1436"):
            load_dataset("train", "digits", holdout=holdout)


# Batches ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_gives_every_image_once_in_batches(workers):
    loader = utils.get_MNISTdataset_with_loader("test", {"batch_size": 100, "num_workers": workers}, dataset="digits")
    batches = list(loader)
    assert [images.shape for images, _ in batches] == [(100, 1, 28, 28)] * 3 + [(60, 1, 28, 28)]
    images = torch.cat([images for images, _ in batches])
    assert images.dtype == torch.float32
    restored = (images * utils.STD + utils.MEAN) * 255
    torch.testing.assert_close(restored[:, 0], loader.dataset.images.float(), atol=1e-3, rtol=0)
    assert torch.equal(torch.cat([labels for _, labels in batches]), loader.dataset.labels)


def test_a_spawned_worker_knows_how_to_collate():
    """A new process, as on macOS and Windows, where a forked one inherits what this one knows."""
    data = load_dataset("test", "digits")
    batches = list(DataLoader(data, batch_size=100, num_workers=1, multiprocessing_context="spawn"))
    assert [images.shape for images, _ in batches] == [(100, 1, 28, 28)] * 3 + [(60, 1, 28, 28)]
    assert torch.equal(torch.cat([labels for _, labels in batches]), data.labels)


class Counting:
    """A transform to float that counts its calls."""

    calls = 0

    def __call__(self, images):
        self.calls += 1
        return images / 255


@pytest.fixture
def counted():
    """The embedded digits of the test set, whose `transform.calls` counts."""
    return load_dataset("test", "digits", transform=Counting())


def test_a_plain_dataloader_takes_whole_batches(counted):
    """As every tutorial writes it, and yet one index and one transform a batch."""
    batches = list(DataLoader(counted, batch_size=100))
    assert counted.transform.calls == len(batches) == 4
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert torch.equal(images, counted.images.unsqueeze(1) / 255)
    assert torch.equal(labels, counted.labels)
    assert labels.dtype == torch.int64


def test_a_batch_is_collated_without_a_copy(counted):
    batch = counted.__getitems__([5, 6, 7])
    images, labels = torch.utils.data.default_collate(batch)
    assert images is batch.images
    assert labels is batch.labels
    images, labels = torch.utils.data.default_collate(list(batch))
    assert torch.equal(images, batch.images)
    assert torch.equal(labels, batch.labels)


def test_a_subset_and_a_random_split_take_whole_batches(counted):
    for part in (Subset(counted, range(10, 110)), random_split(counted, [100, 260])[0]):
        counted.transform.calls = 0
        batches = list(DataLoader(part, batch_size=50))
        assert counted.transform.calls == 2
        assert torch.equal(torch.cat([labels for _, labels in batches]), counted.labels[list(part.indices)])
        images = torch.cat([images for images, _ in batches])
        assert torch.equal(images, counted.images[list(part.indices)].unsqueeze(1) / 255)


def test_data_sets_can_be_joined(counted):
    others = TensorDataset(torch.zeros(40, 1, 28, 28), torch.arange(40))
    images, labels = next(iter(DataLoader(ConcatDataset([counted, counted, others]), batch_size=760)))
    assert torch.equal(images[:720], torch.cat([counted.images, counted.images]).unsqueeze(1) / 255)
    assert labels.tolist() == [*counted.labels.tolist() * 2, *range(40)]


def test_a_collate_function_of_ones_own_meets_samples(counted):
    loader = DataLoader(counted, batch_size=3, collate_fn=lambda samples: [(i.shape, n) for i, n in samples])
    assert next(iter(loader)) == [((1, 28, 28), int(label)) for label in counted.labels[:3]]
    loader = dataset.make_loader(counted, {"batch_size": 3, "collate_fn": len})
    assert next(iter(loader)) == 3


def test_the_callers_arguments_stay_as_they_are(counted):
    for device in (None, "meta"):
        kwargs = {"batch_size": 3, "shuffle": True}
        dataset.make_loader(counted, kwargs, device)
        assert kwargs == {"batch_size": 3, "shuffle": True}


def test_pinned_memory(counted):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch says that without a GPU nothing is pinned
        for size in (100, None):
            assert len(list(DataLoader(counted, batch_size=size, pin_memory=True))) == (4 if size else 360)


def test_one_item_is_an_image_and_an_int(counted):
    for image, label in (counted[3], counted[-357], counted[torch.tensor(3)]):
        assert torch.equal(image, counted.images[3:4] / 255)
        assert type(label) is int
        assert label == int(counted.labels[3])
    assert [label for _, label in counted] == counted.labels.tolist()  # ends with an IndexError
    loader = utils.get_MNISTdataset_with_loader("test", {"batch_size": None}, dataset="digits")
    image, label = next(iter(loader))
    assert image.shape == (1, 28, 28)
    assert label == int(loader.dataset.labels[0])


def test_shuffled_each_epoch_and_the_same_for_a_seed():
    def orders(seed):
        utils.set_seed(seed)
        loader = utils.get_MNISTdataset_with_loader("train", {"batch_size": 500, "shuffle": True}, dataset="digits")
        return [torch.cat([labels for _, labels in loader]).tolist() for _ in range(2)]

    first, second = orders(1)
    assert first != second
    assert sorted(first) == sorted(second)
    assert orders(1) == [first, second]
    assert orders(2) != [first, second]


def test_data_kept_on_a_device_is_drawn_there(monkeypatch):
    """With the device "meta", which has shapes but no values, in the place of a GPU."""

    def make(**kwargs):
        return utils.get_MNISTdataset_with_loader("test", kwargs, dataset="digits", device="meta")

    loader = make(batch_size=100, shuffle=True)
    assert loader.dataset.images.device.type == loader.dataset.labels.device.type == "meta"
    assert [len(indices) for indices in loader.batch_sampler] == [100, 100, 100, 60]
    assert {indices.device.type for indices in loader.batch_sampler} == {"meta"}
    assert len(make(batch_size=100, drop_last=True)) == 3
    for unfit in ({"num_workers": 2}, {"pin_memory": True}):
        with pytest.raises(ValueError, match="needs num_workers=0 and pin_memory=False"):
            make(**unfit)
    with pytest.raises(ValueError, match="leave out generator, or device"):
        make(shuffle=True, generator=torch.Generator())
    with pytest.raises(ValueError, match="batch_size must be a whole number from 1, not 0"):
        make(batch_size=0)
    for images, labels in make(batch_size=np.int64(100)):  # "meta" has no label to make an int of
        assert images.device.type == labels.device.type == "meta"
        assert images.shape[1:] == (1, 28, 28)
        assert images.shape[:1] == labels.shape
    assert next(iter(make(batch_size=3, collate_fn=len))) == 3

    batches = dataset.BatchesOnDevice(250, torch.device("cpu"), batch_size=100, shuffle=True)
    first, second = torch.cat(list(batches)).tolist(), torch.cat(list(batches)).tolist()
    assert sorted(first) == sorted(second) == list(range(250))
    assert first != second
    in_order = dataset.BatchesOnDevice(250, torch.device("cpu"), batch_size=100, drop_last=True)
    assert torch.cat(list(in_order)).tolist() == list(range(200))
    assert len(in_order) == 2


def test_single_samples_of_data_kept_on_a_device():
    class Indices(dataset.DigitImages):
        def __getitem__(self, index):  # "meta" has no label to make an int of
            return index

    for shuffle in (False, True):
        data = Indices(torch.zeros(50, 28, 28), torch.zeros(50), name="", split="", classes=[])
        loader = dataset.make_loader(data, {"batch_size": None, "shuffle": shuffle}, device="meta")
        assert (data.images.device.type, len(loader)) == ("meta", 50)
        indices = [int(index) for index in loader]
        assert (indices == list(range(50))) is not shuffle
        assert sorted(indices) == list(range(50))


def test_data_too_large_for_a_gpu_stays_where_it_is(monkeypatch):
    data = load_dataset("test", "digits")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (data.images.nbytes, 10**12))
    assert data.to("cuda").images.device.type == "cpu"
