"""A small run for the tests of checkpoints and of training; what the hardware must have for some."""

import pytest
import torch

import model as models
import training
import utils

BF16 = pytest.param(
    "bf16", marks=pytest.mark.skipif(utils.get_precision("cpu") == "fp32", reason="this CPU would emulate bfloat16")
)


def loaders(batch_size=64):
    options = {"dataset": "digits", "holdout": "auto"}
    return (
        utils.get_MNISTdataset_with_loader("train", {"batch_size": batch_size, "shuffle": True}, **options),
        utils.get_MNISTdataset_with_loader("validation", {"batch_size": 100}, **options),
    )


def trained(folder, epochs, *, seed=3, optname="AdamW", scheduler=None, planned=4, build=None, data=None, **options):
    """Fit a small network with dropout; `planned` epochs are what a one-cycle rate is laid out for."""
    utils.set_seed(seed)
    train_loader, validation_loader = data or loaders()
    model = build() if build else models.create_model(hidden_sizes=(32,), dropout=0.3)
    optimizer = utils.get_optimizer(model, optname, 0.003)
    steps = {"total_steps": planned * len(train_loader)} if scheduler == "OneCycleLR" else {"stepsize": 1}
    schedule = scheduler and utils.get_scheduler(optimizer, name=scheduler, **steps)
    options = {"epochs": epochs, "scheduler": schedule, "folder": folder, "verbose": False, **options}
    history = training.fit(model, "cpu", train_loader, validation_loader, optimizer, utils.get_loss(), **options)
    return model, history


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
