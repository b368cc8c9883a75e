import matplotlib
import matplotlib.pyplot as plt
import pytest

import dataset
import utils

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _fresh():
    """No figure, failed download or seed of one test reaches the next."""
    utils.set_seed(0)
    dataset._failures.clear()
    dataset._told.clear()
    yield
    plt.close("all")


@pytest.fixture
def digits():
    """Loaders of the embedded digits: (training, shuffled, batches of 32; test, batches of 100)."""
    return (
        utils.get_MNISTdataset_with_loader("train", {"batch_size": 32, "shuffle": True}, dataset="digits"),
        utils.get_MNISTdataset_with_loader("test", {"batch_size": 100}, dataset="digits"),
    )
