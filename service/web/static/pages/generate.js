// Generate images from checkpoints, compare them in a grid, and score them.

import { all, api, download, query } from "../api.js";
import {
  actionButton,
  ACTIVE,
  badge,
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
  toast,
} from "../components.js";
import { fill, h } from "../dom.js";
import { compareImages } from "../image_pair.js";
import { ago, bytes, number, shortId } from "../format.js";

/** @param {HTMLElement} root @param {import("../app.js").Route} route */
export async function page(root, { parts: [id], params, signal }) {
  const catalog = await api("catalog", { signal });
  const checkpoints = (await all("checkpoints", {}, { signal, limit: 500 })).filter((row) => !row.deleted_at);
  const chosen = new Set(params.getAll("checkpoint").length ? params.getAll("checkpoint") : ["base"]);
  const first = checkpoints.find((row) => chosen.has(row.id));
  let model = params.get("model") ?? first?.model ?? catalog.models[0].name;
  const errors = h("div", {});
  const result = h("div", {});
  const boxes = h("fieldset", {});
  const prompts = h(
    "textarea",
    { rows: 4, required: true },
    params.get("prompts") ?? "a red circle left of a blue square\na large green triangle",
  );
  const numeric = (
    /** @type {string} */ name,
    /** @type {string | number} */ value,
    /** @type {string} */ placeholder = "",
  ) => h("input", { type: "number", step: "any", min: 0, name, value, placeholder });
  const inputs = {
    num_images: numeric("num_images", 2),
    seed: numeric("seed", params.get("seed") ?? 0),
    steps: numeric("steps", "", "default"),
    guidance: numeric("guidance", "", "default"),
    width: numeric("width", "", "default"),
    height: numeric("height", "", "default"),
  };

  function drawBoxes() {
    const rows = checkpoints.filter((row) => row.model === model);
    const box = (/** @type {string} */ value, /** @type {string} */ label) =>
      h(
        "label",
        {},
        h("input", {
          type: "checkbox",
          checked: chosen.has(value),
          onchange: (/** @type {any} */ event) => {
            event.target.checked ? chosen.add(value) : chosen.delete(value);
          },
        }),
        ` ${label}`,
      );
    fill(
      boxes,
      h("legend", {}, "Checkpoints"),
      h(
        "div",
        { class: "choices" },
        box("base", "base (not aligned)"),
        rows.slice(0, 50).map((row) =>
          box(
            row.id,
            `${row.name || `Run ${shortId(row.run_id ?? row.id)}`}, step ${row.step} (${row.kind}), ${
              ago(row.created_at)
            }`,
          )
        ),
      ),
    );
  }

  const form = h(
    "form",
    {
      class: "card stack",
      onsubmit: async (/** @type {Event} */ event) => {
        event.preventDefault();
        fill(errors);
        const numbers = Object.fromEntries(
          Object.entries(inputs).filter(([, input]) => input.value !== "").map((
            [name, input],
          ) => [name, Number(input.value)]),
        );
        try {
          const generation = await api("generate", {
            method: "POST",
            body: {
              model,
              checkpoints: [...chosen],
              prompts: prompts.value.split("\n").map((/** @type {string} */ line) => line.trim()).filter(Boolean),
              ...numbers,
            },
          });
          history.replaceState(null, "", `#/generate/${generation.id}`);
          watch(generation.id);
        } catch (error) {
          fill(errors, errorBox(error));
        }
      },
    },
    field(
      "Model",
      select(catalog.models.map((/** @type {any} */ one) => one.name), model, (value) => {
        model = value;
        chosen.clear();
        chosen.add("base");
        drawBoxes();
      }),
    ),
    boxes,
    field("Prompts, one per line", prompts),
    h(
      "div",
      { class: "filters" },
      field("Images per prompt", inputs.num_images),
      field("Seed", inputs.seed),
      field("Sampling steps", inputs.steps),
      field("Guidance", inputs.guidance),
      field("Width (pixels)", inputs.width),
      field("Height (pixels)", inputs.height),
    ),
    errors,
    h("div", { class: "actions" }, h("button", { class: "primary" }, "Generate")),
  );

  /** Show a generation and refresh it until it ends; each request waits for up to 10 s. @param {string} generationId */
  async function watch(generationId) {
    const status = h("div", { class: "card" });
    const grid = h("div", {});
    fill(result, status, grid);
    let shown = -1;
    while (!signal.aborted && result.contains(status)) {
      let generation;
      try {
        generation = await api(`generations/${generationId}`, { signal });
      } catch (error) {
        if (!signal.aborted) fill(status, errorBox(error));
        return;
      }
      const active = ACTIVE.has(generation.status);
      fill(
        status,
        h("div", { class: "title" }, h("h2", {}, `Generation ${shortId(generation.id)}`), badge(generation.status)),
        progressBar(generation),
        generation.queue_position && h("p", {}, `Waiting in the queue, position ${generation.queue_position}`),
        generation.error &&
          h("div", { class: "error" }, h("p", {}, generation.error.detail), h("p", {}, generation.error.hint)),
        h(
          "div",
          { class: "actions" },
          active &&
            actionButton("Cancel", () => api(`generations/${generationId}/cancel`, { method: "POST" }), {
              class: "danger",
            }),
          !active && generation.images.length > 0 &&
            actionButton(
              "Contact sheet (PNG)",
              () => download(generation.grid, `generation-${shortId(generationId)}.png`, "image/png"),
            ),
          !active && generation.images.length > 0 && scorer(generation),
        ),
      );
      if (generation.images.length !== shown) {
        shown = generation.images.length;
        fill(grid, imageTable(generation));
      }
      if (!active) return;
      await new Promise((resolve) => setTimeout(resolve, 1500));
    }
  }

  /** Buttons that score all images of a generation. @param {any} generation */
  function scorer(generation) {
    const reward = select(
      catalog.rewards.map((/** @type {any} */ one) => one.name),
      catalog.rewards[0]?.name ?? "",
      undefined,
      { "aria-label": "Reward" },
    );
    const scores = h("div", {});
    return h(
      "div",
      { class: "actions" },
      reward,
      actionButton("Score the images", async () => {
        let score = await api("score", {
          method: "POST",
          body: { generation: generation.id, rewards: [reward.value] },
          headers: { Prefer: "wait=10" },
        });
        while (ACTIVE.has(score.status) && !signal.aborted) {
          await new Promise((resolve) => setTimeout(resolve, 1500));
          score = await api(`scores/${score.id}`, { signal });
        }
        if (score.error) throw new Error(score.error.detail);
        const labels = new Map(generation.images.map((/** @type {any} */ image) => [image.number, image.checkpoint]));
        /** @type {Map<string, number[]>} */
        const means = new Map();
        for (const image of score.images) {
          const value = image.values?.[0]?.value;
          for (const caption of document.querySelectorAll(`[data-score="${image.number}"]`)) {
            caption.textContent = `${reward.value} ${number(value)}`;
          }
          if (value !== null && value !== undefined) {
            means.set(labels.get(image.number), [...(means.get(labels.get(image.number)) ?? []), value]);
          }
        }
        fill(
          scores,
          definitions(
            [...means].map((
              [checkpoint, values],
            ) => [
              checkpoint === "base" ? "base" : shortId(checkpoint),
              `mean ${reward.value} ${
                number(values.reduce((sum, value) => sum + value, 0) / values.length)
              } over ${values.length} images`,
            ]),
          ),
        );
      }),
      scores,
    );
  }

  /** @param {any} generation */
  function imageTable(generation) {
    if (!generation.images.length) return empty("No image is finished yet.");
    const names = new Map(
      checkpoints.map((row) => [row.id, `${row.name || `Run ${shortId(row.run_id ?? row.id)}`}, step ${row.step}`]),
    );
    const columns = generation.spec.checkpoints;
    const rows = [
      ...new Map(
        generation.images.map((/** @type {any} */ image) => [`${image.prompt_index}/${image.image_index}`, image]),
      ).values(),
    ].sort((a, b) => a.prompt_index - b.prompt_index || a.image_index - b.image_index);
    const at = new Map(
      generation.images.map((
        /** @type {any} */ image,
      ) => [`${image.checkpoint}/${image.prompt_index}/${image.image_index}`, image]),
    );
    return table(
      "Generated images",
      [
        "Prompt",
        ...columns.map((
          /** @type {string} */ checkpoint,
        ) => (checkpoint === "base" ? "base" : names.get(checkpoint) ?? shortId(checkpoint))),
      ],
      rows.map((row) => [
        h(
          "div",
          {},
          row.prompt,
          h("br"),
          h("span", { class: "muted" }, `seed ${row.seed}`),
          h("br"),
          h("button", {
            type: "button",
            onclick: () => {
              inputs.seed.value = row.seed;
              toast("The seed is copied into the form.");
            },
          }, "Reuse seed"),
          columns.length > 1 && h("button", {
            type: "button",
            onclick: () => {
              const found = columns.map((/** @type {string} */ checkpoint) =>
                at.get(`${checkpoint}/${row.prompt_index}/${row.image_index}`)
              ).filter(Boolean);
              compareImages(
                row.prompt,
                found.map((/** @type {any} */ image) => ({
                  path: image.url,
                  label: names.get(image.checkpoint) ?? image.checkpoint,
                })),
              );
            },
          }, "Swipe or flicker"),
        ),
        ...columns.map((/** @type {string} */ checkpoint) => {
          const image = at.get(`${checkpoint}/${row.prompt_index}/${row.image_index}`);
          if (!image) return "…";
          return h(
            "figure",
            {},
            h("button", {
              type: "button",
              class: "tile",
              onclick: () =>
                showImage(image.url, image.prompt, [
                  ["Checkpoint", names.get(checkpoint) ?? checkpoint],
                  ["Seed", String(image.seed)],
                  ["Sampling steps", String(generation.spec.steps ?? "default")],
                  ["Guidance", String(generation.spec.guidance ?? "default")],
                  ["SHA-256", image.sha256],
                  ["Size", bytes(image.size)],
                ]),
            }, lazyImage(image.url, `${image.prompt}, ${names.get(checkpoint) ?? checkpoint}`)),
            h("figcaption", { class: "muted", "data-score": image.number }),
          );
        }),
      ]),
    );
  }

  const recent = h("div", {});
  root.append(
    h("div", { class: "head" }, h("h1", {}, "Generate images")),
    h(
      "div",
      { class: "columns generate" },
      form,
      h("section", { class: "card" }, h("h2", {}, "Recent generations"), recent),
    ),
    result,
  );
  drawBoxes();
  section(
    recent,
    signal,
    () => api(`generations${query({ limit: 10 })}`, { signal }),
    (list) =>
      list.items.length
        ? h(
          "ul",
          {},
          list.items.map((/** @type {any} */ row) =>
            h(
              "li",
              {},
              h("a", { href: `#/generate/${row.id}` }, `${row.model}, ${row.total_images} images`),
              " ",
              badge(row.status),
              h("span", { class: "muted" }, ` ${ago(row.created_at)}`),
            )
          ),
        )
        : empty("There are no generations yet."),
  );
  if (id) watch(id);
}
