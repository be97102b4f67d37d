"""The report from hand-written metrics. Run: pytest tests/test_report.py"""

import base64
import json
import re
import shutil
from pathlib import Path

import pytest
import written_reports as written
from written_reports import write_curve, write_evaluation, write_few, write_noise, write_reports

from stages.core import UserError
from stages.report.gather import read_evaluations, used_params
from stages.report.page import as_yaml, write_page
from stages.report.studies import baseline_of


def plain(html: str) -> str:
    """The page with <td> for every cell, and in those of a header the title alone."""
    titles = re.sub(r"<button[^>]*><span>(.*?)</span><small>.*?</small></button>", r"\1", html)
    return re.sub(r"<t[hd]\b[^>]*>", "<td>", titles).replace("</th>", "</td>")


@pytest.fixture
def reports(tmp_path, monkeypatch):
    """A few, of whose page no plot is drawn."""
    written.leave_plots_undrawn(monkeypatch)
    return write_few(tmp_path)


def page(reports: Path, **params) -> str:
    """The page of the folder's reports; `params` change which names are listed."""
    out = reports / "index.html"
    write_page(written.read(reports, **params), out)
    return out.read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with everything and its page, which these tests only read."""
    reports = write_reports(tmp_path_factory.mktemp("whole"))
    return reports, page(reports)


CUT = {"reconstructions", "samples-ar", "samples-masked", "neighbors-ar", "neighbors-masked"}  # the page shows parts


def test_the_page_contains_every_picture_but_old_epochs(whole):
    reports, html = whole
    for path in reports.glob("**/*.png"):
        shown = path.stem not in {"epoch-0001", *CUT}
        assert (base64.b64encode(path.read_bytes()).decode() in html) == shown, path


def test_the_page_needs_nothing_from_elsewhere(whole):
    _, html = whole
    addresses = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", html)
    assert len(addresses) > 10 and all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"https?://|//cdn|@import|url\((?!data:)|<script[^>]|fetch\(|XMLHttp", html)


def test_the_metrics_are_in_the_page(whole):
    html = plain(whole[1])
    for text in (
        "0.93 ± 0.01", "1.25 ± 0.1", "≤ 2.9", "<td>297 real val images</td><td>0.99</td><td>0.25</td>", "25 ± 0.1",
        "96,000", "num_codes: 256", "the same network untrained", "0.9 ± 0.01", "22.5", "0.7 ± 0.02", "20.25",
        "<td>oblique</td><td>LDA</td><td>0.9 ± 0.004</td><td>0.7</td>",
        "<td>0.9</td><td>2 *</td><td>0.8125</td>", "<td>1.0</td><td>2</td><td>0.6875</td>", "original, 25% varied",
        "<td>kmeans-ar</td><td>untrained twin</td><td>0.375 ± 0.01</td><td>0.75</td><td>0.625</td><td>1</td>",
    ):  # fmt: skip
        assert text in html, text
    for text in ("Missing in this report", "Another protocol", "Left out, since", "Stale"):
        assert text not in html, text


def test_rows_of_one_protocol_share_a_table_whatever_the_sampler(whole):
    _, html = whole
    first = html[html.index("Generated images</h3>") :]
    table = first[: first.index("</table>")]
    assert ">ar<" in table and ">masked<" in table


@pytest.mark.parametrize("changes", [
    {"reference_digest": "ffffffffffff"},
    {"count": 5000},
    {"extractors": {"embedded": {"name": "semtok-embedded", "weights_sha256": "cd"}}},
])  # fmt: skip
def test_other_protocols_get_a_table_of_their_own_with_a_note(reports, changes):
    write_evaluation(reports, "other-onestep", **changes)
    html = page(reports)
    assert f"not comparable with the table above. It differs in {next(iter(changes))}" in html
    for table in re.findall(r"<table>.*?</table>", html, re.DOTALL):
        assert not ("kmeans-onestep" in table and "other-onestep" in table)


def test_noise_robustness_is_compared_with_the_first_tokenizer_of_kind_kmeans(reports):
    write_noise(reports / "noise_robustness" / "kmeans", 0.125)
    alone = page(reports)
    assert "0.125 ± 0.006, images ± 0.008" in alone and "20 dB" in alone and "÷" not in alone
    write_noise(reports / "noise_robustness" / "fsq", 0.25, foreground=0.6)
    html = plain(page(reports))
    fsq = "<td>20 dB</td><td>fsq</td><td>256</td><td>0.25 ± 0.006, images ± 0.008</td>"
    assert "<td>changed ÷ kmeans</td>\n<td>changed, foreground ÷ kmeans</td>" in html
    assert "<td>onestep PSNR</td>\n<td>ar bits</td>\n<td>masked bits</td>\n</tr>" in html
    kept = "<td>25 ± 0.1</td><td>99</td><td>≤ 99</td></tr>"
    assert re.search(f"<td>1</td><td>1</td>{kept}.*{fsq}.*<td>2</td><td>3</td>(<td>–</td>){{3}}</tr>", html, re.DOTALL)
    assert "kmeans: by signal" in alone and "kmeans, fsq: by signal" in html


def test_a_kmeans_on_a_random_encoder_is_no_baseline(reports):
    def baseline() -> str:
        found = written.read(reports, tokenizers=["mine", "kmeans", "fsq"])
        return baseline_of(found, read_evaluations(found))

    write_evaluation(reports, "mine-onestep")
    assert baseline() == "mine"
    written.write_lock(reports.parent / "dvc.lock", mine={"encoder": "random"})
    assert baseline() == "kmeans"


def test_noise_of_another_protocol_is_in_no_common_table_plot_or_ratio(reports):
    write_noise(reports / "noise_robustness" / "kmeans", 0.125)
    write_noise(reports / "noise_robustness" / "fsq", 0.25, noise_seeds=[7, 8])
    html = page(reports)
    assert "÷" not in html and "It differs in noise_seeds" in html
    assert "kmeans, fsq" not in html and "fsq: by signal" in html and "kmeans: by signal" in html


def test_names_that_params_no_longer_list_are_neither_shown_nor_compared_nor_read_but_named(reports):
    write_evaluation(reports, "fsq-onestep", kind="fsq")
    write_noise(reports / "noise_robustness" / "kmeans", 0.125)
    write_noise(reports / "noise_robustness" / "fsq", 0.25)
    write_curve(reports / "decoder" / "kmeans-diffusion" / "plots" / "metrics" / "loss.tsv")
    compared = "changed ÷ kmeans", "decoder/kmeans-diffusion: by step"
    before = page(reports)
    assert all(text in before for text in compared) and "Left out, since" not in before
    for old in ("decoding_steps/fsq-onestep", "ablation/64-2"):
        written.write_metrics(reports / old, {"of": "code of another time"})
    html = page(reports, tokenizers=["kmeans", "vqgan"], decoders=["onestep"])
    named = "ablation/64-2, decoder/kmeans-diffusion, decoding_steps/fsq-onestep, generation/fsq-onestep, "
    named += "noise_robustness/fsq, reconstruction/fsq-onestep"
    assert f"Left out, since params.yaml no longer lists them: {named}." in html
    rest = html.replace(named, "")
    assert not [text for text in (*compared, "fsq-onestep", ">fsq<", "kmeans-diffusion") if text in rest]


def test_stages_and_names_come_from_dvc_yaml_and_the_lists(tmp_path):
    found = written.read(tmp_path / "reports", tokenizers=["kmeans", "fsq"], decoders=["onestep"])
    assert [*found.stages["reconstruction"].items] == ["kmeans-onestep", "fsq-onestep"]
    assert found.stages["generator"].items["fsq-ar"] == {"tokenizer": "fsq", "generator": "ar"}
    assert found.folder("ablation", "16-32") == tmp_path / "reports/ablation/16-32"
    assert found.folder("probe") == tmp_path / "reports/probe"
    assert not found.stages["tokens"].folders and [*found.stages["tokens"].items] == ["kmeans", "fsq"]
    assert {name for name, stage in found.stages.items() if stage.trains} == {
        "pretrain", "codebook", "decoder", "generator", "alternating_generator", "recognition"}  # fmt: skip


def test_missing_parts_are_named(reports):
    shutil.rmtree(reports / "generation")
    shutil.rmtree(reports / "probe")
    (reports.parent / "dvc.lock").unlink()
    named = "generated images, samples, sampling settings, decoding steps, resolution transfer, code analysis, "
    named += "codebooks, codebook ablation, noise robustness, encoder probe, training curves, PCA and LDA, "
    named += "params (no dvc.lock)"
    assert f"Missing in this report: {named}. Run" in page(reports)


def test_without_evaluation_or_with_broken_files_it_stops(reports, tmp_path):
    with pytest.raises(
        UserError, match="kmeans-onestep: no metrics.json that says .*. Run `dvc repro reconstruction generation`"
    ):
        page(tmp_path / "empty", tokenizers=["kmeans"], decoders=["onestep"])
    broken = reports / "codebook" / "kmeans" / "plots" / "metrics" / "loss.tsv"
    broken.parent.mkdir(parents=True)
    broken.write_text("step\tobjective\n0\tx\n")
    with pytest.raises(UserError, match="loss.tsv: expected tab-separated numbers"):
        page(reports)
    (reports / "codebook" / "kmeans" / "metrics.json").write_text("{")
    with pytest.raises(UserError, match="metrics.json: not valid JSON"):
        page(reports)


def test_two_builds_give_the_same_bytes(whole):
    reports, html = whole
    assert page(reports) == html


def test_few_live_codes_are_said_beside_the_tokenizers(reports):
    assert "Codebook usage" not in page(reports)
    for live, said in ((13, "13 of 4,096 codes (0.32 %)"), (2048, None)):
        metrics = {"num_codes": 4096, "train": {"live_codes": live}}
        written.write_metrics(reports / "codebook" / "kmeans", metrics)
        html = page(reports)
        assert (f"Codebook usage of kmeans: {said} occur" in html) == (said is not None)
        assert "Codebook usage" in html or said is None


def test_a_skipped_probe_says_why(reports):
    written.write_metrics(reports / "probe", {"skipped": "no classes"})
    assert "Skipped: no classes." in page(reports)


def test_skipped_real_samples_leave_no_row(reports):
    path = reports / "generation" / "kmeans-onestep" / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "val": {"skipped": "8 val images"}}))
    html = page(reports)
    assert "297 real val images" not in html and "8 val images" in html


def test_a_tokenizer_of_any_name_gets_its_rows(reports):
    write_evaluation(reports, "pixels_of_mine-onestep", kind="vqgan", psnr_db=30.0)
    html = plain(page(reports, tokenizers=["kmeans", "pixels_of_mine"]))
    assert "<td>pixels_of_mine-onestep</td>" in html


def test_used_params_are_those_of_the_locks_stages_that_still_exist(tmp_path):
    old = {"params": {"params.yaml": {"old": 1}}}
    stages = {
        "codebook@kmeans": {"params": {"params.yaml": {"codebook.kmeans": {"num_codes": 256}}}},
        "pretrain@digits": {"params": {"pretrain.yaml": {"digits": {"dim": 8}}}},
        **dict.fromkeys(("pretrain", "codebook@gone", "report", "evaluate@kmeans-onestep"), old), "data": {},
    }  # fmt: skip
    (tmp_path / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": stages}))
    params = used_params(tmp_path / "dvc.lock", written.read(tmp_path / "reports").stages)
    assert params == {"codebook.kmeans": {"num_codes": 256}, "pretrain.digits": {"dim": 8}}
    assert as_yaml(params) == "codebook.kmeans:\n  num_codes: 256\npretrain.digits:\n  dim: 8\n"
