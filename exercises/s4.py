"""Session 4's exercises."""

import torch

from exercises.checking import judge_function

DIGIT = torch.tensor([[255, 204, 255], [51, 0, 102]], dtype=torch.uint8)


def _mirrored(answer):
    batch = torch.arange(24.0).view(2, 1, 3, 4)
    return judge_function(
        answer,
        [(batch,), (torch.arange(75.0).view(1, 3, 5, 5),), (batch[:1, :, :, :1],)],
        lambda images: images.flip(-1),
        {
            "that is upside down: the rows were swapped, not the columns.": lambda images: images.flip(-2),
            "turned by half a turn: only the columns are to be swapped.": lambda images: images.flip((-2, -1)),
            "that puts the images of the batch into another order.": lambda images: images.flip(0),
            "rows and columns have changed places: that is transposed.": lambda images: images.transpose(-2, -1),
            "all columns are moved by one: the first must become the last, the last the first.": lambda images: (
                images.roll(1, -1)
            ),
            "nothing has changed.": lambda images: images,
            "a column is missing: where does the range end?": lambda images: images[..., 1:].flip(-1),
            "the last column is missing: where does the range start?": lambda images: images[..., :-1].flip(-1),
        },
        banned=(
            *("flip", "fliplr", "flipud", "rot90", "hflip", "horizontal_flip", "horizontal_flip_image"),
            *("RandomHorizontalFlip", "RandomHorizontalFlipEach"),
        ),
    )


def _white_on_black(answer):
    # The second photograph has neither black nor white: the scale is that of the numbers, not of the picture.
    cases = [(DIGIT,), (torch.tensor([[200, 180], [60, 90]], dtype=torch.uint8),)]

    def by_range(photo):
        photo = photo.float()
        return (photo.max() - photo) / (photo.max() - photo.min())

    return judge_function(
        answer,
        cases,
        lambda photo: 1 - photo.float() / 255,
        {
            "scaled, but still dark ink on white.": lambda photo: photo.float() / 255,
            "the ink is white now, but the numbers still go up to 255.": lambda photo: 255.0 - photo.float(),
            "255 is white, so divide by 255.": lambda photo: 1 - photo.float() / 256,
            "cut to 0 and 1: the greys must stay between them.": lambda photo: (photo < 128).float(),
            "below 0: 1 is to be taken before anything is subtracted.": lambda photo: -photo.float() / 255,
            "stretched to the picture's own darkest and lightest pixel: a dark grey is not yet black.": by_range,
            "whole numbers: with uint8 the subtraction wraps around below 0; make it floating-point first.": (
                lambda photo: 1 - photo
            ),
            "only 0 and 1 are left: `//` divides without the rest.": lambda photo: 1 - (photo // 255).float(),
        },
    )


def _best_epoch(answer):
    cases = [
        ([0.30, 0.12, 0.15, 0.14], [91.0, 96.0, 96.2, 96.5]),
        ([0.30, 0.20, 0.25, 0.12, 0.15], [91.0, 94.2, 93.8, 96.1, 96.4]),
        ([0.30, 0.18, 0.18, 0.25], [91.0, 95.0, 95.5, 95.2]),  # a tie: the first was kept, and no lower loss came
        ([0.10, 0.20], [97.0, 95.0]),
    ]
    histories = [
        (
            {
                "train_loss": [0.4 - 0.05 * epoch for epoch in range(1, len(losses))] + [0.5],
                "train_acc": [90.0 + epoch for epoch in range(1, len(losses))] + [85.0],
                "validation_loss": losses,
                "validation_acc": accuracies,
            },
        )
        for losses, accuracies in cases
    ]

    def first(column, choose):
        return lambda history: 1 + history[column].index(choose(history[column]))

    def last(history):
        losses = history["validation_loss"]
        return max(epoch for epoch, loss in enumerate(losses, start=1) if loss == min(losses))

    best = first("validation_loss", min)
    return judge_function(
        answer,
        histories,
        best,
        {
            "that is the highest accuracy: by which column does `fit` choose?": first("validation_acc", max),
            "counted from 0: the first epoch is 1.": lambda history: best(history) - 1,
            "of equal losses the first is kept: a later one is not lower.": last,
            "that is the highest loss.": first("validation_loss", max),
            "that goes by the training images; what was learned is judged on the validation images.": first(
                "train_loss", min
            ),
            "that is the last epoch, whose model is `last.pt`.": lambda history: len(history["validation_loss"]),
            "that is the loss itself: in which epoch was it?": lambda history: min(history["validation_loss"]),
        },
    )


JUDGES = {1: _mirrored, 2: _white_on_black, 3: _best_epoch}
