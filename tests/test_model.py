import pytest
import torch

from model import Net


def test_parameters_of_each_layer():
    model = Net()
    counts = {name: sum(p.numel() for p in layer.parameters()) for name, layer in model.named_children()}
    assert counts == {"conv1": 320, "conv2": 18_496, "conv3": 73_856, "conv4": 295_168, "fc1": 204_850, "fc2": 510}
    assert sum(p.numel() for p in model.parameters()) == 593_200


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_log_probabilities_in_either_layout(batch, layout):
    model = Net().to(memory_format=layout)
    output = model(torch.rand(batch, 1, 28, 28).contiguous(memory_format=layout))
    assert output.shape == (batch, 10)
    torch.testing.assert_close(output.exp().sum(1), torch.ones(batch))


def test_layouts_agree():
    model, images = Net(), torch.rand(4, 1, 28, 28)
    expected = model(images)
    torch.testing.assert_close(model.to(memory_format=torch.channels_last)(images), expected)


def test_same_as_the_layers_in_a_row():
    """Against an independent writing of the architecture, with Net's own weights."""
    nn, model, images = torch.nn, Net(), torch.randn(3, 1, 28, 28)
    row = nn.Sequential(
        *(model.conv1, nn.ReLU(), model.conv2, nn.ReLU(), nn.MaxPool2d(2)),
        *(model.conv3, nn.ReLU(), model.conv4, nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), model.fc1, nn.ReLU(), model.fc2, nn.LogSoftmax(dim=1)),
    )
    torch.testing.assert_close(model(images), row(images))


@pytest.mark.parametrize("shape", [(4, 28, 28), (4, 3, 28, 28), (4, 1, 32, 32), (784,)])
def test_other_shapes_are_refused_in_one_sentence(shape):
    with pytest.raises(ValueError, match=r"Net takes images of shape \(N, 1, 28, 28\), not "):
        Net()(torch.rand(shape))


def test_receptive_field_is_what_the_comments_say():
    """The pixels with a gradient from one unit, for the last convolution: 14×14."""
    model, seen = Net(), {}
    model.conv4.register_forward_hook(lambda layer, inputs, output: seen.update(conv4=output))
    # Max-pooling lets the gradient of only some pixels through, so the union over many draws counts.
    reached = torch.zeros(28, 28, dtype=torch.bool)
    for _ in range(30):
        image = torch.rand(1, 1, 28, 28, requires_grad=True)
        model(image)
        seen["conv4"][0, :, 4, 4].sum().backward()
        reached |= image.grad[0, 0] != 0
    rows = reached.any(1).nonzero().flatten()
    assert rows.max() - rows.min() + 1 == 14
