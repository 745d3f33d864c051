// Log in with an API key, which stays in the session storage of this browser tab.

import { api, setApiKey } from "../api.js";
import { errorBox, field } from "../components.js";
import { fill, h } from "../dom.js";

/** @param {HTMLElement} root @param {import("../app.js").Route} route */
export function page(root, { params }) {
  const input = h("input", {
    type: "password",
    autocomplete: "off",
    required: true,
    placeholder: "g2k_…",
    autofocus: true,
  });
  const errors = h("div", {});
  const form = h(
    "form",
    {
      class: "card narrow",
      onsubmit: async (/** @type {Event} */ event) => {
        event.preventDefault();
        setApiKey(input.value.trim());
        try {
          await api("runs?limit=1");
          location.hash = params.get("next") || "#/runs";
        } catch (error) {
          setApiKey(null);
          fill(errors, errorBox(error));
        }
      },
    },
    h("h1", {}, "Log in"),
    h(
      "p",
      {},
      "This service needs an API key. An administrator creates one with ",
      h("code", {}, "g2rpo keys create"),
      ".",
    ),
    field("API key", input),
    errors,
    h("div", { class: "actions" }, h("button", { class: "primary" }, "Log in")),
    h("p", { class: "muted" }, "The key is kept until this tab is closed and is never part of a URL."),
  );
  root.append(form);
  input.focus();
}
