"""A dvc.lock that was cut off anywhere is noticed, never kept, and made good without losing a whole entry.

Run: uv run pytest tests/test_lockfile.py
"""

import threading
import time
from collections.abc import Callable

import pytest
import tiny

from pipeline import lockfile, repair

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DVC's own
REAL = (tiny.ROOT / "dvc.lock").read_text()
REAL_STAGES = {name.split("@")[0] for name in lockfile.entries_of(REAL)}
STAGES = {"one", "frozen", "two", "three"}


@pytest.fixture
def project(tmp_path_factory, tmp_path, monkeypatch):
    root = tiny.project(tmp_path_factory, tmp_path / "project")
    monkeypatch.chdir(root)
    repair.keep()
    return root


def entries(text: str) -> dict:
    """What DVC reads of a dvc.lock."""
    return lockfile.parse(text)["stages"]


def test_the_real_file_is_whole_and_its_entries_are_those_that_yaml_reads():
    assert lockfile.flaw(REAL, REAL, REAL_STAGES) == ""
    assert [*lockfile.entries_of(REAL)] == [*entries(REAL)]
    assert lockfile.merge(REAL, REAL) == lockfile.merge(REAL, "") == REAL
    assert {"data/images", "reports/index.html"} <= {*lockfile.outputs_of(REAL)}


@pytest.mark.parametrize("cut", [*range(0, len(REAL), len(REAL) // 50), *range(8192, len(REAL), 8192), len(REAL) - 1])
def test_a_cut_anywhere_in_the_real_file_is_noticed_and_made_good(cut):
    part = REAL[:cut]
    assert lockfile.flaw(part, REAL, REAL_STAGES)
    assert lockfile.merge(part, REAL) == REAL


def test_every_cut_of_a_file_newer_than_the_copy_keeps_what_is_whole_of_both(project):
    kept = (project / "dvc.lock").read_text()
    newer = kept.replace("seed: 0", "seed: 1").replace("colour: blue", "colour: pink")
    old, new, texts = entries(kept), entries(newer), lockfile.entries_of(newer)
    ends = {name: newer.index(text) + len(text) for name, text in texts.items()}
    changed = {name for name in old if old[name] != new[name]}
    assert changed == {"one", "frozen", "two@q"}
    for cut in range(0, len(newer), 3):
        assert lockfile.flaw(newer[:cut], kept, STAGES)
        made = lockfile.merge(newer[:cut], kept)
        found, whole = entries(made), {name for name in new if newer[ends[name] : cut].strip() or ends[name] == cut}
        last = next(name for name in new if name not in whole)  # DVC reads its first lines as a stage that is stale
        assert not lockfile.flaw(made, kept, STAGES) and [*found] == [*old]
        assert all(found[name] == (new if name in whole else old)[name] for name in found if name != last)
        assert found[last] == old[last] or (newer[cut - 1] == "\n" and last in changed)


def test_every_cut_without_a_copy_keeps_what_is_whole(project):
    text = (project / "dvc.lock").read_text()
    for cut in range(0, len(text), 7):
        made = lockfile.merge(text[:cut], "")
        complete = [*entries(made).items()][: None if text[cut - 1] != "\n" else -1] if made else []
        assert complete == [*entries(text).items()][: len(complete)]


@pytest.mark.parametrize(
    ("kept", "names", "flawed"),
    [
        (["one", "two@p", "three"], ["one", "two@p"], True),
        (["one", "two@p", "three"], ["one", "three"], False),  # somebody took it out
        (["one", "two@p", "gone"], ["one", "two@p"], False),  # no stage of dvc.yaml any more
        (["one"], ["one", "two@p"], False),
        (["one", "two@p"], ["two@p"], False),
    ],
)
def test_a_file_that_ends_before_kept_stages_is_flawed_unless_they_were_taken_out(kept, names, flawed):
    def text(stages):
        return lockfile.HEAD + "".join(f"  {name}:\n    cmd: x\n" for name in stages)

    assert bool(lockfile.flaw(text(names), text(kept), STAGES)) == flawed


@pytest.mark.parametrize(
    "text",
    ["schema: '2.0'\n", "schema: '1.0'\nstages: {}\n", "- 1\n", "stages:\n", f"{lockfile.HEAD}  a: 1\n", "\0\n",
     f"{lockfile.HEAD}  a:\n    deps: []\n", f"{lockfile.HEAD}  a:\n    cmd: x\n    deps: 3\n",
     f"{lockfile.HEAD}  a:\n    cmd: x\n    outs:\n    - path: b\n      hash: md5\n",
     f"{lockfile.HEAD}  a:\n    cmd: x\n    outs:\n    - path: b\n      hash: md5\n      md5: 764\n"],
)  # fmt: skip
def test_what_dvc_cannot_read_is_not_whole(text):
    assert lockfile.flaw(text, "", STAGES)


def test_keep_never_takes_a_part_of_the_file(project):
    text = (project / "dvc.lock").read_text()
    for cut in range(0, len(text), 13):
        (project / "dvc.lock").write_text(text[:cut])
        repair.keep()
        assert repair.KEPT.read_text() == text
    newer = text.replace("seed: 0", "seed: 1")
    (project / "dvc.lock").write_text(newer)
    repair.keep()
    assert repair.KEPT.read_text() == newer and [path.name for path in repair.WORK.iterdir()] == ["dvc.lock"]


def test_keep_while_dvc_rewrites_the_file_from_several_threads(project):
    text = (project / "dvc.lock").read_text()
    wholes, over = {text, text.replace("seed: 0", "seed: 1")}, threading.Event()

    def rewrite():
        while not over.is_set():
            for whole in wholes:
                with open("dvc.lock", "w+", buffering=256) as file:
                    for line in whole.splitlines(keepends=True):
                        file.write(line)

    writer = threading.Thread(target=rewrite)
    writer.start()
    keepers = [threading.Thread(target=lambda: [repair.keep() for _ in range(40)]) for _ in range(2)]
    for keeper in keepers:
        keeper.start()
    for keeper in keepers:
        keeper.join()
        assert repair.KEPT.read_text() in wholes
    over.set()
    writer.join()


def test_several_threads_may_write_the_same_file(project):
    failures: list[OSError] = []

    def rewrite():
        try:
            for _ in range(100):
                repair.write(repair.KEPT, "x\n")
        except OSError as error:
            failures.append(error)

    writers = [threading.Thread(target=rewrite) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failures


def test_keep_costs_less_than_reading_the_file_twice(project):
    (project / "dvc.lock").write_text(REAL)

    def keep() -> None:
        repair.KEPT.unlink(missing_ok=True)
        repair.keep()

    keeping, reading = cpu_secs(keep), cpu_secs(lambda: entries(REAL))
    assert keeping < 2 * reading, (keeping, reading)  # it reads it once
    assert repair.KEPT.read_text() == REAL


def cpu_secs(call: Callable[[], object]) -> float:
    """The least of three calls; what else the machine does counts little."""
    spent = []
    for _ in range(3):
        begun = time.process_time()
        call()
        spent.append(time.process_time() - begun)
    return min(spent)
