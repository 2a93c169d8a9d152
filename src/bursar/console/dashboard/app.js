// The console's page. It asks the API and shows the answer; it computes no money but for its digits.
import { showApprovals, showBudgets } from "./budgets.js";
import {
  ask, compact, cost, costCell, duration, fail, fill, id, live, make, mark, money, nano, percent, plural, POLL_MS, ratio, state, svg,
  tokens, when,
} from "./parts.js";
import { taskLink } from "./task.js";

const OVERVIEW_MS = 60000;
const FEED_ROWS = 50;
const tz = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";

let lastSequence = null;
let overviewAt = 0;
let period = "30d";
let chosen = false;
let polling = false;
let days = [];

// --- tables ----------------------------------------------------------------------------------------------

function showTable(table, by, answer) {
  const most = answer.rows.reduce((max, row) => Math.max(max, ratio(row.cost_usd, answer.total.cost_usd)), 0);
  const rows = answer.rows.map((row) => {
    const name = row[by] === "" ? `no ${by} given` : row[by];
    const track = make("span", { class: "track", "aria-hidden": "true" });
    const share = ratio(row.cost_usd, answer.total.cost_usd);
    if (share > 0) {
      const bar = make("span");
      bar.style.width = `${(100 * share) / most}%`;
      track.append(bar);
    }
    const label = by === "task" && row[by] !== "" ? taskLink(name) : make("span", { class: row[by] ? "" : "quiet" }, name);
    const below = row.sub_tasks ? make("span", { class: "quiet below" }, plural(row.sub_tasks, "sub-task")) : "";
    return make(
      "tr",
      {},
      make("td", { class: "name" }, label, below, track),
      make("td", { class: "number" }, compact(row.calls)),
      make("td", { class: "number optional" }, compact(tokens(row))),
      costCell(row),
      make("td", { class: "number quiet" }, percent(share, row.cost_usd)),
    );
  });
  if (answer.more_rows) {
    const command = by === "task" ? "tasks" : `spend --by ${by}`;
    const text = `and ${answer.more_rows.toLocaleString("en-US")} more: bursar ${command} --limit 1000`;
    rows.push(make("tr", {}, make("td", { class: "quiet name", colspan: 5 }, text)));
  }
  const title = by[0].toUpperCase() + by.slice(1);
  const columns = [[title, ""], ["Calls", "number"], ["Tokens", "number optional"], ["Cost", "number"], ["Share", "number"]];
  fill(table, columns, rows, "No calls in this time.");
}

// --- the parts of the page -------------------------------------------------------------------------------

function showFigures(figures) {
  const names = [["today", "Today"], ["7d", "Last 7 days"], ["30d", "Last 30 days"]];
  id("figures").replaceChildren(
    ...names.map(([name, label]) => {
      const row = figures[name];
      const notes = [];
      if (row.unpriced_calls) notes.push(`${plural(row.unpriced_calls, "call")} unpriced and not in the amount`);
      if (row.estimated_calls) notes.push(`~ ${plural(row.estimated_calls, "call")} estimated`);
      return make(
        "div",
        { class: "panel figure", "data-figure": name },
        make("h3", {}, label),
        make("p", { class: "amount" }, cost(row)),
        make("p", { class: "quiet facts" }, `${plural(row.calls, "call")}, ${compact(tokens(row))} tokens`),
        ...notes.map((note) => make("p", { class: "warn" }, note)),
      );
    }),
  );
}

// A round number at or above the value, and how many digits its thirds need.
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 8, 10].map((step) => step * power).find((step) => step >= value) || value;
}

function axis(value) {
  if (value === 0) return "$0";
  if (value >= 1000) return `$${compact(Math.round(value))}`;
  return `$${Number(value.toPrecision(2)).toLocaleString("en-US", { maximumSignificantDigits: 2 })}`;
}

function showChart() {
  const width = Math.max(280, id("chart").clientWidth);
  const height = 180;
  const [left, right, top, bottom] = [52, 4, 10, 22];
  const values = days.map((day) => (day.cost_usd === null ? 0 : Number(nano(day.cost_usd)) / 1e9));
  const most = Math.max(...values, 0);
  const scale = most > 0 ? ceiling(most) : 1;
  const step = (width - left - right) / Math.max(1, days.length);
  const y = (value) => top + (height - top - bottom) * (1 - value / scale);
  const drawing = svg("svg", {
    viewBox: `0 0 ${width} ${height}`, role: "img", "aria-labelledby": "chart-title chart-desc",
  });
  const dearest = values.indexOf(most);
  drawing.append(svg("title", { id: "chart-title" }, "Spend per day"));
  drawing.append(svg("desc", { id: "chart-desc" }, most > 0
    ? `${days.length} days to ${days[days.length - 1].day}. The dearest was ${days[dearest].day} with ${money(days[dearest].cost_usd)}.`
    : `No known spend in the ${days.length} days to ${days[days.length - 1].day}.`));
  for (const part of most > 0 ? [0, 0.5, 1] : [0]) {
    const at = y(scale * part);
    drawing.append(svg("line", { x1: left, x2: width - right, y1: at, y2: at }));
    drawing.append(svg("text", { x: left - 7, y: at + 4, "text-anchor": "end" }, axis(scale * part)));
  }
  const every = Math.ceil(days.length / Math.max(2, Math.floor((width - left) / 64)));
  days.forEach((day, index) => {
    const x = left + index * step;
    const known = day.unpriced_calls ? `, ${plural(day.unpriced_calls, "call")} unpriced` : "";
    const group = svg("g", { class: "day" });
    group.append(svg("title", {}, `${day.day}: ${cost(day)}, ${plural(day.calls, "call")}${known}`));
    group.append(svg("rect", { class: "ground", x, y: top, width: step, height: height - top - bottom }));
    const gap = Math.min(4, step * 0.15);
    if (values[index] > 0) {
      const tall = Math.max(1.5, y(0) - y(values[index]));
      group.append(svg("rect", { x: x + gap, y: y(0) - tall, width: step - 2 * gap, height: tall, rx: 1.5 }));
    }
    if (day.unpriced_calls) {
      const mark = { class: "unknown", x: x + step / 2, y: y(values[index]) - 3, "text-anchor": "middle" };
      group.append(svg("text", mark, "?"));
    }
    if ((days.length - 1 - index) % every === 0) {
      const last = index === days.length - 1;
      const label = { x: last ? width - right : x + step / 2, y: height - 6, "text-anchor": last ? "end" : "middle" };
      group.append(svg("text", label, day.day.slice(5)));
    }
    drawing.append(group);
  });
  id("chart").replaceChildren(drawing);
  id("chart-legend").hidden = !days.some((day) => day.unpriced_calls);
}

function showDays() {
  const rows = [...days].reverse().map((day) =>
    make(
      "tr",
      {},
      make("td", {}, day.day),
      make("td", { class: "number" }, compact(day.calls)),
      make("td", { class: "number" }, compact(tokens(day))),
      costCell(day),
    ),
  );
  fill(id("days"), [["Day", ""], ["Calls", "number"], ["Tokens", "number"], ["Cost", "number"]], rows, "");
}

function showUnpriced(answer) {
  const total = answer.tables.model.total;
  id("unpriced").hidden = !total.unpriced_calls;
  const items = answer.unpriced_reasons.map((row) =>
    make("li", {}, `${row.calls.toLocaleString("en-US")} \u00d7 ${row.reason || "no reason was kept"}`),
  );
  id("unpriced").replaceChildren(
    make("strong", {}, `${plural(total.unpriced_calls, "call")} in this time unpriced.`),
    " The cost is not known and is missing from the amounts. Newer prices: ",
    make("code", {}, "bursar prices refresh"),
    "; your own: ",
    make("code", {}, "prices:"),
    " in ",
    make("code", {}, "bursar.yaml"),
    make("ul", {}, ...items),
  );
}

async function showOverview() {
  overviewAt = Date.now();
  const answer = await ask(`overview?tz=${encodeURIComponent(tz)}&period=${period}`);
  const empty = answer.first_at === null;
  id("empty").hidden = !empty;
  id("content").hidden = empty;
  id("figures").hidden = empty;
  if (empty) return;
  const quiet = answer.figures["30d"].calls === 0;
  if (quiet && !chosen && period !== "all") {
    period = "all"; // everything is old, as after an import: the tables show it rather than nothing
    return showOverview();
  }
  days = answer.days;
  id("days-note").textContent = quiet
    ? `no calls since ${days[days.length - 1].day}: the 30 days to then, in ${tz}`
    : `days in ${tz}`;
  for (const button of id("periods").children) {
    button.setAttribute("aria-pressed", String(button.dataset.period === answer.period));
  }
  showFigures(answer.figures);
  showChart();
  showDays();
  for (const table of document.querySelectorAll("table[data-by]")) {
    showTable(table, table.dataset.by, answer.tables[table.dataset.by]);
  }
  showUnpriced(answer);
}

function feedRow(row, isNew) {
  const failed = row.status !== "ok";
  const result = failed ? [row.status, row.http_status, row.error].filter(Boolean).join(" ") : "";
  return make(
    "tr",
    { class: isNew ? "new" : "" },
    make("td", { class: "quiet", title: row.started_at }, when(row.started_at)),
    make("td", { class: "wide" }, row.model || row.model_asked || row.operation,
      mark(row),
      failed ? make("span", { class: "small bad" }, result) : "",
      row.cost_usd === null ? make("span", { class: "small warn" }, row.unpriced_reason || "") : ""),
    make("td", { class: "wide optional" }, row.agent),
    make("td", { class: "wide optional" }, row.task ? taskLink(row.task) : ""),
    make("td", { class: "number optional" }, compact(row.input_tokens)),
    make("td", { class: "number optional" }, compact(row.output_tokens)),
    make("td", { class: "number optional" }, duration(row.latency_ms)),
    make("td", { class: row.cost_usd === null ? "number warn" : "number" },
      (row.estimated && row.cost_usd !== null ? "~" : "") + money(row.cost_usd)),
  );
}

async function showFeed() {
  const first = lastSequence === null;
  const answer = await ask(`feed?limit=${FEED_ROWS}${first || lastSequence < 0 ? "" : `&after=${lastSequence}`}`);
  const news = answer.rows.filter((row) => first || row.sequence > lastSequence);
  lastSequence = answer.last_sequence;
  const body = id("feed").tBodies[0];
  if (first || !body) {
    const columns = [["Time", ""], ["Model", ""], ["Agent", "optional"], ["Task", "optional"], ["Input", "number optional"],
      ["Output", "number optional"], ["Took", "number optional"], ["Cost", "number"]];
    fill(id("feed"), columns, news.map((row) => feedRow(row, false)), "No calls yet.");
  } else if (news.length) {
    if (body.querySelector("td[colspan]")) body.replaceChildren();
    body.prepend(...news.map((row) => feedRow(row, true)));
    while (body.rows.length > FEED_ROWS) body.lastElementChild.remove();
  }
  return news.length > 0;
}

// --- staying up to date ----------------------------------------------------------------------------------

async function poll() {
  if (polling || document.hidden) return;
  polling = true;
  try {
    const [news] = await Promise.all([showFeed(), showBudgets(taskLink), showApprovals()]);
    if (overviewAt === 0 || news || Date.now() - overviewAt > OVERVIEW_MS) await showOverview();
    id("problem").hidden = true;
    live();
  } catch (problem) {
    overviewAt = 0;
    fail(problem);
  } finally {
    polling = false;
  }
}

document.addEventListener("visibilitychange", () => (document.hidden ? state("paused", "paused") : poll()));
window.addEventListener("error", (event) => fail(new Error(`This page has a fault: ${event.message}`)));
window.addEventListener("unhandledrejection", (event) => fail(event.reason));
id("periods").addEventListener("click", (event) => {
  if (!event.target.dataset.period) return;
  period = event.target.dataset.period;
  chosen = true;
  showOverview().catch(fail);
});
new ResizeObserver(() => days.length && showChart()).observe(id("chart"));
id("export").textContent = `export OPENAI_BASE_URL=${location.origin}/v1`;
setInterval(poll, POLL_MS);
poll();
