// The group explorer of a run: rewards of a step by SDE step and granularity.

import { all } from "../api.js";
import { heatMap } from "../chart.js";
import { definitions, empty, field, lazyImage, loading, section, select, table } from "../components.js";
import { fill, h } from "../dom.js";
import { number, percent, signed } from "../format.js";
import { showSample } from "./run_samples.js";

/**
 * @param {string} id @param {any} run @param {URLSearchParams} params @param {AbortSignal} signal
 * @param {(values: Record<string, unknown>) => void} setParams
 */
export function groupsTab(id, run, params, signal, setParams) {
  const last = run.progress?.step ?? run.max_steps;
  let step = Number(params.get("step") ?? Math.max(1, last));
  const content = h("div", {});
  const input = h("input", {
    type: "number",
    min: 1,
    max: run.max_steps,
    value: step,
    onchange: () => {
      step = Number(input.value);
      setParams({ step });
      load();
    },
  });
  const load = () =>
    section(
      fill(content, loading()),
      signal,
      () => all(`runs/${id}/rewards`, { step }, { signal }),
      (groups) => (groups.length
        ? explorer(id, groups, signal)
        : empty(`There are no reward groups for step ${step}.`, "Choose a completed step.")),
    );
  load();
  return h(
    "div",
    { class: "stack" },
    h(
      "p",
      { class: "muted" },
      "The rewards of a step: each group holds the images that branch off one SDE step of one prompt, evaluated at one granularity.",
    ),
    h("div", { class: "filters" }, field("Optimizer step", input)),
    content,
  );
}

/** Explore the groups of a step: a heat map of SDE step × granularity, and the values of the selected group. @param {string} id @param {any[]} groups @param {AbortSignal} signal */
function explorer(id, groups, signal) {
  const unique = (/** @type {string} */ key) =>
    [...new Set(groups.map((group) => group[key]))].sort((
      a,
      b,
    ) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b))));
  const [rewards, prompts, steps, granularities] = [
    unique("reward"),
    unique("prompt_index"),
    unique("sde_step"),
    unique("granularity"),
  ];
  const prompt = new Map(groups.map((group) => [group.prompt_index, group.prompt]));
  const choice = { reward: rewards[0], prompt: prompts[0], measure: "mean", row: 0, column: 0 };
  const map = h("div", {});
  const detail = h("div", { class: "card" });
  const find = (/** @type {number} */ i, /** @type {number} */ j) =>
    groups.find((group) =>
      group.reward === choice.reward && group.prompt_index === choice.prompt && group.sde_step === steps[i] &&
      group.granularity === granularities[j]
    );
  function draw() {
    fill(
      map,
      heatMap({
        title: `${choice.measure === "mean" ? "Mean" : "Standard deviation"} of ${choice.reward}: “${
          prompt.get(choice.prompt)
        }”`,
        rows: steps.map(String),
        columns: granularities.map(String),
        rowLabel: "SDE step",
        columnLabel: "granularity",
        values: steps.map((_, i) => granularities.map((_, j) => find(i, j)?.[choice.measure] ?? null)),
        selected: [choice.row, choice.column],
        onselect: (row, column) => {
          Object.assign(choice, { row, column });
          draw();
        },
      }),
    );
    const group = find(choice.row, choice.column);
    if (!group) {
      fill(detail, empty("This group has no values."));
      return;
    }
    const images = h("div", {});
    fill(
      detail,
      h("h2", {}, `SDE step ${group.sde_step}, granularity ${group.granularity}`),
      definitions([
        ["Mean", number(group.mean)],
        ["Standard deviation", number(group.std)],
        ["Failures", group.failures],
        ["Zero spread", group.zero_std ? "yes: the group gives no gradient" : "no"],
      ]),
      images,
    );
    showImages(images, group);
  }

  /** Show the images of a group, best first, with their rewards and advantages. @param {HTMLElement} element @param {any} group */
  function showImages(element, group) {
    const { step, sde_step, granularity } = group;
    const advantage = (/** @type {number | null} */ value) =>
      group.std && value !== null ? signed((value - group.mean) / group.std) : "–";
    const order = group.values.map((/** @type {number | null} */ value, /** @type {number} */ index) => ({
      value,
      index,
    }))
      .sort((/** @type {any} */ a, /** @type {any} */ b) => (b.value ?? -Infinity) - (a.value ?? -Infinity));
    const filter = { kind: "group", step, sde_step, granularity };
    const load = () => (group.prompt_index === 0 ? all(`runs/${id}/samples`, filter, { signal }) : Promise.resolve([]));
    section(element, signal, load, (/** @type {any[]} */ samples) => {
      if (!samples.length) {
        return [
          table(
            "Values of the group",
            ["Image", "Reward", "Advantage of this reward"],
            order.map((/** @type {any} */ { value, index }) => [String(index), number(value), advantage(value)]),
          ),
          h("p", { class: "muted" }, "Images of groups are stored at held-out evaluations, for the first prompt."),
        ];
      }
      const images = new Map(samples.map((sample) => [sample.index % group.values.length, sample]));
      return h(
        "div",
        { class: "wall" },
        order.filter((/** @type {any} */ { index }) => images.has(index)).map((/** @type {any} */ { value, index }) => {
          const sample = images.get(index);
          return h(
            "figure",
            {},
            h(
              "button",
              { type: "button", class: "tile", onclick: () => showSample(sample) },
              lazyImage(sample.image, `Image ${index} of the group, ${group.reward} ${number(value, 3)}`),
            ),
            h("figcaption", {}, `${group.reward} ${number(value, 3)}`, h("br"), `advantage ${advantage(value)}`),
          );
        }),
      );
    });
  }
  draw();
  const zero = groups.filter((group) => group.zero_std).length;
  return h(
    "div",
    { class: "stack" },
    h("p", {}, `${groups.length} groups; ${zero} (${percent(zero / groups.length)}) have zero spread.`),
    h(
      "div",
      { class: "filters" },
      field(
        "Reward",
        select(rewards, choice.reward, (value) => {
          choice.reward = value;
          draw();
        }),
      ),
      field(
        "Prompt",
        select(
          prompts.map((index) => /** @type {[string, string]} */ ([String(index), prompt.get(index)])),
          String(choice.prompt),
          (value) => {
            choice.prompt = Number(value);
            draw();
          },
        ),
      ),
      field(
        "Value",
        select([["mean", "Mean"], ["std", "Standard deviation"]], choice.measure, (value) => {
          choice.measure = value;
          draw();
        }),
      ),
    ),
    h("div", { class: "columns" }, map, detail),
  );
}
