// One evaluation: progress, dimensions with intervals, test points with images, and the comparison with another one.

import { all, api, download, follow, query } from "../api.js";
import { bars } from "../chart.js";
import {
  actionButton,
  ACTIVE,
  badge,
  confirm,
  definitions,
  empty,
  errorBox,
  field,
  lazyImage,
  progressBar,
  section,
  select,
  showImage,
  table,
  tabs,
} from "../components.js";
import { fill, h } from "../dom.js";
import { dateTime, duration, number, percent, shortId, signed } from "../format.js";

/** @param {HTMLElement} root @param {import("../app.js").Route} route */
export async function page(root, { parts: [id], params, signal, setParams }) {
  let evaluation = await api(`evaluations/${id}`, { signal });
  const other = params.get("with") ? await api(`evaluations/${params.get("with")}`, { signal }) : null;
  const head = h("div", { class: "stack" });
  const body = h("div", {});
  root.append(head, body);

  const drawHead = () =>
    fill(
      head,
      h(
        "div",
        { class: "head" },
        h(
          "div",
          { class: "title" },
          h("h1", {}, evaluation.name || `Evaluation ${shortId(id)}`),
          badge(evaluation.status),
        ),
        h(
          "div",
          { class: "actions" },
          ACTIVE.has(evaluation.status) && actionButton("Cancel", async () => {
            if (
              await confirm("Cancel the evaluation?", "Finished images and answers are kept.", "Cancel the evaluation")
            ) {
              evaluation = await api(`evaluations/${id}/cancel`, { method: "POST" });
              drawHead();
            }
          }, { class: "danger" }),
          ["failed", "cancelled"].includes(evaluation.status) && actionButton("Resume", async () => {
            evaluation = await api(`evaluations/${id}/resume`, { method: "POST" });
            drawHead();
          }),
          actionButton("CSV", () => download(`evaluations/${id}/export`, `evaluation-${shortId(id)}.csv`, "text/csv")),
          !ACTIVE.has(evaluation.status) && actionButton("Delete", async () => {
            if (await confirm("Delete the evaluation?", "Its images and answers are deleted.", "Delete")) {
              await api(`evaluations/${id}`, { method: "DELETE" });
              location.hash = "#/evaluations";
            }
          }, { class: "danger" }),
        ),
      ),
      evaluation.error &&
        h(
          "div",
          { class: "error", role: "alert" },
          h("p", { class: "strong" }, evaluation.error.code),
          h("p", {}, evaluation.error.detail),
          evaluation.error.hint && h("p", {}, evaluation.error.hint),
        ),
      h(
        "div",
        { class: "card" },
        progressBar(evaluation, evaluation.eta_seconds),
        definitions([
          [
            "Overall",
            evaluation.scores
              ? `${percent(evaluation.scores.overall)}${interval(evaluation.scores.overall_interval95)}`
              : "–",
          ],
          ["Benchmark", `${evaluation.benchmark}, ${evaluation.prompts} of ${evaluation.benchmark_prompts} prompts`],
          [
            "Checkpoint",
            `${evaluation.model}, ${evaluation.checkpoint === "base" ? "base" : shortId(evaluation.checkpoint)}`,
          ],
          ["Judge", evaluation.judge ?? "none"],
          ["Answers", `${evaluation.judged} judged, ${evaluation.failed} failed`],
          .../** @type {[string, any][]} */ (Object.entries(evaluation.rewards).map((
            [name, row],
          ) => [
            name,
            `${number(row.mean)}${
              row.interval95 ? ` (95% interval ${number(row.interval95[0])} to ${number(row.interval95[1])})` : ""
            }`,
          ])),
          ["Duration", duration(evaluation.seconds_used)],
          ["Created", dateTime(evaluation.created_at)],
          ["Id", h("code", {}, id)],
        ]),
      ),
    );

  const drawBody = () =>
    fill(
      body,
      tabs(
        [
          ["Dimensions", () => dimensions(evaluation, other)],
          ["Test points", () => points(id, evaluation, signal)],
          ["Comparison", () => comparison(evaluation, params.get("with"), signal, setParams)],
        ],
        params.get("tab") ?? (other ? "Comparison" : "Dimensions"),
        (tab) => setParams({ tab }),
      ),
    );

  drawHead();
  drawBody();
  if (!ACTIVE.has(evaluation.status)) return;
  follow(`evaluations/${id}/events?every=3`, async ({ event, data }) => {
    if (event === "progress") {
      Object.assign(evaluation, { status: data.status, progress: data.progress, eta_seconds: data.eta_seconds });
      drawHead();
    }
    if (event === "end") {
      evaluation = await api(`evaluations/${id}`, { signal });
      drawHead();
      drawBody();
    }
  }, { signal, after: Number.MAX_SAFE_INTEGER });
}

/** @param {[number, number] | null | undefined} range */
const interval = (range) => (range ? ` (95% interval ${percent(range[0])} to ${percent(range[1])})` : "");

/** @param {any} evaluation @param {any} other */
function dimensions(evaluation, other) {
  if (!evaluation.scores) return empty("There are no scores yet.");
  const both = [evaluation, other].filter((one) => one?.scores);
  const chart = (/** @type {"primary" | "sub"} */ level, /** @type {string} */ title) => {
    const labels = Object.keys(evaluation.scores[level]);
    return bars({
      title,
      labels,
      max: 1,
      format: (value) => percent(value),
      series: both.map((one) => ({
        name: one.name || shortId(one.id),
        values: labels.map((label) => one.scores[level][label]?.accuracy ?? null),
        intervals: labels.map((label) => one.scores[level][label]?.interval95 ?? null),
      })),
    });
  };
  return h(
    "div",
    { class: "grid" },
    h("div", { class: "card" }, chart("primary", "Dimensions, with 95% intervals")),
    h("div", { class: "card" }, chart("sub", "Sub-dimensions")),
  );
}

/** @param {string} id @param {any} evaluation @param {AbortSignal} signal */
function points(id, evaluation, signal) {
  const filters = { met: "false", dimension: "" };
  const list = h("div", { class: "grid" });
  /** @type {string | null} */
  let cursor = null;
  const more = h("button", { type: "button", hidden: true, onclick: () => load(true) }, "Show more");
  async function load(next = false) {
    try {
      const answers = await api(
        `evaluations/${id}/answers${query({ ...filters, limit: 24, cursor: next ? cursor : null })}`,
        { signal },
      );
      cursor = answers.next_cursor;
      more.hidden = !cursor;
      const cards = answers.items.map(card);
      if (next) list.append(...cards);
      else fill(list, cards.length ? cards : empty("No test point matches the filters."));
    } catch (error) {
      if (!signal.aborted) fill(list, errorBox(error, load));
    }
  }
  /** @param {any} answer */
  function card(answer) {
    const open = () =>
      showImage(answer.image_url, answer.prompt, [["Image", `${answer.name}, number ${answer.image_index}`], [
        "Judge's answer",
        h("pre", {}, answer.text ?? answer.error ?? "–"),
      ]]);
    return h(
      "article",
      { class: "card" },
      h(
        "div",
        { class: "answer" },
        h("button", { type: "button", class: "tile", onclick: open }, lazyImage(answer.image_url, answer.prompt)),
        h(
          "div",
          {},
          h("p", { class: "strong" }, answer.prompt),
          answer.failure && h("p", { class: "warning" }, `No verdict: ${answer.failure}`),
          h(
            "ul",
            {},
            answer.points.map((/** @type {any} */ point) =>
              h(
                "li",
                {},
                h(
                  "span",
                  { class: `badge ${point.score === 1 ? "ok" : point.score === 0 ? "failed" : ""}` },
                  point.score === 1 ? "met" : point.score === 0 ? "not met" : "no verdict",
                ),
                ` ${point.dimension}: ${point.description || point.name}`,
              )
            ),
          ),
        ),
      ),
      answer.text && h("details", {}, h("summary", {}, "The judge's words"), h("pre", {}, answer.text)),
    );
  }
  load();
  const labels = Object.keys(evaluation.scores?.primary ?? {});
  return h(
    "div",
    { class: "stack" },
    h(
      "div",
      { class: "filters" },
      field(
        "Verdict",
        select([["false", "Not met"], ["true", "Met"], ["", "All"]], filters.met, (value) => {
          filters.met = value;
          load();
        }),
      ),
      field(
        "Dimension",
        select(
          [["", "All"], .../** @type {[string, string][]} */ (labels.map((label) => [label, label]))],
          "",
          (value) => {
            filters.dimension = value;
            load();
          },
        ),
      ),
    ),
    list,
    more,
  );
}

/** @param {any} evaluation @param {string | null} second @param {AbortSignal} signal @param {(values: Record<string, unknown>) => void} setParams */
function comparison(evaluation, second, signal, setParams) {
  const content = h("div", {});
  const chooser = h("div", {});
  const load = (/** @type {string} */ id) =>
    section(fill(content), signal, () => api(`evaluations/${evaluation.id}/comparison/${id}`, { signal }), (result) => {
      const rows = [
        ["Overall", result.scores?.overall],
        ...Object.entries(result.scores?.primary ?? {}),
        ...Object.entries(result.rewards),
      ].filter(([, row]) => row);
      return [
        ...result.warnings.map((/** @type {string} */ text) => h("p", { class: "warning" }, text)),
        h("p", {}, `Difference: ${result.second.label} minus ${result.first.label}, paired by prompt.`),
        table(
          "Paired differences",
          ["Dimension", "Difference", "95% interval", "Wins", "Ties", "Losses"],
          rows.map((
            [name, row],
          ) => [
            name,
            signed(row.difference),
            row.interval95 ? `${signed(row.interval95[0])} to ${signed(row.interval95[1])}` : "–",
            String(row.wins),
            String(row.ties),
            String(row.losses),
          ]),
        ),
        h(
          "div",
          { class: "actions" },
          actionButton(
            "Gallery of differences (PNG)",
            () => download(`evaluations/${evaluation.id}/gallery${query({ with: id })}`, "gallery.png", "image/png"),
          ),
        ),
      ];
    });
  section(
    chooser,
    signal,
    () => all("evaluations", { benchmark: evaluation.benchmark }, { signal, limit: 200 }),
    (rows) =>
      field(
        "Compare with",
        select(
          [
            ["", "Choose an evaluation …"],
            .../** @type {[string, string][]} */ (rows.filter((row) =>
              row.id !== evaluation.id && row.status === "succeeded"
            ).map((row) => [row.id, `${row.name || `Evaluation ${shortId(row.id)}`} (${percent(row.overall)})`])),
          ],
          second ?? "",
          (id) => {
            setParams({ with: id });
            if (id) load(id);
          },
        ),
      ),
  );
  if (second) load(second);
  return h("div", { class: "stack" }, chooser, content);
}
