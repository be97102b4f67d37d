"""Metrics as tables. Rows share a table only if their protocols agree."""

import json
import re
from dataclasses import dataclass, field
from math import floor, isnan, log10
from typing import Any

NUMBER = re.compile(r"[≤ +-]*[\d.,]+(e[+-]?\d+)?( \*|,? .*±.*)?")  # a cell with a value
# What may differ between the rows of one table: the group that was measured, and what is being compared.
MAY_DIFFER = ("of", "sampler", "seeds")
MOST_CHARACTERS = 60  # of a value of a protocol, in a sentence


@dataclass(frozen=True)
class Table:
    """Cells are texts. `differs` names the keys in which its protocol differs from that of the table above."""

    columns: list[str]
    rows: list[list[str]]
    protocol: dict[str, Any] = field(default_factory=dict)
    differs: list[str] = field(default_factory=list)

    def is_text(self, place: int) -> bool:
        """Whether a column holds words: no cell is a number."""
        return not any(NUMBER.fullmatch(row[place]) for row in self.rows)


@dataclass(frozen=True)
class Row:
    """A row before it is put into a table: its label, its cells by column and the protocol of its metrics."""

    label: list[str]
    cells: dict[str, str]
    protocol: dict[str, Any]


def number(value: float) -> str:
    """Four significant digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def rounded(value: float, std: float | None) -> str:
    """A value with its deviation, to the digits that count: one of the deviation, two if it begins with 1 to 3. Without
    a known deviation (None, nan, 0) the value alone."""
    if not std or isnan(std):
        return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
    decimals = -floor(log10(std))
    decimals = max(0, decimals + (std * 10**decimals < 3.55))
    return f"{value:,.{decimals}f} ± {std:.{decimals}f}"


def spread(metrics: dict[str, Any], key: str) -> str:
    """A metric with its standard deviation where it has one; a dash where it is missing."""
    if key not in metrics:
        return "–"
    std = metrics.get(f"{key}_std")
    return number(metrics[key]) + (f" ± {std:.2g}" if std is not None else "")


def protocol_of(metrics: dict[str, Any], group: str) -> dict[str, Any]:
    """The protocol entry of a group of metrics; empty if it has none."""
    return next((entry for entry in metrics.get("protocol", []) if entry["of"] == group), {})


def comparable(protocol: dict[str, Any]) -> dict[str, Any]:
    """The part of a protocol that the rows of a table must share."""
    return {key: value for key, value in protocol.items() if key not in MAY_DIFFER}


def shared(protocol: dict[str, Any]) -> str:
    """The result of `comparable` as text: equal for metrics that may be compared."""
    return json.dumps(comparable(protocol), sort_keys=True)


def by_protocol(found: dict[str, dict[str, Any]], of: str) -> list[dict[str, dict[str, Any]]]:
    """Metrics by name, in groups whose entries `of` agree."""
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for name, metrics in found.items():
        groups.setdefault(shared(protocol_of(metrics, of)), {})[name] = metrics
    return list(groups.values())


def tables(heads: list[str], rows: list[Row]) -> list[Table]:
    """One table per protocol, each with its differences from the first."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(shared(row.protocol), []).append(row)
    first = rows[0].protocol if rows else {}
    return [table_of(heads, own, differing_keys(first, own[0].protocol)) for own in groups.values()]


def table_of(heads: list[str], rows: list[Row], differs: list[str]) -> Table:
    """Rows of one protocol; a column is there if any row fills it, in the order of the row that fills most."""
    by_cells = sorted(rows, key=lambda row: -len(row.cells))
    columns = list(dict.fromkeys(column for row in by_cells for column in row.cells))
    cells = [row.label + [row.cells.get(column, "–") for column in columns] for row in rows]
    return Table(heads + columns, cells, comparable(rows[0].protocol), differs)


def differing_keys(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The keys in which two protocols differ."""
    one, other = comparable(one), comparable(other)
    return [key for key in {**one, **other} if one.get(key) != other.get(key)]


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What differs between two protocols, each named with both values; where it is empty, metrics may be compared."""
    first, second = (dict(protocol_lines(comparable(protocol))) for protocol in (one, other))
    keys = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    return [f"{key} ({short(first.get(key, 'none'))} and {short(second.get(key, 'none'))})" for key in keys]


def short(value: str) -> str:
    """A value as part of a sentence."""
    return value if len(value) <= MOST_CHARACTERS else f"{value[:MOST_CHARACTERS]}…"


def flat(metrics: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested metrics with dotted names; lists (protocols) left out."""
    found: dict[str, Any] = {}
    for key, value in metrics.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            found[f"{prefix}{key}"] = value
    return found


def metric_table(metrics: dict[str, Any], protocol: dict[str, Any]) -> Table:
    """All metrics of one group, one per row, each with its standard deviation."""
    values = flat(metrics)
    names = [name for name in values if not name.endswith("_std")]
    cells = {name: values[name] if isinstance(values[name], str) else spread(values, name) for name in names}
    return Table(["metric", "value"], [[name, cell] for name, cell in cells.items()], protocol)


def protocol_lines(protocol: dict[str, Any]) -> list[tuple[str, str]]:
    """A protocol for reading: dotted name and value."""
    named = flat(
        {key: ", ".join(map(str, value)) if isinstance(value, list) else value for key, value in protocol.items()}
    )
    return [(key, "none" if value is None else str(value)) for key, value in named.items()]
