"""Figures as tables. Rows share a table only if their protocols agree."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

# What may differ between rows of one table: whose figures they are, and what is being compared.
MAY_DIFFER = ("of", "sampler", "seeds")


@dataclass(frozen=True)
class Table:
    """Cells are texts; `protocol` and `note` stand beside the table."""

    columns: list[str]
    rows: list[list[str]]
    protocol: dict[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One row before it has a table: its label, its cells by column and the protocol they were made with."""

    label: list[str]
    cells: dict[str, str]
    protocol: dict[str, Any]


def number(value: float) -> str:
    """Four significant digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def spread(figures: dict[str, Any], key: str) -> str:
    """A figure with its standard deviation where it has one; a dash where there is no figure."""
    if key not in figures:
        return "–"
    std = figures.get(f"{key}_std")
    return number(figures[key]) + (f" ± {std:.2g}" if std is not None else "")


def protocol_of(metrics: dict[str, Any], group: str) -> dict[str, Any]:
    """The protocol entry of a group of figures; empty if it has none."""
    return next((entry for entry in metrics.get("protocol", []) if entry["of"] == group), {})


def comparable(protocol: dict[str, Any]) -> dict[str, Any]:
    """The part of a protocol that rows of a table must share."""
    return {key: value for key, value in protocol.items() if key not in MAY_DIFFER}


def shared(protocol: dict[str, Any]) -> str:
    """That part as a text, equal for figures that may be compared."""
    return json.dumps(comparable(protocol), sort_keys=True)


def by_protocol(found: dict[str, dict[str, Any]], of: str) -> list[dict[str, dict[str, Any]]]:
    """Metrics by name, in the groups whose figures `of` may be compared."""
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for name, metrics in found.items():
        groups.setdefault(shared(protocol_of(metrics, of)), {})[name] = metrics
    return list(groups.values())


def tables(heads: list[str], rows: list[Row]) -> list[Table]:
    """One table for each protocol, each with a note on what sets it apart from the first."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(shared(row.protocol), []).append(row)
    first = next(iter(groups.values()))[0].protocol if groups else {}
    return [table_of(heads, own, difference(first, own[0].protocol)) for own in groups.values()]


def table_of(heads: list[str], rows: list[Row], note: str) -> Table:
    """Rows of one protocol; a column is there if any row fills it."""
    columns = list(dict.fromkeys(column for row in rows for column in row.cells))
    cells = [row.label + [row.cells.get(column, "–") for column in columns] for row in rows]
    return Table(heads + columns, cells, comparable(rows[0].protocol), note)


def difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """What differs between two protocols, as a warning; empty if nothing does."""
    one, other = comparable(one), comparable(other)
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    if not keys:
        return ""
    return f"Another protocol: not comparable with the table above. It differs in {', '.join(keys)}."


def flat(figures: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested figures with dotted names; lists (protocols) left out."""
    found: dict[str, Any] = {}
    for key, value in figures.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            found[f"{prefix}{key}"] = value
    return found


def figure_table(figures: dict[str, Any], protocol: dict[str, Any]) -> Table:
    """All figures of one group, one a row, each with its standard deviation."""
    values = flat(figures)
    names = [name for name in values if not name.endswith("_std")]
    cells = {name: values[name] if isinstance(values[name], str) else spread(values, name) for name in names}
    return Table(["figure", "value"], [[name, cell] for name, cell in cells.items()], protocol)


def protocol_lines(protocol: dict[str, Any]) -> list[tuple[str, str]]:
    """A protocol for reading: dotted name and value."""
    named = flat(
        {key: ", ".join(map(str, value)) if isinstance(value, list) else value for key, value in protocol.items()}
    )
    return [(key, "none" if value is None else str(value)) for key, value in named.items()]
