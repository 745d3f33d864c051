// The leaderboard of a benchmark, as in Table 2 of the paper's supplement, with published rows marked.

import { all, api, download, query } from "../api.js";
import { actionButton, empty, field, section, select, table } from "../components.js";
import { fill, h } from "../dom.js";
import { number } from "../format.js";

/** @param {HTMLElement} root @param {import("../app.js").Route} route */
export async function page(root, { params, signal, setParams }) {
  const benchmarks = await all("benchmarks", {}, { signal });
  const names = [...new Set([...benchmarks.map((row) => row.name), "shapes-bench"])];
  let benchmark = params.get("benchmark") ?? "shapes-bench";
  const content = h("div", { class: "stack" });
  const load = () => section(fill(content), signal, () => api(`leaderboard${query({ benchmark })}`, { signal }), show);
  const save = (/** @type {string} */ suffix, /** @type {string} */ type) =>
    actionButton(
      suffix.toUpperCase(),
      () => download(`leaderboard${query({ benchmark })}`, `leaderboard-${benchmark}.${suffix}`, type),
    );
  root.append(
    h(
      "div",
      { class: "head" },
      h("h1", {}, "Leaderboard"),
      h("div", { class: "actions" }, save("png", "image/png"), save("csv", "text/csv"), save("md", "text/markdown")),
    ),
    h(
      "div",
      { class: "filters" },
      field(
        "Benchmark",
        select(names, benchmark, (value) => {
          benchmark = value;
          setParams({ benchmark });
          load();
        }),
      ),
    ),
    content,
  );
  load();
}

/** @param {any} leaderboard */
function show({ rankings, columns, notes }) {
  const filled = rankings.filter((/** @type {any} */ ranking) => ranking.rows.length);
  if (!filled.length) {
    return empty("There are no results yet.", h("a", { href: "#/evaluations" }, "Start an evaluation"));
  }
  return [
    ...notes.map((/** @type {string} */ text) => h("p", { class: "warning" }, text)),
    ...filled.map((/** @type {any} */ ranking) =>
      h(
        "section",
        {},
        h("h2", {}, `Judged by ${ranking.judge} (${ranking.protocol})`),
        ranking.notes.map((/** @type {string} */ text) => h("p", { class: "muted" }, text)),
        table(
          `Ranking of ${ranking.judge}`,
          ["Model", "Source", ...columns],
          ranking.rows.map((/** @type {any} */ row) => [
            row.evaluation_id ? h("a", { href: `#/evaluation/${row.evaluation_id}` }, row.model) : row.model,
            h("span", { class: `badge ${row.kind === "evaluated" ? "ok" : ""}`, title: row.source }, row.kind),
            ...columns.map((/** @type {string} */ column) => {
              const value = number(row.values[column], 4);
              const interval = row.intervals95[column];
              const range = interval
                ? h(
                  "div",
                  { class: "muted" },
                  `${number(interval[0])} to ${number(interval[1])}`,
                )
                : null;
              return h(
                "span",
                {},
                row.clearly_best.includes(column)
                  ? h("strong", { title: "best by more than the 95% intervals" }, value)
                  : row.marks[column] === "second"
                  ? h("u", { title: "second" }, value)
                  : value,
                range,
              );
            }),
          ]),
        ),
      )
    ),
  ];
}
