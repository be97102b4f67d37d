"""CONTRIBUTING.md's tokenizer, decoder, generator and study run as written, beside the real ones.

Run: uv run pytest tests/test_contributing.py
"""

import re
import shutil
import sys
from pathlib import Path

import forks
import pytest
import toy as toys

IMPORTS = {  # what the document leaves out
    "codebook/params.py": "",
    "codebook/brightness.py": "import torch\nfrom torch import nn\n"
    "from stages.codebook.tokenizer import new_codebook\n",
    "decoder/params.py": "",
    "decoder/gray.py": "import torch\nfrom torch import nn\nfrom stages.core import artifact\n"
    "from stages.decoder.decoder import Decoder, base_config\n",
    "generator/params.py": "",
    "generator/uniform.py": "from stages.core.sampling import autoregressive_loss, autoregressive_nats\n"
    "from stages.generator.transformer import uniforms\n",
    "studies/params.py": "from typing import Literal\n",
    "studies/class_counts.py": "import argparse\nfrom pathlib import Path\nfrom stages.core import runtime\n"
    "from stages.core.artifact import images_digest\n"
    "from stages.core.params import load\nfrom stages.core.results import write_metrics\n"
    "from stages.data.reader import image_facts\nfrom stages.studies.params import ClassCounts\n",
}
OWN = toys.COMMANDS
AFTER = {  # command -> what replaces the toy's names
    "tokenizer_inputs": ("kmeans", "brightness"),
    "codebook": ("kmeans", "brightness"),
    "tokens": ("kmeans", "brightness"),
    "pixel_tokenizer": ("onestep", "gray"),
    "decoder": ("onestep", "gray"),
    "captions": ("", ""),
    "generator@kmeans-ar": (r"\bar\b", "uniform"),
    "samples@kmeans-ar": (r"\bar\b", "uniform"),
    "classifier": ("", ""),
    "reference": ("", ""),
    "reconstruction": ("onestep", "gray"),
}
STUDY = "stages.studies.class_counts --images data/images --report reports/class_counts"


def blocks() -> list[str]:
    """The Python of the document, in order."""
    text = (toys.ROOT / "CONTRIBUTING.md").read_text()
    return [re.sub(r"(?m)^   ", "", block) for block in re.findall(r"(?s)   ```python\n(.*?)   ```", text)]


@pytest.fixture(scope="module")
def project(toy, tmp_path_factory):
    """The toy with its own stages, to which the document's code was added; everything new has run."""
    root = tmp_path_factory.mktemp("contributing") / "toy"
    shutil.copytree(toy, root, ignore=shutil.ignore_patterns("scratch"))
    shutil.copytree(toys.ROOT / "stages", root / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    for (file, imports), block in zip(IMPORTS.items(), blocks(), strict=True):
        path = root / "stages" / file
        before = path.read_text() + "\n\n" if path.exists() else '"""A docstring."""\n\n'
        path.write_text(before + imports + block)
    ar = {"kind": "uniform", **toys.OPTIM}
    plain = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "guidance": 1.0, "precision": "fp32"}
    generator = toys.PARAMS["generator"]["ar"]
    toys.write_params(root, {
        "codebook": {"brightness": {"kind": "brightness", "num_codes": 8}},
        "decoder": {"gray": {"kind": "gray"}},
        "generators": ["ar", "masked", "uniform"],
        "generator": {"uniform": {**generator, **ar}}, "samples": {"uniform": plain},
        "class_counts": {"split": "train"},
    })  # fmt: skip
    lines = ["stages.core.code --out data/code"]
    lines += [re.sub(old, new, OWN[name]) if old else OWN[name] for name, (old, new) in AFTER.items()]
    with forks.forked(run_with_its_own_stages, str(root), [*lines, STUDY]) as child:
        child.join()
    assert child.exitcode == 0, "see the traceback above"
    return root


def run_with_its_own_stages(root: str, lines: list[str]) -> None:
    """What follows `python -m`, line by line, with the `stages` of `root`, in a process of its own."""
    import torch

    assert "stages" not in sys.modules
    torch.set_num_threads(1)
    sys.path.insert(0, root)
    for line in lines:
        toys.run_line(line, Path(root))


def test_each_example_is_at_most_10_lines():
    assert all(len(block.splitlines()) <= 10 for block in blocks())
    one, two, three = (sum(len(b.splitlines()) for b in blocks()[i : i + 2]) for i in (0, 2, 4))
    assert max(one, two, three) <= 10  # schema or registry line, and the work


@pytest.mark.parametrize("out", [
    "data/codebook/brightness", "data/tokens/brightness", "data/decoder/kmeans-gray", "data/generator/kmeans-uniform",
    "data/samples/kmeans/uniform",
])  # fmt: skip
def test_every_artifact_is_there(out, project):
    assert (project / out / "config.json").is_file()


def test_the_results_are_there(project):
    assert (project / "reports/class_counts/metrics.json").is_file()
    assert (project / "reports/reconstruction/kmeans-gray/metrics.json").is_file()
