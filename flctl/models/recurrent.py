"""The modules of the recurrent networks; imports torch, so it is imported when one is built."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["CharacterNetwork"]


class CharacterNetwork(nn.Module):
    """Codes [n, window] int64 to logits [n, window, characters]."""

    def __init__(self, characters: int, embedding: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, embedding)
        between = dropout if layers > 1 else 0.0
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True, dropout=between)
        self.output = nn.Linear(hidden, characters)

    def forward(self, codes: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(codes))
        logits: Tensor = self.output(states)
        return logits
