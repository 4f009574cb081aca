"""What a tracking server takes: log-batch calls a second, with sqlite and PostgreSQL, one client and sixteen."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from tests.bench.timing import row

SECONDS = 6.0  # of each measurement
METRICS = 12  # in a call, as an epoch of ours
PSQL = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]


def rates() -> list[dict[str, object]]:
    """Rows of calls a second; PostgreSQL only where its programs and its driver are installed."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        for workers in (1, 4):
            store = f"sqlite:///{name}/mlflow-{workers}.db"
            rows += _measured("sqlite", store, workers)
        if reason := lacks_postgres():
            print(f"    no PostgreSQL: {reason}", file=sys.stderr)
            return rows
        with postgres(Path(name) / "postgres") as store:
            for workers in (1, 4):
                rows += _measured("PostgreSQL", store, workers)
    return rows


def _measured(kind: str, store: str, workers: int) -> list[dict[str, object]]:
    with _server(store, workers) as url:
        one, many = _calls(url, 1), _calls(url, 16)
    note = f"{METRICS} metrics a call, {workers} server worker{'s' * (workers > 1)}, clients on the same machine"
    name = f"log_batch, {kind}, {workers} worker{'s' * (workers > 1)}"
    return [
        row(f"{name}, 1 client", one, "calls/s", None, None, note),
        row(f"{name}, 16 clients", many, "calls/s", one, many / one, f"{note}; baseline: one client"),
    ]


def _calls(url: str, clients: int) -> float:
    """Calls a second of so many clients, each writing to a run of its own."""
    counts, stop = [0] * clients, threading.Event()

    def client(index: int) -> None:
        session = requests.Session()
        body = {"experiment_id": "0", "start_time": 1}
        made = session.post(f"{url}/api/2.0/mlflow/runs/create", json=body).json()
        run_id = made["run"]["info"]["run_id"]
        step = 0
        while not stop.is_set():
            step += 1
            metrics = [{"key": f"m{i}", "value": 0.5, "timestamp": step, "step": step} for i in range(METRICS)]
            answer = session.post(f"{url}/api/2.0/mlflow/runs/log-batch", json={"run_id": run_id, "metrics": metrics})
            answer.raise_for_status()
            counts[index] += 1

    threads = [threading.Thread(target=client, args=(index,)) for index in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    before, began = sum(counts), time.perf_counter()
    time.sleep(SECONDS)
    made, passed = sum(counts) - before, time.perf_counter() - began
    stop.set()
    for thread in threads:
        thread.join()
    return made / passed


@contextmanager
def _server(store: str, workers: int) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", str(workers), "--backend-store-uri", store]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 90
            while not _answers(url):
                assert process.poll() is None, f"mlflow server with {store} ended"
                assert time.monotonic() < deadline, "mlflow server did not come up"
                time.sleep(0.2)
            yield url
        finally:
            os.killpg(process.pid, 15)
            process.wait(20)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A server of its own on loopback; as user postgres, for it refuses root."""
    folder.mkdir()
    shutil.chown(folder, "postgres", "postgres")
    port, become = free_port(), ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    data = str(folder / "data")
    subprocess.run([*become, str(PSQL[0] / "initdb"), "-D", data, "-A", "trust"], check=True, capture_output=True)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    control = [*become, str(PSQL[0] / "pg_ctl"), "-D", data, "-w"]
    subprocess.run([*control, "-o", options, "-l", str(folder / "log"), "start"], check=True, capture_output=True)
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True)


def lacks_postgres() -> str | None:
    """Why there is none here; None if there is."""
    from importlib.util import find_spec

    if not PSQL:
        return "/usr/lib/postgresql has no programs: apt-get install postgresql"
    return None if find_spec("psycopg") else "its driver is missing: make setup"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
