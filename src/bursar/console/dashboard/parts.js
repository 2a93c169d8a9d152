// What every part of the page is made of: elements, figures as text, questions to the API, and what is said to whoever
// listens.
// Names of tasks, models and agents were written by strangers: they reach the page as text nodes alone.

export const POLL_MS = 2000;
const SAID_MS = 8000;
const NANO = 1000000000n;

export const id = (name) => document.getElementById(name);

let said = "";
let saidUntil = 0;

export function make(tag, options, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options || {})) {
    if (name === "class") element.className = value;
    else if (name === "click") element.addEventListener("click", value);
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

export function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// --- figures as text -------------------------------------------------------------------------------------

export function nano(text) {
  const [whole, fraction = ""] = text.replace("-", "").split(".");
  const amount = BigInt(whole) * NANO + BigInt(fraction.padEnd(9, "0"));
  return text.startsWith("-") ? -amount : amount;
}

// The rule of the command line: an amount that is not zero never shows as zero.
export function money(text) {
  if (text === null) return "unpriced";
  const amount = nano(text);
  const size = amount < 0n ? -amount : amount;
  const places = size === 0n || size >= NANO ? 2 : Math.min(9, Math.max(4, 11 - String(size).length));
  const step = 10n ** BigInt(9 - places);
  const rounded = (2n * size + step) / (2n * step);
  const unit = 10n ** BigInt(places);
  const fraction = String(rounded % unit).padStart(places, "0");
  return `${amount < 0n ? "-" : ""}$${(rounded / unit).toLocaleString("en-US")}.${fraction}`;
}

export function cost(row) {
  return (row.estimated_calls && row.cost_usd !== null ? "~" : "") + money(row.cost_usd);
}

export function ratio(part, whole) {
  return part === null || whole === null || nano(whole) <= 0n ? 0 : Number(nano(part)) / Number(nano(whole));
}

// What a route or a cache made of an attempt: nothing to say of its first rung. What was avoided is no spend.
export function mark(step) {
  const why = step.cause.replaceAll("_", " ");
  const kept = !["", "miss"].includes(step.cache);
  if (kept) {
    const avoided = step.avoided_usd === null ? "at a cost not known" : `avoided ${money(step.avoided_usd)}`;
    return make("span", { class: "mark" }, `kept (${step.cache}${why && `, ${why}`}), ${avoided}`);
  }
  if (["", "primary"].includes(step.rung)) return "";
  return make("span", { class: "mark left" }, step.rung + (why && ` (${why})`));
}

export function compact(count) {
  if (count === null) return "?";
  if (count < 10000) return count.toLocaleString("en-US");
  return new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 3 }).format(count).replace("K", "k");
}

export function tokens(row) {
  if (row.input_tokens === null && row.output_tokens === null) return null;
  return (row.input_tokens || 0) + (row.output_tokens || 0);
}

export function plural(count, noun) {
  return `${count.toLocaleString("en-US")} ${noun}${count === 1 ? "" : "s"}`;
}

export function duration(ms) {
  if (ms === null) return "";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60000) return `${(ms / 1000).toFixed(1)} s`;
  const minutes = Math.floor(Math.round(ms / 1000) / 60);
  if (minutes < 60) return `${minutes}m ${String(Math.round(ms / 1000) % 60).padStart(2, "0")}s`;
  const hours = Math.floor(minutes / 60);
  return hours < 24 ? `${hours}h ${minutes % 60}m` : `${Math.floor(hours / 24)}d ${hours % 24}h`;
}

export function percent(share, amount) {
  if (share === null || amount === null) return "";
  if (nano(amount) === 0n) return "0%";
  if (share < 0.001) return "<0.1%";
  return share < 0.01 ? `${(share * 100).toFixed(1)}%` : `${Math.round(share * 100)}%`;
}

// Times as the ledger's days are written: 14:03:59 today, 03-31 14:03 this year, 2025-03-31 before.
const date = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short" });
const clock = new Intl.DateTimeFormat("sv-SE", { timeStyle: "medium" });

export function when(text) {
  const at = new Date(text);
  const [day, today] = [date.format(at), date.format(new Date())];
  if (day === today) return clock.format(at);
  return day.slice(0, 4) === today.slice(0, 4) ? `${day.slice(5)} ${clock.format(at).slice(0, 5)}` : day;
}

// --- asking ----------------------------------------------------------------------------------------------

export async function ask(path, change) {
  const options = { cache: "no-store", headers: { accept: "application/json" } };
  if (change) {
    options.method = change.method;
    options.headers["content-type"] = "application/json";
    options.body = JSON.stringify(change.body);
  }
  let response;
  try {
    response = await fetch(`/api/v1/${path}`, options);
  } catch (problem) {
    throw new Error("Bursar cannot be reached. Is it still running?");
  }
  let body = null;
  try {
    body = await response.json();
  } catch (problem) {
    throw new Error(`Bursar answered ${response.status} with something that is not JSON.`);
  }
  if (!response.ok) throw new Error(`${(body.error && body.error.message) || `Bursar answered ${response.status}`}.`);
  return body;
}

export function state(name, text) {
  id("state").dataset.state = name;
  if (id("state").textContent !== text) id("state").textContent = text; // or it would be read out at every poll
}

// What was done is said where a screen reader listens, and stays long enough to be read.
export function announce(text) {
  said = text;
  saidUntil = Date.now() + SAID_MS;
  state("live", text);
}

// All is well; what was said a moment ago stays.
export function live() {
  state("live", Date.now() < saidUntil ? said : "live");
}

export function fail(problem) {
  id("problem").textContent = `${problem.message || problem} Trying again every ${POLL_MS / 1000} seconds.`;
  id("problem").hidden = false;
  state("failed", "not up to date");
}

// --- tables -----------------------------------------------------------------------------------------------

export function fill(table, columns, rows, none) {
  const head = make("tr", {}, ...columns.map(([name, kind]) => make("th", { class: kind, scope: "col" }, name)));
  const body = rows.length ? rows : [make("tr", {}, make("td", { class: "quiet", colspan: columns.length }, none))];
  table.replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
}

export function costCell(row) {
  const some = row.unpriced_calls > 0 && row.cost_usd !== null;
  return make(
    "td",
    { class: row.cost_usd === null ? "number warn" : "number" },
    cost(row),
    some ? make("span", { class: "small warn" }, `+ ${row.unpriced_calls.toLocaleString("en-US")} unpriced`) : "",
  );
}
