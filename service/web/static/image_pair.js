// Compare two images of the same prompt and noise: side by side, by swiping, or by flickering between them.

import { lazyImage, select } from "./components.js";
import { fill, h } from "./dom.js";

const FLICKER_MS = 600;

/** @typedef {{path: string, label: string}} LabeledImage */

/**
 * Show images of one prompt in a dialog; the user chooses the two images and the way to compare them.
 * @param {string} prompt
 * @param {LabeledImage[]} images
 */
export function compareImages(prompt, images) {
  const choice = { first: 0, second: images.length - 1, mode: "swipe" };
  const view = h("div", {});
  let timer = 0;
  const labels = /** @type {[string, string][]} */ (images.map(({ label }, index) => [String(index), label]));
  const chooser = (/** @type {"first" | "second"} */ name) =>
    select(labels, String(choice[name]), (value) => {
      choice[name] = Number(value);
      draw();
    }, { "aria-label": `${name} image` });

  function draw() {
    clearInterval(timer);
    const [first, second] = [images[choice.first], images[choice.second]];
    const alt = ({ label } = first) => `${prompt}, ${label}`;
    if (choice.mode === "side by side") {
      const figure = (/** @type {LabeledImage} */ image) =>
        h("figure", {}, lazyImage(image.path, alt(image)), h("figcaption", {}, image.label));
      fill(view, h("div", { class: "pair" }, figure(first), figure(second)));
      return;
    }
    const top = lazyImage(second.path, alt(second), { class: "sample top" });
    const stack = h("div", { class: "image-stack" }, lazyImage(first.path, alt(first)), top);
    const caption = h("figcaption", { "aria-live": "polite" });
    if (choice.mode === "swipe") {
      const swipe = () => top.style.setProperty("clip-path", `inset(0 0 0 ${slider.value}%)`);
      const slider = h("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": "Border", oninput: swipe });
      swipe();
      fill(caption, `Left: ${first.label}. Right: ${second.label}.`);
      fill(view, h("figure", {}, stack, slider, caption));
      return;
    }
    let shown = true;
    timer = setInterval(() => {
      shown = !shown;
      top.style.setProperty("visibility", shown ? "visible" : "hidden");
      fill(caption, shown ? second.label : first.label);
    }, FLICKER_MS);
    fill(view, h("figure", {}, stack, caption));
  }

  const dialog = h(
    "dialog",
    {
      class: "viewer",
      "aria-label": `Compare images of ${prompt}`,
      onclose: () => {
        clearInterval(timer);
        dialog.remove();
      },
    },
    h("h2", {}, prompt),
    h(
      "div",
      { class: "actions" },
      chooser("first"),
      chooser("second"),
      select(["swipe", "flicker", "side by side"], choice.mode, (mode) => {
        choice.mode = mode;
        draw();
      }, { "aria-label": "Comparison mode" }),
    ),
    view,
    h("div", { class: "actions" }, h("button", { type: "button", onclick: () => dialog.close() }, "Close")),
  );
  document.body.append(dialog);
  dialog.showModal();
  draw();
}
