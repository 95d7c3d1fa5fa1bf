"""What the hooks of all layers of a worker read, per token of the batch."""

from __future__ import annotations

import torch


class Tokens:
    """What the hooks of all layers read.

    Attributes:
        rows: Per token of the batch, the row of the tables; 0 leaves activations alone.
        strengths: Per token, how much of it.
        steering: Whether anything acts in this step. Only code that is run by Python may ask.
        weighted: Whether some strength in this step is not 1; likewise.
    """

    def __init__(self, most: int, device: torch.device) -> None:
        self.rows = torch.zeros(most, dtype=torch.int64, device=device)
        self.strengths = torch.ones(most, device=device)
        self.steering = False
        self.weighted = False
