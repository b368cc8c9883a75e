"""Every architecture of the course. Imports torch only.

All models return log-probabilities of shape (N, 10): `nll_loss` fits them directly, and
`cross_entropy` too, since log-softmax of log-probabilities changes nothing.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    """The capstone's network: four convolutions, two linear layers, 593,200 parameters.

    Shapes: `(N, 1, 28, 28)` float in, log-probabilities `(N, 10)` float32 out.
    Raises ValueError for any other input shape.
    """

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, kernel_size=3)  # 320 parameters
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3)  # 18,496
        self.conv3 = nn.Conv2d(64, 128, kernel_size=3)  # 73,856
        self.conv4 = nn.Conv2d(128, 256, kernel_size=3)  # 295,168
        self.fc1 = nn.Linear(256 * 4 * 4, 50)  # 204,850
        self.fc2 = nn.Linear(50, 10)  # 510

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1:] != (1, 28, 28):
            raise ValueError(f"Net takes images of shape (N, 1, 28, 28), not {tuple(x.shape)}.")
        # Each line's comment: output shape, receptive field in pixels of the image.
        x = F.relu(self.conv1(x))  # (N, 32, 26, 26), 3×3
        x = F.relu(self.conv2(x))  # (N, 64, 24, 24), 5×5
        x = F.max_pool2d(x, 2)  # (N, 64, 12, 12), 6×6
        x = F.relu(self.conv3(x))  # (N, 128, 10, 10), 10×10
        x = F.relu(self.conv4(x))  # (N, 256, 8, 8), 14×14
        x = F.max_pool2d(x, 2)  # (N, 256, 4, 4), 16×16
        x = torch.flatten(x, 1)  # (N, 4096); view would refuse channels_last memory
        x = F.relu(self.fc1(x))  # (N, 50), 28×28: the whole image
        x = self.fc2(x)  # (N, 10), 28×28
        # float32 because under bf16 autocast a rounded log-probability would coarsen the loss
        return F.log_softmax(x, dim=1, dtype=torch.float32)  # (N, 10)
