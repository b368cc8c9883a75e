"""Robustness: accuracy against the strength of six distortions."""

import math

import matplotlib.pyplot as plt
import torch

from checks import whole_number
from insights.answers import Predictions, forward, not_empty, predictions, ready
from model import MEAN, STD
from plots import CURVES, styled


def _rotate(images, degrees, generator):
    return _affine(images, [(degrees, 0, 0, 1), (-degrees, 0, 0, 1)])


def _shift(images, pixels, generator):
    return _affine(images, [(0, pixels, 0, 1), (0, -pixels, 0, 1), (0, 0, pixels, 1), (0, 0, -pixels, 1)])


def _zoom(images, factor, generator):
    return _affine(images, [(0, 0, 0, factor)])


def _affine(images, kinds):
    """Each (degrees, x, y, factor) of `kinds` for its share of the images, in turn."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import affine

    out = torch.empty_like(images)
    for i, (degrees, x, y, factor) in enumerate(kinds):
        part = slice(i, None, len(kinds))
        out[part] = affine(images[part], degrees, [x, y], factor, [0.0, 0.0], InterpolationMode.BILINEAR)
    return out


def _blur(images, sigma, generator):
    from torchvision.transforms.v2.functional import gaussian_blur

    return gaussian_blur(images, 2 * math.ceil(3 * sigma) + 1, sigma) if sigma else images


def _noise(images, sigma, generator):
    return images + sigma * torch.randn(images.shape, generator=generator)


def _contrast(images, factor, generator):
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + factor * (images - mean)


DISTORTIONS = {  # name → (function, unit, levels, first the one that changes nothing)
    "rotation": (_rotate, "degrees, to either side", (0, 10, 20, 30, 45, 60, 90)),
    "shift": (_shift, "pixels, along an axis", (0, 1, 2, 3, 4, 6, 8)),
    "zoom": (_zoom, "factor", (1.0, 0.4, 0.55, 0.7, 0.85, 1.2, 1.5, 1.8)),
    "blur": (_blur, "σ of the Gaussian, in pixels", (0, 0.5, 1, 1.5, 2, 3)),
    "noise": (_noise, "σ, of black to white", (0, 0.1, 0.2, 0.3, 0.45, 0.6)),
    "contrast": (_contrast, "factor", (1.0, 0.7, 0.5, 0.35, 0.2, 0.1, 0.05)),
}


def robustness(models, data, images=1000, *, mean=None, std=None):
    """Accuracy against the strength of six distortions, a curve for each model.

    `models`: name → model; `data`: a loader, a `DigitImages` or `Predictions`, of which the
    first `images` are used; `mean`, `std`: the normalisation of these images, by default the first
    model's `normalisation`, else MNIST's. The images in [0, 1] are rotated, shifted, zoomed, blurred,
    given Gaussian noise (the same for every model), or their contrast about their mean is scaled;
    cut to [0, 1], and normalised for each model by its own `normalisation`, or where it has none by
    `mean` and `std` (after Hendrycks and Dietterich 2019, Benchmarking Neural Network Robustness to
    Common Corruptions and Perturbations). Returns `(figure, {distortion: {"levels": […], model name:
    accuracies in %}})`. Raises ValueError when there is no model, more than four, or no image.
    """
    if not 1 <= len(models) <= len(CURVES):
        raise ValueError(f"robustness draws 1 to {len(CURVES)} models, not {len(models)}.")
    first = next(iter(models.values()))
    if not isinstance(data, Predictions):
        data = predictions(first, data)
    not_empty(data)
    images = whole_number("images", images)
    noted = getattr(first, "normalisation", (MEAN, STD))
    mean, std = noted[0] if mean is None else mean, noted[1] if std is None else std
    pixels, labels = data.images[:images] * std + mean, data.labels[:images]
    copies = {name: ready(model) for name, model in models.items()}
    numbers = {}
    for name, (distort, _, levels) in DISTORTIONS.items():
        numbers[name] = {"levels": sorted(levels)} | {model: [] for model in copies}
        for level in numbers[name]["levels"]:
            distorted = distort(pixels, level, torch.Generator().manual_seed(0)).clamp(0, 1)
            for model, network in copies.items():
                own_mean, own_std = getattr(network, "normalisation", (mean, std))
                parts = [forward(network, (part - own_mean) / own_std) for part in distorted.split(500)]
                right = (torch.cat(parts).argmax(dim=1) == labels).double().mean().item()
                numbers[name][model].append(100 * right)
    with styled():
        figure, axes = plt.subplots(2, 3, figsize=(11, 6), sharey=True, layout="constrained")
        for ax, (name, found) in zip(axes.flat, numbers.items(), strict=True):
            for model, style in zip(copies, CURVES, strict=False):
                ax.plot(found["levels"], found[model], label=model, **{**style, "markersize": 4})
            _, unit, levels = DISTORTIONS[name]
            ax.axvline(levels[0], color="gray", linewidth=1, linestyle=":")
            ax.set(title=name.capitalize(), xlabel=f"{name} ({unit})", ylabel="accuracy (%)", ylim=(0, 103))
        axes[0, 0].legend(loc="lower left")
        figure.suptitle(f"Accuracy on {len(labels):,} distorted images (dotted: undistorted)")
    return figure, numbers
