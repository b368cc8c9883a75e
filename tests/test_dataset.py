import gzip
import hashlib
import http.server
import socket
import threading
import time
import warnings

import numpy as np
import pytest
import torch
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
    """A web server that offers the little MNIST; its `serve` may be changed by a test."""
    archives = {f"/{name}.gz": gzip.compress(content, mtime=0) for name, content in small_mnist.items()}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content = archives[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                server.serve(self.wfile, content)

        do_HEAD = do_GET

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.serve = lambda stream, content: stream.write(content)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    sums = [(path[1:], hashlib.md5(content).hexdigest()) for path, content in archives.items()]
    monkeypatch.setattr(datasets.MNIST, "resources", sums)
    yield server
    server.shutdown()
    server.server_close()


# Found and verified -----------------------------------------------------------------------------


def test_found_files_are_read(folder, small_mnist):
    data = load_dataset("train", "mnist", folder)
    assert repr(data) == "MNIST, train: 40 images of 28×28"
    assert data.images.dtype == torch.uint8
    assert data.images.shape == (40, 28, 28)
    assert data.images.numpy().tobytes() == small_mnist["train-images-idx3-ubyte"][16:]
    assert bytes(data.labels.tolist()) == small_mnist["train-labels-idx1-ubyte"][8:]
    assert len(load_dataset("test", "auto", folder)) == 20


def test_root_from_argument_then_variable_then_data(monkeypatch, tmp_path):
    monkeypatch.setenv("MNIST_DATA", str(tmp_path))
    assert dataset.data_root("elsewhere").name == "elsewhere"
    assert dataset.data_root() == tmp_path
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


@pytest.mark.parametrize("content", [b"", b"\0\0\x08\3", b"no IDX file at all", idx(np.zeros((2, 9, 9)))])
def test_a_set_without_known_sums_is_still_checked_for_its_form(tmp_path, folder, content):
    (tmp_path / "MNIST").rename(tmp_path / "FashionMNIST")
    assert len(load_dataset("test", "fashion_mnist", tmp_path)) == 20
    (tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataDamaged, match="train-images-idx3-ubyte is damaged"):
        load_dataset("test", "fashion_mnist", tmp_path)


@pytest.mark.parametrize("labels", [np.zeros(19), np.full(20, 77)])
def test_labels_that_do_not_fit_the_images_are_damage(tmp_path, folder, labels):
    (tmp_path / "MNIST").rename(tmp_path / "KMNIST")
    (tmp_path / "KMNIST" / "raw" / "t10k-labels-idx1-ubyte").write_bytes(idx(labels))
    with pytest.raises(DataDamaged, match="its labels do not fit the 20 images of t10k-images-idx3-ubyte"):
        load_dataset("train", "kmnist", tmp_path)


# Missing and unreachable ------------------------------------------------------------------------


def test_missing_by_name_is_an_error(tmp_path, dead_network):
    with pytest.raises(
        DataMissing, match=r"MNIST is not complete in .*raw \(wanted: .*\), and it could not be downloaded: .*refused"
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


def test_a_silent_server_is_given_up_in_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "SOCKET_LIMIT", 60)
    monkeypatch.setattr(dataset, "STALL_LIMIT", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{silent.getsockname()[1]}/"])
        start = time.monotonic()
        with pytest.raises(DataMissing, match="no byte arrived for 1 seconds"):
            load_dataset("test", "mnist", tmp_path)
        assert time.monotonic() - start < 5
        with pytest.raises(DataMissing, match="no byte arrived"):  # the second time without waiting
            load_dataset("train", "mnist", tmp_path)
        assert time.monotonic() - start < 6
    assert socket.getdefaulttimeout() is None
    assert list(tmp_path.iterdir()) == []


def test_a_download_given_up_does_not_come_back(tmp_path, mirror, monkeypatch):
    """The thread that hung wakes up later, and must not go on to the next mirror and leave files."""
    monkeypatch.setattr(dataset, "STALL_LIMIT", 1)
    mirrors = [*datasets.MNIST.mirrors, *datasets.MNIST.mirrors]
    monkeypatch.setattr(datasets.MNIST, "mirrors", mirrors)
    mirror.serve = lambda stream, content: time.sleep(2)
    with pytest.raises(DataMissing, match="no byte arrived"):
        load_dataset("test", "mnist", tmp_path)
    mirror.serve = lambda stream, content: stream.write(content)
    time.sleep(2)
    assert list(tmp_path.iterdir()) == []


def test_download_puts_verified_files_in_place(tmp_path, mirror, small_mnist):
    data = load_dataset("test", "mnist", tmp_path)
    assert data.images.numpy().tobytes() == small_mnist["t10k-images-idx3-ubyte"][16:]
    assert sorted(f.name for f in tmp_path.rglob("*") if f.is_file()) == sorted([*small_mnist, "SHA256SUMS"])


def test_an_interrupted_download_is_never_taken_for_complete(tmp_path, mirror, monkeypatch):
    monkeypatch.setattr(dataset, "SOCKET_LIMIT", 1)
    mirror.serve = lambda stream, content: stream.write(content[: len(content) // 2])
    with pytest.raises(DataMissing, match="could not be downloaded"):
        load_dataset("test", "mnist", tmp_path)
    assert list(tmp_path.iterdir()) == []
    mirror.serve = lambda stream, content: stream.write(content)
    monkeypatch.setattr(dataset, "RETRY_AFTER", 0)
    assert len(load_dataset("test", "mnist", tmp_path)) == 20


def test_a_mirror_with_other_content_is_refused(tmp_path, mirror, monkeypatch):
    monkeypatch.setitem(dataset.MNIST_SHA256, "t10k-labels-idx1-ubyte", "0" * 64)
    with pytest.raises(DataMissing, match="expected 0000"):
        load_dataset("test", "mnist", tmp_path)
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
        assert data.images.max() > 200
        share = torch.bincount(data.labels, minlength=10) / len(data)
        assert share.min() > 0.09
    again = load_dataset("train", "digits")
    assert torch.equal(train.images, again.images)
    rows = {tuple(image.flatten().tolist()) for image in train.images}
    assert not any(tuple(image.flatten().tolist()) in rows for image in test.images)


def test_validation_is_held_out_of_training():
    whole = load_dataset("train", "digits")
    train, held = load_dataset("train", "digits", holdout=200), load_dataset("validation", "digits", holdout=200)
    assert (len(train), len(held), held.split) == (1237, 200, "validation")
    both = torch.cat([train.images, held.images]).flatten(1).tolist()
    assert sorted(both) == sorted(whole.images.flatten(1).tolist())


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


@pytest.mark.parametrize("holdout", [0, -1, 1437, 0.5])
def test_a_holdout_that_does_not_fit(holdout):
    with pytest.raises(ValueError, match="holdout must be a whole number from 1 to 1436"):
        load_dataset("validation", "digits", holdout=holdout)


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


def test_one_item_is_an_image_and_an_int():
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
    with pytest.raises(ValueError, match="needs num_workers=0"):
        make(num_workers=2)
    with pytest.raises(ValueError, match="leave out generator, or device"):
        make(shuffle=True, generator=torch.Generator())

    batches = dataset.BatchesOnDevice(250, torch.device("cpu"), batch_size=100, shuffle=True)
    first, second = torch.cat(list(batches)).tolist(), torch.cat(list(batches)).tolist()
    assert sorted(first) == sorted(second) == list(range(250))
    assert first != second
    in_order = dataset.BatchesOnDevice(250, torch.device("cpu"), batch_size=100, drop_last=True)
    assert torch.cat(list(in_order)).tolist() == list(range(200))
    assert len(in_order) == 2


def test_data_too_large_for_a_gpu_stays_where_it_is(monkeypatch):
    data = load_dataset("test", "digits")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (data.images.nbytes, 10**12))
    assert data.to("cuda").images.device.type == "cpu"
