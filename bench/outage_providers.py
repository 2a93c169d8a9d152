"""Simulated providers that can be made to fail, and what came to them.

Rule 1: attempts are counted where they arrive. A provider that answers counts them itself; one that is gone cannot, so there
        the packets that ask for a connection are counted (``Knocks``). Where that is not allowed, it is not known.
Rule 2: the two providers of a lane say different things: an answer's text tells who gave it, whatever is between.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import socket
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Literal, Self

from bench.samples import dumps
from bursar.adapters.http_server import HttpServer
from bursar.sim import FaultRule, Pace, Simulator
from bursar.sim.server import application

__all__ = ["MODES", "PROMPT", "Knocks", "Mode", "Provider"]

Mode = Literal["503", "refused", "hang"]
MODES: tuple[Mode, ...] = ("503", "refused", "hang")
"""An error at once; nobody listens; taken, and never answered."""

PROMPT = {
    "messages": [{"role": "user", "content": "How is the weather in Lisbon today, and should I take an umbrella?"}],
    "max_tokens": 12,
}


class Provider:
    """One simulated provider on a port of its own."""

    def __init__(self, *, seed: int, first_token_ms: float) -> None:
        self.simulator = Simulator(seed=seed, pace=Pace(first_token_ms=first_token_ms))
        self._began_s = time.time()
        self._seed = seed
        self._server = HttpServer(application(self.simulator), "127.0.0.1", 0)

    @property
    def port(self) -> int:
        return self._server.port

    async def start(self) -> None:
        await self._server.start()

    async def fail(self, mode: Mode) -> None:
        if mode == "refused":
            await self._server.stop(0)
        else:
            self.simulator.faults = (FaultRule(fault=mode),)

    async def heal(self, mode: Mode) -> None:
        if mode == "refused":
            self._server = HttpServer(application(self.simulator), "127.0.0.1", self.port)
            await self._server.start()
        self.simulator.faults = ()

    async def stop(self) -> None:
        await self._server.stop(0)

    def times_s(self, model: str, *, answered: bool = False) -> list[float]:
        """When calls of this model came (seconds since 1970); with ``answered`` only those that it answered."""
        calls = [call for call in self.simulator.calls if call.model == model]
        return [self._began_s + call.at_s for call in calls if call.status == 200 or not answered]

    def text(self, model: str) -> str:
        """What it says to ``PROMPT``."""
        body = dumps({**PROMPT, "model": model})
        other = Simulator(seed=self._seed)
        answer = other.respond("POST", "/v1/chat/completions", "", {"authorization": "Bearer any-key"}, body)
        return json.loads(answer.body)["choices"][0]["message"]["content"]


# --- who asked for a connection -------------------------------------------------------------------------------------

_IPV4 = 0x0800
_SO_ATTACH_FILTER = 26
# Classic BPF over an IPv4 packet: TCP (protocol 6) whose flags have SYN and not ACK, whole; anything else is dropped.
_ONLY_SYN = (
    (0x30, 0, 0, 9), (0x15, 0, 5, 6), (0xB1, 0, 0, 0), (0x50, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02),
    (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0),
)  # fmt: skip


class Knocks:
    """Requests for a connection on the loopback interface, by port. ``works`` is False where the system does not show them."""

    def __init__(self) -> None:
        self._seen: dict[int, list[float]] = {}
        self._socket: socket.socket | None = None
        with suppress(AttributeError, OSError):
            self._socket = _listening_to_syns()

    @property
    def works(self) -> bool:
        return self._socket is not None

    def __enter__(self) -> Self:
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()

    def watch(self, ports: Iterable[int]) -> None:
        self._seen = {port: [] for port in ports}

    def times_s(self, port: int) -> list[float]:
        self._read()
        return self._seen.get(port, [])

    def _read(self) -> None:
        assert self._socket is not None
        with suppress(BlockingIOError):
            while True:
                packet, about = self._socket.recvfrom(256)
                start = (packet[0] & 15) * 4
                (port,) = struct.unpack_from("!H", packet, start + 2)
                # Each packet is seen as it leaves and as it comes.
                if about[2] == socket.PACKET_HOST and port in self._seen:
                    self._seen[port].append(time.time())


def _listening_to_syns() -> socket.socket:
    """Raises OSError where it is not permitted, AttributeError where there is no such socket."""
    code = b"".join(struct.pack("HBBI", *step) for step in _ONLY_SYN)
    buffer = ctypes.create_string_buffer(code)
    found = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    try:
        program = struct.pack("HP", len(_ONLY_SYN), ctypes.addressof(buffer))
        found.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        found.bind(("lo", _IPV4))
        found.setblocking(False)
    except OSError:
        found.close()
        raise
    return found
