"""Sections on the codes themselves: what they mean, and how many of how many dimensions it takes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from stages.report import draw, gather
from stages.report.sections import Picture, Section, pictures
from stages.report.tables import Row, number, protocol_of, spread, tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DESCRIPTIONS = {  # title of a description -> names of the figures of class and of colour
    "which code": ("bag", "one_hot"),
    "code vectors": ("vectors", "vectors"),
    "continuous rows": ("rows", "rows"),
}
PANELS = {  # group and name of a figure -> title of its plot
    ("features", "quantisation_error"): "share of variance lost",
    ("class", "bag"): "class from bag of codes",
    ("look_up", "psnr_db"): "look-up PSNR, dB",
    ("usage", "entropy_nats"): "entropy of codes, nats",
}

Metrics = dict[str, Any]


def anatomy(reports: gather.Reports) -> Section | None:
    """What the codes of every tokenizer mean: read-outs, galleries, t-SNE."""
    found = reports.named("anatomy")
    if not found:
        return None
    rows = [
        Row([name, title], read_out_cells(metrics, *keys), protocol_of(metrics, "anatomy"))
        for name, metrics in found.items()
        for title, keys in DESCRIPTIONS.items()
    ]
    look_ups = [Row([name], look_up_cells(metrics), protocol_of(metrics, "anatomy")) for name, metrics in found.items()]
    text = (
        "Linear read-outs, learnt on train, tested on val: accuracy of the image's class from its bag of codes, its "
        "mean code vector or its mean continuous row; R² of a patch's mean colour from its code alone, its code "
        "vector or its continuous row. What the rows have and code and vectors lack was lost in quantisation; by "
        "chance a class is read once in their number. Look-up: every patch painted as the mean train patch of its "
        "code, without looking at its neighbours, beside one patch for all; a trained decoder that sees the whole "
        "grid should do better. ± by bootstrap over val images."
    )
    shown = [*tables(["tokenizer", "read from"], rows), *tables(["tokenizer"], look_ups)]
    return Section("What the codes mean", text, shown, anatomy_pictures(reports, list(found)))


def read_out_cells(metrics: Metrics, of_class: str, of_colour: str) -> dict[str, str]:
    """Class and colour from one description; without classes or colours, a dash."""
    return {"class": spread(metrics["class"], of_class), "colour R²": spread(metrics["colour"], of_colour)}


def look_up_cells(metrics: Metrics) -> dict[str, str]:
    """Usage on val and the look-up's PSNR."""
    usage, look_up = metrics["usage"], metrics["look_up"]
    cells = {"live codes": number(usage["live_codes"]), "entropy nats": number(usage["entropy_nats"])}
    cells |= {"perplexity": number(usage["perplexity"]), "look-up PSNR dB": spread(look_up, "psnr_db")}
    return cells | {"one patch for all, dB": spread(look_up, "one_patch_psnr_db")}


def anatomy_pictures(reports: gather.Reports, names: list[str]) -> list[Picture]:
    """Galleries and t-SNE."""
    captions = {
        "gallery.png": "codes with their share of train positions, the most used first; the mean patch of each, then "
        "seeded uses, framed in red amid their surroundings",
        "tsne.png": "t-SNE of continuous rows of val (dots, in the colour of their image's class) and code vectors "
        "(ringed, in the colour of the class that uses them most, the larger the purer)",
    }
    paths = {f"{name}: {caption}": reports / "anatomy" / name / file
             for name in names for file, caption in captions.items()}  # fmt: skip
    return pictures(paths)


def ablation(reports: gather.Reports) -> Section | None:
    """Codebook size x dimension: a row and a point a cell."""
    named = reports.named("ablation")
    if not named:
        return None
    found = sorted(named.values(), key=lambda cell: (cell["dim"], cell["num_codes"]))
    rows = [
        Row([number(one["num_codes"]), number(one["dim"])], cell_figures(one), protocol_of(one, "ablation"))
        for one in found
    ]
    text = (
        "k-means on the leading principal components of the features, figures of val. Variance lost: of all "
        "dimensions, in projection and quantisation together; left out: by projection alone. ± by bootstrap over val "
        "images."
    )
    shown = [Picture(plot(found), "By codebook size, one line for each dimension")]
    return Section("Codebook size and dimension", text, tables(["K", "dim"], rows), shown)


def cell_figures(cell: Metrics) -> dict[str, str]:
    """The figures of one cell."""
    usage, features = cell["usage"], cell["features"]
    cells = {"live codes": number(usage["live_codes"]), "entropy nats": number(usage["entropy_nats"])}
    cells |= {"perplexity": number(usage["perplexity"]), "variance lost": number(features["quantisation_error"])}
    cells |= {"left out": number(features["projection_error"]), "class from bag": spread(cell["class"], "bag")}
    return cells | {"look-up PSNR dB": spread(cell["look_up"], "psnr_db")}


def plot(cells: list[Metrics]) -> str:
    """A plot for each figure that all cells have, a line for each dim; a picture's address."""
    panels = {key: title for key, title in PANELS.items() if all(key[1] in cell[key[0]] for cell in cells)}
    dims = sorted({cell["dim"] for cell in cells})
    found = {
        title: {f"{dim} dims": line([cell for cell in cells if cell["dim"] == dim], *key) for dim in dims}
        for key, title in panels.items()
    }
    return draw.bands(found, "K", partial(sizes_as_ticks, sorted({cell["num_codes"] for cell in cells})))


def line(cells: list[Metrics], group: str, name: str) -> draw.Band:
    """One figure against K, with its deviations."""
    own = [cell[group] for cell in cells]
    return [cell["num_codes"] for cell in cells], [one[name] for one in own], [one.get(f"{name}_std", 0) for one in own]


def sizes_as_ticks(sizes: list[int], axis: Axes) -> None:
    """The codebook sizes, at even distances for even ratios."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.minorticks_off()
