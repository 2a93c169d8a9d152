"""One call seen twice: through the running gateway, and as the span that an instrumentation made of it."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest
from receiving import chat, export_of, span_of

from doors.gateway.house import WHOLE, gateway, task_name

PROTOBUF = {"content-type": "application/x-protobuf"}
_numbers = itertools.count(1)


@pytest.mark.parametrize("first", ["gateway", "span"])
@pytest.mark.parametrize("by", ["span", "response"])
async def test_it_is_charged_once(tmp_path: Path, first: str, by: str) -> None:
    """In either order, by the caller's span or by the response's id: the gateway's charge stays, the agent's sum and the
    span's figures add nothing, and both stand in the same trace."""
    trace, task = f"{next(_numbers):032x}", task_name()
    async with gateway(tmp_path) as house:
        headers = {"x_bursar_task": task}
        if by == "span":
            headers["traceparent"] = f"00-{trace}-{'b' * 16}-01"

        async def call() -> str:
            answer = await house.ask(WHOLE[0], **headers)
            assert answer.status_code == 200
            return answer.json()["id"]

        async def observe(response: str) -> None:
            run = span_of(trace, "a" * 16, gen_ai__operation__name="invoke_agent", gen_ai__usage__input_tokens=1_000)
            body = export_of([run, chat(trace, "b" * 16, "a" * 16, response=response)])
            assert (await house.client.post("/v1/traces", headers=PROTOBUF, content=body)).status_code == 200

        if first == "span" and by == "span":
            await observe("")
            await asyncio.sleep(1.5)  # it is decided and charged before the gateway has it
            assert [row["door"] for row in house.rows()] == ["otlp"]
            await call()
        else:  # nobody knows a response before there is one
            response = await call()
            await observe(response if by == "response" else "")
        await asyncio.sleep(2)
        assert [(row["door"], row["task"]) for row in house.rows()] == [("gateway", task)]
