"""The provider that all sides talk to: answers that never change, as fast as they can be served.

Rule 1: nginx where there is one: it must not be what is measured. Else granian serves the same bytes.
Rule 2: the header ``x-bench`` says what is wanted: nothing is a chat completion, ``stream`` the 33 events at once,
        ``paced`` the first event at once and the others 20 ms later: who holds back the first is seen.

``python -m bench.upstream PORT`` runs the granian one.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import samples
from bench.measure import PYTHON, BenchError, Processes, free_port

__all__ = ["PAUSE_MS", "Upstream", "start_upstream"]

PAUSE_MS = 20

_NGINX = """
daemon off; master_process off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/nginx.log crit;
events {{ worker_connections 2048; }}
http {{
  access_log off; keepalive_requests 100000000; tcp_nodelay on; sendfile on; default_type text/event-stream;
  client_body_temp_path {dir}/1; proxy_temp_path {dir}/2; fastcgi_temp_path {dir}/3;
  uwsgi_temp_path {dir}/4; scgi_temp_path {dir}/5;
  upstream paced {{ server 127.0.0.1:{paced}; keepalive 16; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      error_page 418 =200 /stream.sse;
      error_page 419 = @paced;
      if ($http_x_bench = stream) {{ return 418; }}
      if ($http_x_bench = paced) {{ return 419; }}
      default_type application/json;
      return 200 '{chat}';
    }}
    location = /stream.sse {{ root {dir}; }}
    location @paced {{
      proxy_pass http://paced; proxy_buffering off; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
    location = /served {{ stub_status; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Upstream:
    """``counts`` says whether ``served`` knows how many requests it has answered."""

    port: int
    name: str
    counts: bool
    process: subprocess.Popen[bytes]

    def served(self) -> int:
        """How many requests came so far, without those that asked this. Raises BenchError when it has ended."""
        if self.process.poll() is not None:
            raise BenchError(f"the upstream ({self.name}) ended with exit code {self.process.returncode}: run again")
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/served", timeout=5) as answer:
            requests = int(answer.read().split()[9])
        _ASKED[self.port] = _ASKED.get(self.port, 0) + 1
        return requests - _ASKED[self.port]


_ASKED: dict[int, int] = {}


def start_upstream(processes: Processes, directory: Path, on: set[int] | None) -> Upstream:
    port = free_port()
    slow = processes.start([PYTHON, "-m", "bench.upstream", port], log=directory / "upstream.log", on=on)
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if nginx is None:
        return Upstream(port, "granian (no nginx here)", counts=False, process=slow)
    front = free_port()
    chat = samples.CHAT.decode().replace(samples.RESPONSE_ID, "$request_id")
    (directory / "stream.sse").write_bytes(samples.STREAM)
    config = directory / "nginx.conf"
    config.write_text(_NGINX.format(dir=directory, port=front, paced=port, chat=chat), encoding="utf-8")
    fast = processes.start([nginx, "-p", directory, "-c", config], log=directory / "nginx.out", on=on)
    version = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=False).stderr.split("/")[-1].strip()
    return Upstream(front, f"nginx {version}", counts=True, process=fast)


_JSON = [("content-type", "application/json")]
_EVENTS = [("content-type", "text/event-stream")]


async def app(scope: Any, protocol: Any) -> None:
    """An RSGI application."""
    await protocol()
    match scope.headers.get("x-bench"):
        case "stream":
            protocol.response_bytes(200, _EVENTS, samples.STREAM)
        case "paced":
            first, rest = samples.STREAM.split(b"\n\n", 1)
            transport = protocol.response_stream(200, _EVENTS)
            await transport.send_bytes(first + b"\n\n")
            await asyncio.sleep(PAUSE_MS / 1000)
            await transport.send_bytes(rest)
        case _:
            protocol.response_bytes(200, _JSON, samples.CHAT)


if __name__ == "__main__":
    from bench.bare_proxy import serve

    serve(app, int(sys.argv[1]))
