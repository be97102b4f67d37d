"""The papers' claims S1 to S11: each a rule that stands here before anything is measured, and the verdict by it.

`verdicts` gives one on every claim from the metrics below reports/. A comparison is of configurations: trainings
that differ by seeds alone (replicates.py). It counts if both sides were trained MIN_TRAININGS times and nothing speaks
against it (bench.py). docs/claims.md has the rules in words: `python -m stages.report.results_table` writes it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stages.report import rules_on_networks as networks
from stages.report import rules_on_tokens as tokens
from stages.report.bench import MAX_DIFFERENCE, MIN_CLASS_ACCURACY, MIN_PROBE_ACCURACY, MIN_SKILL, Bench
from stages.report.gather import Reports
from stages.report.sides import (
    CLAIM,
    CONTROL,
    DOES_NOT_HOLD,
    HOLDS,
    MIN_TRAININGS,
    SIGMAS,
    UNDECIDED,
    Comparison,
    combined,
)

CLAIMS_PRESET = "semtok set @presets/claims.yaml @presets/scenes.yaml"


@dataclass(frozen=True)
class Rule:
    """A claim, what the paper measured, and how it is decided; `needs`: what measures it."""

    key: str
    title: str
    published: str
    source: str
    rule: str
    measure: Callable[[Bench], Iterator[Comparison]]
    needs: str = CLAIMS_PRESET
    controls: bool = True  # it holds only if a control was measured, too


@dataclass(frozen=True)
class Claim:
    """The verdict on a claim, its comparisons, and why it is undecided."""

    key: str
    title: str
    published: str
    source: str
    rule: str
    comparisons: list[Comparison]
    verdict: str
    missing: list[str]


RULES = [
    Rule(
        "S1", "Semantic codes change less under noise than pixel codes",
        "at 20 dB .260 of the codes change, of VQ codes .487", "DiGIT, table 1",
        "Codes of k-means on trained features against those of vqgan and fsq of equal sizes: the share that changes "
        f"under noise of {tokens.NOISE_DB} dB on the pixels is lower, over all patches and over those that show an "
        "object. Controls: k-means on the untrained encoder, pixel codes trained on noisy images, and pixel codebooks "
        "of as many bits per image or of the same PSNR.",
        tokens.noise_stability,
    ),
    Rule(
        "S2", "An autoregressive generator on semantic codes beats one on pixel codes, though they reconstruct worse",
        "FID 9.66 against 24.38; reconstructions 1.92 against 1.67", "DiGIT, ablation and reconstruction bound",
        "k-means on trained features against vqgan and fsq of equal sizes: gFID of the generator `ar` is lower, and "
        "rFID is higher. Controls, by gFID: k-means on the untrained encoder, and pixel codebooks of as many bits per "
        "image or of the same PSNR.",
        tokens.generation_on_semantic_codes,
    ),
    Rule(
        "S3", "VQ-KD generates better than Cluster, and Cluster better than pixel tokenizers",
        "FID 4.10 (VQ-KD, CLIP) against 15.78 (VQGAN); Cluster's numbers could not be retrieved", "VQ-KD, abstract",
        "gFID of the generator `ar`: vqkd below cluster, both below vqgan and fsq, of equal sizes. Controls: pixel "
        "codebooks of as many bits per image or of the same PSNR.",
        tokens.order_of_tokenizers,
    ),
    Rule(
        "S4", "A better teacher makes better generation",
        "FID 45.5 (MAE), 24.4 (VQGAN), 20.4 (MoCo), 16.8 (iBOT)", "DiGIT, choice of the encoder",
        "k-means codebooks of equal sizes on features of several blocks or networks: where linear probes of the "
        f"features differ by {tokens.TEACHER_STEP} or more, the better one gives the lower gFID of the generator `ar`. "
        "Control: the untrained encoder.",
        tokens.better_teacher,
    ),
    Rule(
        "S5", "Semantic codebooks are used in whole, pixel codebooks are not",
        "usage 100 % (VQ-KD) against 5.9 % (VQGAN, 16,384 codes)", "VQ-KD, by FQGAN; its repository",
        "Share of the codes that occur in val images, of kmeans, cluster and vqkd against vqgan of equal sizes without "
        f"revival of dead codes: higher by at least {tokens.USAGE_MARGIN:.0%}. Controls: cluster and vqkd without it.",
        tokens.codebook_usage, controls=False,
    ),
    Rule(
        "S6", "Diffusion decodes better than one step, the more so at high compression",
        "rFID 7.08 against 11.15, 0.47 against 0.74; gFID 9.39 against 11.63", "epsilon-VAE, tables 2, 4 and 5",
        "The first diffusion decoder against the first one-step decoder on the same codes, trained for as long: rFID "
        "is lower for every tokenizer, gFID of `ar` too; and the share by which rFID falls is larger for the tokenizer "
        "of the fewest bits per image than for that of the most.",
        networks.diffusion_decoding, controls=False,
    ),
    Rule(
        "S7", "One to three decoding steps suffice",
        "best at 3 steps; one step 0.57 where 3 have 0.47", "epsilon-VAE, ablation and table 2",
        f"rFID of diffusion decoders: the best of at most {networks.FEW_STEPS} steps is at most "
        f"{networks.STEPS_MARGIN:.0%} above the best of more steps.",
        networks.few_steps, controls=False,
    ),
    Rule(
        "S8", "ADDP generates, and its encoder transfers",
        "FID 8.9, against 11.1 of MAGE; fine-tuned 83.9 %", "ADDP, README; RCG, table 2",
        "gFID of addp is below that of the masked generator on the same codes; a linear probe of its best layer, "
        "chosen on train, beats that of the same network untrained. Control: raw pixels.",
        networks.alternating, "semtok set @presets/addp.yaml",
    ),
    Rule(
        "S9", "Linear probes of a generator peak in its middle layers, and depend on the codebook size",
        "figures without numbers; accuracy 71.7 % and 80.3 %", "DiGIT, README",
        "Accuracy of a linear probe of the generator `ar` on codes of k-means on trained features: after half of its "
        "blocks it is above that of the last block and above that of the embeddings, for the first such tokenizer. Of "
        "two that differ in num_codes alone, the accuracies of the best layers, chosen on train, differ. Control: the "
        "same network untrained.",
        networks.probe_by_layer,
    ),
    Rule(
        "S10", "LDA separates noisy classes at least as well as PCA",
        "LDA at least PCA at every level of noise", "DiGIT, figure 5",
        "The toy `pca_vs_lda`: LDA's accuracy is higher at every level of noise, of both cases.",
        tokens.lda_against_pca, "dvc repro studies/dvc.yaml:pca_vs_lda", controls=False,
    ),
    Rule(
        "S11", "Robustness to code noise predicts generation better than reconstruction does",
        "correlation above .95 over 11 tokenizers", "RobustTok",
        f"Over at least {tokens.FEWEST_POINTS} tokenizers of one decoder: the correlation of pFID with gFID of the "
        "generator `ar` is higher than that of rFID with gFID.",
        tokens.code_noise, controls=False,
    ),
]  # fmt: skip


def verdicts(reports: Reports) -> list[Claim]:
    """The verdict on every claim, in order. `UserError` where nothing was evaluated."""
    bench = Bench(reports)
    return [decided(rule, list(rule.measure(bench))) for rule in RULES]


def decided(rule: Rule, comparisons: list[Comparison]) -> Claim:
    """A claim with its verdict."""
    verdict = combined(comparisons, rule.controls)
    missing = [*reasons(rule, comparisons)] if verdict == UNDECIDED else []
    facts = rule.key, rule.title, rule.published, rule.source, rule.rule
    return Claim(*facts, comparisons, verdict, missing)


def reasons(rule: Rule, comparisons: list[Comparison]) -> Iterator[str]:
    """Why a claim is undecided, and what would measure it."""
    counted = [one for one in comparisons if not one.objection]
    yield from dict.fromkeys(one.objection for one in comparisons if one.objection)
    if unsure := sum(one.verdict == UNDECIDED for one in counted):
        yield f"{unsure} of {len(counted)} comparisons are within {SIGMAS:g} standard deviations"
    if not any(one.role == CLAIM for one in comparisons):
        yield "not measured"
    elif rule.controls and not any(one.role == CONTROL for one in comparisons):
        yield "no control was measured"
    if len(counted) < len(comparisons) or not counted:
        yield f"measured by `{rule.needs}`"


def document() -> str:
    """docs/claims.md: the rules in words."""
    return HEAD + "".join(
        f"\n## {rule.key}. {rule.title}\n\n{rule.rule}\n\nPublished: {rule.published} ({rule.source}). "
        f"Measured by `{rule.needs}`.\n"
        for rule in RULES
    )


HEAD = f"""# The papers' claims, and the rules that decide on them here

The rules stand in [stages/report/claims.py](../stages/report/claims.py); `uv run python -m stages.report.results_table` writes this page from them. The report shows every comparison and the verdicts of the run.

- A configuration is a tokenizer, decoder and generator with all their values but the seeds. Its trainings differ by seeds alone: `uv run semtok seeds codebook.kmeans 1 2` adds two. A training of a tokenizer has a decoder and a generator of its own. [presets/claims.yaml](../presets/claims.yaml) trains everything three times, on scenes or on digits, and names the commands and their hours.
- A comparison is of the means of two configurations by one metric. It {HOLDS.split()[0]} if the first beats the second by more than {SIGMAS:g} standard deviations of the difference, does not hold if the second beats the first by as much, and is undecided between. The deviation is that of the difference of two single trainings, between trainings with other seeds. Where either side was trained fewer than {MIN_TRAININGS} times, the deviation within a training (between sampling seeds, over images) is shown instead, and the comparison does not count.
- A claim is *{HOLDS}* if all its comparisons hold, and a control among them where the rule names any. It is *{DOES_NOT_HOLD}* if one of them does not, claim or control. Otherwise it is *{UNDECIDED}*, also if one of its comparisons does not count.
- Tokenizers are compared with the first decoder, the first of each kind unless a rule says otherwise. Their sizes, numbers of codes and of codes per image, are equal if they differ by at most {MAX_DIFFERENCE["sizes"]:.0%}. Bits per image, by `ar`, may differ by {MAX_DIFFERENCE["rate"]:.0%}, PSNR by {MAX_DIFFERENCE["psnr"]:g} dB.
- gFID and rFID are of the first of these feature spaces that was measured: Inception, EfficientNet-Lite0, the classifier of real images. The encoder's own space favors semantic codes and is not used.
- Comparisons do not count if protocols differ; if a linear probe of the encoder is below {MIN_PROBE_ACCURACY}, or the class accuracy of reconstructions below {MIN_CLASS_ACCURACY}; if the class accuracy of both sides' samples is less than {MIN_SKILL:.0%} of the way from chance to 1, or that of a control of other sizes at chance.
"""  # noqa: E501
