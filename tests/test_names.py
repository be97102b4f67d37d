"""Names that users give: impossible ones are refused by the check, by `semtok set` and by DVC, and no shell sees them.

Run: uv run pytest tests/test_names.py          (-m slow: every hostile name through `dvc repro`)
"""

import copy
import re
import shutil
from pathlib import Path
from typing import Any

import forks
import pytest
import tiny
import toy as toys

from stages.check import errors_in
from stages.core.params import NAME, NAME_RULE, shown

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DVC's own
HOSTILE = [
    "x; touch marker", "x && touch marker", "x || touch marker", "x | touch marker", "x & touch marker",
    "$(touch marker)", "`touch marker`", "x\ntouch marker", "x\r\ntouch marker", "x\ttouch", "'; touch marker; '",
    '"; touch marker; "', "$(touch${IFS}marker)", "x > marker", "x < /dev/null", "{touch,marker}", "x # comment",
    "x\\", "!!", "*", "?", "[ab]", "~", "$HOME", "${item.tokenizer}", "${tokenizers}", "%PATH%", "x=1", "a,b", "a:b",
    "x;touch marker;/../y", "../x", "..", ".", "a/b", "/tmp/x", "a\\b", "x@y", "@", "a b", " x", "x ", "--help", "-x",
    "_x", ".x", "x.", "a.b", "", "x" * 65, "x" * 300, "кmeans", "kmeаns", "ｋmeans", "x\u200b", "x\u2028y", "x\u0000y",
    "x\u001b[2Jy", "é", "x١",
]  # fmt: skip
OWNERS = {"tokenizers": "codebook", "decoders": "decoder", "generators": "generator"}
POSSIBLE = ["kmeans", "vq_rate", "scenes-supervised", "2x", "A", "x" * 64, "a-", "1e3", "None"]


def with_names(*given: Any, lists: tuple[str, ...] = tuple(OWNERS)) -> dict[str, Any]:
    """params.yaml with more names in these lists, each with a section."""
    params = copy.deepcopy(toys.PARAMS)
    for key in lists:
        owner = OWNERS[key]
        sections = [owner, "samples"] if key == "generators" else [owner]
        for section in sections:
            params[section] |= dict.fromkeys(given, params[section][params[key][0]])
        params[key] += given
    return params


def write(path: Path, params: dict[str, Any]) -> Path:
    """A params file, and the studies' beside it."""
    return toys.write_parts(path, params)


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[:40])
def test_no_hostile_name_is_possible(name):
    assert not NAME.fullmatch(name)


def test_there_are_at_least_40_and_todays_names_are_possible():
    assert len(set(HOSTILE)) >= 40 and all(NAME.fullmatch(name) for name in POSSIBLE)


def test_the_check_names_each_in_lists_and_in_sections_on_a_line_of_its_section(tmp_path):
    lines = errors_in(write(tmp_path / "params.yaml", with_names(*HOSTILE)))
    for section in (*OWNERS, *OWNERS.values(), "samples"):
        [line] = [line for line in lines if line.startswith(f"{tmp_path / 'params.yaml'}: {section}: ")]
        assert all(shown(name) in line for name in HOSTILE) and line.endswith(NAME_RULE)
    assert all(line.isprintable() for line in lines), "no line is broken by a name"


@pytest.mark.parametrize("section", ["codebook", "decoder", "generator", "samples", "pixel_tokenizer", "text"])
def test_a_section_that_no_list_names_may_not_have_an_impossible_name_either(section, tmp_path):
    params = with_names()
    params[section]["a/b"] = params[section][next(iter(params[section]))]
    [line] = errors_in(write(tmp_path / "params.yaml", params))
    assert f"{section}: 'a/b': {NAME_RULE}" in line


def test_possible_names_are_accepted(tmp_path):
    assert errors_in(write(tmp_path / "params.yaml", with_names(*POSSIBLE[1:]))) == []


@pytest.mark.parametrize("pair", [["kmeans", "kmeans"], ["kmeans", "KMeans"]])
def test_equal_names_are_refused_also_if_only_the_case_differs(pair, tmp_path):
    params = with_names("KMeans", lists=("tokenizers",)) | {"tokenizers": pair}
    lines = errors_in(write(tmp_path / "params.yaml", params), lists_only=True)
    assert len(lines) == 1 and "expected different names, not only in upper and lower case" in lines[0], lines


JOINED = [
    ({"tokenizers": ["kmeans", "kmeans-wide"], "decoders": ["onestep", "wide-onestep"]}, "tokenizers, decoders",
     ["decoder", "reconstruction", "generation", "decoding_steps", "resolution_transfer"], "kmeans-wide-onestep"),
    ({"tokenizers": ["kmeans", "kmeans-b"], "generators": ["ar", "b-ar"]}, "tokenizers, generators",
     ["generator", "samples", "layer_probe"], "kmeans-b-ar"),
    ({"tokenizers": ["kmeans", "kmeans-B"], "generators": ["ar", "b-ar"]}, "tokenizers, generators",
     ["generator", "samples", "layer_probe"], "kmeans-b-ar"),
]  # fmt: skip


@pytest.mark.parametrize(("lists", "named", "stages", "member"), JOINED)
def test_names_that_dvc_would_join_to_the_same_member_are_refused_for_every_matrix(
    lists, named, stages, member, tmp_path
):
    params = with_names() | lists
    for key, names in lists.items():
        params[OWNERS[key]][names[1]] = params[OWNERS[key]][names[0]]
    if "generators" in lists:
        params["samples"][lists["generators"][1]] = params["samples"]["ar"]
    for lists_only in (True, False):
        lines = errors_in(write(tmp_path / "params.yaml", params), lists_only)
        both = [(named, f"{stage}@{member}") for stage in stages]
        both += [(f"{named}, generators", f"sampling@{member}-ar")] * ("decoders" in lists)
        assert lines == [
            f"{tmp_path / 'params.yaml'}: {keys}: two pairs of names both give {name}; rename one"
            for keys, name in both
        ]


def test_numbers_of_a_matrix_are_numbers(tmp_path):
    params = with_names()
    params["ablation"]["num_codes"] = ["8; touch marker"]
    [line] = errors_in(write(tmp_path / "params.yaml", params), lists_only=True)
    assert "ablation.num_codes.0 = '8; touch marker': input should be a valid integer" in line


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A copy of what DVC and the check read, in which the stage `code` has run."""
    root = tmp_path_factory.mktemp("names") / "copy"
    shutil.copytree(toys.ROOT / "stages", root / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore", "params.yaml", "pretrain.yaml", "studies/dvc.yaml", "studies/params.yaml"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(toys.ROOT / name, root / name)
    tiny.dvc(root, "init", "-q", "--no-scm")
    assert dvc_repro(root, "code")[0] == 0
    return root


def dvc_repro(root: Path, *arguments: str) -> tuple[int, str]:
    """Exit status and output of `dvc repro`, whose stages find this Python."""
    done = forks.run("dvc", "repro", *arguments, root=root, PYTHONWARNINGS="ignore", DVC_NO_ANALYTICS="1")
    return done.returncode, done.stdout + done.stderr


def files_in(root: Path) -> set[Path]:
    """Every file outside of DVC's own folder and of Python's bytecode."""
    return {path for path in root.rglob("*") if not {".dvc", "__pycache__"} & {*path.relative_to(root).parts}}


def refuse_by_dvc(root: Path, name: str, key: str) -> str:
    """What `dvc repro` says to params.yaml with a name in a list; nothing but the stage `code` may have begun."""
    before = files_in(root)
    write(root / "params.yaml", with_names(name, lists=(key,)))
    status, text = dvc_repro(root)
    assert status and {*re.findall(r"Running stage '(.*)'", text)} <= {"code"}, (name, text)
    assert files_in(root) <= before and not [*root.rglob("marker")], name
    return text


@pytest.mark.parametrize(
    ("key", "name"),
    [("tokenizers", "x; touch marker"), ("generators", "--help"), ("decoders", "x;touch marker;/../y")],
)
def test_dvc_refuses_a_hostile_name_before_a_shell_sees_it(key, name, repository):
    text = refuse_by_dvc(repository, name, key)
    assert f"error: params.yaml: {key}: {name!r}: {NAME_RULE}" in text and "failed to reproduce 'code'" in text


@pytest.mark.slow
def test_dvc_refuses_every_hostile_name(repository):
    for number, name in enumerate(HOSTILE):
        refuse_by_dvc(repository, name, [*OWNERS][number % len(OWNERS)])


def test_dvc_refuses_equal_names_and_other_lists_change_no_output_of_the_check(repository):
    def recorded() -> list[dict]:
        return toys.YAML(typ="safe").load(repository / "dvc.lock")["stages"]["code"]["outs"]

    before = recorded()
    write(repository / "params.yaml", {**with_names(), "generators": ["ar", "ar"]})
    status, text = dvc_repro(repository, "code")
    assert status and "error: params.yaml: generators = ['ar', 'ar']: expected different names" in text
    write(repository / "params.yaml", {**with_names(), "tokenizers": ["kmeans", "cluster"]})
    status, text = dvc_repro(repository, "code")
    assert status == 0 and re.findall(r"Running stage '(.*)'", text) == ["code"], text
    assert recorded() == before and len(before) == 3, "nothing downstream reruns"


def test_semtok_set_refuses_them_in_lists_and_in_sections_and_changes_nothing(repository):
    shutil.copy(toys.ROOT / "params.yaml", repository / "params.yaml")
    before = (repository / "params.yaml").read_bytes()
    preset = {key: value for key, value in with_names(*HOSTILE).items() if key in {*OWNERS, *OWNERS.values()}}
    with open(repository / "preset.yaml", "w", encoding="utf-8") as file:
        toys.YAML(typ="safe").dump(preset, file)
    printed = tiny.semtok(repository, "set", "@preset.yaml", status=2)
    assert printed.startswith("error: params.yaml: not changed, since this is impossible:\n")
    assert all(printed.count(shown(name)) >= 6 for name in HOSTILE), "three lists and three sections"
    for argument in ('tokenizers=["x; touch marker"]', "generators=[ar, ar]"):
        printed = tiny.semtok(repository, "set", argument, status=2)
        assert "params.yaml: not changed" in printed and "expected" in printed
    assert (repository / "params.yaml").read_bytes() == before and not [*repository.rglob("marker")]


BROKEN = [  # what to replace in params.yaml, by what, and what `semtok status` says; "" where DVC can read it
    ("tokenizers: [kmeans] ", "tokenizers: 5 ", "tokenizers = 5: expected a list of at least one name"),
    ("    kind: kmeans", "    kind: [a]", ""),
    ("    num_codes: 256 ", f"    num_codes: {'9' * 6000} ", "not valid YAML: Exceeds the limit"),
    ("    num_codes: 256 ", f"    num_codes: 0x{'f' * 6000} ", ""),
    ("codebook: ", "codebook: 5\ncodebok: ", ""),
    ("tokens:", "data: {}\ntokens:", "duplicate key"),
]


@pytest.mark.parametrize(("old", "new", "message"), BROKEN, ids=[new[:20] for _, new, _ in BROKEN])
def test_semtok_answers_to_odd_params_in_lines(old, new, message, repository):
    """`semtok` in this process: an exception other than PipelineError would fail the test."""
    text = (toys.ROOT / "params.yaml").read_text()
    assert old in text
    (repository / "params.yaml").write_text(text.replace(old, new, 1))
    printed = tiny.semtok(repository, "status", status=2 if message else 0)
    assert message in printed and max(map(len, printed.splitlines())) < 1000, printed
    printed = tiny.semtok(repository, "set", "data.seed=1", status=2)
    assert printed.startswith("error: ") and max(map(len, printed.splitlines())) < 1000, printed


@pytest.mark.parametrize("text", ["", "[1]\n"])
def test_semtok_answers_to_a_file_without_sections(text, repository):
    (repository / "params.yaml").write_text(text)
    for command in (["status"], ["set", "data.seed=1"]):
        assert "expected sections with values" in tiny.semtok(repository, *command, status=2)


def test_semtok_set_names_a_number_that_cannot_be(repository):
    shutil.copy(toys.ROOT / "params.yaml", repository / "params.yaml")
    for written in ("9" * 6000, f"0x{'f' * 6000}", "2001-99-99"):
        printed = tiny.semtok(repository, "set", f"data.seed={written}", status=2)
        assert printed.startswith("error: ") and max(map(len, printed.splitlines())) < 1000
