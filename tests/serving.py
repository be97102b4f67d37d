"""A Prefect server for tests, on a free port, with a data base of its own; `semtok` processes that use it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import forks
import mini
import psutil

SEMTOK = [sys.executable, "-c", "from pipeline.cli import main; main()"]


class Server:
    """Started as `semtok ui` does it; `env` is what a command needs to find it."""

    def __init__(self, home: Path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.home = home
        self.env = {"PREFECT_HOME": str(home), "PREFECT_API_URL": f"{self.url}/api"}

    def start(self) -> None:
        shutil.copy(mini.ROOT / "prefect.toml", self.home)
        (self.home / "dvc.yaml").touch()
        self.semtok("ui")

    def semtok(self, *arguments: str, status: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        """`semtok …` in a repository that has Prefect's settings and no stages."""
        done = forks.run("semtok", *arguments, root=self.home, **{**self.env, **env})
        assert done.returncode == status, done.stdout + done.stderr
        return done

    def kill(self) -> None:
        os.kill(self.pid(), signal.SIGKILL)

    def pid(self) -> int:
        return int((self.home / "semtok-server.pid").read_text())

    def ask(self, path: str, body: dict | None = None, tries: int = 20) -> list | dict:
        """POST to the API, or GET without a body; asks again where it says 503, as Prefect's own clients do.

        That is its word for a data base that is locked at the moment: nothing was done.
        """
        data = None if body is None else json.dumps(body).encode()
        known = self.csrf() if data else {}
        request = Request(f"{self.url}/api/{path}", data, {"Content-Type": "application/json", **known})
        try:
            with build_opener(ProxyHandler({})).open(request, timeout=20) as reply:
                return json.loads(reply.read() or b"{}")
        except HTTPError as error:
            if error.code != 503 or tries == 1:
                raise
        time.sleep(0.5)
        return self.ask(path, body, tries - 1)

    def csrf(self) -> dict[str, str]:
        """The headers without which the server changes nothing."""
        token = self.ask("csrf-token?client=tests")
        return {"Prefect-Csrf-Client": "tests", "Prefect-Csrf-Token": token["token"]}

    def newest_run(self) -> dict:
        """The newest flow run."""
        return self.ask("flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 1})[0]

    def state_of(self, flow_run_id: str) -> str:
        """The name of its state."""
        return self.ask(f"flow_runs/{flow_run_id}")["state"]["name"]

    def deployment(self, name: str) -> str | None:
        """The id of the deployment of that name."""
        found = self.ask("deployments/filter", {"deployments": {"name": {"any_": [name]}}})
        return found[0]["id"] if found else None

    def start_run(self, deployment_id: str, **parameters) -> str:
        """What the page's Custom run does; the id of the flow run."""
        return self.ask(f"deployments/{deployment_id}/create_flow_run", {"parameters": parameters})["id"]

    def task_runs(self, flow_run_id: str) -> dict[str, dict]:
        """The task runs of a flow run by stage."""
        wanted = {"flow_runs": {"id": {"any_": [flow_run_id]}}}
        return {run["name"]: run for run in self.ask("task_runs/filter", wanted)}

    def logs(self, task_run_id: str) -> list[str]:
        """What a task run has logged, in order."""
        wanted = {"logs": {"task_run_id": {"any_": [task_run_id]}}, "sort": "TIMESTAMP_ASC"}
        return [line["message"] for line in self.ask("logs/filter", wanted)]

    def artifacts(self, flow_run_id: str) -> list[dict]:
        """The newest version of each artifact of a flow run."""
        wanted = {"artifacts": {"flow_run_id": {"any_": [flow_run_id]}}, "limit": 200}
        return self.ask("artifacts/filter", wanted)


@contextmanager
def background(command: list[str], root: Path, server: Server) -> Iterator[subprocess.Popen]:
    """A command in the project that is ended with the block; it says what it has to say in background.log.

    Prefect's worker now and then goes on after SIGTERM: what does not end in 30 s is killed.
    """
    with open(root / ".dvc/tmp/background.log", "a") as log:
        child = subprocess.Popen(command, cwd=root, env={**os.environ, **server.env}, stdout=log, stderr=log)
        try:
            yield child
        finally:
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(30)
            child.kill()
            child.wait()


def wait_for(check: Callable, secs: float = 90, pause_secs: float = 0.3):
    """The first true answer."""
    give_up = time.monotonic() + secs
    while not (answer := check()):
        assert time.monotonic() < give_up
        time.sleep(pause_secs)
    return answer


def processes(root: Path) -> list[psutil.Process]:
    """All living processes that work in the project."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(root) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
            continue
    return found


def running(root: Path, word: str) -> psutil.Process | None:
    """A process of the project whose command line has this word."""
    for process in processes(root):
        try:
            if word in " ".join(process.cmdline()):
                return process
        except psutil.NoSuchProcess:
            continue
    return None
