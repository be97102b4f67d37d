"""The Prefect server of this repository: at the address of prefect.toml (or PREFECT_API_URL), on this machine.

    semtok run           starts it if none answers, and leaves it running
    semtok ui            the same, and prints its address
    semtok ui --stop     stops it

Its log is semtok-server.log in Prefect's home folder (~/.prefect).
"""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

import psutil
from prefect.settings import get_current_settings

from pipeline.errors import PipelineError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PAGE_HOSTS = ("127.0.0.1", "localhost", "[::1]")  # of the UI's own page: other pages may not ask this server
START_SECS, STOP_SECS, ANSWER_SECS = 120, 15, 2


def main(stop: bool) -> int:
    """`semtok ui`."""
    if stop:
        stop_server()
        print("stopped")
        return 0
    if not answers():
        start()
    print(f"the Prefect UI is at {ui_url()}; stop it with `semtok ui --stop`")
    return 0


def api_url() -> str:
    """The address of the API."""
    if not (url := get_current_settings().api.url):
        raise PipelineError("no Prefect API address: semtok runs in the repository, whose prefect.toml has one")
    return str(url).rstrip("/")


def ui_url() -> str:
    """The address for a browser."""
    return api_url().removesuffix("/api")


def answers() -> bool:
    """Whether a server answers."""
    try:
        with build_opener(ProxyHandler({})).open(f"{api_url()}/health", timeout=ANSWER_SECS) as reply:
            return reply.status == 200
    except (URLError, OSError, HTTPException, ValueError):
        return False


def require() -> None:
    """Start a server if none answers, and say so: it goes on after the command that needed it."""
    if answers():
        return
    print(f"no Prefect server answers at {api_url()}: starting one", flush=True)
    try:
        start()
    except PipelineError as error:
        raise PipelineError(f"{error}\nThe same stages run without Prefect: `dvc repro`.") from None
    print("started; it goes on when this command has ended: `semtok ui --stop` stops it", flush=True)


def start() -> None:
    """Start a server in the background at the address of the settings, which must be on this machine."""
    where = urlsplit(api_url())
    if where.hostname not in LOOPBACK:
        raise PipelineError(f"{api_url()} does not answer and is not on this machine: start a Prefect server there.")
    log_file().parent.mkdir(parents=True, exist_ok=True)
    with open(log_file().with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another command may be starting one at this moment
        if not answers():
            start_alone(where.hostname, where.port or 80)
    import_module("pipeline.beats").create_automation()


def start_alone(host: str, port: int) -> None:
    """Start a server and wait until it answers."""
    if is_taken(host, port):
        raise PipelineError(f"another program listens on port {port} of {host}: choose another one by PREFECT_API_URL.")
    process, give_up = launch(host, port), time.monotonic() + START_SECS
    while not answers():
        if process.poll() is not None or time.monotonic() > give_up:
            process.kill()
            raise PipelineError(f"the server did not start; the end of {log_file()}:\n{log_file().read_text()[-2000:]}")
        time.sleep(0.2)


def is_taken(host: str, port: int) -> bool:
    """Whether a program listens on a port."""
    try:
        socket.create_connection((host, port), ANSWER_SECS).close()
    except OSError:
        return False
    return True


def launch(host: str, port: int) -> subprocess.Popen[bytes]:
    """`prefect server start`, whose own --background leaves the server with a pipe that nobody reads."""
    # Without the port in its own settings, the server's pages would call port 4200 whatever it listens on.
    place = {"PREFECT_SERVER_API_HOST": host, "PREFECT_SERVER_API_PORT": str(port)}
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    origins = {"PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{name}:{port}" for name in PAGE_HOSTS)}
    with open(log_file(), "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start"], env={**origins, **os.environ, **place, **quiet},
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    pid_file().write_text(str(process.pid))
    return process


def stop_server() -> None:
    """Stop the server that `start` started."""
    try:
        server = psutil.Process(int(pid_file().read_text()))
        ours = "prefect" in server.cmdline()
    except (FileNotFoundError, psutil.NoSuchProcess):
        ours = False
    if not ours:
        raise PipelineError(f"no server of `semtok ui` is running ({pid_file()})")
    server.send_signal(signal.SIGINT)
    try:
        server.wait(STOP_SECS)
    except psutil.TimeoutExpired:
        server.kill()
    pid_file().unlink()


def pid_file() -> Path:
    """The file with the pid of the server started here."""
    return log_file().with_suffix(".pid")


def log_file() -> Path:
    """The server's log."""
    return get_current_settings().home / "semtok-server.log"
