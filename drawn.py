"""Digits as other hands write them, and images that are no digits: made of training digits or random strokes.

Recipes train with `european` digits, and `novelty` learns from all of this: no picture from elsewhere is needed.
Images are `(N, 28, 28)` float32 in [0, 1], placed as MNIST's are: 20 pixels on the longest side, the centre of mass
at pixel (14, 14).
"""

import math

import torch
import torch.nn.functional as F

SIDE, FRAME, MIDDLE = 20, 28, 14
ASYMMETRIC = (2, 3, 4, 5, 6, 7, 9)  # turned by a quarter, none of them is a digit
LEFT_RIGHT, UP_DOWN = (3, 4, 6, 7, 9), (4, 6, 7, 9)  # mirrored so, none of them is; a mirrored 2 may be read as a 5


def other_hands(images, labels, generator):
    """The digits, sheared, stretched, thicker or thinner, blurred or sharp; 1 with flag and foot, 7 with a bar."""
    return _drawn_anew(european(images, labels, generator, 0.8, 0.5, longest=15, flattest=0.1), generator)


def no_digits(images, labels, count, generator):
    """About `count` images that are no digits (a few still look like one).

    Digits turned by a quarter or mirrored, halves of two joined, two or three overlaid or side by side, quarters
    shuffled, digits in a filled square; straight and bent strokes, smooth paths, blobs, fields.
    """
    images, part = _floats(images), count // 13

    def pick(size, digits=range(10)):
        rows = torch.isin(labels, torch.tensor(list(digits))).nonzero()[:, 0]
        return images[rows[torch.randint(len(rows), (size,), generator=generator)]]

    half, r = part // 2, torch.arange(FRAME)
    cut, across = torch.randint(11, 18, (part, 1, 1), generator=generator), _uniform((part, 1, 1), 0, 1, generator)
    first = torch.where(across < 0.5, r[:, None] < cut, r < cut)
    moved = _affine(part, generator, degrees=60, shear=0.3, stretch=0.5)
    moved[:, :, 2] = _uniform((part, 2), -0.5, 0.5, generator)
    order = torch.rand(half, 4, generator=generator).argsort(dim=1)
    quarters = pick(half).view(half, 2, 14, 2, 14).transpose(2, 3).reshape(half, 4, 14, 14)
    quarters = quarters[torch.arange(half)[:, None], order].view(half, 2, 2, 14, 14)
    ground = F.pad(1 - place(pick(half))[:, 3:25, 3:25], (3, 3, 3, 3))
    kinds = [
        pick(half, ASYMMETRIC).rot90(1, (1, 2)),
        pick(half, ASYMMETRIC).rot90(3, (1, 2)),
        pick(half, LEFT_RIGHT).flip(2),
        pick(half, UP_DOWN).flip(1),
        torch.where(first, pick(part), pick(part)),
        torch.maximum(pick(part), _warp(pick(part), moved)),
        *(_side_by_side([pick(half) for _ in range(number)]) for number in (2, 3)),
        quarters.transpose(2, 3).reshape(half, FRAME, FRAME),
        ground,
        _bent_strokes(2 * part, generator),
        _straight_strokes(2 * part, generator),
        _paths(part, generator),
        _blobs(2 * part, generator),
        _fields(half, generator),
    ]
    made = torch.cat(kinds)
    return _drawn_anew(made[made.sum(dim=(1, 2)) > 10], generator)  # an empty blob is nothing


def place(images):
    """Each image's ink scaled to 20 pixels on its longest side, its centre of mass at pixel (14, 14)."""
    r = torch.arange(float(FRAME))
    ink = images > 0.3 * images.amax(dim=(1, 2), keepdim=True)
    spans, centres = [], []
    for axis in (1, 2):  # x: over the rows; y: over the columns
        there = ink.any(dim=axis)
        spans.append(torch.where(there, r, -1).amax(1) - torch.where(there, r, FRAME).amin(1) + 1)
        centres.append((images.sum(dim=axis) * r).sum(1) / images.sum(dim=(1, 2)).clamp_min(1e-6))
    scale = torch.maximum(*spans).clamp_min(1) / SIDE
    theta = torch.zeros(len(images), 2, 3)
    for axis, centre in enumerate(centres):  # output → input, in half widths of the image
        theta[:, axis, axis] = scale
        theta[:, axis, 2] = (2 * centre + 1) / FRAME - 1 - scale * ((2 * MIDDLE + 1) / FRAME - 1)
    placed = _warp(images, theta)
    return placed / placed.amax(dim=(1, 2), keepdim=True).clamp_min(1e-3)


def _floats(images):
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def _uniform(shape, low, high, generator):
    return low + (high - low) * torch.rand(shape, generator=generator)


def _warp(images, theta):
    grid = F.affine_grid(theta, [len(images), 1, FRAME, FRAME], align_corners=False)
    return F.grid_sample(images[:, None], grid, align_corners=False)[:, 0]


def _affine(count, generator, degrees, shear, stretch):
    """Random turns, shears and stretches `(count, 2, 3)`, output → input, with a little more room around."""
    angle = torch.deg2rad(_uniform(count, -degrees, degrees, generator))
    wide = _uniform(count, -stretch, stretch, generator).exp()
    lean = _uniform(count, -shear, shear, generator)
    rows = [angle.cos() * wide, lean - angle.sin(), 0 * lean, angle.sin(), angle.cos() / wide, 0 * lean]
    return 1.15 * torch.stack(rows, dim=1).view(count, 2, 3)


def _drawn_anew(images, generator):
    """Bent by an affine map, of another thickness, placed, and more or less sharp: what a pen and a camera vary."""
    images = _warp(images, _affine(len(images), generator, degrees=12, shear=0.35, stretch=0.35))
    thicker = F.max_pool2d(images[:, None], 3, 1, 1)[:, 0]
    thinner = F.pad(-F.max_pool2d(-images[:, None], 2, 1)[:, 0], (0, 1, 0, 1))
    blurred = F.avg_pool2d(images[:, None], 3, 1, 1)[:, 0]
    choices = torch.stack([images, (images + thicker) / 2, thicker, (images + thinner) / 2, blurred])
    which = torch.randint(len(choices), (len(images),), generator=generator)
    placed = place(choices[which, torch.arange(len(images))])
    gain = (5 * _uniform((len(images), 1, 1), -0.3, 1, generator)).clamp_min(1)
    return ((placed - 0.4) * gain + 0.4).clamp(0, 1)


def european(images, labels, generator, ones, sevens, longest=12, flattest=0.35):
    """These shares of the 1s with a flag and often a foot, of the 7s with a bar, as few of MNIST are; not `place`d.

    `longest`, in pixels, and `flattest`, in radians: of the flags. A long and flat one makes a 1 that may be a 7.
    """
    images, r = _floats(images).clone(), torch.arange(float(FRAME))
    chosen = torch.rand(len(images), generator=generator) < torch.where(labels == 1, ones, sevens)
    rows = (chosen & ((labels == 1) | (labels == 7))).nonzero()[:, 0]
    if len(rows) == 0:
        return images
    found, one, count = images[rows], labels[rows] == 1, len(rows)
    inked = (found > 0.4).any(dim=2).float()
    top, bottom = inked.argmax(dim=1), FRAME - 1 - inked.flip(1).argmax(dim=1)

    def at(row):
        """The middle of the stroke in a row, (x, y)."""
        values = found[torch.arange(count), row]
        return torch.stack([(values * r).sum(1) / values.sum(1).clamp_min(1e-3), row.float()], dim=1)

    long, angle, wide = (_uniform(count, *span, generator) for span in ((3, longest), (flattest, 1.35), (2.5, 7)))
    slope, lower = _uniform(count, -1.5, 1.5, generator), _uniform(count, -1.5, 2, generator)
    flag = torch.stack([at(top), at(top) + long[:, None] * torch.stack([-angle.cos(), angle.sin()], dim=1)], dim=1)
    level = torch.where(one[:, None], at(bottom), at((top + bottom) // 2) + torch.stack([0 * lower, lower], dim=1))
    bar = torch.stack([level - torch.stack([wide, slope], 1), level + torch.stack([wide, slope], 1)], dim=1)
    keep = (~one | (torch.rand(count, generator=generator) < 0.45))[:, None, None]
    t = torch.linspace(0, 1, FRAME)[:, None]
    for (start, end), use in ((flag.unbind(1), one[:, None, None]), (bar.unbind(1), keep)):
        line = _pen(start[:, None] * (1 - t) + end[:, None] * t, _uniform(count, 0.7, 1.4, generator))
        found = torch.where(use, torch.maximum(found, line), found)
    images[rows] = found
    return images


def _side_by_side(digits):
    """Digits in a row, scaled down to the width of one."""
    row = F.interpolate(
        torch.cat([digit[:, :, 4:24] for digit in digits], dim=2)[:, None], scale_factor=1 / len(digits)
    )
    height, width = row.shape[-2:]
    left, top = (FRAME - width) // 2, (FRAME - height) // 2
    return F.pad(row[:, 0], (left, FRAME - width - left, top, FRAME - height - top))


# ------------------------------------------------------------------------------------------------
# Strokes
# ------------------------------------------------------------------------------------------------


def _pen(points, radius):
    """What a round pen of so many pixels leaves that visits points `(N, P, 2)`, (x, y) in pixels."""
    r = torch.arange(float(FRAME))
    drawn = []
    for some, wide in zip(points.split(250), radius.split(250), strict=True):
        across, down = ((some[..., axis, None] - r) ** 2 for axis in (0, 1))  # (n, P, 28)
        distance = (down[..., None] + across[:, :, None]).amin(dim=1).sqrt()
        drawn.append((wide[:, None, None] + 0.5 - distance).clamp(0, 1))
    return torch.cat(drawn)


def _fitted(points):
    """The points moved and scaled, so that they span 20 pixels."""
    low = points.amin(dim=1, keepdim=True)
    span = (points.amax(dim=1, keepdim=True) - low).amax(dim=2, keepdim=True)
    return 4 + SIDE * (points - low) / span.clamp_min(0.05)


def _strokes(start, bend, end, generator):
    """Two or more of the strokes `(N, S, 2)`, quadratic Bézier curves through `bend`, narrowed by up to a half."""
    count, strokes = start.shape[:2]
    t = torch.linspace(0, 1, 20)[:, None]
    points = (1 - t) ** 2 * start[:, :, None] + 2 * t * (1 - t) * bend[:, :, None] + t**2 * end[:, :, None]
    number = torch.randint(2, strokes + 1, (count, 1), generator=generator)
    used = (torch.arange(strokes) < number)[..., None, None]
    points = torch.where(used, points, points[:, :1]).flatten(1, 2)
    narrow = torch.stack([_uniform(count, 0.5, 1, generator), torch.ones(count)], dim=1)[:, None]
    return _pen(_fitted(points * narrow), _uniform(count, 0.7, 1.8, generator))


def _bent_strokes(count, generator):
    """Two to four strokes, half of them bent; many begin at an end or the middle of the one before."""
    start, end = (_uniform((count, 4, 2), 0, 1, generator) for _ in range(2))
    snapped = torch.rand(count, 4, 1, generator=generator) < 0.6
    start, end = (torch.where(snapped, (2 * points).round() / 2, points) for points in (start, end))
    for i in range(1, 4):
        joined = torch.rand(count, 1, generator=generator) < 0.5
        where = torch.randint(3, (count, 1), generator=generator) / 2
        start[:, i] = torch.where(joined, start[:, i - 1] * (1 - where) + end[:, i - 1] * where, start[:, i])
    bent = torch.rand(count, 4, 1, generator=generator) < 0.5
    return _strokes(start, (start + end) / 2 + bent * _uniform((count, 4, 2), -1, 1, generator), end, generator)


def _straight_strokes(count, generator):
    """Two to five straight strokes between the points of a grid of 3×3; most go on where the last one ended."""
    start, end = (torch.randint(3, (count, 5, 2), generator=generator).float() for _ in range(2))
    for i in range(1, 5):
        joined = torch.rand(count, 1, generator=generator) < 0.6
        start[:, i] = torch.where(joined, end[:, i - 1], start[:, i])
    end = torch.where((start == end).all(dim=2, keepdim=True), (end + 1) % 3, end)
    start, end = (points + 0.1 * torch.randn(points.shape, generator=generator) for points in (start, end))
    return _strokes(start, (start + end) / 2, end, generator)


def _paths(count, generator):
    """One smooth path, a sum of sines."""
    t = torch.linspace(0, 1, 64)[:, None]
    points = torch.zeros(count, 64, 2)
    fading, speed = (_uniform((count, 1, 1), *span, generator) for span in ((0.3, 1.2), (0.7, 2)))
    for frequency in range(1, 7):
        size = torch.randn(count, 1, 2, generator=generator) / frequency**fading
        phase = _uniform((count, 1, 2), 0, 2 * math.pi, generator)
        points = points + size * torch.sin(math.pi * frequency * speed * t + phase)
    return _pen(_fitted(points), _uniform(count, 0.7, 1.4, generator))


# ------------------------------------------------------------------------------------------------
# Areas
# ------------------------------------------------------------------------------------------------


def _blobs(count, generator):
    """Smooth noise of four scales within an ellipse, from soft to sharp, half of it shaded."""
    made = []
    r = torch.linspace(-1, 1, FRAME)
    for size in (3, 5, 9, 15):
        noise = torch.randn(count // 4, 1, FRAME, FRAME, generator=generator)
        for _ in range(2):
            noise = F.avg_pool2d(noise, size, 1, size // 2)
        level, gain, wide, high = (
            _uniform((count // 4, 1, 1), *span, generator) for span in ((-0.5, 1.5), (0.5, 5), (0.3, 1), (0.3, 1))
        )
        values = noise[:, 0] / noise[:, 0].std(dim=(1, 2), keepdim=True) - level
        slopes = _uniform((count // 4, 2, 1, 1), -2, 2, generator)
        shade = (1 + slopes[:, 0] * r + slopes[:, 1] * r[:, None]).clamp(0, 1)
        shade = torch.where(torch.rand(count // 4, 1, 1, generator=generator) < 0.5, shade, 1)
        made.append(shade * (values * gain).clamp(0, 1) * ((r / wide) ** 2 + (r[:, None] / high) ** 2 < 1))
    return torch.cat(made)


def _fields(count, generator):
    """Rectangles of up to 9×9 black and white fields."""
    made = torch.zeros(count, FRAME, FRAME)
    for image in made:
        down, across = torch.randint(1, 10, (2,), generator=generator).tolist()
        high, wide = torch.randint(8, SIDE + 1, (2,), generator=generator).tolist()
        fields = (torch.rand(1, 1, down, across, generator=generator) < 0.6).float()
        image[4 : 4 + high, 4 : 4 + wide] = F.interpolate(fields if down * across > 3 else fields * 0 + 1, (high, wide))
    return made
