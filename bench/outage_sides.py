"""The gateways that go through the outage, each with providers of its own.

Rule 1: a lane is one mode of failing and one kind of answer, with a primary and a fallback that nobody else asks: what one
        lane does to its providers disturbs no other's figures.
Rule 2: a peer runs as its documentation says: once with nothing but its fallbacks, once with the settings it names for an
        outage (no retries, a cooldown after the first failure, timeouts).
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from bench.gateway import wait_for_answer
from bench.load import Request
from bench.measure import BURSAR, Processes, free_port
from bench.outage_providers import MODES, PROMPT, Mode, Provider
from bench.peers import LITELLM_START_S_MAX, start_litellm
from bench.samples import dumps

__all__ = [
    "BURSAR_SIDE",
    "CONTROL",
    "FALLBACK",
    "LANES",
    "PRIMARY",
    "Exchange",
    "Kind",
    "Lane",
    "Pair",
    "Side",
    "start_side",
]

Kind = Literal["whole", "stream"]
Phase = Literal["warm", "healthy", "outage", "recovery"]

PRIMARY = "gpt-4o-mini"
FALLBACK = "gpt-4.1-mini"
CONTROL = "gpt-4.1-nano"
"""Asked of the fallback itself through the same gateway, all the time: what an answer from there takes."""

BURSAR_SIDE = "Bursar"
_KEY = "sk-the-client-has-this-key-0123456789"
_SERVER_KEY = "sk-the-server-has-this-key-0123456789"
_PEER_TIMEOUT_S = 1  # five times what its primary takes


class Lane(NamedTuple):
    mode: Mode
    kind: Kind

    @property
    def name(self) -> str:
        return f"{self.mode}-{self.kind}"


LANES: tuple[Lane, ...] = tuple(Lane(mode, kind) for mode in MODES for kind in ("whole", "stream"))


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request of a client, sent ``at_s`` (since 1970). ``ms`` is the time to the whole answer, or to a stream's first text;
    None where there was an ``error``. ``by`` is the model that answered, "" where nobody can tell."""

    phase: Phase
    at_s: float
    ms: float | None
    by: str
    error: str = ""


@dataclass(slots=True)
class Pair:
    """A lane's providers, and what was asked of them through the gateway."""

    primary: Provider
    fallback: Provider
    asked: list[Exchange] = field(default_factory=list)
    controls: list[Exchange] = field(default_factory=list)

    def speakers(self) -> Mapping[str, str]:
        """Whose model says what."""
        return {
            self.primary.text(PRIMARY): PRIMARY,
            self.fallback.text(FALLBACK): FALLBACK,
            self.fallback.text(CONTROL): CONTROL,
        }


@dataclass(slots=True)
class Side:
    name: str
    port: int
    process: subprocess.Popen[bytes]
    data: Path | None
    pairs: Mapping[Lane, Pair]

    def request(self, lane: Lane, *, control: bool) -> Request:
        model = f"{lane.name}-control" if control else lane.name
        body = dumps({**PROMPT, "model": model, "stream": lane.kind == "stream"})
        headers = {"authorization": f"Bearer {_KEY}", "content-type": "application/json"}
        return Request("/v1/chat/completions", headers, body)


async def start_side(
    processes: Processes,
    name: str,
    directory: Path,
    lanes: Sequence[Lane] = LANES,
    *,
    paces_ms: tuple[float, float],
    breaker_open: str,
) -> Side:
    """Bursar, or LiteLLM's proxy as its ``name`` says. ``paces_ms`` are the first tokens of the primary and the fallback."""
    pairs: dict[Lane, Pair] = {}
    for lane in lanes:
        first, second = paces_ms
        pair = pairs[lane] = Pair(Provider(seed=11, first_token_ms=first), Provider(seed=22, first_token_ms=second))
        await pair.primary.start()
        await pair.fallback.start()
    port = free_port()
    where = directory / name.replace(" ", "-").replace(",", "").lower()
    if name == BURSAR_SIDE:
        config = where.with_suffix(".yaml")
        config.write_text(json.dumps(_bursar_config(pairs, breaker_open)), encoding="utf-8")
        process = processes.start(
            [*BURSAR, "up", "--port", port, "--config", config, "--data", where],
            log=where.with_suffix(".log"),
            env={"BURSAR_BENCH_KEY": _SERVER_KEY},
        )
        side = Side(name, port, process, where, pairs)
    else:
        config = where.with_suffix(".yaml")
        config.write_text(json.dumps(_litellm_config(pairs, tuned=name.endswith("tuned"))), encoding="utf-8")
        side = Side(name, port, start_litellm(processes, config, port, None), None, pairs)
    first_lane = next(iter(lanes))
    request = side.request(Lane(first_lane.mode, "whole"), control=True)
    await asyncio.to_thread(wait_for_answer, port, request, side.process, within_s=LITELLM_START_S_MAX)
    return side


def _bursar_config(pairs: Mapping[Lane, Pair], breaker_open: str) -> dict[str, object]:
    providers: dict[str, object] = {}
    routes: dict[str, object] = {}
    for lane, pair in pairs.items():
        first, second = f"first-{lane.name}", f"second-{lane.name}"
        for name, like, provider in ((first, "openai", pair.primary), (second, "openai", pair.fallback)):
            url = f"http://127.0.0.1:{provider.port}/v1"
            providers[name] = {"like": like, "base_url": url, "key_env": "BURSAR_BENCH_KEY"}
        primary: dict[str, object] = {"model": f"{first}/{PRIMARY}"}
        if lane.mode == "hang":
            primary |= {"first_token": "p95", "total": "p95"}
        routes[lane.name] = {"rungs": [primary, f"{second}/{FALLBACK}"], "breaker": {"open": breaker_open}}
        routes[f"{lane.name}-control"] = [f"{second}/{CONTROL}"]
    return {"providers": providers, "routes": routes}


def _litellm_config(pairs: Mapping[Lane, Pair], *, tuned: bool) -> dict[str, object]:
    models: list[object] = []
    for lane, pair in pairs.items():
        for name, model, provider in (
            (lane.name, PRIMARY, pair.primary),
            (f"{lane.name}-fallback", FALLBACK, pair.fallback),
            (f"{lane.name}-control", CONTROL, pair.fallback),
        ):
            params: dict[str, object] = {
                "model": f"openai/{model}",
                "api_base": f"http://127.0.0.1:{provider.port}/v1",
                "api_key": _SERVER_KEY,
            }
            if tuned and model == PRIMARY:
                params |= {"timeout": _PEER_TIMEOUT_S, "stream_timeout": _PEER_TIMEOUT_S}
            models.append({"model_name": name, "litellm_params": params})
    router: dict[str, object] = {"fallbacks": [{lane.name: [f"{lane.name}-fallback"]} for lane in pairs]}
    if tuned:
        router |= {"num_retries": 0, "allowed_fails": 0, "cooldown_time": 30}
    return {"model_list": models, "router_settings": router, "general_settings": {"master_key": _KEY}}
