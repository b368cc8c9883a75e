"""Calibration: reliability diagram, expected calibration error, temperature scaling."""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

from checks import whole_number
from plots import TEST_STYLE, TRAIN_STYLE, styled


def _some(labels):
    if len(labels) == 0:
        raise ValueError("There are no predictions to calibrate: give at least one image.")


def apply_temperature(log_probabilities, temperature):
    """Log-probabilities `(N, 10)` after dividing the logits by the temperature.

    Log-probabilities may stand for the logits: they differ by a constant a row, which log-softmax removes.
    """
    return (log_probabilities / temperature).log_softmax(dim=1)


def fit_temperature(log_probabilities, labels):
    """The temperature, from 0.05 to 20, with the least negative log-likelihood (Guo et al. 2017).

    `log_probabilities`: `(N, 10)`, or logits; `labels`: `(N,)`. Above 1 the model was overconfident,
    below 1 underconfident. Fit it on images that the model was not trained on. Raises ValueError when
    there is no image.
    """
    from scipy.optimize import minimize_scalar

    _some(labels)
    values = log_probabilities.double()
    bounds = (math.log(0.05), math.log(20))
    found = minimize_scalar(lambda t: F.nll_loss(apply_temperature(values, math.exp(t)), labels).item(), bounds=bounds)
    return math.exp(found.x)


def reliability(log_probabilities, labels, bins=15):
    """The numbers of a reliability diagram, for `bins` bins of confidence of equal width.

    Returns `{"count", "confidence", "accuracy"}`, each `(bins,)`, the latter two means in 0 … 1, NaN
    for an empty bin; and `"ece"`, the expected calibration error: the mean over the images of
    |accuracy − confidence| of their bin (Guo et al. 2017, On Calibration of Modern Neural Networks).
    Raises ValueError when there is no image, or no bin.
    """
    bins = whole_number("bins", bins)
    _some(labels)
    confidence, predicted = log_probabilities.double().exp().max(dim=1)
    which = (confidence * bins).ceil().long().clamp(1, bins) - 1  # bin i holds (i/bins, (i+1)/bins]
    count = torch.bincount(which, minlength=bins)
    sums = [torch.bincount(which, values.double(), minlength=bins) for values in (confidence, predicted == labels)]
    confidence, accuracy = (total / count for total in sums)
    ece = ((accuracy - confidence).abs() * count)[count > 0].sum().item() / len(labels)
    return {"count": count.numpy(), "confidence": confidence.numpy(), "accuracy": accuracy.numpy(), "ece": ece}


def calibration(answers, validation=None, bins=15):
    """The reliability diagram: accuracy against confidence, which are equal for a calibrated model.

    `answers`: `Predictions`; `validation`: those for other images, on which a temperature is fitted; the diagram
    then shows the model before and after temperature scaling. Returns `(figure, {"before": what `reliability`
    gives, "nll_before"})`, with "temperature", "after" and "nll_after" if there is a `validation`. Raises
    ValueError when there is no image, or no bin.
    """
    curves = {"before": answers.log_probabilities}
    numbers = {}
    if validation is not None:
        numbers["temperature"] = fit_temperature(validation.log_probabilities, validation.labels)
        curves["after"] = apply_temperature(answers.log_probabilities, numbers["temperature"])
    with styled():
        figure, (top, bottom) = plt.subplots(
            2, 1, figsize=(6, 6), height_ratios=(3, 1), sharex=True, layout="constrained"
        )
        top.plot([0, 100], [0, 100], color="gray", linewidth=1, label="perfect calibration")
        for i, (name, values) in enumerate(curves.items()):
            numbers[name] = found = reliability(values, answers.labels, bins)
            numbers[f"nll_{name}"] = F.nll_loss(values, answers.labels).item()
            style = {**(TRAIN_STYLE, TEST_STYLE)[i], "markersize": 6}
            label = f"{name} scaling" if validation is not None else "the model"
            filled = found["count"] > 0
            label = f"{label}: ECE {100 * found['ece']:.2f} %"
            top.plot(100 * found["confidence"][filled], 100 * found["accuracy"][filled], label=label, **style)
            edges = 100 * np.arange(bins + 1) / bins
            bottom.stairs(found["count"], edges, color=style["color"], linestyle=style["linestyle"], linewidth=1.5)
        title = f", temperature {numbers['temperature']:.2f}" if validation is not None else ""
        top.set(title=f"Reliability on {len(answers):,} images{title}", ylabel="accuracy in the bin (%)")
        top.set(xlim=(0, 101), ylim=(-2, 104))
        top.legend(loc="lower right")
        bottom.set(xlabel="confidence: probability of the predicted class (%)", ylabel="images", yscale="log")
        bottom.set_ylim(bottom=0.7)
    return figure, numbers
