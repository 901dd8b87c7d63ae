"""A network for sequences of ids, such as the tokens of a text."""

from __future__ import annotations

from torch import Tensor, nn


class Network(nn.Module):
    """An embedding and a recurrent layer; use any module that maps ids to (batch, outputs)."""

    def __init__(self, words: int, outputs: int, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        _, last = self.recurrent(self.embedding(x.flatten(1)))
        y: Tensor = self.head(last[-1])
        return y
