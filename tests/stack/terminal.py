"""A terminal of its own for one test, with a stand-in for the web framework."""

import os
import subprocess
import sys
from pathlib import Path

from labshop.stack.home import State, read_state

DEADLINE_S = 20.0

STUB_API = '''
"""Stands in for the web framework in every Python process of one test."""
import os, sys, types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if self.path == "/readyz" else 200)
        self.end_headers()
        self.wfile.write(b'{"title": "Unavailable", "detail": "the gate is away"}')

    def log_message(self, *arguments):
        pass

def run(settings):
    if os.environ.get("STUB_API") == "dies":
        sys.exit("the ledger cannot be opened")
    address = (settings.api_host, settings.api_port)
    with ThreadingHTTPServer(address, Answer, bind_and_activate=False) as server:
        if os.environ.get("STUB_API") != "hangs":
            server.server_bind()
            server.server_activate()
        print("serving", settings.gate_url, settings.api_port, flush=True)
        server.serve_forever()

sys.modules["labshop.api.server"] = module = types.ModuleType("labshop.api.server")
module.run = run
'''


class Terminal:
    """Runs labshop's commands, each in a session of its own, on one home folder."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        site = folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(STUB_API)
        self.env = {name: v for name, v in os.environ.items() if not name.startswith("LABSHOP_")}
        self.env |= {"PYTHONPATH": str(site), "LABSHOP_HOME": str(self.home)}
        self.env |= {"LABSHOP_API_PORT": "0", "PYTHONUTF8": "1"}
        self._started: list[subprocess.Popen[str]] = []

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "labshop.cli", *arguments],
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """Start a command that goes on; the test's end ends it."""
        process = subprocess.Popen(
            [sys.executable, "-m", "labshop.cli", *arguments],
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def state(self) -> State:
        """Return what runs; the test fails when nothing does."""
        state = read_state(self.home)
        assert state is not None
        return state

    def close(self) -> None:
        self.run("down")
        for process in self._started:
            process.kill()
            process.communicate()
