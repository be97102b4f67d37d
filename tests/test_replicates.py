"""Trainings that differ by their seeds alone are found by their params. Run: uv run pytest tests/test_replicates.py"""

import claim_metrics as written

from stages.report.gather import read_evaluations
from stages.report.replicates import configurations, firsts
from stages.report.sides import by_decoder, by_generator, by_tokenizer, side


def test_sections_are_alike_whatever_their_seeds_and_names():
    base = {"kind": "ar", "seed": 0, "optim": {"lr": 0.1, "seed": 0}, "steps": [1, 2]}
    sections = {
        "a": base, "b": {**base, "optim": {"lr": 0.1, "seed": 4}}, "a_s1": {**base, "steps": [1, 3]},
        "again": {**base}, "c": None, "d": None,
    }  # fmt: skip
    assert firsts(sections) == {"a": "a", "b": "a", "a_s1": "a_s1", "c": "c", "d": "d"}


def test_evaluations_are_grouped_over_tokenizers_decoders_and_generators(tmp_path):
    reports = written.reports(tmp_path, decoders=["onestep", "onestep_s1", "other"])
    found = {one.name: one.trainings for one in configurations(reports, read_evaluations(reports))}
    assert len(found["kmeans-onestep, ar"]) == len(found["kmeans-onestep"]) == 6 and len(found["kmeans-other"]) == 3
    sides = {
        unit: side(
            next(one for one in configurations(reports, read_evaluations(reports))), lambda one: (1.0, 0.5), unit
        )
        for unit in (by_tokenizer, by_decoder, by_generator)
    }
    assert [len(one.values) for one in sides.values() if one] == [3, 6, 3]


def test_another_sampling_setting_text_encoder_or_pixel_tokenizer_is_another_configuration(tmp_path):
    for key, value in (("samples.ar", {"top_p": 0.5}), ("captions", {"ar": "words"})):
        reports = written.reports(tmp_path / key, generators=["ar", "ar_s1"])
        names = [one.name for one in configurations(reports, read_evaluations(reports))]
        assert "kmeans-onestep, ar_s1" not in names
        reports.params[key] = value
        assert "kmeans-onestep, ar_s1" in [one.name for one in configurations(reports, read_evaluations(reports))]
