"""`semtok set` changes the values asked for and no other byte, never to an impossible one, and says what reruns.

Run: uv run pytest tests/test_set.py
"""

import json
import os
import re
import subprocess
import sys

import pytest
import tiny
from ruamel.yaml import YAML

from pipeline import edit
from pipeline.errors import PipelineError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DVC's own
PARAMS = (tiny.ROOT / "params.yaml").read_text()
LEAVES = dict(edit.leaf_nodes(PARAMS))
OWN = [*{id(node): key for key, node in reversed(LEAVES.items())}.values()]  # not taken over from another section


def value_of(text: str, key: str):
    """What stages read under a dotted key."""
    node = YAML(typ="safe").load(text)
    for part in key.split("."):
        node = node[part]
    return node


def written(key: str) -> str:
    return PARAMS[LEAVES[key].start_mark.index : LEAVES[key].end_mark.index]


def test_every_value_of_the_real_file_set_to_itself_leaves_every_byte():
    assert len(LEAVES) > 130
    for number, key in enumerate([*LEAVES][::7]):
        given = json.dumps(value_of(PARAMS, key)) if number % 2 else written(key)
        assert edit.assign(PARAMS, f"{key}={given}") == PARAMS, key


VALUES = ["12345678", "[1, 2]", "2.5e-3", "yes", "a longer text than before", "null"]


@pytest.mark.parametrize("number", range(len(VALUES)))
def test_values_of_the_real_file_can_be_set_and_their_lines_alone_change(number):
    value = VALUES[number]
    for key in OWN[number :: 8 * len(VALUES)]:
        edited = edit.assign(PARAMS, f"{key}={value}")
        pairs = zip(PARAMS.splitlines(), edited.splitlines(), strict=True)
        [(before, after)] = [(old, new) for old, new in pairs if old != new]
        assert value_of(edited, key) == YAML(typ="safe").load(value)
        assert after.partition(" # ")[2] == before.partition(" # ")[2], "its comment stays"


@pytest.mark.parametrize(
    ("assignment", "line"),
    [
        ("codebook.kmeans.num_codes=512", "    num_codes: 512"),
        ("samples.draws.seeds=[0,1]", "    seeds: [0, 1]"),
        ("generators=[ar]", "generators: [ar]              # draw codes"),
        ("data.folder=/my images/a, b", "  folder: /my images/a, b     # for source: folder"),
        ("data.folder='a: b # c'", None),
        ("data.folder=", None),
        ("codebook.kmeans.init=afk-mc2", "    init: afk-mc2             # random | kmeans++ | afk-mc2"),
        ("features.block=-1", "  block: -1                   # 0 is the first; -1 the last"),
        ("decoder.onestep.optim.lr_peak=1e-3", "      lr_peak: 1e-3"),
        ("decoder.onestep.optim.lr_peak=1", "      lr_peak: 1"),
        ("tokens.augment.degrees=7.25", "  augment: {degrees: 7.25, scale: 0.1, translate: 0.06, "),
        ("encoder.name=vit, x", "  name: vit, x                # one of `pretrained`"),
    ],
)  # fmt: skip
def test_a_value_is_written_as_it_was_given_and_the_comment_keeps_its_column(assignment, line):
    edited = edit.assign(PARAMS, assignment)
    if line is None:
        expected = YAML(typ="safe").load(assignment.partition("=")[2]) or ""
        assert value_of(edited, "data.folder") == expected
    else:
        assert any(found.startswith(line) for found in edited.splitlines()), edited


def test_a_text_that_ends_a_flow_mapping_is_quoted():
    text = "a: {b: x, c: 1}  # d\n"
    assert edit.assign(text, "a.b=y, z") == 'a: {b: "y, z", c: 1}  # d\n'
    assert edit.assign(text, "a.b='}'") == "a: {b: '}', c: 1}  # d\n"


def test_a_section_that_takes_a_value_over_changes_with_it_but_keeps_its_own():
    text = "a: &a {n: &n {x: 1, y: 2}, z: 3}\nb: {<<: *a, z: 4, n: {<<: *n, y: 5}}\nc:\n  <<: *a\n  n: {x: 1, y: 2}\n"
    changed = edit.assign(edit.assign(text, "a.n.x=10"), "a.z=30")
    assert edit.differing(text, changed) == {"a.n.x": ("1", "10"), "a.z": ("3", "30"), "b.n.x": ("1", "10"),
                                             "c.z": ("3", "30")}  # fmt: skip
    assert edit.load(changed)["b"] == {"z": 4, "n": {"x": 10, "y": 5}}
    assert edit.assign(text, "b.n.x=1") == text
    several = "a: &a {x: 1}\nb: &b {x: 2, y: 3}\nc: {<<: [*a, *b]}\n"
    assert edit.differing(several, edit.assign(several, "a.x=5")) == {"a.x": ("1", "5"), "c.x": ("1", "5")}


def test_one_and_true_and_one_point_zero_differ():
    for value in ("1", "1.0", "true", '"1"'):
        assert edit.assign("a: 2\n", f"a={value}") == f"a: {value}\n"
        assert edit.assign("a: 1\n", f"a={value}") == f"a: {value}\n"


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("codebook.kmeans.num_code=1", "num_code: params.yaml has no such key; it has codebook.kmeans.num_codes"),
        ("num_codes=1", "it has codebook.kmeans.num_codes"),
        (
            "decoder.onestep.gan=1",
            "decoder.onestep.gan is a section: set decoder.onestep.gan.weight, decoder.onestep.gan.sta",
        ),
        ("codebook=1", "codebook is a section"),
        ("codebook.kmeans.num_codes", "expected KEY=VALUE, such as codebook.kmeans.num_codes=512"),
        ("=1", "expected KEY=VALUE"),
        ("codebook.kmeans.num_codes=[1", "codebook.kmeans.num_codes = [1: not a YAML value"),
        ("codebook.kmeans.num_codes=*a", "not a YAML value"),
        ("encoder.weights={a: 1}", "encoder.weights = {a: 1}: a mapping, where a value or a list is expected"),
        ("samples.draws.seeds={}", "samples.draws.seeds = {}: a mapping"),
        ("codebook.kmeans.num_codes.more=1", "no such key"),
        (
            "decoder.diffusion_uniform.flow.gamma=1.0",
            "decoder.diffusion_uniform.flow.gamma is that of decoder.diffusion.flow.gamma: set it there, or write "
            "gamma into decoder.diffusion_uniform.flow in params.yaml",
        ),
    ],
)
def test_a_key_or_value_that_cannot_be_is_named(assignment, said):
    with pytest.raises(PipelineError, match=re.escape(said)):
        edit.assign(PARAMS, assignment)


@pytest.fixture
def project(tmp_path_factory, tmp_path):
    return tiny.project(tmp_path_factory, tmp_path / "project")


def test_what_changed_and_what_reruns_is_said_and_it_is_what_dvc_then_holds_stale(project):
    printed = tiny.semtok(project, "set", "first.seed=1")
    assert "first.seed  0 -> 1" in printed and tiny.stages_in(printed) == ["one", "two@p", "two@q", "three"]
    assert "one    the first\n" in printed and max(map(len, printed.splitlines())) <= 120
    assert "stale before" not in printed
    assert (project / "params.yaml").read_text() == tiny.PARAMS.replace("seed: 0, rate", "seed: 1, rate")
    assert {*tiny.stale(project)} == {"one"}, "the others are stale once it has run"
    assert not [*(project / ".dvc/tmp/semtok").iterdir()]


def test_only_the_effect_of_this_edit_is_named(project):
    printed = tiny.semtok(project, "set", "second.p.colour=green")
    assert tiny.stages_in(printed) == ["two@p", "three"]
    again = tiny.semtok(project, "set", "second.low=0.25", "second.q.colour=red")
    assert tiny.stages_in(again) == ["two@p", "two@q", "three"]
    assert "two@p  (stale before) the second" in again and "two@q  the second" in again
    other = tiny.semtok(project, "set", "shipped.seed=1")
    assert "No stage reruns for this." in other and "3 other stages were stale before this edit" in other
    assert "frozen, so it does not run though it reads this (dvc unfreeze): frozen" in other


def test_machine_settings_rerun_nothing(project):
    printed = tiny.semtok(project, "set", "machine.workers=8")
    assert "machine.workers  2 -> 8" in printed and "No stage reruns for this." in printed
    assert "stale" not in printed and tiny.stale(project) == {}


def test_a_value_that_dvc_yaml_puts_into_a_command_counts_too(project):
    text = (
        (project / "dvc.yaml")
        .read_text()
        .replace("cp source.txt data/one", "cp source.txt data/one && true ${machine.workers}")
    )
    (project / "dvc.yaml").write_text(text)
    tiny.repro(project)
    assert tiny.stages_in(tiny.semtok(project, "set", "machine.workers=8")) == ["one", "two@p", "two@q", "three"]


def test_setting_it_back_makes_stages_up_to_date_again(project):
    tiny.semtok(project, "set", "first.seed=1")
    printed = tiny.semtok(project, "set", "first.seed=0")
    assert "up to date again: one, three, two@p, two@q" in printed and tiny.stages_in(printed) == []
    assert (project / "params.yaml").read_text() == tiny.PARAMS


def test_a_shorter_or_longer_list_changes_the_graph(project):
    printed = tiny.semtok(project, "set", "names=[p]")
    assert "no longer in the pipeline: two@q" in printed and tiny.stages_in(printed) == ["three"]
    tiny.repro(project)
    printed = tiny.semtok(project, "set", "names=[p, q]")
    assert tiny.stages_in(printed) == ["three"], "two@q is as dvc.lock says"


def test_the_values_that_are_there_already_change_nothing(project):
    before = (project / "params.yaml").stat().st_mtime_ns
    assert "nothing changed" in tiny.semtok(project, "set", "first.rate=1.0e-3", "names=[p,q]", "second.q.colour=blue")
    assert (project / "params.yaml").stat().st_mtime_ns == before


@pytest.fixture
def checked(project):
    """The tiny project with the real params.yaml and its check."""
    return tiny.with_real_params(project)


def test_an_impossible_value_changes_nothing_not_even_the_possible_ones_beside_it(checked):
    printed = tiny.semtok(
        checked, "set", "codebook.kmeans.iterations=3", "codebook.kmeans.num_codes=0", "data.img_px=ten", status=2
    )
    assert "error: params.yaml is left as it was" in printed
    assert (
        "  codebook.kmeans.num_codes = 0: input should be greater than 0" in printed
        and "data.img_px = 'ten'" in printed
    )
    assert (checked / "params.yaml").read_text() == PARAMS and not [*(checked / ".dvc/tmp/semtok").iterdir()]


def test_several_assignments_are_applied_together(checked):
    (checked / "params.yaml").chmod(0o640)
    printed = tiny.semtok(
        checked, "set", "codebook.kmeans.iterations=3", "data.source=folder", f"data.folder={checked}"
    )
    text = (checked / "params.yaml").read_text()
    assert (
        "    iterations: 3\n" in text and "  source: folder  " in text and f"  folder: {checked} # for source" in text
    )
    assert "data.source  digits -> folder" in printed and tiny.stages_in(printed) == ["one"]
    assert (checked / "params.yaml").stat().st_mode & 0o777 == 0o640


def test_without_params_there_is_nothing_to_set(project):
    (project / "params.yaml").unlink()
    assert "error: params.yaml: no such file in " in tiny.semtok(project, "set", "a=1", status=2)


def test_a_reader_that_stops_reading_gets_no_traceback(project):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-W", "ignore", "-c", "from pipeline.cli import main; main()", "set", "first.seed=1"]
    done = subprocess.run(command, cwd=project, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert "first: {seed: 1" in (project / "params.yaml").read_text() and not done.stderr


def test_an_unknown_key_is_an_error_of_one_line(checked):
    printed = tiny.semtok(checked, "set", "codebook.kmeans.num_cods=3", status=2)
    assert printed.count("\n") == 1 and "it has codebook.kmeans.num_codes" in printed
