"""Session 1's exercises."""

import torch
import torch.nn.functional as F

from exercises.checking import judge_function, judge_value


def _parameters(answer):
    weights = [784 * 256, 256 * 128, 128 * 10]
    return judge_value(
        answer,
        sum(weights) + 256 + 128 + 10,
        {
            "the biases are missing: each output of a layer has one.": sum(weights),
            "the biases of the last layer are missing.": sum(weights) + 256 + 128,
        },
    )


def _loss(answer):
    log_probabilities = F.log_softmax(torch.arange(50.0).view(5, 10).sin(), dim=1)
    cases = [(log_probabilities, torch.tensor([3, 1, 4, 1, 5])), (log_probabilities[:1], torch.tensor([7]))]

    def picked(log_probabilities, labels):
        return log_probabilities[torch.arange(len(labels)), labels]

    return judge_function(
        answer,
        cases,
        F.nll_loss,
        {
            "summed over the batch, not averaged?": lambda x, y: -picked(x, y).sum(),
            "a loss is minus the log-probability: the sign is missing.": lambda x, y: picked(x, y).mean(),
            "a number for each image: take their mean.": lambda x, y: -picked(x, y),
        },
        banned=("nll_loss", "cross_entropy", "NLLLoss", "CrossEntropyLoss"),
    )


JUDGES = {1: _parameters, 2: _loss}
