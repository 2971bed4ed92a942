// Copyright 2026 AI-102 inference maintainers
// SPDX-License-Identifier: Apache-2.0
// The page of the inference server: health, models, live figures, and a form to try requests. It speaks to the server's
// public API only; a token, where one is needed, is kept in a variable and nowhere else.
"use strict";

const POLL_MS = Math.max(200, Number(new URLSearchParams(location.search).get("poll")) || 2000); // ?poll=500
const POINTS = 60; // of two minutes, then
const ELEMENTS = 24; // of a tensor in an example, at most
const SHOWN = 20000; // characters of an answer

const by = (id) => document.getElementById(id);
let token = null;
let models = [];
let statsThere = null; // not known yet
let asking = false;

class HttpError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// Requests ------------------------------------------------------------------------------------------------------------
function send(path, options = {}) {
  const headers = { ...(options.headers || {}) };
  if (token) headers.Authorization = `Bearer ${token}`;
  return fetch(path, { ...options, headers, cache: "no-store", credentials: "same-origin" });
}

async function ask(path, options) {
  const response = await send(path, options);
  const text = await response.text();
  let content = null;
  try {
    content = JSON.parse(text);
  } catch {
    content = null;
  }
  // Readiness says what is wrong with status 503.
  if (!response.ok && !(content && "ready" in content)) {
    throw new HttpError(response.status, (content && content.error) || `status ${response.status}`);
  }
  return content === null ? text : content;
}

// Small things --------------------------------------------------------------------------------------------------------
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function drawn(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function badge(target, text, kind) {
  if (target.textContent !== text) target.textContent = text;
  target.className = `badge ${kind}`;
}

function figure(value) {
  if (!Number.isFinite(value)) return "–";
  if (value >= 10000) return Math.round(value).toLocaleString("en");
  if (value >= 100) return value.toFixed(0);
  if (value >= 10) return value.toFixed(1);
  return value === 0 ? "0" : value.toFixed(2);
}

function notice(text) {
  by("notice").hidden = !text;
  if (by("notice").textContent !== (text || "")) by("notice").textContent = text || "";
}

// Charts --------------------------------------------------------------------------------------------------------------
const CHARTS = [
  { id: "rate", title: "Requests", unit: "/s", of: (d, s) => d.success / s },
  { id: "latency", title: "Mean latency", unit: "ms", of: (d) => (d.success > 0 ? d.seconds / d.success * 1000 : NaN) },
  { id: "batch", title: "Mean batch", unit: "rows", of: (d) => (d.runs > 0 ? d.rows / d.runs : NaN) },
  { id: "failed", title: "Refused or failed", unit: "/s", of: (d, s) => d.fail / s },
];
const series = new Map(CHARTS.map((chart) => [chart.id, []]));
let last = null;

function makeCharts() {
  for (const chart of CHARTS) {
    const svg = drawn("svg", { viewBox: `0 0 ${POINTS - 1} 100`, preserveAspectRatio: "none", role: "img" });
    for (const y of [2, 50, 98]) svg.append(drawn("line", { x1: 0, x2: POINTS - 1, y1: y, y2: y, class: "grid" }));
    svg.append(drawn("path", { class: "area" }), drawn("path", { class: "curve" }));
    by("charts").append(
      element("div", { class: `chart ${chart.id}`, id: `chart-${chart.id}` },
        element("h3", {}, chart.title),
        element("div", { class: "value" }, "–"),
        svg,
        element("div", { class: "scale" }, element("span", {}, POLL_MS * POINTS >= 120000 ? `${Math.round(POLL_MS * POINTS / 60000)} min` : `${Math.round(POLL_MS * POINTS / 1000)} s`), element("span", { class: "top" }, ""), element("span", {}, "now"))),
    );
  }
}

function drawChart(chart) {
  const box = by(`chart-${chart.id}`);
  const values = series.get(chart.id);
  const highest = Math.max(...values.filter(Number.isFinite)); // of none: minus infinity
  const top = highest > 0 ? highest : 1;
  const start = POINTS - values.length;
  const parts = []; // stretches without a gap
  values.forEach((value, index) => {
    if (!Number.isFinite(value)) return parts.push([]);
    if (!parts.length) parts.push([]);
    return parts[parts.length - 1].push([start + index, 98 - (value / top) * 92]);
  });
  const lines = parts.filter((part) => part.length > 0)
    // One point alone would draw nothing.
    .map((part) => (part.length === 1 ? [[part[0][0] - 0.5, part[0][1]], part[0]] : part));
  const curve = lines.map((part) => "M" + part.map((point) => point.map((n) => n.toFixed(2)).join(" ")).join("L"));
  const area = lines.map((part, index) => `${curve[index]}L${part[part.length - 1][0]} 98L${part[0][0]} 98Z`);
  box.querySelector(".curve").setAttribute("d", curve.join(""));
  box.querySelector(".area").setAttribute("d", area.join(""));
  const now = values.length ? values[values.length - 1] : NaN;
  box.querySelector(".value").replaceChildren(figure(now), " ", element("small", {}, chart.unit));
  box.querySelector(".top").textContent = Number.isFinite(highest) ? `highest ${figure(highest)}` : "";
  box.querySelector("svg").setAttribute("aria-label", `${chart.title}: now ${figure(now)} ${chart.unit}, highest ${figure(highest)}`);
}

const NOTHING = { success: 0, fail: 0, seconds: 0, rows: 0, runs: 0 };

async function counters(model) {
  // A server without statistics has figures among its metrics all the same.
  if (statsThere === null) statsThere = "/v2/models/stats" in ((await ask("openapi.json")).paths || {});
  if (statsThere) {
    const total = { ...NOTHING };
    for (const item of (await ask("v2/models/stats")).model_stats) {
      if (model && item.name !== model) continue;
      total.success += item.inference_stats.success.count;
      total.fail += item.inference_stats.fail.count;
      total.seconds += item.inference_stats.success.ns / 1e9;
      total.rows += item.inference_count;
      total.runs += item.execution_count;
    }
    return total;
  }
  const total = { ...NOTHING, rows: NaN, runs: NaN };
  const text = String(await ask("metrics"));
  for (const [, name, labels, value] of text.matchAll(/^(ai102_\w+)\{([^}]*)\} (\S+)$/gm)) {
    const label = (key) => (new RegExp(`(?:^|,)${key}="([^"]*)"`).exec(labels) || [])[1];
    if (model && label("model") !== model) continue;
    if (name === "ai102_requests_total") total[label("status") < "400" ? "success" : "fail"] += Number(value);
    if (name === "ai102_request_duration_seconds_sum") total.seconds += Number(value);
  }
  return total;
}

async function updateCharts() {
  const model = by("chart-model").value;
  const now = { at: performance.now(), model, ...(await counters(model)) };
  if (last && last.model === model) {
    const delta = {};
    // A counter that falls has begun anew with its process.
    for (const key of Object.keys(NOTHING)) delta[key] = Math.max(0, now[key] - last[key]);
    for (const chart of CHARTS) {
      const values = series.get(chart.id);
      values.push(chart.of(delta, (now.at - last.at) / 1000));
      if (values.length > POINTS) values.shift();
      drawChart(chart);
    }
  }
  last = now;
}

// Models --------------------------------------------------------------------------------------------------------------
function tensors(list) {
  return element("div", { class: "tensors" }, ...list.map((tensor) => element("code", {},
    `${tensor.name} `, element("span", { class: "type" }, `${tensor.datatype} [${tensor.shape.join(", ")}]`))));
}

function showModels() {
  const rows = models.map((model) => {
    const state = element("span", {});
    badge(state, model.ready ? "Ready" : "Not ready", model.ready ? "good" : "bad");
    const cell = element("td", {}, state);
    if (model.reason) cell.append(element("p", { class: "reason" }, model.reason));
    const use = element("button", { type: "button", class: "plain", "aria-label": `Try ${model.name} version ${model.version}` }, "Try");
    use.disabled = !model.ready || !model.metadata;
    use.addEventListener("click", () => {
      by("try-model").value = model.key;
      showExample();
      by("try-title").scrollIntoView({ block: "start" });
      by("request").focus({ preventScroll: true });
    });
    const metadata = model.metadata || { inputs: [], outputs: [] };
    const provider = (model.provider || (metadata.parameters || {}).provider || "–").replace("ExecutionProvider", "");
    return element("tr", {},
      element("td", {}, element("div", { class: "name" }, model.name), element("div", { class: "quiet" }, `version ${model.version}`)),
      cell, element("td", {}, provider),
      element("td", {}, tensors(metadata.inputs)), element("td", {}, tensors(metadata.outputs)), element("td", {}, use));
  });
  if (!rows.length) rows.push(element("tr", {}, element("td", { colspan: "6", class: "quiet" }, "No models.")));
  by("models").replaceChildren(...rows);
  const ready = models.filter((model) => model.ready).length;
  by("count").textContent = `${ready} of ${models.length} ready`;
  options(by("try-model"), models.filter((model) => model.ready && model.metadata)
    .map((model) => [model.key, `${model.name} · version ${model.version}`]));
  options(by("chart-model"), [["", "All models"], ...[...new Set(models.map((model) => model.name))].map((name) => [name, name])]);
  if (!by("request").value) showExample();
}

function options(select, pairs) {
  const kept = select.value;
  select.replaceChildren(...pairs.map(([value, text]) => element("option", { value }, text)));
  if (pairs.some(([value]) => value === kept)) select.value = kept;
}

async function updateModels() {
  const index = await ask("v2/repository/index", { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" });
  const known = new Map(models.map((model) => [model.key, model]));
  const found = await Promise.all(index.map(async (item) => {
    const key = `${encodeURIComponent(item.name)}/versions/${encodeURIComponent(item.version)}`;
    const ready = item.state === "READY";
    const before = known.get(key);
    let metadata = before && before.ready === ready ? before.metadata : null;
    if (ready && !metadata) metadata = await ask(`v2/models/${key}`).catch(() => null);
    return { key, name: item.name, version: item.version, ready, reason: item.reason, metadata };
  }));
  if (JSON.stringify(found) !== JSON.stringify(models)) {
    models = found;
    showModels();
  }
}

async function updateHealth() {
  const readiness = await ask("v2/health/ready");
  if (readiness.ready) badge(by("health"), "Ready", "good");
  else badge(by("health"), readiness.draining ? "Shutting down" : "Not ready", "bad");
}

// Try a request -------------------------------------------------------------------------------------------------------
function exampleOf(tensor) {
  let shape = tensor.shape.map((axis) => (axis < 0 ? 1 : axis));
  const count = shape.reduce((product, axis) => product * axis, 1);
  const binary = (tensor.parameters || {}).content_type === "base64";
  const element_ = { BOOL: true, BYTES: binary ? "aGVsbG8=" : "hello" }[tensor.datatype];
  const value = (index) => (element_ !== undefined ? element_ : tensor.datatype.startsWith("FP") ? (index % 10) / 10 : index % 10);
  return { name: tensor.name, shape, datatype: tensor.datatype, data: Array.from({ length: count }, (_, index) => value(index)), count };
}

function showExample() {
  const model = models.find((item) => item.key === by("try-model").value);
  if (!model || !model.metadata) return;
  const inputs = model.metadata.inputs.map(exampleOf);
  const large = inputs.some((input) => input.count > ELEMENTS);
  const request = { id: "example", inputs: inputs.map(({ count, ...input }) => input) };
  // Short lists read best on one line.
  by("request").value = large ? JSON.stringify(request) : JSON.stringify(request, null, 2)
    .replace(/\[\s+((?:[^[\]{}]|\n)*?)\s+\]/g, (_, inner) => `[${inner.replace(/\s*\n\s*/g, " ")}]`);
}

async function tryRequest(event) {
  event.preventDefault();
  const state = by("answer-state");
  const body = by("request").value;
  try {
    JSON.parse(body);
  } catch (error) {
    state.textContent = "not sent";
    by("answer").textContent = `The request is not valid JSON: ${error.message}`;
    return;
  }
  by("send").disabled = true;
  state.textContent = "…";
  const started = performance.now();
  try {
    const response = await send(`v2/models/${by("try-model").value}/infer`, {
      method: "POST", headers: { "Content-Type": "application/json" }, body,
    });
    let text = await response.text();
    const milliseconds = performance.now() - started;
    try {
      text = JSON.stringify(JSON.parse(text), null, 2)
        .replace(/\[\s+((?:[^[\]{}]|\n)*?)\s+\]/g, (_, inner) => `[${inner.replace(/\s*\n\s*/g, " ")}]`);
    } catch {
      // Shown as it is.
    }
    by("answer").textContent = text.length > SHOWN ? `${text.slice(0, SHOWN)}\n… ${text.length - SHOWN} more characters` : text;
    state.textContent = `status ${response.status}, ${milliseconds.toFixed(1)} ms`;
    if (response.status === 401) askForToken();
  } catch (error) {
    state.textContent = "no answer";
    by("answer").textContent = String(error.message || error);
  } finally {
    by("send").disabled = false;
  }
}

// Token ---------------------------------------------------------------------------------------------------------------
function askForToken(message) {
  by("token-error").hidden = !message;
  by("token-error").textContent = message || "";
  by("token-forget").hidden = !token;
  if (!by("token-dialog").open) by("token-dialog").showModal();
}

function useToken(value) {
  token = value;
  by("sign-in").textContent = token ? "Token ✓" : "Token…";
  for (const id of ["password", "token"]) by(id).value = "";
  by("token-dialog").close();
  models = [];
  last = null;
  update();
}

async function signIn(event) {
  event.preventDefault();
  const pasted = by("token").value.trim();
  if (pasted) return useToken(pasted);
  try {
    const response = await fetch("auth/token", {
      method: "POST", credentials: "same-origin", cache: "no-store",
      body: new URLSearchParams({ grant_type: "password", username: by("username").value, password: by("password").value }),
    });
    const content = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(content.error_description || content.error || `status ${response.status}`);
    return useToken(content.access_token);
  } catch (error) {
    by("password").value = "";
    return askForToken(String(error.message || error));
  }
}

// All together --------------------------------------------------------------------------------------------------------
async function updateServer() {
  const server = await ask("v2");
  by("server").textContent = `${server.name} ${server.version}${server.release ? ` · release ${server.release}` : ""}`;
}

async function update() {
  if (asking) return;
  asking = true;
  const parts = [updateHealth, updateServer, updateModels, updateCharts];
  const results = await Promise.allSettled(parts.map((part) => part()));
  asking = false;
  const errors = results.filter((result) => result.status === "rejected").map((result) => result.reason);
  const needsToken = errors.find((error) => error.status === 401);
  if (results[0].status === "rejected" && !(results[0].reason instanceof HttpError)) {
    badge(by("health"), "No connection", "bad");
    notice("The server does not answer; trying again.");
  } else if (needsToken) {
    notice(token ? "The token is not valid any more." : "This server asks for a token.");
    if (!by("token-dialog").open && !by("token-dialog").dataset.dismissed) askForToken();
  } else {
    const refused = errors.find((error) => error.status === 403);
    notice(refused ? `Not everything is shown: ${refused.message}.` : "");
  }
  by("live-note").hidden = results[3].status === "fulfilled";
  by("live-note").textContent = results[3].status === "fulfilled" ? "" : `No figures: ${results[3].reason.message}`;
}

function begin() {
  makeCharts();
  CHARTS.forEach(drawChart);
  by("try").addEventListener("submit", tryRequest);
  by("example").addEventListener("click", showExample);
  by("try-model").addEventListener("change", showExample);
  by("chart-model").addEventListener("change", () => {
    for (const values of series.values()) values.length = 0;
    last = null;
    CHARTS.forEach(drawChart);
    update();
  });
  by("sign-in").addEventListener("click", () => askForToken());
  by("token-form").addEventListener("submit", signIn);
  by("token-cancel").addEventListener("click", () => by("token-dialog").close());
  by("token-forget").addEventListener("click", () => useToken(null));
  by("token-dialog").addEventListener("close", () => { by("token-dialog").dataset.dismissed = "yes"; });
  update();
  setInterval(() => { if (!document.hidden) update(); }, POLL_MS);
}

begin();
