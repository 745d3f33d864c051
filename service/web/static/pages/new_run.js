// Configure and start a run, with its plan beside the form.

import { api } from "../api.js";
import { bars } from "../chart.js";
import { actionButton, definitions, errorBox, field, select, tabs } from "../components.js";
import { fill, h } from "../dom.js";
import { bytes, duration, number } from "../format.js";

/** @typedef {{path: string, label: string, kind: "text" | "integer" | "number" | "choice", options?: string[], hint?: string}} Control */

/** @param {HTMLElement} root @param {import("../app.js").Route} route */
export async function page(root, { params, signal, setParams }) {
  const catalog = await api("catalog", { signal });
  const original = params.get("clone") ? await api(`runs/${params.get("clone")}`, { signal }) : null;
  let preset = params.get("preset") ?? "shapes";
  /** Fields that differ from the preset or from the cloned run, by path. @type {Map<string, any>} */
  const changes = new Map();
  const base = () => original?.spec ?? catalog.presets[preset];
  const value = (
    /** @type {string} */ path,
  ) => (changes.has(path)
    ? changes.get(path)
    : path.split(".").reduce((/** @type {any} */ node, key) => node?.[key], base()));

  const fields = h("div", {});
  const plan = h("div", { "aria-live": "polite" });
  const code = h("div", {});
  const errors = h("div", {});
  let timer = 0;

  /** @returns {Record<string, any>} */
  function overrides() {
    /** @type {Record<string, any>} */
    const spec = {};
    for (const [path, changed] of changes) {
      const keys = path.split(".");
      const last = /** @type {string} */ (keys.pop());
      /** @type {any} */
      let node = spec;
      for (const key of keys) node = node[key] ??= {};
      node[last] = changed;
    }
    return spec;
  }
  const body = () => (original ? overrides() : { preset, ...overrides() });
  /** The complete spec, for the plan of a clone. */
  function complete() {
    const spec = structuredClone(original.spec);
    for (const [path, changed] of changes) {
      const keys = path.split(".");
      const last = /** @type {string} */ (keys.pop());
      keys.reduce((/** @type {any} */ node, key) => node[key], spec)[last] = changed;
    }
    return spec;
  }

  /** @param {string} path @param {any} changed */
  function set(path, changed) {
    const initial = path.split(".").reduce((/** @type {any} */ node, key) => node?.[key], base());
    if (JSON.stringify(changed) === JSON.stringify(initial)) changes.delete(path);
    else changes.set(path, changed);
    update();
  }

  function update() {
    drawCode();
    clearTimeout(timer);
    timer = setTimeout(drawPlan, 350);
  }

  async function drawPlan() {
    try {
      const result = await api("plans", { method: "POST", body: original ? complete() : body(), signal });
      fill(errors);
      fill(plan, planView(result, catalog));
    } catch (error) {
      if (!signal.aborted) fill(errors, errorBox(error));
    }
  }

  function drawCode() {
    const spec = body();
    const json = JSON.stringify(spec, null, 2);
    const sets = [...changes].filter(([, changed]) => typeof changed !== "object").map(([path, changed]) =>
      ` \\\n  --set ${shellQuote(`${path}=${changed}`)}`
    ).join("");
    const complex = [...changes.values()].some((changed) => typeof changed === "object");
    const url = location.origin + location.pathname.replace(/\/$/, "");
    const target = original ? `runs/${original.id}/clone` : "runs";
    const verb = original ? `clone ${original.id}` : "create";
    const cli = complex
      ? `g2rpo runs ${verb} --file - <<'EOF'\n${json}\nEOF`
      : `g2rpo runs ${verb}${original || preset === "shapes" ? "" : ` \\\n  --set preset=${preset}`}${sets}`;
    const python = original
      ? `client.clone("${original.id}", ${pythonLiteral(spec)})`
      : `client.create_run(${pythonLiteral(spec)})`;
    fill(
      code,
      tabs([
        [
          "curl",
          () =>
            h(
              "pre",
              {},
              `curl ${url}/${target} \\\n  -H 'Content-Type: application/json' \\\n  -d ${shellQuote(json)}`,
            ),
        ],
        ["CLI", () => h("pre", {}, cli)],
        [
          "Python",
          () => h("pre", {}, `from service.client import Client\n\nclient = Client("${url}")\nrun = ${python}`),
        ],
      ], "curl"),
    );
  }

  /** @param {Control} control */
  function input({ path, label, kind, options, hint }) {
    const current = value(path);
    if (kind === "choice") return field(label, select(options ?? [], String(current), (text) => set(path, text)));
    const element = h("input", {
      type: kind === "text" ? "text" : "number",
      step: kind === "integer" ? 1 : "any",
      value: current ?? "",
      title: hint,
      oninput: () => {
        if (kind === "text") set(path, element.value);
        else if (element.value !== "") set(path, Number(element.value));
      },
    });
    return field(label, element);
  }

  /** @param {string} path @param {string} label */
  function integers(path, label) {
    const element = h("input", {
      value: (value(path) ?? []).join(", "),
      inputmode: "numeric",
      onchange: () => set(path, element.value.split(/[\s,]+/).filter(Boolean).map(Number)),
    });
    return field(label, element);
  }

  function drawFields() {
    const algorithm = value("algorithm").name;
    const rewards = new Map(value("rewards").map((/** @type {any} */ reward) => [reward.name, reward.weight]));
    const setRewards = () => set("rewards", [...rewards].map(([name, weight]) => ({ name, weight })));
    fill(
      fields,
      original ? h("p", {}, `Clone of ${original.name || original.id}`) : field(
        "Preset",
        select(Object.keys(catalog.presets), preset, (name) => {
          preset = name;
          changes.clear();
          setParams({ preset });
          drawFields();
          update();
        }),
      ),
      input({ path: "name", label: "Name", kind: "text" }),
      h(
        "fieldset",
        {},
        h("legend", {}, "Model and algorithm"),
        h(
          "div",
          { class: "filters" },
          input({
            path: "model",
            label: "Model",
            kind: "choice",
            options: catalog.models.map((/** @type {any} */ model) => model.name),
          }),
          field(
            "Algorithm",
            select(catalog.algorithms.map((/** @type {any} */ one) => one.name), algorithm, (name) => {
              for (const path of [...changes.keys()]) if (path.startsWith("algorithm")) changes.delete(path);
              set("algorithm", name === base().algorithm.name ? base().algorithm : { name });
              drawFields();
            }),
          ),
          input({ path: "algorithm.group_size", label: "Group size", kind: "integer" }),
          input({ path: "algorithm.eta", label: "Noise level η", kind: "number" }),
          algorithm === "g2rpo" && integers("algorithm.sde_steps", "SDE steps"),
          algorithm === "g2rpo" && integers("algorithm.granularities", "Granularities"),
          input({ path: "sampling.steps", label: "Sampling steps", kind: "integer" }),
        ),
      ),
      h(
        "fieldset",
        {},
        h("legend", {}, "Rewards and weights"),
        catalog.rewards.map((/** @type {any} */ reward) => {
          const weight = h("input", {
            type: "number",
            step: "any",
            value: rewards.get(reward.name) ?? 1,
            "aria-label": `Weight of ${reward.name}`,
            onchange: () => {
              if (rewards.has(reward.name)) {
                rewards.set(reward.name, Number(weight.value));
                setRewards();
              }
            },
          });
          return h(
            "div",
            { class: "reward" },
            h(
              "label",
              {},
              h("input", {
                type: "checkbox",
                checked: rewards.has(reward.name),
                onchange: (/** @type {any} */ event) => {
                  event.target.checked ? rewards.set(reward.name, Number(weight.value)) : rewards.delete(reward.name);
                  setRewards();
                },
              }),
              ` ${reward.name}`,
            ),
            weight,
            h("span", { class: "muted" }, reward.description),
          );
        }),
      ),
      h(
        "fieldset",
        {},
        h("legend", {}, "Training"),
        h(
          "div",
          { class: "filters" },
          input({
            path: "prompts.set",
            label: "Prompt set",
            kind: "choice",
            options: catalog.prompt_sets.map((/** @type {any} */ one) => one.name),
          }),
          input({ path: "training.max_steps", label: "Optimizer steps", kind: "integer" }),
          input({ path: "training.prompts_per_step", label: "Prompts per step", kind: "integer" }),
          input({ path: "training.learning_rate", label: "Learning rate", kind: "number" }),
          input({ path: "training.seed", label: "Seed", kind: "integer" }),
          input({ path: "heldout.every", label: "Held-out evaluation every (steps)", kind: "integer" }),
          input({ path: "heldout.pairs", label: "Held-out pairs", kind: "integer" }),
          input({ path: "checkpoints.every", label: "Checkpoint every (steps)", kind: "integer" }),
        ),
      ),
      advanced(set),
    );
  }

  root.append(
    h(
      "div",
      { class: "head" },
      h("h1", {}, original ? "Clone a run" : "New run"),
      actionButton("Start the run", async () => {
        const run = await api(original ? `runs/${original.id}/clone` : "runs", {
          method: "POST",
          body: body(),
          headers: { "Idempotency-Key": crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` },
        });
        location.hash = `#/run/${run.id}`;
      }, { class: "primary" }),
    ),
    h(
      "div",
      { class: "columns" },
      h("div", { class: "card stack" }, fields),
      h(
        "div",
        { class: "stack" },
        h("section", { class: "card" }, h("h2", {}, "Plan"), errors, plan),
        h("section", { class: "card" }, h("h2", {}, "Equivalent request"), code),
      ),
    ),
  );
  drawFields();
  update();
}

/** A control that sets any field of the spec by its path. @param {(path: string, value: any) => void} set */
function advanced(set) {
  const path = h("input", { placeholder: "training.ema_decay" });
  const text = h("input", { placeholder: "0.999" });
  const apply = () => {
    let parsed;
    try {
      parsed = JSON.parse(text.value);
    } catch {
      parsed = text.value;
    }
    set(path.value.trim(), parsed);
  };
  return h(
    "details",
    {},
    h("summary", {}, "Set another field"),
    h(
      "div",
      { class: "filters" },
      field("Field", path),
      field("Value (JSON)", text),
      h("button", { type: "button", onclick: apply }, "Set"),
    ),
  );
}

/** @param {any} plan @param {any} catalog */
function planView(plan, catalog) {
  const workers = catalog.workers.filter((/** @type {any} */ worker) => worker.queue === "train");
  const memory = plan.memory?.phases.map((/** @type {any} */ phase) => [phase.phase, phase.total]) ?? [];
  return h(
    "div",
    {},
    definitions([
      ["NFE", number(plan.total_nfe)],
      ["NFE per step", `${number(plan.per_step_nfe)} (${number(plan.per_prompt.total)} per prompt)`],
      ["Shared computation saves", `${Math.round(100 * plan.saved_share)}% of the NFE`],
      ["Duration", plan.seconds === null ? "not known for this model" : duration(plan.seconds)],
      ["Basis", plan.seconds_basis],
      ["Images of groups", `at most ${bytes(plan.group_image_bytes)}`],
      ["Peak memory", plan.memory ? `${bytes(plan.memory.total)} in the phase ${plan.memory.peak}` : "not known"],
      [
        "Workers",
        workers.map((/** @type {any} */ worker) => worker.device).join(", ") ||
        "no training worker is running: the run waits",
      ],
    ]),
    plan.warnings.map((/** @type {string} */ text) => h("p", { class: "warning" }, text)),
    memory.length
      ? bars({
        title: "Memory by phase",
        labels: memory.map((/** @type {any} */ row) => row[0]),
        series: [{ name: "bytes", values: memory.map((/** @type {any} */ row) => row[1]) }],
        max: plan.memory.total,
        format: (value) => bytes(value),
      })
      : null,
  );
}

/** @param {string} text */
const shellQuote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** @param {any} value */
const pythonLiteral = (value) =>
  JSON.stringify(value, null, 4).replace(/\bnull\b/g, "None").replace(/\btrue\b/g, "True").replace(
    /\bfalse\b/g,
    "False",
  );
