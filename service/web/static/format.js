// Format numbers with their units.

/** @param {number | null | undefined} value @param {number} [digits] */
export function number(value, digits = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en-US");
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e7)) return value.toExponential(2);
  return String(Number(value.toPrecision(digits)));
}

/** @param {number | null | undefined} value a difference, shown with its sign */
export const signed = (
  value,
) => (value === null || value === undefined ? "–" : `${value >= 0 ? "+" : "−"}${number(Math.abs(value), 3)}`);

/** @param {number | null | undefined} value a share between 0 and 1 */
export const percent = (
  value,
  digits = 1,
) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(digits)}%`);

/** @param {number | null | undefined} seconds */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${Math.round(1000 * seconds)} ms`;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const units = [["d", 86_400], ["h", 3600], ["min", 60], ["s", 1]];
  const parts = [];
  let rest = Math.round(seconds);
  for (const [unit, size] of /** @type {[string, number][]} */ (units)) {
    const count = Math.floor(rest / size);
    rest -= count * size;
    if (count || parts.length) parts.push(`${count} ${unit}`);
    if (parts.length === 2) break;
  }
  return parts.filter((part) => !part.startsWith("0 ")).join(" ");
}

/** @param {number | null | undefined} count */
export function bytes(count) {
  if (count === null || count === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let power = 0;
  while (count >= 1024 && power < units.length - 1) {
    count /= 1024;
    power += 1;
  }
  return `${power === 0 ? count : count.toFixed(count < 10 ? 1 : 0)} ${units[power]}`;
}

/** @param {string | null | undefined} time */
export const dateTime = (time) =>
  time ? new Date(time).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }) : "–";

/** @param {string | null | undefined} time */
export function ago(time) {
  if (!time) return "–";
  const seconds = (Date.now() - new Date(time).getTime()) / 1000;
  if (seconds < 60) return "just now";
  return `${duration(seconds).split(" ").slice(0, 2).join(" ")} ago`;
}

const NAMES = {
  clip_score: "CLIP score",
  hps: "HPS",
  pickscore: "PickScore",
  kl: "KL",
  grad_norm: "Gradient norm",
  lr: "Learning rate",
  nfe: "NFE",
  sde: "SDE",
};

/** Return a readable title of a metric, for example "Held-out CLIP score". @param {string} metric */
export function metricTitle(metric) {
  const [group, ...rest] = metric.split("/");
  const words = rest.join(" ");
  const prefix = {
    heldout: "Held-out",
    heldout_ema: "Held-out (EMA)",
    reward: "Reward:",
    anchor: "Anchor:",
    seconds: "Seconds:",
  }[group];
  const label = /** @type {Record<string, string>} */ (NAMES)[words] ?? words.replaceAll("_", " ");
  if (prefix) return `${prefix} ${label}`;
  const text = rest.length
    ? `${group.replaceAll("_", " ")}: ${label}`
    : /** @type {Record<string, string>} */ (NAMES)[group] ?? group.replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** The first characters of a UUID that tell jobs apart in a list. @param {string} id */
export const shortId = (id) => id.slice(-8);
