"""The console's page in a real browser: true figures, hostile names, a live feed, and no silent failure."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.request import urlopen

import pytest
from chromium import in_browser
from playwright.sync_api import Page, expect

from bursar.console.dashboard import page as asset
from route_stories import fallback, hit, primary
from seeding import MemoryLedger

_HOSTILE = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture
def filled(ledger: MemoryLedger) -> MemoryLedger:
    ledger.attempt(task="research", agent="boss", model="large", cost_nanousd=12_340_000_000)
    ledger.attempt(task="part", parent_task="research", agent="reader", model="small", cost_nanousd=42, estimated=True)
    ledger.attempt(task=_HOSTILE, agent="<b>bold</b>", model="new", cost_nanousd=None)
    ledger.attempt(ago=timedelta(days=3), model="small", cost_nanousd=1_000_000_000)
    ledger.attempt(ago=timedelta(days=20), model="small", cost_nanousd=2_000_000_000)
    return ledger


def test_the_page_loads_nothing_from_elsewhere() -> None:
    """Every file has the strict policy; the page has no inline script or style and names no other host."""
    for path in (
        "/",
        "/console/app.css",
        "/console/app.js",
        "/console/parts.js",
        "/console/budgets.js",
        "/console/task.js",
        "/console/icon.svg",
    ):
        answer = asset(path)
        assert answer is not None
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert b"https://" not in answer.body
    page = asset("/")
    assert page is not None
    for inline in (b"<style", b"style=", b"onclick", b"<script>"):
        assert inline not in page.body
    assert asset("/console/../secret") is None
    assert asset("/console/index.html") is None


@in_browser
def test_figures_are_those_of_the_api(
    filled: MemoryLedger, serve: Callable[[Any], str], browser_page: tuple[Page, list[str]]
) -> None:
    """The three figures, the tables and the chart show what the API answers, and the console is quiet."""
    page, complaints = browser_page
    address = serve(filled)
    with urlopen(f"{address}/api/v1/overview") as answer:
        figures = json.load(answer)["figures"]
    assert [figures[name]["cost_usd"] for name in ("today", "7d", "30d")] == [
        "12.340000042",
        "13.340000042",
        "15.340000042",
    ]
    page.goto(address)
    for name, amount in (("today", "~$12.34"), ("7d", "~$13.34"), ("30d", "~$15.34")):
        card = page.locator(f"[data-figure='{name}']")
        expect(card.locator(".amount")).to_have_text(amount)
        expect(card).to_contain_text("1 call unpriced")
        expect(card).to_contain_text("1 call estimated")
    expect(page.locator("table[data-by=model] tbody tr")).to_have_count(3)
    expect(page.locator("table[data-by=model] tbody tr").nth(0)).to_contain_text("large")
    expect(page.locator("table[data-by=model] tbody tr").nth(2)).to_contain_text("unpriced")
    expect(page.locator("#chart svg title").first).to_have_text("Spend per day")
    assert page.locator("#chart g.day").count() == 30
    expect(page.locator("#chart-legend")).to_contain_text("? calls of that day are unpriced")
    page.click("summary")
    expect(page.locator("#days tbody tr")).to_have_count(30)
    expect(page.locator("#unpriced")).to_contain_text("no price for new")
    expect(page.locator("#state")).to_have_text("live")
    page.click("button[data-period=today]")
    expect(page.locator("table[data-by=model] tbody tr").nth(0)).to_contain_text("100%")
    assert complaints == []


@in_browser
def test_hostile_names_are_text(
    filled: MemoryLedger, serve: Callable[[Any], str], browser_page: tuple[Page, list[str]]
) -> None:
    """Markup in the name of a task or an agent is shown letter by letter, on the page and in the task's tree."""
    page, complaints = browser_page
    page.goto(serve(filled))
    link = page.locator("table[data-by=task] button.link", has_text=_HOSTILE)
    expect(link).to_have_text(_HOSTILE)
    expect(page.locator("table[data-by=agent]")).to_contain_text("<b>bold</b>")
    link.click()
    expect(page.locator("#task-title")).to_have_text(_HOSTILE)
    expect(page.locator("#task-steps tbody tr")).to_have_count(1)
    assert page.locator("main img, dialog img, main b").count() == 0
    assert page.title() == "Bursar"
    assert complaints == []


@in_browser
def test_a_task_opens_as_a_tree(
    filled: MemoryLedger, serve: Callable[[Any], str], browser_page: tuple[Page, list[str]]
) -> None:
    """Its own step, its sub-task and that one's step, with the sums."""
    page, complaints = browser_page
    page.goto(serve(filled))
    page.click("table[data-by=task] button.link >> text=research")
    expect(page.locator("#task-facts")).to_contain_text("~$12.34 with 1 sub-task")
    expect(page.locator("table[data-by=task] tr", has_text="research").locator(".below")).to_have_text("1 sub-task")
    expect(page.locator("table[data-by=task]")).not_to_contain_text("part")
    rows = page.locator("#task-steps tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(1)).to_contain_text("part")
    expect(rows.nth(2)).to_contain_text("~$0.000000042")
    page.click("#task-close")
    expect(page.locator("#task")).to_be_hidden()
    assert complaints == []


def _traced(ledger: MemoryLedger) -> None:
    """A task of 10 s with a call of 4 s, an agent in it with a dear tool called twice, and a step beside it."""
    own = {"task": "ticket-1", "trace_id": "t"}
    ledger.span("ticket", span_id="root", ago=timedelta(seconds=60), ms=10_000, kind="task", **own)
    ledger.attempt(ago=timedelta(seconds=60), latency_ms=4000.0, span_id="root", cost_nanousd=10_000_000, **own)
    ledger.span(_HOSTILE, span_id="agent", parent_id="root", ago=timedelta(seconds=56), ms=5000, kind="agent", **own)
    for second in (55, 53):
        tool = {"kind": "tool", "model": _HOSTILE, "labels": {"args": "d1"}, "latency_ms": 1000.0}
        ledger.attempt(ago=timedelta(seconds=second), span_id="agent", cost_nanousd=7_000_000, **tool, **own)
    ledger.span("beside", span_id="b", parent_id="root", ago=timedelta(seconds=56), ms=1000, **own)
    ledger.outcome("ticket-1", "resolved", 3_200_000_000)


@in_browser
def test_a_task_is_a_waterfall_with_findings(
    ledger: MemoryLedger, serve: Callable[[Any], str], browser_page: tuple[Page, list[str]]
) -> None:
    """Its address opens it; bars stand where things happened; findings and the critical path have the API's figures."""
    _traced(ledger)
    page, complaints = browser_page
    address = serve(ledger)
    page.goto(f"{address}/#task=ticket-1")
    expect(page.locator("#task-facts")).to_contain_text("outcome resolved, worth $3.20")
    rows = page.locator("#task-steps tbody tr")
    expect(rows).to_have_count(5)
    spans = page.locator("#task-steps td.when .fall span")
    places = spans.evaluate_all("all => all.map((one) => [one.className, one.style.left, one.style.width])")
    assert places == [
        ["model", "0%", "40%"],
        ["around", "40%", "50%"],
        ["tool", "50%", "10%"],
        ["tool", "70%", "10%"],
        ["own beside", "40%", "10%"],
    ]
    expect(page.locator("#task-path")).to_contain_text("Critical path, 10.0 s")
    expect(page.locator("#task-path")).to_contain_text("models 4.0 s (40%)")
    found = page.locator("[data-finding=repeated_tool]")
    expect(found.locator(".amount")).to_have_text("$0.0070")
    expect(found).to_contain_text(_HOSTILE)
    assert page.locator("dialog img").count() == 0
    page.keyboard.press("Escape")
    expect(page.locator("#task")).to_be_hidden()
    assert page.url == f"{address}/"
    page.click("table[data-by=task] button.link")
    expect(rows).to_have_count(5)
    assert page.url == f"{address}/#task=ticket-1"
    assert complaints == []


@in_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_routes_and_caches_are_seen(
    ledger: MemoryLedger, serve: Callable[[Any], str], browser_page: tuple[Page, list[str]], width: int
) -> None:
    """In the feed and in a task: a short mark where there is something to say. Attempts have their own operation, and what
    kept answers avoided is in no sum."""
    fallback(ledger, ago=timedelta(seconds=20), task="t-1")
    ledger.connection.execute("UPDATE attempt SET operation = 'messages' WHERE number = 2")
    hit(ledger, "kept", ago=timedelta(seconds=15), task="t-1")
    stale = {"rung": "stale", "cache": "stale", "cause": "rate_limit", "avoided_nanousd": None}
    hit(ledger, "stale", ago=timedelta(seconds=10), task="t-1", **stale)
    primary(ledger, "plain", ago=timedelta(seconds=5), task="t-1")
    page, complaints = browser_page
    page.set_viewport_size({"width": width, "height": 800})
    address = serve(ledger)
    page.goto(address)
    marks = ["fallback (overload)", "kept (exact), avoided $0.0042", "kept (stale, rate limit), at a cost not known"]
    expect(page.locator("#feed .mark")).to_have_text(marks[::-1])
    expect(page.locator("#feed tbody tr").nth(2).locator("td").last).to_have_text("$0.00")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.goto(f"{address}/#task=t-1")
    expect(page.locator("#task-steps .mark")).to_have_text(marks)
    expect(page.locator("#task-facts")).to_contain_text(
        "$0.0054; 2 kept answers avoided $0.0042, which is in no sum (1 at a cost not known); 4 calls"
    )
    rows = page.locator("#task-steps tbody tr")
    expect(rows.nth(0)).to_contain_text("attempt 1: chat_completions")
    expect(rows.nth(1)).to_contain_text("attempt 2: messages")
    assert page.evaluate("(t => t.scrollWidth <= t.clientWidth)(document.querySelector('#task .scroll'))")
    assert complaints == []


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_an_open_task_fits_its_window(
    ledger: MemoryLedger, serve: Callable[[Any], str], browser_page: tuple[Page, list[str]], width: int, scheme: Any
) -> None:
    """Nothing sticks out of the dialog, the cost can be seen, and bars differ from their ground, light and dark."""
    _traced(ledger)
    ledger.span(
        "x" * 200, span_id="long", parent_id="agent", task="ticket-1", trace_id="t", kind="tool", status="error"
    )
    page, _ = browser_page
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{serve(ledger)}/#task=ticket-1")
    expect(page.locator("#task-steps tbody tr")).to_have_count(6)
    assert page.evaluate("document.getElementById('task').scrollWidth <= document.getElementById('task').clientWidth")
    assert page.evaluate("(t => t.scrollWidth <= t.clientWidth)(document.querySelector('#task .scroll'))")
    colours = page.evaluate(
        "['.fall', '.fall .model', '.fall .tool'].map((name) =>"
        " getComputedStyle(document.querySelector(`#task-steps ${name}`)).backgroundColor)"
    )
    assert len(set(colours)) == 3


@in_browser
def test_a_task_that_is_not_there_is_said(
    filled: MemoryLedger, serve: Callable[[Any], str], browser_page: tuple[Page, list[str]]
) -> None:
    """An address of a task that nobody knows opens and says so; another address opens another task."""
    page, _ = browser_page
    address = serve(filled)
    page.goto(f"{address}/#task=nobody%20here")
    expect(page.locator("#task-facts")).to_contain_text("no task has the id 'nobody here'")
    page.goto(f"{address}/#task=research")
    expect(page.locator("#task-facts")).to_contain_text("~$12.34 with 1 sub-task")


@in_browser
def test_an_empty_ledger_says_how_to_begin_and_then_comes_alive(
    ledger: MemoryLedger, serve: Callable[[Any], str], browser_page: tuple[Page, list[str]]
) -> None:
    """The empty page has the line to paste with its own address; the first call appears without a reload."""
    page, complaints = browser_page
    address = serve(ledger)
    page.goto(address)
    expect(page.locator("#export")).to_have_text(f"export OPENAI_BASE_URL={address}/v1")
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#content")).to_be_hidden()
    ledger.attempt(task="first", cost_nanousd=4_200_000)
    expect(page.locator("#feed tbody tr")).to_contain_text("$0.0042")
    expect(page.locator("#empty")).to_be_hidden()
    expect(page.locator("[data-figure=today] .amount")).to_have_text("$0.0042")
    ledger.attempt(task="second", cost_nanousd=1_000_000_000)
    expect(page.locator("#feed tbody tr")).to_have_count(2)
    expect(page.locator("#feed tbody tr").first).to_contain_text("$1.00")
    expect(page.locator("[data-figure=today] .amount")).to_have_text("$1.00")
    assert complaints == []


@in_browser
def test_an_old_ledger_is_not_a_blank_page(
    ledger: MemoryLedger, serve: Callable[[Any], str], browser_page: tuple[Page, list[str]]
) -> None:
    """When everything is older than 30 days, as after an import, the tables show all time, the chart its last days, and the page says so."""
    ledger.attempt(ago=timedelta(days=100), task="old", cost_nanousd=5_000_000_000)
    page, complaints = browser_page
    page.goto(serve(ledger))
    expect(page.locator("table[data-by=task]")).to_contain_text("$5.00")
    expect(page.locator("button[data-period=all]")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#days-note")).to_have_text("no calls since 2025-12-21: the 30 days to then, in UTC")
    expect(page.locator("#chart desc")).to_contain_text("The dearest was 2025-12-21 with $5.00.")
    expect(page.locator("[data-figure='30d'] .amount")).to_have_text("$0.00")
    expect(page.locator("#chart-legend")).to_be_hidden()
    assert complaints == []


@in_browser
def test_an_error_is_shown_and_goes_away(
    filled: MemoryLedger, serve: Callable[[Any], str], browser_page: tuple[Page, list[str]]
) -> None:
    """A ledger that cannot answer is said in words; when it answers again the words go."""

    class Queries:
        locked = True

        def rows(self, sql: str, parameters: Any = None) -> list[dict[str, Any]]:
            if self.locked:
                raise RuntimeError("the ledger is locked")
            return filled.rows(sql, parameters)

    page, _ = browser_page
    queries = Queries()
    page.goto(serve(queries))
    expect(page.locator("#problem")).to_contain_text("the ledger is locked")
    expect(page.locator("#state")).to_have_text("not up to date")
    queries.locked = False
    expect(page.locator("#problem")).to_be_hidden()
    expect(page.locator("[data-figure=today] .amount")).to_have_text("~$12.34")


@in_browser
@pytest.mark.parametrize("width", [360, 1600])
def test_the_page_fits_its_window(
    filled: MemoryLedger, serve: Callable[[Any], str], browser_page: tuple[Page, list[str]], width: int
) -> None:
    """Nothing sticks out to the side, on a telephone or on a large screen, also with a very long name."""
    filled.attempt(task="x" * 250, model="y" * 200, cost_nanousd=77_000_000_000)
    page, _ = browser_page
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(serve(filled))
    expect(page.locator("#feed tbody tr")).to_have_count(6)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
