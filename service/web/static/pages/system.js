// The system: health, workers, queue, prompt sets, API keys and the catalog.

import { all, api, apiKey, send } from "../api.js";
import { actionButton, badge, confirm, definitions, empty, field, section, table, tabs } from "../components.js";
import { fill, h } from "../dom.js";
import { ago, bytes, dateTime, number } from "../format.js";

/** @param {HTMLElement} root @param {import("../app.js").Route} route */
export function page(root, { params, signal, setParams }) {
  root.append(
    h("h1", {}, "System"),
    tabs(
      [
        ["Health", () => health(signal)],
        ["Prompt sets", () => promptSets(signal)],
        ["API keys", () => keys(signal)],
        ["Catalog", () => catalog(signal)],
      ],
      params.get("tab") ?? "Health",
      (tab) => setParams({ tab }),
    ),
  );
}

/** @param {AbortSignal} signal */
function health(signal) {
  const checks = h("div", {});
  const workers = h("div", {});
  const queue = h("div", {});
  const load = () => {
    section(
      checks,
      signal,
      () =>
        api("readyz", { signal }).catch((error) => {
          if (error.problem?.checks) return error.problem;
          throw error;
        }),
      (ready) =>
        h(
          "ul",
          { class: "plain" },
          ready.checks.map((/** @type {any} */ check) =>
            h(
              "li",
              {},
              h("span", { class: `badge ${check.ok ? "ok" : "failed"}` }, check.ok ? "ok" : "failed"),
              ` ${check.name}: ${check.detail}`,
              check.hint && h("p", { class: "warning" }, check.hint),
            )
          ),
        ),
    );
    section(
      workers,
      signal,
      () => api("catalog", { signal }),
      ({ workers: rows }) =>
        rows.length
          ? table(
            "Workers",
            ["Worker", "Queue", "Device", "Started", "Last heartbeat"],
            rows.map((
              /** @type {any} */ row,
            ) => [row.name, row.queue, row.device, dateTime(row.started_at), ago(row.heartbeat_at)]),
          )
          : empty(
            "No worker is running.",
            "Jobs wait until a worker starts. On this machine, g2rpo up starts workers.",
          ),
    );
    section(queue, signal, async () => gauges(await (await send("metrics", { signal })).text()), (rows) =>
      definitions([
        ["Waiting runs", number(rows.get('g2rpo_queue_depth{kind="run"}'))],
        ["Waiting generations", number(rows.get('g2rpo_queue_depth{kind="generation"}'))],
        ["Waiting evaluations", number(rows.get('g2rpo_queue_depth{kind="evaluation"}'))],
        ["Open event streams", number(rows.get("g2rpo_event_streams"))],
        ["Checkpoints", `${number(rows.get("g2rpo_checkpoints"))}, ${bytes(rows.get("g2rpo_checkpoint_bytes"))}`],
        .../** @type {[string, any][]} */ ([...rows].filter(([name]) =>
          name.startsWith("g2rpo_worker_memory_total_bytes") || name.startsWith("g2rpo_worker_gpu_memory") ||
          name.startsWith("g2rpo_worker_data_free")
        ).map((
          [name, value],
        ) => [name.replace("g2rpo_worker_", "").replace("_bytes", "").replaceAll("_", " "), bytes(value)])),
      ]));
  };
  load();
  const timer = setInterval(() => {
    if (!document.hidden) load();
  }, 60_000);
  signal.addEventListener("abort", () => clearInterval(timer));
  return h(
    "div",
    { class: "stack" },
    h("h2", {}, "Health"),
    checks,
    h("h2", {}, "Workers"),
    workers,
    h("h2", {}, "Queue and storage"),
    queue,
  );
}

/** Parse metrics in the Prometheus text format. @param {string} text @returns {Map<string, number>} */
const gauges = (text) =>
  new Map(
    text.split("\n").filter((line) => line && !line.startsWith("#")).map((line) => {
      const at = line.lastIndexOf(" ");
      return [line.slice(0, at), Number(line.slice(at + 1))];
    }),
  );

/** @param {AbortSignal} signal */
function promptSets(signal) {
  const list = h("div", {});
  const load = () =>
    section(
      list,
      signal,
      () => all("prompt-sets", {}, { signal }),
      (rows) =>
        table(
          "Prompt sets",
          ["Name", "Origin", "Prompts", "Description", "Created", ""],
          rows.map((
            row,
          ) => [
            row.name,
            row.origin,
            number(row.prompts),
            row.description,
            dateTime(row.created_at),
            row.origin === "uploaded" && actionButton("Delete", async () => {
              if (await confirm("Delete the prompt set?", `${row.name} can no longer be used by new runs.`, "Delete")) {
                await api(`prompt-sets/${encodeURIComponent(row.name)}`, { method: "DELETE" });
                load();
              }
            }, { class: "danger" }),
          ]),
        ),
    );
  const name = h("input", { required: true, pattern: "[A-Za-z0-9._-]+" });
  const file = h("input", { type: "file", required: true, accept: ".txt,.csv,.jsonl" });
  load();
  return h(
    "div",
    { class: "stack" },
    list,
    h(
      "section",
      { class: "card" },
      h("h2", {}, "Upload a prompt set"),
      h(
        "div",
        { class: "filters" },
        field("Name", name),
        field("File: one prompt per line, CSV or JSON lines", file),
        actionButton("Upload", async () => {
          const chosen = file.files?.[0];
          if (!chosen) throw new Error("Choose a file.");
          const type = chosen.name.endsWith(".csv")
            ? "text/csv"
            : chosen.name.endsWith(".jsonl")
            ? "application/x-ndjson"
            : "text/plain";
          await send(`prompt-sets?name=${encodeURIComponent(name.value)}`, {
            method: "POST",
            body: chosen,
            headers: { "Content-Type": type },
          });
          load();
        }, { class: "primary" }),
      ),
    ),
  );
}

/** @param {AbortSignal} signal */
function keys(signal) {
  const list = h("div", {});
  const created = h("div", {});
  const load = () =>
    section(
      list,
      signal,
      () => all("keys", {}, { signal }),
      (rows) =>
        rows.length
          ? table(
            "API keys",
            ["Name", "Prefix", "Scopes", "State", "Created", "Last used", "Expires", ""],
            rows.map((
              row,
            ) => [
              row.name,
              h("code", {}, row.prefix),
              row.scopes.join(", "),
              badge(row.state),
              dateTime(row.created_at),
              ago(row.last_used_at),
              dateTime(row.expires_at),
              row.state === "active" && actionButton("Revoke", async () => {
                if (await confirm("Revoke the key?", `${row.name} stops working at once.`, "Revoke")) {
                  await api(`keys/${row.id}`, { method: "DELETE" });
                  load();
                }
              }, { class: "danger" }),
            ]),
          )
          : empty(
            "There are no API keys.",
            "Only this machine can use the service. Once the first key exists, every request needs a key.",
          ),
    );
  const name = h("input", { required: true });
  const scopes = ["read", "write", "admin"].map((
    scope,
  ) => [scope, h("input", { type: "radio", name: "scope", value: scope, checked: scope === "read" })]);
  load();
  return h(
    "div",
    { class: "stack" },
    list,
    h(
      "section",
      { class: "card" },
      h("h2", {}, "Create a key"),
      h(
        "div",
        { class: "filters" },
        field("Name", name),
        h(
          "fieldset",
          {},
          h("legend", {}, "Scope"),
          scopes.map(([scope, input]) => h("label", {}, input, ` ${scope} `)),
        ),
        actionButton("Create", async () => {
          const scope = scopes.find(([, input]) => /** @type {any} */ (input).checked)?.[0];
          const key = await api("keys", { method: "POST", body: { name: name.value, scopes: [scope] } });
          fill(
            created,
            h(
              "div",
              { class: "warning" },
              h("p", {}, "Copy the key now. It is shown only once."),
              h("pre", {}, key.key),
              actionButton("Copy", () => navigator.clipboard.writeText(key.key)),
            ),
          );
          if (apiKey()) load();
          else {fill(
              list,
              empty(
                "The first key exists.",
                "Every request needs a key from now on: ",
                h("a", { href: "#/login" }, "log in"),
              ),
            );}
        }, { class: "primary" }),
      ),
      created,
    ),
  );
}

/** @param {AbortSignal} signal */
function catalog(signal) {
  const content = h("div", { class: "stack" });
  section(content, signal, () => api("catalog", { signal }), (entries) => [
    h("h2", {}, "Models"),
    table(
      "Models",
      ["Name", "Family", "Parameters", "Image size (pixels)", "Description"],
      entries.models.map((
        /** @type {any} */ row,
      ) => [row.name, row.family, number(row.parameters), `${row.width} × ${row.height}`, row.description]),
    ),
    h("h2", {}, "Algorithms"),
    table(
      "Algorithms",
      ["Name", "Description"],
      entries.algorithms.map((/** @type {any} */ row) => [row.name, row.description]),
    ),
    h("h2", {}, "Rewards"),
    table(
      "Rewards",
      ["Name", "Kind", "Scale", "Description"],
      entries.rewards.map((/** @type {any} */ row) => [row.name, row.kind, row.scale, row.description]),
    ),
    h("h2", {}, "Judges"),
    table(
      "Judges",
      ["Name", "Kind", "Description"],
      entries.judges.map((/** @type {any} */ row) => [row.name, row.kind, row.description]),
    ),
    h("h2", {}, "Presets"),
    table(
      "Presets",
      ["Name", "Model", "Algorithm", "Optimizer steps", ""],
      Object.entries(entries.presets).map((
        [name, spec],
      ) => [
        name,
        spec.model,
        spec.algorithm.name,
        number(spec.training.max_steps),
        h("a", { class: "button", href: `#/new?preset=${name}` }, "Use"),
      ]),
    ),
  ]);
  return content;
}
