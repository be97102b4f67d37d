"""`semtok set` writes the values asked for, keeps comments, never writes an impossible value, and lists what reruns.

Run: uv run pytest tests/test_set.py
"""

import os
import re
import subprocess
import sys

import pytest
import tiny
import toy as toys
from ruamel.yaml import YAML

from pipeline.edit import SHOWN, collapse, read_arguments
from pipeline.errors import PipelineError
from pipeline.params_file import differences, dump, lay_over, leaves, parse, render, split

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DVC's own
PARAMS = toys.TEXT
TEXT = """\
# All of it.
names: [p, q]                 # members

codebook:                     # a section per tokenizer
  kmeans:
    num_codes: 256            # of one image
    seeds: [0, 1, 2]
    init: kmeans++            # random | kmeans++
    lr_peak: 2.0e-3
    augment: {degrees: 10, scale: 0.1, kind: x}
  other: {num_codes: 4, color: "blue", folder: ""}

# The last one.
machine:
  workers: 2
"""


def edit(text: str, *arguments: str) -> str:
    """The text of a params file after `semtok set`."""
    old, new = (parse(text, "params.yaml") for _ in range(2))
    lay_over(new, read_arguments(arguments, old))
    return render(old, new, text)


def value_of(text: str, key: str):
    """What stages read under a dotted key."""
    node = YAML(typ="safe").load(text)
    for part in key.split("."):
        node = node[part]
    return node


def changed_lines(before: str, after: str) -> list[tuple[str, str]]:
    pairs = zip(before.splitlines(), after.splitlines(), strict=True)
    return [(old, new) for old, new in pairs if old != new]


def test_values_of_the_real_file_can_be_set_and_no_other_key_changes_its_lines():
    keys = [key for key, _ in leaves(parse(PARAMS, ""))]
    before, values = split(PARAMS), ["1234567", "[1, 2]", "2.5e-3", "yes", "a long text", "null"]
    assert edit(PARAMS) == PARAMS and len(keys) > 130
    for value, key in zip(values, keys[5 :: len(keys) // len(values)], strict=False):
        edited = edit(PARAMS, f"{key}={value}")
        assert value_of(edited, key) == YAML(typ="safe").load(value)
        after = split(edited)
        [changed] = [name for name in before if before[name] != after[name]]
        assert f"{key}.".startswith(f"{changed}.") and before[changed][0] == after[changed][0]
        assert re.findall("# .*", before[changed][1]) == re.findall("# .*", after[changed][1])


@pytest.mark.parametrize(
    ("assignment", "line"),
    [
        ("codebook.kmeans.num_codes=512", "    num_codes: 512            # of one image"),
        ("codebook.kmeans.seeds=[0,1]", "    seeds: [0, 1]"),
        ("names=[ar]", "names: [ar]                   # members"),
        ("names=7", "names: 7                      # members"),
        ("codebook.kmeans.num_codes=[1,2]", "    num_codes: [1, 2]         # of one image"),
        ("codebook.kmeans.init=a text, of words", "    init: a text, of words    # random | kmeans++"),
        ("codebook.kmeans.lr_peak=1e-3", "    lr_peak: 1e-3"),
        ("codebook.kmeans.augment.degrees=7.25", "    augment: {degrees: 7.25, scale: 0.1, kind: x}"),
        ("codebook.kmeans.augment.kind=y, z", "    augment: {degrees: 10, scale: 0.1, kind: 'y, z'}"),
        ("codebook.other.color=red", '  other: {num_codes: 4, color: "red", folder: ""}'),
        ("machine.workers=true", "  workers: true"),
    ],
)
def test_a_value_is_written_as_it_was_given_and_the_comment_keeps_its_column(assignment, line):
    [(_, after)] = changed_lines(TEXT, edit(TEXT, assignment))
    assert after == line


@pytest.mark.parametrize("written", ["'a: b # c'", "", "'}'", '"1"', "1.0", "true", "1"])
def test_what_is_written_reads_as_what_was_given(written):
    for key in ("codebook.kmeans.init", "codebook.other.folder", "machine.workers"):
        found = value_of(edit(TEXT, f"{key}={written}"), key)
        assert repr(found) == repr(YAML(typ="safe").load(written) if written else "")


def test_a_comment_that_ends_like_a_key_stays_as_it_is():
    text = TEXT.replace("# members", "# such as {a: 1, b:\n                              # FILE}")
    assert edit(text, "machine.workers=3") == text.replace("workers: 2", "workers: 3")


def test_a_long_section_is_wrapped_before_a_key():
    names = [f"a_name_of_{n}" for n in range(12)]
    text = dump(parse(f"a: {{{', '.join(f'{name}: {name}' for name in names)}}}\n", ""))
    lines = text.splitlines()
    assert len(lines) > 1 and all(re.match(r"    a_name_of_\d+: a_name", line) for line in lines[1:])
    assert dump(parse(text, "")) == text and text == re.sub(" +$", "", text, flags=re.M)


def test_a_section_that_merges_another_changes_with_it_but_keeps_its_own():
    text = "a: &a\n  n: {x: 1, y: 2}\n  z: 3\nb:\n  <<: *a\n  z: 4\n"

    def changes(*arguments: str) -> dict[str, str]:
        return dict(differences(parse(text, ""), parse(edit(text, *arguments), "")))

    assert changes("a.n.x=10", "a.z=30") == {"a.n.x": "1 -> 10", "a.z": "3 -> 30", "b.n.x": "1 -> 10"}
    assert changes("b.n.x=10", "b.z=3") == {"b.n.x": "1 -> 10", "b.z": "4 -> 3"}, "and not the other way round"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("codebook.kmeans.num_code=1", "num_code: the params have no such key; they have codebook.kmeans.num_codes"),
        ("num_codes=1", "they have codebook.kmeans.num_codes, codebook.other.num_codes"),
        ("codebook.kmeans.augment=1", "codebook.kmeans.augment is a section: set codebook.kmeans.augment.degrees, "),
        ("codebook=1", "codebook is a section"),
        ("codebook.kmeans.num_codes", "expected KEY=VALUE, such as codebook.kmeans.num_codes=512"),
        ("=1", "expected KEY=VALUE"),
        ("codebook.kmeans.num_codes=[1", "codebook.kmeans.num_codes = [1: not valid YAML"),
        ("codebook.kmeans.num_codes=*a", "not valid YAML"),
        ("codebook.other.folder={a: 1}", "codebook.other.folder = {a: 1}: a mapping, where a value or a list"),
        ("codebook.kmeans.seeds={}", "codebook.kmeans.seeds = {}: a mapping"),
        ("codebook.kmeans.num_codes.more=1", "no such key"),
    ],
)  # fmt: skip
def test_a_key_or_value_that_cannot_be_is_named(assignment, message):
    with pytest.raises(PipelineError, match=re.escape(message)):
        edit(TEXT, assignment)


def test_stages_of_a_large_matrix_are_counted_instead_of_listed():
    few = [f"tokens@{number}" for number in range(SHOWN)]
    assert collapse(["data", *few]) == ["data", *few]
    assert collapse(["data", *few, "tokens@more", "report"]) == ["data", f"tokens@* ({SHOWN + 1} stages)", "report"]


@pytest.fixture
def project(tmp_path_factory, tmp_path):
    return tiny.project(tmp_path_factory, tmp_path / "project")


def test_changes_and_stages_that_rerun_are_printed_and_dvc_agrees(project):
    printed = tiny.semtok(project, "set", "first.seed=1")
    assert "first.seed  0 -> 1" in printed and tiny.stages_in(printed) == ["one", "two@p", "two@q", "three"]
    assert "one    the first\n" in printed and max(map(len, printed.splitlines())) <= 120
    assert "stale before" not in printed
    assert (project / "params.yaml").read_text() == tiny.PARAMS.replace("seed: 0, rate", "seed: 1, rate")
    assert {*tiny.stale(project)} == {"one"}, "the others are stale once it has run"
    assert not [*(project / ".dvc/tmp/semtok").iterdir()]
    printed = tiny.semtok(project, "set", "first.seed=0")
    assert "up to date again: one, three, two@p, two@q" in printed and tiny.stages_in(printed) == []
    assert (project / "params.yaml").read_text() == tiny.PARAMS


def test_only_the_effect_of_this_edit_is_listed(project):
    printed = tiny.semtok(project, "set", "second.p.color=green")
    assert tiny.stages_in(printed) == ["two@p", "three"]
    again = tiny.semtok(project, "set", "second.low=0.25", "second.q.color=red")
    assert tiny.stages_in(again) == ["two@p", "two@q", "three"]
    assert "two@p  (stale before) the second" in again and "two@q  the second" in again
    other = tiny.semtok(project, "set", "shipped.seed=1")
    assert "No stage reruns for this." in other and "3 other stages were stale before this edit" in other
    assert "frozen, so it does not run though it reads this (dvc unfreeze): frozen" in other


def test_a_value_that_no_stage_reads_reruns_nothing_unless_dvc_yaml_puts_it_into_a_command(project):
    printed = tiny.semtok(project, "set", "machine.workers=8")
    assert "machine.workers  2 -> 8" in printed and "No stage reruns for this." in printed
    assert "stale" not in printed and tiny.stale(project) == {}
    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(
        text.replace("cp source.txt data/one", "cp source.txt data/one && true ${machine.workers}")
    )
    tiny.repro(project)
    assert tiny.stages_in(tiny.semtok(project, "set", "machine.workers=2")) == ["one", "two@p", "two@q", "three"]


def test_a_shorter_or_longer_list_changes_the_graph(project):
    printed = tiny.semtok(project, "set", "names=[p]")
    assert "no longer in the pipeline: two@q" in printed and tiny.stages_in(printed) == ["three"]
    tiny.repro(project)
    printed = tiny.semtok(project, "set", "names=[p, q]")
    assert tiny.stages_in(printed) == ["three"], "two@q is as dvc.lock says"


def test_the_values_that_are_there_already_change_nothing(project):
    before = (project / "params.yaml").stat().st_mtime_ns
    assert "nothing changed" in tiny.semtok(project, "set", "first.rate=1.0e-3", "names=[p,q]", "second.q.color=blue")
    assert (project / "params.yaml").stat().st_mtime_ns == before


def test_an_impossible_value_changes_nothing_not_even_the_possible_ones_beside_it(project):
    tiny.add_check(project)
    os.chmod(project / "params.yaml", 0o640)
    printed = tiny.semtok(project, "set", "first.rate=0.5", "first.seed=-1", "second.low=ten", status=2)
    assert "error: params.yaml: not changed, since this is impossible:" in printed
    assert "  first.seed = -1: expected 0 or more\n  second.low = 'ten': expected a number\n" in printed
    assert (project / "params.yaml").read_text() == tiny.PARAMS and not [*(project / ".dvc/tmp/semtok").iterdir()]
    printed = tiny.semtok(project, "set", "first.rate=0.5", "first.seed=3")
    assert "first.seed  0 -> 3" in printed and "first.rate  1.0e-3 -> 0.5" in printed
    assert (project / "params.yaml").stat().st_mode & 0o777 == 0o640


def test_without_params_or_with_an_unknown_key_there_is_an_error_of_one_line(project):
    printed = tiny.semtok(project, "set", "first.sead=3", status=2)
    assert printed.count("\n") == 1 and "they have first.seed" in printed
    (project / "params.yaml").unlink()
    assert "error: params.yaml: no such file in " in tiny.semtok(project, "set", "a=1", status=2)


def test_a_reader_that_stops_reading_gets_no_traceback(project):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-W", "ignore", "-c", "from pipeline.cli import main; main()", "set", "first.seed=1"]
    done = subprocess.run(command, cwd=project, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert "first: {seed: 1" in (project / "params.yaml").read_text() and not done.stderr
