"""Session 1's exercises."""

import torch
import torch.nn.functional as F

from exercises.checking import judge_function, judge_value


def _parameters(answer):
    weights = 784 * 256 + 256 * 128 + 128 * 10
    biases = 256 + 128 + 10
    return judge_value(
        answer,
        weights + biases,
        {
            "the biases are missing: each output of a layer has one.": weights,
            "the biases of the last layer are missing.": weights + 256 + 128,
            "a layer has one bias for each of its outputs, not for each of its inputs.": weights + 784 + 256 + 128,
            "that counts the neurons; count the connections between them too.": biases,
            "three layers have parameters: the last one, to the ten digits, is missing.": 784 * 256
            + 256 * 128
            + 256
            + 128,
            "that is the network of the session, with 128 and 64 neurons; here it is 256 and 128.": 109_386,
            "a layer takes the outputs of the layer before it, not the pixels once more.": 784 * (256 + 128 + 10)
            + biases,
        },
    )


def _scores(answer):
    draw = torch.Generator().manual_seed(0)

    def case(n, side, hidden, digits=10):
        shapes = [(n, 1, side, side), (hidden, side * side), (hidden,), (digits, hidden), (digits,)]
        # whole numbers: their sums are exact in whatever order they are added up
        return tuple(torch.randint(-3, 4, shape, generator=draw).float() for shape in shapes)

    def network(between=F.relu, first=1, second=1, after=lambda scores: scores):
        """The forward pass with one thing about it changed."""
        return lambda images, W1, b1, W2, b2: after(between(images.flatten(1) @ W1.T + first * b1) @ W2.T + second * b2)

    return judge_function(
        answer,
        [case(3, 4, 6), case(1, 3, 5), case(7, 28, 20)],
        network(),
        {
            "something is missing between the two layers: without it they are no more than one.": network(lambda z: z),
            "the scores may be negative: ReLU comes after the hidden layer only.": network(after=F.relu),
            "the biases are missing.": network(first=0, second=0),
            "the biases of the hidden layer are missing.": network(first=0),
            "the biases of the last layer are missing.": network(second=0),
            "ReLU comes after the bias has been added.": lambda images, W1, b1, W2, b2: (
                (F.relu(images.flatten(1) @ W1.T) + b1) @ W2.T + b2
            ),
            "ReLU makes 0 of what is negative; it does not turn the sign.": network(torch.abs),
            "another function than ReLU stands between the layers.": network(torch.tanh),
            "another function than ReLU stands between the layers: sigmoid.": network(torch.sigmoid),
            "the scores are wanted as they are, before softmax.": network(after=lambda z: F.softmax(z, dim=1)),
            "the scores are wanted as they are, before log-softmax.": network(after=lambda z: F.log_softmax(z, dim=1)),
        },
        banned=("Linear", "linear", "Sequential"),
    )


def _gradient(answer):
    draw = torch.Generator().manual_seed(0)

    def case(n, inputs, *labels):
        p = torch.softmax(torch.randn((n, 10), generator=draw), dim=1)
        return torch.randn((n, inputs), generator=draw), p, torch.tensor(labels)

    def off(p, labels):
        return p - F.one_hot(labels, 10)

    return judge_function(
        answer,
        [case(5, 4, 3, 1, 4, 1, 5), case(1, 7, 9), case(12, 3, *range(10), 0, 0)],
        lambda x, p, labels: off(p, labels).T @ x / len(labels),
        {
            "that is the gradient of the sum over the images; the loss is their mean.": lambda x, p, labels: (
                off(p, labels).T @ x
            ),
            "the sign is the wrong way round: with the gradient the loss rises.": lambda x, p, labels: (
                -off(p, labels).T @ x / len(labels)
            ),
            "the right numbers the other way round: a row belongs to each digit.": lambda x, p, labels: (
                x.T @ off(p, labels) / len(labels)
            ),
            "the labels play no part in it: what should the probabilities have been?": lambda x, p, labels: (
                p.T @ x / len(labels)
            ),
            "a mean over images and digits: the loss is a mean over the images only.": lambda x, p, labels: (
                off(p, labels).T @ x / p.numel()
            ),
            "a mean over images and inputs: the loss is a mean over the images only.": lambda x, p, labels: (
                off(p, labels).T @ x / x.numel()
            ),
            "a label is a digit and no probability: write it as ten numbers, of which one is 1.": lambda x, p, labels: (
                (p - labels[:, None]).T @ x / len(labels)
            ),
            "p holds probabilities already: no softmax is wanted here.": lambda x, p, labels: (
                off(torch.softmax(p, dim=1), labels).T @ x / len(labels)
            ),
        },
        banned=("backward", "autograd", "grad", "cross_entropy", "nll_loss"),
    )


def _step(answer):
    cases = [
        (torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.25]), torch.tensor([0.5, 1.0]), 0.1, 0.9),
        (
            torch.tensor([[1.0, -2.0], [0.0, 3.0]]),
            torch.zeros(2, 2),
            torch.tensor([[0.5, -1.0], [2.0, 0.0]]),
            0.01,
            0.5,
        ),
        (torch.tensor([0.3]), torch.tensor([-1.0]), torch.tensor([0.7]), 0.2, 0.0),
    ]

    def step(weight, velocity, gradient, rate, momentum):
        velocity = momentum * velocity + gradient
        return weight - rate * velocity, velocity

    def with_velocity(change):
        """The step with another velocity: a function of velocity, gradient, rate and momentum."""

        def slip(weight, velocity, gradient, rate, momentum):
            velocity = change(velocity, gradient, rate, momentum)
            return weight - rate * velocity, velocity

        return slip

    def rate_in_velocity(weight, velocity, gradient, rate, momentum):
        velocity = momentum * velocity + rate * gradient
        return weight - velocity, velocity

    return judge_function(
        answer,
        cases,
        step,
        {
            "return both: the new weight and the new velocity.": lambda *case: step(*case)[0],
            "return the weight first, then the velocity.": lambda *case: step(*case)[::-1],
            "the weight moves the wrong way: up the slope.": lambda w, v, g, r, m: (
                2 * w - step(w, v, g, r, m)[0],
                m * v + g,
            ),
            "the velocity forgets what it was: where is momentum × velocity?": with_velocity(lambda v, g, r, m: g),
            "the velocity keeps all of what it was: momentum says how much it keeps.": with_velocity(
                lambda v, g, r, m: v + g
            ),
            "here the gradient counts in full, not by 1 − momentum.": with_velocity(
                lambda v, g, r, m: m * v + (1 - m) * g
            ),
            "momentum belongs to the velocity, not to the gradient.": with_velocity(lambda v, g, r, m: v + m * g),
            "the weight moves by the old velocity: compute the new one first.": lambda w, v, g, r, m: (
                w - r * v,
                m * v + g,
            ),
            "the weight moves by the gradient alone: it should follow the velocity.": lambda w, v, g, r, m: (
                w - r * g,
                m * v + g,
            ),
            "the rate belongs to the weight's step, not into the velocity.": rate_in_velocity,
            "the rate is missing in the weight's step.": lambda w, v, g, r, m: (w - (m * v + g), m * v + g),
            "that is Nesterov's step, another kind of momentum.": lambda w, v, g, r, m: (
                w - r * (g + m * (m * v + g)),
                m * v + g,
            ),
            "the given velocity comes back: return the new one.": lambda w, v, g, r, m: (step(w, v, g, r, m)[0], v),
            "both come back unchanged.": lambda w, v, g, r, m: (w, v),
        },
        banned=("SGD", "sgd", "get_optimizer", "OurSGD"),
    )


JUDGES = {1: _parameters, 2: _scores, 3: _gradient, 4: _step}
