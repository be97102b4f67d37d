"""`semtok ui`: one server, on this machine alone, that sends no usage data.

Run: uv run pytest tests/test_server.py
"""

import os
import pty
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psutil
import pytest
import serving

from pipeline import beats


def test_a_second_ui_says_where_the_first_is_and_starts_nothing(server):
    pid = server.pid()
    done = server.semtok("ui")
    assert f"the Prefect UI is at {server.url}" in done.stdout and server.pid() == pid
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    listening = {c.laddr.ip for one in family for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    names = [one["name"] for one in server.ask("automations/filter", {})]
    assert names.count(beats.NAME) == 1, "silent runs become Crashed"


def test_its_settings_are_the_repositorys(server):
    settings = server.ask("admin/settings")
    assert settings["server"]["analytics_enabled"] is False
    assert settings["server"]["ephemeral"]["startup_timeout_seconds"] == 120
    assert settings["server"]["ui"]["show_promotional_content"] is False


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_only_the_uis_own_page_may_read_answers_in_a_browser(method, server):
    own = [server.url, server.url.replace("127.0.0.1", "localhost")]
    foreign = ["https://example.com", "http://127.0.0.1:1", "http://127.0.0.1", f"{server.url}.example.com", "null"]
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    for origin in own + foreign:
        done = httpx.request(method, f"{server.url}/api/health", headers={"Origin": origin, **asked}, trust_env=False)
        allowed = done.headers.get("access-control-allow-origin")
        assert allowed == (origin if origin in own else None), origin


def test_a_request_that_another_page_can_send_without_asking_changes_nothing(server):
    form = {"Origin": "https://example.com", "Content-Type": "text/plain"}
    path = f"{server.url}/api/flows/"
    done = httpx.post(path, content='{"name": "foreign"}', headers=form, trust_env=False)
    assert done.status_code == 403 and "CSRF" in done.text
    assert not server.ask("flows/filter", {"flows": {"name": {"any_": ["foreign"]}}})


def test_help_loads_neither_dvc_nor_prefect():
    code = "import sys; from pipeline import cli; cli.parser().format_help(); print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "argparse" in loaded and not any(f"'{name}'" in loaded for name in ("dvc", "prefect", "pydantic", "numpy"))


def in_a_terminal(command: list[str], root, **env: str) -> str:
    """What a command prints in a terminal."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(command, cwd=root, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    text = b""
    try:
        while part := os.read(ours, 1024):
            text += part
    except OSError:  # on Linux: the other side has closed
        pass
    child.wait(30)
    os.close(ours)
    return text.decode()


def test_in_a_terminal_nothing_asks_to_collect_usage_data(server, tmp_path):
    env = {name: value for name, value in os.environ.items() if name not in ("CI", "DO_NOT_TRACK")}
    home = tmp_path / "home"
    said = in_a_terminal([*serving.SEMTOK, "ui"], server.home, **{**env, **server.env, "PREFECT_HOME": str(home)})
    assert "the Prefect UI is at" in said and "usage" not in said
    assert not (home / ".sdk_telemetry").exists(), "no id of this machine is made"


def test_a_server_that_accepts_connections_and_never_answers_is_no_server(server):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        done = server.semtok("run", status=2, PREFECT_API_URL=f"http://127.0.0.1:{deaf.getsockname()[1]}/api")
    assert "another program listens on port" in done.stderr and "dvc repro" in done.stderr


def test_where_no_server_answers_and_none_can_be_started_it_says_at_once_what_to_do(server):
    with processor_secs() as importing:
        subprocess.run([sys.executable, "-c", "import prefect"], env={**os.environ, **server.env}, check=True)
    with processor_secs() as took:
        done = server.semtok("run", status=2, PREFECT_API_URL="http://server.invalid:9/api")
    assert "not on this machine: start a Prefect server there" in done.stderr and "dvc repro" in done.stderr
    assert took[0] < 1.5 * importing[0] + 0.5, "nearly all is the import of Prefect, which knows the address"


@contextmanager
def processor_secs() -> Iterator[list[float]]:
    """Seconds of CPU that the child processes took inside the block."""
    found: list[float] = []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    yield found
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def test_it_is_stopped_by_the_command_that_it_named_and_started_by_the_next_run(server):
    process = psutil.Process(server.pid())
    assert "stopped" in server.semtok("ui", "--stop").stdout
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    assert "no server of `semtok ui` is running" in server.semtok("ui", "--stop", status=2).stderr
    done = server.semtok("run", status=2)
    assert "starting one" in done.stdout and "`semtok ui --stop` stops it" in done.stdout
    assert "no Prefect server" not in done.stderr and server.ask("health") is True, "other tests use it, too"
