"""What a user sees of a run in the Prefect UI, in headless Chromium.

Run: uv run pytest tests/test_browser.py      (needs Debian's chromium: apt-get install chromium)
Expect: screenshots of what it looked at in the folder SCREENSHOTS names, if it names one.
"""

import os
import re
from pathlib import Path

import chromium
import mini
import pytest
import serving
from playwright.sync_api import Page, expect

pytestmark = chromium.NEEDED


@pytest.fixture(scope="module")
def page():
    with chromium.started() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 1000}, reduced_motion="reduce")
        page.set_default_timeout(chromium.PATIENCE_MS)
        yield page


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project of which one branch has run; `left` is short, and `join` after it takes its time."""
    root = mini.build(tmp_path_factory.mktemp("browser") / "project")
    mini.dvc(root, "repro", "studies/dvc.yaml:right")
    mini.write_params(root, join={"steps": 4000})
    return root


def shoot(page: Page, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        page.wait_for_timeout(1500)
        page.screenshot(path=Path(folder) / f"{name}.png")


def graphs_asked_for(page: Page) -> list[str]:
    """The paths, below the API, of the graphs that the page asks for to draw; the list grows."""
    graphs: list[str] = []
    page.on(
        "response", lambda reply: graphs.append(reply.url.partition("/api/")[2]) if "graph-v2" in reply.url else None
    )
    return graphs


def progress_of_join(server, flow_run_id: str) -> dict | None:
    """Its artifact, once it has one that moves."""
    made = (one for one in server.artifacts(flow_run_id) if one["key"] == "join-progress")
    return next((one for one in made if 0 < one["data"] < 100), None)


def test_of_a_run_of_semtok_serve_the_page_shows_everything_live_and_its_cancel_button_ends_the_stage(
    project, server, page
):
    graphs = graphs_asked_for(page)
    with serving.background([*serving.SEMTOK, "serve"], project, server):
        known = serving.wait_for(lambda: server.deployment("here"))
        run = f"{server.url}/runs/flow-run/{(flow_run_id := server.start_run(known, targets=['join'], jobs=2))}"
        progress = serving.wait_for(lambda: progress_of_join(server, flow_run_id))
        page.goto(run)
        check_the_run(page)
        check_the_graph(server.ask(serving.wait_for(lambda: graphs and graphs[-1])))
        page.goto(f"{server.url}/artifacts/artifact/{progress['id']}")
        expect(page.get_by_text(re.compile(r"join: \d+ of 4,000 step, .* left")).first).to_be_visible()
        shoot(page, "progress")
        check_the_picture(page, server, flow_run_id)
        page.goto(run)
        cancel(page)
        serving.wait_for(lambda: server.state_of(flow_run_id) == "Cancelled")
        serving.wait_for(lambda: not serving.running(project, "stages.steps.run"))


def check_the_run(page: Page) -> None:
    """Stages with their states, and the progress of the one that is at work."""
    page.get_by_text("Task Runs", exact=True).click()
    expect(page.get_by_text("Cached").first).to_be_visible()
    for stage in ("first", "left", "right@1", "right@2", "join"):
        expect(page.get_by_text(stage, exact=True).first).to_be_visible()
    page.get_by_text("Artifacts", exact=True).last.click()
    expect(page.get_by_text(re.compile(r"^join: \d+ of 4,000 step, ")).first).to_be_visible()
    shoot(page, "run")


def check_the_graph(graph: dict) -> None:
    """What the page was given to draw."""
    nodes = [node for _, node in graph["nodes"]]
    labels = {node["id"]: node["label"] for node in nodes}
    edges = {(labels[parent["id"]], node["label"]) for node in nodes for parent in node["parents"]}
    assert {("first", "left"), ("left", "join"), ("right@1", "join"), ("right@2", "join")} <= edges


def check_the_picture(page: Page, server, flow_run_id: str) -> None:
    """Of the stage that has ended."""
    picture = next(one for one in server.artifacts(flow_run_id) if one["key"] == "left-squares")
    page.goto(f"{server.url}/artifacts/artifact/{picture['id']}")
    image = page.locator("img[src^='data:image/png']").first
    expect(image).to_be_visible()
    assert image.evaluate("image => image.naturalWidth") == 64
    shoot(page, "picture")


def cancel(page: Page) -> None:
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Confirm").wait_for()
    shoot(page, "cancel")
    page.get_by_role("button", name="Confirm").click()
