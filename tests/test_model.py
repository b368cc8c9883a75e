import copy
import inspect
import json
import re

import numpy as np
import pytest
import torch

import model
from insights import receptive_field
from model import Net


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def test_parameters_of_each_layer():
    net = Net()
    counts = {name: sum(p.numel() for p in layer.parameters()) for name, layer in net.named_children()}
    assert counts == {"conv1": 320, "conv2": 18_496, "conv3": 73_856, "conv4": 295_168, "fc1": 204_850, "fc2": 510}
    assert parameters(net) == 593_200


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_log_probabilities_in_either_layout(batch, layout):
    net = Net().to(memory_format=layout)
    output = net(torch.rand(batch, 1, 28, 28).contiguous(memory_format=layout))
    assert output.shape == (batch, 10)
    torch.testing.assert_close(output.exp().sum(1), torch.ones(batch))


def test_layouts_agree():
    net, images = Net(), torch.rand(4, 1, 28, 28)
    expected = net(images)
    torch.testing.assert_close(net.to(memory_format=torch.channels_last)(images), expected)


def test_same_as_the_layers_in_a_row():
    """Against an independent writing of the architecture, with Net's own weights."""
    nn, net, images = torch.nn, Net(), torch.randn(3, 1, 28, 28)
    row = nn.Sequential(
        *(net.conv1, nn.ReLU(), net.conv2, nn.ReLU(), nn.MaxPool2d(2)),
        *(net.conv3, nn.ReLU(), net.conv4, nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), net.fc1, nn.ReLU(), net.fc2, nn.LogSoftmax(dim=1)),
    )
    torch.testing.assert_close(net(images), row(images))


@pytest.mark.parametrize("shape", [(4, 28, 28), (4, 3, 28, 28), (4, 1, 32, 32), (784,)])
def test_other_shapes_are_refused_in_one_sentence(shape):
    with pytest.raises(ValueError, match=r"Net takes images of shape \(N, 1, 28, 28\), not "):
        Net()(torch.rand(shape))


@pytest.mark.parametrize(
    ("name", "layer", "size"), [("Net", "conv4", 14), ("SmallNet", "conv5", 18), ("TinyNet", "conv6", 22)]
)
def test_receptive_field_is_what_the_comments_say(name, layer, size):
    """The pixels with a gradient from one unit of the last convolution, and what the comment at it says."""
    net, seen = model.ARCHITECTURES[name]().eval(), {}
    getattr(net, layer).register_forward_hook(lambda layer, inputs, output: seen.update(output=output))
    # Max-pooling lets the gradient of only some pixels through, so the union over many draws counts.
    reached = torch.zeros(28, 28, dtype=torch.bool)
    for _ in range(30):
        image = torch.rand(1, 1, 28, 28, requires_grad=True)
        net(image)
        seen["output"][0, :, 2, 2].sum().backward()
        reached |= image.grad[0, 0] != 0
    rows = reached.any(1).nonzero().flatten()
    assert rows.max() - rows.min() + 1 == size
    line = next(line for line in inspect.getsource(type(net)).splitlines() if re.search(rf"\b{layer}\b.*# \(N", line))
    assert f"{size}×{size}" in line
    assert f"(N, {', '.join(map(str, seen['output'].shape[1:]))})" in line


@pytest.mark.parametrize("name", ["SmallNet", "TinyNet", "MicroNet"])
def test_small_networks_are_their_formulas_in_a_row(name):
    """Against sums over windows, in evaluation, with running figures that are not the first ones."""
    network, images = model.ARCHITECTURES[name]().eval(), torch.randn(3, 1, 28, 28)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.normal_()
            module.running_var.uniform_(0.5, 2)
    x, pooled = images, False
    for layer, part in network.named_children():
        if layer == "pool":
            x, pooled = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5)), True
        elif layer.startswith("conv"):
            windows = x.unfold(2, 3, 1).unfold(3, 3, 1)  # (N, C, H, W, 3, 3)
            if hasattr(part, "depthwise"):
                each = torch.einsum("nchwij,cij->nchw", windows, part.depthwise.weight[:, 0])
                x = torch.einsum("nchw,dc->ndhw", each, part.pointwise.weight[:, :, 0, 0])
            else:
                x = torch.einsum("nchwij,dcij->ndhw", windows, part.conv.weight)
            norm = part.norm
            mean, var, gamma, beta = (
                t.view(-1, 1, 1) for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
            )
            x = ((x - mean) / (var + norm.eps).sqrt() * gamma + beta).clamp(min=0)
    assert pooled
    expected = (x.mean((2, 3)) @ network.fc.weight.T + network.fc.bias).log_softmax(1)
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["SmallNet", "TinyNet", "MicroNet"])
def test_comments_of_the_small_networks_name_shapes_and_fields(name):
    network, source = model.ARCHITECTURES[name](), inspect.getsource(model.ARCHITECTURES[name])
    rows = {row["name"].split(".")[0]: row for row in receptive_field(network)[1]["layers"]}  # the last of each part
    x = torch.zeros(2, 1, 28, 28)
    for layer, part in network.named_children():
        x = part(x)
        (comment,) = re.findall(rf" {layer}=.*#(.*)", source)
        shape = ", ".join(map(str, x.shape[1:]))
        assert comment.startswith(f" (N, {shape})")
        if x.dim() == 4:
            assert comment.startswith(f" (N, {shape}), {rows[layer]['field']}×{rows[layer]['field']}")


def test_budgets_of_the_small_networks():
    assert parameters(model.SmallNet()) < 20_000
    assert parameters(model.TinyNet()) < 8_000
    assert parameters(model.MicroNet()) <= 1_500
    for name in ("SmallNet", "TinyNet", "MicroNet"):  # the counts in words and comments
        network, source = model.ARCHITECTURES[name](), inspect.getsource(model.ARCHITECTURES[name])
        assert f"{parameters(network):,}" in network.__doc__
        for layer, part in network.named_children():
            if parameters(part):
                (line,) = re.findall(rf" {layer}=.*", source)
                assert line.endswith(f", {parameters(part):,}")


@pytest.mark.parametrize(
    ("name", "arguments", "count"),
    [
        ("Net", {}, 593_200),
        # Each by the sums of the layers: inputs × outputs + outputs.
        ("MLP", {}, 784 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10),
        ("MLP", {"hidden_sizes": (), "output_size": 3, "input_size": 5}, 18),
        ("MLP", {"hidden_sizes": [128, 64], "batch_norm": True}, 109_386 + 2 * (128 + 64)),
        ("CNN", {}, 320 + 18_496 + 64 * 7 * 7 * 128 + 128 + 1_290),
        ("CNN", {"padding": 0, "dropout": 0.5}, 320 + 18_496 + 64 * 6 * 6 * 128 + 128 + 1_290),
        ("CNN", {"padding": 2}, 320 + 18_496 + 64 * 8 * 8 * 128 + 128 + 1_290),
        ("ImageClassifier", {}, 56_394),
        # Nine weights a pair of channels and two numbers a channel of batch norm; with depthwise ones nine a channel.
        ("SmallNet", {}, 9 * (16 + 16 * 16 + 16 * 24 + 24 * 24 + 24 * 32) + 2 * (16 + 16 + 24 + 24 + 32) + 330),
        ("TinyNet", {}, 9 * (12 + 12 * 16 + 16 + 3 * 32) + (16 + 3 * 32) * 32 + 2 * (12 + 16 + 4 * 32) + 330),
        ("MicroNet", {}, 9 * (6 + 6 + 10 + 12 + 12) + 60 + 120 + 144 + 144 + 2 * (6 + 10 + 12 + 12 + 12) + 130),
    ],
)
def test_every_architecture_is_rebuilt_from_what_it_carries(name, arguments, count):
    built = model.ARCHITECTURES[name](**arguments)
    assert parameters(built) == count
    assert built.architecture == name
    json.dumps(built.arguments)  # plain types only
    again = model.ARCHITECTURES[built.architecture](**built.arguments)
    again.load_state_dict(built.state_dict())
    inputs = torch.rand(3, 5) if arguments.get("input_size") == 5 else torch.randn(3, 1, 28, 28)
    built.eval(), again.eval()
    output = again(inputs)
    torch.testing.assert_close(output, built(inputs))
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.exp().sum(1), torch.ones(3))


@pytest.mark.parametrize("name", model.ARCHITECTURES)
def test_answers_are_not_rounded_under_bf16_autocast(name):
    with torch.autocast("cpu", torch.bfloat16):
        output = model.ARCHITECTURES[name]()(torch.randn(2, 1, 28, 28))
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.detach().exp().sum(1), torch.ones(2))


def test_default_perceptron_has_the_documented_size():
    assert parameters(model.create_model()) == 109_386


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "tanh"])
def test_perceptron_is_its_matrices_in_a_row(activation):
    """Against products written out with numpy, on flat and square images."""
    f = {
        "relu": lambda x: np.maximum(x, 0),
        "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
        "elu": lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1),
        "tanh": np.tanh,
    }[activation]
    mlp, images = model.create_model(activation=activation), torch.randn(4, 1, 28, 28)
    (w1, b1), (w2, b2), (w3, b3) = (
        (layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in mlp.layers if hasattr(layer, "weight")
    )
    x = images.reshape(4, 784).numpy()
    scores = f(f(x @ w1.T + b1) @ w2.T + b2) @ w3.T + b3
    expected = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    for shape in ((4, 1, 28, 28), (4, 784)):
        np.testing.assert_allclose(mlp(images.view(shape)).detach().numpy(), expected, atol=1e-5)


def test_cnn_is_its_layers_in_a_row():
    nn, cnn, images = torch.nn, model.CNN(padding=0), torch.randn(3, 1, 28, 28)
    row = nn.Sequential(
        *(cnn.conv1, nn.ReLU(), nn.MaxPool2d(2), cnn.conv2, nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), cnn.fc1, nn.ReLU(), cnn.fc2, nn.LogSoftmax(dim=1)),
    )
    torch.testing.assert_close(cnn(images), row(images))


def test_cnn_drops_the_inputs_of_both_linear_layers():
    """Against modules in a row that draw from the same seed."""
    nn, cnn, images = torch.nn, model.CNN(dropout=0.4).train(), torch.randn(3, 1, 28, 28)
    row = nn.Sequential(
        *(cnn.conv1, nn.ReLU(), nn.MaxPool2d(2), cnn.conv2, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Dropout(0.4), cnn.fc1, nn.ReLU(), nn.Dropout(0.4), cnn.fc2, nn.LogSoftmax(dim=1)),
    )
    torch.manual_seed(5)
    expected = row(images)
    torch.manual_seed(5)
    torch.testing.assert_close(cnn(images), expected)


def test_perceptron_normalises_before_the_activation_and_drops_after_it():
    nn, images = torch.nn, torch.randn(16, 1, 28, 28)
    mlp = model.create_model(hidden_sizes=(20, 15), activation="elu", dropout=0.3, batch_norm=True).train()
    (first, second, third), (one, two) = (
        [module for module in mlp.modules() if isinstance(module, kind)] for kind in (nn.Linear, nn.BatchNorm1d)
    )
    row = nn.Sequential(
        *(nn.Flatten(), first, copy.deepcopy(one), nn.ELU(), nn.Dropout(0.3)),
        *(second, copy.deepcopy(two), nn.ELU(), nn.Dropout(0.3), third, nn.LogSoftmax(dim=1)),
    )
    torch.manual_seed(5)
    expected = row(images)
    torch.manual_seed(5)
    torch.testing.assert_close(mlp(images), expected)


def test_numpy_numbers_are_numbers():
    mlp = model.create_model(np.int64(784), [np.int32(20)], np.int64(10), dropout=np.float32(0.5))
    assert json.loads(json.dumps(mlp.arguments))["hidden_sizes"] == [20]
    assert model.CNN(padding=np.int64(1), dropout=np.float64(0.5)).arguments == {"padding": 1, "dropout": 0.5}


def test_dropout_works_in_training_only():
    images = torch.rand(2, 1, 28, 28)
    for network in (model.CNN(dropout=0.5), model.create_model(dropout=0.5)):
        assert not torch.equal(network(images), network(images))
        network.eval()
        assert torch.equal(network(images), network(images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "sigmoid"}, "Unknown activation 'sigmoid': choose one of relu, leaky_relu, elu, tanh."),
        ({"activation": ["relu"]}, "Unknown activation ['relu']: choose one of relu, leaky_relu, elu, tanh."),
        ({"batch_norm": "no"}, "batch_norm must be True or False, not 'no'."),
        ({"input_size": -784}, "input_size must be a whole number from 1, not -784."),
        ({"output_size": 0}, "output_size must be a whole number from 1, not 0."),
        ({"hidden_sizes": (128, -64)}, "each of hidden_sizes must be a whole number from 1, not -64."),
        ({"hidden_sizes": (128.0,)}, "each of hidden_sizes must be a whole number from 1, not 128.0."),
        ({"hidden_sizes": 128}, "hidden_sizes must be a list or tuple of sizes, not 128."),
        ({"dropout": 1.0}, "dropout must be a number from 0 to below 1, not 1.0."),
        ({"dropout": "half"}, "dropout must be a number from 0 to below 1, not 'half'."),
    ],
)
def test_bad_arguments_of_the_perceptron_are_named(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        model.create_model(**arguments)


def test_bad_arguments_of_the_cnn_are_named():
    for padding in (-1, 3, 1.0, "same"):
        with pytest.raises(ValueError, match=re.escape(f"padding must be 0, 1 or 2, not {padding!r}.")):
            model.CNN(padding=padding)
    with pytest.raises(ValueError, match=re.escape("dropout must be a number from 0 to below 1, not 2.")):
        model.CNN(dropout=2)


@pytest.mark.parametrize("name", ["CNN", "ImageClassifier", "MLP", "SmallNet", "TinyNet", "MicroNet"])
@pytest.mark.parametrize("shape", [(4, 28, 28), (4, 3, 28, 28), (4, 1, 32, 32), (784,)])
def test_wrong_image_size_is_named_with_what_fits(name, shape):
    with pytest.raises(ValueError, match=r"takes images of shape \(N, 1, 28, 28\).*, not \("):
        model.ARCHITECTURES[name]()(torch.rand(shape))
