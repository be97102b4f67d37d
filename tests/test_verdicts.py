"""When two tokenizers differ, and which pairs are compared. Run: uv run pytest tests/test_verdicts.py"""

from dataclasses import replace

import pytest

from stages.report.verdicts import (
    GENERATION,
    NOISE,
    RECONSTRUCTION,
    Candidate,
    Claim,
    generation,
    matches,
    reconstruction,
    robustness,
    skill,
    verdict,
    verdicts,
)

MADE = {"of": "reconstruction", "count": 200, "per_class": {"min": 20, "max": 20}}
DRAWN = {"of": "ar", "count": 500, "per_class": {"min": 50, "max": 50}}
CLASS_ACCURACY, PSNR = {"class_accuracy": 1}, {"psnr_db": 1}


def candidate(
    name: str, kind: str, psnr_db: float = 25.0, bits: float = 100.0, class_accuracy: float = 0.6, num_codes: int = 256
) -> Candidate:
    """A tokenizer with the decoder onestep, whose generators ar and masked drew 50 samples for each of 10 classes."""
    sampled = {"class_accuracy": class_accuracy, "class_accuracy_std": 0.01}
    likelihoods = {"ar": {"bound": "exact", "val_bits_per_image": bits}, "masked": {"bound": "upper"}}
    return Candidate(
        name, "onestep", kind, random_encoder=False, input_noise=0.0, sizes={"num_codes": num_codes, "codes": 64},
        probe_accuracy=1.0, generators=["ar", "masked"],
        groups={"reconstruction": {"psnr_db": psnr_db, "psnr_db_std": 0.1},
                **{group: {**sampled, "likelihood": one} for group, one in likelihoods.items()}, NOISE: {}},
        protocols={"reconstruction": MADE, "ar": DRAWN, "masked": DRAWN, NOISE: {}},
    )  # fmt: skip


def changed(one: Candidate, group: str, **metrics) -> Candidate:
    """The candidate with other metrics in a group."""
    return replace(one, groups={**one.groups, group: {**one.groups[group], **metrics}})


KMEANS, VQGAN = candidate("mine", "kmeans"), candidate("other", "vqgan", 30.0)


def of_psnr(value: float, std: float | None = None) -> Candidate:
    metrics = {"psnr_db": value} | ({} if std is None else {"psnr_db_std": std})
    return replace(VQGAN, groups={**VQGAN.groups, "reconstruction": metrics})


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (of_psnr(30.0, 0.3), of_psnr(25.0, 0.4), "appears: 30 ± 0.3, 25 ± 0.4"),
        (of_psnr(25.0, 0.3), of_psnr(30.0, 0.4), "reversed: 25 ± 0.3, 30 ± 0.4"),
        (of_psnr(26.0, 0.3), of_psnr(25.01, 0.4), "undecided: 26 ± 0.3, 25.01 ± 0.4"),  # 0.99 is within twice 0.5
        (of_psnr(26.01, 0.3), of_psnr(25.0, 0.4), "appears: 26.01 ± 0.3, 25 ± 0.4"),
        (of_psnr(25.0, 0.3), of_psnr(25.0, 0.4), "undecided: 25 ± 0.3, 25 ± 0.4"),
        (of_psnr(30.0), of_psnr(25.0, 0.4), "no spread: 30, 25 ± 0.4"),
    ],
)
def test_a_difference_counts_beyond_twice_its_deviation(first, second, said):
    assert verdict(Claim("", first, second, "reconstruction", PSNR)) == [said, ""]


def test_where_less_is_better_the_sign_turns():
    claim = Claim("", of_psnr(30.0, 0.1), of_psnr(25.0, 0.1), "reconstruction", {"psnr_db": -1})
    assert verdict(claim)[0].startswith("reversed")


def test_a_metric_that_one_side_lacks_has_no_cell():
    assert verdict(Claim("", VQGAN, KMEANS, "reconstruction", {"ssim": 1})) == ["", ""]


def test_tokenizers_are_compared_under_one_decoder_only():
    apart = [VQGAN, replace(KMEANS, decoder="diffusion")]
    assert verdicts(apart) == []
    table = verdicts([*apart, KMEANS])[1]
    assert table.columns == ["expected ordering", "measured on", *RECONSTRUCTION, "no verdict because"]
    said = ["appears: 30 ± 0.1, 25 ± 0.1", "", ""]
    assert table.rows == [["other codes reconstruct better than mine codes", "onestep, reconstruction", *said]]


def test_metrics_of_different_protocols_are_not_compared():
    other = replace(KMEANS, protocols={**KMEANS.protocols, "reconstruction": {**MADE, "count": 100}})
    claim = Claim("", VQGAN, other, "reconstruction", PSNR)
    assert verdict(claim) == ["30 ± 0.1, 25 ± 0.1", "measured under different protocols"]


def test_samples_of_other_class_proportions_are_not_compared():
    apart = {"of": "ar", "count": 500, "per_class": {"classes": 10, "min": 5, "max": 300}, "proportions_apart": 0.4}
    other = replace(VQGAN, protocols={**VQGAN.protocols, "ar": apart})
    assert verdict(Claim("", KMEANS, other, "ar", CLASS_ACCURACY))[-1] == "measured under different protocols"


def test_chance_is_the_share_of_the_class_drawn_most_often():
    drawn = {"of": "ar", "count": 500, "per_class": {"classes": 3, "min": 50, "max": 300}}
    constant = replace(changed(KMEANS, "ar", class_accuracy=0.6), protocols={**KMEANS.protocols, "ar": drawn})
    assert skill(constant, "ar") == pytest.approx((0, 0.025))
    assert skill(changed(constant, "ar", class_accuracy=0.8), "ar") == pytest.approx((0.5, 0.025))


def texts(topic, *candidates: Candidate) -> list[str]:
    pairs = [(one, other) for one in candidates for other in candidates if one is not other]
    return list(dict.fromkeys(claim.text for pair in pairs for claim in topic(*pair)))


def test_kinds_and_facts_decide_which_pairs_are_compared():
    random = replace(candidate("untrained", "kmeans"), random_encoder=True)
    noisy, vqkd = replace(candidate("noisy", "vqgan"), input_noise=0.2), candidate("teacher", "vqkd")
    found = KMEANS, VQGAN, random, noisy, vqkd
    assert texts(generation, *found) == [
        "mine codes generate better than other codes",
        "mine codes of a trained encoder generate better than untrained codes of a random one",
        "teacher codes generate better than other codes",
    ]
    assert texts(reconstruction, *found) == [
        f"other codes reconstruct better than {name} codes" for name in ("mine", "teacher")
    ]
    assert texts(robustness, *found) == [
        f"mine codes are more robust to noise than {name} codes" for name in ("other", "untrained", "noisy", "teacher")
    ]


@pytest.mark.parametrize(
    ("num_codes", "bits", "psnr_db", "expected"),
    [
        (256, 200, 30.0, [""]),
        (240, 100, 25.0, [""]),  # FSQ's levels have products of their own
        (24, 110, 30.0, ["rate"]),
        (24, 89, 30.0, [""]),
        (24, 112, 30.0, [""]),
        (24, 0, 30.0, [""]),
        (24, 200, 25.9, ["psnr"]),
        (24, 200, 26.1, [""]),
        (24, 100, 25.0, ["rate", "psnr"]),
    ],
)
def test_a_codebook_of_another_size_is_compared_where_bits_or_psnr_match(num_codes, bits, psnr_db, expected):
    assert matches(KMEANS, candidate("small", "vqgan", psnr_db, bits, num_codes=num_codes)) == expected


def test_without_any_match_both_values_and_the_reason_are_given():
    small = candidate("small", "vqgan", 30.0, 200.0, num_codes=24)
    [claim, _] = generation(KMEANS, small)
    values, reason = "0.6 ± 0.01, 0.6 ± 0.01", "256 and 24 codes, 100 and 200 bits per image, 25.0 and 30.0 dB"
    assert verdict(claim) == ["", values, "", reason]
    no_rate = replace(small, generators=["masked"])
    assert "bits per image unknown" in verdict(Claim("", KMEANS, no_rate, "masked", GENERATION))[-1]
    [claim] = reconstruction(small, KMEANS)
    assert verdict(claim)[-1] == "24 and 256 codes", "of reconstruction neither bits nor dB would help"
    coarse = replace(KMEANS, sizes={"num_codes": 256, "codes": 16})
    assert verdict(Claim("", VQGAN, coarse, "reconstruction", PSNR))[-1] == "64 and 16 codes per image"


@pytest.mark.parametrize(
    ("matched", "class_accuracy", "of_control", "objection"),
    [
        ("rate", 0.6, 0.3, ""),
        ("rate", 0.6, 0.119, "class accuracy of other samples is at chance"),
        ("", 0.6, 0.1, ""),
        ("", 0.18, 0.1, "class accuracy of both samples is near chance"),
        ("", 0.2, 0.1, ""),
    ],
)
def test_samples_at_chance_permit_no_verdict(matched, class_accuracy, of_control, objection):
    better = changed(KMEANS, "ar", class_accuracy=class_accuracy)
    claim = Claim("", better, changed(VQGAN, "ar", class_accuracy=of_control), "ar", CLASS_ACCURACY, matched)
    assert verdict(claim)[-1] == objection


def test_no_verdict_on_generation_before_reconstructions_show_their_classes():
    known, unknown = (changed(VQGAN, "reconstruction", class_accuracy=value) for value in (0.9, 0.85))
    assert verdict(Claim("", KMEANS, known, "ar", CLASS_ACCURACY)) == ["undecided: 0.6 ± 0.01, 0.6 ± 0.01", ""]
    reason = "class accuracy of other reconstructions is below 0.9"
    assert verdict(Claim("", KMEANS, unknown, "ar", CLASS_ACCURACY))[-1] == reason
    blind = changed(unknown, "reconstruction", class_accuracy=0.12)
    said = verdict(Claim("", blind, KMEANS, "reconstruction", PSNR))
    assert said == ["appears: 30 ± 0.1, 25 ± 0.1", ""], "reconstruction itself needs no classes"


def test_no_verdict_on_generation_where_the_encoder_does_not_separate_classes():
    reasons = [
        verdict(Claim("", replace(KMEANS, probe_accuracy=probed), VQGAN, "ar", CLASS_ACCURACY))[-1]
        for probed in (0.59, 0.6)
    ]
    assert reasons == ["probe accuracy of the encoder is below 0.6", ""]


def test_noise_robustness_at_equal_psnr_depends_on_the_decoder_and_otherwise_has_one_row():
    def under_noise(one: Candidate, change: float) -> Candidate:
        return changed(one, NOISE, change=change, change_std=0.01)

    small = candidate("small", "vqgan", 25.5, 200.0, num_codes=24)
    found = [under_noise(KMEANS, 0.1), under_noise(VQGAN, 0.5), under_noise(small, 0.2)]
    found += [replace(one, decoder="diffusion") for one in found[:2]]
    found += [replace(changed(found[2], "reconstruction", psnr_db=28.0), decoder="diffusion")]
    rows = [(row[1], row[-1]) for row in verdicts(found)[-1].rows]
    assert rows == [
        ("noise robustness", ""), ("onestep, noise robustness", ""),
        ("diffusion, noise robustness", "256 and 24 codes, 100 and 200 bits per image, 25.0 and 28.0 dB"),
    ]  # fmt: skip
