"""The tokenizers side by side: one table, and below it which of the expected orderings it shows."""

from __future__ import annotations

from stages.report import gather
from stages.report.sections import Section, generators, likelihood, likelihood_cell
from stages.report.tables import Row, comparable, number, protocol_of, shared, spread, tables
from stages.report.verdicts import GATE, LEARNT, MATCHED, PROBED, SIGMAS, STABILITY, Metrics, verdicts

STABILITY_DB = "20"


def comparison(reports: gather.Reports, evaluations: dict[str, Metrics], data: Metrics) -> Section:
    """One row for each tokenizer and decoder; below it the orderings. `data`: params of the images."""
    stable = {name: stability(reports, metrics) for name, metrics in evaluations.items()}
    probed = (gather.read_metrics(reports / "probe") or {}).get("encoder", {}).get("clean", 1.0)
    first = next((shared(one["protocol"]) for one in stable.values() if one["protocol"]), "")
    rows = [
        row(name, metrics, stable[name] if shared(stable[name]["protocol"]) == first else {})
        for name, metrics in evaluations.items()
    ]
    text = (
        "Bits: what a generator needs for a val image, given its class; ≤ a bound. ± is the deviation between sampling "
        "seeds; for reconstructions, entropy, perplexity and bits the standard error over val images. Changed: share "
        f"of codes that differ after noise at {STABILITY_DB} dB, everywhere and where an object is, ± over noise seeds "
        "and val images; left out where it was measured in another way than in the first row that has it. Compare "
        "generators at equal bits or PSNR, not at equal K: fewer bits are easier to generate. Figures with [judge] are "
        "made in the feature space of the judge of agreement, a classifier of real images that no tokenizer knows; "
        "those in the encoder's own space, [embedded], favour semantic codes. Orderings are those that the papers "
        "expect, or controls, the first one's figure before the second's: one appears, or is reversed, where the two "
        f"differ by more than {SIGMAS:g} deviations, taken as independent. No verdict is given on generation where "
        f"a linear probe of the encoder's features reads fewer than {PROBED} of val images or the judge fewer than "
        f"{GATE} of the reconstructions, or where the agreement of neither generator is {LEARNT:.0%} of the way from "
        f"chance to 1; none at matched rate where the bits of ar differ by more than {MATCHED['rate']:.0%}, at matched "
        f"PSNR by more than {MATCHED['psnr']:g} dB, or where the control's samples show their class by chance; none "
        f"otherwise where K, or the number of codes an image, differs by more than {MATCHED['codes']:.0%}. Each "
        "network was trained once: what another training seed would change is not in the spread, and may be several "
        "times as much."
    )
    if data.get("source") == "scenes":
        scenes = data["scenes"]
        text += f" Scenes: nuisance {scenes['nuisance']}, up to {scenes['max_objects']} objects, "
        text += f"{scenes['patterned']:.0%} of them patterned."
    shown = tables(["tokenizer-decoder"], rows)
    return Section("Tokenizers", text, [*shown, *verdicts(evaluations, stable, probed)])


def row(name: str, metrics: Metrics, stable: Metrics) -> Row:
    """A tokenizer's figures; its protocol is that of its reconstructions and of every generator's samples."""
    made, kind = metrics["reconstruction"], metrics["tokenizer"]
    usage = made.get("code_usage", {})
    cells = {"K": number(kind["num_codes"]), "dim": number(kind["dim"])}
    cells |= {"live": spread(usage, "live_codes"), "entropy nats": spread(usage, "entropy_nats")}
    space = "judge" if "rfid[judge]" in made else "embedded"  # images without classes have no judge
    cells |= {f"rfid[{space}]": spread(made, f"rfid[{space}]"), "PSNR dB": spread(made, "psnr_db")}
    cells |= {"agreement": spread(made, "agreement"), "changed": spread(stable, "change")}
    cells |= {"changed, foreground": spread(stable, "foreground_change")}
    protocol: Metrics = {"reconstruction": comparable(protocol_of(metrics, "reconstruction"))}
    for generator in generators(metrics):
        cells |= generator_cells(generator, metrics[generator], space)
        protocol[generator] = comparable(protocol_of(metrics, generator))
    return Row([name], cells, protocol)


def generator_cells(generator: str, figures: Metrics, space: str) -> dict[str, str]:
    """Perplexity, bits, distance, Inception score and agreement of one generator."""
    cells = {
        f"{generator} {title}": likelihood_cell(figures, key)
        for key, title in (("val_perplexity", "ppl"), ("val_bits_per_image", "bits"))
        if key in likelihood(figures)
    }
    for figure in (f"gfid[{space}]", "is[judge]", "agreement"):
        cells[f"{generator} {figure}"] = spread(figures, figure)
    return cells


def stability(reports: gather.Reports, metrics: Metrics) -> Metrics:
    """{change, change_std, …} of a tokenizer at STABILITY_DB, and the protocol; empty where it was not measured.

    The deviation is that between noise seeds and the standard error over val images together.
    """
    found = gather.read_metrics(reports / "stability" / metrics["tokenizer"]["name"]) or {}
    figures = found.get(f"snr_{STABILITY_DB}_db", {})
    noise = {
        f"{name}_std": (figures[f"{name}_std"] ** 2 + figures[f"{name}_image_std"] ** 2) ** 0.5
        for name in STABILITY
        if name in figures
    }
    return {**figures, **noise, "protocol": protocol_of(found, "stability")}
