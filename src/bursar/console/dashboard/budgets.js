// How budgets stand, and what waits for somebody's yes.
import { announce, ask, compact, fill, id, make, money, nano, plural, ratio, when } from "./parts.js";

const SUBJECTS = 5;
const TASK_LIMITS = 8;

let shownBudgets = "";
let shownApprovals = "";
let deciding = null;

// --- budgets ---------------------------------------------------------------------------------------------

function figure(unit, value) {
  if (unit === "usd") return money(value);
  return value < 0 ? `-${compact(-value)}` : compact(value);
}

// Parts of a limit, in percent of it; money is exact text, counts are numbers.
function part(unit, value, limit) {
  if (unit === "usd") return 100 * ratio(value, limit);
  return limit > 0 ? (100 * value) / limit : 0;
}

function meter(row) {
  const spent = Math.min(100, Math.max(0, part(row.unit, row.spent, row.limit)));
  const held = Math.min(100 - spent, Math.max(0, part(row.unit, row.held, row.limit)));
  const share = row.used_share === null ? 1 : row.used_share;
  const level = share >= 1 ? "full" : share >= 0.8 ? "near" : "";
  const words = `${Math.round(share * 100)}% used`;
  const track = make("span", { class: `meter ${level}`, role: "img", "aria-label": words, title: words });
  for (const [name, width] of [["spent", row.used_share === null ? 100 : spent], ["held", held]]) {
    const bar = make("span", { class: name });
    bar.style.width = `${width}%`;
    if (width > 0) bar.style.minWidth = "2px";
    track.append(bar);
  }
  return track;
}

function resets(row) {
  if (row.resets_at === undefined) return "";
  if (row.resets_at === null) return row.window === "lifetime" ? "never" : "bit by bit";
  const ms = new Date(row.resets_at) - Date.now();
  if (ms <= 0) return "now";
  if (ms < 3600000) return `in ${plural(Math.max(1, Math.round(ms / 60000)), "minute")}`;
  if (ms < 48 * 3600000) return `in ${plural(Math.round(ms / 3600000), "hour")}`;
  return `in ${plural(Math.round(ms / 86400000), "day")}`;
}

function per(window) {
  return window === "lifetime" ? "in all" : `per ${window}`;
}

function standingRow(row, name, notes) {
  const unit = row.unit === "usd" ? "" : ` ${row.unit}`;
  const held = nonzero(row.held) ? `, ${figure(row.unit, row.held)} held` : "";
  const spent = figure(row.unit, row.spent);
  const unpriced = row.unit === "usd" ? row.unpriced_attempts : 0; // tokens and calls are known without a price
  const left = row.unit === "usd" ? nano(row.left) <= 0n : row.left <= 0;
  return make(
    "tr",
    {},
    make("td", { class: "name" }, name, ...notes.map((note) => make("span", { class: "small" }, note))),
    make("td", { class: "use" },
      meter(row),
      make("span", { class: "small" }, `${spent} spent${held} of ${figure(row.unit, row.limit)}${unit}`),
      unpriced ? make("span", { class: "small warn" }, `? ${compact(unpriced)} unpriced: cost not known`) : ""),
    make("td", { class: left ? "number bad" : "number" }, figure(row.unit, row.left),
      resets(row) ? make("span", { class: "small folded" }, `resets ${resets(row)}`) : ""),
    make("td", { class: "number quiet optional", title: row.resets_at || "" }, resets(row)),
  );
}

function nonzero(value) {
  return typeof value === "string" ? nano(value) !== 0n : value !== 0;
}

function moreRow(text) {
  return make("tr", {}, make("td", { class: "quiet name", colspan: 4 }, text));
}

// ``taskLink`` makes the button that opens a task.
export async function showBudgets(taskLink) {
  const [budgets, tasks] = await Promise.all([ask(`budgets?limit=${SUBJECTS}`), ask("task-budgets")]);
  const minute = Math.floor(Date.now() / 60000);
  const text = JSON.stringify([budgets, tasks, minute]);
  if (text === shownBudgets) return;
  shownBudgets = text;
  const rows = [];
  for (const budget of budgets.rows) {
    for (const row of budget.standings) {
      const { raise } = budget;
      const notes = [per(row.window), budget.enforced ? "" : "watched, not enforced",
        raise && raise.in_force ? `raised by ${figure(row.unit, raise.by)} until ${when(raise.until)}` : ""];
      const name = make("span", {}, row.subject ? `${budget.name}: ${budget.each} ${row.subject}` : budget.name);
      rows.push(standingRow(row, name, notes.filter(Boolean)));
    }
    if (!budget.standings.length && budget.limits.length) rows.push(moreRow(`${budget.name}: no call of any ${budget.each} yet`));
    if (budget.more_standings) {
      const count = budget.more_standings.toLocaleString("en-US");
      rows.push(moreRow(`and ${count} more: bursar budgets show ${budget.name}`));
    }
  }
  const fullest = [...tasks.rows].sort((one, other) => (other.used_share ?? 1) - (one.used_share ?? 1));
  rows.push(...fullest.slice(0, TASK_LIMITS).map((row) => standingRow(row, taskLink(row.task), ["task limit"])));
  const more = tasks.more_rows + Math.max(0, fullest.length - TASK_LIMITS);
  if (more) rows.push(moreRow(`and ${plural(more, "more task")} with a limit: bursar budgets list --tasks`));
  id("budgets").hidden = !rows.length;
  fill(id("standings"), [["Budget", ""], ["Used", ""], ["Left", "number"], ["Resets", "number optional"]], rows, "");
}

// --- what waits for a yes --------------------------------------------------------------------------------

function who(approval) {
  const names = Object.entries(approval.who).map(([column, value]) => `${column.replace("_", " ")} ${value}`);
  return names.join(", ") || "calls that name nobody";
}

function approvalItem(approval) {
  const until = approval.ends_at ? `; a yes counts until ${when(approval.ends_at)}` : "";
  return make(
    "li",
    { "data-approval": approval.id },
    make("div", { class: "what" }, who(approval),
      make("span", { class: "small" }, `budget ${approval.budget}, asked ${when(approval.asked_at)}${until}`)),
    make("div", { class: "buttons" },
      make("button", { type: "button", class: "danger", click: () => openDecision(approval, "declined") }, "Decline"),
      make("button", { type: "button", class: "main", click: () => openDecision(approval, "granted") }, "Approve")),
  );
}

export async function showApprovals() {
  const answer = await ask("approvals");
  const text = JSON.stringify(answer.rows);
  if (text === shownApprovals) return;
  shownApprovals = text;
  id("waiting").hidden = !answer.rows.length;
  const focused = document.activeElement;
  const [item, label] = [focused.closest("li[data-approval]"), focused.textContent];
  id("approvals").replaceChildren(...answer.rows.map(approvalItem));
  if (!item) return;
  const same = [...id("approvals").children].find((other) => other.dataset.approval === item.dataset.approval);
  const button = same && [...same.querySelectorAll("button")].find((other) => other.textContent === label);
  (button || id("approvals").querySelector("button") || id("state")).focus();
}

function openDecision(approval, decision) {
  deciding = { approval, decision };
  const yes = decision === "granted";
  id("decide-title").textContent = yes ? "Let these calls go on?" : "Decline these calls?";
  const until = approval.ends_at ? ` until ${when(approval.ends_at)}` : "";
  id("decide-text").textContent = yes
    ? `Calls of ${who(approval)} may spend what is left of budget ${approval.budget}${until}.`
    : `Calls of ${who(approval)} stay refused under budget ${approval.budget}${until}.`;
  id("decide-yes").textContent = yes ? "Approve" : "Decline";
  id("decide-yes").className = yes ? "main" : "danger";
  id("decide-problem").hidden = true;
  id("decide-yes").disabled = false;
  id("decide").showModal();
}

async function decide() {
  const { approval, decision } = deciding;
  id("decide-yes").disabled = true;
  try {
    await ask(`approvals/${encodeURIComponent(approval.id)}`, { method: "POST", body: { decision } });
    id("decide").close();
    announce(`${decision === "granted" ? "Approved" : "Declined"}: ${who(approval)}`);
    await showApprovals();
  } catch (problem) {
    id("decide-problem").textContent = problem.message;
    id("decide-problem").hidden = false;
  } finally {
    id("decide-yes").disabled = false;
  }
}

id("decide-no").addEventListener("click", () => id("decide").close());
id("decide-yes").addEventListener("click", decide);
