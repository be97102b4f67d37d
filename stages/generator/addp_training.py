"""Training of ADDP: masks, images of partly predicted codes, soft targets, evaluation and the artifact that results.

The frozen predictor gives the probabilities of masked codes twice: under the noisier of two nested masks they mix the
codes that the network sees as an image, under the other one they are its target.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.core import UserError, artifact, distributed
from stages.core.distributed import linspace_indices, seed_of
from stages.core.hardware import barrier, compute, pick_device, process_group
from stages.core.metrics import count_train
from stages.core.networks import save_tensors
from stages.core.params import Machine, Precision
from stages.core.progress import print_cost_estimate
from stages.core.results import Curves
from stages.core.scratch import scratch
from stages.core.train import Batch, fit
from stages.core.transformer import for_sampling
from stages.decoder.decoder import codebook_of
from stages.decoder.onestep import OneStep
from stages.generator.addp import DECODER, ENCODER, pixels_of
from stages.generator.addp_masks import nested_masks
from stages.generator.addp_network import AddpNetwork, picture, shape_of
from stages.generator.alternating_params import ALTERNATING, EVAL_BATCH, SAMPLES_STAGE, SIZES, Alternating
from stages.generator.conditions import ClassConditions
from stages.generator.training import batches
from stages.generator.transformer import TokenTransformer, check_unconditional, load_transformer
from stages.tokens.reader import Tokens, load_tokens, token_facts

PREDICTOR = "predictor"  # a copy of its artifact, beside that of the decoder
EVAL_IMAGES = 256  # per split, evenly spaced


@dataclass(frozen=True)
class Frozen:
    """The predictor, its codes' pixels, and the number format in which they compute."""

    predictor: TokenTransformer
    pixels: OneStep
    precision: Precision

    @torch.no_grad()
    def given(self, labels_B: Tensor, codes_BN: Tensor, mask_BN: Tensor, noisier_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Images float [B, 3, H, W] that the network sees, and its target, probabilities float [M, K]."""
        with compute(codes_BN.device, self.precision):
            share_MK = self.probabilities(labels_B, codes_BN, noisier_BN, mask_BN)
            images = picture(self.pixels, codes_BN, mask_BN, share_MK)
            return images, self.probabilities(labels_B, codes_BN, mask_BN, mask_BN)

    def probabilities(self, labels_B: Tensor, codes_BN: Tensor, hidden_BN: Tensor, at_BN: Tensor) -> Tensor:
        """float32 [M, K] of the codes at `at`, given those that are not hidden."""
        return self.predictor(labels_B, codes_BN.masked_fill(hidden_BN, self.predictor.num_codes), at_BN).softmax(-1)


def train(
    tokens: Path, frozen: Path, out: Path, report: Path, name: str, params: Alternating, machine: Machine
) -> None:
    """Write the generator artifact `out`; curves and last scores go to the folder `report`.

    `frozen` holds copies of the predictor and the decoder that `params` names.
    """
    facts, optim, curves = token_facts(tokens), params.optim, Curves()
    check_frozen(tokens, facts, frozen, params)
    data = {split: load_tokens(tokens, split) for split in ("train", "val")}
    per_class = count_train(tokens, data["train"].labels, facts["classes"])
    sizes, encoder = params.model.model_dump(include=SIZES), params.encoder.model_dump()
    decoder = artifact.read_config(frozen / DECODER, "decoder")
    shape, device = shape_of(facts, decoder, encoder, sizes, optim.seed), pick_device(machine.device)
    torch.manual_seed(optim.seed)
    network, teacher = AddpNetwork(**shape).to(device), open_frozen(frozen, device, params)
    estimate_cost(out, network, data, params, machine)
    with process_group(), scratch(out, params, [tokens, frozen], meet=barrier) as work:
        batch_at, batch_keys = batches(data["train"], ClassConditions(data), optim, params.model.class_dropout)
        fit(
            network, optim, batch_at, loss_fn(teacher, params), evaluator(data, teacher), curves,
            work=work, machine=machine, device=device, name=f"generator {out.name}", batch_keys=batch_keys,
        )  # fmt: skip
        if distributed.rank() == 0:
            curves.write(report, images=artifact.images_digest(tokens))
            publish(out, network, frozen, {
                "kind": params.kind, "name": name, "tokenizer": facts["tokenizer"], "classes": facts["classes"],
                "train_per_class": per_class, "class_dropout": params.model.class_dropout, "shape": shape,
                "sampling": ALTERNATING[params.kind].plain.model_dump(), "likelihood": {},
                "samples_stage": SAMPLES_STAGE,
                "inputs": {"tokens": artifact.digest(tokens), "frozen": artifact.digest(frozen), **facts["inputs"]},
            })  # fmt: skip
        barrier()


def check_frozen(tokens: Path, facts: dict[str, Any], frozen: Path, params: Alternating) -> None:
    """`UserError` where the predictor or the decoder is of other codes, or lacks what the training asks of it."""
    predictor = artifact.read_config(frozen / PREDICTOR, "generator")
    for what, found in (("predictor", predictor["inputs"].get("codebook")), ("decoder", codebook_of(frozen / DECODER))):
        if found not in (None, facts["inputs"]["codebook"]):
            raise UserError(f"{frozen}: the {what} is of other codes than {tokens}. Run `dvc repro`.")
    if params.model.class_dropout:
        check_unconditional(f"the predictor {params.predictor}", predictor, "model.class_dropout")


def open_frozen(frozen: Path, device: torch.device, params: Alternating) -> Frozen:
    """Predictor and decoder for a training in batches of one size."""
    predictor, _ = load_transformer(frozen / PREDICTOR, device)
    with compute(device, params.optim.precision):
        fast = for_sampling(predictor.requires_grad_(False), params.optim.batch_size * predictor.num_patches)
    return Frozen(fast, pixels_of(frozen / DECODER, device), params.optim.precision)


def estimate_cost(
    out: Path, network: AddpNetwork, data: dict[str, Tokens], params: Alternating, machine: Machine
) -> None:
    """Print the cost; weights, optimizer state and averages are five copies."""
    size, images = sum(p.numel() for p in network.parameters()), params.optim.images_at_once(machine)
    memory = params.peak_bytes(size, network.num_patches, network.num_codes, images)
    counts = {"images": len(data["train"].labels), "parameters": size}
    print_cost_estimate("generator", out, counts, disk_bytes=size * 20, memory_bytes=memory)


def loss_fn(frozen: Frozen, params: Alternating) -> Any:
    """The cross-entropy of masked codes with the predictor's probabilities; masks are a function of the step."""
    optim = params.optim

    def loss(model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        labels_B, codes_BN = batch
        rng = torch.Generator().manual_seed(seed_of("masks", optim.seed, step))
        whole = nested_masks(len(codes_BN) * distributed.num_shares(), codes_BN.shape[1], rng)
        mask_BN, noisier_BN = (distributed.share_of(mask).to(codes_BN.device) for mask in whole)
        images, target_MK = frozen.given(labels_B, codes_BN, mask_BN, noisier_BN)
        with compute(codes_BN.device, optim.precision):
            logits_MK = model(images, labels_B, codes_BN, mask_BN)
        return F.cross_entropy(logits_MK, target_MK, label_smoothing=params.model.label_smoothing), {}

    return loss


def evaluator(data: dict[str, Tokens], frozen: Frozen) -> Any:
    """step, averaged model -> scores of train and val images, not augmented, class given, in nats per masked code.

    kl: divergence from the predictor's probabilities; nats_per_masked_code: -ln p of the image's own codes.
    """

    @torch.inference_mode()
    def evaluate(step: int, model: Any) -> dict[str, float]:
        found = {split: scores(model, one, frozen) for split, one in data.items()}
        return {f"{split}/{name}": value for split, one in found.items() for name, value in one.items()}

    return evaluate


def scores(model: AddpNetwork, data: Tokens, frozen: Frozen) -> dict[str, float]:
    """Both scores, means over masked codes of at most EVAL_IMAGES images; the same masks at every call."""
    rng, sums = torch.Generator().manual_seed(0), np.zeros(3)
    chosen = linspace_indices(len(data.labels), EVAL_IMAGES)
    for start in range(0, len(chosen), EVAL_BATCH):
        part = chosen[start : start + EVAL_BATCH]
        labels = torch.from_numpy(np.where(data.labels[part] < 0, data.num_classes, data.labels[part]))
        codes_BN = torch.from_numpy(data.codes[0][part].astype(np.int64)).to(model.device)
        masks = [mask.to(model.device) for mask in nested_masks(*codes_BN.shape, rng)]
        images, target_MK = frozen.given(labels.to(model.device), codes_BN, *masks)
        log_MK = model(images, labels.to(model.device), codes_BN, masks[0]).log_softmax(-1)
        kl = F.kl_div(log_MK, target_MK, reduction="sum")
        sums += [float(kl), float(F.nll_loss(log_MK, codes_BN[masks[0]], reduction="sum")), len(log_MK)]
    return {"kl": sums[0] / sums[2], "nats_per_masked_code": sums[1] / sums[2]}


def publish(out: Path, network: AddpNetwork, frozen: Path, config: dict[str, Any]) -> None:
    """Write the artifact with an encoder artifact and a copy of the decoder artifact inside."""
    state = network.state_dict()
    seen = {key.removeprefix(f"{ENCODER}."): state.pop(key) for key in [*state] if key.startswith(f"{ENCODER}.")}
    with artifact.new_artifact(out, "generator", config) as folder:
        save_tensors(folder / "model.safetensors", state)
        with artifact.new_artifact(folder / ENCODER, "encoder", encoder_config(config)) as inner:
            save_tensors(inner / "model.safetensors", seen)
        artifact.copy(frozen / DECODER, folder / DECODER)
    print(f"generator {out.name}: {len(seen)} tensors of its encoder in {out / ENCODER}")


def encoder_config(config: dict[str, Any]) -> dict[str, Any]:
    """The config of the encoder artifact, in the form of those in weights/; pixels from -1 to 1 need no other scale."""
    shape = {key: value for key, value in config["shape"][ENCODER].items() if key != "seed"}
    return {
        "name": config["name"], "img_px": shape["img_px"], "precision": "fp32", "shape": shape,
        "seed": config["shape"][ENCODER]["seed"], **{key: shape[key] for key in ("patch_px", "dim", "depth")},
        "mean": [0.5] * 3, "std": [0.5] * 3, "inputs": {"images": config["inputs"]["images"]},
    }  # fmt: skip
