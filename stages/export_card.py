"""The model card of an exported artifact: what it is, what it was trained on, its figures with their protocol.

All of it comes from the artifact's config.json and from reports/. Figures of a report whose stage is stale are left
out, since they may be of another training.
"""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from stages.core import artifact

REPORTS = Path("reports")
WHAT = {"codebook": "tokenizer", "decoder": "decoder", "generator": "generator"}
TITLES = {"decoder": "Decoder", "codebook": "Tokenizer", "samples": "Sampling settings"}
USE = {
    "codebook": 'tokenizer = semtok.load_tokenizer("{0}")\ncodes = tokenizer.encode(["a.jpg"])  # int64 [1, N]',
    "decoder": 'decoder = semtok.load_decoder("{0}")\nimages = decoder.decode(codes)  # [B, N] -> uint8 [B, H, W, 3]',
    "generator": 'generator = semtok.load_generator("{0}")\nsample = generator.sample([{1!r}, None], seed=0)',
}
LONG = ("artifact", "checksum", "files", "inputs", "likelihood", "classes", "train_per_class", "refused", "splits")
Figures = list[tuple[str, dict[str, Any], dict[str, Any]]]  # a title, metrics, their protocol


def write_card(source: Path, out: Path, parts: dict[str, Path], name: str, stale: Sequence[str]) -> None:
    """Write README.md into `out`; `parts` are what an exported generator takes along."""
    config = artifact.read(source)
    figures = figures_of(source, config, parts, stale)
    images = images_of(source, config)
    blocks = [
        f"# {source.name}\n\nA {WHAT[config['artifact']]} of kind {config['kind']}, trained and exported by semtok "
        f"{version('semtok')}.",
        f"## Use\n\nInstall semtok from its repository, then:\n\n```python\nimport semtok\n\n{use(config, name)}\n```",
        f"## Trained on\n\n{trained_on(config, images, source)}",
        *(block_of(part, path) for part, path in parts.items()),
        f"## Settings\n\n{table(config)}",
        f"## Figures\n\n{describe(figures)}",
    ]
    data = ModelCardData(library_name="semtok", tags=["image-tokenizer", WHAT[config["artifact"]], config["kind"]])
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(blocks) + "\n").save(out / "README.md")


def use(config: dict[str, Any], name: str) -> str:
    """Lines that load the folder."""
    return USE[config["artifact"]].format(name, next(iter(config.get("classes", [])), None))


def images_of(source: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The config.json of the images that it was trained on; {} where they are not beside it."""
    images = source.absolute().parents[1] / "images"
    there = (images / artifact.CONFIG).is_file() and artifact.digest(images) == config["inputs"].get("images")
    return artifact.read(images) if there else {}


def trained_on(config: dict[str, Any], images: dict[str, Any], source: Path) -> str:
    """A sentence about the images, and the facts of the encoder that a tokenizer holds."""
    text = f"Images with the digest {config['inputs'].get('images', 'unknown')[:12]}."
    if images:
        train, val = (images["splits"][split]["images"] for split in ("train", "val"))
        crop = f", crop {images['crop']}" if "crop" in images else ""
        text += f" Source: {images['source']}; {train:,} train and {val:,} val images of {images['img_px']} px{crop}; "
        text += f"{len(images['classes']):,} classes." if images["classes"] else "no classes."
    if (encoder := source / "encoder" / artifact.CONFIG).is_file() and config["artifact"] == "codebook":
        text += f"\n\nThe encoder whose features are quantized:\n\n{table(artifact.read(encoder.parent))}"
    return text


def table(facts: dict[str, Any]) -> str:
    """The short values of a config as a table."""
    rows = [f"| {key} | {shown(value)} |" for key, value in facts.items() if key not in LONG]
    return "\n".join(["| key | value |", "|---|---|", *rows])


def block_of(part: str, path: Path) -> str:
    """What an exported generator takes along."""
    facts = artifact.read(path)
    return f"## {TITLES[part]}\n\n{table(facts['sampling'] if part == 'samples' else facts)}"


def shown(value: Any) -> str:
    """A value in one cell."""
    return str(value) if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)


def figures_of(source: Path, config: dict[str, Any], parts: dict[str, Path], stale: Sequence[str]) -> Figures:
    """The metrics of every report about the artifact, if it lies where the pipeline writes it."""
    figures: Figures = []
    if "likelihood" in config:
        figures.append(("likelihood of val codes", config["likelihood"], {}))
    if source.absolute().parents[1] != Path("data").absolute():
        return figures
    for stage, group in reports_of(source.name, config, parts):
        path = REPORTS / stage.replace("@", "/") / "metrics.json"
        if stage not in stale and path.is_file():
            report = json.loads(path.read_text())
            protocol = {one["of"]: one for one in report.get("protocol", [])}
            figures += (
                [(f"{stage}: {group}", numbers(report[group]), protocol.get(group, {}))] if group in report else []
            )
    return figures


def reports_of(name: str, config: dict[str, Any], parts: dict[str, Path]) -> list[tuple[str, str]]:
    """(stage, group of its metrics) for the stages that measured the artifact."""
    match config["artifact"]:
        case "codebook":
            beside = sorted(path.name for path in (REPORTS / "reconstruction").glob(f"{name}-*"))
            return [(f"codebook@{name}", "val"), *((f"reconstruction@{one}", "reconstruction") for one in beside)]
        case "decoder":
            return [(f"reconstruction@{name}", "reconstruction")]
    return [(f"generation@{parts['decoder'].name}", config["name"])]


def numbers(group: dict[str, Any]) -> dict[str, Any]:
    """The metrics of a group that are plain numbers."""
    return {key: value for key, value in group.items() if isinstance(value, int | float)}


def describe(figures: Figures) -> str:
    """A table and the protocol of each report."""
    if not figures:
        return "None: this artifact was not evaluated, or its evaluation is out of date."
    return "\n\n".join("\n\n".join(block for block in section(*one) if block) for one in figures)


def section(title: str, metrics: dict[str, Any], protocol: dict[str, Any]) -> list[str]:
    """Title, table and protocol of one report; ± is the `_std` of a metric, as the protocol defines it."""
    rows = [f"| {key} | {spread(key, metrics)} |" for key in metrics if not key.endswith("_std")]
    lines = [f"- {key}: {shown(value)}" for key, value in protocol.items()]
    return [
        f"### {title}",
        "\n".join(["| metric | value |", "|---|---|", *rows]),
        "Protocol:\n\n" + "\n".join(lines) if lines else "",
    ]


def spread(key: str, metrics: dict[str, Any]) -> str:
    """A metric, with its standard deviation if there is one."""
    return shown(metrics[key]) + (f" ± {metrics[f'{key}_std']}" if f"{key}_std" in metrics else "")
