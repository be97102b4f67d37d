"""reports/summary.json: a few numbers of the best generator and of its codes, for DVC's tables of experiments."""

import json
from pathlib import Path
from typing import Any

from stages.core.artifact import write_atomically
from stages.core.results import rounded
from stages.report.contenders import answer, ranking_keys
from stages.report.gather import Evaluation, Metrics, Reports, read_evaluations


def write_summary(reports: Reports, out: Path) -> None:
    """Write {"summary": numbers} as JSON: one key, so that `dvc exp show` can tell its columns by their name."""
    numbers = {"summary": headline_numbers(reports, read_evaluations(reports))}
    write_atomically(out, (json.dumps(rounded(numbers), indent=1) + "\n").encode())


def headline_numbers(reports: Reports, evaluations: dict[str, Evaluation]) -> Metrics:
    """The best tokenizer, decoder and generator, as on the report's first screen, and what was measured of them."""
    found = answer(reports, evaluations)
    best = found.ranked[0].evaluation if found else next(iter(evaluations.values()))
    generator = found.ranked[0].generator if found else ""
    names = [best.tokenizer, best.decoder, *([generator] if generator else [])]
    return {"best": "-".join(names), **of_samples(best.generation.get(generator, {})), **of_codes(best.reconstruction)}


def of_samples(drawn: Metrics) -> Metrics:
    """Distance of the samples to real images, the share that shows the class asked for, and bits of a real image."""
    numbers = {key: drawn[key] for key in [*ranking_keys(drawn, "gfid[")[:1], "class_accuracy"] if key in drawn}
    likelihood: dict[str, Any] = drawn.get("likelihood", {})
    return numbers | {key: likelihood[key] for key in ("val_bits_per_image",) if key in likelihood}


def of_codes(metrics: Metrics) -> Metrics:
    """Distance and closeness of reconstructions, and the codes in use."""
    made = metrics["reconstruction"]
    numbers = {key: made[key] for key in [*ranking_keys(made, "rfid[")[:1], "psnr_db"] if key in made}
    return numbers | {key: made["code_usage"][key] for key in ("live_codes",) if key in made.get("code_usage", {})}
