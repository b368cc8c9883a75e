"""Random rotation, zoom, shift and flip, drawn for each image of a batch and applied to all at once."""

import torch
import torch.nn.functional as F


class RandomAffineEach(torch.nn.Module):
    """Rotate and zoom every image of a float batch `(..., 1, H, W)`, then shift it, each by its own random draw.

    `degrees`: rotation uniform in ±degrees; `zoom`: factor uniform in (low, high), applied with
    `zoom_probability`; `shift`: uniform in ±shift along each axis, in half widths (heights) of the image;
    `mode`: 'bilinear', which blurs a little, 'bicubic', which overshoots a little, or 'nearest'.
    One affine grid and one sampling for the whole batch, the background filled with 0 (Jaderberg
    et al. 2015, Spatial Transformer Networks).
    """

    def __init__(self, degrees=0.0, zoom=(1.0, 1.0), zoom_probability=1.0, shift=0.0, mode="bilinear"):
        super().__init__()
        self.degrees, self.zoom, self.shift, self.mode = degrees, zoom, shift, mode
        self.zoom_probability = zoom_probability

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
        theta = torch.stack([cos, -up, up * y - cos * x, across, cos, -across * x - cos * y], dim=1).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(batch.shape), align_corners=False)  # (N, H, W, 2)
        return F.grid_sample(batch, grid, mode=self.mode, align_corners=False).view(images.shape)

    def extra_repr(self):
        low, high = self.zoom
        return (
            f"degrees={self.degrees:g}, zoom=({low:.3g}, {high:.3g}), zoom_probability={self.zoom_probability:g},"
            f" shift={self.shift:g}, mode={self.mode!r}"
        )


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
