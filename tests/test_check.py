"""Every impossible value of params.yaml is found at once, before any stage runs.

Run: uv run pytest tests/test_check.py
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import toy as toys

from stages.check import NAMES, OPEN, SCHEMAS, errors_in
from stages.codebook.fit import KINDS as TOKENIZERS
from stages.decoder.train import KINDS as DECODERS

SPLIT = ("pretrain", "generator", "samples")  # sections of params.yaml whose parts have schemas of their own
PARAMS = (toys.ROOT / "params.yaml").read_text()


def check(path: Path) -> tuple[int, str, str]:
    """Exit status and what was printed, as a user sees it."""
    command = [sys.executable, "-m", "stages.check", "--params", str(path)]
    done = subprocess.run(command, cwd=toys.ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_the_shipped_file_is_possible():
    assert check(toys.ROOT / "params.yaml") == (0, "", "")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  num_codes: 256", "  num_codes: 0", "codebook.kmeans.num_codes = 0: input should be greater than 0"),
        ("  num_codes: 256", "  num_codes: 2.0", "codebook.kmeans.num_codes = 2.0"),
        ("  device: auto", "  device: tpu", "machine.device = 'tpu'"),
        ("  widths: [128, 64, 32]", "  widths: [128, 60]", "decoder.onestep: widths = [128, 60]: expected positive"),
        ("    heads: 4\n    dropout", "    heads: 3\n    dropout", "generator.model: heads = 3: expected a divisor"),
        ("seeds: [0, 1, 2]", "seeds: [0, 0]", "samples.draws.seeds: [0, 0]: expected different"),
        ("    steps: 8\n", "    steps: 0\n", "samples.masked.steps = 0"),
        ("\ntokens:", "\ntokenz:", "tokens: this section is missing"),
        ("\ntokens:", "\ntokenz:", "tokenz: no stage reads it"),
        ("generator:\n", "generator:\n  diffusion: {}\n", "generator.diffusion: no stage reads it; generator has mod"),
        ("  source: digits", "  source: folder", "data: folder = '': with source: folder, expected a folder"),
        ("[ar, masked]", "[ar, diffusion]", "no diffusion; there is ar, masked"),
        ("[ar, masked]", "[ar, ar]", "expected different names"),
        ("[ar, masked]", "[]", "generators = []: expected a list of at least one name"),
        ("[kmeans]", "[model]", "tokenizers = ['model']: no model"),
        ("[onestep]", "onestep", "decoders = 'onestep': expected a list"),
        ("[onestep]", "[twostep]", "decoders = ['twostep']: no twostep; there is onestep"),
        ("  render_ar: vqgan", "  render_xy: vqgan", "palette.render_xy: no such decoder; there is onestep, "),
        ("  render_ar: vqgan", "  render_ar: kmeans", "palette.render_ar = 'kmeans': expected a tokenizer that paints"),
        ("  render_ar: vqgan", "  render_ar: 3", "expected a tokenizer's name for each decoder that needs one"),
        ("[onestep]", "[render_ar]", "palette.render_ar = 'vqgan': render_ar is in use, so put this into `tokenizers`"),
        ("    method: ar ", "    method: ab ", "decoder.render_ar.method = 'ab': input should be 'ar' or 'masked'"),
        ("data:\n", "data: [\n", "not valid YAML"),
    ],
)  # fmt: skip
def test_an_impossible_value_is_named(old, new, said, tmp_path, monkeypatch):
    monkeypatch.chdir(toys.ROOT)
    assert old in PARAMS
    (tmp_path / "params.yaml").write_text(PARAMS.replace(old, new, 1))
    errors = errors_in(tmp_path / "params.yaml")
    assert any(said in line for line in errors), errors
    assert all(line.startswith(f"{tmp_path / 'params.yaml'}: ") for line in errors)


def test_all_errors_come_at_once_each_on_its_line_and_nothing_else(tmp_path):
    text = (
        PARAMS.replace("num_codes: 256", "num_codes: 0", 1)
        .replace("views: 8", "views: 0")
        .replace("[kmeans]", "[kmean]")
    )
    (tmp_path / "params.yaml").write_text(text)
    status, out, err = check(tmp_path / "params.yaml")
    assert (status, out) == (2, "")
    assert [line.split(": ")[2].split(" ")[0] for line in err.splitlines()] == [
        "tokenizers", "codebook.kmeans.num_codes", "codebook.kmeans_random.num_codes", "tokens.views",
    ]  # fmt: skip
    assert err.count("error: ") == 4


def test_a_renderer_in_use_needs_a_palette(tmp_path):
    text = PARAMS.replace("[onestep]", "[onestep, render_ar]").replace("[kmeans]", "[kmeans, vqgan]")
    (tmp_path / "params.yaml").write_text(text)
    assert errors_in(tmp_path / "params.yaml") == []
    (tmp_path / "params.yaml").write_text(text.replace("  render_ar: vqgan\n", ""))
    [line] = errors_in(tmp_path / "params.yaml")
    assert "palette.render_ar: missing; render_ar needs a tokenizer that paints: vqgan, fsq" in line


def test_a_file_that_is_missing_or_empty_is_an_error(tmp_path):
    [line] = errors_in(tmp_path / "params.yaml")
    assert line == f"{tmp_path / 'params.yaml'}: no such file; stages run from the repository's root"
    (tmp_path / "params.yaml").write_text("# nothing\n")
    assert len(errors_in(tmp_path / "params.yaml")) == len(SCHEMAS) + len([*NAMES, "tokenizers", "decoders", "palette"])


def test_every_part_of_params_yaml_has_its_schema_and_every_schema_its_part():
    params = toys.YAML(typ="safe").load(PARAMS)
    parts = {f"{name}.{part}" for name in SPLIT for part in params[name]}
    assert {*SCHEMAS} == {*params} - {*NAMES, *OPEN, *SPLIT} | parts


def test_the_names_are_those_that_the_commands_accept():
    params = toys.YAML(typ="safe").load(PARAMS)
    for section, kinds in (("codebook", TOKENIZERS), ("decoder", DECODERS)):
        assert {one["kind"] for one in params[section].values()} == {*kinds}
    source = (toys.ROOT / "stages/generator/train.py").read_text()
    assert re.findall(r'"(\w+)"', re.search(r"choices=\[(.*?)\]", source)[1]) == NAMES["generators"]


def test_it_imports_nothing_heavy():
    code = (
        "import sys, stages.check; print([name for name in ('torch', 'numpy', 'faiss', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=toys.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
