"""Random changes of digits, drawn for each image of a batch and applied to all at once."""

import torch
import torch.nn.functional as F


class RandomAffineEach(torch.nn.Module):
    """Rotate, zoom, stretch and shear every image of a float batch `(..., 1, H, W)`, then shift it, by its own draw.

    `degrees`: rotation uniform in ±degrees; `zoom`: factor uniform in (low, high), applied with
    `zoom_probability`; `shift`: uniform in ±shift along each axis, in half widths (heights) of the image;
    `stretch`: the height grows by a factor whose logarithm is uniform in ±log(1 + stretch), and the width shrinks by
    it; `shear`: the slant, uniform in ±shear (width per height); `mode`: 'bilinear', which blurs a little, 'bicubic',
    which overshoots a little, or 'nearest'. One affine grid and one sampling for the whole batch, the background
    filled with 0 (Jaderberg et al. 2015, Spatial Transformer Networks).
    """

    def __init__(
        self, degrees=0.0, zoom=(1.0, 1.0), zoom_probability=1.0, shift=0.0, mode="bilinear", stretch=0.0, shear=0.0
    ):
        super().__init__()
        self.degrees, self.zoom, self.shift, self.mode = degrees, zoom, shift, mode
        self.zoom_probability, self.stretch, self.shear = zoom_probability, stretch, shear

    def forward(self, images):
        batch = images.reshape(-1, *images.shape[-3:])  # (N, 1, H, W)
        u = torch.rand(5, len(batch), device=images.device)
        angle = torch.deg2rad((2 * u[0] - 1) * self.degrees)
        low, high = self.zoom
        zoom = torch.where(u[1] < self.zoom_probability, low + (high - low) * u[2], 1.0)
        cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
        # Output → input, in half widths and half heights of the image: those of pixels differ where it is not square.
        height, width = batch.shape[-2:]
        up, across = sin * height / width, sin * width / height
        x, y = (2 * u[3:] - 1) * self.shift
        matrix = torch.stack([cos, -up, across, cos], dim=1).view(-1, 2, 2)
        if self.stretch or self.shear:
            v = 2 * torch.rand(2, len(batch), device=images.device) - 1
            tall = (1 + self.stretch) ** v[0]
            slant = v[1] * self.shear * height / width
            matrix = torch.stack([tall, slant * tall, 0 * tall, 1 / tall], dim=1).view(-1, 2, 2) @ matrix
        offset = -matrix @ torch.stack([x, y], dim=1)[..., None]
        grid = F.affine_grid(torch.cat([matrix, offset], dim=2), list(batch.shape), align_corners=False)  # (N, H, W, 2)
        return F.grid_sample(batch, grid, mode=self.mode, align_corners=False).view(images.shape)

    def extra_repr(self):
        low, high = self.zoom
        more = "".join(f", {name}={getattr(self, name):g}" for name in ("stretch", "shear") if getattr(self, name))
        return (
            f"degrees={self.degrees:g}, zoom=({low:.3g}, {high:.3g}), zoom_probability={self.zoom_probability:g},"
            f" shift={self.shift:g}, mode={self.mode!r}{more}"
        )


class RandomStrokeEach(torch.nn.Module):
    """Make the strokes of every image of a batch `(..., 1, H, W)`, white on black, thinner or thicker.

    With probability `p` an image is mixed with its erosion or its dilation (the least and the largest of 3×3 pixels),
    by a share uniform in (0, `thinner`) or (0, `thicker`), one as likely as the other. Pens differ, photographs do.
    """

    def __init__(self, thinner=0.7, thicker=1.0, p=0.5):
        super().__init__()
        self.thinner, self.thicker, self.p = thinner, thicker, p

    def forward(self, images):
        u = torch.rand(2, *images.shape[:-3], 1, 1, 1, device=images.device)
        batch = images.reshape(-1, *images.shape[-3:])
        thick = F.max_pool2d(batch, 3, stride=1, padding=1).view(images.shape)
        thin = -F.max_pool2d(-batch, 3, stride=1, padding=1).view(images.shape)
        share = u[1] * torch.where(u[0] < self.p / 2, self.thinner, self.thicker)
        changed = torch.lerp(images, torch.where(u[0] < self.p / 2, thin, thick), share)
        return torch.where(u[0] < self.p, changed, images)

    def extra_repr(self):
        return f"thinner={self.thinner:g}, thicker={self.thicker:g}, p={self.p:g}"


class RandomHorizontalFlipEach(torch.nn.Module):
    """Mirror every image of a batch `(..., 1, H, W)` left to right, each with probability `p`.

    torchvision's RandomHorizontalFlip draws once for a whole tensor.
    """

    def __init__(self, p=0.5):
        super().__init__()
        self.p = p

    def forward(self, images):
        flipped = torch.rand(*images.shape[:-3], 1, 1, 1, device=images.device) < self.p
        return torch.where(flipped, images.flip(-1), images)

    def extra_repr(self):
        return f"p={self.p:g}"
