"""The toy pipeline with captions: pictures of four classes, each with one or two captions, some with none."""

import shutil
from pathlib import Path

import toy as toys

SHAPES = {"bars": "bar", "columns": "ring", "dark": "disc", "light": "star"}  # class -> the shape that captions name
COLORS, PLACES = ("red", "blue", "green"), ("top left", "centre", "bottom")
WORDS = {"kind": "vocabulary", "model": "word", "size": 100, "max_length": 12, "lowercase": True}
BY_CAPTION = {"kind": "ar", "condition": "caption", **toys.OPTIM, "lr_peak": 2e-3, "weight_decay": 0.05, "beta2": 0.98,
              "clip_norm": 1.0, "ema_decay": 0.9, "seed": 0}  # fmt: skip
SAMPLING = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "guidance": 1.5, "precision": "fp32"}
PARAMS = {
    "text_encoders": ["words"],
    "caption_checkers": ["scenes"],
    "generators": ["ar", "ar_text", "masked_text"],
    "text": {"words": WORDS},
    "captions": {"ar_text": "words", "masked_text": "words"},
    "generator": {"ar_text": BY_CAPTION, "masked_text": BY_CAPTION | {"kind": "masked", "mask_ratio": "cosine"}},
    "samples": {
        "ar_text": SAMPLING,
        "masked_text": {**SAMPLING, "steps": 2, "choice_temperature": 4.5, "mask_schedule": "cosine"},
    },
    "caption_checker": {"scenes": {"img_px": 8, "widths": [8, 8], "optim": toys.OPTIM}},
}  # fmt: skip
LISTS = toys.LISTS | {
    "${generators}": PARAMS["generators"],
    "${text_encoders}": PARAMS["text_encoders"],
    "${caption_checkers}": PARAMS["caption_checkers"],
}


def caption(name: str, number: int) -> str:
    """What a caption of a picture says."""
    return f"A small solid {COLORS[number % 3]} {SHAPES[name]} at the {PLACES[number // 3 % 3]}"


def write_captions(pictures: Path) -> None:
    """One caption beside each picture, two beside every fourth, none beside every eighth."""
    for name in SHAPES:
        for number in range(toys.IMAGES // len(toys.CLASSES)):
            lines = [caption(name, number), f"{caption(name, number)}, with a tiny red bar"][: 1 + (number % 4 == 1)]
            if number % 8:
                (pictures / name / f"{number}.txt").write_text("\n".join(lines) + "\n")


def build(root: Path) -> Path:
    """Everything from the pictures to the decoder, and the captions as words."""
    toys.write_params(root, PARAMS)
    toys.draw_pictures(root / "pictures")
    write_captions(root / "pictures")
    for command in toys.COMMANDS:
        if command == "captions":
            run("text", root)
        toys.run(command, root)
        if command == "decoder":
            return root
    raise AssertionError("dvc.yaml has no stage decoder")


def run(stage: str, root: Path, **item: str) -> None:
    """Call the command of a stage for one member: run("generator", root, generator="ar_text")."""
    command = toys.STAGES[stage]["cmd"]
    names = {"tokenizer": "kmeans", "decoder": "onestep", "text_encoder": "words", "caption_checker": "scenes"} | item
    line = toys.fill(command, {f"item.{key}": value for key, value in names.items()})
    toys.run_line(" ".join(line.split()).removeprefix("python -m "), root)


def copy(source: Path, root: Path, **changes: dict) -> Path:
    """A folder with the data of another one as links, and its params with changes."""
    shutil.copytree(source / "data", root / "data", copy_function=lambda one, two: Path(two).hardlink_to(one))
    toys.write_params(root, PARAMS)
    toys.write_layers(root / "params.yaml", toys.CHANGES, PARAMS, changes)
    return root


def run_with(root: Path, **changes: object) -> None:
    """Call `caption_accuracy` with changed params."""
    before = (root / "params.yaml").read_text()
    toys.write_layers(root / "params.yaml", toys.CHANGES, PARAMS, changes)
    try:
        run("caption_accuracy", root)
    finally:
        (root / "params.yaml").write_text(before)
