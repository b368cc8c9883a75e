import copy
import math
import os
import pickle
import random
import re
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.text import Text
from PIL import Image
from runs import BF16
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Subset, TensorDataset

import dataset
import plots
import utils
from model import Net
from plots import TEST_STYLE, TRAIN_STYLE

CPU = torch.device("cpu")


def tiny_model():
    """A linear classifier with the models' contract; quick, for tests of the loops."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10), torch.nn.LogSoftmax(dim=1))


# Device, precision, seed ------------------------------------------------------------------------


def test_precision_is_bf16_only_where_it_is_native(monkeypatch):
    for capabilities, precision in (
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"bf16": True, "architecture": "aarch64"}, "bf16"),
        ({"avx512_f": True, "avx2": True, "avx512_bf16": False}, "fp32"),  # would be emulated
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert utils.get_precision(CPU) == precision
        assert precision in utils.describe_device(CPU)
    for capability, precision in (((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp32")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert utils.get_precision("cuda") == precision
    assert utils.get_precision("mps") == "fp32"


def test_device_is_the_accelerator_where_there_is_one(monkeypatch):
    for found, expected in ((torch.device("cuda"), "cuda"), (torch.device("mps"), "mps"), (None, "cpu")):
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available, found=found: found)
        assert utils.get_device() == torch.device(expected)


def test_same_seed_same_losses(digits):
    def losses(seed):
        utils.set_seed(seed)
        model, history = Net(), []
        loader = DataLoader(Subset(digits[0].dataset, range(256)), batch_size=64, shuffle=True)
        for _ in range(2):
            utils.train(model, CPU, loader, utils.get_optimizer(model), utils.get_loss(), history)
        return history

    first = losses(3)
    assert losses(3) == first
    assert losses(4) != first


def test_a_seed_reaches_every_generator():
    utils.set_seed(3)
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    assert drawn[:2] == (random.Random(3).random(), np.random.RandomState(3).rand())
    assert drawn[2] == torch.rand(1, generator=torch.Generator().manual_seed(3)).item()


# Transforms -------------------------------------------------------------------------------------


@pytest.mark.parametrize("transforms", [utils.get_train_transforms(), utils.get_test_transforms()])
def test_transforms_take_one_pil_image_or_a_batch(transforms):
    batch = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
    for given, shape in ((Image.fromarray(batch[0, 0].numpy()), (1, 28, 28)), (batch, (5, 1, 28, 28))):
        given = transforms(given)
        assert type(given) is torch.Tensor
        assert given.dtype == torch.float32
        assert given.shape == shape
        assert given.min() >= -utils.MEAN / utils.STD - 1e-5
        assert given.max() <= (1 - utils.MEAN) / utils.STD + 1e-5


def test_train_transforms_are_the_capstones_by_default():
    zoom, rotation = (t for t in utils.get_train_transforms().transforms if isinstance(t, utils.RandomAffineEach))
    assert (zoom.zoom, zoom.zoom_probability, zoom.degrees, zoom.shift) == ((28 / 22, 28 / 22), 0.1, 0, 0)
    assert (rotation.degrees, rotation.zoom, rotation.shift, rotation.mode) == (15, (1, 1), 0, "nearest")


def test_other_sizes_are_brought_to_28_by_28():
    assert utils.get_train_transforms()(Image.new("L", (40, 60))).shape == (1, 28, 28)
    assert utils.get_test_transforms()(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape == (2, 1, 28, 28)


def test_test_transforms_scale_and_normalise():
    image = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    image[0, 0, 0, :3] = torch.tensor([0, 51, 255])
    expected = [(value - 0.1307) / 0.3081 for value in (0.0, 0.2, 1.0)]
    assert utils.get_test_transforms()(image)[0, 0, 0, :3].tolist() == pytest.approx(expected)


def test_each_image_of_a_batch_has_its_own_draw():
    image = torch.randint(0, 256, (1, 1, 28, 28), dtype=torch.uint8)
    for transforms, least in (
        (utils.get_train_transforms(), 100),  # to the nearest pixel, small angles give equal images
        (utils.get_train_transforms(utils.RandomAffineEach(degrees=15)), 200),
    ):
        out = transforms(image.expand(200, 1, 28, 28))
        assert len({tuple(o.flatten().tolist()) for o in out}) >= least


def test_augmentation_sees_pixels_from_0_to_1():
    """It comes before the normalisation: what is outside of the image is filled with 0, the background."""
    found = []
    images = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
    utils.get_train_transforms(lambda x: found.append(x) or x, mean=0.4, std=0.1)(images)
    torch.testing.assert_close(found[0], images / 255)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_training_images_are_augmented_and_no_others(split):
    loader = utils.get_MNISTdataset_with_loader(split, {"batch_size": 60}, dataset="digits", holdout=60)
    images, _ = next(iter(loader))
    plain = (loader.dataset.images[:60].unsqueeze(1) / 255 - 0.1307) / 0.3081
    assert torch.allclose(images, plain, atol=1e-5) == (split != "train")


# Getters ----------------------------------------------------------------------------------------


def test_optimizers():
    model = tiny_model()
    sgd = utils.get_optimizer(model)
    assert type(sgd) is torch.optim.SGD
    assert (sgd.defaults["lr"], sgd.defaults["momentum"]) == (0.01, 0.9)
    sgd = utils.get_optimizer(model, "SGD", 0.1, 0.5, nesterov=True)
    assert (sgd.defaults["lr"], sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.1, 0.5, True)
    for name in ("Adam", "AdamW", "RMSprop"):
        optimizer = utils.get_optimizer(model, name, 0.002, weight_decay=0.05)
        assert type(optimizer) is getattr(torch.optim, name)
        assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.002, 0.05)
    assert utils.get_optimizer(model, "RMSprop").defaults["momentum"] == 0


def rates(scheduler, steps, *metric):
    found = []
    for _ in range(steps):
        found.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step(*metric)
    return found


def test_schedulers_change_the_rate_as_their_names_say(capsys):
    def optimizer():
        return utils.get_optimizer(tiny_model(), learningrate=1.0)

    assert rates(utils.get_scheduler(optimizer(), 2, 0.1), 5) == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    cosine = rates(utils.get_scheduler(optimizer(), 4, name="CosineAnnealingLR"), 5)
    assert cosine == pytest.approx([(1 + math.cos(math.pi * i / 4)) / 2 for i in range(5)])
    plateau = rates(utils.get_scheduler(optimizer(), 1, 0.5, name="ReduceLROnPlateau"), 6, 7.0)
    assert plateau == [1, 1, 1, 0.5, 0.5, 0.25]
    cycle = rates(utils.get_scheduler(optimizer(), name="OneCycleLR", total_steps=20, pct_start=0.25), 20)
    assert max(cycle) == pytest.approx(1.0)
    assert cycle.index(max(cycle)) == 4
    assert cycle[-1] < 1e-4
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", utils.SCHEDULERS)
def test_verbose_prints_the_rate_when_it_changes(name, capsys):
    extra = {"total_steps": 9} if name == "OneCycleLR" else {}
    scheduler = utils.get_scheduler(
        utils.get_optimizer(tiny_model(), learningrate=1.0), 2, 0.5, True, name=name, **extra
    )
    assert isinstance(scheduler, utils.SCHEDULERS[name])
    seen = rates(scheduler, 6, *([7.0] if name == "ReduceLROnPlateau" else []))
    last = scheduler.optimizer.param_groups[0]["lr"]
    changed = [f"Learning rate: {b:.3g}" for a, b in zip(seen, [*seen[1:], last], strict=True) if a != b]
    lines = capsys.readouterr().out.splitlines()
    assert changed
    assert lines[-len(changed) :] == changed
    assert len(lines) - len(changed) <= (name == "OneCycleLR")  # which sets its first rate when made


@pytest.mark.filterwarnings("ignore:Seems like .optimizer.step")  # PyTorch's own, of a copied optimizer
@pytest.mark.parametrize("name", utils.SCHEDULERS)
def test_verbose_schedulers_can_be_copied_and_pickled(name, capsys):
    extra = {"total_steps": 9} if name == "OneCycleLR" else {}
    optimizer = utils.get_optimizer(tiny_model(), learningrate=1.0)
    scheduler = utils.get_scheduler(optimizer, 1, 0.5, True, name=name, **extra)
    metric = [7.0] if name == "ReduceLROnPlateau" else []
    for again in (pickle.loads(pickle.dumps(scheduler)), copy.deepcopy(scheduler)):
        assert type(again).__name__ == name
        assert isinstance(again, utils.SCHEDULERS[name])
        assert again.state_dict() == scheduler.state_dict()
        capsys.readouterr()
        found = rates(again, 4, *metric)
        assert len(set(found)) > 1
        assert "Learning rate:" in capsys.readouterr().out
    assert scheduler.last_epoch == 0  # the copies have stepped, and not this one


def test_losses():
    log_probabilities = torch.log_softmax(torch.randn(6, 10), 1)
    labels = torch.arange(6)
    by_hand = -sum(float(log_probabilities[i, i]) for i in range(6)) / 6
    for name in ("nll_loss", "cross_entropy"):  # equal, since log-softmax changes nothing here
        assert float(utils.get_loss(name)(log_probabilities, labels)) == pytest.approx(by_hand)
    assert utils.get_loss() is F.nll_loss


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: utils.get_optimizer(tiny_model(), "sdg"), "optimizer 'sdg': choose one of SGD, Adam, AdamW, RMSprop"),
        (
            lambda: utils.get_scheduler(utils.get_optimizer(tiny_model()), name="Step"),
            "scheduler 'Step': choose one of StepLR, OneCycleLR, CosineAnnealingLR, ReduceLROnPlateau",
        ),
        (lambda: utils.get_loss("mse"), "loss 'mse': choose one of nll_loss, cross_entropy"),
        (lambda: utils.get_MNISTdataset_with_loader("dev", {}), "split 'dev': choose 'train', 'validation' or 'test'"),
    ],
)
def test_an_unknown_name_lists_the_choices(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Loops ------------------------------------------------------------------------------------------


def test_correct_count_is_an_int():
    count = utils.GetCorrectPredCount(torch.eye(10)[[3, 1, 4]], torch.tensor([3, 1, 5]))
    assert count == 2
    assert type(count) is int


def test_metrics_count_every_sample_once_with_a_short_last_batch():
    """Against a loop over single images, with batches of 4, 4 and 2."""
    model, images, labels = tiny_model(), torch.randn(10, 1, 28, 28), torch.randint(0, 10, (10,))
    one_by_one = [-model(images[i : i + 1])[0, labels[i]].item() for i in range(10)]
    right = sum(int(model(images[i : i + 1]).argmax()) == int(labels[i]) for i in range(10))
    loader = DataLoader(TensorDataset(images, labels), batch_size=4)
    losses, accuracies = [], []
    result = utils.test(model, CPU, loader, F.nll_loss, losses, accuracies, precision="fp32")
    assert result == (pytest.approx(sum(one_by_one) / 10, rel=1e-5), 10 * right)
    assert (losses, accuracies) == ([result[0]], [result[1]])
    still = torch.optim.SGD(model.parameters(), lr=0.0)  # a rate of 0: training metrics of the same weights
    trained = utils.train(model, CPU, loader, still, F.nll_loss, losses, accuracies, precision="fp32")
    assert trained == pytest.approx(result)
    assert (len(losses), len(accuracies)) == (2, 2)


def test_train_learns_and_test_does_not():
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), tiny_model())
    loader = DataLoader(TensorDataset(torch.randn(8, 1, 28, 28), torch.arange(8)), batch_size=4)
    before = [p.clone() for p in model.parameters()]
    assert utils.test(model, CPU, loader, F.nll_loss) == utils.test(model, CPU, loader, F.nll_loss)  # no dropout
    assert all(map(torch.equal, before, model.parameters()))
    utils.train(model, CPU, loader, utils.get_optimizer(model), F.nll_loss)
    assert model.training
    assert not any(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("precision", ["fp32", BF16])
def test_one_batch_overfits(digits, precision):
    batch = [next(iter(digits[0]))]
    model = Net()
    optimizer = utils.get_optimizer(model, "Adam", 0.002)
    for _ in range(25):
        loss, accuracy = utils.train(model, CPU, batch, optimizer, utils.get_loss(), precision=precision)
    assert accuracy == 100
    assert loss < 0.1


@pytest.mark.parametrize("precision", [BF16])
def test_bf16_and_fp32_agree(precision, digits):
    model = Net()
    full, half = (utils.test(model, CPU, digits[1], F.nll_loss, precision=p)[0] for p in ("fp32", precision))
    assert full != half
    assert half == pytest.approx(full, rel=1e-2)


def test_memory_format_can_be_kept():
    model, data = Net(), [(torch.rand(2, 1, 28, 28), torch.tensor([1, 2]))]
    utils.test(model, CPU, data, F.nll_loss, channels_last=False)
    assert model.conv2.weight.is_contiguous()
    utils.test(model, CPU, data, F.nll_loss)
    assert model.conv2.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_model_that_was_tested_first_can_still_learn():
    model, data = Net(), [(torch.rand(2, 1, 28, 28), torch.tensor([1, 2]))]
    utils.test(model, CPU, data, F.nll_loss)
    assert not any(p.is_inference() for p in model.parameters())
    utils.train(model, CPU, data, utils.get_optimizer(model), F.nll_loss, precision="fp32")
    utils.test(model, CPU, data, F.nll_loss, channels_last=False)
    assert model.conv2.weight.is_contiguous()


class Rates(list):
    """Batches that note the learning rate with which each is met."""

    def __iter__(self):
        for batch in list.__iter__(self):
            self.seen.append(self.optimizer.param_groups[0]["lr"])
            yield batch


@pytest.mark.parametrize(
    ("make", "step_every", "expected"),
    [
        (lambda o: lr_scheduler.StepLR(o, 2, 0.5), None, [1, 1, 1, 1, 1, 1, 0.5]),
        (lambda o: lr_scheduler.StepLR(o, 2, 0.5), "batch", [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125]),
        (lambda o: lr_scheduler.ExponentialLR(o, 0.5), None, [1, 1, 1, 0.5, 0.5, 0.5, 0.25]),
        (lambda o: lr_scheduler.MultiStepLR(o, [1]), None, [1, 1, 1, 0.1, 0.1, 0.1, 0.1]),
        (
            lambda o: lr_scheduler.CosineAnnealingLR(o, 6),
            "batch",
            [(1 + math.cos(math.pi * i / 6)) / 2 for i in range(7)],
        ),
        (lambda o: lr_scheduler.LambdaLR(o, lambda i: 1 / (1 + i)), "epoch", [1, 1, 1, 0.5, 0.5, 0.5, 1 / 3]),
        (lambda o: lr_scheduler.CyclicLR(o, 1, 3, 2), None, [1, 2, 3, 2, 1, 2, 3]),
    ],
)
def test_a_scheduler_steps_each_batch_or_each_epoch(make, step_every, expected):
    """The rates of two epochs of three batches, and of what follows."""
    model = tiny_model()
    data = Rates([(torch.zeros(4, 1, 28, 28), torch.arange(4))] * 3)
    data.optimizer, data.seen = utils.get_optimizer(model, learningrate=1.0), []
    scheduler = make(data.optimizer)
    for _ in range(2):
        utils.train(model, CPU, data, data.optimizer, F.nll_loss, scheduler=scheduler, step_every=step_every)
    assert [*data.seen, data.optimizer.param_groups[0]["lr"]] == pytest.approx(expected)


def test_what_steps_when_is_said_in_one_place():
    optimizer = utils.get_optimizer(tiny_model())
    plateau = utils.get_scheduler(optimizer, name="ReduceLROnPlateau")
    cycle = utils.get_scheduler(optimizer, name="OneCycleLR", total_steps=6)
    assert utils.get_step_every(None) is None
    assert utils.get_step_every(None, "batch") is None
    assert (utils.get_step_every(cycle), utils.get_step_every(cycle, "epoch")) == ("batch", "epoch")
    with pytest.raises(ValueError, match="Unknown step_every 'step': choose 'batch' or 'epoch'"):
        utils.get_step_every(cycle, "step")
    with pytest.raises(ValueError, match="steps by the validation loss of an epoch"):
        utils.get_step_every(plateau, "batch")
    rate = optimizer.param_groups[0]["lr"]
    with pytest.raises(ValueError, match="The loader gave no batch"):
        utils.train(tiny_model(), CPU, [], optimizer, F.nll_loss, scheduler=utils.get_scheduler(optimizer, 1))
    assert optimizer.param_groups[0]["lr"] == rate  # no epoch, no step
    with pytest.raises(ValueError, match=r"call its step\(loss\) after test, or use fit"):
        utils.train(tiny_model(), CPU, [], optimizer, F.nll_loss, scheduler=plateau)


def test_one_cycle_leaves_no_momentum_alone():
    none = utils.get_optimizer(tiny_model(), "RMSprop")
    utils.get_scheduler(none, name="OneCycleLR", total_steps=5)
    assert none.param_groups[0]["momentum"] == 0
    some = utils.get_optimizer(tiny_model(), "SGD")
    utils.get_scheduler(some, name="OneCycleLR", total_steps=5)
    assert some.param_groups[0]["momentum"] == 0.95


@pytest.mark.parametrize("read_every", [1, 2, 5])
def test_results_are_the_same_however_often_they_are_read(read_every, monkeypatch):
    """As on a GPU, where they are read every few batches; the batch and its rate are still the right ones."""
    torch.manual_seed(0)
    images, labels = torch.randn(18, 1, 28, 28), torch.randint(0, 10, (18,))
    loader = DataLoader(TensorDataset(images, labels), batch_size=4)
    model = tiny_model()
    expected = utils.test(model, CPU, loader, F.nll_loss)
    monkeypatch.setitem(utils.READ_EVERY, "cpu", read_every)
    assert utils.test(model, CPU, loader, F.nll_loss) == expected
    images[9] = math.nan
    optimizer = utils.get_optimizer(model, "AdamW", 0.01)
    scheduler = utils.get_scheduler(optimizer, name="OneCycleLR", total_steps=5)
    probe = utils.get_scheduler(utils.get_optimizer(tiny_model(), "AdamW", 0.01), name="OneCycleLR", total_steps=5)
    rate = rates(probe, 3)[2]
    with pytest.raises(FloatingPointError, match=f"Training, batch 3: the loss is nan at learning rate {rate:.3g}"):
        utils.train(model, CPU, loader, optimizer, F.nll_loss, scheduler=scheduler)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(value):
    model = tiny_model()
    images = torch.rand(12, 1, 28, 28)
    images[9] = value
    loader = DataLoader(TensorDataset(images, torch.zeros(12, dtype=torch.long)), batch_size=4)
    optimizer, history = utils.get_optimizer(model, learningrate=0.125), [0.7]
    message = r"Epoch 2, batch 3: the loss is (nan|inf) at learning rate 0.125. Try a tenth of it"
    with pytest.raises(FloatingPointError, match=message):
        utils.train(model, CPU, loader, optimizer, F.nll_loss, history)
    assert history == [0.7]
    assert all(p.isfinite().all() for p in model.parameters())
    with pytest.raises(FloatingPointError, match="Testing, batch 3"):
        utils.test(model, CPU, loader, F.nll_loss)


def test_an_infinite_loss_stops_too():
    batch = torch.rand(4, 1, 28, 28), torch.arange(4)
    for infinity in (math.inf, -math.inf):
        with pytest.raises(FloatingPointError, match=f"Testing, batch 1: the loss is {infinity};"):
            utils.test(tiny_model(), CPU, [batch], lambda *pair, by=infinity: by * F.nll_loss(*pair))


def test_outputs_have_gradients_in_training_only():
    model, seen = tiny_model(), []
    model.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    batch = torch.rand(4, 1, 28, 28), torch.arange(4)
    utils.test(model, CPU, [batch], F.nll_loss)
    utils.train(model, CPU, [batch], utils.get_optimizer(model), F.nll_loss)
    assert seen == [False, True]


def test_bad_loops_are_refused_in_one_sentence():
    model = tiny_model()
    data = [(torch.rand(4, 1, 28, 28), torch.arange(4))]
    with pytest.raises(ValueError, match="The loader gave no batch"):
        utils.test(model, CPU, [], F.nll_loss)
    with pytest.raises(ValueError, match="Unknown precision 'fp8': choose 'fp32' or 'bf16'"):
        utils.test(model, CPU, data, F.nll_loss, precision="fp8")
    for loss in (torch.nn.NLLLoss(reduction="sum"), lambda o, y: F.nll_loss(o, y, reduction="none")):
        with pytest.raises(ValueError, match="reduction='mean'"):
            utils.test(model, CPU, data, loss)


# Progress bar -----------------------------------------------------------------------------------


def test_no_progress_bar_where_nobody_watches(capfd):
    utils.test(tiny_model(), CPU, [(torch.rand(4, 1, 28, 28), torch.arange(4))], F.nll_loss)
    assert capfd.readouterr() == ("", "")


def test_a_bar_in_a_terminal_that_clears_itself():
    fcntl = pytest.importorskip("fcntl")  # not on Windows
    import pty
    import select
    import struct
    import termios

    code = (
        "import torch, utils, time\n"
        "utils.set_seed(0)\n"
        "model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10), torch.nn.LogSoftmax(1))\n"
        "class Slow(list):\n"
        "    def __iter__(self):\n"
        "        for x in list.__iter__(self): time.sleep(0.2); yield x\n"
        "data = Slow([(torch.rand(4, 1, 28, 28), torch.arange(4))] * 4)\n"
        "utils.test(model, 'cpu', data, torch.nn.functional.nll_loss)\n"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))  # tqdm hides in a window of no size
    subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True, cwd=Path(utils.__file__).parent)
    assert select.select([ours], [], [], 5)[0], "no bar was shown"
    shown = os.read(ours, 100_000).decode()
    os.close(theirs)
    os.close(ours)
    assert "Testing" in shown
    assert re.search(r"loss \d\.\d{4}, \d+\.\d\d %", shown)
    assert shown.rsplit("\r", 2)[1].strip() == ""


def test_a_bar_in_a_live_notebook_that_leaves_nothing_in_what_is_saved():
    """Run by a client that can answer questions, as a browser does, and by one that cannot, as nbval does."""
    from jupyter_client.manager import start_new_kernel

    code = (
        "import torch, utils, time\n"
        "model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10), torch.nn.LogSoftmax(1))\n"
        "class Slow(list):\n"
        "    def __iter__(self):\n"
        "        for x in list.__iter__(self): time.sleep(0.2); yield x\n"
        "data = Slow([(torch.rand(4, 1, 28, 28), torch.arange(4))] * 4)\n"
        "for epoch in range(2):\n"
        "    loss, accuracy = utils.test(model, 'cpu', data, torch.nn.functional.nll_loss)\n"
        "    print(f'Epoch {epoch}')\n"
    )
    manager, client = start_new_kernel(cwd=str(Path(utils.__file__).parent))
    try:
        shown = {}
        for live in (True, False):
            texts = []

            def collect(message, texts=texts):
                if message["msg_type"] == "stream":
                    texts.append((message["content"]["name"], message["content"]["text"]))

            reply = client.execute_interactive(code, allow_stdin=live, output_hook=collect, timeout=120)
            assert reply["content"]["status"] == "ok", reply["content"]
            assert {name for name, _ in texts} == {"stdout"}
            shown[live] = "".join(text for _, text in texts)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert shown[False] == "Epoch 0\nEpoch 1\n"
    assert "Testing" in shown[True]
    saved = []  # what a browser saves: a carriage return goes back, what follows overwrites
    for line in shown[True].split("\n"):
        kept = ""
        for part in line.split("\r"):
            kept = part + kept[len(part) :]
        saved.append(kept.rstrip())
    assert saved == ["Epoch 0", "Epoch 1", ""]


# Plots ------------------------------------------------------------------------------------------


def test_images_are_drawn_between_the_limits_or_their_own():
    images = torch.tensor([0.25, 0.75]).view(2, 1, 1, 1) * torch.eye(3)
    for limits, expected in ((None, [(0, 0.25), (0, 0.75)]), ((-1, 2), [(-1, 2), (-1, 2)])):
        axes = utils.post_images(images, limits=limits, columns=2).axes
        assert [ax.images[0].get_clim() for ax in axes] == expected


def test_samples_are_the_loaders_with_their_labels(digits):
    figure = utils.post_display(digits[1])
    images, labels = next(iter(digits[1]))
    assert len(figure.axes) == 16
    for ax, image, label in zip(figure.axes, images, labels, strict=False):
        assert ax.get_title() == str(int(label))
        assert ax.images[0].get_array().tolist() == image[0].tolist()


def test_samples_need_sixteen_images(digits):
    loader = utils.get_MNISTdataset_with_loader("test", {"batch_size": 8}, dataset="digits")
    with pytest.raises(ValueError, match="shows 16 images; the first batch has 8"):
        utils.post_display(loader)


def test_curves_have_named_axes_and_the_data():
    lists = [2.0, 1.0, 0.5], [1.5, 0.75, 0.4], [50.0, 80.0, 90.0], [60.0, 85.0, 92.0]
    figure = utils.post_accuracyplots(*lists)
    loss, accuracy = figure.axes
    assert (loss.get_title(), loss.get_xlabel()) == ("Loss", "epoch")
    assert loss.get_ylabel() == "mean negative log-likelihood"
    assert (accuracy.get_title(), accuracy.get_xlabel()) == ("Accuracy", "epoch")
    assert accuracy.get_ylabel() == "accuracy (%), stretched towards 100"
    for ax, pair in ((loss, lists[:2]), (accuracy, lists[2:])):
        assert [line.get_label() for line in ax.lines] == ["training", "test"]
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["training", "test"]
        for line, values in zip(ax.lines, pair, strict=True):
            assert line.get_xdata().tolist() == [1, 2, 3]
            assert line.get_ydata().tolist() == values


def test_training_and_test_have_the_styles_of_all_figures():
    for ax in utils.post_accuracyplots([2.0, 1.0], [1.5, 0.8], [50.0, 80.0], [60.0, 85.0]).axes:
        drawn = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in ax.lines]
        assert drawn == [(s["color"], s["linestyle"], s["marker"]) for s in (TRAIN_STYLE, TEST_STYLE)]


def test_accuracies_near_100_stand_apart():
    ax = utils.post_accuracyplots([1.0], [1.0], [50.0], [100.0]).axes[1]
    at = [ax.transData.transform((1, a))[1] for a in (80, 90, 99, 99.5, 100)]
    assert at == sorted(at)
    for low, high in ((60.0, 75.0), (99.55, 99.65), (10.0, 10.0)):
        ax = utils.post_accuracyplots([1.0, 0.0], [1.0, 0.0], [low, low], [high, high]).axes[1]
        shown = [tick for tick in ax.get_yticks() if ax.get_ylim()[0] <= tick <= ax.get_ylim()[1]]
        assert len(shown) > 1
    assert at[3] - at[2] > 0.5 * (at[1] - at[0])  # half of the error, at either end


def test_recipes_are_compared_over_seconds_and_the_fraction_of_the_run():
    figure = utils.post_recipes(
        {
            "slow": {"seconds": [10, 20], "accuracy": [90.0, 99.0], "rates": [0.1, 0.01]},
            "quick": {"seconds": iter([1, 2, 3, 4]), "accuracy": [80.0, 90.0, 95.0, 99.0], "rates": [1, 3, 2, 0]},
        }
    )
    accuracy, rate = figure.axes
    assert (accuracy.get_xlabel(), accuracy.get_ylabel()) == (
        "training time (s)",
        "test accuracy (%), stretched towards 100",
    )
    assert (rate.get_xlabel(), rate.get_ylabel()) == ("fraction of the run (%)", "rate (% of its highest)")
    assert [line.get_label() for line in accuracy.lines] == ["slow", "quick"]
    assert accuracy.lines[1].get_xydata().tolist() == [[1, 80], [2, 90], [3, 95], [4, 99]]
    assert [line.get_label() for line in rate.lines] == ["slow (100 %: 0.1)", "quick (100 %: 3)"]
    for line, rates in zip(rate.lines, ([100, 10, 10], [100 / 3, 100, 200 / 3, 0, 0]), strict=True):
        assert line.get_xdata().tolist() == [100 * i / (len(rates) - 1) for i in range(len(rates))]
        assert line.get_ydata().tolist() == pytest.approx(rates)


def networks():
    """Made-up networks of the course, three of one size, and published ones."""
    draws = np.random.default_rng(0)
    ours = {
        name: {"parameters": size, "accuracies": list(100 - error * draws.uniform(0.8, 1.2, runs))}
        for name, size, error, runs in (
            *(("Net", 593_200, 0.7, 3), ("Net, fast", 593_200, 0.71, 5), ("Net, once", 593_200, 0.68, 1)),
            *(("SmallNet", 18_500, 0.35, 5), ("TinyNet", 7_800, 0.45, 5), ("MicroNet", 690, 1, 5)),
        )
    }
    published = [
        {"name": "by hand", "parameters": 61_706, "accuracy": 99.05, "best_epoch": False},
        {"name": "record", "parameters": 697, "accuracy": 99.0, "best_epoch": True},
        {"name": "student", "parameters": 7_918, "accuracy": 99.52, "best_epoch": True},
    ]
    return ours, published


def test_the_style_ends_with_its_figure_and_figures_stay_shown(monkeypatch):
    """In a notebook the first figure makes matplotlib interactive; a style that undid it would hide those after it."""
    grid = matplotlib.rcParams["axes.grid"]
    matplotlib.interactive(False)
    with plots.styled():
        assert matplotlib.rcParams["axes.grid"] is True
        matplotlib.interactive(True)
    assert matplotlib.is_interactive()
    assert matplotlib.rcParams["axes.grid"] == grid
    matplotlib.interactive(False)
    with plots.styled():
        pass
    assert not matplotlib.is_interactive()


def test_parameters_are_compared_with_errors():
    ours, published = networks()
    figure = utils.post_parameters(ours, published)
    (ax,) = figure.axes
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("parameters", "test error (%)")
    (points, _, (bars,)), plain, best = ax.containers[0].lines, *ax.lines[-2:]
    errors = [100 - np.array(each["accuracies"]) for each in ours.values()]
    means = np.array([error.mean() for error in errors])
    deviations = np.array([error.std(ddof=1) if len(error) > 1 else 0 for error in errors])
    sizes = [each["parameters"] for each in ours.values()]
    np.testing.assert_allclose(points.get_xydata(), np.column_stack([sizes, means]))
    low, high = np.array([[y for _, y in bar] for bar in bars.get_segments()], float).T
    np.testing.assert_allclose(low, means - deviations)
    np.testing.assert_allclose(high, means + deviations)
    np.testing.assert_allclose(plain.get_xydata(), [[61_706, 0.95]])
    np.testing.assert_allclose(best.get_xydata(), [[697, 1.0], [7_918, 0.48]])
    assert (plain.get_fillstyle(), best.get_fillstyle()) == ("full", "none")
    assert plain.get_marker() == best.get_marker() != points.get_marker()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "this course, mean ± sd over seeds",
        "published",
        "published, best epoch on the test set",
    ]
    figure.draw_without_rendering()
    shown = [label.get_text() for label in ax.get_yticklabels() if ax.get_ylim()[0] <= label.get_position()[1]]
    assert shown[:5] == ["0.3", "0.5", "0.7", "1", "1.5"]
    assert "10,000" in [label.get_text() for label in ax.get_xticklabels()]


def test_names_of_networks_cover_neither_points_nor_one_another():
    """Also where there is a crowd: nine of one size, at the right edge, with long names."""
    ours, published = networks()
    errors = np.geomspace(0.68, 0.78, 6)
    ours |= {f"Net, recipe {e:.4f}": {"parameters": 593_200, "accuracies": [99.99 - e, 100.01 - e]} for e in errors}
    (ax,) = utils.post_parameters(ours, published).axes
    assert {text.get_text() for text in ax.texts} == {*ours, *(each["name"] for each in published)}
    ax.figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in ax.texts]  # of the words, without the line to the point
    points = [ax.transData.transform(point) for line in [ax.lines[0], *ax.lines[-2:]] for point in line.get_xydata()]
    frame = ax.get_window_extent()
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
        assert not any(box.contains(*point) for point in points)
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1


def test_networks_alone_and_published_ones_alone():
    ours, published = networks()
    for figure, count in ((utils.post_parameters(ours), 1), (utils.post_parameters({}, published[1:]), 1)):
        assert len(figure.axes[0].get_legend().get_texts()) == count


def test_networks_without_a_logarithm_are_refused():
    good = {"parameters": 100, "accuracies": [99.0]}
    for ours, published, message in (
        ({}, [], "nothing to plot: give at least one network"),
        ({"a": good, "b": {**good, "accuracies": []}}, [], r"b needs accuracies from 0 to below 100 %, not \[\]"),
        ({"a": {**good, "accuracies": [99.0, 100]}}, [], r"not \[99.0, 100\]"),
        ({"a": {**good, "accuracies": [math.nan]}}, [], r"not \[nan\]"),
        ({"a": good}, [{"name": "c", "parameters": 9, "accuracy": 100.0, "best_epoch": True}], "c needs accuracies"),
        ({"a": {**good, "parameters": 0}}, [], "a needs a number of parameters from 1, not 0"),
    ):
        with pytest.raises(ValueError, match=message):
            utils.post_parameters(ours, published)


def test_nothing_to_plot_is_said():
    with pytest.raises(ValueError, match="There is no image to show"):
        utils.post_images([])
    with pytest.raises(ValueError, match="columns must be a whole number from 1, not 0"):
        utils.post_images([torch.zeros(2, 2)], columns=0)
    with pytest.raises(ValueError, match="run the training loop first"):
        utils.post_accuracyplots([], [], [], [])


# The whole, on real MNIST -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.mnist
def test_a_quarter_of_an_epoch_on_mnist_reaches_96_percent():
    """And `test` reports, in the precision of its choice, within 0.05 points what it would in fp32."""
    folder = dataset.raw_folder("mnist", dataset.data_root())
    if not all((folder / file).is_file() for file in dataset.ALL_FILES):
        pytest.skip("real MNIST is not here: point MNIST_DATA at a folder that holds MNIST/raw")
    utils.set_seed(1)
    device, model = utils.get_device(), Net()
    model.to(device)
    data = utils.get_MNISTdataset_with_loader("train", {}, dataset="mnist").dataset
    train_loader = DataLoader(Subset(data, range(15_000)), batch_size=64, shuffle=True)
    test_loader = utils.get_MNISTdataset_with_loader("test", {"batch_size": 500}, dataset="mnist")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        utils.train(model, device, train_loader, utils.get_optimizer(model, "Adam", 0.001), utils.get_loss())
        loss, accuracy = utils.test(model, device, test_loader, utils.get_loss())
        exact = utils.test(model, device, test_loader, utils.get_loss(), precision="fp32")
    assert accuracy >= 96
    assert accuracy == pytest.approx(exact[1], abs=0.05)
    assert loss == pytest.approx(exact[0], rel=0.02)
