"""A tokenizer or a decoder as a program of torch.export: images -> codes, codes -> images, with torch alone.

program = torch.export.load("encoder.pt2").module()
codes = program(images)          # uint8 [B, H, W, 3] -> int64 [B, N]; decoder.pt2 turns them back into images
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from stages.codebook.quantizers import Codebook
from stages.codebook.tokenizer import Tokenizer
from stages.core import UserError
from stages.decoder.decoder import Decoder

BATCH = 3  # of the example: a size of one would be taken for a constant
SAME, GRAY_LEVEL = 0.99, 1  # of the codes of noise, near ties apart; of the pixels


class Encode(nn.Module):
    """uint8 [B, img_px, img_px, 3] -> int64 [B, N]."""

    def __init__(self, tokenizer: Tokenizer):
        super().__init__()
        self.encoder, self.codebook = tokenizer.encoder, tokenizer.codebook

    def forward(self, images: Tensor) -> Tensor:
        features = self.encoder(images.permute(0, 3, 1, 2).float() / 127.5 - 1).float()
        if not isinstance(self.codebook, Codebook):
            return self.codebook.assign(features)
        # As quantizers.nearest on a GPU; on a CPU that leaves torch for NumPy, which no program can.
        own = self.codebook.vectors.unflatten(0, (self.codebook.codebooks, -1))
        parts = self.codebook.in_code_space(features).unflatten(1, (self.codebook.codebooks, -1)).unbind(1)
        scores = [vectors.square().sum(1) - 2 * part @ vectors.T for part, vectors in zip(parts, own, strict=True)]
        return torch.cat([score.argmin(-1) + g * own.shape[1] for g, score in enumerate(scores)], 1)


class Decode(nn.Module):
    """int64 [B, N] -> uint8 [B, img_px, img_px, 3], of a decoder that draws no random numbers."""

    def __init__(self, decoder: Decoder):
        super().__init__()
        self.network, self.decoder = decoder.network, decoder

    def forward(self, codes: Tensor) -> Tensor:
        pixels = self.decoder.decode_batch(codes, np.empty(0, np.uint64))
        return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def write_program(loaded: Tokenizer | Decoder, folder: Path) -> None:
    """Write encoder.pt2 or decoder.pt2; `UserError` where that is impossible, or gives other results."""
    if isinstance(loaded, Decoder) and loaded.stochastic:
        kind = loaded.config["kind"]
        raise UserError(f"--format torch: a decoder of kind {kind} draws random numbers: expected kind onestep")
    if isinstance(loaded, Tokenizer):
        name, (module, example) = "encoder.pt2", encode_example(loaded)
    else:
        name, (module, example) = "decoder.pt2", decode_example(loaded)
    with torch.no_grad():
        sizes = {next(iter(module.forward.__annotations__)): {0: torch.export.Dim("batch")}}
        program = torch.export.export(module.eval(), (example,), dynamic_shapes=sizes, strict=False)
    check_equal(loaded, program.module(), example[:2])
    torch.export.save(program, folder / name)


def encode_example(tokenizer: Tokenizer) -> tuple[nn.Module, Tensor]:
    """The module of a tokenizer and images of noise."""
    side = tokenizer.square.img_px
    noise = torch.randint(256, (BATCH, side, side, 3), generator=torch.Generator().manual_seed(0))
    return Encode(tokenizer), noise.to(torch.uint8)


def decode_example(decoder: Decoder) -> tuple[nn.Module, Tensor]:
    """The module of a decoder and random codes."""
    shape = (BATCH, decoder.num_patches)
    return Decode(decoder), torch.randint(decoder.num_codes, shape, generator=torch.Generator().manual_seed(0))


def check_equal(loaded: Tokenizer | Decoder, program: nn.Module, example: Tensor) -> None:
    """`UserError` unless the program computes what the API does, up to rounding."""
    found = program(example).numpy()
    if isinstance(loaded, Tokenizer):
        equal = (found == loaded.encode(example)).mean() >= SAME
    else:
        equal = np.abs(found.astype(int) - loaded.decode(example)).max() <= GRAY_LEVEL
    if not equal:
        raise UserError("--format torch: the program gives other results than the network: nothing was written")
