"""Reconstructions and generated samples -> figures with their protocol and pictures, in a report folder.

Run:    dvc repro evaluate
Expect: digits, 297 reconstructions and 2 generators x 3 seeds x 500 samples: 1 minute on two cores, 5 MB.

Distances between image sets are computed in the feature spaces of the reference (stages/reference/build.py).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from stages.core import runtime
from stages.core.artefact import read_config
from stages.core.choice import choose
from stages.core.errors import UserError
from stages.core.params import Machine, Section, impossible, load, load_list
from stages.core.plan import print_plan
from stages.data.reader import ImageSplit, num_images
from stages.decoder.sources import check_codes_of
from stages.evaluate.generation import Samples, load_samples, score_real, score_samples
from stages.evaluate.metrics import IS_SPLITS
from stages.evaluate.reconstruction import score_reconstruction
from stages.reference.reader import peak_bytes

if TYPE_CHECKING:
    from stages.evaluate.bench import Bench


class Params(Section):
    bootstrap_draws: int = Field(ge=2)
    kid_subset_size: int = Field(ge=2)
    neighbours_shown: int = Field(gt=0)
    seed: int = Field(ge=0, lt=2**32)


def score(
    images: Path,
    encoder: Path,
    judge: Path,
    reference: Path,
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
    from stages.evaluate.protocol import describe

    device = pick_device(machine.device)
    tokenizer, painter = load_tokenizer(codebook, device), load_decoder(decoder, device)
    bench = set_up(images, encoder, judge, reference, params, machine, device)
    val = ImageSplit(images, "val", machine.num_workers)
    scores, val_distances, real = score_reconstruction(val, tokenizer, painter, bench)
    kind = {"kind": tokenizer.config["tokenizer"], "num_codes": tokenizer.num_codes, "dim": tokenizer.dim}
    figures: dict[str, Any] = {"tokenizer": {"name": codebook.name, **kind, "codes": tokenizer.num_patches}, **scores}
    protocol = [describe("val", "train", val.labels, bench), describe("reconstruction", "val", val.labels, bench)]
    chosen = choose(len(val), max(len(drawn.labels) for drawn in samples.values()), params.seed)
    figures["val"] |= score_real(real.rows(chosen), val.labels[chosen], bench)
    if "as_samples" in figures["val"]:
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


def check(reference: Path, codebook: Path, folder: Path, generators: list[str], params: Params) -> dict[str, Samples]:
    """The samples by generator; a missing artefact or a setting that the counts forbid is an error at once."""
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
    config = read_config(reference, "reference")
    counts = {"train images compared with": config["count"]}
    counts |= {f"samples of {name} a seed": len(drawn.labels) for name, drawn in samples.items()}
    fewest = min(counts, key=lambda what: counts[what])
    settings = {"evaluate.kid_subset_size": (params.kid_subset_size, counts[fewest])}
    settings["reference.prc_neighbours"] = (config["prc_neighbours"], counts[fewest] - 1)
    for key, (value, most) in settings.items():
        if value > most:
            raise impossible(key, value, f"expected at most {most}: there are {counts[fewest]} {fewest}")
    return samples


def announce(images: Path, reference: Path, samples: dict[str, Samples], report: Path) -> None:
    """Print the plan."""
    config = read_config(reference, "reference")
    counts = {"train images to compare with": config["count"], "val images": num_images(images, "val")}
    most = max(*counts.values(), *(len(drawn.labels) for drawn in samples.values()))
    memory_bytes = peak_bytes(most, sum(space["dim"] for space in config["spaces"].values()), config["pixel_px"])
    counts |= {"samples": sum(drawn.codes.shape[0] * drawn.codes.shape[1] for drawn in samples.values())}
    print_plan("evaluate", report, counts, disk_bytes=20 * 10**6, memory_bytes=memory_bytes)


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
    parser.add_argument("--reference", type=Path, required=True, help="reference artefact: real training images")
    parser.add_argument("--codebook", type=Path, required=True, help="codebook artefact")
    parser.add_argument("--decoder", type=Path, required=True, help="decoder artefact")
    parser.add_argument("--samples", type=Path, required=True, help="folder with a samples artefact for each generator")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json and pictures/")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("evaluate", Params, args.params), load("machine", Machine, args.params)
    check_codes_of(args.decoder, args.codebook)
    samples = check(args.reference, args.codebook, args.samples, load_list("generators", args.params), params)
    announce(args.images, args.reference, samples, args.report)
    score(
        args.images, args.encoder, args.judge, args.reference, args.codebook, args.decoder, samples, args.report,
        params, machine,
    )  # fmt: skip


if __name__ == "__main__":
    runtime.run(main)
