"""The samples artifact: codes drawn from a generator for given classes and seeds."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from stages.core import UserError, artifact
from stages.core.code import import_kind
from stages.core.distributed import share_out
from stages.core.hardware import pick_device
from stages.core.metrics import code_dtype
from stages.core.params import Machine
from stages.core.progress import bar, print_cost_estimate
from stages.generator.params import KINDS, Draws, Sampling
from stages.generator.transformer import TokenTransformer, check_unconditional, load_transformer


def draw_samples(generator: Path, out: Path, draws: Draws, sampling: Sampling, machine: Machine) -> None:
    """Write the samples artifact `out`: codes.npy [seeds, samples, N] and labels.npy int64 [samples]."""
    network, config = load_transformer(generator, pick_device(machine.device))
    kind, labels = import_kind(KINDS[config["kind"]].module), labels_of(trained_classes(generator, config), draws)
    if sampling.guidance != 1:
        check_unconditional(generator, config, f"samples.{config['name']}.guidance = {sampling.guidance}")
    estimate_cost(out, network, len(draws.seeds) * len(labels), machine.infer_batch_size)
    with bar(f"samples {generator.name}", len(draws.seeds) * len(labels), 0, "sample") as progress:
        drawn = [
            draw_seed(network, kind, labels, sampling, seed, machine.infer_batch_size, progress) for seed in draws.seeds
        ]
    facts = {
        "name": config["name"], "tokenizer": config["tokenizer"], "classes": config["classes"],
        "seeds": draws.seeds, "per_class": draws.per_class, "labels": draws.labels if config["classes"] else "none",
        "sampling": sampling.model_dump(),
        "generator": {key: config[key] for key in ("kind", "name", "likelihood")},
        "inputs": {**config["inputs"], "generator": artifact.digest(generator)},
    }  # fmt: skip
    with artifact.new_artifact(out, "samples", facts) as folder:
        np.save(folder / "codes.npy", np.stack(drawn).astype(code_dtype(network.num_codes)))
        np.save(folder / "labels.npy", labels.astype(np.int64))


def trained_classes(generator: Path, config: dict[str, Any]) -> list[int]:
    """Train images of each class; `UserError` unless every class that could be drawn has some."""
    counts = config.get("train_per_class", [])
    if len(counts) != len(config["classes"]) or 0 in counts:
        raise UserError(f"{generator}: does not show that each class had train images. Run `dvc repro generator`.")
    return counts


def labels_of(train_per_class: list[int], draws: Draws) -> np.ndarray:
    """Class number of each sample, int64 [samples], ascending; -1 without classes.

    In proportion to the train images a rare class may get no sample. FID compares proportions, too: equally many of
    every class are far from unbalanced real images, however good each sample is.
    """
    classes = len(train_per_class)
    if not classes:
        return np.full(draws.per_class, -1)
    weights = train_per_class if draws.labels == "train" else [1] * classes
    return np.repeat(np.arange(classes), share_out(classes * draws.per_class, weights))


def estimate_cost(out: Path, network: TokenTransformer, samples: int, batch_size: int) -> None:
    """Print the cost of the samples."""
    codes, logits = samples * network.num_patches, batch_size * network.num_patches * network.num_codes
    counts = {"samples": samples, "codes": codes}
    print_cost_estimate("samples", out, counts, disk_bytes=codes * 4, memory_bytes=800 * 2**20 + logits * 30)


def draw_seed(
    network: TokenTransformer,
    kind: ModuleType,
    labels: np.ndarray,
    sampling: Sampling,
    seed: int,
    batch_size: int,
    progress: tqdm,
) -> np.ndarray:
    """int64 [samples, N] for one seed; a sample does not depend on the other samples of its batch."""
    given = torch.from_numpy(labels).to(network.device)
    given = torch.where(given < 0, network.num_classes, given)
    parts = []
    for start in range(0, len(given), batch_size):
        parts.append(kind.sample(network, given[start : start + batch_size], sampling, seed, start))
        progress.update(len(parts[-1]))
    return torch.cat(parts).cpu().numpy()
