// Compare runs and groups of seeds: curves over each other, and held-out images side by side.

import { all, api, download, query } from "../api.js";
import { lineChart } from "../chart.js";
import { actionButton, empty, field, lazyImage, section, select, table } from "../components.js";
import { fill, h } from "../dom.js";
import { compareImages } from "../image_pair.js";
import { metricTitle, number, shortId, signed } from "../format.js";

/** @param {HTMLElement} root @param {import("../app.js").Route} route */
export async function page(root, { params, signal, setParams }) {
  const view = {
    x: params.get("x") ?? "step",
    band: params.get("band") ?? "ci95",
    smooth: params.get("smooth") ?? "0",
    metric: params.getAll("metric").length ? params.getAll("metric") : ["heldout/*", "reward/*"],
    grouped: params.get("grouped") === "1",
  };
  const runs = new Set(params.getAll("run"));
  const known = await all("runs", {}, { signal, limit: 200 });
  const named = new Map(known.map((run) => [run.id, run.name || `Run ${shortId(run.id)}`]));
  const charts = h("div", { class: "grid" });
  const images = h("div", {});
  const summary = h("div", {});
  const chosen = h("div", { class: "actions" });
  const warnings = h("div", {});

  /** The query of the comparison; runs of the same algorithm form a group of seeds if requested. */
  function selection() {
    const ids = [...runs];
    if (!view.grouped) return { run: ids };
    /** @type {Map<string, string[]>} */
    const groups = new Map();
    for (const id of ids) {
      const name = known.find((run) => run.id === id)?.algorithm ?? "runs";
      groups.set(name, [...(groups.get(name) ?? []), id]);
    }
    return { group: [...groups].map(([name, members]) => `${name}:${members.join(",")}`) };
  }
  const request = () =>
    `curves${query({ ...selection(), metric: view.metric, x: view.x, band: view.band, smooth: view.smooth })}`;

  function changed() {
    setParams({
      run: [...runs],
      x: view.x === "step" ? null : view.x,
      band: view.band === "ci95" ? null : view.band,
      smooth: view.smooth === "0" ? null : view.smooth,
      grouped: view.grouped ? 1 : null,
    });
    load();
  }

  function load() {
    fill(
      chosen,
      [...runs].map((id) =>
        h("button", {
          type: "button",
          title: "Remove",
          onclick: () => {
            runs.delete(id);
            changed();
          },
        }, `${named.get(id) ?? shortId(id)} ✕`)
      ),
    );
    if (!runs.size) {
      fill(charts, empty("No run is selected.", "Add a run above, or select runs in the list of runs."));
      fill(images);
      fill(summary);
      return;
    }
    section(fill(charts), signal, () => api(request(), { signal }), (comparison) => {
      fill(warnings, comparison.warnings.map((/** @type {string} */ text) => h("p", { class: "warning" }, text)));
      const metrics = [...new Set(comparison.series.map((/** @type {any} */ series) => series.metric))];
      if (!metrics.length) return empty("The selected runs have no common metrics yet.");
      return metrics.map((metric) => {
        const element = h("div", {});
        const series = comparison.series.filter((/** @type {any} */ row) => row.metric === metric).map((
          /** @type {any} */ row,
        ) => ({ name: row.name, x: row.x, y: row.values, low: row.low, high: row.high }));
        lineChart(element, { title: metricTitle(/** @type {string} */ (metric)), xLabel: comparison.unit, series });
        return element;
      });
    });
    const ended = known.filter((run) => runs.has(run.id) && run.heldout);
    fill(
      summary,
      ended.length
        ? table(
          "Held-out rewards before and after training",
          ["Run", "Reward", "Before", "After", "Difference", "95% interval", "Pairs"],
          ended.flatMap((run) =>
            Object.entries(run.heldout).map((
              [name, row],
            ) => [
              h("a", { href: `#/run/${run.id}` }, named.get(run.id)),
              name,
              number(row.before),
              number(row.after),
              signed(row.difference),
              `${signed(row.interval95[0])} to ${signed(row.interval95[1])}`,
              String(row.pairs),
            ])
          ),
        )
        : null,
    );
    section(
      fill(images),
      signal,
      () =>
        Promise.all(
          [...runs].slice(0, 6).map(async (
            id,
          ) => /** @type {[string, any[]]} */ ([id, await all(`runs/${id}/samples`, { kind: "heldout" }, { signal })])),
        ),
      sideBySide,
    );
  }

  /** @param {[string, any[]][]} loaded ids of runs and their held-out images */
  function sideBySide(loaded) {
    const filled = loaded.filter(([, samples]) => samples.length);
    if (!filled.length) return empty("The selected runs have no held-out images yet.");
    // The first run's images before training, then the newest images of each run.
    const columns = filled.flatMap(([id, samples], position) => {
      const steps = samples.map((sample) => sample.step);
      const shown = position === 0 ? [Math.min(...steps), Math.max(...steps)] : [Math.max(...steps)];
      return shown.map((step) => ({
        label: `${named.get(id)}, step ${step}`,
        at: new Map(samples.filter((sample) => sample.step === step).map((sample) => [sample.prompt, sample])),
      }));
    });
    const prompts = [...new Set(filled.flatMap(([, samples]) => samples.map((sample) => sample.prompt)))];
    const rows = prompts.map((prompt) => {
      const found = columns.filter(({ at }) => at.has(prompt));
      const images = found.map(({ at, label }) => ({ path: at.get(prompt).image, label }));
      return [
        h(
          "div",
          {},
          prompt,
          h("br"),
          images.length > 1 &&
            h("button", { type: "button", onclick: () => compareImages(prompt, images) }, "Swipe or flicker"),
        ),
        ...columns.map(({ at, label }) => {
          const sample = at.get(prompt);
          if (!sample) return "–";
          const rewards = Object.values(sample.rewards).map((value) => number(value, 3)).join(" · ");
          return h(
            "figure",
            {},
            lazyImage(sample.image, `${prompt}, ${label}`),
            h("figcaption", { class: "muted" }, rewards),
          );
        }),
      ];
    });
    return table("Held-out images side by side", ["Prompt", ...columns.map(({ label }) => label)], rows);
  }

  const adder = select(
    [
      ["", "Add a run …"],
      .../** @type {[string, string][]} */ (known.map((
        run,
      ) => [run.id, `${named.get(run.id)} (${run.algorithm}, ${run.status})`])),
    ],
    "",
    (value) => {
      if (value) {
        runs.add(value);
        adder.value = "";
        changed();
      }
    },
  );
  const save = (/** @type {string} */ suffix, /** @type {string} */ type) =>
    actionButton(suffix.toUpperCase(), () => download(request(), `comparison.${suffix}`, type));
  root.append(
    h(
      "div",
      { class: "head" },
      h("h1", {}, "Compare runs"),
      h(
        "div",
        { class: "actions" },
        save("png", "image/png"),
        save("svg", "image/svg+xml"),
        save("csv", "text/csv"),
        actionButton("Copy link", () => navigator.clipboard.writeText(location.href)),
      ),
    ),
    h(
      "div",
      { class: "filters" },
      field("Runs", adder),
      field(
        "x axis",
        select([["step", "Optimizer steps"], ["nfe", "NFE"], ["seconds", "Training seconds"]], view.x, (value) => {
          view.x = value;
          changed();
        }),
      ),
      field(
        "Band of groups",
        select(
          [["ci95", "95% interval of the mean"], ["std", "Standard deviation"], ["minmax", "Minimum to maximum"], [
            "none",
            "None",
          ]],
          view.band,
          (value) => {
            view.band = value;
            changed();
          },
        ),
      ),
      field(
        "Smoothing",
        select(["0", "0.5", "0.8", "0.9", "0.95"], view.smooth, (value) => {
          view.smooth = value;
          changed();
        }),
      ),
      h(
        "label",
        {},
        h("input", {
          type: "checkbox",
          checked: view.grouped,
          onchange: (/** @type {any} */ event) => {
            view.grouped = event.target.checked;
            changed();
          },
        }),
        " Group seeds by algorithm",
      ),
    ),
    chosen,
    warnings,
    charts,
    h("h2", {}, "Held-out rewards"),
    summary,
    h("h2", {}, "Held-out images"),
    images,
  );
  load();
}
