"""The report from hand-written metrics. Run: pytest tests/test_report.py"""

import base64
import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from written_reports import LOCK, asked_for, write_curve, write_evaluation, write_reports, write_stability

from stages.core.errors import UserError
from stages.report.build import as_yaml, build, used_params
from stages.report.gather import MATRICES, split_name


@pytest.fixture
def reports(tmp_path):
    return write_reports(tmp_path)


def page(reports: Path, **params) -> str:
    """The page of the folder's reports; `params` change which names are asked for."""
    out = reports / "index.html"
    build(asked_for(reports, **params), out, reports.parent / "dvc.lock")
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
        "<td>297 real val images</td><td>0.99</td><td>0.25</td>",
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
    for text in ("Missing in this report", "Another protocol", "Left out, not in the lists of params.yaml"):
        assert text not in html, text


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
    assert "0.125 ± 0.006, images ± 0.008" in alone and "30 dB" in alone and "÷" not in alone
    write_stability(reports / "stability" / "fsq", 0.25, foreground=0.6)
    html = page(reports)
    fsq = "<td>30 dB</td><td>fsq</td><td>256</td><td>0.25 ± 0.006, images ± 0.008</td>"
    assert "<th>changed ÷ kmeans</th><th>on foreground ÷ kmeans</th>" in html
    assert "<th>onestep PSNR dB</th><th>ar bits</th><th>masked bits</th></tr>" in html
    kept = "<td>25 ± 0.1</td><td>99</td><td>≤ 99</td></tr>"
    assert re.search(f"{fsq}.*<td>2</td><td>3</td>(<td>–</td>){{3}}</tr>\n.*<td>1</td><td>1</td>{kept}", html)
    assert "kmeans: falling" in alone and "fsq, kmeans: falling" in html


def test_noise_of_another_protocol_is_in_no_common_table_plot_or_ratio(reports):
    write_stability(reports / "stability" / "fsq", 0.25, noise_seeds=[7, 8])
    html = page(reports)
    assert "÷" not in html and "It differs in noise_seeds." in html
    assert "fsq, kmeans" not in html and "fsq: falling" in html and "kmeans: falling" in html


def test_the_projections_stand_side_by_side(whole):
    assert "<td>oblique</td><td>LDA</td><td>0.9 ± 0.004</td><td>0.7</td>" in whole[1]


def test_what_params_no_longer_ask_for_is_neither_shown_nor_compared_nor_read_but_named(reports):
    write_evaluation(reports / "evaluate" / "fsq-onestep")
    write_stability(reports / "stability" / "fsq", 0.25)
    write_curve(reports / "decoder" / "kmeans-diffusion" / "plots" / "metrics" / "loss.tsv")
    compared = "fsq codes reconstruct better than kmeans codes", "changed ÷ kmeans", "decoder/kmeans-diffusion: by step"
    before = page(reports)
    assert all(text in before for text in compared) and "Left out, not" not in before
    for old in ("sweep/fsq-onestep", "ablation/64-2"):
        (reports / old).mkdir()
        (reports / old / "metrics.json").write_text('{"of": "code of another time"}')
    html = page(reports, tokenizers=["kmeans", "vqgan"], decoders=["onestep"])
    named = "stability/fsq, ablation/64-2, decoder/kmeans-diffusion, evaluate/fsq-onestep, sweep/fsq-onestep"
    assert f"Left out, not in the lists of params.yaml: {named}." in html
    rest = html.replace(named, "")
    assert not [text for text in (*compared, "fsq", "kmeans-diffusion") if text in rest]


def test_names_are_those_that_dvc_makes(tmp_path):
    stages = YAML(typ="safe").load(Path(__file__).parents[1] / "dvc.yaml")["stages"]
    matrices = {name: stage["matrix"].values() for name, stage in stages.items() if "matrix" in stage}
    assert {name: [f"${{{key}}}" for key in keys] for name, keys in MATRICES.items()} == {
        name: [*values] for name, values in matrices.items()
    }
    names = asked_for(tmp_path / "reports", tokenizers=["kmeans", "fsq"], decoders=["onestep"]).names
    assert names["evaluate"] == ["fsq-onestep", "kmeans-onestep"] and names["palette"] == ["onestep"]
    assert names["ablation"] == ["16-2", "16-32", "8-2", "8-32"] and names["pretrain"] == ["digits"]


def test_what_is_missing_is_said(reports):
    import shutil

    for name in (
        "probe",
        "codebook",
        "anatomy",
        "ablation",
        "stability",
        "projection",
        "sweep",
        "resolution",
        "decoder",
        "generator",
        "pretrain",
    ):
        shutil.rmtree(reports / name)
    (reports.parent / "dvc.lock").unlink()
    named = "decoders, larger images, encoder probe, codebook, anatomy of the codes, codebook ablation, "
    named += "noise stability, projection toy, "
    assert f"Missing in this report: {named}training curves, params (no dvc.lock)" in page(reports)


def test_without_evaluation_or_with_broken_files_it_stops(reports, tmp_path):
    with pytest.raises(UserError, match="evaluate: no metrics.json of kmeans-onestep. Run `dvc repro evaluate`"):
        page(tmp_path / "empty", tokenizers=["kmeans"], decoders=["onestep"])
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


def test_an_encoder_whose_probe_reads_few_classes_silences_what_is_said_of_generation(reports):
    write_evaluation(reports / "evaluate" / "fsq-onestep")
    said = "a linear probe of the encoder reads under 0.6"
    probed = json.loads((reports / "probe" / "metrics.json").read_text())
    found = []
    for clean in (0.59, 0.6):
        probed["encoder"]["clean"] = clean
        (reports / "probe" / "metrics.json").write_text(json.dumps(probed))
        found.append(said in page(reports))
    assert found == [True, False]


@pytest.mark.parametrize(("name", "expected"), [
    ("val_loss", ("loss", "val")), ("loss", ("loss", "train")), ("val/loss", ("loss", "val")), ("lr", ("lr", "train")),
    ("nats_val", ("nats", "val")), ("train_nats", ("nats", "train")), ("value", ("value", "train")),
])  # fmt: skip
def test_train_and_val_curves_find_each_other(name, expected):
    assert split_name(name) == expected


def test_used_params_are_those_of_the_locks_stages_that_still_exist(tmp_path):
    old = {"params": {"params.yaml": {"old": 1}}}
    stages = {**LOCK["stages"], **dict.fromkeys(("pretrain", "codebook@gone", "report"), old), "data": {}}
    (tmp_path / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": stages}))
    params = used_params(tmp_path / "dvc.lock", asked_for(tmp_path / "reports").names)
    assert params == {"codebook": {"num_codes": 256}} and as_yaml(params) == "codebook:\n  num_codes: 256\n"
