"""Wrong answers to Session 4's exercises, with a piece of the hint that each should get."""


def mirrored(expression):
    return f"def mirrored(images):\n    return {expression}"


def white(expression):
    return f"def white_on_black(photo):\n    return {expression}"


def epoch(expression):
    return f"def best_epoch(history):\n    return {expression}"


LAST_OF_EQUALS = """\
def best_epoch(history):
    best, lowest = 0, float("inf")
    for epoch, loss in enumerate(history["validation_loss"], start=1):
        if loss <= lowest:
            best, lowest = epoch, loss
    return best
"""

IN_PLACE = """\
def mirrored(images):
    for i in range(images.shape[-1] // 2):
        images[..., i], images[..., -1 - i] = images[..., -1 - i].clone(), images[..., i].clone()
    return images
"""

WRONG = {
    1: [
        (mirrored("images.flip(-1)"), "without `flip`"),
        (mirrored("torch.fliplr(images[0])[None]"), "without `fliplr`"),
        (mirrored("v2.functional.hflip(images)"), "without `hflip`"),
        (mirrored("RandomHorizontalFlipEach(p=1)(images)"), "without `RandomHorizontalFlipEach`"),
        (mirrored("v2.RandomHorizontalFlip(p=1)(images)"), "without `RandomHorizontalFlip`"),
        ("mirrored = RandomHorizontalFlipEach(p=1)", "without `RandomHorizontalFlipEach`"),
        ("mirrored = v2.Compose([v2.RandomHorizontalFlip(p=1)])", "without `RandomHorizontalFlip`"),
        ("mirrored = v2.functional.horizontal_flip", "without `horizontal_flip"),
        (mirrored("images[..., torch.arange(images.shape[-2] - 1, -1, -1), :]"), "upside down"),
        (
            mirrored("images[:, :, range(images.shape[2] - 1, -1, -1)][..., range(images.shape[3] - 1, -1, -1)]"),
            "half a turn",
        ),
        (mirrored("images[range(len(images) - 1, -1, -1)]"), "images of the batch into another order"),
        (mirrored("images.mT"), "transposed"),
        (mirrored("images[..., range(-1, images.shape[-1] - 1)]"), "moved by one"),
        (mirrored("images[..., range(images.shape[-1] - 1, 0, -1)]"), "where does the range end"),
        (mirrored("images[..., range(images.shape[-1] - 2, -1, -1)]"), "where does the range start"),
        (mirrored("images[..., ::-1]"), "it raised ValueError"),
        (IN_PLACE, "changes its arguments"),
    ],
    2: [
        (white("photo / 255"), "still dark ink on white"),
        (white("255 - photo.float()"), "still go up to 255"),
        (white("1 - photo / 256"), "divide by 255"),
        (white("(photo < 128).float()"), "the greys must stay"),
        (white("-photo.float() / 255"), "below 0"),
        (white("255 - photo"), "still go up to 255"),
        (white("(photo.max() - photo) / (photo.max() - photo.min())"), "own darkest and lightest"),
        (white("1 - photo"), "wraps around"),
        (white("(1 - photo // 255).float()"), "without the rest"),
        (white("None"), "returns None"),
    ],
    3: [
        (
            epoch('1 + history["validation_acc"].index(max(history["validation_acc"]))'),
            "that is the highest accuracy: by which",
        ),
        (epoch('history["validation_loss"].index(min(history["validation_loss"]))'), "counted from 0"),
        (LAST_OF_EQUALS, "of equal losses the first is kept"),
        (epoch('1 + history["validation_loss"].index(max(history["validation_loss"]))'), "the highest loss"),
        (epoch('1 + history["train_loss"].index(min(history["train_loss"]))'), "by the training images"),
        (epoch('1 + history["train_acc"].index(max(history["train_acc"]))'), "by the training images"),
        (epoch('len(history["validation_loss"])'), "the last epoch"),
        (epoch('min(history["validation_loss"])'), "the loss itself"),
        (epoch('history["best_epoch"]'), "it raised KeyError"),
    ],
}
