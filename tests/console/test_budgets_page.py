"""Budgets on the console's page, in a real browser: how they stand, and a yes that lets a call go on."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from chromium import in_browser
from desks import Desk
from playwright.sync_api import Page, expect

from bursar.adapters.data_dir import DataDir
from bursar.config import ProviderSettings, Server, Settings
from bursar.server import serve as serve_gateway
from bursar.sim import Simulator
from bursar.sim import serve as simulate
from seeding import MemoryLedger

_HOSTILE = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture
def busy(desk: Desk) -> Desk:
    """Budgets at every height: half used, near, over, of tokens, with each, watched, and of two tasks."""
    desk.configured["team"] = {"limit": "$100", "per": "month", "match": {"team": "search"}}
    desk.ask(lambda d: d.set("people", {"limit": 5, "per": "day", "each": "user", "on_unpriced": "allow"}))
    desk.ask(lambda d: d.set("tokens", {"limit": "2M tokens", "per": "24h", "enforce": False}))
    desk.ask(lambda d: d.set("lab", {"limit": 10, "raise": {"by": "5", "until": "2099-12-01"}}))
    desk.ask(lambda d: d.set("quiet", {"limit": 10, "each": "agent"}))
    desk.ask(lambda d: d.set_task("research", 500_000_000, 0))  # type: ignore[arg-type]
    month = desk.ask(lambda d: next(each.span for each in d.standings([b.budget for b in d.budgets()])))
    day = desk.now_us // 86_400_000_000 * 86_400
    desk.used(f"budget:team@{month.start_us // 10**6}-{(month.end_us or 0) // 10**6}", spent=52 * 10**9, held=7 * 10**9)
    for name, spent, unpriced in (("ann", 4_200_000_000, 2), ("bob", 5_300_000_000, 0), (_HOSTILE, 42, 0)):
        desk.used(f"budget:people@{day}-{day + 86_400}={name}", spent=spent, unpriced=unpriced)
    for number in range(9):
        desk.used(f"budget:people@{day}-{day + 86_400}=user-{number}", spent=10**6 + number)
    desk.used("budget:lab", spent=3 * 10**9)
    desk.used("task:research", spent=10**8, held=3 * 10**8)
    return desk


@in_browser
def test_budgets_show_what_is_left(
    ledger: MemoryLedger, busy: Desk, serve: Callable[[Any], str], browser_page: tuple[Page, list[str]]
) -> None:
    """One row for each balance with a bar, what is left and what is not known; the rest is counted; names are text."""
    ledger.attempt(task="research", cost_nanousd=10**8)
    page, complaints = browser_page
    page.goto(serve(ledger))
    rows = page.locator("#standings tbody tr")
    team = rows.filter(has_text="per month")
    expect(team).to_contain_text("$52.00 spent, $7.00 held of $100.00")
    expect(team.locator("td").nth(2)).to_contain_text("$41.00")
    expect(team.locator(".meter")).to_have_attribute("aria-label", "59% used")
    assert team.locator(".meter .held").evaluate("bar => bar.style.width") == "7%"
    ann, bob = rows.filter(has_text="user ann"), rows.filter(has_text="user bob")
    expect(ann.locator(".meter")).to_have_class("meter near")
    expect(ann).to_contain_text("2 unpriced")
    expect(bob.locator(".meter")).to_have_class("meter full")
    expect(bob).to_contain_text("-$0.3000")
    expect(rows.filter(has_text="and 7 more")).to_contain_text("bursar budgets show people")
    expect(rows.filter(has_text="raised by")).to_contain_text("of $15.00")
    expect(rows.filter(has_text="watched")).to_contain_text("0 spent of 2M tokens")
    expect(rows.filter(has_text="no call of any agent yet")).to_have_count(1)
    expect(rows.filter(has_text="task limit")).to_contain_text("$0.1000 spent, $0.3000 held of $0.5000")
    assert page.title() == "Bursar"
    assert page.locator("main img").count() == 0
    assert complaints == []


@in_browser
def test_without_budgets_there_is_no_panel(
    ledger: MemoryLedger, serve: Callable[[Any], str], browser_page: tuple[Page, list[str]]
) -> None:
    """Who sets no budgets sees nothing of them."""
    ledger.attempt()
    page, _ = browser_page
    page.goto(serve(ledger))
    expect(page.locator("#state")).to_have_text("live")
    expect(page.locator("#budgets")).to_be_hidden()
    expect(page.locator("#waiting")).to_be_hidden()


@in_browser
def test_a_decision_is_confirmed_and_told(
    ledger: MemoryLedger, busy: Desk, serve: Callable[[Any], str], browser_page: tuple[Page, list[str]]
) -> None:
    """With the keyboard alone: nothing is decided before it is confirmed, what was done is said, an error is shown."""
    busy.asked("a1")
    busy.asked("a2", who=json.dumps({"user": "ann", "task": _HOSTILE}))
    page, complaints = browser_page
    page.goto(serve(ledger))
    item = page.locator("li[data-approval=a2]")
    expect(item).to_contain_text(_HOSTILE)
    item.get_by_role("button", name="Decline").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#decide")).to_contain_text("stay refused under budget support")
    page.keyboard.press("Escape")
    expect(page.locator("#decide")).to_be_hidden()
    assert [one.state for one in busy.ask(lambda d: d.approvals(pending=True))] == ["pending", "pending"]
    page.keyboard.press("Enter")
    page.locator("#decide-yes").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#state")).to_have_text(f"Declined: user ann, task {_HOSTILE}")
    expect(item).to_have_count(0)
    assert {one.id: one.state for one in busy.ask(lambda d: d.approvals(pending=False))} == {
        "a1": "pending",
        "a2": "declined",
    }
    page.get_by_role("button", name="Approve").click()
    busy.write("DELETE FROM approval WHERE id = ?", ("a1",))
    page.locator("#decide-yes").click()
    expect(page.locator("#decide-problem")).to_contain_text("nothing of the id 'a1' waits for a yes")
    assert [text for text in complaints if "404" not in text] == []


@in_browser
@pytest.mark.parametrize("width", [360, 390, 1280])
def test_budgets_fit_their_window(
    ledger: MemoryLedger, busy: Desk, serve: Callable[[Any], str], browser_page: tuple[Page, list[str]], width: int
) -> None:
    """Nothing sticks out to the side, also with a very long name."""
    busy.ask(lambda d: d.set_task("x" * 250, 10**9, 0))  # type: ignore[arg-type]
    busy.asked("a1", who=json.dumps({"task": "y" * 250}))
    page, _ = browser_page
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(serve(ledger))
    expect(page.locator("#approvals li")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("(box => box.scrollWidth <= box.clientWidth)(document.querySelector('#budgets .scroll'))")


# --- the whole way ----------------------------------------------------------------------------------------------


@pytest.fixture
def running(tmp_path: Path) -> Iterator[str]:
    """A gateway in front of a simulated provider, in a thread of its own; calls of agents need a yes from the start."""
    rung = {"at": "1%", "approve": True}
    budgets = {"pilot": {"limit": "$1", "per": "month", "match": {"agent": "pilot"}, "ladder": [rung]}}
    url: Future[str] = Future()
    stops: Future[Callable[[], None]] = Future()

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        stops.set_result(lambda: loop.call_soon_threadsafe(stop.set))
        async with simulate(Simulator(seed=7)) as sim:
            prices = {"models": [{"provider": "openai", "model": "dime", "input": 0, "output": 0, "requests": 100}]}
            settings = Settings(
                server=Server(port=0, drain_s=1),
                providers={"openai": ProviderSettings(base_url=f"{sim.url}/v1")},
                budgets=budgets,
                prices=prices,
            )
            data = DataDir(tmp_path / "data")
            await serve_gateway(data, settings, started=lambda running: url.set_result(running.url), stop=stop)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    yield url.result(timeout=20)
    stops.result()()
    thread.join()


def _call(url: str, **more: str) -> tuple[int, str]:
    body = {"model": "dime", "messages": [{"role": "user", "content": "hello"}]}
    headers = {"content-type": "application/json", "authorization": "Bearer sk-x", "x-bursar-agent": "pilot"}
    headers |= {f"x-bursar-{name}": value for name, value in more.items()}
    try:
        with urlopen(Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)) as answer:
            return answer.status, ""
    except HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)["error"]["code"]


def _change(url: str, method: str, path: str, body: Any = None, **headers: str) -> int:
    content = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json", **headers}
    try:
        with urlopen(Request(f"{url}/api/v1/{path}", content, headers, method=method)) as answer:
            return answer.status
    except HTTPError as refused:
        with refused:
            return refused.code


def test_a_change_is_in_force_for_the_next_call(running: str) -> None:
    """Set, raised, removed over the API: the call after it is judged by it, also of a task that is known already."""
    other = {"agent": "other", "task": "t-1"}
    assert _call(running, **other) == (200, "")
    assert _change(running, "PUT", "budgets/cap", {"limit": "0.10", "match": {"agent": "other"}}) == 201
    assert _call(running, **other) == (200, "")
    assert _call(running, **other)[1] == "budget_exceeded"
    assert _change(running, "PUT", "budgets/cap", {"limit": "0.30", "match": {"agent": "other"}}) == 200
    assert _call(running, **other) == (200, "")
    assert _change(running, "DELETE", "budgets/cap") == 200
    assert _call(running, **other) == (200, "")
    assert _change(running, "PUT", "task-budgets/t-1", {"limit": "0.45"}) == 201
    assert _call(running, **other)[1] == "budget_exceeded"
    assert _change(running, "PUT", "task-budgets/t-1", {"limit": "0.50"}) == 200
    assert _call(running, **other) == (200, "")


def test_another_site_changes_nothing_of_a_running_server(running: str) -> None:
    """What browsers send for a page of another site, a rebound name, and a form."""
    body = {"limit": 0}
    assert _change(running, "PUT", "budgets/x", body, origin="https://evil.example") == 403
    assert _change(running, "PUT", "budgets/x", body, **{"sec-fetch-site": "cross-site"}) == 403
    assert _change(running, "PUT", "budgets/x", body, host="evil.example") == 403
    assert _change(running, "PUT", "budgets/x", body, **{"content-type": "text/plain"}) == 415
    assert _change(running, "PUT", "budgets/x", {"limit": 0, "tz": "x" * 70_000}) == 413
    with urlopen(f"{running}/api/v1/budgets") as answer:
        assert [row["name"] for row in json.load(answer)["rows"]] == ["pilot"]


@in_browser
def test_a_yes_on_the_page_lets_the_call_go_on(running: str, browser_page: tuple[Page, list[str]]) -> None:
    """The call that was refused for want of a yes goes through after Approve was clicked and confirmed."""
    page, complaints = browser_page
    assert _call(running) == (200, "")
    refused = _call(running)
    assert refused[1] == "approval_required"
    page.goto(running)
    item = page.locator("#approvals li")
    expect(item).to_contain_text("agent pilot")
    item.get_by_role("button", name="Approve").click()
    assert _call(running) == refused
    page.locator("#decide-yes").click()
    expect(page.locator("#state")).to_have_text("Approved: agent pilot")
    assert _call(running) == (200, "")
    expect(page.locator("#waiting")).to_be_hidden()
    expect(page.locator("#standings")).to_contain_text("$0.2000 spent of $1.00")
    assert complaints == []
