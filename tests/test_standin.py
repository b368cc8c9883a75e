"""The course on a device that is not the CPU, with the CPU's numbers; tests/standin.py is that device."""

import pytest
import torch

import insights
import session1
import training
import utils
from model import CNN, Net, create_model
from predict import predict
from tests import standin

if torch.accelerator.is_available() and not standin.on:
    pytest.skip("a real accelerator is here, and every test runs on it", allow_module_level=True)
standin.install()  # before any test runs: autograd looks for devices once, at its first backward pass


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(standin, "on", True)
    return utils.get_device()


@pytest.fixture
def same(monkeypatch):
    """Call it with a function of the device: the numbers that it returns are the same on the CPU and elsewhere."""
    monkeypatch.setattr(utils, "get_precision", lambda device: "fp32")  # this CPU may have a native bf16

    def compare(run):
        results = {}
        for name in ("cpu", "standin"):
            monkeypatch.setattr(standin, "on", name == "standin")
            device = utils.get_device()
            assert device.type == name
            utils.set_seed(0)
            results[name] = run(device)
        torch.testing.assert_close(results["standin"], results["cpu"], rtol=1e-5, atol=1e-5)

    return compare


def loader(split="train", device=None, **options):
    """200 of the embedded digits, 32 a batch, kept on `device`; the training images augmented and in order."""
    kwargs = {"batch_size": 32} if split == "train" else {"batch_size": 100}
    return utils.get_MNISTdataset_with_loader(
        split, {**kwargs, **options}, dataset="digits", holdout=1_237, device=device
    )


def weights(model):
    return {name: value.cpu() for name, value in model.state_dict().items()}


# ------------------------------------------------------------------------------------------------
# The stand-in itself
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mix",
    [
        lambda there, here: there + here,
        lambda there, here: here @ there,
        lambda there, here: torch.cat([there, here]),
        lambda there, here: torch.stack([there.sum(), here.sum()]),
        lambda there, here: here.sum().add_(there.sum()),
        lambda there, here: here[there.long()],
        lambda there, here: torch.equal(there, here),
        lambda there, here: torch.nn.Linear(3, 3)(there),
        lambda there, here: torch.nn.Linear(3, 3).to(there.device)(here),
        lambda there, here: torch.randperm(3, generator=torch.Generator(), device=there.device),
    ],
)
def test_it_refuses_to_be_mixed_with_the_cpu(device, mix):
    with pytest.raises(RuntimeError, match=r"Expected .* device"):
        mix(torch.ones(3, 3, device=device), torch.ones(3, 3))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_it_takes_what_a_gpu_takes(device, mode):
    before = torch.arange(4.0, device=device)
    with mode():
        takes(before[:3])
        takes(torch.arange(3.0, device=device))


def takes(there):
    device, here = there.device, torch.arange(3.0)
    assert device == torch.device("standin:0")
    assert not isinstance(there.cpu(), standin.Standin)
    for result in (there * here[2], there[here.long()] * 2, there.clone().copy_(here) + there, (2 * here).to(device)):
        assert result.device == device
        assert result.tolist() == [0, 2, 4]
    assert there[torch.as_tensor(there.long(), device=device)].cpu().tolist() == [0, 1, 2]
    assert torch.equal(here.clone().copy_(there), here)
    assert f"{there[1]:.1f}" == "1.0"
    assert sorted(torch.randperm(5, device=device).tolist()) == [0, 1, 2, 3, 4]
    with pytest.raises(TypeError, match=r"Use Tensor.cpu\(\) first"):
        there.numpy()


# ------------------------------------------------------------------------------------------------
# The course on it
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [True, False], ids=["data kept there", "data on the CPU"])
@pytest.mark.parametrize("network", [CNN, lambda: create_model(dropout=0.2, batch_norm=True)], ids=["CNN", "MLP"])
@pytest.mark.parametrize("optimizer", list(utils.OPTIMIZERS))
def test_training_and_testing(same, network, optimizer, kept):
    def run(device):
        model = network().to(device)
        step, criterion = utils.get_optimizer(model, optimizer, 1e-3), utils.get_loss()
        trained = utils.train(model, device, loader(device=device if kept else None), step, criterion)
        tested = utils.test(model, device, loader("test", device if kept else None), criterion)
        return trained, tested, weights(model)

    same(run)


def test_fit_and_resume(same, tmp_path):
    def run(device):
        def fit(epochs, folder, **options):
            model = create_model(batch_norm=True).to(device)
            optimizer = utils.get_optimizer(model, "Adam", 0.003)
            options |= {"epochs": epochs, "folder": tmp_path / device.type / folder, "verbose": False}
            options["scheduler"] = utils.get_scheduler(optimizer, 1)
            history = training.fit(
                model, device, loader(device=device), loader("test"), optimizer, utils.get_loss(), **options
            )
            return {name: values for name, values in history.items() if name != "seconds"}, weights(model)

        whole = fit(2, "whole")
        utils.set_seed(0)
        fit(1, "parts")
        utils.set_seed(1)
        torch.testing.assert_close(fit(2, "parts", resume=True), whole)
        return whole

    same(run)


def test_evaluation_and_rate_range(same):
    def run(device):
        model = create_model().to(device)
        _, found = training.rate_range(model, utils.get_optimizer(model), loader(), utils.get_loss(), steps=20)
        return training.evaluate(model, device, loader("test", device)), found

    same(run)


def test_session1(same):
    def run(device):
        trainloader, valloader = session1.load_mnist(dataset="digits")
        model, _ = session1.train_model(create_model(), trainloader, epochs=1)
        assert next(model.parameters()).device.type == device.type
        return session1.evaluate_model(model, valloader), weights(model)

    same(run)


@pytest.mark.parametrize("kept", [True, False], ids=["data kept there", "data on the CPU"])
def test_insights(same, kept):
    def run(device):
        model = Net().to(device)
        answers = insights.predictions(model, loader("test", device if kept else None))
        images, labels = next(iter(loader("test", device if kept else None, batch_size=3)))
        return vars(answers) | {"classes": None}, insights.explanations(model, images, labels)[1]

    same(run)


def test_predicting(same):
    image = loader("test").dataset.images[0].numpy()
    same(lambda device: predict(Net().to(device), image))
