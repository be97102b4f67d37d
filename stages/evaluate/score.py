"""Reconstructions and generated samples -> figures with their protocol and pictures, in a report folder.

Run:    dvc repro evaluate
Expect: digits, 297 reconstructions and 2 generators x 3 seeds x 500 samples: 1 minute on two cores, 5 MB.

Distances between image sets are computed in the feature space of the pipeline's encoder ("embedded"); in that of the
judge, which no tokenizer knows, where images have classes; in that of Inception-v3 where evaluate.inception_weights
names a file. Convert torch-fidelity's published weights (weights-inception-2015-12-05-6726825d.pth) once:
    python -c "import torch, safetensors.torch as s; s.save_file(torch.load('IN.pth', weights_only=True), 'OUT')"
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from stages.core import runtime
from stages.core.choice import choose
from stages.core.errors import UserError
from stages.core.params import Machine, Section, impossible, load, load_list
from stages.core.plan import print_plan
from stages.data.reader import ImageSplit, num_images
from stages.decoder.sources import check_codes_of
from stages.evaluate.generation import Samples, load_samples, score_real, score_samples
from stages.evaluate.metrics import IS_SPLITS, PRC_BATCH
from stages.evaluate.reconstruction import score_reconstruction

if TYPE_CHECKING:
    from stages.evaluate.bench import Bench


BASE_BYTES = 10**9  # Python, its libraries, the networks and a batch
INCEPTION_DIM = 2048 + 1008  # features and logits


class Params(Section):
    bootstrap_draws: int = Field(ge=2)
    kid_subset_size: int = Field(ge=2)
    prc_neighbours: int = Field(gt=0)
    max_reference_images: int = Field(ge=0)
    pixel_px: int = Field(gt=0)
    inception_weights: str
    neighbours_shown: int = Field(gt=0)
    seed: int = Field(ge=0, lt=2**32)

    @field_validator("inception_weights")
    @classmethod
    def weights_are_there(cls, path: str) -> str:
        if path and (Path(path).suffix != ".safetensors" or not Path(path).is_file()):
            raise ValueError(f"{path!r}: expected '' or an existing .safetensors file (pickles are never read)")
        return path


def score(
    images: Path,
    encoder: Path,
    judge: Path,
    codebook: Path,
    decoder: Path,
    samples: dict[str, Samples],
    report: Path,
    params: Params,
    machine: Machine,
) -> None:
    """Write metrics.json and pictures/ to the folder `report`; `samples` come by generator."""
    from stages.codebook.model import load_tokenizer
    from stages.core.device import pick_device
    from stages.core.figures import write_figures
    from stages.decoder.model import load_decoder
    from stages.evaluate.bench import set_up
    from stages.evaluate.extractor import open_spaces
    from stages.evaluate.protocol import describe

    device = pick_device(machine.device)
    tokenizer, painter = load_tokenizer(codebook, device), load_decoder(decoder, device)
    bench = set_up(images, open_spaces(encoder, judge, params.inception_weights, device), params, machine)
    val = ImageSplit(images, "val", machine.num_workers)
    scores, val_distances, real = score_reconstruction(val, tokenizer, painter, bench)
    kind = {"kind": tokenizer.config["tokenizer"], "num_codes": tokenizer.num_codes, "dim": tokenizer.dim}
    figures: dict[str, Any] = {"tokenizer": {"name": codebook.name, **kind, "codes": tokenizer.num_patches}, **scores}
    references = {"val": "train", "reconstruction": "val"}
    protocol = [describe(of, reference, val.labels, bench) for of, reference in references.items()]
    chosen = choose(len(val), max(len(drawn.labels) for drawn in samples.values()), params.seed)
    figures["val"] |= score_real(real.rows(chosen), val.labels[chosen], bench)
    protocol.append(describe("as_samples", "train", val.labels[chosen], bench))
    for name, drawn in samples.items():
        figures[name] = score_samples(drawn, tokenizer.num_codes, painter, bench, val_distances)
        how = {"sampler": drawn.config["sampling"], "seeds": drawn.config["seeds"]}
        protocol.append(describe(name, "train", drawn.labels, bench, **how))
    draw_pictures(report, val, tokenizer, painter, samples, bench)
    write_figures(report, {**figures, "protocol": protocol})
    print_summary(figures)


def draw_pictures(
    report: Path, val: ImageSplit, tokenizer: Any, painter: Any, samples: dict[str, Samples], bench: Bench
) -> None:
    """All pictures, in the folder `pictures` of the report."""
    from stages.evaluate import show

    folder = report / "pictures"
    show.show_reconstructions(folder / "reconstructions.png", val, tokenizer, painter, bench.params.seed)
    for name, drawn in samples.items():
        show.show_samples(folder / f"samples-{name}.png", drawn, painter)
        show.show_neighbours(folder / f"neighbours-{name}.png", drawn, painter, bench)


def check(images: Path, codebook: Path, folder: Path, generators: list[str], params: Params) -> dict[str, Samples]:
    """The samples by generator; a missing artefact or a setting that the counts forbid is an error at once."""
    from stages.core.artefact import read_config

    samples = {name: load_samples(folder / name) for name in generators}
    patches = read_config(codebook, "codebook")["num_patches"]
    for name, drawn in samples.items():
        if drawn.codes.shape[2] != patches:
            found = f"{drawn.codes.shape[2]} codes an image, {codebook} has {patches}"
            raise UserError(f"{folder / name}: {found}. Run `dvc repro`.")
        if len(drawn.labels) < IS_SPLITS:
            least = f"expected at least {IS_SPLITS}, for the splits of the Inception score"
            why = f"{folder / name} has {len(drawn.labels)} samples a seed: {least}"
            raise UserError(f"params.yaml: samples.draws.per_class: {why}")
    counts = {"train images compared with": references(images, params)}
    counts |= {f"samples of {name} a seed": len(drawn.labels) for name, drawn in samples.items()}
    fewest = min(counts, key=lambda what: counts[what])
    for key, least in (("kid_subset_size", 0), ("prc_neighbours", 1)):
        if getattr(params, key) + least > counts[fewest]:
            allowed = f"expected at most {counts[fewest] - least}: there are {counts[fewest]} {fewest}"
            raise impossible(f"evaluate.{key}", getattr(params, key), allowed)
    return samples


def references(images: Path, params: Params) -> int:
    """How many train images are compared with."""
    count = num_images(images, "train")
    return min(count, params.max_reference_images or count)


def announce(
    images: Path, encoder: Path, judge: Path, samples: dict[str, Samples], report: Path, params: Params
) -> None:
    """Print the plan."""
    from stages.core.artefact import read_config

    counts = {"train images to compare with": references(images, params), "val images": num_images(images, "val")}
    shape = read_config(judge, "judge")["shape"]
    dim = read_config(encoder, "encoder")["dim"] + (2 * shape["widths"][-1] if shape else 0)
    dim += INCEPTION_DIM if params.inception_weights else 0
    most = max(*counts.values(), *(len(drawn.labels) for drawn in samples.values()))
    memory_bytes = peak_bytes(most, dim, params.pixel_px)
    counts |= {"samples": sum(drawn.codes.shape[0] * drawn.codes.shape[1] for drawn in samples.values())}
    print_plan("evaluate", report, counts, disk_bytes=20 * 10**6, memory_bytes=memory_bytes)


def peak_bytes(count: int, dim: int, pixel_px: int) -> int:
    """Memory for `count` images: float32 features and thumbnails, distances of 1,000 images to all, and a copy."""
    return BASE_BYTES + count * (4 * (dim + 3 * pixel_px**2) + 8 * PRC_BATCH)


def print_summary(figures: dict[str, Any]) -> None:
    """One line a group."""
    for group, scores in figures.items():
        plain = {
            name: value for name, value in scores.items() if isinstance(value, float) and not name.endswith("_std")
        }
        print(f"evaluate: {group}: " + ", ".join(f"{name} {value:.4g}" for name, value in plain.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artefact")
    parser.add_argument("--encoder", type=Path, required=True, help="encoder artefact: the embedded feature space")
    parser.add_argument("--judge", type=Path, required=True, help="judge artefact: agreement and its feature space")
    parser.add_argument("--codebook", type=Path, required=True, help="codebook artefact")
    parser.add_argument("--decoder", type=Path, required=True, help="decoder artefact")
    parser.add_argument("--samples", type=Path, required=True, help="folder with a samples artefact for each generator")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json and pictures/")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("evaluate", Params, args.params), load("machine", Machine, args.params)
    check_codes_of(args.decoder, args.codebook)
    samples = check(args.images, args.codebook, args.samples, load_list("generators", args.params), params)
    announce(args.images, args.encoder, args.judge, samples, args.report, params)
    score(args.images, args.encoder, args.judge, args.codebook, args.decoder, samples, args.report, params, machine)


if __name__ == "__main__":
    runtime.run(main)
