// Charts: line charts with bands, bar charts with intervals, and heat maps. D3 is loaded when the first chart is drawn.

import { fill, h, svg } from "./dom.js";
import { number } from "./format.js";

/**
 * @typedef {{name: string, x: number[], y: (number | null)[], low?: (number | null)[] | null, high?: (number | null)[] | null, color?: number, points?: boolean}} Series
 * @typedef {{title: string, series: Series[], xLabel: string, yLabel?: string, logY?: boolean, height?: number, zero?: boolean}} LineOptions
 */

/** @type {Promise<any> | null} */
let loaded = null;

/** Load D3 5, once. @returns {Promise<any>} */
export function loadD3() {
  loaded ??= new Promise((resolve, reject) => {
    const script = h("script", { src: "assets/d3.js" });
    script.onload = () => resolve(/** @type {any} */ (window).d3);
    script.onerror = () => {
      loaded = null;
      reject(new Error("The chart library cannot be loaded"));
    };
    document.head.append(script);
  });
  return loaded;
}

const COLORS = 8;
/** @param {number} index */
export const color = (index) => `var(--series-${index % COLORS})`;

/** A small line without axes. @param {{x: number[], values: (number | null)[]} | null} series */
export function sparkline(series) {
  const points = series ? series.x.map((x, index) => [x, series.values[index]]).filter(([, y]) => y !== null) : [];
  const [width, height] = [160, 36];
  if (points.length < 2) return svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": true });
  const values = points.map(([, y]) => /** @type {number} */ (y));
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const [first, last] = [/** @type {number} */ (points[0][0]), /** @type {number} */ (points[points.length - 1][0])];
  const path = points
    .map((
      [x, y],
    ) => [
      ((/** @type {number} */ (x) - first) / (last - first || 1)) * (width - 8) + 4,
      height - 4 - ((/** @type {number} */ (y) - low) / (high - low || 1)) * (height - 8),
    ])
    .map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`);
  const end = path[path.length - 1].split(",");
  return svg(
    "svg",
    {
      viewBox: `0 0 ${width} ${height}`,
      class: "sparkline",
      role: "img",
      "aria-label": `Held-out reward from ${number(values[0])} to ${number(values[values.length - 1])}`,
    },
    svg("polyline", { points: path.join(" "), fill: "none" }),
    svg("circle", { cx: end[0], cy: end[1], r: 3 }),
  );
}

/**
 * Draw a line chart into `element` and redraw it when the width changes. Drag to zoom along x, double-click to reset.
 * @param {HTMLElement} element
 * @param {LineOptions} options
 * @returns {Promise<{update: (options: LineOptions) => void}>}
 */
export async function lineChart(element, options) {
  const d3 = await loadD3();
  /** @type {[number, number] | null} */
  let zoom = null;
  /** @type {Set<string>} */
  const hidden = new Set();
  const drawing = h("div", { class: "drawing" });
  const tooltip = h("div", { class: "tooltip", hidden: true });
  const legend = h("div", { class: "legend" });
  const title = h("figcaption", {});
  fill(element, h("figure", { class: "chart" }, title, drawing, tooltip, legend));

  function draw() {
    const width = Math.max(260, drawing.clientWidth || 480);
    const height = options.height ?? 240;
    const margin = { top: 8, right: 12, bottom: 36, left: 54 };
    title.textContent = options.title;
    const shown = options.series.filter((series) => !hidden.has(series.name));
    const points = shown.flatMap((series, index) =>
      series.x.map((x, i) => ({
        x,
        y: series.y[i],
        low: series.low?.[i] ?? series.y[i],
        high: series.high?.[i] ?? series.y[i],
        index,
      }))
    ).filter((point) => point.y !== null && (!options.logY || /** @type {number} */ (point.y) > 0));
    const inside = zoom
      ? points.filter((point) => point.x >= /** @type {any} */ (zoom)[0] && point.x <= /** @type {any} */ (zoom)[1])
      : points;
    const xs = zoom ?? d3.extent(points, (/** @type {any} */ point) => point.x);
    let [low, high] = [
      d3.min(inside, (/** @type {any} */ point) => (options.logY ? point.y : point.low)),
      d3.max(inside, (/** @type {any} */ point) => point.high),
    ];
    if (low === high) {
      [low, high] = options.logY
        ? [low / 2, high * 2]
        : [low - 0.5 * (Math.abs(low) || 1), high + 0.5 * (Math.abs(high) || 1)];
    }
    if (options.zero) low = Math.min(0, low);
    const root = d3.create("svg").attr("viewBox", `0 0 ${width} ${height}`).attr("width", width).attr("height", height)
      .attr("role", "img").attr("aria-label", summary(options));
    if (!inside.length) {
      root.append("text").attr("x", width / 2).attr("y", height / 2).attr("text-anchor", "middle").attr(
        "class",
        "muted",
      ).text("No values yet");
      fill(drawing, root.node());
      return;
    }
    const x = d3.scaleLinear().domain(xs).range([margin.left, width - margin.right]);
    const y = (options.logY ? d3.scaleLog : d3.scaleLinear)().domain([low, high]).range([
      height - margin.bottom,
      margin.top,
    ]).nice();
    const clip = `clip-${Math.random().toString(36).slice(2)}`;
    root.append("clipPath").attr("id", clip).append("rect").attr("x", margin.left).attr("y", 0).attr(
      "width",
      width - margin.left - margin.right,
    ).attr("height", height - margin.bottom + 2);
    root.append("g").attr("class", "axis grid").attr("transform", `translate(${margin.left},0)`).call(
      d3.axisLeft(y).ticks(5, options.logY ? "~g" : undefined).tickSize(-(width - margin.left - margin.right)),
    );
    root.append("g").attr("class", "axis").attr("transform", `translate(0,${height - margin.bottom})`).call(
      d3.axisBottom(x).ticks(Math.min(8, width / 80), "~s"),
    );
    root.append("text").attr("class", "axis-label").attr("x", width - margin.right).attr("y", height - 4).attr(
      "text-anchor",
      "end",
    ).text(options.xLabel);
    const plot = root.append("g").attr("clip-path", `url(#${clip})`);
    shown.forEach((series) => {
      const own = options.series.indexOf(series);
      const rows = series.x.map((at, i) => ({ x: at, y: series.y[i], low: series.low?.[i], high: series.high?.[i] }));
      const valid = (/** @type {any} */ row) => row.y !== null && (!options.logY || row.y > 0);
      if (series.low) {
        const area = d3.area().defined((/** @type {any} */ row) =>
          row.low != null && row.high != null && (!options.logY || row.low > 0)
        ).x((/** @type {any} */ row) => x(row.x)).y0((/** @type {any} */ row) => y(row.low)).y1((
          /** @type {any} */ row,
        ) => y(row.high));
        plot.append("path").attr("d", area(rows)).style("fill", color(series.color ?? own)).attr("class", "band");
      }
      const line = d3.line().defined(valid).x((/** @type {any} */ row) => x(row.x)).y((/** @type {any} */ row) =>
        y(row.y)
      );
      plot.append("path").attr("d", line(rows)).style("stroke", color(series.color ?? own)).attr("class", "line");
      if (series.points || rows.length < 3) {
        plot.selectAll(null).data(rows.filter(valid)).enter().append("circle").attr(
          "cx",
          (/** @type {any} */ row) => x(row.x),
        ).attr("cy", (/** @type {any} */ row) => y(row.y)).attr("r", 3).style("fill", color(series.color ?? own));
      }
    });
    const cursor = root.append("line").attr("class", "cursor").attr("y1", margin.top).attr("y2", height - margin.bottom)
      .style("display", "none");
    const brush = d3.brushX().extent([[margin.left, margin.top], [width - margin.right, height - margin.bottom]]).on(
      "end",
      () => {
        if (!d3.event.selection) return;
        zoom = d3.event.selection.map(x.invert);
        draw();
      },
    );
    root.append("g").attr("class", "brush").call(brush).on("dblclick", () => {
      zoom = null;
      draw();
    })
      .on("mousemove", () => hover(d3.mouse(root.node())[0], x, cursor, shown))
      .on("mouseleave", () => {
        tooltip.hidden = true;
        cursor.style("display", "none");
      });
    fill(drawing, root.node());
    fill(
      legend,
      zoom && h("button", {
        type: "button",
        onclick: () => {
          zoom = null;
          draw();
        },
      }, "Reset zoom"),
      options.series.length > 1 && options.series.map((series, index) =>
        h(
          "button",
          {
            type: "button",
            class: "key",
            "aria-pressed": String(!hidden.has(series.name)),
            onclick: () => {
              hidden.has(series.name) ? hidden.delete(series.name) : hidden.add(series.name);
              draw();
            },
          },
          h("span", { class: "swatch", style: { background: color(series.color ?? index) } }),
          series.name,
        )
      ),
    );
  }

  /** @param {number} at @param {any} x @param {any} cursor @param {Series[]} shown */
  function hover(at, x, cursor, shown) {
    const value = x.invert(at);
    const rows = shown.map((series) => [series, nearest(series, value)]).filter(([, index]) => index !== null);
    if (!rows.length) return;
    const position = /** @type {Series} */ (rows[0][0]).x[/** @type {number} */ (rows[0][1])];
    cursor.attr("x1", x(position)).attr("x2", x(position)).style("display", null);
    tooltip.hidden = false;
    fill(
      tooltip,
      h("strong", {}, `${number(position)} ${options.xLabel}`),
      rows.map(([found, index]) => {
        const series = /** @type {Series} */ (found);
        const i = /** @type {number} */ (index);
        const interval = series.low?.[i] != null ? ` (${number(series.low[i])} to ${number(series.high?.[i])})` : "";
        return h(
          "div",
          {},
          h("span", { class: "swatch", style: { background: color(series.color ?? options.series.indexOf(series)) } }),
          ` ${series.name}: ${number(series.y[i])}${interval}`,
        );
      }),
    );
    tooltip.style.setProperty("left", `${Math.min(x(position) + 12, drawing.clientWidth - 190)}px`);
  }

  new ResizeObserver(() => draw()).observe(drawing);
  return {
    update(/** @type {LineOptions} */ next) {
      options = next;
      draw();
    },
  };
}

/** @param {Series} series @param {number} value @returns {number | null} */
function nearest(series, value) {
  let best = null;
  let distance = Infinity;
  series.x.forEach((x, index) => {
    if (series.y[index] !== null && Math.abs(x - value) < distance) [best, distance] = [index, Math.abs(x - value)];
  });
  return best;
}

/** @param {LineOptions} options */
function summary({ title, series, xLabel }) {
  const parts = series.map(({ name, x, y }) =>
    `${name} ends at ${number(y[y.length - 1])} after ${number(x[x.length - 1])} ${xLabel}`
  );
  return `${title}. ${parts.join("; ")}`;
}

/**
 * A heat map of a matrix, as a table whose cells are buttons.
 * @param {{title: string, rows: string[], columns: string[], values: (number | null)[][], rowLabel: string, columnLabel: string, onselect?: (row: number, column: number) => void, selected?: [number, number]}} options
 */
export function heatMap({ title, rows, columns, values, rowLabel, columnLabel, onselect, selected }) {
  const finite = /** @type {number[]} */ (values.flat().filter((value) => value !== null));
  const [low, high] = [Math.min(...finite), Math.max(...finite)];
  return h(
    "figure",
    { class: "heat" },
    h("figcaption", {}, title),
    h(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": title },
      h(
        "table",
        {},
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col" }, `${rowLabel} \\ ${columnLabel}`),
            columns.map((name) => h("th", { scope: "col" }, name)),
          ),
        ),
        h(
          "tbody",
          {},
          rows.map((name, i) =>
            h(
              "tr",
              {},
              h("th", { scope: "row" }, name),
              columns.map((_, j) => {
                const value = values[i]?.[j] ?? null;
                const share = value === null ? 0 : (value - low) / (high - low || 1);
                return h(
                  "td",
                  {
                    style: { "--share": share.toFixed(3) },
                    class: value === null && "none",
                  },
                  h("button", {
                    type: "button",
                    "aria-pressed": String(selected?.[0] === i && selected?.[1] === j),
                    onclick: () => onselect?.(i, j),
                  }, number(value, 3)),
                );
              }),
            )
          ),
        ),
      ),
    ),
  );
}

/**
 * Horizontal bars with 95% intervals, one group of bars for each label.
 * @param {{title: string, labels: string[], series: {name: string, values: (number | null)[], intervals?: ([number, number] | null)[]}[], max?: number, format?: (value: number | null) => string}} options
 */
export function bars({ title, labels, series, max = 1, format = (value) => number(value, 3) }) {
  return h(
    "figure",
    { class: "bars" },
    h("figcaption", {}, title),
    series.length > 1 &&
      h(
        "div",
        { class: "legend" },
        series.map(({ name }, index) =>
          h("span", { class: "key" }, h("span", { class: "swatch", style: { background: color(index) } }), name)
        ),
      ),
    h(
      "dl",
      {},
      labels.flatMap((label, row) => [
        h("dt", {}, label),
        h(
          "dd",
          {},
          series.map(({ values, intervals }, index) => {
            const value = values[row];
            const interval = intervals?.[row];
            return h(
              "div",
              { class: "bar-row" },
              h(
                "div",
                { class: "bar-track" },
                h("div", {
                  class: "bar-fill",
                  style: { width: `${(100 * (value ?? 0)) / max}%`, background: color(index) },
                }),
                interval &&
                  h("div", {
                    class: "bar-interval",
                    style: {
                      left: `${(100 * interval[0]) / max}%`,
                      width: `${(100 * (interval[1] - interval[0])) / max}%`,
                    },
                  }),
              ),
              h("span", {}, `${format(value)}${interval ? ` (${format(interval[0])} to ${format(interval[1])})` : ""}`),
            );
          }),
        ),
      ]),
    ),
  );
}
