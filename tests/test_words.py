"""Names, docstrings, comments, messages and documents use the field's words: a list of retired ones stays out.

Run: uv run pytest tests/test_words.py

docs/log/ and CHANGELOG.md tell history, docs/renamed.tsv lists old names; strings that seed random numbers keep their
words, because other words would be other numbers.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RETIRED = r"""
    agreement anatomy artefact behaviour betters but\sfor cent(re|red) collapse_floor colour CollapseGuard dice dissect
    distiller few_labels finite_nudge grey heal(?!th) hflipped invite joint_recipe judge ladder leftovers lifeline
    likeness looker look_at mend mirror(?!ed) mosaic neighbour normalis opponent outlook painter (?:data/|--)palette
    quantis reanchor regularis initialis optimis rung slope_at standardis student sureness sweep told\sapart tokenis
    trunk vqgan_game
""".split()
PATTERN = re.compile("|".join(rf"(?<![A-Za-z_]){word}" for word in RETIRED), re.IGNORECASE)
SEEDS = re.compile(
    r'seed_of\((?:[^()]|\([^()]*\))*\)|Batches\("\w+"|rng\.\w+\("[^"]*"|ImageRng\([^)]*\)\.\w+\("[^"]*"|"centre"'
)
FOLDERS = {
    "stages": "*.py",
    "pipeline": "*.py",
    "benchmarks": "*.py",
    "tests": "*.py",
    "presets": "*.yaml",
    "docs": "*.md",
}
FILES = ["README.md", "CONTRIBUTING.md", "dvc.yaml", "params.yaml", "pretrain.yaml", "semtok.py", "pyproject.toml"]
FILES += ["studies/dvc.yaml", "studies/params.yaml"]


def texts() -> list[Path]:
    found = [path for folder, pattern in FOLDERS.items() for path in (ROOT / folder).rglob(pattern)]
    found += [*(ROOT / "stages").rglob("*.html"), *(ROOT / name for name in FILES)]
    return [path for path in found if "log" not in path.parts and path != Path(__file__)]


@pytest.mark.parametrize("folder", [*FOLDERS, "."])
def test_no_retired_word(folder):
    found = []
    for path in texts():
        if path.relative_to(ROOT).parts[0] != folder and not (folder == "." and path.parent == ROOT):
            continue
        for number, line in enumerate(SEEDS.sub("", path.read_text()).splitlines(), 1):
            if match := PATTERN.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}: {line.strip()[:100]}")
    assert not found, "\n".join(found)
