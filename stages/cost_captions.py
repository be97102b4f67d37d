"""What captions cost: the shapes of text encoders, read from params.yaml alone."""

import json
from pathlib import Path
from typing import Any

from stages.core.params import load_list
from stages.generator import params as generator
from stages.text import params as text
from stages.text.chosen import check_chosen, load_chosen

WIDTHS = ("hidden_size", "d_model", "n_embd")  # names of the width in the config.json of text models


def bytes_of_captions(path: Path) -> dict[str, int]:
    """Per text encoder in use, bytes of one caption; the operations of a frozen text model are not counted."""
    return {name: bytes_of(name, path) for name in load_list("text_encoders", path, empty=True)}


def shape_of(encoder: str, path: Path) -> dict[str, int]:
    """What a text encoder gives of a caption; a vocabulary may turn out smaller."""
    section = text.load_params(encoder, path)
    if isinstance(section, text.Transformer):
        return {"length": section.max_length, "features": width_of(Path(section.folder))}
    assert isinstance(section, text.Vocabulary)
    return {"length": section.max_length, "vocabulary": section.size}


def width_of(folder: Path) -> int:
    """The width of a text model; 1 where its config.json does not say it under a usual name."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    config = config.get("text_config", config)
    return next((config[name] for name in WIDTHS if name in config), 1)


def given_to(name: str, classes: int, path: Path) -> dict[str, Any]:
    """The arguments of TokenTransformer that say what a generator is given."""
    if generator.load_params(name, path).training.condition == "class":
        return {"num_classes": classes}
    return {"num_classes": 0, "caption": shape_of(check_chosen(name, load_chosen(path), path), path)}


def bytes_of(encoder: str, path: Path) -> int:
    """Of one caption in a text artifact."""
    section, shape = text.load_params(encoder, path), shape_of(encoder, path)
    if not isinstance(section, text.Transformer):
        return 2 * shape["length"]
    return shape["length"] * shape["features"] * (4 if section.precision == "fp32" else 2)
