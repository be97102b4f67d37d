"""The verdicts on the papers' claims: which configurations are compared, when a difference counts, what is missing.

Run: uv run pytest tests/test_claims.py
"""

import re
from dataclasses import replace
from math import inf, nan

import claim_metrics as written
import pytest

from stages.core import code
from stages.report import claims
from stages.report.claims import RULES, document, verdicts
from stages.report.sides import (
    CLAIM,
    CONTROL,
    DOES_NOT_HOLD,
    HOLDS,
    ONE_TRAINING,
    TRAININGS,
    UNDECIDED,
    Comparison,
    Side,
    combined,
    compare,
)
from stages.report.tables import rounded


def of(*values: float, within: float = 0.5) -> Side:
    """Trainings with these values."""
    return Side("one", [(value, within) for value in values])


@pytest.mark.parametrize(
    ("better", "worse", "sign", "sigmas", "verdict", "spread_of"),
    [
        (of(9, 10, 11), of(4, 5, 6), 1, 5 / 2**0.5, HOLDS, TRAININGS),  # each deviates by 1, their difference by 2^.5
        (of(9, 10, 11), of(4, 5, 6), -1, -5 / 2**0.5, DOES_NOT_HOLD, TRAININGS),
        (of(9, 10, 11), of(7, 8, 9), 1, 2 / 2**0.5, UNDECIDED, TRAININGS),
        (of(10, 10, 10), of(5, 5, 5), 1, inf, HOLDS, TRAININGS),
        (of(5, 5, 5), of(5, 5, 5), 1, 0, UNDECIDED, TRAININGS),
        (of(10), of(5), 1, 5 / 0.5**0.5, HOLDS, ONE_TRAINING),  # each deviates by .5
        (of(9, 11), of(4, 5, 6), 1, 5 / 0.5**0.5, HOLDS, ONE_TRAINING),
    ],
)
def test_a_difference_counts_beyond_twice_its_deviation_between_trainings(
    better, worse, sign, sigmas, verdict, spread_of
):
    one = compare(CLAIM, "metric", better, worse, sign)
    assert (one.sigmas, one.verdict, one.spread_of) == (pytest.approx(sigmas), verdict, spread_of)
    assert one.objection == ("trained fewer than 3 times with other seeds" if spread_of == ONE_TRAINING else "")


def test_a_margin_is_a_share_of_the_second_mean_to_win_by_or_to_lose_by():
    better, worse = of(10.5, 10.5, 10.5), of(10, 10, 10)
    assert compare(CLAIM, "", better, worse, 1, margin=0.04).verdict == HOLDS
    assert compare(CLAIM, "", better, worse, 1, margin=0.06).verdict == DOES_NOT_HOLD
    assert compare(CLAIM, "", better, worse, -1, margin=-0.06).verdict == HOLDS
    assert compare(CLAIM, "", better, worse, -1, margin=-0.04).verdict == DOES_NOT_HOLD
    assert compare(CLAIM, "", of(1, within=nan), of(2), 1).objection == "no spread is known"


COMPARISON = compare(CLAIM, "metric", of(9, 10, 11), of(4, 5, 6), 1)


def row(role: str, verdict: str, objection: str = "") -> Comparison:
    return replace(COMPARISON, role=role, verdict=verdict, objection=objection)


@pytest.mark.parametrize(
    ("rows", "controls", "verdict"),
    [
        ([], True, UNDECIDED),
        ([row(CLAIM, HOLDS)], False, HOLDS),
        ([row(CLAIM, HOLDS)], True, UNDECIDED),
        ([row(CLAIM, HOLDS), row(CONTROL, HOLDS)], True, HOLDS),
        ([row(CLAIM, HOLDS), row(CONTROL, UNDECIDED)], True, UNDECIDED),
        ([row(CLAIM, HOLDS), row(CONTROL, DOES_NOT_HOLD)], True, DOES_NOT_HOLD),
        ([row(CLAIM, HOLDS), row(CLAIM, DOES_NOT_HOLD)], False, DOES_NOT_HOLD),
        ([row(CLAIM, HOLDS), row(CLAIM, HOLDS, "other protocols")], False, UNDECIDED),
        ([row(CLAIM, HOLDS, "trained once")], False, UNDECIDED),
        ([row(CLAIM, HOLDS), row(CONTROL, HOLDS), row(CONTROL, HOLDS, "trained once")], True, HOLDS),
        ([row(CONTROL, HOLDS)], True, UNDECIDED),
    ],
)
def test_a_claim_holds_if_all_comparisons_do_and_a_control_among_them(rows, controls, verdict):
    assert combined(rows, controls) == verdict


def decided(reports) -> dict[str, claims.Claim]:
    """The claims by key."""
    return {one.key: one for one in verdicts(reports)}


def told(claim: claims.Claim) -> set[tuple[str, str, str, str]]:
    """(role, better, worse, verdict) of its comparisons."""
    return {(one.role, one.better, one.worse, one.verdict) for one in claim.comparisons}


def test_without_replicates_every_claim_on_networks_is_undecided_and_says_what_measures_it(tmp_path):
    found = decided(written.reports(tmp_path, seeds=1))
    assert [*found] == [rule.key for rule in RULES] == [f"S{number}" for number in range(1, 12)]
    undecided = {key: one for key, one in found.items() if key != "S10"}
    assert {one.verdict for one in undecided.values()} == {UNDECIDED}
    assert all(one.missing[-1].startswith("measured by `") for one in undecided.values())
    assert found["S2"].comparisons[0].verdict == HOLDS and found["S2"].comparisons[0].spread_of == ONE_TRAINING
    assert found["S2"].missing[0] == "trained fewer than 3 times with other seeds"


def test_three_trainings_of_each_side_and_the_controls_give_verdicts(tmp_path):
    found = decided(written.reports(tmp_path))
    verdicts = {key: one.verdict for key, one in found.items()}
    assert {key for key, verdict in verdicts.items() if verdict == HOLDS} == {"S1", "S2", "S3", "S4", "S5", "S6", "S7"}
    assert verdicts["S10"] == DOES_NOT_HOLD and verdicts["S8"] == verdicts["S9"] == UNDECIDED
    assert not any(found[key].missing for key in ("S1", "S2", "S3", "S4", "S5", "S6", "S7", "S10"))
    assert {one.trainings for one in found["S2"].comparisons} == {(3, 3)}
    assert told(found["S2"]) == {
        (CLAIM, "kmeans-onestep, ar", "vqgan-onestep, ar", HOLDS),
        (CLAIM, "vqgan-onestep", "kmeans-onestep", HOLDS),
        (CONTROL, "kmeans-onestep, ar", "random-onestep, ar", HOLDS),
        (CONTROL, "kmeans-onestep, ar", "vq_rate-onestep, ar", HOLDS),
    }
    assert told(found["S4"]) == {(CONTROL, "kmeans-onestep, ar", "random-onestep, ar", HOLDS)} | {
        (CLAIM, "kmeans-onestep, ar", "shallow-onestep, ar", HOLDS),
        (CONTROL, "shallow-onestep, ar", "random-onestep, ar", HOLDS),
    }


@pytest.mark.parametrize(
    ("changes", "key", "verdict", "missing"),
    [
        ({"gfid": {"vqgan": 1.0}}, "S2", DOES_NOT_HOLD, ""),
        ({"gfid": {"random": 1.0}}, "S2", DOES_NOT_HOLD, ""),
        ({"gfid": {"vqgan": 5.2}}, "S2", UNDECIDED, "1 of 4 comparisons are within 2 standard deviations"),
        ({"count": {"vqgan": 77}}, "S2", UNDECIDED, "measured under different protocols"),
        ({"made": {"vqgan": 0.5}}, "S2", UNDECIDED, "class accuracy of vqgan reconstructions is below 0.9"),
        ({"drawn": dict.fromkeys(written.TOKENIZERS, 0.1)}, "S2", UNDECIDED, "class accuracy of both samples is near"),
        ({"encoder_accuracy": 0.5}, "S2", UNDECIDED, "probe accuracy of the encoder is below 0.6"),
        ({"left_out": ["random", "vq_rate"]}, "S2", UNDECIDED, "no control was measured"),
        ({"left_out": ["vqgan"]}, "S2", UNDECIDED, "not measured"),
        ({"num_codes": {"vqgan": 100}, "left_out": ["vq_rate"]}, "S2", UNDECIDED, "not measured"),
        ({"gfid": {"cluster": 1.0}}, "S3", DOES_NOT_HOLD, ""),
        ({"change": {"vqgan": 0.05}}, "S1", DOES_NOT_HOLD, ""),
        ({"usage": {"vq_plain": 0.97}}, "S5", DOES_NOT_HOLD, ""),
        ({"rfid": {"diffusion": 9.0}}, "S6", DOES_NOT_HOLD, ""),
        ({"steps": {"steps_10": 0.5}}, "S7", DOES_NOT_HOLD, ""),
        ({"pfid": True}, "S11", HOLDS, ""),
    ],
)
def test_what_changes_a_verdict(changes, key, verdict, missing, tmp_path):
    found = decided(written.reports(tmp_path, **changes))[key]
    assert found.verdict == verdict and (missing in "; ".join(found.missing)), found


def test_probes_of_generators_are_compared_by_layer_by_codebook_size_and_with_untrained_networks(tmp_path):
    found = decided(written.reports(tmp_path, probes=True))
    assert found["S9"].verdict == HOLDS, found["S9"]
    assert (CONTROL, "kmeans-onestep, ar, middle layer", "kmeans-onestep, ar, middle of the untrained", HOLDS) in told(
        found["S9"]
    )
    assert (CLAIM, "kmeans-onestep, ar, best layer", "few-onestep, ar, best layer", HOLDS) in told(found["S9"])
    assert found["S8"].verdict == HOLDS and {one.role for one in found["S8"].comparisons} == {CLAIM, CONTROL}


def test_the_page_of_rules_is_that_of_the_code_and_names_presets_that_exist():
    path = code.ROOT / "docs/claims.md"
    assert path.read_text() == document(), "run `uv run python -m stages.report.results_table`"
    presets = re.findall(r"@(presets/\w+\.yaml)", document())
    assert len(presets) >= 10 and all((code.ROOT / preset).is_file() for preset in presets)


@pytest.mark.parametrize("unknown", [None, nan, 0.0])
def test_a_value_of_unknown_deviation_stands_alone(unknown):
    assert rounded(1.2345, unknown) == "1.23" and rounded(1.2345, 0.02) == "1.234 ± 0.020"
