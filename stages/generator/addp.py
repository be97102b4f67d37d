"""ADDP (Tian et al., ICLR 2024): alternates between an image and its codes, from all codes masked to all known.

At each step the network sees the image decoded so far and the codes kept so far, and draws the masked ones. The surest
are kept. The others stay masked; in the next image they are the mean of all codes under their probabilities.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.core import artifact
from stages.core.hardware import compute
from stages.core.networks import load_tensors
from stages.core.sampling import Watch, draw_from, guide, masked_share, unwatched
from stages.core.schemas import MaskSchedule
from stages.core.transformer import for_sampling
from stages.decoder.decoder import load_decoder
from stages.decoder.onestep import OneStep
from stages.generator.addp_network import Addp, AddpNetwork, picture
from stages.generator.guidance import guidance_scales
from stages.generator.params import MaskedSampling
from stages.generator.transformer import nothing_known, uniforms

FILLS = "any"  # draws codes at any positions around known ones
ENCODER, DECODER = "encoder", "decoder"  # artifacts inside that of the generator


def load(folder: Path, device: torch.device | str) -> tuple[Addp, dict[str, Any]]:
    """The networks of a generator artifact, in evaluation mode, and its config; reads no file outside `folder`."""
    config = artifact.read_config(folder, "generator")
    network = AddpNetwork(**config["shape"])
    seen = load_tensors(folder / ENCODER, "model.safetensors")
    network.load_state_dict(load_tensors(folder, "model.safetensors") | {f"encoder.{k}": v for k, v in seen.items()})
    return Addp(network, pixels_of(folder / DECODER, device)).to(device).eval(), config


def pixels_of(folder: Path, device: torch.device | str) -> OneStep:
    """The frozen network of a decoder artifact of kind onestep."""
    network = load_decoder(folder, device).network
    assert isinstance(network, OneStep)
    return network.requires_grad_(False)


def sample(
    model: Addp, labels_B: Tensor, sampling: MaskedSampling, seed: int, first: int = 0, watch: Watch = unwatched
) -> Tensor:
    """int64 [B, N] codes for the given classes. `first`: number of the first sample."""
    return fill(model, labels_B, nothing_known(model, len(labels_B)), sampling, seed, first, watch)


@torch.inference_mode()
def fill(
    model: Addp, labels_B: Tensor, known_BN: Tensor, sampling: MaskedSampling, seed: int, first: int = 0,
    watch: Watch = unwatched,
) -> Tensor:  # fmt: skip
    """int64 [B, N]: the known codes, and others drawn around them; `known_BN` int64, `num_codes` where unknown."""
    shape = (sampling.steps, 2, model.num_patches)
    uniform = uniforms(seed, first, len(labels_B), shape, labels_B.device)
    codes_BN, counts_B = known_BN.clone(), (known_BN == model.num_codes).sum(1)
    with compute(labels_B.device, sampling.precision):
        fast = for_sampling(model, len(labels_B) * model.num_patches)
        for count in filter(None, counts_B.unique().tolist()):  # rows of a batch mask equally many
            rows = counts_B == count
            codes_BN[rows] = alternate(fast, labels_B[rows], codes_BN[rows], uniform[rows], sampling, watch)
    return codes_BN


def alternate(
    model: Addp, labels_B: Tensor, codes_BN: Tensor, uniform: Tensor, sampling: MaskedSampling, watch: Watch
) -> Tensor:
    """Draw what is masked in codes int64 [B, N], equally many in every row, from uniforms [B, steps, 2, N]."""
    codes_BN, mask_BN = codes_BN.clone(), codes_BN == model.num_codes
    images, total = picture(model.pixels, codes_BN, mask_BN, None), int(mask_BN[0].sum())
    filters = sampling.model_dump(include={"temperature", "top_k", "top_p"})
    for step, guidance in enumerate(guidance_scales(sampling.guidance, sampling.steps)):
        logits_MK = guided_logits(model.network, images, labels_B, codes_BN, mask_BN, guidance)
        codes_BN[mask_BN], log_share_M = draw_from(logits_MK, uniform[:, step, 0][mask_BN], **filters)
        if step == sampling.steps - 1:
            break
        noise = sampling.choice_temperature * (1 - (step + 1) / sampling.steps)
        sure = confidence(log_share_M, mask_BN, uniform[:, step, 1], noise)
        again = least(sure, still_masked(step, sampling.steps, total, sampling.mask_schedule))
        images = picture(model.pixels, codes_BN, again, logits_MK.softmax(-1)[again[mask_BN]])
        mask_BN = again
        del logits_MK  # as large as all the network computes
        watch(codes_BN.masked_fill(mask_BN, model.num_codes))
    return codes_BN


def guided_logits(
    network: AddpNetwork, images: Tensor, labels_B: Tensor, codes_BN: Tensor, mask_BN: Tensor, guidance: float
) -> Tensor:
    """Logits [M, K] at the masked positions; guided if there are classes and `guidance` is not 1."""
    features = network.features(images)
    if guidance == 1 or not network.num_classes:
        return network.logits(features, labels_B, codes_BN, mask_BN)
    labels = torch.cat([labels_B, torch.full_like(labels_B, network.num_classes)])
    twice = (features.repeat(2, 1, 1), labels, codes_BN.repeat(2, 1), mask_BN.repeat(2, 1))
    return guide(*network.logits(*twice).chunk(2), guidance)


def confidence(log_share_M: Tensor, mask_BN: Tensor, uniform_BN: Tensor, noise: float) -> Tensor:
    """float [B, N]: log p of the drawn codes + noise * Gumbel; infinite where nothing was drawn."""
    gumbel = -(-uniform_BN[mask_BN].clamp(1e-9, 1 - 1e-7).log()).log()
    sure = torch.full(mask_BN.shape, torch.inf, device=mask_BN.device)
    sure[mask_BN] = log_share_M + noise * gumbel
    return sure


def least(sure_BN: Tensor, count: int) -> Tensor:
    """bool [B, N]: the `count` positions of every row that are least sure."""
    found = torch.zeros_like(sure_BN, dtype=torch.bool)
    return found.scatter_(1, sure_BN.argsort(stable=True, dim=1)[:, :count], True)


def still_masked(step: int, steps: int, total: int, schedule: MaskSchedule) -> int:
    """Positions of `total` that stay masked after `step` (from 0): as of kind masked, but rounded up; at least 1.

    The last image thus still has a mixed code; what was drawn there is its code.
    """
    return max(1, math.ceil(total * masked_share((step + 1) / steps, schedule) - 1e-9))
