"""Budgets through the gateway: exact under load, on the task tree, with streams and cancellations, for the official SDKs."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest
import pytest_asyncio
from google import genai
from google.genai import errors as gemini_errors
from google.genai import types
from house import CHAT, DIALECTS, GPT, HAIKU, KEY, STREAMS, WHOLE, House, gateway, make_key, task_name, until

from bursar.config import Server, Settings
from bursar.core.scopes import Scope
from bursar.sim import Pace, Simulator

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("gateway-budgets")]

# A dime a call, whatever is in it: budgets can be counted on the fingers.
DIME = "dime-1"
PRICES = {
    "models": [
        {"provider": provider, "model": DIME, "input": 0, "output": 0, "requests": 100}
        for provider in ("openai", "anthropic", "google")
    ]
}


def settings(*, wait_s: int = 20, **budgets: Any) -> Settings:
    server = Server(port=0, concurrency_max=5_000)
    return Settings(server=server, budgets=budgets, budget_wait_s=wait_s, prices=PRICES)


@asynccontextmanager
async def house_with(
    path: Path, *, sim: Simulator | None = None, wait_s: int = 20, **budgets: Any
) -> AsyncIterator[House]:
    async with gateway(path, settings=settings(wait_s=wait_s, **budgets), sim=sim) as house:
        yield house


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """A gateway where each team has ten dimes, and one that has nothing left to spend."""
    async with house_with(
        tmp_path_factory.mktemp("budgets"),
        per_team={"limit": "$1", "each": "team"},
        empty={"limit": 0, "match": {"user": "poor"}},
    ) as running:
        yield running


def chat(model: str = DIME, **more: Any) -> bytes:
    return json.dumps({**CHAT, "model": model, **more}).encode()


async def dime(house: House, *, stream: bool = False, **headers: str) -> httpx2.Response:
    content = chat(stream=stream) if stream else chat()
    return await house.ask(WHOLE[0], content=content, **headers)


def totals(house: House, account: str) -> tuple[int, int]:
    """What is held and spent."""
    return next(((int(b.held), int(b.spent)) for b in house.books.balances() if b.account == account), (0, 0))


# --- exact under load -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_a_thousand_dimes_on_five_dollars(tmp_path_factory: pytest.TempPathFactory, stream: bool) -> None:
    """Exactly fifty are admitted, nothing is spent over, nothing stays held, and nobody is refused without need."""
    simulator = Simulator(seed=3, pace=Pace(5, 20_000))
    async with house_with(tmp_path_factory.mktemp("dimes"), sim=simulator, purse={"limit": "$5"}) as house:
        async with asyncio.timeout(50):
            limits = httpx2.Limits(max_connections=200)
            async with httpx2.AsyncClient(base_url=house.url, timeout=45, limits=limits) as client:
                headers = {**WHOLE[0].headers}
                answers = await asyncio.gather(
                    *(
                        client.post("/v1/chat/completions", headers=headers, content=chat(stream=stream))
                        for _ in range(1_000)
                    )
                )
        codes = [answer.status_code for answer in answers]
        assert (codes.count(200), codes.count(402)) == (50, 950)
        assert totals(house, "budget:purse") == (0, 5_000_000_000)
        assert len(house.calls) == 50


async def test_cancelled_calls_give_back_what_they_did_not_use(tmp_path_factory: pytest.TempPathFactory) -> None:
    """With clients that hang up at random every dime is either spent or free again, and never more than the limit."""
    draw = random.Random(5)
    simulator = Simulator(seed=3, pace=Pace(30, 3_000))
    async with house_with(tmp_path_factory.mktemp("cancels"), sim=simulator, purse={"limit": "$5"}) as house:

        async def call() -> int:
            with suppress(httpx2.HTTPError, TimeoutError):
                async with asyncio.timeout(draw.choice((0.02, 0.05, 0.1, 30))):
                    return (await dime(house, stream=True)).status_code
            return 0

        codes = await asyncio.gather(*(call() for _ in range(400)))
        await until(lambda: house.books.open_holds() == 0, 20)
        held, spent = totals(house, "budget:purse")
        assert held == 0
        assert spent <= 5_000_000_000
        assert codes.count(200) >= 1
        assert spent == sum(row["cost_nanousd"] for row in house.rows())


async def test_sixteen_branches_of_one_task_share_what_it_has(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Children draw from their parent's five dollars, however many there are and whatever they open for themselves."""
    simulator = Simulator(seed=3, pace=Pace(2, 50_000))
    async with house_with(tmp_path_factory.mktemp("branches"), sim=simulator) as house:
        root = task_name()
        first = await dime(house, x_bursar_task=root, x_bursar_task_budget="5")
        assert first.headers["x-bursar-budget-remaining"] == "4.9"

        async def branch(number: int) -> list[int]:
            child = {"x_bursar_task": f"{root}-{number}", "x_bursar_parent_task": root}
            grandchild = {"x_bursar_task": f"{root}-{number}-sub", "x_bursar_parent_task": f"{root}-{number}"}
            codes: list[int] = []
            for turn in range(10):
                who = grandchild if turn % 2 and turn > 1 else {**child, "x_bursar_task_budget": "100"}
                codes.append((await dime(house, **who)).status_code)
            return codes

        codes = [code for codes in await asyncio.gather(*(branch(n) for n in range(16))) for code in codes]
        assert codes.count(200) == 49
        assert set(codes) == {200, 402}
        assert totals(house, f"task:{root}") == (0, 5_000_000_000)


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", DIALECTS, ids=str)
async def test_a_refusal_says_everything(house: House, ask: Any) -> None:
    """402 in the client's dialect: budget, limit, spent, held, needed, reset and the way out; it is not to be retried."""
    answer = await house.ask(ask, x_bursar_user="poor", x_bursar_team=task_name())
    assert answer.status_code == 402
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    error = answer.json()["error"]
    details = error["bursar"] if "bursar" in error else error["details"][0]["metadata"]
    assert details["budget"] == "empty"
    assert "budget 'empty' has $0: $0 spent, $0 held. This call needs up to $" in error["message"]
    assert "`bursar budgets show empty` says where" in error["message"]


POOR = {"x-bursar-user": "poor"}
HI = [{"role": "user", "content": "hi"}]


async def ask_openai(house: House) -> Any:
    async with openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key=KEY, default_headers=POOR) as client:
        return await client.chat.completions.create(model=GPT, messages=HI)  # type: ignore[arg-type]


async def ask_anthropic(house: House) -> Any:
    async with anthropic.AsyncAnthropic(base_url=house.url, api_key=KEY, default_headers=POOR) as client:
        return await client.messages.create(model=HAIKU, max_tokens=100, messages=HI)  # type: ignore[arg-type]


async def ask_gemini(house: House) -> Any:
    options = types.HttpOptions(base_url=house.url, headers=POOR, retry_options=types.HttpRetryOptions())
    async with genai.Client(api_key=KEY, http_options=options).aio as client:
        return await client.models.generate_content(model="gemini-2.5-flash", contents="hi")


@pytest.mark.parametrize(
    ("client", "error"),
    [
        (ask_openai, openai.APIStatusError),
        (ask_anthropic, anthropic.APIStatusError),
        (ask_gemini, gemini_errors.ClientError),
    ],
)
async def test_the_sdks_do_not_try_again(house: House, client: Any, error: type[Exception]) -> None:
    """With their default retries the official SDKs ask once and raise, so that no loop hammers an empty budget."""
    before = house_denials(await house.client.get("/metrics"))
    with pytest.raises(error) as raised:
        await client(house)
    assert getattr(raised.value, "status_code", None) == 402 or getattr(raised.value, "code", None) == 402
    assert house_denials(await house.client.get("/metrics")) == before + 1


def house_denials(metrics: httpx2.Response) -> int:
    line = 'bursar_budget_denials_total{budget="empty",code="budget_exceeded"}'
    return next((int(float(text.split()[-1])) for text in metrics.text.splitlines() if text.startswith(line)), 0)


async def test_headers_tell_what_is_left(house: House) -> None:
    """Every answer under a budget says which is the tightest and what it has left; a stream says it when it begins."""
    team = task_name()
    whole = await dime(house, x_bursar_team=team)
    assert (whole.headers["x-bursar-budget"], whole.headers["x-bursar-budget-remaining"]) == ("per_team", "0.9")
    stream = await dime(house, x_bursar_team=team, stream=True)
    assert stream.headers["x-bursar-budget-remaining"] == "0.8"
    free = await dime(house)
    assert "x-bursar-budget" not in free.headers


async def test_each_team_has_its_own(house: House) -> None:
    """One team's empty purse is nobody else's."""
    spender, other = task_name(), task_name()
    codes = [(await dime(house, x_bursar_team=spender)).status_code for _ in range(11)]
    assert codes == [200] * 10 + [402]
    assert (await dime(house, x_bursar_team=other)).status_code == 200


# --- the shape of what is sent ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [*WHOLE, *STREAMS], ids=str)
async def test_a_tight_budget_sends_a_smaller_cap(tmp_path_factory: pytest.TempPathFactory, ask: Any) -> None:
    """The provider cannot answer longer than the hold pays for, and the answer says that it was capped."""
    async with house_with(
        tmp_path_factory.mktemp("tight"), tight={"limit": "$0.004", "floor_tokens": 16}, wait_s=0
    ) as house:
        seen: list[int] = []
        for _ in range(40):
            answer = await house.ask(ask, x_bursar_task="t")
            if answer.status_code == 402:
                break
            assert answer.status_code == 200, answer.text
            if cap := answer.headers.get("x-bursar-output-cap"):
                seen.append(int(cap))
                row = house.rows("t")[-1]
                assert row["output_tokens"] <= int(cap)
                assert json.loads(row["decision"])["budget"]["output_cap"] == int(cap)
        held, spent = totals(house, "budget:tight")
        assert seen
        assert held == 0
        assert 0 < spent <= 4_000_000


async def test_a_cheaper_model_takes_over(tmp_path_factory: pytest.TempPathFactory) -> None:
    """From its share on the rung's model is asked instead; price, ledger and headers say so."""
    ladder = [{"at": "10%", "model": {"gpt-4o": GPT}}]
    async with house_with(tmp_path_factory.mktemp("cheaper"), small={"limit": "$1", "ladder": ladder}) as house:
        await house.ask(WHOLE[0], content=chat("gpt-4o", max_tokens=50), x_bursar_task="before")
        for _ in range(2):
            await dime(house, x_bursar_task="spend")
        answer = await house.ask(WHOLE[0], content=chat("gpt-4o", max_tokens=50), x_bursar_task="after")
        assert answer.headers["x-bursar-budget-changed"] == "model"
        assert answer.json()["model"].startswith(GPT)
        before, after = house.rows("before")[0], house.rows("after")[0]
        assert (before["model_asked"], after["model_asked"]) == ("gpt-4o", "gpt-4o")
        assert before["model"].startswith("gpt-4o-2024")
        assert after["model"].startswith(GPT)
        assert after["cost_nanousd"] < before["cost_nanousd"]
        assert json.loads(after["decision"])["rung"] == "cheaper"


async def test_the_agent_is_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A note reaches the model as a system message, with what is left in it."""
    ladder = [{"at": "10%", "note": "Wrap up, {left} left."}]
    async with house_with(tmp_path_factory.mktemp("told"), small={"limit": "$1", "ladder": ladder}) as house:
        await dime(house)
        plain = len(house.calls)
        await dime(house)
        assert house.calls[plain].usage is not None
        assert house.calls[plain].usage.input_tokens > house.calls[plain - 1].usage.input_tokens  # type: ignore[union-attr]


async def test_a_pause_for_approval(tmp_path_factory: pytest.TempPathFactory) -> None:
    """402 with an id; once somebody grants it the same call goes on, others still wait."""
    from contextlib import closing

    from bursar.adapters.budget_store import BudgetStore
    from bursar.compose import now_us, open_books_file

    ladder = [{"at": "50%", "approve": True}]
    async with house_with(tmp_path_factory.mktemp("approve"), small={"limit": "$0.40", "ladder": ladder}) as house:
        for _ in range(2):
            assert (await dime(house, x_bursar_task="a")).status_code == 200
        asked = await dime(house, x_bursar_task="a")
        assert asked.status_code == 402
        approval = asked.json()["error"]["bursar"]["approval_id"]
        assert (await dime(house, x_bursar_task="a")).json()["error"]["bursar"]["approval_id"] == approval
        with closing(open_books_file(house.data, house.settings)) as books:
            store = BudgetStore(books, now_us)
            (waiting,) = store.approvals(pending=True)
            assert (waiting.id, waiting.who["task"]) == (approval, "a")
            store.decide(approval, "granted")
        assert (await dime(house, x_bursar_task="a")).status_code == 200
        assert (await dime(house, x_bursar_task="b")).status_code == 402


async def test_a_stream_that_asks_for_more_ends_cleanly(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A long stream extends its hold while there is money; then it ends as if it had reached its length, and is settled."""
    simulator = Simulator(seed=11, pace=Pace(0, 8_000))
    purse = {"limit": "$0.0009", "streams": "extend", "floor_tokens": 16}
    async with house_with(tmp_path_factory.mktemp("extend"), sim=simulator, purse=purse, wait_s=0) as house:
        finishes: list[str | None] = []
        async with openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key=KEY, max_retries=0) as client:
            with suppress(openai.APIStatusError):
                for number in range(60):
                    stream = await client.chat.completions.create(
                        model=GPT, messages=[{"role": "user", "content": f"essay {number}"}], stream=True
                    )
                    chunks = [chunk async for chunk in stream]
                    finishes.append(
                        next(
                            (c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason),
                            None,
                        )
                    )
        held, spent = totals(house, "budget:purse")
        assert held == 0
        assert 0 < spent <= 900_000
        assert set(finishes) <= {"stop", "length"}


# --- tasks ------------------------------------------------------------------------------------------------------


async def test_a_task_budget_needs_a_task_and_an_amount(house: House) -> None:
    """Bad headers are refused before anything is held, and name the header."""
    for headers, part in (
        ({"x_bursar_task_budget": "1"}, "needs a task"),
        ({"x_bursar_task": "t", "x_bursar_task_budget": "lots"}, "is no amount"),
        ({"x_bursar_task": "t", "x_bursar_task_budget": "5 calls"}, "must be money"),
        (
            {"x_bursar_task": "t", "x_bursar_task_budget": "1", "x_bursar_task_reserve": "2"},
            "more than the task's budget",
        ),
    ):
        answer = await dime(house, **headers)
        assert answer.status_code == 400
        assert part in answer.json()["error"]["message"]


async def test_a_request_cannot_raise_its_own_limit(house: House) -> None:
    """The first statement counts; a later one may lower the limit, and nobody can go around it by another parent."""
    task = task_name()
    assert (await dime(house, x_bursar_task=task, x_bursar_task_budget="0.20")).status_code == 200
    assert (await dime(house, x_bursar_task=task, x_bursar_task_budget="9")).status_code == 200
    assert (await dime(house, x_bursar_task=task, x_bursar_task_budget="9")).status_code == 402
    child = f"{task}-child"
    await dime(house, x_bursar_task=child, x_bursar_parent_task=task)
    assert (await dime(house, x_bursar_task=child, x_bursar_parent_task="elsewhere")).status_code == 402


async def test_cyclic_parents_are_no_tree(house: House) -> None:
    """A task that names its own descendant as its parent stays where it was; calls go on."""
    a, b = task_name(), task_name()
    for task, parent in ((a, b), (b, a), (a, a)):
        answer = await dime(house, x_bursar_task=task, x_bursar_parent_task=parent, x_bursar_task_budget="1")
        assert answer.status_code == 200


async def test_the_last_call_may_use_the_reserve(house: House) -> None:
    """With $0.10 of $0.30 kept back two calls go through, the third only when it says that it is the last."""
    task = task_name()
    opened = {"x_bursar_task": task, "x_bursar_task_budget": "0.30", "x_bursar_task_reserve": "0.10"}
    assert [(await dime(house, **opened)).status_code for _ in range(3)] == [200, 200, 402]
    assert (await dime(house, **opened, x_bursar_final="true")).status_code == 200
    assert (await dime(house, **opened, x_bursar_final="true")).status_code == 402


async def test_another_key_cannot_lower_a_tasks_limit(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever guesses the name of a task cannot starve it; whoever opened it may lower it."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-server")
    task = task_name()
    async with house_with(tmp_path_factory.mktemp("keys")) as house:
        mine, theirs = (make_key(house.path, name, Scope()) for name in ("mine", "theirs"))

        async def call(key: str, budget: str) -> int:
            headers = {"authorization": f"Bearer {key}", "x-bursar-task": task, "x-bursar-task-budget": budget}
            return (await house.client.post("/v1/chat/completions", headers=headers, content=chat())).status_code

        assert [await call(mine, "0.50"), await call(theirs, "0.01"), await call(mine, "0.50")] == [200] * 3
        assert await call(mine, "0.01") == 402


async def test_another_key_cannot_begin_where_somebody_already_is(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a parent nor a first limit can be given to a task that another key is working on."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-server")
    async with house_with(tmp_path_factory.mktemp("keys")) as house:
        mine, theirs = (make_key(house.path, name, Scope()) for name in ("mine", "theirs"))
        victim, trap = task_name(), task_name()

        async def call(key: str, **headers: str) -> int:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            headers = {"authorization": f"Bearer {key}", "x-bursar-task": victim, **named}
            return (await house.client.post("/v1/chat/completions", headers=headers, content=chat())).status_code

        assert await call(mine) == 200
        await call(theirs, x_bursar_task=trap, x_bursar_task_budget="0")
        assert await call(theirs, x_bursar_parent_task=trap) == 200
        assert await call(theirs, x_bursar_task_budget="0") == 200
        assert await call(mine) == 200


async def test_an_exhausted_task_stays_so_beside_new_ones(house: House) -> None:
    """Calls that open tasks in the same moment do not make the books forget the limits of others."""
    task = task_name()
    assert (await dime(house, x_bursar_task=task, x_bursar_task_budget="0.10")).status_code == 200
    others = [dime(house, x_bursar_task=task_name(), x_bursar_task_budget="1") for _ in range(40)]
    again = [dime(house, x_bursar_task=task, x_bursar_task_budget="9") for _ in range(40)]
    mixed = [call for pair in zip(others, again, strict=True) for call in pair]
    codes = [answer.status_code for answer in await asyncio.gather(*mixed)]
    assert codes == [200, 402] * 40


async def test_deep_trees_are_refused(house: House) -> None:
    """What stands too deep for its limits to be kept is a bad request, not a way around them."""
    top = task_name()
    await dime(house, x_bursar_task=f"{top}-0", x_bursar_task_budget="0")
    codes = [
        (await dime(house, x_bursar_task=f"{top}-{n}", x_bursar_parent_task=f"{top}-{n - 1}")).status_code
        for n in range(1, 36)
    ]
    assert codes == [402] * 31 + [400] + [402] * 3


# --- unpriced ---------------------------------------------------------------------------------------------------


async def test_a_model_without_a_price_is_refused_under_a_budget(house: House) -> None:
    """Unknown is never zero: the refusal says how to give it a price; without a budget the call goes through."""
    refused = await house.ask(WHOLE[0], content=chat("mystery-9"), x_bursar_team=task_name())
    assert refused.status_code == 402
    assert refused.json()["error"]["bursar"]["code"] == "unpriced"
    assert (await house.ask(WHOLE[0], content=chat("mystery-9"))).status_code == 200


async def test_what_nobody_can_price_is_under_the_budget_too(house: House) -> None:
    """A batch costs money later, and nobody knows how much: it is a call without a price, not a free request."""
    team = task_name()
    body = json.dumps({"requests": []}).encode()
    headers = {**WHOLE[2].headers, "x-bursar-team": team}
    answer = await house.client.post("/v1/messages/batches", headers=headers, content=body)
    assert answer.status_code == 402
    assert answer.json()["error"]["bursar"]["code"] == "unpriced"


async def test_an_answer_without_usage_is_not_free(house: House) -> None:
    """What was held for it counts: calls whose provider states nothing end like all others."""
    team = task_name()
    codes = [
        (await house.ask(WHOLE[0], content=chat(GPT), x_bursar_team=team, x_sim_fault="no-usage")).status_code
        for _ in range(30)
    ]
    assert 402 in codes


@pytest.mark.parametrize("amount", ["0,50", "1e99999999", "1,5", "٣", "5 5", "+5"])
async def test_amounts_that_could_be_misread_are_refused(house: House, amount: str) -> None:
    """A comma that is no thousands separator, an endless number: 400, and nothing is opened."""
    task = task_name()
    answer = await house.client.post(
        "/v1/chat/completions",
        headers={**WHOLE[0].headers, "x-bursar-task": task, "x-bursar-task-budget": amount.encode()},  # type: ignore[dict-item]
        content=chat(),
    )
    assert answer.status_code in (400, 200 if not amount.isascii() else 400)
