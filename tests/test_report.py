"""The report from hand-written metrics. Run: pytest tests/test_report.py"""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest

from stages.core.errors import UserError
from stages.core.pictures import save_png
from stages.report.build import build, used_params
from stages.report.gather import split_name

DISTANCES = {"pixel": {"median": 0.1, "p01": 0.05, "p99": 0.2, "near_copies": 0.01}}
LOCK = {"schema": "2.0", "stages": {"codebook@kmeans": {"params": {"params.yaml": {"codebook": {"num_codes": 256}}}}}}


def protocol(of: str, **changes) -> dict:
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
    likelihood = {"bound": bound, "val_perplexity": 2.9, "unigram_perplexity": 90.0, "val_bits_per_image": 99.0}
    scores = {"agreement": agreement, "agreement_std": 0.01, "gfid[embedded]": 1.25, "gfid[embedded]_std": 0.1}
    return {**scores, "likelihood": likelihood, "neighbours": DISTANCES}


def write_evaluation(folder: Path, **changes) -> None:
    """An evaluation with two generators; `changes` go into its protocols."""
    entries = [protocol(of, **changes) for of in ("val", "reconstruction")]
    entries += [protocol(of, seeds=[0, 1], sampler={"top_k": k}, **changes) for k, of in enumerate(("ar", "masked"))]
    metrics = {
        "tokenizer": {"name": folder.name.removesuffix("-onestep"), "kind": "kmeans", "num_codes": 256, "dim": 128},
        "val": {"agreement": 0.99, "neighbours": DISTANCES},
        "reconstruction": {"psnr_db": 25.0, "psnr_db_std": 0.1, "rfid[embedded]": 0.5, "neighbours": DISTANCES},
        "ar": generator("exact", 0.93), "masked": generator("upper", 0.88), "protocol": entries,
    }  # fmt: skip
    picture(folder / "pictures" / "reconstructions.png")
    for name in ("ar", "masked"):
        picture(folder / "pictures" / f"samples-{name}.png")
        picture(folder / "pictures" / f"neighbours-{name}.png")
    (folder / "metrics.json").write_text(json.dumps(metrics))


def picture(path: Path) -> None:
    """A picture unlike any other of the test."""
    seed = int.from_bytes(path.as_posix().encode()[-12:])
    save_png(path, np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def write_stability(folder: Path, change: float, **changes) -> None:
    """Two levels of noise; `changes` go into the protocol."""
    figures = {"change": change, "change_std": 0.01, "code_cosine": 0.9, "code_cosine_std": 0.001}
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
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"step\t{path.stem}\n1\t2.0\n2\t1.5\n")


@pytest.fixture
def reports(tmp_path):
    return write_reports(tmp_path)


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
    for folder in ("pretrain", "decoder/kmeans-onestep", "codebook/kmeans", "generator/kmeans-ar"):
        for name in ("loss", "val_loss", "lr"):
            write_curve(reports / folder / "plots" / "metrics" / f"{name}.tsv")
    for epoch in (1, 2):
        picture(reports / "decoder" / "kmeans-onestep" / "pictures" / f"epoch-{epoch:04d}.png")
    write_studies(reports)
    (tmp_path / "dvc.lock").write_text(json.dumps(LOCK))
    return reports


def write_studies(reports: Path) -> None:
    """What anatomy and ablation leave."""
    usage = {"live_codes": 8, "entropy_nats": 2.0, "perplexity": 7.39}
    told = {"one_hot": 0.9, "one_hot_std": 0.01, "vectors": 0.8, "rows": 0.95}
    anatomy = {"usage": usage, "class": told, "colour": told, "look_up": {"psnr_db": 22.5, "one_patch_psnr_db": 9.5}}
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


def page(reports: Path) -> str:
    out = reports / "index.html"
    build(reports, out, reports.parent / "dvc.lock")
    return out.read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder that `reports` describes and its page, which these tests only read."""
    reports = write_reports(tmp_path_factory.mktemp("whole"))
    return reports, page(reports)


def test_the_page_contains_every_picture_but_old_epochs(whole):
    reports, html = whole
    for path in reports.glob("**/*.png"):
        assert (base64.b64encode(path.read_bytes()).decode() in html) == (path.stem != "epoch-0001"), path


def test_the_page_needs_nothing_from_elsewhere(whole):
    _, html = whole
    addresses = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", html)
    assert len(addresses) > 10 and all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"https?://|//cdn|@import|url\(|<script", html)


def test_the_figures_are_in_the_page(whole):
    _, html = whole
    for text in (
        "0.93 ± 0.01",
        "1.25 ± 0.1",
        "≤ 2.9",
        "25 ± 0.1",
        "96,000",
        "num_codes: 256",
        "its random twin",
        "0.9 ± 0.01",
        "22.5",
        "0.7 ± 0.02",
        "20.25",
    ):
        assert text in html, text
    assert "Missing in this report" not in html and "Another protocol" not in html


def test_rows_of_one_protocol_share_a_table_whatever_the_sampler(whole):
    _, html = whole
    first = html[html.index("Generated images</h2>") :]
    table = first[: first.index("</table>")]
    assert ">ar<" in table and ">masked<" in table


@pytest.mark.parametrize("changes", [
    {"reference_digest": "ffffffffffff"},
    {"count": 5000},
    {"extractors": {"embedded": {"name": "semtok-embedded", "weights_sha256": "cd"}}},
])  # fmt: skip
def test_other_protocols_get_a_table_of_their_own_with_a_note(reports, changes):
    write_evaluation(reports / "evaluate" / "other-onestep", **changes)
    html = page(reports)
    assert f"not comparable with the table above. It differs in {next(iter(changes))}." in html
    for table in re.findall(r"<table>.*?</table>", html, re.DOTALL):
        assert not ("kmeans-onestep" in table and "other-onestep" in table)


def test_tokenizers_share_a_table_and_a_plot_of_their_noise_and_are_measured_against_kmeans(reports):
    alone = page(reports)
    assert "0.125 ± 0.01" in alone and "30 dB" in alone and "÷" not in alone
    write_stability(reports / "stability" / "fsq", 0.25)
    html = page(reports)
    fsq = "<td>30 dB</td><td>fsq</td><td>256</td><td>0.25 ± 0.01</td>"
    assert "<th>÷ kmeans</th>" in html and re.search(f"{fsq}.*<td>2</td></tr>\n.*<td>1</td></tr>", html)
    assert "kmeans: falling" in alone and "fsq, kmeans: falling" in html


def test_noise_of_another_protocol_is_in_no_common_table_plot_or_ratio(reports):
    write_stability(reports / "stability" / "fsq", 0.25, noise_seeds=[7, 8])
    html = page(reports)
    assert "÷" not in html and "It differs in noise_seeds." in html
    assert "fsq, kmeans" not in html and "fsq: falling" in html and "kmeans: falling" in html


def test_the_projections_stand_side_by_side(whole):
    assert "<td>oblique</td><td>LDA</td><td>0.9 ± 0.004</td><td>0.7</td>" in whole[1]


def test_what_is_missing_is_said(reports):
    import shutil

    for name in (
        "probe",
        "codebook",
        "anatomy",
        "ablation",
        "stability",
        "projection",
        "decoder",
        "generator",
        "pretrain",
    ):
        shutil.rmtree(reports / name)
    (reports.parent / "dvc.lock").unlink()
    named = "encoder probe, codebook, anatomy of the codes, codebook ablation, noise stability, projection toy, "
    assert f"Missing in this report: {named}training curves, params (no dvc.lock)" in page(reports)


def test_without_evaluation_or_with_broken_files_it_stops(reports, tmp_path):
    with pytest.raises(UserError, match="evaluate: no <name>/metrics.json in there. Run `dvc repro evaluate`"):
        build(tmp_path / "empty", tmp_path / "index.html", tmp_path / "dvc.lock")
    broken = reports / "codebook" / "kmeans" / "plots" / "metrics" / "loss.tsv"
    broken.write_text("step\tobjective\n0\tx\n")
    with pytest.raises(UserError, match="loss.tsv: expected tab-separated numbers"):
        page(reports)
    (reports / "codebook" / "kmeans" / "metrics.json").write_text("{")
    with pytest.raises(UserError, match="metrics.json: not valid JSON"):
        page(reports)


def test_two_builds_give_the_same_bytes(whole):
    reports, html = whole
    assert page(reports) == html


def test_a_skipped_probe_says_why(reports):
    (reports / "probe" / "metrics.json").write_text('{"skipped": "no classes"}')
    assert "Skipped: no classes." in page(reports)


@pytest.mark.parametrize(("name", "expected"), [
    ("val_loss", ("loss", "val")), ("loss", ("loss", "train")), ("val/loss", ("loss", "val")), ("lr", ("lr", "train")),
    ("nats_val", ("nats", "val")), ("train_nats", ("nats", "train")), ("value", ("value", "train")),
])  # fmt: skip
def test_train_and_val_curves_find_each_other(name, expected):
    assert split_name(name) == expected


def test_used_params_are_those_of_the_lock(tmp_path):
    (tmp_path / "dvc.lock").write_text(json.dumps(LOCK))
    assert used_params(tmp_path / "dvc.lock") == "codebook:\n  num_codes: 256\n"
