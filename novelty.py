"""Is an image a digit like those that the network learned? A rule on the network's own features.

A network trained on ten classes answers with one of them whatever it sees, and often with a high probability. The
maps of its layers show more: a small classifier of them is trained to tell the training digits, as other hands write
them, from what is no digit (`drawn`); the threshold is then chosen on held-out digits. As in outlier exposure
(Hendrycks et al. 2019), but the network stays as it is, and in the place of the logistic regression with which Lee
et al. (2018, A simple unified framework for detecting out-of-distribution samples) combine distances in its layers.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import nn

import drawn
from model import MEAN, STD

UNITS, EPOCHS, BATCH = 32, 12, 256  # of the small classifier
COUNT = 15_000  # digits that it is trained on, and as many that are none
SURE = 0.995  # share of held-out digits, as other hands write them, that the threshold lets through


def features(model, images):
    """The layers' answers to images `(N, 28, 28)` in [0, 1]: `(N, D)` float32 on the CPU.

    The maps of each layer, after ReLU, averaged to 3×3 pixels; of a network without maps, its hidden layers. Then the
    input and, as the last ten, the output of its last linear layer.
    """
    *hidden, last = [m for m in model.modules() if isinstance(m, nn.Linear)]
    maps = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    maps = maps or [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    found, rows = [], []

    def keep(_, inputs, output):
        found.append(F.adaptive_avg_pool2d(F.relu(output), 3) if output.ndim == 4 else F.relu(output))

    def keep_last(_, inputs, output):
        found.extend([inputs[0], output])

    hooks = [layer.register_forward_hook(keep) for layer in maps or hidden]
    hooks.append(last.register_forward_hook(keep_last))
    modes = [(module, module.training) for module in model.modules()]
    mean, std = getattr(model, "normalisation", (MEAN, STD))
    device = next(model.parameters()).device
    model.eval()
    try:
        with torch.no_grad():
            for batch in images.split(250):
                found.clear()
                model(((batch - mean) / std)[:, None].to(device))
                rows.append(torch.cat([layer.flatten(1).float().cpu() for layer in found], dim=1))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode
    return torch.cat(rows)


def learn_digits(model, digits, held_out, seed=0):
    """Set `model.novelty` to the rule, and to the temperature of the answers; some seconds for a small network.

    `digits`, `held_out`: `DigitImages` without augmentation, those it was trained on and others. The rule is a dict of
    plain tensors and a number: "weight" `(32, D)`, "bias" `(32,)` and "out" `(32,)` of a network with one hidden
    layer, the "threshold" of what comes out of it, and the "temperature" by which the scores of the classes are
    divided, so that the probabilities are right for other hands, too (Guo et al. 2017, On calibration of modern neural
    networks). Random states elsewhere are left as they are.
    """
    generator = torch.Generator().manual_seed(seed)
    count = min(COUNT, 2 * len(digits))
    rows = torch.randint(len(digits), (count,), generator=generator)
    own = drawn.other_hands(digits.images[rows].cpu(), digits.labels[rows].cpu(), generator)
    others = drawn.no_digits(digits.images.cpu(), digits.labels.cpu(), count, generator)
    inputs = torch.cat([features(model, own), features(model, others)])
    targets = torch.cat([torch.zeros(len(own)), torch.ones(len(others))])
    rule = _classifier(inputs, targets, generator)
    real = drawn.other_hands(held_out.images.cpu(), held_out.labels.cpu(), generator)
    answers = features(model, real)
    threshold = _scores(rule, answers).quantile(SURE).item()
    temperature = _fitted_temperature(answers[:, -10:], held_out.labels.cpu())
    model.novelty = {**rule, "threshold": threshold, "temperature": temperature}


def _fitted_temperature(scores, labels):
    """The temperature with the least cross-entropy; never below 1: digits of still other hands are no easier."""
    found = minimize_scalar(
        lambda log: F.cross_entropy(scores / np.exp(log), labels).item(), bounds=(0, np.log(10)), method="bounded"
    )
    return float(np.exp(found.x))


def _classifier(inputs, targets, generator):
    """One hidden layer of ReLU units, trained by AdamW on standardised inputs; the standardising is in its weights."""
    mean, std = inputs.mean(dim=0), inputs.std(dim=0) + 1e-4
    inputs = (inputs - mean) / std
    width = inputs.shape[1]
    weight = torch.randn(UNITS, width, generator=generator) * (2 / width) ** 0.5  # He et al. 2015
    out = torch.randn(UNITS, generator=generator) * UNITS**-0.5
    parameters = [weight, torch.zeros(UNITS), out, torch.zeros(())]
    for parameter in parameters:
        parameter.requires_grad_()
    steps = EPOCHS * (len(inputs) // BATCH)
    optimizer = torch.optim.AdamW(parameters, lr=0.003, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.003, total_steps=steps + 1)
    weight, bias, out, shift = parameters
    with torch.enable_grad():
        for _ in range(EPOCHS):
            order = torch.randperm(len(inputs), generator=generator)
            for rows in order[: len(order) // BATCH * BATCH].split(BATCH):
                scores = F.relu(F.linear(inputs[rows], weight, bias)) @ out + shift
                loss = F.binary_cross_entropy_with_logits(scores, targets[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    weight, bias, out = weight.detach() / std, bias.detach(), out.detach()  # `shift` is in the threshold
    return {"weight": weight, "bias": bias - weight @ mean, "out": out}


def novelty_scores(model, images):
    """How little each image `(N, 28, 28)` in [0, 1] is like a digit: `(N,)`; those above the threshold are none."""
    return _scores(model.novelty, features(model, images))


def _scores(rule, answers):
    return F.relu(F.linear(answers, rule["weight"], rule["bias"])) @ rule["out"]


def is_digit(model, image):
    """Is the image `(28, 28)`, as `predict.prepare` gives it, a digit? True where the model has no rule."""
    return are_digits(model, image[None])[0]


def are_digits(model, images):
    """As `is_digit`, for images `(N, 28, 28)`: a list of N."""
    rule = getattr(model, "novelty", None)
    if rule is None:
        return [True] * len(images)
    return (novelty_scores(model, images) <= rule["threshold"]).tolist()


def temperature(model):
    """By what the scores of the model's classes are divided; 1 where none was learned."""
    rule = getattr(model, "novelty", None)
    return 1.0 if rule is None else rule["temperature"]
