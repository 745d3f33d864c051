// The list of evaluations, and a form that starts one.

import { all, api, query } from "../api.js";
import { ACTIVE, badge, empty, errorBox, field, progressBar, section, select, table } from "../components.js";
import { fill, h } from "../dom.js";
import { ago, percent, shortId } from "../format.js";

/** @param {HTMLElement} root @param {import("../app.js").Route} route */
export async function page(root, { params, signal }) {
  const [catalog, benchmarks, checkpoints] = await Promise.all([
    api("catalog", { signal }),
    all("benchmarks", {}, { signal }),
    all("checkpoints", {}, { signal, limit: 500 }),
  ]);
  const list = h("div", {});
  const errors = h("div", {});
  const selected = new Set();
  const compare = h("a", { class: "button", hidden: true }, "Compare the two selected");
  const wanted = params.get("checkpoint");
  const spec = {
    name: "",
    model: checkpoints.find((row) => row.id === wanted)?.model ?? catalog.models[0].name,
    checkpoint: wanted ?? "base",
    benchmark: benchmarks[0]?.name ?? "",
    judge: catalog.judges[0]?.name ?? "",
    limit: "",
    num_images: "1",
  };
  const checkpointField = h("div", {});
  const drawCheckpoints = () =>
    fill(
      checkpointField,
      field(
        "Checkpoint",
        select(
          [
            ["base", "base (not aligned)"],
            .../** @type {[string, string][]} */ (checkpoints.filter((row) =>
              row.model === spec.model && !row.deleted_at
            ).map((row) => [row.id, `${row.name || `Run ${shortId(row.run_id ?? row.id)}`}, step ${row.step}`])),
          ],
          spec.checkpoint,
          (value) => {
            spec.checkpoint = value;
          },
        ),
      ),
    );
  const text = (
    /** @type {keyof typeof spec} */ name,
    /** @type {string} */ type = "text",
    /** @type {string} */ placeholder = "",
  ) =>
    h("input", {
      type,
      min: 1,
      value: spec[name],
      placeholder,
      oninput: (/** @type {any} */ event) => {
        spec[name] = event.target.value;
      },
    });
  const form = h(
    "form",
    {
      class: "stack",
      onsubmit: async (/** @type {Event} */ event) => {
        event.preventDefault();
        try {
          const evaluation = await api("evaluations", {
            method: "POST",
            body: {
              name: spec.name,
              model: spec.model,
              checkpoint: spec.checkpoint,
              benchmark: spec.benchmark,
              judge: spec.judge || null,
              num_images: Number(spec.num_images),
              ...(spec.limit ? { limit: Number(spec.limit) } : {}),
            },
          });
          location.hash = `#/evaluation/${evaluation.id}`;
        } catch (error) {
          fill(errors, errorBox(error));
        }
      },
    },
    h(
      "div",
      { class: "filters" },
      field("Name", text("name")),
      field(
        "Model",
        select(catalog.models.map((/** @type {any} */ one) => one.name), spec.model, (value) => {
          spec.model = value;
          spec.checkpoint = "base";
          drawCheckpoints();
        }),
      ),
      checkpointField,
      field(
        "Benchmark",
        select(benchmarks.map((row) => row.name), spec.benchmark, (value) => {
          spec.benchmark = value;
        }),
      ),
      field(
        "Judge",
        select(catalog.judges.map((/** @type {any} */ row) => row.name), spec.judge, (value) => {
          spec.judge = value;
        }),
      ),
      field("Prompts", text("limit", "number", "all")),
      field("Images per prompt", text("num_images", "number")),
    ),
    errors,
    h("div", { class: "actions" }, h("button", { class: "primary" }, "Start the evaluation")),
  );

  const load = () =>
    section(list, signal, () => api(`evaluations${query({ limit: 100 })}`, { signal }), ({ items }) => {
      if (items.some((/** @type {any} */ row) => ACTIVE.has(row.status))) {
        setTimeout(() => {
          if (!signal.aborted) load();
        }, 15_000);
      }
      return items.length
        ? table(
          "Evaluations",
          ["", "Name", "Status", "Progress", "Checkpoint", "Benchmark", "Overall", "Created"],
          items.map((/** @type {any} */ row) => [
            h("input", {
              type: "checkbox",
              "aria-label": `Select ${row.name || shortId(row.id)}`,
              checked: selected.has(row.id),
              onchange: (/** @type {any} */ event) => {
                event.target.checked ? selected.add(row.id) : selected.delete(row.id);
                const [a, b] = selected;
                compare.hidden = selected.size !== 2;
                compare.href = `#/evaluation/${a}?with=${b}`;
              },
            }),
            h("a", { href: `#/evaluation/${row.id}` }, row.name || `Evaluation ${shortId(row.id)}`),
            badge(row.status),
            progressBar(row),
            `${row.model}, ${row.checkpoint === "base" ? "base" : shortId(row.checkpoint)}`,
            row.benchmark,
            percent(row.overall),
            ago(row.created_at),
          ]),
        )
        : empty("There are no evaluations yet.", "Start one with the form above.");
    });
  root.append(
    h("div", { class: "head" }, h("h1", {}, "Evaluations"), compare),
    h("section", { class: "card" }, h("h2", {}, "New evaluation"), form),
    h("h2", {}, "Evaluations"),
    list,
  );
  drawCheckpoints();
  load();
}
