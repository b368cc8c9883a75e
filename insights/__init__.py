"""What a network has learned, and where it errs, as figures.

`predictions` runs the model over the data once; the figures about its answers share what it returns.
Each figure is returned as `(figure, numbers)`, numbers in a dict, and none is shown. A model gives
log-probabilities `(N, 10)` for normalised images `(N, 1, 28, 28)`, as all of `model.py` do; it is
used as a copy, in evaluation mode and on the device where it is, so that it stays as it was.

`answers`: predictions, confusion matrix, mistakes, embedding; `inside`: the network as blocks, what each layer
costs, receptive fields, filters, feature maps, Grad-CAM, occlusion; `calibration`, `robustness`; `report`: a page
of them. A figure that this model or data cannot have raises `DoesNotApply`, a ValueError.
"""

from insights.answers import Predictions, confusion, embedding, gallery, predictions
from insights.calibration import apply_temperature, calibration, fit_temperature, reliability
from insights.inside import (
    DoesNotApply,
    explanations,
    feature_maps,
    filters,
    grad_cam,
    layer_costs,
    network_blocks,
    occlusion,
    receptive_field,
)
from insights.robustness import DISTORTIONS, robustness
from training import rate_range

__all__ = [
    "DISTORTIONS",
    "DoesNotApply",
    "Predictions",
    "apply_temperature",
    "calibration",
    "confusion",
    "embedding",
    "explanations",
    "feature_maps",
    "filters",
    "fit_temperature",
    "gallery",
    "grad_cam",
    "layer_costs",
    "network_blocks",
    "occlusion",
    "predictions",
    "rate_range",
    "receptive_field",
    "reliability",
    "robustness",
]
