"""The sections of the decoder studies from hand-written metrics. Run: pytest tests/test_report_decoders.py"""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from written_reports import ROWS_PX, leave_plots_undrawn, read, write_evaluation, write_scales, write_steps

from stages.report import decoders

DIFFUSION = {"steps_1": 24.0, "steps_10": 23.0, "steps_3": 26.0}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    leave_plots_undrawn(monkeypatch)
    folder = tmp_path / "reports" / "decoding_steps"
    write_evaluation(folder.parent, "kmeans-onestep")
    write_steps(folder / "kmeans-onestep", "onestep", {"once": 25.0})
    write_steps(folder / "kmeans-diffusion", "diffusion", DIFFUSION)
    return folder


def study(folder, **params) -> list:
    """The sections of the folder's decoding steps; `params` change which names are listed."""
    return decoders.study(read(folder.parent, **params))


def side_by_side(section) -> list:
    return [picture for picture in section.pictures if "through every" in picture.caption]


def test_a_row_for_every_number_of_steps_with_both_spreads_and_a_mark_at_its_own(folder):
    [section] = study(folder)
    [table] = section.tables
    assert table.columns == ["tokenizer", "decoder", "steps", "rfid[embedded]: against onestep", "rfid[embedded]",
                             "PSNR dB", "GFLOP per image", "parameters", "tokens", "K", "bits"]  # fmt: skip
    assert [row[2] for row in table.rows if row[1] == "diffusion"] == ["1", "10", "3 *"]
    own = next(row for row in table.rows if row[2] == "3 *")
    assert own[3].startswith("worse: +0.1 ± ")
    assert own[5:] == ["26 ± 0.1, seeds ± 0.03", "0.0625", "12,345", "64", "256", "512"]
    once = next(row for row in table.rows if row[1] == "onestep")
    assert once[2:6] == ["–", "–", "2.5 ± 0.02", "25 ± 0.1"]


def test_decoders_are_compared_with_the_first_of_kind_onestep_whatever_its_name(folder):
    write_steps(folder / "kmeans-mine", "onestep", {"once": 24.0})
    [section] = study(folder, decoders=["mine", "onestep", "diffusion"])
    [table] = section.tables
    assert "rfid[embedded]: against mine" in table.columns and [row[1] for row in table.rows][:2] == ["mine", "onestep"]


def test_other_protocols_are_in_no_common_table_plot_or_picture(folder):
    write_steps(folder / "vqgan-onestep", "onestep", {"once": 30.0}, decoding_seeds=[7])
    [section] = study(folder)
    assert len(section.tables) == 2 and section.tables[1].differs == ["decoding_seeds"]
    assert [picture.caption for picture in side_by_side(section)] == [
        "The same images through every decoder at its own number of steps: original, kmeans-onestep, "
        "kmeans-diffusion (3)"
    ]


def test_the_same_images_stand_side_by_side_as_each_decoder_makes_them_at_its_own_steps(folder):
    [section] = study(folder)
    [picture] = side_by_side(section)
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.source.partition(",")[2]))))
    diffusion, onestep = (
        np.asarray(Image.open(folder / f"kmeans-{name}/steps.png")) for name in ("diffusion", "onestep")
    )
    assert found.shape == (ROWS_PX, 15, 3)
    assert (found[:, :5] == onestep[:, :5]).all(), "the original and the gap behind it"
    assert (found[:, 5:9] == onestep[:, 5:9]).all()
    assert (found[:, 10:14] == diffusion[:, 15:19]).all(), "its last column, that of three steps"


def test_metrics_are_plotted_by_steps_if_there_are_any_and_by_bits_if_they_differ(folder):
    def captions() -> list[str]:
        return [one.caption for one in study(folder)[0].pictures]

    before = captions()
    assert any(one.startswith("Codes of kmeans, by decoding steps") for one in before)
    assert not any(one.startswith("By bits") for one in before)
    write_steps(folder / "vqgan-diffusion", "diffusion", DIFFUSION, bits=256.0)
    assert any(one.startswith("By bits") for one in captions())


def test_a_curve_by_bits_has_the_tokenizers_of_one_kind_and_one_by_steps_is_flat_without_steps(folder):
    metrics = read(folder.parent).metrics("decoding_steps")
    curves = decoders.against_bits("psnr_db", metrics)
    assert curves["onestep of kmeans"] == ([512.0], [25.0], [0.1]) and len(curves) == 2
    other = {**metrics["kmeans-onestep"], "codes": {"kind": "kmeans", "bits_per_image": 100.0}}
    both = decoders.against_bits("psnr_db", {**metrics, "small-onestep": other})
    assert both["onestep of kmeans"] == ([100.0, 512.0], [25.0, 25.0], [0.1, 0.1])
    control = {**metrics["kmeans-onestep"], "decoder": {"name": "onestep", "tokenizer": "kmeans_random"}}
    apart = decoders.against_bits("psnr_db", {**metrics, "kmeans_random-onestep": control})
    assert apart["onestep of kmeans"] == apart["onestep of kmeans_random"] == curves["onestep of kmeans"]
    flat = decoders.against_steps("psnr_db", metrics["kmeans-onestep"], metrics)
    assert flat[:2] == ([1, 10], [25.0, 25.0])
    steep = decoders.against_steps("psnr_db", metrics["kmeans-diffusion"], metrics)
    assert steep[:2] == ([1, 3, 10], [24.0, 26.0, 23.0])


def test_variants_of_diffusion_have_a_table_in_which_differences_count_beyond_their_spread(folder):
    for name, rfid in (("worse", 27.0), ("better", 25.0), ("undecided", 26.1)):
        write_steps(folder / f"kmeans-diffusion_{name}", "diffusion", {"steps_3": rfid})
    _, variants = study(folder)
    [table] = variants.tables
    assert [row[1] for row in table.rows][0] == "diffusion"
    found, steps = (table.columns.index(name) for name in ("rfid[embedded]: against diffusion", "steps"))
    for row in table.rows[1:]:
        assert row[1] == f"diffusion_{row[found].partition(':')[0]}" and row[steps] == "3"
    assert table.rows[0][found] == "–"


def test_a_difference_has_the_spread_of_differences_for_the_images_are_the_same():
    def metrics(*draws: float, seeds: float = 0.0) -> dict:
        return {"rfid": sum(draws) / len(draws), "rfid_seed_std": seeds, "bootstrap": {"rfid": [*draws]}}

    base = metrics(1.0, 2.0, 3.0)
    assert decoders.verdict(metrics(1.1, 2.1, 3.1), base, "rfid", 1).startswith("worse: +0.1 ± ")
    assert decoders.verdict(metrics(0.3, 2.1, 3.9), base, "rfid", 1) == "undecided: +0.1 ± 0.8"
    jittery = metrics(0.9, 1.9, 2.9, seeds=0.2)
    assert decoders.verdict(jittery, base, "rfid", 1) == "undecided: -0.1 ± 0.2"
    assert decoders.verdict(jittery, base, "rfid", 25) == "better: -0.1 ± 0.04"


def test_larger_images_have_a_row_for_each_decoder_and_one_for_the_joint_one(tmp_path):
    write_evaluation(tmp_path / "reports", "vqgan-onestep")
    write_scales(tmp_path / "reports" / "resolution_transfer" / "vqgan-onestep")
    section = decoders.resolution_transfer(read(tmp_path / "reports"))
    assert section is not None
    assert [row for table in section.tables for row in table.rows] == [
        ["vqgan", "onestep", "21.5 ± 0.2", "24.5 ± 0.2", "0.75", "0.75"],
        ["vqgan", "joint", "19.12 ± 0.2", "19.12 ± 0.2", "0.75", "0.75"],
    ]
    assert section.tables[0].columns[2:4] == ["1x PSNR dB", "4x PSNR dB"] and len(section.pictures) == 1
    assert section.facts["skipped"] == ["kmeans: its encoder takes images of one size"]


def test_without_metrics_there_are_no_sections(tmp_path):
    reports = read(tmp_path / "reports")
    assert decoders.study(reports) == [] and decoders.resolution_transfer(reports) is None
