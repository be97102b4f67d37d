"""The graph of stages as dvc.yaml has it: which stage reads what another writes, drawn from top to bottom."""

from dataclasses import dataclass
from functools import cache

from stages.report.gather import Stage

HIDDEN = ("code", "report")  # every stage reads the first, the second reads most stages
WIDTH, HEIGHT, COLUMN_PX, ROW_PX = 128, 40, 140, 72
Parents = dict[str, list[str]]


@dataclass(frozen=True)
class Node:
    """A stage in the drawing: its place in px, how many members it has, its description split at the last semicolon."""

    name: str
    x: int
    y: int
    count: int
    does: str
    takes: str
    parents: list[str]


@dataclass(frozen=True)
class Graph:
    """Nodes, the paths of lines between them, and the drawing's size in px."""

    nodes: list[Node]
    lines: list[str]
    width: int
    height: int


def draw(stages: dict[str, Stage]) -> Graph:
    """All stages with at least one member, each below all that it reads from; lines that others imply are left out."""
    parents = parents_of({name: stage for name, stage in stages.items() if name not in HIDDEN and stage.items})
    rows = rows_of(parents)
    width = max(map(len, rows)) * COLUMN_PX
    places = {
        name: (round((column + 0.5) * width / len(row) - WIDTH / 2), level * ROW_PX)
        for level, row in enumerate(rows)
        for column, name in enumerate(row)
    }
    nodes = [node(name, places[name], stages[name], parents[name]) for row in rows for name in row]
    edges = [(parent, name) for name, found in reduced(parents).items() for parent in found]
    return Graph(nodes, [line(places[one], places[other]) for one, other in edges], width, len(rows) * ROW_PX)


def node(name: str, place: tuple[int, int], stage: Stage, parents: list[str]) -> Node:
    """What the drawing and the table beside it say of a stage."""
    does, _, takes = stage.desc.rpartition("; ")
    return Node(name, *place, len(stage.items), does or takes, takes if does else "", parents)


def parents_of(stages: dict[str, Stage]) -> Parents:
    """{stage: the others whose outputs it reads}."""
    return {
        name: [
            other
            for other, maker in stages.items()
            if other != name and any(overlap(path, made) for path in stage.reads for made in maker.writes)
        ]
        for name, stage in stages.items()
    }


def overlap(one: str, other: str) -> bool:
    """Whether a path is the other, or lies in it."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def rows_of(parents: Parents) -> list[list[str]]:
    """Stages by the length of the longest way to them; in a row, each near the middle of its parents."""

    @cache
    def depth(name: str) -> int:
        return 1 + max(map(depth, parents[name]), default=-1)

    levels = [[name for name in parents if depth(name) == level] for level in range(1 + max(map(depth, parents)))]
    places: dict[str, float] = {}
    for row in levels:
        means = {name: mean([places[one] for one in parents[name]]) for name in row}
        row.sort(key=lambda name, means=means: means[name])
        places |= {name: (column + 0.5) / len(row) for column, name in enumerate(row)}
    return levels


def mean(values: list[float]) -> float:
    """Their mean; the middle for none."""
    return sum(values) / len(values) if values else 0.5


def reduced(parents: Parents) -> Parents:
    """Without the parents that are ancestors of another parent."""

    @cache
    def ancestors(name: str) -> frozenset[str]:
        return frozenset(parents[name]).union(*map(ancestors, parents[name]))

    return {
        name: [one for one in found if not any(one in ancestors(other) for other in found)]
        for name, found in parents.items()
    }


def line(one: tuple[int, int], other: tuple[int, int]) -> str:
    """The path of a curve from the bottom of one node to the top of the other."""
    (x, y), (to_x, to_y) = (one[0] + WIDTH // 2, one[1] + HEIGHT), (other[0] + WIDTH // 2, other[1])
    bend = (to_y - y) // 2
    return f"M{x} {y}C{x} {y + bend} {to_x} {to_y - bend} {to_x} {to_y}"
