"""Whatever stands in params.yaml, the check and `semtok` answer in lines, without a traceback.

Run: uv run pytest tests/test_odd_values.py
"""

from collections.abc import Iterator
from typing import Any

import pytest
import toy as toys

from stages import check, names
from stages.core import UserError
from stages.core import params as core

PARAMS = toys.PARAMS
IMPOSSIBLE = {"odd": [None]}  # in the place of any value or section
ODD = [IMPOSSIBLE, {}, [], [["a"]], None, True, -1, 0, 5, 2**62, 1.5, float("inf"), "", "a; b\n", "x" * 10**4, {5: 5}]
FILE = f"{'x' * 10**4}.safetensors"


def nodes(tree: Any, above: tuple = ()) -> Iterator[tuple]:
    """The path of every section and every value."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        yield (*above, key)
        yield from nodes(value, (*above, key))


def replaced(path: tuple, value: Any) -> dict[str, Any]:
    """params.yaml with another value at this path."""
    changed = {**PARAMS}
    node = changed
    for key in path[:-1]:
        node[key] = node = {**node[key]}
    node[path[-1]] = value
    return changed


@pytest.fixture
def errors_of(tmp_path, monkeypatch):
    """The check's lines for such content, which is not parsed from a file."""
    path, content, parsed = tmp_path / "params.yaml", {}, core._parsed
    path.touch()
    monkeypatch.setattr(core, "_parsed", lambda file, *facts: content if file == path else parsed(file, *facts))

    def errors(changed: dict[str, Any]) -> list[str]:
        content.clear()
        content.update(changed)
        try:
            return check.errors_in(path)
        except UserError as error:
            return str(error).splitlines()

    return errors


IN_USE = {"machine", "pixel_tokenizer", *names.lists_of(toys.STAGES), *names.sections(toys.STAGES, PARAMS)}


def is_in_use(path: tuple) -> bool:
    """Whether a stage of the default run reads a value."""
    dotted = ".".join(path)
    return any(f"{dotted}.".startswith(f"{key}.") or f"{key}.".startswith(f"{dotted}.") for key in IN_USE)


@pytest.mark.parametrize("section", PARAMS)
def test_no_odd_value_anywhere_breaks_the_check_and_an_impossible_one_is_named(section, errors_of):
    paths = [(section, *below) for below in ((), *nodes(PARAMS[section]))]
    for number, path in enumerate(paths):
        odd = ODD if len(path) == 1 else [IMPOSSIBLE, [*ODD, FILE][number % (len(ODD) + 1)]]
        for value in odd:
            lines = errors_of(replaced(path, value))
            assert all(len(line) < 1000 for line in lines), (path, value)
            if value is IMPOSSIBLE and is_in_use(path) and path[0] != "pixel_tokenizer":
                assert any(path[-1] in line for line in lines), (path, value, lines)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    kind: kmeans", "    kind: [a]", "codebook.kmeans.kind = ['a']: expected one of kmeans"),
        ("{kind: masked,", "{kind: {a: 1},", "generator.masked.kind = {'a': 1}: expected one of ar"),
        ("  onestep:\n    kind: onestep", "  onestep:\n    kind: [b]", "decoder.onestep.kind = ['b']: expected one of"),
        ("  cluster:\n", "  5: {kind: cluster}\n  cluster:\n", "codebook: 5: expected a name of 1 to 64 letters"),
        ("    num_codes: 256", f"    num_codes: {'9' * 6000}", "not valid YAML: Exceeds the limit (4300 digits)"),
        ("    num_codes: 256", f"    num_codes: 0x{'f' * 6000}", "codebook.kmeans.num_codes: the number is too large"),
        ("seeds: [0, 1, 2]", f"seeds: [0, {2**63}]", "samples.draws.seeds.1: the number is too large"),
        ("[kmeans]", "5", "tokenizers = 5: expected a list of at least one name"),
        ("[digits, scenes, scenes-supervised]", "5", "pretrained = 5: expected a list of at least one name"),
        ("  seed: 0", "  seed: 2001-99-99", "not valid YAML: month must be in 1..12"),
        ("  seed: 0", f"  seed: {'x' * 10**5}", "…: input should be a valid integer"),
        ("  seed: 0", "  seed: &a [*a]", "data.seed = [[...]]: input should be a valid integer"),
        ("tokens:", "data: {}\ntokens:", 'not valid YAML: while constructing a mapping'),
    ],
)  # fmt: skip
def test_what_ended_in_a_traceback_is_one_line_that_names_the_key(old, new, message, tmp_path):
    text = toys.TEXT
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new, 1))
    try:
        lines = check.errors_in(tmp_path / "params.yaml")
    except UserError as error:
        lines = str(error).splitlines()
    assert len(lines) == 1 and message in lines[0] and len(lines[0]) < 500, lines


@pytest.mark.parametrize(
    ("text", "message"), [("", "found None"), ("[1]\n", "found [1]"), ("a: [\n", "not valid YAML")]
)
def test_a_file_without_sections_is_parsed_once_and_gives_one_line(text, message, tmp_path, monkeypatch):
    parsed = []
    monkeypatch.setattr(core, "YAML", lambda typ: parsed.append(typ) or toys.YAML(typ=typ))
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError) as refusal:
        check.errors_in(tmp_path / "params.yaml")
    assert message in str(refusal.value) and "\n" not in str(refusal.value) and len(parsed) == 1
