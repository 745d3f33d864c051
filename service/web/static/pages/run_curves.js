// The curves of a run.

import { api, download, query } from "../api.js";
import { lineChart } from "../chart.js";
import { actionButton, ACTIVE, empty, errorBox, field, select } from "../components.js";
import { fill, h } from "../dom.js";
import { metricTitle } from "../format.js";

const CURVES_MS = 30_000;
/** Panels in order of interest, by the first part of a metric's name. */
const ORDER = [
  "heldout",
  "heldout_ema",
  "reward",
  "anchor",
  "kl",
  "ratio",
  "grad_norm",
  "clip_fraction",
  "zero_std_fraction",
  "spread",
  "seconds",
  "learning_rate",
];
/** Metrics that are shown unless all are requested. */
const SHOWN = /^(?!elapsed|nfe|images|memory|failures)/;

/**
 * @param {string} id @param {any} run @param {URLSearchParams} params @param {AbortSignal} signal
 * @param {(values: Record<string, unknown>) => void} setParams @param {EventTarget} listeners
 */
export function curvesTab(id, run, params, signal, setParams, listeners) {
  const view = {
    x: params.get("x") ?? "step",
    smooth: Number(params.get("smooth") ?? 0),
    log: params.get("log") === "1",
    every: params.get("all") === "1",
  };
  const panels = h("div", { class: "grid" });
  const status = h("div", {});
  /** @type {Map<string, {element: HTMLElement, chart: Promise<any>}>} */
  const charts = new Map();
  const changed = () => {
    setParams({
      x: view.x === "step" ? null : view.x,
      smooth: view.smooth || null,
      log: view.log ? 1 : null,
      all: view.every ? 1 : null,
    });
    load();
  };
  const smoothLabel = h("output", {}, String(view.smooth));

  async function load() {
    try {
      const { curves } = await api(`runs/${id}/curves${query({ smooth: view.smooth, max_points: 500 })}`, { signal });
      const axis = view.x === "step"
        ? null
        : curves.find((/** @type {any} */ curve) => curve.name === `elapsed/${view.x}`);
      const found = curves.filter((/** @type {any} */ curve) =>
        view.every || (SHOWN.test(curve.name) && new Set(curve.values).size > 1) || curve.values.length === 1
      );
      found.sort((/** @type {any} */ a, /** @type {any} */ b) =>
        rank(a.name) - rank(b.name) || a.name.localeCompare(b.name)
      );
      fill(
        status,
        found.length
          ? null
          : empty("There are no metrics yet.", "The first values appear after the first held-out evaluation."),
      );
      /** @type {Map<string, any[]>} */
      const grouped = new Map();
      for (const curve of found) {
        const group = curve.name.split("/")[0];
        const key = COMBINED[group] ? group : curve.name;
        grouped.set(key, [...(grouped.get(key) ?? []), curve]);
      }
      for (const [name, { element }] of charts) {
        if (!grouped.has(name)) {
          element.remove();
          charts.delete(name);
        }
      }
      for (const [name, members] of grouped) {
        const group = name.split("/")[0];
        const series = members.map((curve, index) => ({
          name: members.length > 1 ? curve.name.slice(group.length + 1).replaceAll("_", " ") : curve.name,
          x: axis ? curve.steps.map((/** @type {number} */ step) => interpolate(axis, step)) : curve.steps,
          y: curve.values,
          low: curve.min,
          high: curve.max,
          points: group === "heldout",
          color: members.length > 1 ? index : COLOR[group] ?? 7,
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
    const timer = setInterval(() => {
      if (!document.hidden && ACTIVE.has(run.status)) load();
    }, CURVES_MS);
    signal.addEventListener("abort", () => clearInterval(timer));
    listeners.addEventListener("end", load);
  }
  const save = (/** @type {string} */ suffix, /** @type {string} */ type) =>
    actionButton(
      suffix.toUpperCase(),
      () =>
        download(
          `curves${query({ run: id, metric: ["heldout/*", "reward/*"], x: view.x, smooth: view.smooth })}`,
          `curves.${suffix}`,
          type,
        ),
    );
  return h(
    "div",
    { class: "stack" },
    h(
      "div",
      { class: "filters" },
      field(
        "x axis",
        select(/** @type {[string, string][]} */ (Object.entries(AXES)), view.x, (value) => {
          view.x = value;
          changed();
        }),
      ),
      field(
        "Smoothing",
        h(
          "span",
          {},
          h("input", {
            type: "range",
            min: 0,
            max: 0.98,
            step: 0.02,
            value: view.smooth,
            oninput: (/** @type {any} */ event) => {
              view.smooth = Number(event.target.value);
              smoothLabel.value = event.target.value;
            },
            onchange: changed,
          }),
          smoothLabel,
        ),
      ),
      h(
        "label",
        {},
        h("input", {
          type: "checkbox",
          checked: view.log,
          onchange: (/** @type {any} */ event) => {
            view.log = event.target.checked;
            changed();
          },
        }),
        " Logarithmic y axis",
      ),
      h(
        "label",
        {},
        h("input", {
          type: "checkbox",
          checked: view.every,
          onchange: (/** @type {any} */ event) => {
            view.every = event.target.checked;
            changed();
          },
        }),
        " All metrics",
      ),
      h("div", { class: "actions" }, save("png", "image/png"), save("svg", "image/svg+xml"), save("csv", "text/csv")),
    ),
    status,
    panels,
  );
}

/** Metrics of these groups share a panel. @type {Record<string, string>} */
const COMBINED = {
  ratio: "Probability ratio of the update",
  seconds: "Seconds of a step by part",
  spread: "Spread of rewards within groups",
};

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
