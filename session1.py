"""Session 1's functions by the names of its guide, each a few lines over the toolkit.

The whole run without its pictures, about half a minute on MNIST:

    python session1.py
"""

import time

import utils
from checks import whole_number
from model import create_model
from training import HALVES


def load_mnist(data_dir=None, batch_size=64, *, dataset="auto"):
    """MNIST as `(trainloader, valloader)`: 60,000 images shuffled, 10,000 in order, scaled to [-1, 1].

    `data_dir`: the folder that holds `MNIST/raw`, and `dataset`: see `dataset.load_dataset`, also
    for what is raised. What the guide calls validation data are MNIST's test images.
    """
    options = {"dataset": dataset, "root": data_dir, "transform": utils.get_test_transforms(**HALVES)}
    return (
        utils.get_MNISTdataset_with_loader("train", {"batch_size": batch_size, "shuffle": True}, **options),
        utils.get_MNISTdataset_with_loader("test", {"batch_size": batch_size}, **options),
    )


def display_sample_images(trainloader, num_images=60):
    """Draw the first images that the loader gives, ten in a row, dark on light.

    Returns the whole batch, `(images, labels)`, as the loader gave it; the figure is the current one.
    Raises ValueError for a number below 1 or above what the batch holds.
    """
    images, labels = next(iter(trainloader))
    whole_number("num_images", num_images, 1, len(images))
    utils.post_images(images[:num_images].cpu(), cmap="gray_r")
    return images, labels


def train_model(model, trainloader, epochs=15, learning_rate=0.003, momentum=0.9):
    """Train with SGD and the negative log-likelihood, printing each epoch's mean loss.

    Returns `(model, minutes)`; the model is then on the fastest device there is. Raises ValueError
    for a number of epochs below 1, and what `utils.train` raises.
    """
    epochs = whole_number("epochs", epochs)
    device = utils.get_device()
    model = model.to(device)
    optimizer = utils.get_optimizer(model, "SGD", learning_rate, momentum)
    criterion = utils.get_loss("nll_loss")
    start = time.perf_counter()
    for epoch in range(1, epochs + 1):
        loss, _ = utils.train(model, device, trainloader, optimizer, criterion, epoch=epoch)
        print(f"Epoch {epoch:2d}: training loss {loss:.4f}")
    minutes = (time.perf_counter() - start) / 60
    print(f"Training took {minutes:.2f} minutes")
    return model, minutes


def evaluate_model(model, valloader):
    """The fraction of the images that the model reads correctly, from 0 to 1; printed with their number."""
    device = next(model.parameters()).device
    _, percent = utils.test(model, device, valloader, utils.get_loss("nll_loss"))
    print(f"Images: {len(valloader.dataset):,}, accuracy: {percent / 100:.4f}")
    return percent / 100


def main():
    """The guide's run from the data to the accuracy; returns `(model, accuracy)`."""
    utils.set_seed(1)
    trainloader, valloader = load_mnist()
    model, _ = train_model(create_model(), trainloader)
    return model, evaluate_model(model, valloader)


if __name__ == "__main__":
    main()
