// One run: its state and actions, with tabs for curves, samples, groups and details.

import { api, follow } from "../api.js";
import { actionButton, ACTIVE, badge, confirm, definitions, progressBar, tabs, toast } from "../components.js";
import { fill, h } from "../dom.js";
import { dateTime, duration, metricTitle, number, shortId, signed } from "../format.js";
import { curvesTab } from "./run_curves.js";
import { checkpointsTab, eventsTab, logTab, specTab } from "./run_details.js";
import { groupsTab } from "./run_groups.js";
import { samplesTab } from "./run_samples.js";

/** @param {HTMLElement} root @param {import("../app.js").Route} route */
export async function page(root, { parts: [id], params, signal, setParams }) {
  const run = await api(`runs/${id}`, { signal });
  const listeners = new EventTarget();
  const head = h("div", { class: "stack" });
  root.append(
    head,
    tabs(
      [
        ["Curves", () => curvesTab(id, run, params, signal, setParams, listeners)],
        ["Samples", () => samplesTab(id, signal, listeners)],
        ["Groups", () => groupsTab(id, run, params, signal, setParams)],
        ["Checkpoints", () => checkpointsTab(id, signal, listeners)],
        ["Events", () => eventsTab(id, signal)],
        ["Log", () => logTab(id, signal)],
        ["Spec", () => specTab(run)],
      ],
      params.get("tab") ?? "Curves",
      (tab) => setParams({ tab }),
    ),
  );
  const draw = () => fill(head, ...header(run, draw));
  draw();
  if (!ACTIVE.has(run.status) && run.status !== "paused") return;
  follow(`runs/${id}/events?every=2`, ({ event, data }) => {
    if (event === "progress") {
      Object.assign(run, {
        status: data.status,
        progress: data.progress,
        eta_seconds: data.eta_seconds,
        queue_position: data.queue_position,
        attempt: data.attempt,
      });
      Object.assign(run.metrics, data.metrics);
      listeners.dispatchEvent(new CustomEvent("progress", { detail: data }));
      draw();
    } else if (event === "checkpoint" || event === "end") {
      listeners.dispatchEvent(new Event(event));
      if (event === "end") {
        api(`runs/${id}`, { signal }).then((ended) => {
          Object.assign(run, ended);
          draw();
        }).catch(() => {});
      }
    }
  }, { signal, after: Number.MAX_SAFE_INTEGER });
}

/** @param {any} run @param {() => void} draw */
function header(run, draw) {
  const heldout = Object.entries(run.heldout ?? {});
  return [
    h(
      "div",
      { class: "head" },
      h("div", { class: "title" }, h("h1", {}, run.name || `Run ${shortId(run.id)}`), badge(run.status)),
      h("div", { class: "actions" }, actions(run, draw)),
    ),
    run.error &&
    h(
      "div",
      { class: "error", role: "alert" },
      h("p", { class: "strong" }, run.error.code),
      h("p", {}, run.error.detail),
      run.error.hint && h("p", {}, run.error.hint),
      run.error.log_tail &&
        h("details", {}, h("summary", {}, "Last lines of the log"), h("pre", {}, run.error.log_tail)),
    ),
    h(
      "div",
      { class: "card" },
      progressBar(run, run.eta_seconds),
      definitions([
        ["Algorithm", `${run.algorithm} on ${run.model}`],
        [
          "Phase",
          run.queue_position ? `Waiting in the queue, position ${run.queue_position}` : run.progress?.phase ?? "–",
        ],
        ["Step time", run.progress?.step_seconds ? duration(run.progress.step_seconds) : "–"],
        ["Created", dateTime(run.created_at)],
        ["Worker", run.worker ?? "–"],
        .../** @type {[string, any][]} */ (heldout.map((
          [name, row],
        ) => [
          metricTitle(`heldout/${name}`),
          `${number(row.before)} → ${number(row.after)} (${signed(row.difference)}, 95% interval ${
            signed(row.interval95[0])
          } to ${signed(row.interval95[1])}, ${row.pairs} pairs)`,
        ])),
        ["Id", h("code", {}, run.id)],
      ]),
    ),
  ];
}

/** @param {any} run @param {() => void} draw */
function actions(run, draw) {
  const act = (/** @type {string} */ verb, /** @type {any} */ body = undefined) => async () => {
    Object.assign(run, await api(`runs/${run.id}/${verb}`, { method: "POST", body }));
    draw();
  };
  const active = ACTIVE.has(run.status);
  return [
    ["running", "starting", "queued", "interrupted"].includes(run.status) && actionButton("Pause", act("pause")),
    ["paused", "failed", "succeeded", "cancelled"].includes(run.status) && actionButton("Resume", act("resume", {})),
    run.status === "running" && actionButton("Save checkpoint", async () => {
      await act("checkpoint")();
      toast("The checkpoint is saved after the current step.");
    }),
    h("a", { class: "button", href: `#/new?clone=${run.id}` }, "Clone"),
    h("a", { class: "button", href: `#/compare?run=${run.id}` }, "Compare"),
    (active || run.status === "paused") && actionButton("Cancel", async () => {
      if (
        await confirm(
          "Cancel the run?",
          "The run stops after the current step and keeps its checkpoints.",
          "Cancel the run",
        )
      ) await act("cancel")();
    }, { class: "danger" }),
    !active && run.status !== "paused" && actionButton("Delete", async () => {
      if (
        !(await confirm(
          "Delete the run?",
          "Its metrics, samples and checkpoints are deleted and cannot be restored.",
          "Delete",
        ))
      ) return;
      await api(`runs/${run.id}`, { method: "DELETE" });
      location.hash = "#/runs";
    }, { class: "danger" }),
  ];
}
