"""Session 3's exercises."""

import math

import torch

from exercises.checking import judge_function


def _stops_after(answer):
    cases = [
        ([0.9, 0.5, 0.4, 0.6, 0.5, 0.45, 0.3, 0.2], 3),
        ([0.9, 0.5, 0.4, 0.6, 0.5, 0.45, 0.3, 0.2], 4),
        ([0.1, 0.2, 0.3], 1),
        ([0.5, 0.6, 0.4, 0.5, 0.3, 0.4, 0.2], 2),  # two in all, but never in a row
        ([0.5, 0.3, 0.3, 0.3, 0.2], 2),  # a tie is no new lowest
        ([0.4, 0.5, 0.45, 0.44, 0.43], 2),  # falls again, but not below the lowest
        ([0.3, 0.2], 5),
    ]

    def stopped(losses, patience, gain=lambda loss, lowest, before: loss < lowest, forget=True):
        lowest, before, waited = math.inf, math.inf, 0
        for epoch, loss in enumerate(losses, start=1):
            if gain(loss, lowest, before):
                waited = 0 if forget else waited
            else:
                waited += 1
            lowest, before = min(lowest, loss), loss
            if waited == patience:
                return epoch
        return len(losses)

    def kept(losses, patience):
        losses = losses[: stopped(losses, patience)]
        return losses.index(min(losses)) + 1

    return judge_function(
        answer,
        cases,
        stopped,
        {
            "a loss equal to the lowest so far is not a new lowest: it is waited on, too.": lambda losses, patience: (
                stopped(losses, patience, lambda loss, lowest, before: loss <= lowest)
            ),
            "compare each loss with the lowest so far, not with that of the epoch before.": lambda losses, patience: (
                stopped(losses, patience, lambda loss, lowest, before: loss < before)
            ),
            "with a new lowest loss the count begins anew: it is so many epochs in a row.": lambda losses, patience: (
                stopped(losses, patience, forget=False)
            ),
            "one too few: is that the index, which counts from 0?": lambda losses, patience: (
                stopped(losses, patience) - 1
            ),
            "an epoch too late: stop as soon as so many epochs have passed.": lambda losses, patience: stopped(
                losses, patience + 1
            ),
            "that is the epoch whose model is kept; the training stops later.": kept,
            "that is where the lowest loss of all is, which the training may never reach.": lambda losses, patience: (
                losses.index(min(losses)) + 1
            ),
        },
    )


def _my_dropout(answer):
    x = torch.linspace(-1, 1, 40)
    kept = torch.arange(40) % 7 > 0  # as by chance, the part that is kept is not 1 − p
    cases = [(x, kept, 0.2, True), (x.view(4, 10), (torch.arange(40) % 4 == 1).view(4, 10), 0.75, True)]
    cases.append((x, kept, 0.2, False))

    def dropout(x, kept, p, training):
        return x * kept / (1 - p) if training else x

    def in_training_only(scaled):
        return lambda x, kept, p, training: scaled(x, kept, p) if training else x

    return judge_function(
        answer,
        cases,
        dropout,
        {
            "the rest must be scaled, so that the mean stays about the same.": in_training_only(
                lambda x, kept, p: x * kept
            ),
            "divided by the probability of being dropped; by which part are there fewer values?": in_training_only(
                lambda x, kept, p: x * kept / p
            ),
            "scaled the wrong way: where fewer are left, each must count more.": in_training_only(
                lambda x, kept, p: x * kept * (1 - p)
            ),
            "scaled by 1 + p: try p = 0.5 with ten ones; is the sum still ten?": in_training_only(
                lambda x, kept, p: x * kept * (1 + p)
            ),
            "the wrong ones are dropped: `kept` is True for those that stay.": in_training_only(
                lambda x, kept, p: x * ~kept / (1 - p)
            ),
            "scaled by the part that this mask happens to keep: it should be the one that is kept on average.": (
                in_training_only(lambda x, kept, p: x * kept / kept.float().mean())
            ),
            "without `training` nothing is dropped or scaled: look at the third case.": lambda x, kept, p, training: (
                x * kept / (1 - p)
            ),
            "without `training` nothing may be scaled: here the scaling belongs to the training.": (
                lambda x, kept, p, training: x * kept if training else x * (1 - p)
            ),
            "training and evaluation are the wrong way round.": lambda x, kept, p, training: dropout(
                x, kept, p, not training
            ),
        },
        banned=("dropout", "Dropout", "dropout1d", "Dropout1d", "alpha_dropout", "native_dropout"),
    )


def _value_at(answer):
    cases = [(share / 6, 1e-4, 0.1) for share in range(7)] + [(0.5, 2.0, 8.0), (0.25, 3.0, 3.0)]

    def logarithm(share, low, high):
        return math.log10(low) + share * (math.log10(high) - math.log10(low))

    return judge_function(
        answer,
        cases,
        lambda share, low, high: low * (high / low) ** share,
        {
            "equal steps add equal amounts there: on a logarithmic scale they multiply by equal factors.": (
                lambda share, low, high: low + share * (high - low)
            ),
            "that is the logarithm (base 10) of the value: undo it with a power of 10.": logarithm,
            "that is the natural logarithm of the value: undo it with the exponential function.": (
                lambda share, low, high: math.log(low) + share * math.log(high / low)
            ),
            "a logarithm of one base, undone with a power of another.": lambda share, low, high: math.exp(
                logarithm(share, low, high)
            ),
            "from the wrong end: share 0 is `low`.": lambda share, low, high: high * (low / high) ** share,
            "it starts at 1: where does `low` come in?": lambda share, low, high: (high / low) ** share,
            "the factor of the whole way is high / low, not high.": lambda share, low, high: low * high**share,
            "the factor is there once for each share of the way: multiplying is not yet a power.": (
                lambda share, low, high: low * (high / low) * share
            ),
        },
        banned=("logspace", "geomspace"),
    )


JUDGES = {1: _stops_after, 2: _my_dropout, 3: _value_at}
