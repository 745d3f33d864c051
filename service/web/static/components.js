// Parts that several pages use: states of a page, badges, dialogs, images and tables.

import { ApiError, imageUrl } from "./api.js";
import { fill, h } from "./dom.js";
import { duration } from "./format.js";

/** @typedef {import("./dom.js").Child} Child */

export const ACTIVE = new Set(["queued", "starting", "running", "pausing", "cancelling", "interrupted"]);

/** @param {string} status */
export const badge = (status) => h("span", { class: `badge ${status}` }, status);

/** @param {string} text */
export const loading = (text = "Loading …") => h("p", { class: "state", role: "status" }, text);

/** @param {string} title @param {...Child} hint */
export const empty = (title, ...hint) =>
  h("div", { class: "state" }, h("p", { class: "strong" }, title), h("p", {}, ...hint));

/**
 * Show an error with its cause and, if `retry` is given, a button.
 * @param {unknown} error
 * @param {() => void} [retry]
 */
export function errorBox(error, retry) {
  const problem = error instanceof ApiError ? error.problem : null;
  const details = problem?.errors?.map(({ loc, msg }) => h("li", {}, h("code", {}, loc.slice(1).join(".")), ": ", msg));
  return h(
    "div",
    { class: "error", role: "alert" },
    h("p", {}, problem && !problem.errors ? problem.detail || problem.title : problem?.title ?? String(error)),
    details && h("ul", {}, details),
    retry && h("button", { type: "button", onclick: retry }, "Retry"),
  );
}

/**
 * Run `load` and show its result in `element`; shows loading and error states, and retries on request.
 * @template T
 * @param {Element} element
 * @param {AbortSignal} signal
 * @param {() => Promise<T>} load
 * @param {(value: T) => Child | Child[]} show
 */
export async function section(element, signal, load, show) {
  if (!element.hasChildNodes()) fill(element, loading());
  try {
    const value = await load();
    if (!signal.aborted) fill(element, ...[show(value)].flat());
  } catch (error) {
    if (!signal.aborted) fill(element, errorBox(error, () => section(element, signal, load, show)));
  }
}

/** @param {{progress: any, status: string, max_steps?: number, total_images?: number}} job @param {number | null} [eta] */
export function progressBar(job, eta = null) {
  const step = job.progress?.step ?? 0;
  const total = job.progress?.max_steps ?? job.max_steps ?? job.total_images ?? 0;
  const share = job.status === "succeeded" ? 1 : total ? step / total : 0;
  const left = ACTIVE.has(job.status) ? (eta ?? job.progress?.eta_seconds) : null;
  const phase = job.status === "starting" ? " · starting: loading the model" : "";
  const text = `${step} / ${total}${left ? ` · ${duration(left)} left` : phase}`;
  return h(
    "div",
    { class: "progress" },
    h("div", {
      class: "track",
      role: "progressbar",
      "aria-label": "Progress",
      "aria-valuemin": 0,
      "aria-valuemax": 100,
      "aria-valuenow": Math.round(100 * share),
    }, h("div", { style: { width: `${100 * share}%` } })),
    h("span", { class: "muted" }, text),
  );
}

/**
 * Ask for confirmation in a dialog. Resolves to whether the user confirmed.
 * @param {string} title
 * @param {string} text
 * @param {string} action
 * @returns {Promise<boolean>}
 */
export function confirm(title, text, action) {
  return new Promise((resolve) => {
    const dialog = h(
      "dialog",
      {
        "aria-labelledby": "confirm-title",
        onclose: () => {
          dialog.remove();
          resolve(dialog.returnValue === "yes");
        },
      },
      h("h2", { id: "confirm-title" }, title),
      h("p", {}, text),
      h(
        "div",
        { class: "actions" },
        h("button", { type: "button", autofocus: true, onclick: () => dialog.close("no") }, "Back"),
        h("button", { type: "button", class: "danger", onclick: () => dialog.close("yes") }, action),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Show a message for some seconds. @param {string} text @param {"info" | "error"} [kind] */
export function toast(text, kind = "info") {
  const element = h("div", { class: `toast ${kind}`, role: kind === "error" ? "alert" : "status" }, text);
  document.body.append(element);
  setTimeout(() => element.remove(), kind === "error" ? 10_000 : 4000);
}

/**
 * A button that runs an action once, shows errors, and is disabled meanwhile.
 * @param {string} label
 * @param {() => Promise<unknown>} action
 * @param {Record<string, any>} [attributes]
 */
export function actionButton(label, action, attributes = {}) {
  const button = h("button", { type: "button", ...attributes }, label);
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      await action();
    } catch (error) {
      toast(error instanceof Error ? error.message : String(error), "error");
    } finally {
      button.disabled = false;
    }
  });
  return button;
}

const visible = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      visible.unobserve(target);
      const image = /** @type {HTMLImageElement} */ (target);
      imageUrl(image.dataset.path ?? "").then(
        (url) => {
          image.src = url;
        },
        () => {
          image.classList.add("missing");
          image.alt = "The image cannot be loaded";
        },
      );
    }
  },
  { rootMargin: "200px" },
);

/**
 * An image of the API that is loaded when it becomes visible. Its frame has the final size from the start.
 * @param {string} path
 * @param {string} alt
 * @param {Record<string, any>} [attributes]
 */
export function lazyImage(path, alt, attributes = {}) {
  const image = h("img", { alt, class: "sample", decoding: "async", ...attributes });
  image.dataset.path = path;
  visible.observe(image);
  return image;
}

/**
 * Show an image in full size with its metadata.
 * @param {string} path
 * @param {string} title
 * @param {[string, Child][]} facts
 * @param {...Child} actions
 */
export function showImage(path, title, facts, ...actions) {
  const dialog = h(
    "dialog",
    { class: "viewer", "aria-label": title, onclose: () => dialog.remove() },
    h("figure", {}, lazyImage(path, title, { class: "sample full" }), h("figcaption", {}, title)),
    definitions(facts),
    h(
      "div",
      { class: "actions" },
      ...actions,
      h("button", { type: "button", autofocus: true, onclick: () => dialog.close() }, "Close"),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
}

/** @param {[string, Child][]} facts */
export const definitions = (facts) =>
  h("dl", { class: "facts" }, facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));

/**
 * A table that scrolls sideways on narrow screens.
 * @param {string} caption
 * @param {Child[]} heads
 * @param {Child[][]} rows
 */
export function table(caption, heads, rows) {
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    h(
      "table",
      {},
      h("caption", { class: "hidden" }, caption),
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell) => h("td", {}, cell))))),
    ),
  );
}

/**
 * Tabs; the content of a tab is created when it is first selected.
 * @param {[string, () => Child][]} tabs
 * @param {string} selected
 * @param {(name: string) => void} [onselect]
 */
export function tabs(tabs, selected, onselect) {
  const panel = h("div", { role: "tabpanel", tabindex: 0 });
  /** @type {Map<string, Child>} */
  const contents = new Map();
  /** @param {string} name */
  const select = (name) => {
    if (!contents.has(name)) contents.set(name, (tabs.find(([other]) => other === name) ?? tabs[0])[1]());
    fill(panel, contents.get(name));
    panel.setAttribute("aria-label", name);
    for (const button of buttons) {
      button.setAttribute("aria-selected", String(button.textContent === name));
      button.tabIndex = button.textContent === name ? 0 : -1;
    }
  };
  /** @type {HTMLButtonElement[]} */
  const buttons = tabs.map(([name], index) =>
    h("button", {
      type: "button",
      role: "tab",
      onclick: () => {
        select(name);
        onselect?.(name);
      },
      onkeydown: (/** @type {KeyboardEvent} */ event) => {
        const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!move) return;
        const next = buttons[(index + move + buttons.length) % buttons.length];
        next.focus();
        next.click();
      },
    }, name)
  );
  select(tabs.some(([name]) => name === selected) ? selected : tabs[0][0]);
  return h("div", { class: "tabs" }, h("div", { role: "tablist" }, buttons), panel);
}

/** @param {string} label @param {Child} control */
export const field = (label, control) => h("label", { class: "field" }, h("span", {}, label), control);

/**
 * @param {[string, string][] | string[]} options values, or pairs of value and label
 * @param {string} value
 * @param {(value: string) => void} [onchange]
 * @param {Record<string, any>} [attributes]
 */
export function select(options, value, onchange, attributes = {}) {
  const element = h(
    "select",
    { ...attributes, onchange: () => onchange?.(element.value) },
    options.map((option) => {
      const [id, label] = typeof option === "string" ? [option, option] : option;
      return h("option", { value: id, selected: id === value }, label);
    }),
  );
  return element;
}
