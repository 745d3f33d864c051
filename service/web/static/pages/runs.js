// The list of runs, with filters, live updates and selection for comparison.

import { api, query } from "../api.js";
import { ACTIVE, badge, empty, errorBox, field, progressBar, select } from "../components.js";
import { sparkline } from "../chart.js";
import { fill, h } from "../dom.js";
import { ago, dateTime, shortId, signed } from "../format.js";

const STATUSES = [
  "queued",
  "starting",
  "running",
  "pausing",
  "paused",
  "cancelling",
  "interrupted",
  "succeeded",
  "failed",
  "cancelled",
];
const REFRESH_MS = 15_000;

/** @param {HTMLElement} root @param {import("../app.js").Route} route */
export async function page(root, { params, signal, setParams }) {
  const selected = new Set(params.getAll("select"));
  const filters = {
    status: params.get("status") ?? "",
    algorithm: params.get("algorithm") ?? "",
    model: params.get("model") ?? "",
    label: params.get("label") ?? "",
  };
  let search = params.get("q") ?? "";
  /** @type {any[]} */
  let runs = [];
  /** @type {string | null} */
  let cursor = null;
  /** @type {Map<string, any>} */
  const sparks = new Map();

  const list = h("div", { "aria-live": "off" });
  const compare = h("a", { class: "button" }, "");
  const more = h("button", { type: "button", onclick: () => load(true) }, "Show more");

  const changed = () => {
    setParams({ ...filters, q: search, select: [...selected] });
    load();
  };
  const text = (/** @type {keyof typeof filters} */ name, /** @type {string} */ placeholder) =>
    h("input", {
      value: filters[name],
      placeholder,
      onchange: (/** @type {any} */ event) => {
        filters[name] = event.target.value.trim();
        changed();
      },
    });
  root.append(
    h(
      "div",
      { class: "head" },
      h("h1", {}, "Runs"),
      h("div", { class: "actions" }, compare, h("a", { class: "button primary", href: "#/new" }, "New run")),
    ),
    h(
      "div",
      { class: "filters" },
      field(
        "Search",
        h("input", {
          type: "search",
          value: search,
          placeholder: "Name or id",
          oninput: (/** @type {any} */ event) => {
            search = event.target.value;
            setParams({ q: search });
            draw();
          },
        }),
      ),
      field(
        "Status",
        select(
          [["", "All"], .../** @type {[string, string][]} */ (STATUSES.map((status) => [status, status]))],
          filters.status,
          (value) => {
            filters.status = value;
            changed();
          },
        ),
      ),
      field("Algorithm", text("algorithm", "g2rpo")),
      field("Model", text("model", "shapes-flux")),
      field("Label", text("label", "key:value")),
    ),
    list,
    more,
  );

  function draw() {
    compare.hidden = selected.size < 1;
    compare.textContent = `Compare ${selected.size} ${selected.size === 1 ? "run" : "runs"}`;
    compare.setAttribute("href", `#/compare${query({ run: [...selected] })}`);
    more.hidden = !cursor;
    const words = search.toLowerCase();
    const shown = runs.filter((run) => !words || `${run.name} ${run.id}`.toLowerCase().includes(words));
    if (!shown.length) {
      const filtered = words || Object.values(filters).some(Boolean);
      fill(
        list,
        filtered ? empty("No run matches the filters.", "Remove a filter to see more runs.") : empty(
          "There are no runs yet.",
          h("a", { href: "#/new" }, "Start the first run"),
          " – the preset “shapes” takes a few minutes on a laptop.",
        ),
      );
      return;
    }
    fill(list, h("ul", { class: "cards" }, shown.map(card)));
  }

  /** @param {any} run */
  function card(run) {
    const heldout = Object.entries(run.heldout ?? {})[0];
    const name = run.name || `Run ${shortId(run.id)}`;
    return h(
      "li",
      { class: "card run" },
      h("input", {
        type: "checkbox",
        checked: selected.has(run.id),
        "aria-label": `Select ${name} for comparison`,
        onchange: (/** @type {any} */ event) => {
          event.target.checked ? selected.add(run.id) : selected.delete(run.id);
          setParams({ select: [...selected] });
          draw();
        },
      }),
      h("div", { class: "title" }, h("a", { href: `#/run/${run.id}` }, name), badge(run.status)),
      h(
        "div",
        { class: "muted" },
        `${run.algorithm} · ${run.model} · `,
        h("time", { datetime: run.created_at, title: dateTime(run.created_at) }, ago(run.created_at)),
      ),
      h("div", { class: "spark" }, sparks.has(run.id) ? sparkline(sparks.get(run.id)) : null),
      progressBar(run),
      h(
        "div",
        { class: "muted" },
        heldout ? `${heldout[0]} ${signed(heldout[1].difference)}` : run.error ? run.error.code : "",
      ),
      h(
        "div",
        { class: "labels" },
        Object.entries(run.labels).map(([key, value]) => h("span", { class: "label" }, `${key}:${value}`)),
      ),
    );
  }

  async function load(next = false) {
    try {
      const page = await api(`runs${query({ ...filters, limit: 50, cursor: next ? cursor : null })}`, { signal });
      const kept = next ? runs : runs.slice(page.items.length ? 50 : 0);
      runs = next ? [...runs, ...page.items] : [...page.items, ...(runs.length > 50 ? kept : [])];
      if (next || runs.length <= 50) cursor = page.next_cursor;
      draw();
      loadSparks(runs.filter((run) => !sparks.has(run.id) || ACTIVE.has(run.status)).slice(0, 16));
    } catch (error) {
      if (!signal.aborted) fill(list, errorBox(error, load));
    }
  }

  /** Load the held-out curves of several runs with one request. @param {any[]} some */
  async function loadSparks(some) {
    if (!some.length) return;
    const comparison = await api(
      `curves${query({ run: some.map((run) => run.id), metric: "heldout/*", max_points: 40 })}`,
      { signal },
    ).catch(() => null);
    for (const run of some) {
      sparks.set(
        run.id,
        comparison?.series.find((/** @type {any} */ series) => series.runs[0] === run.id) ?? null,
      );
    }
    if (!signal.aborted) draw();
  }

  await load();
  const timer = setInterval(() => {
    if (!document.hidden && runs.some((run) => ACTIVE.has(run.status))) load();
  }, REFRESH_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
}
