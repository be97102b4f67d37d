"""What counts as a difference of two tokenizers. Run: uv run pytest tests/test_verdicts.py"""

import pytest

from stages.report.verdicts import CLAIMS, GENERATION, RECONSTRUCTION, Claim, verdict, verdicts

PSNR = Claim("pixel codes reconstruct better", "vqgan", "kmeans", "reconstruction", {"psnr_db": 1})
AGREEMENT = {"agreement": 1}


def side(value: float, std: float | None = None) -> dict:
    spread = {} if std is None else {"psnr_db_std": std}
    return {"reconstruction": {"psnr_db": value, **spread}}


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (side(30.0, 0.3), side(25.0, 0.4), "appears: 30 ± 0.3, 25 ± 0.4"),
        (side(25.0, 0.3), side(30.0, 0.4), "reversed: 25 ± 0.3, 30 ± 0.4"),
        (side(26.0, 0.3), side(25.01, 0.4), "undecided: 26 ± 0.3, 25.01 ± 0.4"),  # 0.99 is within twice 0.5
        (side(26.01, 0.3), side(25.0, 0.4), "appears: 26.01 ± 0.3, 25 ± 0.4"),
        (side(25.0, 0.3), side(25.0, 0.4), "undecided: 25 ± 0.3, 25 ± 0.4"),
        (side(30.0), side(25.0, 0.4), "no spread: 30, 25 ± 0.4"),
    ],
)
def test_a_difference_counts_beyond_twice_its_deviation(first, second, said):
    assert verdict(PSNR, {"vqgan": first, "kmeans": second}) == [said, ""]


def test_where_less_is_better_the_sign_turns():
    claim = Claim("", "vqgan", "kmeans", "reconstruction", {"psnr_db": -1})
    assert verdict(claim, {"vqgan": side(30.0, 0.1), "kmeans": side(25.0, 0.1)})[0].startswith("reversed")


def test_a_claim_about_a_tokenizer_that_was_not_evaluated_is_left_out():
    assert verdict(PSNR, {"vqgan": side(30.0)}) == ["", ""]


def metrics(name: str, psnr: float, digest: str = "ab") -> dict:
    made = {"of": "reconstruction", "reference_digest": digest}
    return {"tokenizer": {"name": name}, **side(psnr, 0.1), "protocol": [made]}


def judged(evaluations: dict) -> list:
    """Their verdicts where noise was not measured."""
    return verdicts(evaluations, {name: {"protocol": {}} for name in evaluations}, 1.0)


def test_tokenizers_are_compared_under_one_decoder_only():
    apart = {"vqgan-onestep": metrics("vqgan", 30.0), "kmeans-other": metrics("kmeans", 25.0)}
    assert judged(apart) == []
    [table] = judged({**apart, "kmeans-onestep": metrics("kmeans", 25.0)})
    assert table.columns == ["ordering", "of", *RECONSTRUCTION, "no verdict, since"]
    told = ["appears: 30 ± 0.1, 25 ± 0.1", "", ""]
    assert table.rows == [["vqgan codes reconstruct better than kmeans codes", "onestep, reconstruction", *told]]


def test_figures_made_in_different_ways_are_not_compared():
    found = {"vqgan-onestep": metrics("vqgan", 30.0), "kmeans-onestep": metrics("kmeans", 25.0, "cd")}
    [table] = judged(found)
    assert table.rows[0][2:] == ["30 ± 0.1, 25 ± 0.1", "", "made under different protocols"]


def test_every_claim_names_two_tokenizers_of_params_yaml():
    from pathlib import Path

    from ruamel.yaml import YAML

    known = YAML(typ="safe").load(Path(__file__).parents[1] / "params.yaml")["codebook"]
    assert {name for claim in CLAIMS for name in (claim.better, claim.worse)} <= {*known}


def test_nothing_is_said_of_generation_before_reconstructions_show_their_classes():
    def rated(agreement: float) -> dict:
        return {"reconstruction": {"agreement": agreement, **side(20.0, 0.1)["reconstruction"]},
                "ar": {"agreement": agreement, "agreement_std": 0.01}}  # fmt: skip

    claim = Claim("", "kmeans", "vqgan", "ar", AGREEMENT)
    assert verdict(claim, {"kmeans": rated(0.95), "vqgan": rated(0.9)}) == ["appears: 0.95 ± 0.01, 0.9 ± 0.01", ""]
    blind = {"kmeans": rated(0.95), "vqgan": rated(0.85)}
    assert verdict(claim, blind)[-1] == "the judge reads under 0.9 of vqgan reconstructions"
    assert verdict(PSNR, blind)[-1] == "", "reconstruction itself is not gated"


def test_nothing_is_said_of_generation_where_the_encoder_sees_no_classes():
    evaluations = {f"{name}-onestep": metrics(name, 25.0) | coded(100, 25.0, 0.9) for name in ("kmeans", "vqgan")}
    stable = {name: {"protocol": {}} for name in evaluations}
    objections = [verdicts(evaluations, stable, probed)[0].rows[0][-1] for probed in (0.59, 0.6)]
    assert objections == ["a linear probe of the encoder reads under 0.6 of val images", ""]


def coded(bits: float, psnr_db: float, agreement: float) -> dict:
    """Figures and protocol of a tokenizer whose ar generator drew 50 samples for each of 10 classes."""
    ar = {"agreement": agreement, "agreement_std": 0.01, "likelihood": {"val_bits_per_image": bits}}
    made = {"of": "ar", "count": 500, "per_class": {"min": 50, "max": 50}}
    return {"reconstruction": {"psnr_db": psnr_db}, "ar": ar, "protocol": [made]}


@pytest.mark.parametrize(
    ("matched", "agreement", "control", "objection"),
    [
        ("rate", 0.6, coded(110, 30.0, 0.3), ""),
        ("rate", 0.6, coded(89, 30.0, 0.3), "100 and 89 bits an image"),
        ("rate", 0.6, coded(112, 30.0, 0.3), "100 and 112 bits an image"),
        ("rate", 0.6, coded(100, 30.0, 0.119), "samples of vq_rate show their class by chance"),
        ("psnr", 0.6, coded(200, 25.9, 0.3), ""),
        ("psnr", 0.6, coded(100, 26.1, 0.3), "25.0 and 26.1 dB"),
        ("", 0.6, coded(200, 30.0, 0.1), ""),
        ("", 0.18, coded(200, 30.0, 0.1), "samples of neither show their class much more often than by chance"),
        ("", 0.2, coded(200, 30.0, 0.1), ""),
    ],
)
def test_what_is_said_of_generators_is_said_of_what_matches_and_has_learnt(matched, agreement, control, objection):
    claim = Claim("", "kmeans", "vq_rate", "ar", AGREEMENT, matched)
    found = {"kmeans": coded(100, 25.0, agreement), "vq_rate": control}
    assert verdict(claim, found)[-1] == objection


def test_a_judge_that_reads_no_reconstruction_does_not_silence_what_is_said_of_them():
    made = {"of": "reconstruction", "count": 200, "per_class": {"min": 20, "max": 20}}
    found = {name: {"reconstruction": {"psnr_db": psnr_db, "psnr_db_std": 0.1, "agreement": 0.12}, "protocol": [made]}
             for name, psnr_db in (("vqgan", 30.0), ("kmeans", 20.0))}  # fmt: skip
    assert verdict(PSNR, found) == ["appears: 30 ± 0.1, 20 ± 0.1", ""]


def test_without_an_autoregressive_generator_no_rates_match():
    claim = Claim("", "kmeans", "vq_rate", "masked", GENERATION, "rate")
    masked = {"kmeans": {"masked": {"agreement": 0.9}}, "vq_rate": {"masked": {"agreement": 0.5}}}
    assert verdict(claim, masked) == ["", "0.9, 0.5", "", "no ar generator tells the bits"]


@pytest.mark.parametrize(
    ("num_codes", "codes", "objection"),
    [
        (256, 64, ""),
        (240, 64, ""),  # FSQ's levels have products of their own
        (8, 64, "8 and 256 codes"),
        (256, 16, "16 and 64 codes an image"),
    ],
)
def test_nothing_is_said_of_codebooks_or_grids_of_other_sizes(num_codes, codes, objection):
    found = {"vqgan": {**side(30.0, 0.1), "tokenizer": {"num_codes": num_codes, "codes": codes}},
             "kmeans": {**side(25.0, 0.1), "tokenizer": {"num_codes": 256, "codes": 64}}}  # fmt: skip
    assert verdict(PSNR, found)[-1] == objection
    matched = Claim("", "vqgan", "kmeans", "reconstruction", {"psnr_db": 1}, "rate")
    assert "codes" not in verdict(matched, found)[-1], "there bits or dB are what is alike"


def test_of_noise_a_control_of_equal_psnr_is_told_for_each_decoder():
    evaluations = {
        f"{name}-{decoder}": metrics(name, psnr_db)
        for decoder, away in (("onestep", 0.5), ("diffusion", 3.0))
        for name, psnr_db in (("kmeans", 25.0), ("vq_psnr", 25.0 + away), ("vqgan", 30.0))
    }
    stable = {"kmeans": 0.1, "vq_psnr": 0.2, "vqgan": 0.5}
    noise = {name: {"change": stable[name.split("-")[0]], "change_std": 0.01, "protocol": {}} for name in evaluations}
    rows = verdicts(evaluations, noise, 1.0)[-1].rows
    assert [(row[1], row[-1]) for row in rows if "vq_psnr" in row[0]] == [
        ("onestep, stability", ""), ("diffusion, stability", "25.0 and 28.0 dB")]  # fmt: skip
    assert [row[1] for row in rows if "vqgan" in row[0]] == ["stability"], "codes alone are told of once"
