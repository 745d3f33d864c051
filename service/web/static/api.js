// Requests to the API: JSON, server-sent events and images. The API key stays in the browser's session storage.

const KEY = "g2rpo-key";
/** Path of the page, ending with a slash. It is the path prefix if a proxy adds one, which links of the API include. */
const BASE = new URL(".", location.href).pathname;

/** @typedef {{status: number, code: string, title: string, detail: string, errors?: {loc: (string|number)[], msg: string}[]}} Problem */

/** An error response of the API, or status 0 if the service cannot be reached. */
export class ApiError extends Error {
  /** @param {Problem} problem */
  constructor(problem) {
    super(problem.detail || problem.title);
    this.problem = problem;
    this.status = problem.status;
  }
}

/** @returns {string | null} */
export const apiKey = () => sessionStorage.getItem(KEY);

/** @param {string | null} key */
export function setApiKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
  forgetImages();
  connection.dispatchEvent(new Event("key"));
}

/** Dispatches `online` and `offline` when the service becomes reachable or unreachable, `unauthorized` and `key`. */
export const connection = new EventTarget();
let reachable = true;

/** @param {boolean} now */
function setReachable(now) {
  if (now !== reachable) connection.dispatchEvent(new Event(now ? "online" : "offline"));
  reachable = now;
}

/** @param {HeadersInit} [headers] */
function withKey(headers) {
  const all = new Headers(headers);
  const key = apiKey();
  if (key) all.set("Authorization", `Bearer ${key}`);
  return all;
}

/**
 * Send a request and return the response. Paths are relative to the page, or links of the API.
 * @param {string} path for example `runs/ID`
 * @param {RequestInit} [options]
 */
export async function send(path, options = {}) {
  let response;
  try {
    response = await fetch(path.startsWith(BASE) ? path : BASE + path.replace(/^\//, ""), {
      ...options,
      headers: withKey(options.headers),
    });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    setReachable(false);
    throw new ApiError({ status: 0, code: "offline", title: "Offline", detail: "The service cannot be reached." });
  }
  setReachable(true);
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({ title: response.statusText }));
  const error = new ApiError({ code: "", detail: "", ...problem, status: response.status });
  if (response.status === 401) connection.dispatchEvent(new Event("unauthorized"));
  throw error;
}

/**
 * Send a request and return the parsed JSON, or null for an empty response.
 * @param {string} path
 * @param {{method?: string, body?: unknown, signal?: AbortSignal, headers?: Record<string, string>}} [options]
 * @returns {Promise<any>}
 */
export async function api(path, { method = "GET", body, signal, headers = {} } = {}) {
  /** @type {Record<string, string>} */
  const json = body === undefined ? {} : { "Content-Type": "application/json" };
  const response = await send(path, {
    method,
    signal,
    headers: { Accept: "application/json", ...json, ...headers },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  return response.status === 204 ? null : response.json();
}

/**
 * Return a query string; null, undefined and empty values are left out and arrays are repeated.
 * @param {Record<string, unknown>} values
 */
export function query(values) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const item of Array.isArray(value) ? value : [value]) {
      if (item !== null && item !== undefined && item !== "") search.append(name, String(item));
    }
  }
  const text = search.toString();
  return text ? `?${text}` : "";
}

/**
 * Return the items of all pages of a list, at most `limit`.
 * @param {string} path
 * @param {Record<string, unknown>} [values]
 * @param {{signal?: AbortSignal, limit?: number}} [options]
 * @returns {Promise<any[]>}
 */
export async function all(path, values = {}, { signal, limit = 5000 } = {}) {
  const items = [];
  let cursor = null;
  do {
    const page = await api(path + query({ limit: 200, ...values, cursor }), { signal });
    items.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor && items.length < limit);
  return items;
}

/**
 * Follow an event stream until `signal` aborts or the job ends. Reconnects after the connection is lost.
 * `EventSource` cannot send an API key, therefore the stream is read with `fetch`.
 * @param {string} path
 * @param {(event: {event: string, id: string, data: any}) => void} listener
 * @param {{signal: AbortSignal, after?: number}} options
 */
export async function follow(path, listener, { signal, after = 0 }) {
  let lastId = String(after);
  let pause = 1000;
  while (!signal.aborted) {
    try {
      const response = await send(path, { signal, headers: { Accept: "text/event-stream", "Last-Event-ID": lastId } });
      pause = 1000;
      for await (const event of serverSentEvents(response)) {
        if (event.id) lastId = event.id;
        if (event.event === "error") throw new ApiError(event.data);
        listener(event);
        if (event.event === "end") return;
      }
    } catch (error) {
      if (signal.aborted || (error instanceof ApiError && [401, 403, 404].includes(error.status))) return;
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(2 * pause, 30_000);
  }
}

/** @param {Response} response */
async function* serverSentEvents(response) {
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  const decoder = new TextDecoder();
  let buffer = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      buffer += decoder.decode(value, { stream: true }).replaceAll("\r", "");
      const blocks = buffer.split("\n\n");
      buffer = blocks.pop() ?? "";
      for (const block of blocks) {
        /** @type {Record<string, string>} */
        const fields = {};
        for (const line of block.split("\n")) {
          const [, name, text] = /^(\w+): ?(.*)$/.exec(line) ?? [];
          if (name) fields[name] = name in fields ? `${fields[name]}\n${text}` : text;
        }
        if (fields.data) yield { event: fields.event ?? "message", id: fields.id ?? "", data: JSON.parse(fields.data) };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Blob URLs of loaded images, least recently used first. @type {Map<string, Promise<string>>} */
const images = new Map();
const MAX_IMAGES = 600;

function forgetImages() {
  for (const url of images.values()) url.then(URL.revokeObjectURL, () => {});
  images.clear();
}

/**
 * Return a blob URL of an image of the API. `<img>` cannot send an API key.
 * @param {string} path
 */
export function imageUrl(path) {
  let url = images.get(path);
  images.delete(path);
  if (!url) {
    url = send(path, { headers: { Accept: "image/png" } })
      .then((response) => response.blob())
      .then((blob) => URL.createObjectURL(blob));
    url.catch(() => images.delete(path));
  }
  images.set(path, url);
  if (images.size > MAX_IMAGES) {
    const [oldest, old] = images.entries().next().value ?? [];
    if (oldest) images.delete(oldest);
    old?.then(URL.revokeObjectURL, () => {});
  }
  return url;
}

/**
 * Download a file of the API under a name.
 * @param {string} path
 * @param {string} name
 * @param {string} accept
 */
export async function download(path, name, accept = "*/*") {
  const response = await send(path, { headers: { Accept: accept } });
  const url = URL.createObjectURL(await response.blob());
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
