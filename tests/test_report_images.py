"""A report of one data set: metrics of other images are named and left out. Run: pytest tests/test_report_images.py"""

import pytest
import written_reports as written
from written_reports import IMAGES, of_other_images, write_curve, write_evaluation, write_noise

from stages.core import UserError
from stages.report.page import write_page

OTHER = "ba9876543210"


@pytest.fixture
def reports(tmp_path, monkeypatch):
    """Two tokenizers with their noise robustness, and a probe."""
    written.leave_plots_undrawn(monkeypatch)
    reports = written.write_few(tmp_path)
    write_evaluation(reports, "fsq-onestep", kind="fsq")
    write_noise(reports / "noise_robustness" / "kmeans", 0.1625)
    write_noise(reports / "noise_robustness" / "fsq", 0.3375)
    return reports


def page(reports) -> str:
    write_page(written.read(reports), reports / "index.html")
    return (reports / "index.html").read_text()


@pytest.mark.parametrize(("images", "said"), [
    (OTHER, f"({OTHER}… instead of {IMAGES}…)"), (None, "(it does not say which)"),
])  # fmt: skip
def test_noise_of_other_images_is_in_no_row_but_named(reports, images, said, capsys):
    before = page(reports)
    assert "0.1625" in before and "Stale" not in before and f"images {IMAGES}…" in before
    of_other_images(reports / "noise_robustness" / "kmeans", images)
    html = page(reports)
    assert "0.1625" not in html and "0.3375" in html
    assert f"noise_robustness/kmeans was measured on other images {said}." in html
    assert "<code>semtok run noise_robustness@kmeans</code>" in html
    assert capsys.readouterr().out.endswith("; stale: noise_robustness@kmeans\n")


def test_a_probe_of_other_images_is_named(reports):
    of_other_images(reports / "probe", OTHER)
    html = page(reports)
    assert "probe was measured on other images" in html and "semtok run probe<" in html


def test_every_part_of_the_page_leaves_out_what_is_of_other_images(tmp_path):
    reports = written.write_reports(tmp_path)
    found = written.read(reports)
    measured = {(stage, name) for stage, facts in found.stages.items() for name in facts.folders} - {("pca_vs_lda", "")}
    for stage, name in measured:
        if stage != "reconstruction" and (found.folder(stage, name) / "metrics.json").is_file():
            of_other_images(found.folder(stage, name), OTHER)
    html = page(reports)
    named = (
        "ablation@16-2", "ablation@8-2", "ablation@8-32", "code_analysis@kmeans", "codebook@kmeans",
        "decoding_steps@kmeans-onestep", "generation@kmeans-onestep", "layer_probe@kmeans-ar",
        "noise_robustness@kmeans", "probe",
        "resolution_transfer@kmeans-onestep", "resolution_transfer@vqgan-onestep", "sampling@kmeans-onestep-ar",
    )  # fmt: skip
    assert tuple(sorted(written.read(reports).stale())) == named
    for value in ("0.93 ± 0.01", "96,000", "0.9 ± 0.01", "22.5", "20.25", "codebook/kmeans: by step", "samples-ar"):
        assert value not in html, value
    assert "25 ± 0.1" in html and "oblique" in html


def test_evaluations_of_several_data_sets_leave_those_of_most_or_else_the_first(reports):
    of_other_images(reports / "reconstruction" / "kmeans-onestep", OTHER)
    assert written.read(reports).images == OTHER, "one each: the first listed"
    write_evaluation(reports, "vqgan-onestep", kind="vqgan")
    found = written.read(reports)
    assert found.images == IMAGES and list(found.metrics("reconstruction")) == ["fsq-onestep", "vqgan-onestep"]
    html = page(reports)
    assert "reconstruction/kmeans-onestep was measured on other images" in html and "kmeans-onestep</td>" not in html
    for name in ("kmeans", "fsq", "vqgan"):
        of_other_images(reports / "reconstruction" / f"{name}-onestep", None)
    with pytest.raises(UserError, match="no metrics.json that says of which images it is. Run `dvc repro"):
        page(reports)


def test_a_pretraining_says_its_own_images(reports):
    write_curve(reports / "pretrain" / "digits" / "plots" / "metrics" / "loss.tsv")
    assert "pretrain/digits: by step<" in page(reports)
    written.write_metrics(reports / "pretrain" / "digits", {"images": OTHER})
    html = page(reports)
    assert f"pretrain/digits: by step, images {OTHER}…" in html and "Stale" not in html
