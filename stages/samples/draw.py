"""Draw codes from a trained generator: as many of every class, for several seeds.

Run:    dvc repro samples
Expect: digits: 3 x 500 samples in seconds. Changing a setting here reruns sampling and evaluation, no training.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stages.core import artefact, runtime
from stages.core.params import DIFFERENT, Machine, Section, load
from stages.core.plan import print_plan
from stages.generator.settings import SETTINGS, ArSampling

if TYPE_CHECKING:
    import numpy as np
    from tqdm import tqdm

    from stages.generator.model import TokenTransformer


class Params(Section):
    per_class: int = Field(gt=0)
    seeds: Annotated[list[int], Field(min_length=1), DIFFERENT]


def draw_samples(generator: Path, out: Path, params: Params, settings: ArSampling, machine: Machine) -> None:
    """Write the samples artefact `out`: codes.npy [seeds, samples, N] and labels.npy int64 [samples]."""
    import numpy as np

    from stages.core.codes import code_dtype
    from stages.core.device import pick_device
    from stages.core.progress import bar
    from stages.generator.model import load_transformer

    network, config = load_transformer(generator, pick_device(machine.device))
    num_classes = len(config["classes"])
    labels = np.repeat(np.arange(num_classes), params.per_class) if num_classes else np.full(params.per_class, -1)
    codes = len(params.seeds) * len(labels) * network.num_patches
    logits = machine.infer_batch_size * network.num_patches * network.num_codes
    counts = {"samples": len(params.seeds) * len(labels), "codes": codes}
    print_plan("samples", out, counts, disk_bytes=codes * 4, memory_bytes=800 * 2**20 + logits * 30)
    with bar(f"samples {generator.name}", len(params.seeds) * len(labels), 0, "sample") as progress:
        drawn = [
            draw_seed(network, config["name"], labels, settings, seed, machine.infer_batch_size, progress)
            for seed in params.seeds
        ]
    facts = {
        "seeds": params.seeds, "classes": config["classes"], "per_class": params.per_class,
        "sampling": settings.model_dump(),
        "generator": {"name": config["name"], "likelihood": config["likelihood"]},
        "inputs": {"generator": artefact.digest(generator)},
    }  # fmt: skip
    with artefact.new_artefact(out, "samples", facts) as folder:
        np.save(folder / "codes.npy", np.stack(drawn).astype(code_dtype(network.num_codes)))
        np.save(folder / "labels.npy", labels.astype(np.int64))


def draw_seed(
    network: TokenTransformer,
    name: str,
    labels: np.ndarray,
    settings: ArSampling,
    seed: int,
    batch_size: int,
    progress: tqdm,
) -> np.ndarray:
    """int64 [samples, N] for one seed; a sample does not depend on the batch it is drawn in."""
    import torch

    from stages.generator.kinds import KINDS

    given = torch.from_numpy(labels).to(network.embed_position.device)
    given = torch.where(given < 0, network.num_classes, given)
    parts = []
    for start in range(0, len(given), batch_size):
        parts.append(KINDS[name].sample(network, given[start : start + batch_size], settings, seed, start))
        progress.update(len(parts[-1]))
    return torch.cat(parts).cpu().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generator", type=Path, required=True, help="generator artefact")
    parser.add_argument("--out", type=Path, required=True, help="samples artefact to write")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    name = artefact.read_config(args.generator, "generator")["name"]
    params, settings = load("samples.draws", Params, args.params), load(f"samples.{name}", SETTINGS[name], args.params)
    draw_samples(args.generator, args.out, params, settings, load("machine", Machine, args.params))


if __name__ == "__main__":
    runtime.run(main)
