"""cluster: online clustering of a frozen encoder's patch features by cosine (Cluster of the VQ-KD paper).

Loss = mean (c - sg(x))² on unit features; only the codes learn, batch by batch. Dead codes are revived among the
features (CVQ-VAE). Codes start uniform in ±1/K and are stored as unit vectors. It reads stored features, without
augmentation; memory is that of one batch, whatever the number of images. Digits: 256 codes, half a minute on two cores.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.codebook.dead_codes import (
    REVIVE,
    count_usage,
    live_fraction,
    revive_dead_codes,
    running_share,
    warn_of_collapse,
    write_usage,
)
from stages.codebook.encoder_features import ENCODER
from stages.codebook.params import Cluster, Inputs
from stages.codebook.quantizers import Codebook, nearest
from stages.codebook.tokenizer import new_codebook
from stages.core import artifact
from stages.core.distributed import epoch_batch, linspace_indices, rank, share_of
from stages.core.hardware import barrier, gathered, pick_device, process_group
from stages.core.params import Machine, impossible
from stages.core.progress import print_cost_estimate
from stages.core.results import Curves
from stages.core.schemas import Optim, check_shares
from stages.core.scratch import scratch
from stages.core.train import Batch
from stages.core.train import fit as train
from stages.features.reader import FeatureSplit

EVAL_IMAGES = 256  # images per split on which curves are measured
REMEDY = f"{REVIVE}, lower num_codes, or train longer"  # for dead codes


class OnlineClusters(nn.Module):
    """K code vectors for features compared by cosine; all features are brought to unit length first.

    Each code learns the mean of its unit features, whose direction is the center of spherical k-means.
    """

    share: Tensor  # float [K]: running share of features that choose each code; 0 at first, so all codes start dead

    def __init__(self, num_codes: int, dim: int, revive: bool):
        super().__init__()
        self.vectors = nn.Parameter(torch.empty(num_codes, dim).uniform_(-1 / num_codes, 1 / num_codes))
        self.register_buffer("share", torch.zeros(num_codes))
        self.revive = revive

    def assign(self, unit_MD: Tensor) -> Tensor:
        """Unit features float [M, D] -> int64 [M]: the code of the largest cosine."""
        return nearest(unit_MD, self.unit_vectors())

    def unit_vectors(self) -> Tensor:
        """float [K, D]: the codes as stored."""
        return F.normalize(self.vectors.detach(), dim=-1)

    def forward(self, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """float [..., D] -> loss = mean (c - sg(x))², {"cosine_loss", "live_fraction"}; revives codes in training."""
        unit_MD = F.normalize(features.detach().float().flatten(0, -2), dim=-1)
        codes_M = self.assign(unit_MD)
        chosen_MD = F.embedding(codes_M, self.vectors)
        cosine = F.cosine_similarity(chosen_MD.detach(), unit_MD, dim=-1)
        if self.training:
            self.share = running_share(self.share, gathered(codes_M))
            if self.revive:
                revive_dead_codes(self.vectors, self.share, gathered(unit_MD))
        scalars = {"cosine_loss": (1 - cosine).mean(), "live_fraction": live_fraction(self.share)}
        return F.mse_loss(chosen_MD, unit_MD), scalars


def check(inputs: Inputs, params: Cluster) -> None:
    """`UserError` for more codes than features, and a batch that the processes cannot share."""
    check_shares(f"{inputs.section}.optim", params.optim)
    config = artifact.read_config(inputs.features, "features")
    total = config["splits"]["train"]["images"] * config["num_patches"]
    if params.num_codes > total:
        allowed = f"expected at most the {total:,} vectors to cluster"
        raise impossible(f"{inputs.section}.num_codes", params.num_codes, allowed)


def fit(inputs: Inputs, params: Cluster, machine: Machine) -> None:
    """Write the codebook artifact, its curves and usage metrics."""
    estimate(inputs, params)
    device, curves, optim = pick_device(machine.device), Curves(), params.optim
    torch.manual_seed(optim.seed)
    splits = {split: FeatureSplit(inputs.features, split) for split in ("train", "val")}
    dim = artifact.read_config(inputs.features, "features")["dim"]
    model = OnlineClusters(params.num_codes, dim, params.revive_dead_codes).to(device)
    with process_group(), scratch(inputs.out, params, [inputs.features], meet=barrier) as work:
        batch_at, batch_keys = batches(splits["train"], optim)
        train(
            model, optim, batch_at, lambda model, batch, step: model(batch[0]),
            make_evaluate(inputs.name, splits, machine, device), curves, work=work,
            machine=machine.whole_batches(), device=device, name=f"codebook {inputs.name}",
            batch_keys=batch_keys,
        )  # fmt: skip
        if rank() == 0:
            codebook, usage, losses = codebook_of(model), {}, {}
            for split, features in splits.items():
                usage[split], losses[split] = measure(codebook, features, machine, device)
            write_usage(inputs, curves, params.num_codes, usage, REMEDY, cosine_loss=losses)
            publish(inputs, codebook)
        barrier()


def estimate(inputs: Inputs, params: Cluster) -> None:
    """Print the cost."""
    config = artifact.read_config(inputs.features, "features")
    features, dim = params.optim.batch_size * config["num_patches"], config["dim"]
    memory = params.peak_bytes(config["num_patches"], dim)
    counts = {"steps": params.optim.total_steps, "features per step": features}
    print_cost_estimate(
        "codebook", inputs.out, counts, disk_bytes=24 * params.num_codes * dim, memory_bytes=memory
    )  # fmt: skip


def batches(split: FeatureSplit, optim: Optim) -> tuple[Callable[[int], Batch], Callable[[int], list[int]]]:
    """step -> float16 [B, N, D], this process's share; step -> the numbers of the batch's images among the features."""

    def images_at(step: int) -> np.ndarray:
        return epoch_batch(step, count=len(split), batch_size=optim.batch_size, seed=optim.seed)

    def batch_at(step: int) -> Batch:
        return (torch.from_numpy(split.read(share_of(images_at(step)))),)

    return batch_at, lambda step: images_at(step).tolist()


def make_evaluate(
    name: str, splits: dict[str, FeatureSplit], machine: Machine, device: torch.device
) -> Callable[[int, OnlineClusters], dict[str, float]]:
    """(step, averaged model) -> cosine loss on evenly spaced images of each split; warns of collapse."""

    def evaluate(step: int, model: OnlineClusters) -> dict[str, float]:
        warn_of_collapse(name, float(live_fraction(model.share)), REMEDY)
        codebook = codebook_of(model)
        return {
            f"{split}/cosine_loss": measure(codebook, features, machine, device, EVAL_IMAGES)[1]
            for split, features in splits.items()
        }

    return evaluate


def codebook_of(model: OnlineClusters) -> Codebook:
    """The codes as stored, on their device."""
    return Codebook(model.unit_vectors(), normalize=True)


def measure(
    codebook: Codebook, features: FeatureSplit, machine: Machine, device: torch.device, limit: int = 0
) -> tuple[dict[str, float], float]:
    """Usage metrics and mean 1 - cos to the nearest code, of at most `limit` images, evenly spaced (0: all)."""
    chosen, losses = linspace_indices(len(features), limit or len(features)), []

    def codes_of() -> Iterator[Tensor]:
        for start in range(0, len(chosen), machine.infer_batch_size):
            part = features.read(chosen[start : start + machine.infer_batch_size])
            vectors = torch.from_numpy(part).to(device)
            codes = codebook.assign(vectors)
            cosines = (codebook.in_code_space(vectors) * codebook.vectors[codes]).sum(-1)
            losses.append(float((1 - cosines).mean()) * len(part))
            yield codes

    return count_usage(codes_of(), len(codebook.vectors)), sum(losses) / len(chosen)


def publish(inputs: Inputs, codebook: Codebook) -> None:
    """The codebook artifact with its encoder inside."""
    config = artifact.read_config(inputs.features, "features")
    with new_codebook(
        inputs, "cluster", codebook.vectors, ("images", "encoder", "features"), normalize=True,
        grid=round(config["num_patches"] ** 0.5), blocks=[config["block"]], layers="concat",
        final_norm=config["final_norm"],
    ) as folder:  # fmt: skip
        artifact.copy(inputs.encoder, folder / ENCODER)
