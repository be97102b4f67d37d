"""One picture of the columns of several: the same val images through every decoder, side by side."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.report.draw import data_address
from stages.report.sections import Picture
from stages.report.tables import protocol_of

if TYPE_CHECKING:
    import numpy as np

PAPER = 255


def side_by_side(folder: Path, group: dict[str, dict[str, Any]]) -> list[Picture]:
    """Of sweeps of one protocol, whose pictures have the same rows: the original, then every decoder at its own steps.

    Nothing where there is but one decoder.
    """
    import numpy as np

    there = {name: metrics for name, metrics in group.items() if (folder / name / "steps.png").is_file()}
    columns: dict[str, np.ndarray] = {}
    for name, metrics in there.items():
        of_name = columns_of(folder / name / "steps.png", protocol_of(metrics, "steps.png"))
        steps = metrics["decoder"].get("steps")
        columns.setdefault("original", of_name["original"])
        columns[name if steps is None else f"{name} ({steps})"] = of_name["once" if steps is None else f"steps_{steps}"]
    if len(there) < 2 or len({len(column) for column in columns.values()}) > 1:
        return []
    caption = f"The same images through every decoder, in its own number of steps: {', '.join(columns)}"
    return [Picture(as_png(np.concatenate([*columns.values()], 1)), caption)]


def columns_of(path: Path, facts: dict[str, Any]) -> dict[str, np.ndarray]:
    """{name: uint8 [height, pitch, 3]}, each column with the gap to its right."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as file:
        picture = np.asarray(file.convert("RGB"))
    pitch, names = facts["pitch_px"], facts["columns"]
    missing = len(names) * pitch - picture.shape[1]
    whole = np.pad(picture, ((0, 0), (0, missing), (0, 0)), constant_values=PAPER)
    return dict(zip(names, np.split(whole, len(names), 1), strict=True))


def as_png(image: np.ndarray) -> str:
    """uint8 [height, width, 3] as an address."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(image).save(content, format="PNG")
    return data_address(content.getvalue())
