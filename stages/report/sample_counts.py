"""The section on FID against the number of samples, which few samples make too large."""

from stages.report import plots
from stages.report.gather import Evaluation
from stages.report.plots import Picture
from stages.report.sections import Section
from stages.report.tables import by_protocol


def by_count(evaluations: dict[str, Evaluation]) -> Section | None:
    """A plot per feature extractor, a line per generator; groups of unlike protocols apart."""
    shown = []
    generators = dict.fromkeys(generator for one in evaluations.values() for generator in one.generators)
    for generator in generators:
        drawn = {name: one.generation for name, one in evaluations.items() if counted(one, generator)}
        shown += [plot(group, generator) for group in by_protocol(drawn, generator)]
    return Section("sample_counts", "FID by number of samples", pictures=shown) if shown else None


def counted(evaluation: Evaluation, generator: str) -> bool:
    """Whether a generator's samples were scored in several numbers."""
    return "gfid_by_count" in evaluation.generation.get(generator, {})


def plot(group: dict[str, dict], generator: str) -> Picture:
    """One generator on the codes of every tokenizer."""
    found: dict[str, dict[str, plots.Band]] = {}
    for name, metrics in group.items():
        for extractor, counts in metrics[generator]["gfid_by_count"].items():
            found.setdefault(f"gfid[{extractor}]", {})[name] = band(counts)
    shown = plots.bands(found, "samples", plots.log2_ticks, tuple(found))
    return Picture(shown, f"{generator}: by number of samples, mean over seeds", plot=True)


def band(counts: dict[str, float]) -> plots.Band:
    """Numbers of samples in order, and FID of each."""
    points = sorted((int(count), value) for count, value in counts.items())
    return [count for count, _ in points], [value for _, value in points], [0.0] * len(points)
