// One task: when what happened in it, what it waited for, and where the money went.
import { ask, compact, cost, costCell, duration, fill, id, make, mark, money, percent, plural, tokens, when } from "./parts.js";

const ROWS = 1000;
const FINDINGS = 8;
const PART = "#task=";
const FINDING_NAMES = {
  context_growth: "context growth",
  cache_miss: "cache misses",
  repeated_tool: "repeated tool",
  failed_billed: "failed, but billed",
  retry: "retries",
};

const narrow = window.matchMedia("(max-width: 620px)");
let asked = 0;

// --- the waterfall ---------------------------------------------------------------------------------------

// A bar begins and ends where its row does on the time of the whole; the shortest can still be seen.
function bar(offset, length, whole, kind) {
  const track = make("span", { class: "fall", "aria-hidden": "true" });
  const piece = make("span", { class: kind });
  piece.style.left = `${whole > 0 ? Math.min(99.5, Math.max(0, (100 * offset) / whole)) : 0}%`;
  piece.style.width = `${whole > 0 ? Math.max(0, (100 * length) / whole) : 100}%`;
  track.append(piece);
  return track;
}

function row(whole, depth, { name, details, badge, notes, offset, length, kind, style, figures, share, input, output }) {
  const cell = make("td", { class: "name" }, name,
    details ? make("span", { class: "small" }, details) : "",
    badge || "",
    ...notes.filter(([text]) => text).map(([text, tone]) => make("span", { class: `small ${tone}` }, text)));
  cell.style.paddingLeft = `${Math.min(depth, 12) * 14}px`;
  const title = `from +${duration(offset)} for ${duration(length)}`;
  return make(
    "tr",
    { class: style },
    cell,
    make("td", { class: "when", title }, bar(offset, length, whole, kind)),
    make("td", { class: "number quiet optional" }, `+${duration(offset)}`),
    make("td", { class: "number optional" }, duration(length)),
    make("td", { class: "number optional" }, input),
    make("td", { class: "number optional" }, output),
    figures ? costCell(figures) : make("td", {}, ""),
    make("td", { class: "number quiet optional" }, figures ? percent(share, figures.cost_usd) : ""),
  );
}

function attemptRow(whole, depth, step, name, number) {
  const tool = step.kind === "tool";
  return row(whole, depth, {
    name: (number ? `attempt ${step.number}: ` : "") + (name || (tool && step.model) || step.operation),
    details: [tool ? "tool" : step.model, step.tools.length ? `tools: ${step.tools.join(", ")}` : ""].filter(Boolean).join("; "),
    badge: mark(step),
    notes: [
      [step.status === "ok" ? "" : `${step.status} ${step.error}`, "bad"],
      [step.cost_usd === null ? step.unpriced_reason || "" : "", "warn"],
    ],
    offset: step.offset_ms,
    length: step.latency_ms || 0,
    kind: `${tool ? "tool" : "model"}${step.critical_ms > 0 ? "" : " beside"}`,
    style: "",
    figures: { ...step, estimated_calls: step.estimated ? 1 : 0, unpriced_calls: 0 },
    share: step.share,
    input: tool ? "" : compact(step.input_tokens),
    output: tool ? "" : compact(step.output_tokens),
  });
}

function nodeRow(whole, depth, node) {
  const leaf = !node.children.length && !node.steps.length;
  const failed = node.status === "error" && !node.children.length;
  return row(whole, depth, {
    name: node.name,
    details: [
      node.kind === "task" ? node.agent : node.kind,
      node.total.calls ? plural(node.total.calls, "call") : "",
      node.outcome ? `outcome: ${node.outcome.outcome}` : "",
    ].filter(Boolean).join(", "),
    notes: [[failed ? `error ${node.error}` : node.all_errors ? plural(node.all_errors, "error") : "", "bad"]],
    offset: node.offset_ms,
    length: node.duration_ms,
    kind: leaf ? `${node.kind === "tool" ? "tool" : "own"}${node.critical_ms > 0 ? "" : " beside"}` : "around",
    style: node.kind === "task" || node.kind === "agent" ? "node" : "",
    figures: node.total.calls || node.total.unpriced_calls || node.total.cost_usd !== "0" ? node.total : null,
    share: node.share,
    input: node.total.calls ? compact(node.total.input_tokens) : "",
    output: node.total.calls ? compact(node.total.output_tokens) : "",
  });
}

// The attempts of a node by their calls, in the order these began.
function callsOf(node) {
  const calls = new Map();
  for (const step of node.steps) {
    if (!calls.has(step.call_id)) calls.set(step.call_id, []);
    calls.get(step.call_id).push(step);
  }
  return [...calls.values()];
}

// Its attempts by the name of the span around them, or else each by what was asked for in it.
function callRows(whole, depth, call, name, rows) {
  for (const step of call) {
    if (rows.length < ROWS) rows.push(attemptRow(whole, depth, step, name, call.length > 1));
    else rows.hidden += 1;
  }
}

function treeRows(whole, depth, node, rows) {
  const items = [
    ...callsOf(node).map((call) => ({ at: call[0].offset_ms, order: 0, call })),
    ...node.children.map((child) => ({ at: child.offset_ms, order: 1, child })),
  ].sort((one, other) => one.at - other.at || one.order - other.order);
  for (const { call, child } of items) {
    if (call) {
      callRows(whole, depth, call, "", rows);
      continue;
    }
    const calls = callsOf(child);
    // A span around one call and nothing else shares its row.
    if ((child.kind === "model" || child.kind === "tool") && calls.length === 1 && !child.children.length) {
      callRows(whole, depth, calls[0], child.name, rows);
      continue;
    }
    if (rows.length < ROWS) rows.push(nodeRow(whole, depth, child));
    else rows.hidden += 1;
    treeRows(whole, depth + 1, child, rows);
  }
}

// --- what decided its time, and where the money went -----------------------------------------------------

function showPath(path) {
  id("task-path").hidden = !path.duration_ms;
  if (!path.duration_ms) return;
  const kinds = [["model", "models", path.model_ms], ["tool", "tools", path.tool_ms],
    ["own", "own work and what nobody recorded", path.own_ms]];
  const strip = make("span", { class: "strip", "aria-hidden": "true" });
  const key = make("span", { class: "small" });
  for (const [kind, words, ms] of kinds.filter(([, , ms]) => ms > 0)) {
    const piece = make("span", { class: kind });
    piece.style.width = `${(100 * ms) / path.duration_ms}%`;
    strip.append(piece);
    const share = Math.round((100 * ms) / path.duration_ms);
    key.append(make("span", { class: "pair" }, make("span", { class: `dot ${kind}` }), `${words} ${duration(ms)} (${share}%)`), " ");
  }
  id("task-path").replaceChildren(make("h3", {}, `Critical path, ${duration(path.duration_ms)}`), strip, key);
}

function amountOf(finding) {
  return finding.amount_usd === null ? "not known" : (finding.estimated ? "~" : "") + money(finding.amount_usd);
}

function findingItem(finding) {
  const unknown = finding.amount_usd !== null && finding.unknown_steps;
  return make(
    "li",
    { "data-finding": finding.kind },
    make("span", { class: finding.amount_usd === null ? "amount warn" : "amount" }, amountOf(finding)),
    make("span", { class: "what" }, make("strong", {}, FINDING_NAMES[finding.kind] || finding.kind), ` ${finding.text}`,
      unknown ? ` ${plural(finding.unknown_steps, "step")} of unknown cost.` : ""),
  );
}

function showFindings(tree) {
  const shown = tree.findings.slice(0, FINDINGS);
  const rest = tree.findings.length + tree.findings_left_out - shown.length;
  id("task-found").hidden = !shown.length;
  id("task-found").open = !narrow.matches; // on a telephone the waterfall is what one came for
  const dearest = shown.length && shown[0].amount_usd !== null ? `, the largest ${amountOf(shown[0])}` : "";
  id("task-found-count").textContent = plural(shown.length + rest, "finding") + dearest;
  id("task-findings").replaceChildren(...shown.map(findingItem),
    ...(rest ? [make("li", { class: "quiet" }, `and ${plural(rest, "more finding")}: bursar task ${tree.task} --json`)] : []));
}

function outcomeText(tree) {
  if (!tree.outcome) return "";
  const { outcome, value_usd: value, note } = tree.outcome;
  return `outcome ${outcome}${note ? ` (${note})` : ""}${value === null ? "" : `, worth ${money(value)}`}`;
}

function keptText({ answers, avoided_usd: avoided, unknown_cost: unknown }) {
  if (!answers) return "";
  const known = avoided === null ? "" : ` avoided ${money(avoided)}, which is in no sum`;
  return plural(answers, "kept answer") + known + (unknown ? ` (${unknown.toLocaleString("en-US")} at a cost not known)` : "");
}

function showTree(tree) {
  const facts = [
    cost(tree.total) + (tree.tasks > 1 ? ` with ${plural(tree.tasks - 1, "sub-task")}, ${cost(tree.own)} itself` : ""),
    keptText(tree.kept),
    outcomeText(tree),
    plural(tree.total.calls, "call"), `${compact(tokens(tree.total))} tokens`,
    `from ${when(tree.first_at)} for ${duration(tree.duration_ms)}`,
    tree.agent && `agent ${tree.agent}`, tree.user && `user ${tree.user}`, tree.session && `session ${tree.session}`,
    tree.parent_task && `part of ${tree.parent_task}`, tree.all_errors && plural(tree.all_errors, "error"),
  ];
  id("task-title").textContent = tree.task;
  id("task-facts").textContent = facts.filter(Boolean).join("; ");
  const rows = [];
  rows.hidden = 0;
  treeRows(tree.duration_ms, 0, tree, rows);
  const left = rows.hidden + tree.steps_left_out + tree.spans_left_out;
  const notes = tree.circles.map((circle) => `A circle of parents was cut: ${circle}.`);
  notes.push(...tree.notes.map((note) => `${note[0].toUpperCase()}${note.slice(1)}.`));
  if (tree.total.unpriced_calls) notes.push(`${plural(tree.total.unpriced_calls, "call")} unpriced and not in the amount.`);
  if (tree.total.estimated_calls) notes.push(`~ ${plural(tree.total.estimated_calls, "call")} estimated.`);
  if (left) notes.push(`${plural(left, "more line")} not shown but in the sums.`);
  if (tree.attempts_not_looked_at) {
    notes.push(`The last ${plural(tree.attempts_not_looked_at, "attempt")} were not looked at for critical path and findings.`);
  }
  id("task-notes").replaceChildren(...notes.map((note) => make("p", { class: "warn" }, note)));
  showPath(tree.critical_path);
  showFindings(tree);
  const columns = [["Step", ""], ["When", "when"], ["Start", "number optional"], ["Took", "number optional"],
    ["Input", "number optional"], ["Output", "number optional"], ["Cost", "number"], ["Share", "number optional"]];
  fill(id("task-steps"), columns, rows, "No steps.");
}

// --- opening and closing ---------------------------------------------------------------------------------

export function taskLink(name) {
  return make("button", { type: "button", class: "link", click: () => openTask(name) }, name);
}

async function openTask(name) {
  const dialog = id("task");
  const question = (asked += 1);
  history.replaceState(null, "", PART + encodeURIComponent(name));
  id("task-title").textContent = name;
  id("task-facts").textContent = "asking \u2026";
  for (const part of ["task-notes", "task-steps"]) id(part).replaceChildren();
  for (const part of ["task-path", "task-found"]) id(part).hidden = true;
  if (!dialog.open) dialog.showModal();
  try {
    const tree = await ask(`tasks/${encodeURIComponent(name)}`);
    if (question === asked) showTree(tree); // or another task has been opened since
  } catch (problem) {
    if (question === asked) id("task-facts").textContent = problem.message;
  }
}

// A task's address can be kept and sent: /#task=ID.
function openNamed() {
  if (!location.hash.startsWith(PART)) return;
  let name = location.hash.slice(PART.length);
  try {
    name = decodeURIComponent(name);
  } catch (problem) {
    // a percent sign that somebody typed stands for itself
  }
  if (name) openTask(name);
}

id("task-close").addEventListener("click", () => id("task").close());
id("task").addEventListener("close", () => {
  asked += 1;
  history.replaceState(null, "", location.pathname);
});
window.addEventListener("hashchange", openNamed);
openNamed();
