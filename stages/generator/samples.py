"""The samples artifact: codes drawn from a generator for classes or captions and seeds, in parts that are joined."""

import io
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from stages.core import artifact
from stages.core.distributed import rank, world_size
from stages.core.hardware import barrier, pick_device, process_group
from stages.core.metrics import code_dtype
from stages.core.params import Machine
from stages.core.progress import bar, print_cost_estimate
from stages.core.scratch import read_hashed, scratch, write_hashed
from stages.generator.open_network import open_network
from stages.generator.params import SampleDraws, Sampling, sampling_bytes
from stages.generator.sample_conditions import CAPTIONS, Given, SampleConditions, sample_conditions
from stages.generator.transformer import check_unconditional

Part = tuple[int, int, int]  # seed, first sample, end


def draw_samples(
    generator: Path, out: Path, draws: SampleDraws, sampling: Sampling, machine: Machine, text: Path | None = None
) -> None:
    """Write the samples artifact `out`: codes.npy [seeds, samples, N] and labels.npy int64 [samples].

    If captions condition the generator, also captions.txt, a line per sample; `text` is the artifact of its captions.
    Every process of a torchrun draws its share of the parts. A sample depends on its seed, class and number alone.
    """
    config = artifact.read_config(generator, "generator")
    conditions = sample_conditions(generator, config, text, draws)
    if sampling.guidance != 1:
        check_unconditional(generator, config, f"samples.{config['name']}.guidance = {sampling.guidance}")
    parts = split_into_parts(draws.seeds, len(conditions.labels), machine.infer_batch_size)
    facts = sampling.model_dump_json() + "\n".join(conditions.captions)
    with process_group(), scratch(out, draws, [generator], facts, meet=barrier) as work:
        network, _, kind = open_network(generator, pick_device(machine.device))
        estimate_cost(out, config, network, len(draws.seeds) * len(conditions.labels), machine)
        own = parts[rank() :: world_size()]
        with bar(f"samples {generator.name}", len(own), 0, "part") as progress:
            for part in own:
                draw_part(part_path(work, part), part, network, kind, conditions.given, sampling)
                progress.update()
        barrier()
        if rank() == 0:
            publish(work, out, parts, conditions, facts_of(generator, config, conditions, draws, sampling), network)
        barrier()


def facts_of(
    generator: Path, config: dict[str, Any], conditions: SampleConditions, draws: SampleDraws, sampling: Sampling
) -> dict[str, Any]:
    """The config.json of samples."""
    return {
        "name": config["name"], "tokenizer": config["tokenizer"], "classes": config["classes"],
        "seeds": draws.seeds, "per_class": draws.per_class, **conditions.facts,
        "sampling": sampling.model_dump(),
        "generator": {key: config[key] for key in ("kind", "name", "likelihood")},
        **{key: config[key] for key in ("samples_stage",) if key in config},
        "inputs": {**config["inputs"], "generator": artifact.digest(generator)},
    }  # fmt: skip


def publish(
    work: Path, out: Path, parts: list[Part], conditions: SampleConditions, facts: dict[str, Any], network: Any
) -> None:
    """Join the parts, without holding all codes in memory."""
    shape = (len(facts["seeds"]), len(conditions.labels), network.num_patches)
    with artifact.new_artifact(out, "samples", facts) as folder:
        codes = np.lib.format.open_memmap(folder / "codes.npy", "w+", np.dtype(code_dtype(network.num_codes)), shape)
        for seed, start, stop in parts:
            codes[facts["seeds"].index(seed), start:stop] = np.load(part_path(work, (seed, start, stop)))
        codes.flush()
        np.save(folder / "labels.npy", conditions.labels.astype(np.int64))
        if conditions.captions:
            (folder / CAPTIONS).write_bytes("\n".join(conditions.captions).encode())


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


def draw_part(path: Path, part: Part, network: Any, kind: ModuleType, given: Given, sampling: Sampling) -> None:
    """Write the codes [samples, N] of one part, unless they are there."""
    if read_hashed(path) is not None:
        return
    seed, start, stop = part
    codes = kind.sample(network, given(start, stop).to(network.device), sampling, seed, start).cpu().numpy()
    content = io.BytesIO()
    np.save(content, codes.astype(code_dtype(network.num_codes)))
    write_hashed(path, content.getvalue())
