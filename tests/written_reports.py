"""What all stages leave below reports/, written by hand: metrics, curves, pictures; params.yaml, dvc.lock."""

import json
from pathlib import Path

from written_pictures import IMG_PX, image_grid, picture, write_map

from stages.report import plots
from stages.report.gather import Reports, read_reports

PIPELINE = Path(__file__).parents[1] / "dvc.yaml"
DISTANCES = {"pixel": {"median": 0.1, "p01": 0.05, "p99": 0.2, "near_copies": 0.01}}
IMAGES = "0123456789ab"  # of all metrics, unless a test says otherwise
PARAMS = {
    "pretrained": ["digits"],
    "tokenizers": ["kmeans", "fsq", "vqgan", "other"],
    "decoders": ["onestep", "diffusion", "diffusion_worse", "diffusion_better", "diffusion_undecided"],
    "generators": ["ar", "masked"],
    "alternating_generators": [],
    "text_encoders": [],
    "caption_checkers": [],
    "recognition_tasks": [],
    "recognition_networks": [],
    "ablation": {"num_codes": [8, 16], "dims": [2, 32]},
    "code_noise_fid": {"decoders": []},
}


def read(reports: Path, **changes) -> Reports:
    """What lies in the folder, of the names in PARAMS with changes."""
    (reports.parent / "params.yaml").write_text(json.dumps({**PARAMS, **changes}))
    return read_reports(reports, PIPELINE, reports.parent / "params.yaml", reports.parent / "dvc.lock")


def write_lock(path: Path, **sections) -> None:
    """A dvc.lock whose stage codebook ran with these sections of params.yaml, one per tokenizer; images of IMG_PX."""
    stages = {
        f"codebook@{name}": {"params": {"params.yaml": {f"codebook.{name}": section}}}
        for name, section in sections.items()
    }
    stages["data"] = {"params": {"params.yaml": {"data": {"source": "digits", "img_px": IMG_PX}}}}
    path.write_text(json.dumps({"schema": "2.0", "stages": stages}))


def write_metrics(folder: Path, metrics: dict) -> None:
    """metrics.json of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps({"images": IMAGES, **metrics}))


def of_other_images(folder: Path, images: str | None) -> None:
    """The folder's metrics as if measured on other images; None for those of a time that did not record them."""
    metrics = json.loads((folder / "metrics.json").read_text())
    changed = {**metrics, "images": images} if images else {key: metrics[key] for key in metrics if key != "images"}
    (folder / "metrics.json").write_text(json.dumps(changed))


def protocol(of: str, **changes) -> dict:
    """How the metrics of one group were measured, with changes."""
    facts = {
        "of": of, "reference": "val" if of == "reconstruction" else "train", "reference_digest": IMAGES,
        "count": 500, "per_class": None,
        "extractors": {"embedded": {"name": "semtok-embedded", "weights_sha256": "ab"}},
    }  # fmt: skip
    return {**facts, **changes}


def generator(bound: str, class_accuracy: float) -> dict:
    """The metrics of one generator."""
    likelihood = {"bound": bound, "val_perplexity": 2.9, "unigram_perplexity": 90.0, "val_bits_per_image": 99.0}
    scores = {"class_accuracy": class_accuracy, "class_accuracy_std": 0.01, "gfid[embedded]": 1.25}
    near = {"gfid[embedded]_std": 0.1, "near_copies[pixel]": 0.02, "near_copies[pixel]_std": 0.004}
    return {**scores, **near, "likelihood": likelihood, "neighbors": DISTANCES}


def write_evaluation(reports: Path, name: str, kind: str = "kmeans", psnr_db: float = 25.0, **changes) -> None:
    """Reconstructions, and samples of two generators; `changes` go into their protocols."""
    facts = {"name": name.rpartition("-")[0], "kind": kind, "num_codes": 256, "dim": 128, "codes": 64}
    reconstructions, samples = reports / "reconstruction" / name, reports / "generation" / name
    usage = {"live_codes": 250, "live_fraction": 250 / 256}
    made = {"psnr_db": psnr_db, "psnr_db_std": 0.1, "rfid[embedded]": 0.5, "neighbors": DISTANCES, "code_usage": usage}
    write_metrics(reconstructions, {
        "tokenizer": facts, "val": {"class_accuracy": 0.99, "neighbors": DISTANCES}, "reconstruction": made,
        "protocol": [protocol(of, **changes) for of in ("val", "reconstruction")],
    })  # fmt: skip
    entries = [protocol(of, seeds=[0, 1], sampler={"top_k": k}, **changes) for k, of in enumerate(("ar", "masked"))]
    write_metrics(samples, {
        "tokenizer": facts, "val": {"images": 297, "class_accuracy": 0.99, "gfid[embedded]": 0.25},
        "ar": generator("exact", 0.93), "masked": generator("upper", 0.88),
        "protocol": [protocol("val", **changes), *entries],
    })  # fmt: skip
    image_grid(reconstructions / "pictures" / "reconstructions.png", 2, 16)
    for one in ("ar", "masked"):
        image_grid(samples / "pictures" / f"samples-{one}.png", 2, 3)
        image_grid(samples / "pictures" / f"neighbors-{one}.png", 3, 2)
        asked = {"samples": ["cat", "cat", "cat", "dog", "dog", ""], "neighbors": ["cat", "dog"]}
        facts = samples / "pictures" / f"{one}.json"
        facts.write_text(json.dumps({"img_px": IMG_PX, "columns": 3, **asked}))


def write_noise(folder: Path, change: float, foreground: float = 0.2, **changes) -> None:
    """Two levels of noise; `changes` go into the protocol."""
    metrics = {"change": change, "foreground_change": foreground, "code_cosine": 0.9}
    spreads = {"_std": 0.006, "_image_std": 0.008}
    metrics |= {f"{name}{suffix}": value for name in metrics for suffix, value in spreads.items()}
    entry = {"of": "noise_robustness", "reference_digest": IMAGES, "snrs_db": [20.0, 0.01]}
    levels = {"snr_20_db": metrics, "snr_0.01_db": {**metrics, "change": 0.96}}
    entries = [{**entry, "noise_seeds": [0, 1], **changes}, {"of": "tokenizer", "num_codes": 256}]
    write_metrics(folder, {**levels, "protocol": entries})


def write_pca_vs_lda(folder: Path) -> None:
    """One case at two levels of noise."""
    case = {"of": "oblique", "noise_sigmas": [0.0, 0.5], "point_seeds": [0, 1, 2]}
    lines = {kind: {"sigma_0": 0.9, "sigma_0_std": 0.004, "sigma_0.5": 0.7} for kind in ("pca", "lda", "bayes")}
    picture(folder / "pca_vs_lda.png")
    write_metrics(folder, {"oblique": lines, "protocol": [case]})


def write_curve(path: Path) -> None:
    """Two steps, named like the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"step\t{path.stem}\n1\t2.0\n2\t1.5\n")


def leave_plots_undrawn(monkeypatch) -> None:
    """Figures are made, but not drawn, which takes most of a page's time; one page of tests/test_report.py has all."""
    monkeypatch.setattr(plots, "png_of", lambda figure: b"")


def write_few(tmp_path: Path) -> Path:
    """An evaluation and a probe: a page without plots."""
    reports = tmp_path / "reports"
    write_evaluation(reports, "kmeans-onestep")
    write_probe(reports / "probe", 0.97)
    write_lock(tmp_path / "dvc.lock", kmeans={"kind": "kmeans", "num_codes": 256})
    return reports


def write_reports(tmp_path: Path) -> Path:
    """Everything that the stages leave."""
    reports = write_few(tmp_path)
    write_metrics(reports / "codebook" / "kmeans", {"vectors_used": 96000, "val": {"live_codes": 256}})
    write_noise(reports / "noise_robustness" / "kmeans", 0.125)
    write_pca_vs_lda(reports / "pca_vs_lda")
    for folder in ("pretrain/digits", "decoder/kmeans-onestep", "codebook/kmeans", "generator/kmeans-ar"):
        for name in ("loss", "val/loss", "lr"):
            write_curve(reports / folder / "plots" / "metrics" / f"{name}.tsv")
    for epoch in (1, 2):
        picture(reports / "decoder" / "kmeans-onestep" / "pictures" / f"epoch-{epoch:04d}.png")
    write_code_analysis(reports / "code_analysis" / "kmeans")
    write_ablation(reports / "ablation")
    write_layer_probe(reports / "layer_probe" / "kmeans-ar")
    write_steps(reports / "decoding_steps" / "kmeans-onestep", "onestep", {"once": 25.0})
    write_scales(reports / "resolution_transfer" / "vqgan-onestep")
    write_sampling(reports / "sampling" / "kmeans-onestep-ar")
    return reports


def write_probe(folder: Path, clean: float) -> None:
    """Accuracies of linear probes, `clean` on clean images."""
    few = {"few_clean": 0.9, "few_clean_std": 0.01, "few_augmented": 0.7, "few_augmented_std": 0.02}
    probed = {name: {"clean": clean, "augmented": 0.8, **few} for name in ("raw", "random_twin", "encoder")}
    probed["random_twin"] = {key: round(value * 0.9, 4) for key, value in probed["random_twin"].items()}
    write_metrics(folder, {**probed, "protocol": [{"of": "probe", "val_images": 297}]})
    picture(folder / "augmented.png")


def write_layer_probe(folder: Path) -> None:
    """Two layers of one generator and of its untrained twin."""
    found = {"best_layer": 1, "middle_layer": 1, "best": 0.8125, "best_std": 0.01, "middle": 0.75, "last": 0.625}
    points = [{"layer": n, "accuracy": 0.5 + n / 8, "accuracy_std": 0.01} for n in range(2)]
    both = {"trained": found, "untrained": {**found, "best": 0.375}}
    layers = {name: points for name in both}
    write_metrics(folder, {**both, "layers": layers, "codes": {"bag": 0.7}, "protocol": [{"of": "layer_probe"}]})


USAGE = {"live_codes": 8, "entropy_nats": 2.0, "perplexity": 7.39}


def write_code_analysis(folder: Path) -> None:
    """Probes of class and color, and the lookup."""
    both = {"vectors": 0.8, "features": 0.95}
    metrics = {"usage": USAGE, "class": {"bag": 0.9, "bag_std": 0.01, **both}, "color": {"one_hot": 0.7, **both}}
    write_metrics(folder, {**metrics, "lookup": {"psnr_db": 22.5, "one_patch_psnr_db": 9.5}})
    for name in ("gallery", "tsne"):
        picture(folder / f"{name}.png")
    write_map(folder / "map")


def write_ablation(folder: Path) -> None:
    """Three cells."""
    for num_codes, dim in ((8, 2), (16, 2), (8, 32)):
        features = {"quantization_error": 1 / num_codes, "projection_error": 0.01}
        cell = {"num_codes": num_codes, "dim": dim, "usage": USAGE, "features": features}
        cell |= {"class": {"bag": 0.7, "bag_std": 0.02}, "lookup": {"psnr_db": 20.25}}
        entry = {"of": "ablation", "val_images": 297}
        write_metrics(folder / f"{num_codes}-{dim}", {**cell, "protocol": [entry]})


COLUMN_PX, ROWS_PX = 5, 9  # of a picture with two rows of 4 px


def write_steps(folder: Path, kind: str, psnr_db: dict[str, float], bits: float = 512.0, **changes) -> None:
    """PSNR at each number of steps, the last one being the decoder's own; `changes` go into the protocol."""
    tokenizer, name = folder.name.split("-")
    decoder = {"name": name, "kind": kind, "tokenizer": tokenizer, "parameters": 12345}
    last = [*psnr_db][-1]
    decoder |= {} if last == "once" else {"steps": int(last.removeprefix("steps_"))}
    seeds = {} if last == "once" else {"psnr_db_seed_std": 0.03, "rfid[embedded]_seed_std": 0.01}
    groups = {
        group: {
            "psnr_db": value, "psnr_db_std": 0.1, **seeds, "rfid[embedded]": value / 10, "rfid[embedded]_std": 0.02,
            "bootstrap": {"rfid[embedded]": [value / 10 - 0.02, value / 10 + 0.02]}, "gflop_per_image": 0.0625,
        }
        for group, value in psnr_db.items()
    }  # fmt: skip
    columns = ["original", *groups]
    place = {"of": "steps.png", "columns": columns, "pitch_px": COLUMN_PX}
    codes = {"kind": tokenizer, "tokens": 64, "num_codes": 256, "bits_per_image": bits}
    entry = {"of": "decoding_steps", "reference_digest": IMAGES, "decoding_seeds": [0, 1], **changes}
    write_metrics(folder, {"decoder": decoder, "codes": codes, **groups, "protocol": [entry, place]})
    picture(folder / "steps.png", (ROWS_PX, len(columns) * COLUMN_PX - 1, 3))


def write_scales(folder: Path) -> None:
    """A decoder and the tokenizer's own, at two scales; beside it one that was left out."""
    scales = {f"scale_{scale}": {"psnr_db": 20.5 + scale, "psnr_db_std": 0.2, "ssim": 0.75} for scale in (1, 4)}
    joint = {scale: {**own, "psnr_db": 19.125} for scale, own in scales.items()}
    entry = {"of": "resolution_transfer", "larger_images": "rendered"}
    names = {"name": "onestep", "tokenizer": "vqgan"}
    write_metrics(folder, {**names, "decoder": scales, "joint": joint, "protocol": [entry]})
    picture(folder / "pictures" / "scales.png")
    write_metrics(folder.with_name("kmeans-onestep"), {"skipped": "kmeans: its encoder takes images of one size"})


def write_sampling(folder: Path) -> None:
    """A grid of two values, and a picture of edits."""
    points = [
        {"changes": {"top_p": top_p}, "passes": 2.0, "protocol": "samples", "metrics": {"class_accuracy": score}}
        for top_p, score in ((0.9, 0.8125), (1.0, 0.6875))
    ]
    generator = {"name": "ar", "kind": "ar", "settings": json.dumps({"top_p": 0.9})}
    groups = {"own": {"class_accuracy": 0.8125}, "val": {"class_accuracy": 0.9921875, "images": 292}}
    entries = [protocol("samples"), protocol("val")]
    edited = {"of": "edited.png", "columns": ["original", "25% varied"], "val_images": [3]}
    grids = [{"name": "filters", "points": points}]
    write_metrics(folder, {"generator": generator, **groups, "protocol": entries, "grids": grids, "edited": [edited]})
    picture(folder / "pictures" / "edited.png")
