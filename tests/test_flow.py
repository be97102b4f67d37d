"""`semtok run` and `dvc repro` are the same pipeline: the same stages run, and neither leaves the other anything to do.

Run: uv run pytest tests/test_flow.py
"""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import forks
import mini
import pytest
import serving

from pipeline.graph import name_of


def semtok(root, server, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`semtok …` in the project, against the test's server."""
    return forks.run("semtok", *arguments, root=root, **server.env, **env)


def ran(text: str) -> set[str]:
    """The stages whose commands ran, by DVC's own words."""
    return set(map(name_of, re.findall(r"Running stage '([^']+)'", text)))


def restored(text: str) -> set[str]:
    """The stages whose outputs DVC took from its cache."""
    return set(map(name_of, re.findall(r"Stage '([^']+)' is cached - skipping run", text)))


def run(root, server, *arguments: str, **env: str) -> str:
    """What a successful `semtok run` printed."""
    done = semtok(root, server, "run", *arguments, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def edit_code(root, old: str, new: str, module: str = "run") -> None:
    path = root / f"stages/steps/{module}.py"
    path.write_text(path.read_text().replace(old, new))


def change_delete_and_add(root) -> None:
    mini.write_params(root, left={"value": 3})
    shutil.rmtree(root / "data/right-1")
    mini.write_dvc_yaml(root, (1, 2, 3))


def change_back_and_comment(root) -> None:
    mini.write_params(root)
    mini.write_dvc_yaml(root)
    edit_code(root, "total = ", "# a comment\n    total = ")


EVERYTHING, BELOW_LEFT = {*mini.STAGES}, {"left", "join", "last"}
CHANGES = [
    # what happens, how, which stages run, which are restored
    (
        "a param changed, an output deleted, a member added",
        change_delete_and_add,
        BELOW_LEFT | {"right@3"},
        {"right@1"},
    ),
    ("all changed back, and a comment", change_back_and_comment, {"code"}, BELOW_LEFT),
    ("code changed", lambda root: edit_code(root, "total = ", "total = 1 * ", "other"), {"code", "alone"}, set()),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, server):
    """A project in which `semtok run` ran everything once; not to be changed."""
    root = mini.build(tmp_path_factory.mktemp("flow") / "finished")
    printed = run(root, server)
    assert ran(printed) == EVERYTHING and not restored(printed)
    return root


def test_semtok_run_and_dvc_repro_run_the_same_stages_and_leave_each_other_nothing(finished, tmp_path, server):
    ours, theirs = (shutil.copytree(finished, tmp_path / name) for name in ("ours", "theirs"))
    assert mini.dvc(theirs, "repro").count("didn't change, skipping") == len(EVERYTHING)
    for what, change, expected, from_cache in CHANGES:
        change(ours), change(theirs)
        with ThreadPoolExecutor(1) as beside:
            running = beside.submit(run, ours, server)
            by_dvc, by_semtok = mini.dvc(theirs, "repro"), running.result()
        assert ran(by_semtok) == ran(by_dvc) == expected, what
        assert restored(by_semtok) == restored(by_dvc) == from_cache, what
        states = {name: one["state"] for name, one in server.task_runs(server.newest_run()["id"]).items()}
        assert {name for name, state in states.items() if state["name"] == "Cached"} == set(states) - expected, what
        said = {name for name, state in states.items() if "restored from its cache" in state["message"]}
        assert said == from_cache, what
        assert mini.status(ours) == mini.status(theirs) == {}, what
    assert mini.dvc(ours, "repro").count("didn't change, skipping") == len(EVERYTHING)
    left = run(theirs, server)
    assert not ran(left) | restored(left)


@pytest.fixture(scope="module")
def project(finished, tmp_path_factory):
    """A project in which everything ran once."""
    return shutil.copytree(finished, tmp_path_factory.mktemp("flow") / "project")


@pytest.fixture(scope="module")
def watched(project, server):
    """A run of three stages beside each other and one after them, against a first commit, and a second run beside it:
    the id of the first, and what became of the second."""
    for command in (["git", "add", "-A"], ["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "t"]):
        mini.run(command, project)
    (project / "reports/index.html").touch()
    mini.write_params(project, left={"value": 25, "steps": 40}, right={"steps": 40})
    with ThreadPoolExecutor(1) as beside:
        first = beside.submit(run, project, server, "join", "--jobs", "2", CUDA_VISIBLE_DEVICES="7,8")
        serving.wait_for(lambda: first.done() or serving.running(project, "stages.steps.run"))
        flow_run_id, second = server.newest_run()["id"], semtok(project, server, "run")
        assert not first.done()
        printed = first.result()
    mini.write_params(project)
    tags = dict(tag.split(":", 1) for tag in server.ask(f"flow_runs/{flow_run_id}")["tags"] if ":" in tag)
    return SimpleNamespace(id=flow_run_id, second=second, printed=printed, tags=tags)


def test_a_second_run_refuses_with_the_reason_and_disturbs_nothing(watched):
    assert watched.second.returncode == 2
    assert f"running here already (process {watched.tags['pid']})" in watched.second.stderr


def test_a_run_says_where_it_comes_from_what_it_will_run_and_in_one_line_what_was_up_to_date(watched, project):
    head = mini.run(["git", "log", "-1", "--format=%h %D"], project).stdout.split()
    assert watched.tags["folder"] == str(project)
    assert [watched.tags["commit"], watched.tags["branch"]] == [head[0], head[-1]]
    assert "6 stages, 2 of them up to date; to run: left, right@1, right@2; then, if their inputs change: join" in (
        watched.printed.replace("\n", " ")
    )
    assert "unchanged: code, first" in watched.printed and "Cached" not in watched.printed


def test_independent_stages_overlap_with_two_jobs_each_with_its_own_log_and_a_gpu(watched, server):
    assert set(re.findall(r"gpus (\S+)", watched.printed)) == {"7", "8"}
    runs = server.task_runs(watched.id)
    assert runs.keys() == {"code", "first", "left", "right@1", "right@2", "join"}
    spans = [(runs[name]["start_time"], runs[name]["end_time"]) for name in ("left", "right@1", "right@2")]
    starts, ends = zip(*sorted(spans), strict=True)
    assert starts[1] < ends[0], "two at once"
    assert not any(one["tags"] for one in runs.values()), "those of the run are the run's alone"
    assert runs["join"]["start_time"] > max(ends)
    parents = {one["id"] for name, one in runs.items() if name in ("code", "left", "right@1", "right@2")}
    waits = runs["join"]["task_inputs"]["wait_for"]
    assert {one["id"] for one in waits} == parents
    said = server.logs(runs["left"]["id"])
    assert "Running stage 'left':" in said and any("40/40" in line for line in said)
    assert not any("right" in line for line in said)


def test_progress_metrics_pictures_curves_and_a_summary_are_published(watched, project, server):
    made = {one["key"]: one for one in server.artifacts(watched.id)}
    assert made["left-progress"]["data"] == 100 and "40 of 40 step" in made["left-progress"]["description"]
    assert made["left-progress"]["task_run_id"] == server.task_runs(watched.id)["left"]["id"]
    assert '"sum"' in made["left-metrics"]["data"]
    assert all("(data:image/png;base64," in made[key]["data"] for key in ("left-squares", "left-curves"))
    table, params, metrics = re.split("### (?:Params|Metrics) against the last commit", made["summary"]["data"])
    assert "| first | unchanged | 0.0 |  |" in table
    assert re.search(r"\| left \| ran \| \d+\.\d \| left\.\w+ \d+ -> \d+, left", table)
    assert re.search(r"\| join \| ran \| \d+\.\d \| left ran, right@1 ran, right@2 ran \|", table)
    assert "left.value" in params and "reports/join/metrics.json" in metrics
    assert f"The report: `{(project / 'reports/index.html').as_uri()}`" in metrics


def test_a_failed_stage_is_tried_as_often_as_its_meta_says_and_stops_what_needs_it_and_nothing_else(project, server):
    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(
        text.replace("  left:", "  left:\n    meta: {prefect: {retries: 1, retry_delay_secs: 0}}", 1)
    )
    mini.write_params(project, left={"value": -1}, alone={"value": 5})
    done = semtok(project, server, "run")
    assert done.returncode == 1
    runs = server.task_runs(server.newest_run()["id"])
    states = {name: one["state"] for name, one in runs.items()}
    assert runs["left"]["run_count"] == 2 and runs["alone"]["run_count"] == 1
    assert "left.value = -1" in states["left"]["message"] and states["left"]["type"] == "FAILED"
    assert states["join"]["name"] == states["last"]["name"] == "NotReady"
    assert states["alone"]["name"] == "Completed"
    (project / "dvc.yaml").write_text(text)
    mini.write_params(project)


@pytest.mark.parametrize("edited", ["params", "code"])
def test_an_edit_while_a_stage_runs_fails_it_and_records_nothing(edited, project, server):
    mini.write_params(project, left={"value": 4, "steps": 60})
    command = [sys.executable, "-m", "dvc", "repro", "left"] if edited == "code" else None
    if command is None:
        command = [*serving.SEMTOK, "run", "left"]
    env = {**os.environ, **server.env, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    steps = (project / "stages/steps/run.py").read_text()
    with subprocess.Popen(
        command, cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        printed = until(child, "Running stage 'left'") + until(child, "0/60")
        if edited == "params":
            mini.write_params(project, left={"value": 5, "steps": 60})
        else:
            (project / "stages/steps/run.py").write_text(f"{steps}EDITED = 1\n")
        printed += child.stdout.read()
    assert child.returncode != 0 and "changed while this stage ran" in printed, printed
    assert "left" in mini.status(project)
    (project / "stages/steps/run.py").write_text(steps)
    mini.write_params(project)
    mini.dvc(project, "repro")
    assert mini.status(project) == {}


def until(child: subprocess.Popen, word: str) -> str:
    """All that a process prints until it prints `word`."""
    text = ""
    while word not in text:
        text += child.stdout.read(1)
        assert child.poll() is None or word in text, text
    return text


@pytest.mark.slow
def test_twenty_rounds_of_eight_stages_at_once_lose_nothing(tmp_path, server):
    root = mini.build(tmp_path / "project", members=tuple(range(8)))
    run(root, server, "left")
    members = {f"right@{n}" for n in range(8)}
    for number in range(20):
        mini.write_params(root, right={"value": number})  # a lost entry of dvc.lock would name another value
        assert ran(run(root, server, "right", "--single", "--jobs", "8")) == members
        assert members & mini.status(root).keys() == set()
    run(root, server)
    assert mini.status(root) == {}
