// The dashboard: routes in the URL fragment, navigation, theme and login.

import { api, apiKey, connection, setApiKey } from "./api.js";
import { errorBox, loading, select } from "./components.js";
import { fill, h } from "./dom.js";

/** @typedef {{parts: string[], params: URLSearchParams, signal: AbortSignal, setParams: (values: Record<string, unknown>) => void}} Route */

/** Page modules by the first part of the route. Each exports `title` and `page(root, route)`. @type {Record<string, [string, string | null]>} */
const PAGES = {
  runs: ["runs", "Runs"],
  run: ["run", null],
  new: ["new_run", "New run"],
  compare: ["compare", "Compare"],
  generate: ["generate", "Generate"],
  evaluations: ["evaluations", "Evaluations"],
  evaluation: ["evaluation", null],
  leaderboard: ["leaderboard", "Leaderboard"],
  system: ["system", "System"],
  login: ["login", null],
};

const main = /** @type {HTMLElement} */ (document.getElementById("main"));
let page = new AbortController();

/** Show the page of the current route. */
async function show() {
  page.abort();
  page = new AbortController();
  const { signal } = page;
  const [path, search = ""] = (location.hash.slice(2) || "runs").split("?");
  const parts = path.split("/").map(decodeURIComponent);
  const [module, title] = PAGES[parts[0]] ?? PAGES.runs;
  for (const link of document.querySelectorAll("#nav a")) {
    const current = link.getAttribute("href") ===
      `#/${parts[0] === "run" ? "runs" : parts[0] === "evaluation" ? "evaluations" : parts[0]}`;
    if (current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${title ?? parts[0]} · G²RPO`;
  fill(main, loading());
  window.scrollTo(0, 0);
  try {
    const { page: render } = await import(`./pages/${module}.js`);
    if (signal.aborted) return;
    fill(main);
    await render(main, { parts: parts.slice(1), params: new URLSearchParams(search), signal, setParams });
  } catch (error) {
    if (!signal.aborted) fill(main, errorBox(error, show));
  }
}

/** Write parameters into the URL without reloading the page, so that the view is a permalink. @param {Record<string, unknown>} values */
function setParams(values) {
  const [path, search = ""] = (location.hash.slice(2) || "runs").split("?");
  const params = new URLSearchParams(search);
  for (const [name, value] of Object.entries(values)) {
    params.delete(name);
    for (const item of Array.isArray(value) ? value : [value]) {
      if (item !== null && item !== undefined && item !== "") params.append(name, String(item));
    }
  }
  const text = params.toString();
  history.replaceState(null, "", `#/${path}${text ? `?${text}` : ""}`);
}

function showSession() {
  const theme = localStorage.getItem("theme") ?? "system";
  document.documentElement.dataset.theme = theme;
  fill(
    /** @type {Element} */ (document.getElementById("session")),
    select([["system", "System theme"], ["light", "Light"], ["dark", "Dark"]], theme, (value) => {
      localStorage.setItem("theme", value);
      showSession();
      dispatchEvent(new Event("theme"));
    }, { "aria-label": "Theme" }),
    apiKey()
      ? h("button", {
        type: "button",
        onclick: () => {
          setApiKey(null);
          location.hash = "#/login";
        },
      }, "Log out")
      : h("a", { href: "#/login" }, "Log in"),
  );
}

function start() {
  fill(
    /** @type {Element} */ (document.getElementById("nav")),
    Object.entries(PAGES).filter(([, [, title]]) => title).map(([path, [, title]]) =>
      h("a", { href: `#/${path}` }, title)
    ),
    h("a", { href: "docs" }, "API"),
  );
  const banner = /** @type {Element} */ (document.getElementById("banner"));
  connection.addEventListener("offline", () => {
    fill(banner, "The service cannot be reached. The page continues when it is back.");
    const check = async () => {
      await api("healthz").then(show, () => setTimeout(check, 3000));
    };
    setTimeout(check, 3000);
  });
  connection.addEventListener("online", () => fill(banner));
  connection.addEventListener("key", showSession);
  connection.addEventListener("unauthorized", () => {
    if (!location.hash.startsWith("#/login")) location.hash = `#/login?next=${encodeURIComponent(location.hash)}`;
  });
  addEventListener("hashchange", show);
  showSession();
  show();
}

start();
