"""cluster: online clustering of a frozen encoder's patch features by cosine (VQ-KD paper's Cluster; papers, 2.2).

Loss = mean (c - sg(x))² on unit features, of the codes only; codes that die are put back among the features (CVQ-VAE).
Codes start uniform in ±1/K and are stored as unit vectors. It reads stored features, without augmentation; memory is
that of one batch, whatever the number of images. Digits: 256 codes, half a minute on two cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from stages.codebook.fitted import publish
from stages.codebook.sources import Sources
from stages.codebook.usage import count_usage, write_usage
from stages.core import artefact
from stages.core.choice import evenly
from stages.core.loop import Optim, epoch_batch
from stages.core.loop import fit as train
from stages.core.params import Machine, Section, impossible
from stages.core.plan import print_plan
from stages.features.reader import FeatureSplit

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from stages.codebook.online import OnlineClusters
    from stages.codebook.quantise import Codebook

WATCHED = 256  # images of each split behind the curves


class Params(Section):
    kind: Literal["cluster"]
    num_codes: int = Field(gt=1, le=2**32)
    reanchor: bool
    optim: Optim

    @field_validator("optim")
    @classmethod
    def distances_are_exact(cls, optim: Optim) -> Optim:
        if optim.precision != "fp32":
            raise ValueError(f"precision = {optim.precision!r}: expected fp32; bf16 cannot tell near codes apart")
        return optim


def check(section: str, sources: Sources, params: Params) -> None:
    """More codes than vectors are an error."""
    config = artefact.read_config(sources.features, "features")
    total = config["splits"]["train"]["images"] * config["num_patches"]
    if params.num_codes > total:
        raise impossible(f"{section}.num_codes", params.num_codes, f"expected at most the {total:,} vectors to cluster")


def fit(sources: Sources, out: Path, report: Path, params: Params, machine: Machine) -> None:
    """Write the codebook artefact `out`, curves and usage figures to the folder `report`."""
    import torch

    from stages.codebook.online import OnlineClusters
    from stages.core.curves import Curves
    from stages.core.device import pick_device
    from stages.core.scratch import scratch

    announce(sources, out, params)
    device, curves, optim = pick_device(machine.device), Curves(), params.optim
    torch.manual_seed(optim.seed)
    splits = {split: FeatureSplit(sources.features, split) for split in ("train", "val")}
    dim = artefact.read_config(sources.features, "features")["dim"]
    model = OnlineClusters(params.num_codes, dim, params.reanchor).to(device)
    with scratch(f"codebook-{out.name}", params, [sources.features]) as work:
        batch_at, batch_images = batches(splits["train"], optim, device)
        train(
            model, optim, batch_at, lambda model, rows, step: model(rows), watch(out.name, splits, machine, device),
            curves, work=work, checkpoint_secs=machine.checkpoint_secs, device=device, name=f"codebook {out.name}",
            batch_keys=batch_images,
        )  # fmt: skip
        codebook, usage, losses = codebook_of(model), {}, {}
        for split, features in splits.items():
            usage[split], losses[split] = measure(codebook, features, machine, device)
        curves.write(report)
        write_usage(report, usage, cosine_loss=losses)
        publish(out, sources, params.kind, codebook)


def announce(sources: Sources, out: Path, params: Params) -> None:
    """Print the plan: features of two batches in both precisions, and their distances to all codes, a part at once."""
    config = artefact.read_config(sources.features, "features")
    rows, dim = params.optim.batch_size * config["num_patches"], config["dim"]
    distances = min(rows * params.num_codes, 2**26) * 8
    codes = params.num_codes * dim * 4
    counts = {"steps": params.optim.total_steps, "features a step": rows}
    memory = 500 * 2**20 + rows * dim * 40 + distances + 8 * codes
    print_plan("codebook", out, counts, disk_bytes=6 * codes, memory_bytes=memory)


def batches(split: FeatureSplit, optim: Optim, device: torch.device) -> tuple[Any, Any]:
    """step -> float32 [B, N, D] on the device; step -> which images of the features these are."""
    import torch

    def images_at(step: int) -> np.ndarray:
        return epoch_batch(step, count=len(split), batch_size=optim.batch_size, seed=optim.seed)

    def batch_at(step: int) -> Tensor:
        return torch.from_numpy(split.read(images_at(step))).to(device).float()

    return batch_at, lambda step: images_at(step).tolist()


def watch(name: str, splits: dict[str, FeatureSplit], machine: Machine, device: torch.device) -> Any:
    """(step, codes) -> cosine loss on evenly spread images of each split; warns of collapse."""
    from stages.codebook.anchor import REANCHOR, live_fraction, warn_of_collapse

    def evaluate(step: int, model: OnlineClusters) -> dict[str, float]:
        warn_of_collapse(name, float(live_fraction(model.share)), f"{REANCHOR}, lower num_codes, or train longer")
        codebook = codebook_of(model)
        return {
            f"{split}/cosine_loss": measure(codebook, features, machine, device, WATCHED)[1]
            for split, features in splits.items()
        }

    return evaluate


def codebook_of(model: OnlineClusters) -> Codebook:
    """The codes as they are stored, on their device."""
    from stages.codebook.quantise import Codebook

    return Codebook(model.unit_vectors(), normalise=True)


def measure(
    codebook: Codebook, features: FeatureSplit, machine: Machine, device: torch.device, limit: int = 0
) -> tuple[dict[str, float], float]:
    """Usage figures and mean 1 - cos to the nearest code, of at most `limit` images, evenly spread (0: all)."""
    import torch

    shown, losses = evenly(len(features), limit or len(features)), []

    def codes_of() -> Iterator[Tensor]:
        for start in range(0, len(shown), machine.infer_batch_size):
            part = features.read(shown[start : start + machine.infer_batch_size])
            rows = torch.from_numpy(part).to(device)
            codes = codebook.assign(rows)
            cosines = (codebook.placed(rows) * codebook.vectors[codes]).sum(-1)
            losses.append(float((1 - cosines).mean()) * len(part))
            yield codes

    return count_usage(codes_of(), len(codebook.vectors)), sum(losses) / len(shown)
