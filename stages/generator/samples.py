"""The samples artifact: codes drawn from a generator for given classes and seeds, in parts that are joined."""

import io
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from stages.core import UserError, artifact
from stages.core.distributed import rank, share_out, world_size
from stages.core.hardware import barrier, pick_device, process_group
from stages.core.metrics import code_dtype
from stages.core.params import Machine
from stages.core.progress import bar, print_cost_estimate
from stages.core.schemas import Draws
from stages.core.scratch import read_hashed, scratch, write_hashed
from stages.generator.open_network import open_network
from stages.generator.params import Sampling, sampling_bytes
from stages.generator.transformer import check_unconditional

Part = tuple[int, int, int]  # seed, first sample, end


def draw_samples(generator: Path, out: Path, draws: Draws, sampling: Sampling, machine: Machine) -> None:
    """Write the samples artifact `out`: codes.npy [seeds, samples, N] and labels.npy int64 [samples].

    Every process of a torchrun draws its share of the parts. A sample depends on its seed, class and number alone.
    """
    config = artifact.read_config(generator, "generator")
    labels = labels_of(trained_classes(generator, config), draws)
    if sampling.guidance != 1:
        check_unconditional(generator, config, f"samples.{config['name']}.guidance = {sampling.guidance}")
    parts = split_into_parts(draws.seeds, len(labels), machine.infer_batch_size)
    with process_group(), scratch(out, draws, [generator], sampling.model_dump_json(), meet=barrier) as work:
        network, _, kind = open_network(generator, pick_device(machine.device))
        estimate_cost(out, config, network, len(draws.seeds) * len(labels), machine)
        own = parts[rank() :: world_size()]
        with bar(f"samples {generator.name}", len(own), 0, "part") as progress:
            for part in own:
                draw_part(part_path(work, part), part, network, kind, labels, sampling)
                progress.update()
        barrier()
        if rank() == 0:
            publish(work, out, parts, labels, facts_of(generator, config, draws, sampling), network)
        barrier()


def facts_of(generator: Path, config: dict[str, Any], draws: Draws, sampling: Sampling) -> dict[str, Any]:
    """The config.json of samples."""
    return {
        "name": config["name"], "tokenizer": config["tokenizer"], "classes": config["classes"],
        "seeds": draws.seeds, "per_class": draws.per_class, "labels": draws.labels if config["classes"] else "none",
        "sampling": sampling.model_dump(),
        "generator": {key: config[key] for key in ("kind", "name", "likelihood")},
        **{key: config[key] for key in ("samples_stage",) if key in config},
        "inputs": {**config["inputs"], "generator": artifact.digest(generator)},
    }  # fmt: skip


def publish(work: Path, out: Path, parts: list[Part], labels: np.ndarray, facts: dict[str, Any], network: Any) -> None:
    """Join the parts, without holding all codes in memory."""
    shape = (len(facts["seeds"]), len(labels), network.num_patches)
    with artifact.new_artifact(out, "samples", facts) as folder:
        codes = np.lib.format.open_memmap(folder / "codes.npy", "w+", np.dtype(code_dtype(network.num_codes)), shape)
        for seed, start, stop in parts:
            codes[facts["seeds"].index(seed), start:stop] = np.load(part_path(work, (seed, start, stop)))
        codes.flush()
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


def estimate_cost(out: Path, config: dict[str, Any], network: Any, samples: int, machine: Machine) -> None:
    """Print the cost of the samples."""
    size, codes = sum(p.numel() for p in network.parameters()), samples * network.num_patches
    sizes = size, config["shape"], network.num_patches, network.num_codes, config["kind"]
    counts, memory = {"samples": samples, "codes": codes}, sampling_bytes(*sizes, machine)
    print_cost_estimate("samples", out, counts, disk_bytes=2 * codes * 4, memory_bytes=memory)


def split_into_parts(seeds: list[int], samples: int, batch_size: int) -> list[Part]:
    """All samples of all seeds, a batch per part."""
    starts = range(0, samples, batch_size)
    return [(seed, start, min(start + batch_size, samples)) for seed in seeds for start in starts]


def part_path(work: Path, part: Part) -> Path:
    """The file of a finished part."""
    seed, start, stop = part
    return work / f"{seed}-{start:09d}-{stop:09d}.npy"


def draw_part(path: Path, part: Part, network: Any, kind: ModuleType, labels: np.ndarray, sampling: Sampling) -> None:
    """Write the codes [samples, N] of one part, unless they are there."""
    if read_hashed(path) is not None:
        return
    seed, start, stop = part
    given = torch.from_numpy(labels[start:stop]).to(network.device)
    given = torch.where(given < 0, network.num_classes, given)
    codes, content = kind.sample(network, given, sampling, seed, start).cpu().numpy(), io.BytesIO()
    np.save(content, codes.astype(code_dtype(network.num_codes)))
    write_hashed(path, content.getvalue())
