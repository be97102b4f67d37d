"""Draw the plots of a stage, tables of tab-separated values, as one picture."""

import csv
import io
from pathlib import Path

Tables = dict[str, list[list[float]]]  # name -> rows of (x, value)


def read_plots(paths: tuple[str, ...]) -> Tables:
    """Every column of every TSV file at or below the paths. x is the step or, without steps, the first column."""
    tables: Tables = {}
    for path in map(Path, paths):
        for file in sorted(path.rglob("*.tsv")) if path.is_dir() else [path]:
            with open(file) as text:
                for row in csv.DictReader(text, delimiter="\t"):
                    x = "step" if "step" in row else next(iter(row))
                    for column in row.keys() - {x, "timestamp"}:
                        name = str(file.relative_to(path).with_suffix("")) if path.is_dir() else f"{file.stem}/{column}"
                        tables.setdefault(name, []).append([float(row[x]), float(row[column])])
    return tables


def draw_curves(tables: Tables) -> bytes:
    """A PNG of all curves, one small axis each."""
    from matplotlib.figure import Figure  # half a second, which a run without curves does not spend

    columns = min(len(tables), 3)
    rows = -(-len(tables) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.2 * rows), layout="constrained", dpi=80)
    for number, (name, points) in enumerate(sorted(tables.items()), 1):
        axis = figure.add_subplot(rows, columns, number)
        axis.plot(*zip(*points, strict=True), marker=".", linewidth=1)
        axis.set_title(name, fontsize=9, parse_math=False)
        axis.tick_params(labelsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
