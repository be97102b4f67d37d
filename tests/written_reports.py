"""What all stages leave below reports/, written by hand: metrics, curves, pictures; params.yaml, dvc.lock."""

import json
from pathlib import Path

import numpy as np

from stages.core.pictures import save_png
from stages.report.gather import Reports, read_names

DISTANCES = {"pixel": {"median": 0.1, "p01": 0.05, "p99": 0.2, "near_copies": 0.01}}
PARAMS = {
    "pretrained": ["digits"],
    "tokenizers": ["kmeans", "fsq", "vqgan", "other"],
    "decoders": ["onestep", "diffusion", "diffusion_worse", "diffusion_better", "diffusion_undecided"],
    "generators": ["ar", "masked"],
    "ablation": {"num_codes": [8, 16], "dims": [2, 32]},
}
LOCK = {"schema": "2.0", "stages": {"codebook@kmeans": {"params": {"params.yaml": {"codebook": {"num_codes": 256}}}}}}


def asked_for(reports: Path, **changes) -> Reports:
    """What lies in the folder, of the names in PARAMS with changes."""
    (reports.parent / "params.yaml").write_text(json.dumps({**PARAMS, **changes}))
    return Reports(reports, read_names(reports.parent / "params.yaml"))


def protocol(of: str, **changes) -> dict:
    """How the figures of one group were made, with changes."""
    facts = {
        "of": of,
        "reference": "val" if of == "reconstruction" else "train",
        "reference_digest": "0123456789ab",
        "count": 500,
    }
    return {
        **facts,
        "per_class": None,
        "extractors": {"embedded": {"name": "semtok-embedded", "weights_sha256": "ab"}},
        **changes,
    }


def generator(bound: str, agreement: float) -> dict:
    """The figures of one generator."""
    likelihood = {"bound": bound, "val_perplexity": 2.9, "unigram_perplexity": 90.0, "val_bits_per_image": 99.0}
    scores = {"agreement": agreement, "agreement_std": 0.01, "gfid[embedded]": 1.25, "gfid[embedded]_std": 0.1}
    near = {"near_copies[pixel]": 0.02, "near_copies[pixel]_std": 0.004}
    return {**scores, **near, "likelihood": likelihood, "neighbours": DISTANCES}


def write_evaluation(folder: Path, **changes) -> None:
    """An evaluation with two generators; `changes` go into its protocols."""
    entries = [protocol(of, **changes) for of in ("val", "reconstruction", "as_samples")]
    entries += [protocol(of, seeds=[0, 1], sampler={"top_k": k}, **changes) for k, of in enumerate(("ar", "masked"))]
    metrics = {
        "tokenizer": {"name": folder.name.removesuffix("-onestep"), "kind": "kmeans", "num_codes": 256, "dim": 128},
        "val": {"agreement": 0.99, "neighbours": DISTANCES,
                "as_samples": {"images": 297, "agreement": 0.99, "gfid[embedded]": 0.25}},
        "reconstruction": {"psnr_db": 25.0, "psnr_db_std": 0.1, "rfid[embedded]": 0.5, "neighbours": DISTANCES,
                           "code_usage": {"live_codes": 250, "live_fraction": 250 / 256}},
        "ar": generator("exact", 0.93), "masked": generator("upper", 0.88), "protocol": entries,
    }  # fmt: skip
    picture(folder / "pictures" / "reconstructions.png")
    for name in ("ar", "masked"):
        picture(folder / "pictures" / f"samples-{name}.png")
        picture(folder / "pictures" / f"neighbours-{name}.png")
    (folder / "metrics.json").write_text(json.dumps(metrics))


def picture(path: Path, shape: tuple[int, int, int] = (8, 8, 3)) -> None:
    """A picture unlike any other of the test."""
    seed = int.from_bytes(path.as_posix().encode()[-12:])
    save_png(path, np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def write_stability(folder: Path, change: float, foreground: float = 0.2, **changes) -> None:
    """Two levels of noise; `changes` go into the protocol."""
    figures = {"change": change, "foreground_change": foreground, "code_cosine": 0.9}
    spreads = {"_std": 0.006, "_image_std": 0.008}
    figures |= {f"{name}{suffix}": value for name in figures for suffix, value in spreads.items()}
    entry = {"of": "stability", "reference_digest": "0123456789ab", "snrs_db": [30.0, 0.01], "noise_seeds": [0, 1]}
    levels = {"snr_30_db": figures, "snr_0.01_db": {**figures, "change": 0.96}}
    entries = [{**entry, **changes}, {"of": "tokenizer", "num_codes": 256}]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps({**levels, "protocol": entries}))


def write_projection(folder: Path) -> None:
    """One case at two levels of noise."""
    case = {"of": "oblique", "noise_sigmas": [0.0, 0.5]}
    lines = {kind: {"sigma_0": 0.9, "sigma_0_std": 0.004, "sigma_0.5": 0.7} for kind in ("pca", "lda", "bayes")}
    picture(folder / "projection.png")
    (folder / "metrics.json").write_text(json.dumps({"oblique": lines, "protocol": [case]}))


def write_curve(path: Path) -> None:
    """Two steps, named like the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"step\t{path.stem}\n1\t2.0\n2\t1.5\n")


def write_reports(tmp_path: Path) -> Path:
    """Everything that the stages leave."""
    reports = tmp_path / "reports"
    write_evaluation(reports / "evaluate" / "kmeans-onestep")
    scores = {
        "clean": 0.97,
        "moved": 0.8,
        "few_clean": 0.9,
        "few_clean_std": 0.01,
        "few_moved": 0.7,
        "few_moved_std": 0.02,
    }
    probed = {name: scores for name in ("raw", "random_twin", "encoder")} | {
        "protocol": [{"of": "probe", "val_images": 297}]
    }
    picture(reports / "probe" / "moved.png")
    (reports / "probe" / "metrics.json").write_text(json.dumps(probed))
    codebook = reports / "codebook" / "kmeans"
    codebook.mkdir(parents=True)
    (codebook / "metrics.json").write_text(json.dumps({"vectors_used": 96000, "val": {"live_codes": 256}}))
    write_stability(reports / "stability" / "kmeans", 0.125)
    write_projection(reports / "projection")
    for folder in ("pretrain/digits", "decoder/kmeans-onestep", "codebook/kmeans", "generator/kmeans-ar"):
        for name in ("loss", "val_loss", "lr"):
            write_curve(reports / folder / "plots" / "metrics" / f"{name}.tsv")
    for epoch in (1, 2):
        picture(reports / "decoder" / "kmeans-onestep" / "pictures" / f"epoch-{epoch:04d}.png")
    write_studies(reports)
    write_sweep(reports / "sweep" / "kmeans-onestep", "onestep", {"once": 25.0})
    write_resolution(reports / "resolution" / "vqgan-onestep")
    (tmp_path / "dvc.lock").write_text(json.dumps(LOCK))
    return reports


def write_studies(reports: Path) -> None:
    """What anatomy and ablation leave."""
    usage = {"live_codes": 8, "entropy_nats": 2.0, "perplexity": 7.39}
    told = {"vectors": 0.8, "rows": 0.95}
    anatomy = {"usage": usage, "class": {"bag": 0.9, "bag_std": 0.01, **told}, "colour": {"one_hot": 0.7, **told}}
    anatomy |= {"look_up": {"psnr_db": 22.5, "one_patch_psnr_db": 9.5}}
    for name in ("gallery", "tsne"):
        picture(reports / "anatomy" / "kmeans" / f"{name}.png")
    (reports / "anatomy" / "kmeans" / "metrics.json").write_text(json.dumps(anatomy))
    for num_codes, dim in ((8, 2), (16, 2), (8, 32)):
        features = {"quantisation_error": 1 / num_codes, "projection_error": 0.01}
        cell = {"num_codes": num_codes, "dim": dim, "usage": usage, "features": features}
        cell |= {"class": {"bag": 0.7, "bag_std": 0.02}, "look_up": {"psnr_db": 20.25}}
        folder = reports / "ablation" / f"{num_codes}-{dim}"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({**cell, "protocol": [{"of": "ablation", "val_images": 297}]}))


COLUMN_PX, ROWS_PX = 5, 9  # of a picture with two rows of 4 px


def write_sweep(folder: Path, kind: str, psnr_db: dict[str, float], bits: float = 512.0, **changes) -> None:
    """PSNR at each level, the last one being the decoder's own; `changes` go into the protocol."""
    tokenizer, name = folder.name.split("-")
    decoder = {"name": name, "kind": kind, "tokenizer": tokenizer, "parameters": 12345}
    last = [*psnr_db][-1]
    decoder |= {} if last == "once" else {"steps": int(last.removeprefix("steps_"))}
    seeds = {} if last == "once" else {"psnr_db_seed_std": 0.03, "rfid[embedded]_seed_std": 0.01}
    levels = {
        level: {
            "psnr_db": value, "psnr_db_std": 0.1, **seeds, "rfid[embedded]": value / 10, "rfid[embedded]_std": 0.02,
            "bootstrap": {"rfid[embedded]": [value / 10 - 0.02, value / 10 + 0.02]}, "gflop_an_image": 0.0625,
        }
        for level, value in psnr_db.items()
    }  # fmt: skip
    columns = ["original", *levels]
    place = {"of": "steps.png", "columns": columns, "pitch_px": COLUMN_PX}
    codes = {"kind": tokenizer, "tokens": 64, "num_codes": 256, "bits_an_image": bits}
    entry = {"of": "sweep", "reference_digest": "0123456789ab", "decoding_seeds": [0, 1], **changes}
    picture(folder / "steps.png", (ROWS_PX, len(columns) * COLUMN_PX - 1, 3))
    text = json.dumps({"decoder": decoder, "codes": codes, **levels, "protocol": [entry, place]})
    (folder / "metrics.json").write_text(text)


def write_resolution(folder: Path) -> None:
    """A decoder and the tokenizer's own, at two scales; beside it one that was left out."""
    figures = {f"scale_{scale}": {"psnr_db": 20.5 + scale, "psnr_db_std": 0.2, "ssim": 0.75} for scale in (1, 4)}
    joint = {scale: {**own, "psnr_db": 19.125} for scale, own in figures.items()}
    entry = {"of": "resolution", "larger_images": "rendered"}
    metrics = {"name": "onestep", "tokenizer": "vqgan", "decoder": figures, "joint": joint, "protocol": [entry]}
    picture(folder / "pictures" / "scales.png")
    (folder / "metrics.json").write_text(json.dumps(metrics))
    other = folder.with_name("kmeans-onestep")
    other.mkdir()
    (other / "metrics.json").write_text(json.dumps({"skipped": "kmeans: its transformer sees images of one size"}))
