"""ATTRIBUTION.md: who made each picture, under which license, as the packages' copyright files say."""

from stages.data.photographs.packages import Package, Picture

INTRODUCTION = """# Attribution

What the copyright files of the packages say about each picture. A picture that they do not list by name falls under
their paragraph of all files, marked `*`; the lists may be older than the pictures. The texts of the licenses are in
these files, and in /usr/share/common-licenses on a Debian system.
"""


def attribution(pictures: dict[Package, list[Picture]]) -> str:
    """The whole document."""
    return "\n".join([INTRODUCTION, *(section(package, some) for package, some in pictures.items())])


def section(package: Package, pictures: list[Picture]) -> str:
    """A package, and a table of its pictures."""
    rows = [f"| {one.label}/{one.name} | {' | '.join(map(cell, package.rights(one)))} |" for one in pictures]
    return "\n".join([
        f"## {package.name} {package.version}",
        f"\nsha256 of the package: {package.sha256}\n\nAll files, `*`: {cell(package.everyone)}\n",
        "| picture | copyright | license | source |",
        "|---|---|---|---|",
        *rows,
        "",
    ])  # fmt: skip


def cell(text: str) -> str:
    """A text for a cell of a table."""
    return text.replace("|", "/")
