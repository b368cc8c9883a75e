"""The functions of session 1's guide, on the embedded digits."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import session1
import utils
from model import create_model


def test_from_the_data_to_the_accuracy(capsys):
    trainloader, valloader = session1.load_mnist(batch_size=32, dataset="digits")
    images, labels = next(iter(trainloader))
    assert images.shape == (32, 1, 28, 28)
    assert labels.shape == (32,)
    assert images.min() == -1
    assert images.max() <= 1
    assert (len(trainloader.dataset), len(valloader.dataset)) == (1_437, 360)
    model, minutes = session1.train_model(create_model(), trainloader, epochs=5, learning_rate=0.01)
    assert 0 < minutes < 1
    accuracy = session1.evaluate_model(model, valloader)
    printed = capsys.readouterr().out
    assert printed.count("training loss") == 5
    assert f"Images: 360, accuracy: {accuracy:.4f}" in printed
    device = next(model.parameters()).device
    with torch.no_grad(), utils.autocast(device):  # counted again, image by image
        right = sum(
            int(model(image[None].to(device)).argmax()) == label
            for images, labels in valloader
            for image, label in zip(images, labels.tolist(), strict=True)
        )
    assert accuracy == pytest.approx(right / 360)
    assert accuracy > 0.85


def test_training_images_are_shuffled_and_the_others_in_order():
    trainloader, valloader = session1.load_mnist(batch_size=32, dataset="digits")
    (_, mixed), (_, ordered) = next(iter(trainloader)), next(iter(valloader))
    assert not torch.equal(mixed, trainloader.dataset.labels[:32])
    assert torch.equal(ordered, valloader.dataset.labels[:32])


def test_rate_and_momentum_are_those_of_a_loop_and_minutes_are_60_seconds(monkeypatch):
    monkeypatch.setattr(session1, "time", SimpleNamespace(perf_counter=iter([10.0, 100.0]).__next__))
    monkeypatch.setattr(utils, "get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(utils, "get_precision", lambda device: "fp32")
    batch = torch.randn(8, 1, 28, 28), torch.arange(8)
    model = create_model(hidden_sizes=())
    weights = [parameter.detach().clone().requires_grad_() for parameter in model.parameters()]
    velocities = [torch.zeros_like(weight) for weight in weights]
    _, minutes = session1.train_model(model, [batch], epochs=3, learning_rate=0.02, momentum=0.5)
    assert minutes == 1.5
    for _ in range(3):
        loss = F.cross_entropy(batch[0].flatten(1) @ weights[0].T + weights[1], batch[1])
        for i, gradient in enumerate(torch.autograd.grad(loss, weights)):
            velocities[i] = 0.5 * velocities[i] + gradient
            weights[i] = (weights[i] - 0.02 * velocities[i]).detach().requires_grad_()
    torch.testing.assert_close(list(model.parameters()), weights, check_stride=False)


def test_sixty_images_in_six_rows_of_ten():
    trainloader, _ = session1.load_mnist(dataset="digits")
    images, labels = session1.display_sample_images(trainloader)  # as the guide calls it
    assert (images.shape, labels.shape) == ((64, 1, 28, 28), (64,))
    figure = plt.gcf()
    assert len(figure.axes) == 60
    assert (figure.axes[59].images[0].get_array() == images[59, 0].numpy()).all()
    assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == (6, 10)
    first = next(iter(session1.load_mnist(dataset="digits")[1]))[0]
    session1.display_sample_images(session1.load_mnist(dataset="digits")[1], 7)
    shown = plt.gcf().axes[6].images[0].get_array()
    assert (torch.from_numpy(shown.data) == first[6, 0]).all()


def test_bad_numbers_are_named():
    trainloader, _ = session1.load_mnist(dataset="digits", batch_size=32)
    with pytest.raises(ValueError, match="num_images must be a whole number from 1 to 32, not 60"):
        session1.display_sample_images(trainloader)
    with pytest.raises(ValueError, match="epochs must be a whole number from 1, not 0"):
        session1.train_model(create_model(), trainloader, epochs=0)
    images, _ = session1.display_sample_images(trainloader, 32)  # the highest that will do
    assert (len(plt.gcf().axes), len(images)) == (40, 32)


def test_numpy_integers_are_integers():
    trainloader, _ = session1.load_mnist(dataset="digits", batch_size=32)
    session1.display_sample_images(trainloader, np.int64(3))
    assert len(plt.gcf().axes) == 10
    session1.train_model(create_model(), trainloader, epochs=np.int64(1))


def test_each_image_is_flipped_by_its_own_draw():
    flip, images = utils.RandomHorizontalFlipEach(0.3), torch.rand(2_000, 1, 28, 28)
    flipped = flip(images)
    same = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == torch.tensor(images.numpy()[..., ::-1].copy())).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 520 < mirrored.sum() < 680  # 600 ± 4 standard deviations
    assert torch.equal(utils.RandomHorizontalFlipEach(0)(images), images)
    one = utils.RandomHorizontalFlipEach(1)(images[0])
    assert torch.equal(one, images[0].flip(-1))
    assert repr(flip) == "RandomHorizontalFlipEach(p=0.3)"
