"""Wrong answers to Session 1's exercises, with a piece of the hint that each should get."""


def scores(*lines):
    return "\n    ".join(["def my_scores(images, W1, b1, W2, b2):", *lines])


def gradient(*lines):
    return "\n    ".join(["def my_gradient(x, p, labels):", *lines])


def step(*lines):
    return "\n    ".join(["def my_step(weight, velocity, gradient, rate, momentum):", *lines])


HIDDEN = "hidden = F.relu(images.flatten(1) @ W1.T + b1)"
OFF = "off = p - F.one_hot(labels, 10)"
VELOCITY = "velocity = momentum * velocity + gradient"

WRONG = {
    1: [
        ("parameters = 784 * 256 + 256 * 128 + 128 * 10", "the biases are missing"),
        ("parameters = 784 * 256 + 256 + 256 * 128 + 128 + 128 * 10", "biases of the last layer are missing"),
        ("parameters = 784 * 256 + 784 + 256 * 128 + 256 + 128 * 10 + 128", "for each of its outputs"),
        ("parameters = 256 + 128 + 10", "counts the neurons"),
        ("parameters = 784 * 256 + 256 + 256 * 128 + 128", "the last one, to the ten digits"),
        ("parameters = sum(p.numel() for p in create_model().parameters())", "the network of the session"),
        ("parameters = 784 * 256 + 256 + 784 * 128 + 128 + 784 * 10 + 10", "the pixels once more"),
        ("parameters = 28 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10", "too small"),
        ("parameters = (785 * 256, 257 * 128, 129 * 10)", "shape (3,), expected ()."),
        ("parameters = None", "no answer yet"),
    ],
    2: [
        (
            scores("return images.flatten(1) @ W1.T @ W2.T + b1 @ W2.T + b2"),
            "something is missing between the two layers",
        ),
        (scores(HIDDEN, "return F.relu(hidden @ W2.T + b2)"), "after the hidden layer only"),
        (scores("return F.relu(images.flatten(1) @ W1.T) @ W2.T"), "the biases are missing"),
        (scores("return F.relu(images.flatten(1) @ W1.T) @ W2.T + b2"), "biases of the hidden layer are missing"),
        (scores(HIDDEN, "return hidden @ W2.T"), "biases of the last layer are missing"),
        (scores("return (F.relu(images.flatten(1) @ W1.T) + b1) @ W2.T + b2"), "after the bias"),
        (scores("return (images.flatten(1) @ W1.T + b1).abs() @ W2.T + b2"), "does not turn the sign"),
        (scores("return torch.sigmoid(images.flatten(1) @ W1.T + b1) @ W2.T + b2"), "another function than ReLU"),
        (scores(HIDDEN, "return F.softmax(hidden @ W2.T + b2, dim=1)"), "before softmax"),
        (scores(HIDDEN, "return F.log_softmax(hidden @ W2.T + b2, dim=1)"), "before log-softmax"),
        (scores("return F.linear(F.relu(F.linear(images.flatten(1), W1, b1)), W2, b2)"), "without `linear`"),
        (scores("hidden = nn.Linear(784, 128)(images.flatten(1))", "return hidden"), "without `Linear`"),
        (
            scores("hidden = nn.Sequential(nn.Flatten(), nn.ReLU())(images)", "return hidden @ W2.T + b2"),
            "without `Sequential`",
        ),
        (f"layer = nn.Linear(784, 10)\n{scores('return layer(images.flatten(1))')}", "without `Linear`"),
        (
            f"def helper(*given):\n    return F.linear(*given)\n\n\n{scores('return helper(images, W1)')}",
            "without `linear`",
        ),
        ("from functools import partial\n\nmy_scores = partial(F.linear)", "without `linear`"),
        (
            "class Scores:\n    def __call__(self, *given):\n        return F.linear(*given)\n\n\nmy_scores = Scores()",
            "without `linear`",
        ),
        (scores("return F.relu(images @ W1.T + b1) @ W2.T + b2"), "it raised RuntimeError in case 1"),
        (scores("return F.relu(images.flatten(1) @ W1 + b1) @ W2 + b2"), "it raised RuntimeError in case 1"),
        (scores(HIDDEN, "return (hidden @ W2.T + b2)[0]"), "in case 1 of 3: shape (10,), expected (3, 10)"),
    ],
    3: [
        (gradient(OFF, "return off.T @ x"), "the loss is their mean"),
        (gradient(OFF, "return -off.T @ x / len(labels)"), "the sign is the wrong way round"),
        (gradient(OFF, "return x.T @ off / len(labels)"), "a row belongs to each digit"),
        (gradient("return p.T @ x / len(labels)"), "the labels play no part"),
        (gradient(OFF, "return off.T @ x / off.numel()"), "over images and digits"),
        (gradient(OFF, "return off.T @ x / x.numel()"), "over images and inputs"),
        (gradient("return (p - labels[:, None]).T @ x / len(labels)"), "a label is a digit"),
        (gradient("return (F.softmax(p, dim=1) - F.one_hot(labels, 10)).T @ x / len(labels)"), "no softmax is wanted"),
        (
            gradient("p[torch.arange(len(labels)), labels] -= 1", "return p.T @ x / len(labels)"),
            "it changes its arguments",
        ),
        (
            gradient(
                "W = torch.zeros(10, x.shape[1], requires_grad=True)",
                "F.cross_entropy(x @ W.T, labels).backward()",
                "return W.grad",
            ),
            "without `cross_entropy`",
        ),
        (gradient("return torch.autograd.grad((p @ x).sum(), p)"), "without `autograd`"),
        (gradient(OFF, "return off @ x / len(labels)"), "it raised RuntimeError in case 1"),
        (gradient("return (p - F.one_hot(labels)).T @ x / len(labels)"), "it raised RuntimeError in case 1"),
        (gradient(OFF, "return (off.T @ x / len(labels)).sum(1)"), "shape (10,), expected (10, 4)"),
    ],
    4: [
        (step("return weight - rate * gradient, gradient"), "the velocity forgets what it was"),
        (step(VELOCITY, "return weight - rate * velocity"), "return both"),
        (step(VELOCITY, "return torch.stack([weight - rate * velocity, velocity])"), "a Tensor, expected 2 values"),
        (step(VELOCITY, "return velocity, weight - rate * velocity"), "the weight first"),
        (step(VELOCITY, "return weight + rate * velocity, velocity"), "the weight moves the wrong way"),
        (
            step("velocity = velocity + gradient", "return weight - rate * velocity, velocity"),
            "how much it keeps",
        ),
        (
            step(
                "velocity = momentum * velocity + (1 - momentum) * gradient",
                "return weight - rate * velocity, velocity",
            ),
            "the gradient counts in full",
        ),
        (
            step("velocity = velocity + momentum * gradient", "return weight - rate * velocity, velocity"),
            "not to the gradient",
        ),
        (step("return weight - rate * velocity, momentum * velocity + gradient"), "by the old velocity"),
        (step("return weight - rate * gradient, momentum * velocity + gradient"), "by the gradient alone"),
        (
            step("velocity = momentum * velocity + rate * gradient", "return weight - velocity, velocity"),
            "the rate belongs to the weight's step",
        ),
        (step(VELOCITY, "return weight - velocity, velocity"), "the rate is missing"),
        (
            step(VELOCITY, "return weight - rate * (gradient + momentum * velocity), velocity"),
            "Nesterov",
        ),
        (step("return weight - rate * (momentum * velocity + gradient), velocity"), "return the new one"),
        (step("return weight, velocity"), "both come back unchanged"),
        (
            step("velocity *= momentum", "velocity += gradient", "return weight - rate * velocity, velocity"),
            "it changes its arguments",
        ),
        (
            step(
                "w = nn.Parameter(weight.clone())",
                "w.grad = gradient",
                "torch.optim.SGD([w], lr=rate, momentum=momentum).step()",
                "return w.detach(), momentum * velocity + gradient",
            ),
            "without `SGD`",
        ),
    ],
}

OWN_LINEAR = """
def linear(x, weight, bias):
    return x @ weight.T + bias


class Layer:
    def __call__(self, x, weight, bias):
        return linear(x, weight, bias)
"""

RIGHT = {
    2: [
        OWN_LINEAR + scores("return linear(F.relu(linear(images.flatten(1), W1, b1)), W2, b2)"),
        OWN_LINEAR + scores("return Layer()(F.relu(Layer()(images.flatten(1), W1, b1)), W2, b2)"),
    ],
    4: [step(VELOCITY, "return [weight - rate * velocity, velocity]")],
}
