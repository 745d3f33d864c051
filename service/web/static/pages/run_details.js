// Checkpoints, events, log and spec of a run.

import { all, api, download, follow, query } from "../api.js";
import { actionButton, confirm, empty, errorBox, section, table } from "../components.js";
import { fill, h } from "../dom.js";
import { bytes, dateTime, number } from "../format.js";

/** @param {string} id @param {AbortSignal} signal @param {EventTarget} listeners */
export function checkpointsTab(id, signal, listeners) {
  const content = h("div", {});
  const load = () =>
    section(
      content,
      signal,
      () => all(`runs/${id}/checkpoints`, {}, { signal }),
      (rows) =>
        rows.length
          ? table(
            "Checkpoints",
            ["Step", "Kind", "Held-out value", "Size", "Created", ""],
            rows.map((
              row,
            ) => [
              String(row.step),
              row.kind,
              number(row.best_value),
              bytes(row.size),
              dateTime(row.created_at),
              row.deleted_at ? "deleted" : h(
                "div",
                { class: "actions" },
                actionButton(
                  "Download",
                  () => download(`checkpoints/${row.id}/archive`, `${row.name || row.id}.tar`),
                ),
                h("a", { class: "button", href: `#/generate?checkpoint=base&checkpoint=${row.id}` }, "Generate"),
                h("a", { class: "button", href: `#/evaluations?checkpoint=${row.id}` }, "Evaluate"),
                actionButton("Delete", async () => {
                  if (
                    await confirm("Delete the checkpoint?", `The files of step ${row.step} are deleted.`, "Delete")
                  ) {
                    await api(`checkpoints/${row.id}`, { method: "DELETE" });
                    load();
                  }
                }, { class: "danger" }),
              ),
            ]),
          )
          : empty("There are no checkpoints yet."),
    );
  load();
  listeners.addEventListener("checkpoint", load);
  return content;
}

/** @param {string} id @param {AbortSignal} signal */
export function eventsTab(id, signal) {
  const list = h("ol", {});
  const attempts = h("div", {});
  follow(`runs/${id}/events?every=60`, ({ event, data }) => {
    if (event === "progress" || event === "end") return;
    list.prepend(
      h(
        "li",
        {},
        h("time", { datetime: data.time, class: "muted" }, dateTime(data.time)),
        ` ${data.type} `,
        h("code", {}, JSON.stringify(data.data).slice(0, 500)),
      ),
    );
  }, { signal });
  section(
    attempts,
    signal,
    () => all(`runs/${id}/attempts`, {}, { signal }),
    (rows) =>
      table(
        "Attempts",
        ["Attempt", "Worker", "Started", "Ended", "Outcome", "Resumed at step"],
        rows.map((
          row,
        ) => [
          String(row.number),
          row.worker,
          dateTime(row.started_at),
          dateTime(row.ended_at),
          row.lost ? `${row.outcome} (lost)` : row.outcome ?? "in progress",
          String(row.resumed_at),
        ]),
      ),
  );
  return h("div", { class: "stack" }, h("h2", {}, "Attempts"), attempts, h("h2", {}, "Events"), list);
}

/** @param {string} id @param {AbortSignal} signal */
export function logTab(id, signal) {
  const text = h("pre", { class: "log", tabindex: 0, "aria-label": "Log" });
  let offset = 0;
  const load = async () => {
    const part = await api(`runs/${id}/logs${query({ offset })}`, { signal });
    offset = part.next_offset;
    if (part.text) text.append(part.text);
    else if (!text.textContent) text.append("The log is empty.\n");
    text.scrollTop = text.scrollHeight;
  };
  load().catch((error) => {
    if (!signal.aborted) fill(text, errorBox(error));
  });
  return h("div", {}, h("div", { class: "actions" }, actionButton("Load newer lines", load)), text);
}

/** @param {any} run */
export function specTab(run) {
  const json = JSON.stringify(run.spec, null, 2);
  return h(
    "div",
    {},
    h(
      "div",
      { class: "actions" },
      actionButton("Copy", () => navigator.clipboard.writeText(json)),
      h("a", { class: "button", href: `#/new?clone=${run.id}` }, "Clone with changes"),
    ),
    h("pre", {}, json),
  );
}
