"""The prefix by which a caption conditions a generator: W positions before the codes, padded on the left.

Ids get a learned embedding, frozen features a learned MLP of two layers. A caption without a token, which is
also what a dropped one becomes, is the learned null caption, one position. Columns of padding are masked; each position
sees itself, so that no row of attention is empty.

B = batch, W = positions of the prefix, T = positions in all, D = width.
"""

import torch
from torch import Tensor, nn


class CaptionPrefix(nn.Module):
    """What a text artifact gives of captions, int64 [B, W] or float [B, W, features + 1] -> vectors and padding."""

    def __init__(self, dim: int, *, length: int, vocabulary: int = 0, features: int = 0):
        super().__init__()
        self.length, self.empty_shape = length, (length, features + 1) if features else (length,)
        self.embed = (
            nn.Sequential(nn.Linear(features, dim), nn.GELU(), nn.Linear(dim, dim))
            if features
            else nn.Embedding(vocabulary, dim)
        )
        self.null = nn.Parameter(torch.empty(dim))

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """(float [B, W, D], bool [B, W] true where padded); what stands in padded positions changes nothing."""
        padded = given == 0 if given.ndim == 2 else given[..., -1] == 0
        values = given if given.ndim == 2 else given[..., :-1].masked_fill(padded[..., None], 0)
        x = self.embed(values).masked_fill(padded[..., None], 0)
        empty, last = padded.all(1)[:, None], torch.arange(self.length, device=given.device) == self.length - 1
        return torch.where((empty & last)[..., None], self.null, x), padded & ~(empty & last)


def attention_mask(padded_BW: Tensor, length: int, causal: bool) -> Tensor:
    """bool [B, 1, T, T], true where a row may look, for T = `length` positions that begin with the prefix."""
    columns = seen_columns(padded_BW, length)
    mask = columns.expand(-1, -1, length, -1)
    itself = torch.eye(length, dtype=torch.bool, device=padded_BW.device)
    return (mask.tril() if causal else mask) | itself


def seen_columns(padded_BW: Tensor, length: int) -> Tensor:
    """bool [B, 1, 1, T]: the columns that are not padding."""
    rest = padded_BW.new_ones(len(padded_BW), length - padded_BW.shape[1])
    return torch.cat([~padded_BW, rest], 1)[:, None, None]
