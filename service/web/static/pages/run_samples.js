// The sample wall of a run: held-out images by step, and the best and worst image of a group.

import { all, imageUrl } from "../api.js";
import { empty, field, lazyImage, section, select, showImage } from "../components.js";
import { fill, h } from "../dom.js";
import { bytes, number } from "../format.js";

/** @param {string} id @param {AbortSignal} signal @param {EventTarget} listeners */
export function samplesTab(id, signal, listeners) {
  const wall = h("div", {});
  const extremes = h("div", {});
  const load = () =>
    section(wall, signal, () => all(`runs/${id}/samples`, { kind: "heldout" }, { signal }), (samples) => {
      if (!samples.length) {
        return empty("There are no held-out images yet.", "The first ones appear after the first held-out evaluation.");
      }
      return player(samples);
    });
  const loadExtremes = () =>
    section(
      extremes,
      signal,
      () => all(`runs/${id}/samples`, { kind: "best" }, { signal }),
      (best) => bestAndWorst(id, best, signal),
    );
  load();
  loadExtremes();
  let evaluations = 0;
  listeners.addEventListener("progress", (/** @type {any} */ event) => {
    const step = Object.entries(event.detail.metrics).find(([name]) => name.startsWith("heldout/"));
    if (step && (evaluations += 1) > 1) load();
  });
  listeners.addEventListener("end", () => {
    load();
    loadExtremes();
  });
  return h(
    "div",
    { class: "stack" },
    h("h2", {}, "Held-out images"),
    h(
      "p",
      { class: "muted" },
      "The same prompts and noise in each evaluation. Move the slider or press Play to see the alignment.",
    ),
    wall,
    h("h2", {}, "Best and worst image of a group"),
    h("p", { class: "muted" }, "For the first prompts of a step, the group with the widest range of rewards."),
    extremes,
  );
}

/** The sample wall: prompts × steps with a slider. @param {any[]} samples */
function player(samples) {
  const steps = [...new Set(samples.map((sample) => sample.step))].sort((a, b) => a - b);
  const indices = [...new Set(samples.map((sample) => sample.index))].sort((a, b) => a - b);
  const at = new Map(samples.map((sample) => [`${sample.step}/${sample.index}`, sample]));
  const grid = h("div", { class: "wall" });
  const output = h("output", { "aria-live": "polite" });
  let playing = 0;
  const slider = h("input", {
    type: "range",
    min: 0,
    max: steps.length - 1,
    value: steps.length - 1,
    "aria-label": "Optimizer step",
    oninput: () => draw(),
  });
  const tiles = indices.map((index) => {
    const frame = h("button", { type: "button", class: "tile" });
    const caption = h("figcaption", {});
    return { index, frame, caption, element: h("figure", {}, frame, caption) };
  });
  fill(grid, tiles.map(({ element }) => element));
  function draw() {
    const step = steps[Number(slider.value)];
    output.value = `step ${step}`;
    for (const { index, frame, caption } of tiles) {
      const sample = at.get(`${step}/${index}`);
      if (!sample) {
        fill(frame);
        continue;
      }
      const old = frame.firstElementChild;
      const image = lazyImage(sample.image, `${sample.prompt}, step ${step}`);
      if (old) {
        image.onload = () => fill(frame, image);
        if (!image.isConnected) loadNow(image, frame);
      } else fill(frame, image);
      frame.onclick = () => showSample(sample);
      fill(caption, sample.prompt, h("br"), rewardsText(sample.rewards));
    }
  }
  const play = h("button", {
    type: "button",
    onclick: () => {
      if (playing) {
        clearInterval(playing);
        playing = 0;
        play.textContent = "Play";
        return;
      }
      play.textContent = "Stop";
      if (Number(slider.value) === steps.length - 1) slider.value = "0";
      playing = setInterval(() => {
        if (!slider.isConnected || Number(slider.value) >= steps.length - 1) {
          clearInterval(playing);
          playing = 0;
          play.textContent = "Play";
          return;
        }
        slider.value = String(Number(slider.value) + 1);
        draw();
      }, 700);
    },
  }, "Play");
  draw();
  return h("div", {}, h("div", { class: "player" }, play, slider, output), grid);
}

/** Replace the image in a frame once the new one is loaded, so that nothing flickers. @param {HTMLImageElement} image @param {Element} frame */
async function loadNow(image, frame) {
  const url = await imageUrl(image.dataset.path ?? "").catch(() => null);
  if (!url) return;
  image.src = url;
  await image.decode().catch(() => {});
  fill(frame, image);
}

/** @param {Record<string, number | null>} rewards */
const rewardsText = (rewards) =>
  Object.entries(rewards).map(([name, value]) => `${name} ${number(value, 3)}`).join(" · ");

/** @param {any} sample */
export function showSample(sample) {
  showImage(sample.image, sample.prompt, [
    ["Step", sample.step],
    ["Kind", sample.kind],
    ...(sample.sde_step === null
      ? []
      : /** @type {[string, any][]} */ ([["SDE step", sample.sde_step], ["Granularity", sample.granularity]])),
    .../** @type {[string, any][]} */ (Object.entries(sample.rewards).map(([name, value]) => [name, number(value)])),
    ["Size", bytes(sample.size)],
  ]);
}

/** @param {string} id @param {any[]} best @param {AbortSignal} signal */
function bestAndWorst(id, best, signal) {
  if (!best.length) return empty("There are no group images yet.");
  const steps = [...new Set(best.map((sample) => sample.step))].sort((a, b) => b - a);
  const grid = h("div", { class: "grid" });
  const show = (/** @type {number} */ step) =>
    section(fill(grid), signal, () => all(`runs/${id}/samples`, { step }, { signal }), (samples) => {
      const worst = new Map(
        samples.filter((sample) => sample.kind === "worst").map((sample) => [sample.index, sample]),
      );
      return samples.filter((sample) => sample.kind === "best").map((sample) =>
        h(
          "figure",
          { class: "card" },
          h("figcaption", {}, `${sample.prompt} – SDE step ${sample.sde_step}, granularity ${sample.granularity}`),
          h(
            "div",
            { class: "pair" },
            [sample, worst.get(sample.index)].filter(Boolean).map((image) =>
              h(
                "figure",
                {},
                h(
                  "button",
                  { type: "button", class: "tile", onclick: () => showSample(image) },
                  lazyImage(image.image, `${image.kind} image for ${image.prompt}`),
                ),
                h("figcaption", { class: "muted" }, `${image.kind}: ${rewardsText(image.rewards)}`),
              )
            ),
          ),
        )
      );
    });
  show(steps[0]);
  return h("div", {}, field("Step", select(steps.map(String), String(steps[0]), (value) => show(Number(value)))), grid);
}
