"""What a user sees of a run in the Prefect UI, in headless Chromium.

Run: uv run pytest tests/test_browser.py      (needs Debian's chromium: apt-get install chromium)
Expect: screenshots of what it looked at in the folder SCREENSHOTS names, if it names one.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import mini
import pytest
import serving
from playwright.sync_api import Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE_MS = 30_000

if not os.environ.get("CI"):
    pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def page():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(PATIENCE_MS)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project of which one branch has run; `join`, the next one, takes its time."""
    root = mini.build(tmp_path_factory.mktemp("browser") / "project")
    mini.write_params(root, join={"steps": 250})
    mini.dvc(root, "repro", "left", "right")
    return root


def shoot(page: Page, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        page.wait_for_timeout(1500)
        page.screenshot(path=Path(folder) / f"{name}.png")


def run_page(child: subprocess.Popen, server, page: Page) -> tuple[str, list[str]]:
    """Open the page of a run that has just begun; its id, and the paths of the graphs the page asks for to draw."""
    graphs: list[str] = []
    page.on(
        "response", lambda reply: graphs.append(reply.url.partition("/api/")[2]) if "graph-v2" in reply.url else None
    )
    before = {run["id"] for run in server.ask("flow_runs/filter", {})}
    while not (new := [run["id"] for run in server.ask("flow_runs/filter", {}) if run["id"] not in before]):
        assert child.poll() is None
        page.wait_for_timeout(200)
    page.goto(f"{server.url}/runs/flow-run/{new[0]}")
    return new[0], graphs


def wait_for_progress(server, flow_run_id: str, page: Page) -> dict:
    """The progress artifact of `join`, once it has one that moves."""
    for _ in range(300):
        found = [
            one for one in server.artifacts(flow_run_id) if one["key"] == "join-progress" and 0 < one["data"] < 100
        ]
        if found:
            return found[0]
        page.wait_for_timeout(200)
    raise AssertionError("no progress was published")


def test_the_page_shows_stages_dependencies_states_live_progress_and_pictures(project, server, page):
    with serving.background([*serving.SEMTOK, "run", "--jobs", "2"], project, server) as child:
        flow_run_id, graphs = run_page(child, server, page)
        progress = wait_for_progress(server, flow_run_id, page)
        page.get_by_text("Task Runs", exact=True).click()
        expect(page.get_by_text("Cached").first).to_be_visible()
        for stage in ("first", "left", "right@1", "right@2", "join"):
            expect(page.get_by_text(stage, exact=True).first).to_be_visible()
        page.get_by_text("Artifacts", exact=True).last.click()
        expect(page.get_by_text(re.compile(r"^join: \d+ of 250 step, ")).first).to_be_visible()
        shoot(page, "run")
        page.goto(f"{server.url}/artifacts/artifact/{progress['id']}")
        expect(page.get_by_text(re.compile(r"join: \d+ of 250 step, .* left")).first).to_be_visible()
        shoot(page, "progress")
        assert child.wait(120) == 0
    nodes = [node for _, node in server.ask(graphs[-1])["nodes"]]
    labels = {node["id"]: node["label"] for node in nodes}
    edges = {(labels[parent["id"]], node["label"]) for node in nodes for parent in node["parents"]}
    assert {("first", "left"), ("left", "join"), ("right@1", "join"), ("right@2", "join")} <= edges
    picture = next(one for one in server.artifacts(flow_run_id) if one["key"] == "join-squares")
    page.goto(f"{server.url}/artifacts/artifact/{picture['id']}")
    image = page.locator("img[src^='data:image/png']").first
    expect(image).to_be_visible()
    assert image.evaluate("image => image.naturalWidth") == 64
    shoot(page, "picture")


def test_the_cancel_button_ends_a_run_of_semtok_serve_and_its_stage(project, server, page):
    mini.write_params(project, join={"steps": 4000})
    with serving.background([*serving.SEMTOK, "serve"], project, server):
        known = serving.wait_for(lambda: server.deployment("here"))
        flow_run_id = server.start_run(known, targets=["join"])
        page.goto(f"{server.url}/runs/flow-run/{flow_run_id}")
        wait_for_progress(server, flow_run_id, page)
        page.get_by_role("button", name="Cancel").click()
        page.get_by_role("button", name="Confirm").wait_for()
        shoot(page, "cancel")
        page.get_by_role("button", name="Confirm").click()
        serving.wait_for(lambda: server.state_of(flow_run_id) == "Cancelled")
        serving.wait_for(lambda: not serving.running(project, "stages.steps.run"))
