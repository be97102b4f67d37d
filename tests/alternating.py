"""Small untrained networks of ADDP for 4 x 4 codes, and their params."""

import torch

from stages.decoder.onestep import OneStep
from stages.generator.addp_network import Addp, AddpNetwork
from stages.generator.alternating_params import ALTERNATING, Alternating
from stages.generator.params import MaskedSampling
from stages.generator.transformer import TokenTransformer

PLAIN = ALTERNATING["addp"].plain
VIT = {"img_px": 16, "patch_px": 4, "dim": 32, "depth": 2, "heads": 2, "stem_blocks": 0, "seed": 0}
SIZES = {"dim": 32, "depth": 2, "heads": 2, "dropout": 0.0}
PARAMS = Alternating.model_validate(
    {
        "kind": "addp", "predictor": "masked", "decoder": "onestep",
        "encoder": {key: VIT[key] for key in ("dim", "depth", "heads", "stem_blocks")},
        "model": {**SIZES, "class_dropout": 0.1, "label_smoothing": 0.1},
        "optim": {"total_steps": 10, "batch_size": 4, "lr_peak": 1e-3, "warmup_share": 0.1, "weight_decay": 0.0,
                  "beta2": 0.9, "clip_norm": 1.0, "ema_decay": 0.9, "eval_share": 1.0, "precision": "fp32", "seed": 0},
    }
)  # fmt: skip


def model(codes: int = 20, classes: int = 3, codebooks: int = 1) -> Addp:
    """Untrained networks for 4 x 4 codes; larger weights, so that logits and pictures differ."""
    torch.manual_seed(0)
    sizes = {"num_codes": codes, "num_classes": classes, "num_patches": 16 * codebooks, "codebooks": codebooks}
    made = Addp(AddpNetwork(**sizes, encoder=VIT, **SIZES), OneStep(torch.randn(codes, 6), codebooks, [16, 8, 8], 1))
    with torch.no_grad():
        for parameter in made.network.parameters():
            parameter *= 5 if parameter.ndim > 1 else 1
        made.network.embed_code.weight *= 4
    return made.eval().requires_grad_(False)


def predictor(codes: int = 20) -> TokenTransformer:
    """An untrained generator of kind masked for the same codes."""
    torch.manual_seed(1)
    made = TokenTransformer(num_codes=codes, num_classes=3, num_patches=16, grid=4, **SIZES, causal=False)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter *= 10 if parameter.ndim > 1 else 1
    return made.eval().requires_grad_(False)


def batch(rows: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels, one of them "none", and codes."""
    return torch.arange(rows) % 4, torch.randint(20, (rows, 16), generator=torch.Generator().manual_seed(2))


def setting(**changes) -> MaskedSampling:
    return PLAIN.model_copy(update=changes)
