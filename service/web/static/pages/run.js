// One run: progress, curves, sample wall, group explorer, checkpoints, events, logs and spec.

import { all, api, download, follow, query } from "../api.js";
import { heatMap, lineChart } from "../chart.js";
import { ACTIVE, actionButton, badge, confirm, definitions, empty, errorBox, field, lazyImage, loading, progressBar, section, select, showImage, table, tabs, toast } from "../components.js";
import { fill, h } from "../dom.js";
import { bytes, dateTime, duration, metricTitle, number, percent, shortId, signed } from "../format.js";

const CURVES_MS = 30_000;
/** Panels in order of interest, by the first part of a metric's name. */
const ORDER = ["heldout", "heldout_ema", "reward", "anchor", "kl", "ratio", "grad_norm", "clip_fraction", "zero_std_fraction", "spread", "seconds", "learning_rate"];
/** Metrics that are shown unless all are requested. */
const SHOWN = /^(?!elapsed|nfe|images|memory|failures)/;

/** @param {HTMLElement} root @param {import("../app.js").Route} route */
export async function page(root, { parts: [id], params, signal, setParams }) {
  const run = await api(`runs/${id}`, { signal });
  const listeners = new EventTarget();
  const head = h("div", { class: "stack" });
  root.append(head, tabs(
    [
      ["Curves", () => curvesTab(id, run, params, signal, setParams, listeners)],
      ["Samples", () => samplesTab(id, run, signal, listeners)],
      ["Groups", () => groupsTab(id, run, params, signal, setParams)],
      ["Checkpoints", () => checkpointsTab(id, signal, listeners)],
      ["Events", () => eventsTab(id, signal)],
      ["Log", () => logTab(id, signal)],
      ["Spec", () => specTab(run)],
    ],
    params.get("tab") ?? "Curves",
    (tab) => setParams({ tab }),
  ));
  const draw = () => fill(head, ...header(run, draw));
  draw();
  if (!ACTIVE.has(run.status) && run.status !== "paused") return;
  follow(`runs/${id}/events?every=2`, ({ event, data }) => {
    if (event === "progress") {
      Object.assign(run, { status: data.status, progress: data.progress, eta_seconds: data.eta_seconds, queue_position: data.queue_position, attempt: data.attempt });
      Object.assign(run.metrics, data.metrics);
      listeners.dispatchEvent(new CustomEvent("progress", { detail: data }));
      draw();
    } else if (event === "checkpoint" || event === "end") {
      listeners.dispatchEvent(new Event(event));
      if (event === "end") api(`runs/${id}`, { signal }).then((ended) => { Object.assign(run, ended); draw(); }).catch(() => {});
    }
  }, { signal, after: Number.MAX_SAFE_INTEGER });
}

/** @param {any} run @param {() => void} draw */
function header(run, draw) {
  const heldout = Object.entries(run.heldout ?? {});
  return [
    h("div", { class: "head" },
      h("div", { class: "title" }, h("h1", {}, run.name || `Run ${shortId(run.id)}`), badge(run.status)),
      h("div", { class: "actions" }, actions(run, draw))),
    run.error && h("div", { class: "error", role: "alert" }, h("p", { class: "strong" }, run.error.code), h("p", {}, run.error.detail), run.error.hint && h("p", {}, run.error.hint),
      run.error.log_tail && h("details", {}, h("summary", {}, "Last lines of the log"), h("pre", {}, run.error.log_tail))),
    h("div", { class: "card" },
      progressBar(run, run.eta_seconds),
      definitions([
        ["Algorithm", `${run.algorithm} on ${run.model}`],
        ["Phase", run.queue_position ? `Waiting in the queue, position ${run.queue_position}` : run.progress?.phase ?? "–"],
        ["Step time", run.progress?.step_seconds ? duration(run.progress.step_seconds) : "–"],
        ["Created", dateTime(run.created_at)],
        ["Worker", run.worker ?? "–"],
        .../** @type {[string, any][]} */ (heldout.map(([name, row]) => [metricTitle(`heldout/${name}`), `${number(row.before)} → ${number(row.after)} (${signed(row.difference)}, 95% interval ${signed(row.interval95[0])} to ${signed(row.interval95[1])}, ${row.pairs} pairs)`])),
        ["Id", h("code", {}, run.id)],
      ])),
  ];
}

/** @param {any} run @param {() => void} draw */
function actions(run, draw) {
  const act = (/** @type {string} */ verb, /** @type {any} */ body) => async () => {
    Object.assign(run, await api(`runs/${run.id}/${verb}`, { method: "POST", body }));
    draw();
  };
  const active = ACTIVE.has(run.status);
  return [
    ["running", "starting", "queued", "interrupted"].includes(run.status) && actionButton("Pause", act("pause")),
    ["paused", "failed", "succeeded", "cancelled"].includes(run.status) && actionButton("Resume", act("resume", {})),
    run.status === "running" && actionButton("Save checkpoint", async () => { await act("checkpoint", undefined)(); toast("The checkpoint is saved after the current step."); }),
    h("a", { class: "button", href: `#/new?clone=${run.id}` }, "Clone"),
    h("a", { class: "button", href: `#/compare?run=${run.id}` }, "Compare"),
    (active || run.status === "paused") && actionButton("Cancel", async () => {
      if (await confirm("Cancel the run?", "The run stops after the current step and keeps its checkpoints.", "Cancel the run")) await act("cancel", undefined)();
    }, { class: "danger" }),
    !active && run.status !== "paused" && actionButton("Delete", async () => {
      if (!(await confirm("Delete the run?", "Its metrics, samples and checkpoints are deleted and cannot be restored.", "Delete"))) return;
      await api(`runs/${run.id}`, { method: "DELETE" });
      location.hash = "#/runs";
    }, { class: "danger" }),
  ];
}

/**
 * @param {string} id @param {any} run @param {URLSearchParams} params @param {AbortSignal} signal
 * @param {(values: Record<string, unknown>) => void} setParams @param {EventTarget} listeners
 */
function curvesTab(id, run, params, signal, setParams, listeners) {
  const view = { x: params.get("x") ?? "step", smooth: Number(params.get("smooth") ?? 0), log: params.get("log") === "1", every: params.get("all") === "1" };
  const panels = h("div", { class: "grid" });
  const status = h("div", {});
  /** @type {Map<string, {element: HTMLElement, chart: Promise<any>}>} */
  const charts = new Map();
  const changed = () => { setParams({ x: view.x === "step" ? null : view.x, smooth: view.smooth || null, log: view.log ? 1 : null, all: view.every ? 1 : null }); load(); };
  const smoothLabel = h("output", {}, String(view.smooth));

  async function load() {
    try {
      const { curves } = await api(`runs/${id}/curves${query({ smooth: view.smooth, max_points: 500 })}`, { signal });
      const axis = view.x === "step" ? null : curves.find((/** @type {any} */ curve) => curve.name === `elapsed/${view.x}`);
      const found = curves.filter((/** @type {any} */ curve) => view.every || (SHOWN.test(curve.name) && new Set(curve.values).size > 1) || curve.values.length === 1);
      found.sort((/** @type {any} */ a, /** @type {any} */ b) => rank(a.name) - rank(b.name) || a.name.localeCompare(b.name));
      fill(status, found.length ? null : empty("There are no metrics yet.", "The first values appear after the first held-out evaluation."));
      /** @type {Map<string, any[]>} */
      const grouped = new Map();
      for (const curve of found) {
        const group = curve.name.split("/")[0];
        const key = COMBINED[group] ? group : curve.name;
        grouped.set(key, [...(grouped.get(key) ?? []), curve]);
      }
      for (const [name, { element }] of charts) if (!grouped.has(name)) { element.remove(); charts.delete(name); }
      for (const [name, members] of grouped) {
        const group = name.split("/")[0];
        const series = members.map((curve, index) => ({
          name: members.length > 1 ? curve.name.slice(group.length + 1).replaceAll("_", " ") : curve.name,
          x: axis ? curve.steps.map((/** @type {number} */ step) => interpolate(axis, step)) : curve.steps,
          y: curve.values, low: curve.min, high: curve.max, points: group === "heldout", color: members.length > 1 ? index : COLOR[group] ?? 7,
        }));
        const options = { title: COMBINED[name] ?? metricTitle(name), xLabel: AXES[view.x], logY: view.log, series };
        const existing = charts.get(name);
        if (existing) (await existing.chart).update(options);
        else {
          const element = h("div", {});
          panels.append(element);
          charts.set(name, { element, chart: lineChart(element, options) });
        }
      }
    } catch (error) {
      if (!signal.aborted) fill(status, errorBox(error, load));
    }
  }
  load();
  if (ACTIVE.has(run.status)) {
    const timer = setInterval(() => { if (!document.hidden && ACTIVE.has(run.status)) load(); }, CURVES_MS);
    signal.addEventListener("abort", () => clearInterval(timer));
    listeners.addEventListener("end", load);
  }
  const save = (/** @type {string} */ suffix, /** @type {string} */ type) => actionButton(suffix.toUpperCase(), () => download(`curves${query({ run: id, metric: ["heldout/*", "reward/*"], x: view.x, smooth: view.smooth })}`, `curves.${suffix}`, type));
  return h("div", { class: "stack" },
    h("div", { class: "filters" },
      field("x axis", select(/** @type {[string, string][]} */ (Object.entries(AXES)), view.x, (value) => { view.x = value; changed(); })),
      field("Smoothing", h("span", {}, h("input", { type: "range", min: 0, max: 0.98, step: 0.02, value: view.smooth, oninput: (/** @type {any} */ event) => { view.smooth = Number(event.target.value); smoothLabel.value = event.target.value; }, onchange: changed }), smoothLabel)),
      h("label", {}, h("input", { type: "checkbox", checked: view.log, onchange: (/** @type {any} */ event) => { view.log = event.target.checked; changed(); } }), " Logarithmic y axis"),
      h("label", {}, h("input", { type: "checkbox", checked: view.every, onchange: (/** @type {any} */ event) => { view.every = event.target.checked; changed(); } }), " All metrics"),
      h("div", { class: "actions" }, save("png", "image/png"), save("svg", "image/svg+xml"), save("csv", "text/csv"))),
    status, panels);
}

/** Metrics of these groups share a panel. @type {Record<string, string>} */
const COMBINED = { ratio: "Probability ratio of the update", seconds: "Seconds of a step by part", spread: "Spread of rewards within groups" };

/** @type {Record<string, string>} */
const AXES = { step: "optimizer steps", nfe: "NFE", seconds: "training seconds" };

/** The value of a curve at a step, linearly interpolated between its points. @param {any} curve @param {number} step */
function interpolate(curve, step) {
  const next = curve.steps.findIndex((/** @type {number} */ other) => other >= step);
  if (next < 0) return curve.values[curve.values.length - 1];
  if (next === 0 || curve.steps[next] === step) return curve.values[next];
  const share = (step - curve.steps[next - 1]) / (curve.steps[next] - curve.steps[next - 1]);
  return curve.values[next - 1] + share * (curve.values[next] - curve.values[next - 1]);
}

/** @type {Record<string, number>} */
const COLOR = { heldout: 0, heldout_ema: 5, reward: 1, anchor: 2, kl: 3, ratio: 4, grad_norm: 5, seconds: 7 };

/** @param {string} metric */
function rank(metric) {
  const index = ORDER.indexOf(metric.split("/")[0]);
  return index < 0 ? ORDER.length : index;
}

/** @param {string} id @param {any} run @param {AbortSignal} signal @param {EventTarget} listeners */
function samplesTab(id, run, signal, listeners) {
  const wall = h("div", {});
  const extremes = h("div", {});
  let steps = 0;
  const load = () => section(wall, signal, () => all(`runs/${id}/samples`, { kind: "heldout" }, { signal }), (samples) => {
    if (!samples.length) return empty("There are no held-out images yet.", "The first ones appear after the first held-out evaluation.");
    steps = new Set(samples.map((sample) => sample.step)).size;
    return player(samples);
  });
  const loadExtremes = () => section(extremes, signal, () => all(`runs/${id}/samples`, { kind: "best" }, { signal }), (best) => bestAndWorst(id, best, signal));
  load();
  loadExtremes();
  let evaluations = 0;
  listeners.addEventListener("progress", (/** @type {any} */ event) => {
    const step = Object.entries(event.detail.metrics).find(([name]) => name.startsWith("heldout/"));
    if (step && (evaluations += 1) > 1) load();
  });
  listeners.addEventListener("end", () => { load(); loadExtremes(); });
  return h("div", { class: "stack" }, h("h2", {}, "Held-out images"), h("p", { class: "muted" }, "The same prompts and noise in each evaluation. Move the slider or press Play to see the alignment."), wall,
    h("h2", {}, "Best and worst image of a group"), h("p", { class: "muted" }, "For the first prompts of a step, the group with the widest range of rewards."), extremes);
}

/** The sample wall: prompts × steps with a slider. @param {any[]} samples */
function player(samples) {
  const steps = [...new Set(samples.map((sample) => sample.step))].sort((a, b) => a - b);
  const indices = [...new Set(samples.map((sample) => sample.index))].sort((a, b) => a - b);
  const at = new Map(samples.map((sample) => [`${sample.step}/${sample.index}`, sample]));
  const grid = h("div", { class: "wall" });
  const output = h("output", { "aria-live": "polite" });
  let playing = 0;
  const slider = h("input", { type: "range", min: 0, max: steps.length - 1, value: steps.length - 1, "aria-label": "Optimizer step", oninput: () => draw() });
  const tiles = indices.map((index) => {
    const frame = h("button", { type: "button", class: "tile" });
    const caption = h("figcaption", {});
    return { index, frame, caption, element: h("figure", {}, frame, caption) };
  });
  fill(grid, tiles.map(({ element }) => element));
  function draw() {
    const step = steps[Number(slider.value)];
    output.value = `step ${step}`;
    for (const { index, frame, caption } of tiles) {
      const sample = at.get(`${step}/${index}`);
      if (!sample) { fill(frame); continue; }
      const old = frame.firstElementChild;
      const image = lazyImage(sample.image, `${sample.prompt}, step ${step}`);
      if (old) { image.onload = () => fill(frame, image); if (!image.isConnected) loadNow(image, frame); } else fill(frame, image);
      frame.onclick = () => showSample(sample);
      fill(caption, sample.prompt, h("br"), rewardsText(sample.rewards));
    }
  }
  const play = h("button", { type: "button", onclick: () => {
    if (playing) { clearInterval(playing); playing = 0; play.textContent = "Play"; return; }
    play.textContent = "Stop";
    if (Number(slider.value) === steps.length - 1) slider.value = "0";
    playing = setInterval(() => {
      if (!slider.isConnected || Number(slider.value) >= steps.length - 1) { clearInterval(playing); playing = 0; play.textContent = "Play"; return; }
      slider.value = String(Number(slider.value) + 1);
      draw();
    }, 700);
  } }, "Play");
  draw();
  return h("div", {}, h("div", { class: "player" }, play, slider, output), grid);
}

/** Replace the image in a frame once the new one is loaded, so that nothing flickers. @param {HTMLImageElement} image @param {Element} frame */
async function loadNow(image, frame) {
  const { imageUrl } = await import("../api.js");
  const url = await imageUrl(image.dataset.path ?? "").catch(() => null);
  if (!url) return;
  image.src = url;
  await image.decode().catch(() => {});
  fill(frame, image);
}

/** @param {Record<string, number | null>} rewards */
const rewardsText = (rewards) => Object.entries(rewards).map(([name, value]) => `${name} ${number(value, 3)}`).join(" · ");

/** @param {any} sample */
function showSample(sample) {
  showImage(sample.image, sample.prompt, [
    ["Step", sample.step],
    ["Kind", sample.kind],
    ...(sample.sde_step === null ? [] : /** @type {[string, any][]} */ ([["SDE step", sample.sde_step], ["Granularity", sample.granularity]])),
    .../** @type {[string, any][]} */ (Object.entries(sample.rewards).map(([name, value]) => [name, number(value)])),
    ["Size", bytes(sample.size)],
  ]);
}

/** @param {string} id @param {any[]} best @param {AbortSignal} signal */
function bestAndWorst(id, best, signal) {
  if (!best.length) return empty("There are no group images yet.");
  const steps = [...new Set(best.map((sample) => sample.step))].sort((a, b) => b - a);
  const grid = h("div", { class: "grid" });
  const show = (/** @type {number} */ step) => section(fill(grid), signal, () => all(`runs/${id}/samples`, { step }, { signal }), (samples) => {
    const worst = new Map(samples.filter((sample) => sample.kind === "worst").map((sample) => [sample.index, sample]));
    return samples.filter((sample) => sample.kind === "best").map((sample) => h("figure", { class: "card" },
      h("figcaption", {}, `${sample.prompt} – SDE step ${sample.sde_step}, granularity ${sample.granularity}`),
      h("div", { class: "pair" }, [sample, worst.get(sample.index)].filter(Boolean).map((image) => h("figure", {}, h("button", { type: "button", class: "tile", onclick: () => showSample(image) }, lazyImage(image.image, `${image.kind} image for ${image.prompt}`)), h("figcaption", { class: "muted" }, `${image.kind}: ${rewardsText(image.rewards)}`))))));
  });
  show(steps[0]);
  return h("div", {}, field("Step", select(steps.map(String), String(steps[0]), (value) => show(Number(value)))), grid);
}

/**
 * @param {string} id @param {any} run @param {URLSearchParams} params @param {AbortSignal} signal
 * @param {(values: Record<string, unknown>) => void} setParams
 */
function groupsTab(id, run, params, signal, setParams) {
  const last = run.progress?.step ?? run.max_steps;
  let step = Number(params.get("step") ?? Math.max(1, last));
  const content = h("div", {});
  const input = h("input", { type: "number", min: 1, max: run.max_steps, value: step, onchange: () => { step = Number(input.value); setParams({ step }); load(); } });
  const load = () => section(fill(content, loading()), signal, () => all(`runs/${id}/rewards`, { step }, { signal }), (groups) => (groups.length ? explorer(groups) : empty(`There are no reward groups for step ${step}.`, "Choose a completed step.")));
  load();
  return h("div", { class: "stack" }, h("p", { class: "muted" }, "The rewards of a step: each group holds the images that branch off one SDE step of one prompt, evaluated at one granularity."), h("div", { class: "filters" }, field("Optimizer step", input)), content);
}

/** Explore the groups of a step: a heat map of SDE step × granularity, and the values of the selected group. @param {any[]} groups */
function explorer(groups) {
  const unique = (/** @type {string} */ key) => [...new Set(groups.map((group) => group[key]))].sort((a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b))));
  const [rewards, prompts, steps, granularities] = [unique("reward"), unique("prompt_index"), unique("sde_step"), unique("granularity")];
  const prompt = new Map(groups.map((group) => [group.prompt_index, group.prompt]));
  const choice = { reward: rewards[0], prompt: prompts[0], measure: "mean", row: 0, column: 0 };
  const map = h("div", {});
  const detail = h("div", { class: "card" });
  const find = (/** @type {number} */ i, /** @type {number} */ j) => groups.find((group) => group.reward === choice.reward && group.prompt_index === choice.prompt && group.sde_step === steps[i] && group.granularity === granularities[j]);
  function draw() {
    fill(map, heatMap({
      title: `${choice.measure === "mean" ? "Mean" : "Standard deviation"} of ${choice.reward}: “${prompt.get(choice.prompt)}”`,
      rows: steps.map(String), columns: granularities.map(String), rowLabel: "SDE step", columnLabel: "granularity",
      values: steps.map((_, i) => granularities.map((_, j) => find(i, j)?.[choice.measure] ?? null)),
      selected: [choice.row, choice.column],
      onselect: (row, column) => { Object.assign(choice, { row, column }); draw(); },
    }));
    const group = find(choice.row, choice.column);
    if (!group) { fill(detail, empty("This group has no values.")); return; }
    const order = group.values.map((/** @type {number | null} */ value, /** @type {number} */ index) => [index, value]).sort((/** @type {any} */ a, /** @type {any} */ b) => (b[1] ?? -Infinity) - (a[1] ?? -Infinity));
    fill(detail, h("h3", {}, `SDE step ${group.sde_step}, granularity ${group.granularity}`),
      definitions([["Mean", number(group.mean)], ["Standard deviation", number(group.std)], ["Failures", group.failures], ["Zero spread", group.zero_std ? "yes: the group gives no gradient" : "no"]]),
      table("Values of the group", ["Image", "Reward", "Advantage of this reward"], order.map(([index, value]) => [String(index), number(value), group.std ? signed((value - group.mean) / group.std) : "–"])));
  }
  draw();
  const zero = groups.filter((group) => group.zero_std).length;
  return h("div", { class: "stack" },
    h("p", {}, `${groups.length} groups; ${zero} (${percent(zero / groups.length)}) have zero spread.`),
    h("div", { class: "filters" },
      field("Reward", select(rewards, choice.reward, (value) => { choice.reward = value; draw(); })),
      field("Prompt", select(prompts.map((index) => /** @type {[string, string]} */ ([String(index), prompt.get(index)])), String(choice.prompt), (value) => { choice.prompt = Number(value); draw(); })),
      field("Value", select([["mean", "Mean"], ["std", "Standard deviation"]], choice.measure, (value) => { choice.measure = value; draw(); }))),
    h("div", { class: "columns" }, map, detail));
}

/** @param {string} id @param {AbortSignal} signal @param {EventTarget} listeners */
function checkpointsTab(id, signal, listeners) {
  const content = h("div", {});
  const load = () => section(content, signal, () => all(`runs/${id}/checkpoints`, {}, { signal }), (rows) => rows.length
    ? table("Checkpoints", ["Step", "Kind", "Held-out value", "Size", "Created", ""], rows.map((row) => [String(row.step), row.kind, number(row.best_value), bytes(row.size), dateTime(row.created_at),
      row.deleted_at ? "deleted" : h("div", { class: "actions" },
        actionButton("Download", () => download(`checkpoints/${row.id}/archive`, `${row.name || row.id}.tar`)),
        h("a", { class: "button", href: `#/generate?checkpoint=base&checkpoint=${row.id}` }, "Generate"),
        h("a", { class: "button", href: `#/evaluations?checkpoint=${row.id}` }, "Evaluate"),
        actionButton("Delete", async () => { if (await confirm("Delete the checkpoint?", `The files of step ${row.step} are deleted.`, "Delete")) { await api(`checkpoints/${row.id}`, { method: "DELETE" }); load(); } }, { class: "danger" }))]))
    : empty("There are no checkpoints yet."));
  load();
  listeners.addEventListener("checkpoint", load);
  return content;
}

/** @param {string} id @param {AbortSignal} signal */
function eventsTab(id, signal) {
  const list = h("ol", {});
  const attempts = h("div", {});
  follow(`runs/${id}/events?every=60`, ({ event, data }) => {
    if (event === "progress" || event === "end") return;
    list.prepend(h("li", {}, h("time", { datetime: data.time, class: "muted" }, dateTime(data.time)), ` ${data.type} `, h("code", {}, JSON.stringify(data.data).slice(0, 500))));
  }, { signal });
  section(attempts, signal, () => all(`runs/${id}/attempts`, {}, { signal }), (rows) => table("Attempts", ["Attempt", "Worker", "Started", "Ended", "Outcome", "Resumed at step"], rows.map((row) => [String(row.number), row.worker, dateTime(row.started_at), dateTime(row.ended_at), row.lost ? `${row.outcome} (lost)` : row.outcome ?? "in progress", String(row.resumed_at)])));
  return h("div", { class: "stack" }, h("h2", {}, "Attempts"), attempts, h("h2", {}, "Events"), list);
}

/** @param {string} id @param {AbortSignal} signal */
function logTab(id, signal) {
  const text = h("pre", { class: "log", tabindex: 0, "aria-label": "Log" });
  let offset = 0;
  const load = async () => {
    const part = await api(`runs/${id}/logs${query({ offset })}`, { signal });
    offset = part.next_offset;
    if (part.text) text.append(part.text);
    else if (!text.textContent) text.append("The log is empty.\n");
    text.scrollTop = text.scrollHeight;
  };
  load().catch((error) => { if (!signal.aborted) fill(text, errorBox(error)); });
  return h("div", {}, h("div", { class: "actions" }, actionButton("Load newer lines", load)), text);
}

/** @param {any} run */
function specTab(run) {
  const json = JSON.stringify(run.spec, null, 2);
  return h("div", {}, h("div", { class: "actions" }, actionButton("Copy", () => navigator.clipboard.writeText(json)), h("a", { class: "button", href: `#/new?clone=${run.id}` }, "Clone with changes")), h("pre", {}, json));
}
