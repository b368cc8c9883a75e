"""Random changes of digits: against torchvision and SciPy, and by what each draw did."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torchvision.transforms import v2

import augment
from augment import RandomAffineEach, RandomStrokeEach

BILINEAR = v2.InterpolationMode.BILINEAR


def drawn(monkeypatch, *values):
    """Let the next draw be these numbers in [0, 1): angle, whether to zoom, zoom, x, y."""
    numbers = torch.tensor(values).view(5, 1)
    monkeypatch.setattr(augment.torch, "rand", lambda *shape, device=None: numbers.expand(*shape))


def smooth(height=28, width=28):
    return F.avg_pool2d(torch.rand(1, 1, height + 4, width + 4), 5, stride=1)


@pytest.mark.parametrize("shape", [(28, 28), (28, 56), (40, 20)])
@pytest.mark.parametrize(("u", "degrees"), [(0.0, -30), (1.0, 30), (0.75, 15)])
def test_rotation_is_torchvisions(shape, u, degrees, monkeypatch):
    """A rotation and not a shear, in pixels, also where the image is not square."""
    image = smooth(*shape)
    drawn(monkeypatch, u, 0.5, 0.5, 0.5, 0.5)
    ours = RandomAffineEach(degrees=30)(image)
    theirs = v2.functional.rotate(image, degrees, BILINEAR)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(20, 20), (20, 40)])
def test_rotation_zoom_and_shift_together_are_torchvisions(shape, monkeypatch):
    """About the centre; the shift comes last, and is the same whatever the zoom."""
    height, width = shape
    image = smooth(*shape)
    for zoom in (0.5, 1.0, 1.5):
        drawn(monkeypatch, 0.9, 0.0, zoom - 0.5, 0.7, 0.1)
        ours = RandomAffineEach(degrees=20, zoom=(0.5, 1.5), shift=0.5)(image)
        pixels = [round(0.4 * 0.5 * width / 2), round(-0.8 * 0.5 * height / 2)]  # torchvision's are whole
        theirs = v2.functional.affine(image, -16.0, pixels, zoom, [0.0, 0.0], BILINEAR)
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_all_draws_are_uniform_and_do_not_depend_on_each_other(monkeypatch):
    """Angle, zoom and both shifts, read off the affine matrices of 20,000 images."""
    found = {}
    monkeypatch.setattr(augment.F, "affine_grid", lambda theta, size, **_: found.update(theta=theta))
    monkeypatch.setattr(augment.F, "grid_sample", lambda batch, *_, **__: batch)
    RandomAffineEach(degrees=10, zoom=(0.9, 1.1), shift=0.06)(torch.zeros(20_000, 1, 28, 28))
    matrix = found["theta"][:, :, :2]
    zoom = 1 / torch.linalg.det(matrix).sqrt()
    angle = torch.rad2deg(torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]))
    x, y = -torch.linalg.solve(matrix, found["theta"][:, :, 2]).T  # what is moved, in the output
    for values, low, high in ((angle, -10, 10), (zoom, 0.9, 1.1), (x, -0.06, 0.06), (y, -0.06, 0.06)):
        shares = torch.histc((values - low) / (high - low), 10, 0, 1) / 20_000
        assert shares.sum() == pytest.approx(1, abs=1e-3)
        assert shares.min() > 0.09
        assert shares.max() < 0.11
    assert (torch.corrcoef(torch.stack([angle, zoom, x, y])) - torch.eye(4)).abs().max() < 0.03


def test_rotation_is_uniform_in_its_range_and_fills_with_background():
    """The bar's measured angle (from second moments) against ±15°."""
    bar = torch.zeros(1, 1, 28, 28)
    bar[..., 4:24, 13:15] = 1.0
    out = RandomAffineEach(degrees=15.0)(bar.expand(4000, 1, 28, 28)).squeeze(1)
    y, x = torch.meshgrid(torch.arange(28) - 13.5, torch.arange(28) - 13.5, indexing="ij")
    moment = lambda a, b: (out * a * b).sum((1, 2))  # noqa: E731
    angle = torch.rad2deg(0.5 * torch.atan2(2 * moment(x, y), moment(y, y) - moment(x, x)))
    assert angle.abs().max() <= 15.3
    assert angle.min() < -14
    assert angle.max() > 14
    assert angle.mean().abs() < 0.6
    assert angle.std() == pytest.approx(30 / math.sqrt(12), rel=0.05)
    ones = RandomAffineEach(degrees=15.0)(torch.ones(50, 1, 28, 28))
    assert ones[:, 0, 0, 0].min() < 0.2  # corners come from outside the image


def test_zoom_by_a_crop_to_22_happens_in_a_tenth():
    square = torch.zeros(1, 1, 28, 28)
    square[..., 9:19, 9:19] = 1.0
    zoom = RandomAffineEach(zoom=(28 / 22, 28 / 22), zoom_probability=0.1)
    area = zoom(square.expand(5000, 1, 28, 28)).sum((1, 2, 3)) / 100
    zoomed = area > 1.2
    assert zoomed.float().mean() == pytest.approx(0.1, abs=0.02)
    assert area[~zoomed].tolist() == pytest.approx([1.0] * int((~zoomed).sum()))
    assert area[zoomed].mean() == pytest.approx((28 / 22) ** 2, rel=0.02)


def test_zoom_agrees_with_torchvision_crop_and_resize():
    image = torch.nn.functional.avg_pool2d(torch.rand(1, 1, 30, 30), 3, stride=1)
    ours = RandomAffineEach(zoom=(28 / 22, 28 / 22))(image)
    theirs = v2.functional.resize(v2.functional.center_crop(image, [22, 22]), [28, 28], antialias=False)
    torch.testing.assert_close(ours[..., 2:-2, 2:-2], theirs[..., 2:-2, 2:-2])


def test_shift_is_in_half_widths():
    dot = torch.zeros(1, 1, 28, 28)
    dot[..., 13:15, 13:15] = 1.0
    out = RandomAffineEach(shift=0.25)(dot.expand(2000, 1, 28, 28)).squeeze(1)
    column = (out.sum(1) * (torch.arange(28) - 13.5)).sum(1) / out.sum((1, 2))
    assert column.abs().max() == pytest.approx(0.25 * 14, abs=0.1)
    assert column.mean().abs() < 0.15


def in_turn(monkeypatch, *draws):
    """Let the draws be these numbers in [0, 1), a tuple each."""
    left = list(draws)

    def rand(*shape, device=None):
        values = torch.tensor(left.pop(0))
        return values.view(len(values), *[1] * (len(shape) - 1)).expand(*shape)

    monkeypatch.setattr(augment.torch, "rand", rand)


@pytest.mark.parametrize("shape", [(28, 28), (28, 40)])
@pytest.mark.parametrize(("tall", "slant"), [(1.2, 0.0), (1 / 1.2, 0.0), (1.0, 0.3), (1.0, -0.3), (1.1, 0.15)])
def test_stretch_and_shear_are_an_affine_map_in_pixels(shape, tall, slant, monkeypatch):
    """Where each pixel comes from, by hand, about the centre; first stretched and sheared, then turned by 10°."""
    image = smooth(*shape)
    for degrees in (0.0, 10.0):
        draws = (math.log(tall, 1.2) / 2 + 0.5, slant / 0.3 / 2 + 0.5)
        in_turn(monkeypatch, (1.0, 0.5, 0.5, 0.5, 0.5), draws)
        ours = RandomAffineEach(degrees=degrees, stretch=0.2, shear=0.3)(image)
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        back = np.array([[1 / tall, 0], [slant * tall, tall]]) @ np.array([[cos, sin], [-sin, cos]])  # of (row, column)
        middle = (np.array(shape) - 1) / 2
        theirs = ndimage.affine_transform(
            image[0, 0].double().numpy(), back, middle - back @ middle, order=1, mode="grid-constant"
        )
        np.testing.assert_allclose(ours[0, 0].numpy(), theirs, atol=1e-4)


def test_stretch_and_shear_keep_the_area_and_fill_their_ranges(monkeypatch):
    found = {}
    monkeypatch.setattr(augment.F, "affine_grid", lambda theta, size, **_: found.update(theta=theta))
    monkeypatch.setattr(augment.F, "grid_sample", lambda batch, *_, **__: batch)
    RandomAffineEach(stretch=0.15, shear=0.2)(torch.zeros(20_000, 1, 28, 28))
    matrix = found["theta"][:, :, :2]
    torch.testing.assert_close(torch.linalg.det(matrix), torch.ones(20_000))
    stretch, slant = -matrix[:, 1, 1].log() / math.log(1.15), matrix[:, 0, 1] / matrix[:, 0, 0] / 0.2
    for values in (stretch, slant):
        shares = torch.histc(values, 10, -1, 1) / 20_000
        assert shares.sum() == pytest.approx(1, abs=1e-3)
        assert 0.09 < shares.min() <= shares.max() < 0.11
    assert abs(torch.corrcoef(torch.stack([stretch, slant]))[0, 1]) < 0.03


@pytest.mark.parametrize(("u", "share"), [(0.1, 0.5), (0.1, 1.0), (0.3, 0.5), (0.3, 1.0), (0.6, 1.0)])
def test_strokes_against_scipys_erosion_and_dilation(u, share, monkeypatch):
    image = smooth(28, 20)
    in_turn(monkeypatch, (u, share))
    ours = RandomStrokeEach(thinner=0.7, thicker=0.9, p=0.5)(image)[0, 0].numpy()
    grey = image[0, 0].numpy()
    if u < 0.25:
        expected = grey + 0.7 * share * (ndimage.grey_erosion(grey, (3, 3)) - grey)
    elif u < 0.5:
        expected = grey + 0.9 * share * (ndimage.grey_dilation(grey, (3, 3)) - grey)
    else:
        expected = grey
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_each_image_draws_its_own_strokes():
    images = smooth().expand(4000, 1, 28, 28)
    changed = (RandomStrokeEach(p=0.4)(images) - images).sum((1, 2, 3))
    for part in (changed < 0, changed > 0):
        assert part.float().mean() == pytest.approx(0.2, abs=0.03)
    assert changed[changed != 0].unique().numel() > 1500
    assert torch.equal(RandomStrokeEach(p=0.0)(images), images)
    assert RandomStrokeEach(p=1.0)(images[0]).shape == (1, 28, 28)  # without a batch
