/* Draws a figure that arrives as data (`Chart.to_json()` of distillscale/chart.py) with uPlot. It knows how numbers are
 * shown; where they come from it does not know, and it computes none.
 *
 *   const figure = DistillCharts.draw(element, chart);   figure.update(otherChart);   figure.destroy();
 *   DistillCharts.drawAll();   // every element with data-chart="ID", from the JSON in the script with that id
 *
 * A classic script on purpose: the same file is served, or pasted into a page that opens offline. Needs uPlot before it
 * and base.css beside it. Options of draw: {title: false} leaves the heading out, {height: px} fixes the height.
 */
"use strict";

globalThis.DistillCharts = (() => {
  const COLOURS = 8;
  const DASH = [7, 4];
  const SUFFIXES = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];
  const FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif';
  const live = new Set();

  // ---- numbers as text

  const trimmed = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);

  function power(value, digits) {
    const [mantissa, exponent] = value.toExponential(digits).split("e");
    return `${trimmed(mantissa)}e${Number(exponent)}`;
  }

  /** `1B`, `1e21`, `2.15`, `$300`: how a value of this axis is written, to so many significant digits. */
  function written(value, axis, digits = 4) {
    if (value === null || value === undefined || !Number.isFinite(value)) return "–";
    const size = Math.abs(value);
    if (value === 0) return "0";
    const money = axis.unit === "USD" ? "$" : "";
    if (/FLOP/i.test(axis.unit || axis.label) || size >= 1e15 || size < 1e-4) return money + power(value, digits - 1);
    for (const [unit, suffix] of SUFFIXES) {
      // What rounds up to the next suffix is written with it.
      if (Number(size.toPrecision(digits)) >= unit) {
        return money + String(Number((value / unit).toPrecision(digits))) + suffix;
      }
    }
    return money + String(Number(value.toPrecision(digits)));
  }

  const title = (axis) => (axis.unit ? `${axis.label}, ${axis.unit}` : axis.label);

  // ---- ticks

  function linearTicks(low, high, most) {
    const rough = (high - low) / Math.max(most, 1);
    const base = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * base).find((s) => s >= rough * (1 - 1e-9));
    const ticks = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(i * step);
    return ticks;
  }

  function logTicks(low, high, most) {
    const decades = Math.log10(high / low);
    if (decades < 0.9) return linearTicks(low, high, most);
    const within = (value) => value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9);
    const all = (factors, step) => {
      const ticks = [];
      const from = Math.floor(Math.log10(low) / step) * step;
      for (let e = from; e <= Math.ceil(Math.log10(high)); e += step) {
        for (const f of factors) if (within(f * 10 ** e)) ticks.push(f * Number(`1e${e}`));
      }
      return ticks;
    };
    for (const factors of [[1, 2, 5], [1, 3], [1]]) {
      const ticks = all(factors, 1);
      if (ticks.length <= most) return ticks;
    }
    for (const step of [2, 3, 5, 10, 20]) {
      const ticks = all([1], step);
      if (ticks.length <= most) return ticks;
    }
    return [];
  }

  /** As many digits as tell neighbouring ticks apart. */
  function tickTexts(ticks, axis) {
    for (let digits = 1; digits < 12; digits++) {
      const texts = ticks.map((t) => written(Math.abs(t) < 1e-12 ? 0 : t, axis, digits));
      const exact = ticks.every((t) => Math.abs(Number(t.toPrecision(digits)) - t) <= 1e-9 * Math.abs(t));
      if (exact && new Set(texts).size === texts.length) return texts;
    }
    return ticks.map((t) => written(t, axis));
  }

  // ---- data

  const usable = (value, scale) => value !== null && Number.isFinite(value) && (scale !== "log" || value > 0);

  /** One ascending x for all series; where a series has several points at one x, so many rows have it. uPlot takes
   *  undefined as "nothing here" and null as a gap. */
  function aligned(chart) {
    const rows = new Map();
    const places = chart.series.map((series) => {
      const order = [...series.x.keys()].filter((i) => usable(series.x[i], chart.x.scale));
      order.sort((a, b) => series.x[a] - series.x[b] || a - b);
      const seen = new Map();
      return order.map((i) => {
        const nth = seen.get(series.x[i]) || 0;
        seen.set(series.x[i], nth + 1);
        rows.set(series.x[i], Math.max(rows.get(series.x[i]) || 0, nth + 1));
        return [i, series.x[i], nth];
      });
    });
    const x = [];
    const first = new Map();
    for (const value of [...rows.keys()].sort((a, b) => a - b)) {
      first.set(value, x.length);
      for (let n = rows.get(value); n > 0; n--) x.push(value);
    }
    const column = (values, place) => {
      const out = new Array(x.length).fill(undefined);
      for (const [i, at, nth] of place) out[first.get(at) + nth] = usable(values[i], chart.y.scale) ? values[i] : null;
      return out;
    };
    const data = [x];
    chart.series.forEach((series, i) => {
      data.push(column(series.y, places[i]));
      if (series.low.length) data.push(column(series.high, places[i]), column(series.low, places[i]));
    });
    return data;
  }

  /** The names in the order of the series; series of one name share a colour and a line of the legend. */
  const namesOf = (chart) => [...new Set(chart.series.map((s) => s.name))];

  const paint = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colourOf = (index) => paint(`--c${(index % COLOURS) + 1}`);

  function faded(colour, alpha) {
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
    return `rgba(${r}, ${g}, ${b}, ${alpha})`;
  }

  // ---- marks, drawn on the canvas after the series

  function drawMarks(u, chart) {
    const { ctx } = u;
    const ratio = devicePixelRatio || 1;
    const { left, top, width, height } = u.bbox;
    const boxes = [];
    const px = (value, scale) => u.valToPos(value, scale, true);
    const inside = (value, scale) => value !== null && value >= u.scales[scale].min && value <= u.scales[scale].max;
    ctx.save();
    ctx.font = FONT.replace("12px", `${12 * ratio}px`);
    ctx.lineWidth = 1.25 * ratio;

    function label(text, x, y) {
      const w = ctx.measureText(text).width;
      const h = 15 * ratio;
      const pad = 6 * ratio;
      let at = x + pad + w <= left + width ? x + pad : x - pad - w;
      at = Math.max(left + 2 * ratio, Math.min(at, left + width - w - 2 * ratio));
      let line = Math.max(top + h, Math.min(y, top + height - 3 * ratio));
      const hits = () => boxes.some((b) => at < b.x + b.w + pad && b.x < at + w + pad && line - h < b.y && b.y - b.h < line);
      for (let tries = 0; hits() && tries < 8; tries++) line += h;
      boxes.push({ x: at, y: line, w, h });
      ctx.textAlign = "left";
      ctx.textBaseline = "alphabetic";
      ctx.lineJoin = "round";
      ctx.lineWidth = 4 * ratio;
      ctx.strokeStyle = paint("--bg");
      ctx.setLineDash([]);
      ctx.strokeText(text, at, line);
      ctx.fillStyle = paint("--ink");
      ctx.fillText(text, at, line);
      ctx.lineWidth = 1.25 * ratio;
    }

    function rule(x0, y0, x1, y1) {
      ctx.strokeStyle = paint("--muted");
      ctx.setLineDash([3 * ratio, 3 * ratio]);
      ctx.beginPath();
      ctx.moveTo(x0, y0);
      ctx.lineTo(x1, y1);
      ctx.stroke();
    }

    chart.series.forEach((series) => {
      if (series.style !== "points" || !series.low.length) return;
      ctx.strokeStyle = colourOf(namesOf(chart).indexOf(series.name));
      ctx.lineWidth = 2 * ratio;
      series.x.forEach((value, i) => {
        const ends = [series.low[i], series.high[i]];
        if (!inside(value, "x") || !ends.every((end) => usable(end, chart.y.scale))) return;
        const x = px(value, "x");
        const [low, high] = ends.map((end) => Math.max(top, Math.min(top + height, px(end, "y"))));
        ctx.beginPath();
        ctx.moveTo(x, low);
        ctx.lineTo(x, high);
        for (const y of [low, high]) {
          ctx.moveTo(x - 5 * ratio, y);
          ctx.lineTo(x + 5 * ratio, y);
        }
        ctx.stroke();
      });
    });
    ctx.lineWidth = 1.25 * ratio;

    for (const mark of chart.marks) {
      const hasX = mark.x !== null;
      const hasY = mark.y !== null;
      if ((hasX && !inside(mark.x, "x")) || (hasY && !inside(mark.y, "y"))) continue;
      if (hasX && hasY) {
        const [x, y] = [px(mark.x, "x"), px(mark.y, "y")];
        ctx.setLineDash([]);
        ctx.beginPath();
        ctx.arc(x, y, 5 * ratio, 0, 2 * Math.PI);
        ctx.fillStyle = paint("--ink");
        ctx.strokeStyle = paint("--bg");
        ctx.lineWidth = 2 * ratio;
        ctx.fill();
        ctx.stroke();
        label(mark.label, x, y - 9 * ratio);
      } else if (hasX) {
        const x = px(mark.x, "x");
        rule(x, top, x, top + height);
        label(mark.label, x, top + 14 * ratio);
      } else if (hasY) {
        const y = px(mark.y, "y");
        rule(left, y, left + width, y);
        label(mark.label, left, y - 5 * ratio);
      }
    }
    ctx.restore();
  }

  // ---- one figure

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function swatch(style, index) {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    svg.setAttribute("width", "22");
    svg.setAttribute("height", "10");
    svg.setAttribute("aria-hidden", "true");
    const shape = document.createElementNS(space, style === "points" ? "circle" : "line");
    const set = style === "points" ? { cx: 11, cy: 5, r: 4 } : { x1: 0, y1: 5, x2: 22, y2: 5, "stroke-width": 2.5 };
    for (const [name, value] of Object.entries(set)) shape.setAttribute(name, value);
    if (style === "dashed") shape.setAttribute("stroke-dasharray", DASH.join(" "));
    shape.style[style === "points" ? "fill" : "stroke"] = `var(--c${(index % COLOURS) + 1})`;
    svg.append(shape);
    return svg;
  }

  function dataTable(chart) {
    const table = make("table");
    const banded = chart.series.some((s) => s.low.length);
    table.append(make("caption", "visually-hidden", `Data of: ${chart.title}`));
    const head = make("tr");
    const names = ["series", title(chart.x), title(chart.y), ...(banded ? ["low (90 %)", "high (90 %)"] : [])];
    for (const name of names) head.append(Object.assign(make("th", "", name), { scope: "col" }));
    table.append(make("thead"));
    table.tHead.append(head);
    const body = make("tbody");
    const add = (name, cells) => {
      const row = make("tr");
      row.append(Object.assign(make("th", "", name), { scope: "row" }), ...cells.map((text) => make("td", "", text)));
      body.append(row);
    };
    for (const s of chart.series) {
      s.x.forEach((x, i) => {
        const cells = [written(x, chart.x), written(s.y[i], chart.y, 5)];
        if (banded) cells.push(...[s.low, s.high].map((ends) => (ends.length ? written(ends[i], chart.y, 5) : "")));
        add(s.name, cells);
      });
    }
    for (const m of chart.marks) {
      add(m.label, [written(m.x, chart.x), written(m.y, chart.y, 5), ...(banded ? ["", ""] : [])]);
    }
    table.append(body);
    return table;
  }

  class Figure {
    constructor(element, chart, options) {
      this.element = element;
      this.options = options;
      this.build();
      this.update(chart);
      this.observer = new ResizeObserver(() => this.fit());
      this.observer.observe(this.plot);
      live.add(this);
    }

    build() {
      this.element.classList.add("chart");
      this.element.replaceChildren();
      const head = make("div", "chart-head");
      this.heading = make("div", "chart-title");
      this.heading.hidden = this.options.title === false;
      this.reset = make("button", "chart-reset", "Reset zoom");
      this.reset.type = "button";
      this.reset.hidden = true;
      this.reset.addEventListener("click", () => {
        this.zoomOut();
        this.plot.focus();
      });
      head.append(this.heading, this.reset);
      this.legend = make("ul", "chart-legend");
      this.plot = make("div", "chart-plot");
      this.plot.setAttribute("role", "img");
      this.plot.tabIndex = 0;
      this.plot.addEventListener("keydown", (event) => this.key(event));
      this.plot.addEventListener("blur", () => this.u && this.u.setCursor({ left: -10, top: -10 }));
      this.spoken = make("p", "visually-hidden");
      this.spoken.setAttribute("aria-live", "polite");
      this.told = make("p", "chart-told");
      this.note = make("p", "chart-note");
      this.details = make("details", "chart-data");
      this.details.append(make("summary", "", "Data"));
      this.box = make("div");
      this.box.tabIndex = 0;
      this.box.setAttribute("role", "region");
      this.details.append(this.box);
      this.details.addEventListener("toggle", () => this.fillTable());
      this.element.append(head, this.legend, this.plot, this.spoken, this.told, this.note, this.details);
    }

    update(chart) {
      const shape = (c) => JSON.stringify([c.x, c.y, c.series.map((s) => [s.name, s.style, s.low.length > 0])]);
      const same = this.u && shape(chart) === shape(this.chart);
      const zoom = same && !this.reset.hidden ? { ...this.span } : null;
      this.chart = chart;
      this.data = aligned(chart);
      this.heading.textContent = chart.title;
      this.told.textContent = chart.told;
      this.told.hidden = !chart.told;
      this.note.textContent = [chart.caption, chart.source && `Source: ${chart.source}`].filter(Boolean).join(" ");
      this.note.hidden = !this.note.textContent;
      this.plot.setAttribute("aria-label", [chart.title, chart.told].filter(Boolean).join(". "));
      this.box.setAttribute("aria-label", `Data of: ${chart.title}`);
      if (same) {
        this.u.setData(this.data, !zoom);
        if (zoom) this.u.setScale("x", zoom);
      } else {
        this.list();
        if (this.u) this.u.destroy();
        this.u = new uPlot(this.uplotOptions(), this.data, this.plot);
      }
      this.fillTable();
    }

    fillTable() {
      this.box.replaceChildren(...(this.details.open ? [dataTable(this.chart)] : []));
    }

    list() {
      this.values = [];
      this.at = make("li", "chart-at");
      const items = namesOf(this.chart).map((name, i) => {
        const parts = this.chart.series.filter((s) => s.name === name);
        const item = make("li");
        const value = make("span");
        const ends = parts.find((s) => s.low.length);
        const banded = ends ? ` (${ends.style === "points" ? "bar" : "band"}: 90 %)` : "";
        item.append(swatch(parts[0].style, i), make("span", "", name + banded), value);
        this.values.push(value);
        return item;
      });
      this.legend.replaceChildren(...items, this.at);
    }

    size() {
      const width = Math.max(this.plot.clientWidth, 200);
      return { width, height: this.options.height || Math.round(Math.min(360, Math.max(230, width * 0.56))) };
    }

    fit() {
      const { width, height } = this.size();
      if (this.u && (width !== this.u.width || height !== this.u.height)) this.u.setSize({ width, height });
    }

    /** From the smallest to the largest value in sight, marks included, with a margin. */
    range(name, low, high) {
      const { scale } = this.chart[name];
      const ends = [low, high].filter((v) => v !== null && v !== undefined && Number.isFinite(v));
      for (const mark of this.chart.marks) {
        const seen = name === "x" || mark.x === null || !this.zoomed() || (mark.x >= this.span.min && mark.x <= this.span.max);
        if (seen && mark[name] !== null && usable(mark[name], scale)) ends.push(mark[name]);
      }
      if (!ends.length) return scale === "log" ? [1, 10] : [0, 1];
      const turn = scale === "log" ? Math.log : (v) => v;
      const back = scale === "log" ? Math.exp : (v) => v;
      const [a, b] = [turn(Math.min(...ends)), turn(Math.max(...ends))];
      const flat = scale === "log" ? 0.5 : Math.abs(a) * 0.05 || 1;
      const margin = b > a ? (b - a) * (name === "x" ? 0.01 : 0.07) : flat;
      return [back(a - margin), back(b + margin)];
    }

    axis(name, side) {
      const axis = this.chart[name];
      const across = side % 2 === 0;
      return {
        scale: name,
        side,
        label: title(axis),
        labelFont: FONT,
        labelSize: 20,
        labelGap: 2,
        font: FONT,
        stroke: () => paint("--ink"),
        grid: { stroke: () => paint("--line"), width: 1 },
        ticks: { stroke: () => paint("--line"), width: 1, size: 5 },
        size: across
          ? 30
          : (u, texts) => {
              if (!texts) return 44;
              u.ctx.save();
              u.ctx.font = FONT;
              const widest = Math.max(...texts.map((t) => u.ctx.measureText(t || "").width), 16);
              u.ctx.restore();
              return Math.ceil(widest) + 14;
            },
        splits: (u, i, low, high) => {
          const length = (across ? u.bbox.width : u.bbox.height) / (devicePixelRatio || 1);
          return (axis.scale === "log" ? logTicks : linearTicks)(low, high, Math.max(2, length / (across ? 72 : 34)));
        },
        filter: (u, splits) => splits,
        values: (u, splits) => tickTexts(splits, axis),
      };
    }

    uplotOptions() {
      const series = [{}];
      const bands = [];
      this.owner = [-1];
      const names = namesOf(this.chart);
      this.chart.series.forEach((s) => {
        const points = s.style === "points";
        const i = names.indexOf(s.name);
        series.push({
          label: s.name,
          scale: "y",
          pxAlign: 0,
          stroke: () => colourOf(i),
          width: points ? 0 : 2,
          dash: s.style === "dashed" ? DASH : undefined,
          paths: points ? () => null : undefined,
          points: points ? { show: true, size: 7, space: 0, width: 0, fill: () => colourOf(i) } : { show: false },
        });
        this.owner.push(i);
        if (!s.low.length) return;
        for (let end = 0; end < 2; end++) {
          series.push({ scale: "y", pxAlign: 0, stroke: "transparent", width: 0, points: { show: false } });
          this.owner.push(-1);
        }
        if (!points) bands.push({ series: [series.length - 2, series.length - 1], fill: () => faded(colourOf(i), 0.2) });
      });
      const scaleOf = (name) => ({
        time: false,
        distr: this.chart[name].scale === "log" ? 3 : 1,
        range: (u, low, high) => (name === "x" ? this.rangeOfX(low, high) : this.range(name, low, high)),
      });
      this.span = null;
      return {
        ...this.size(),
        padding: [8, 12, 0, 0],
        scales: { x: scaleOf("x"), y: scaleOf("y") },
        series,
        bands,
        axes: [this.axis("x", 2), this.axis("y", 3)],
        legend: { show: false },
        cursor: {
          y: false,
          drag: { x: true, y: false, dist: 6 },
          points: { size: 8, width: 2, stroke: () => paint("--bg"), fill: (u, i) => colourOf(Math.max(this.owner[i], 0)) },
          dataIdx: (u, i, hovered) => (i === 0 ? hovered : this.owner[i] < 0 ? null : this.nearest(i, hovered)),
        },
        hooks: {
          draw: [(u) => drawMarks(u, this.chart)],
          setCursor: [(u) => this.read(u)],
          setScale: [(u, name) => name === "x" && this.scaled(u)],
        },
      };
    }

    zoomed() {
      return !this.reset.hidden && this.span !== null;
    }

    /** The whole of x with marks, or what was dragged over. */
    rangeOfX(low, high) {
      const [x] = this.data;
      const whole = !x.length || (low === x[0] && high === x[x.length - 1]);
      return whole ? this.range("x", low, high) : [low, high];
    }

    scaled(u) {
      const { min, max } = u.scales.x;
      const [low, high] = this.range("x", this.data[0][0], this.data[0].at(-1));
      this.span = { min, max };
      const part = (value) => (this.chart.x.scale === "log" ? Math.log(value) : value);
      this.reset.hidden = part(max) - part(min) > 0.995 * (part(high) - part(low));
    }

    zoomOut() {
      this.u.setData(this.data, true);
    }

    /** The index of the series' own point nearest to the cursor, within 40 pixels. */
    nearest(i, hovered) {
      const values = this.data[i];
      const away = (at) => Math.abs(this.u.valToPos(this.data[0][at], "x") - this.u.cursor.left);
      const step = (by) => {
        let at = hovered;
        while (at >= 0 && at < values.length && (values[at] === undefined || values[at] === null)) at += by;
        return at >= 0 && at < values.length ? at : null;
      };
      const found = [step(-1), step(1)].filter((at) => at !== null).sort((a, b) => away(a) - away(b))[0];
      return found !== undefined && away(found) <= 40 ? found : null;
    }

    read(u) {
      const hovered = u.cursor.idx;
      const off = hovered === null || hovered === undefined || u.cursor.left < 0;
      const { x, y } = this.chart;
      this.at.textContent = off ? "" : `at ${x.label} ${written(this.data[0][hovered], x)}`;
      const texts = this.values.map(() => "");
      this.owner.forEach((owner, i) => {
        const at = off || owner < 0 || texts[owner] ? null : this.nearest(i, hovered);
        if (at === null) return;
        texts[owner] = written(this.data[i][at], y, 5);
        if (this.owner[i + 1] < 0 && usable(this.data[i + 1][at] ?? null, y.scale)) {
          texts[owner] += ` (${written(this.data[i + 2][at], y)} to ${written(this.data[i + 1][at], y)})`;
        }
      });
      texts.forEach((text, i) => (this.values[i].textContent = text));
    }

    /** Left and right read the figure off point by point; Home and End jump; Escape resets the zoom. */
    key(event) {
      const { u } = this;
      const [x] = this.data;
      const from = u.valToIdx(u.scales.x.min);
      const to = u.valToIdx(u.scales.x.max);
      const now = u.cursor.idx ?? Math.round((from + to) / 2);
      const big = Math.max(1, Math.round((to - from) / 10));
      const moves = { ArrowLeft: now - 1, ArrowRight: now + 1, PageDown: now - big, PageUp: now + big, Home: from, End: to };
      if (event.key === "Escape" && this.zoomed()) this.zoomOut();
      else if (event.key in moves && x.length) {
        const at = Math.max(from, Math.min(to, moves[event.key]));
        u.setCursor({ left: u.valToPos(x[at], "x"), top: 10 });
        const parts = namesOf(this.chart).map((name, i) => this.values[i].textContent && `${name} ${this.values[i].textContent}`);
        this.spoken.textContent = [this.at.textContent, ...parts].filter(Boolean).join(", ");
      } else return;
      event.preventDefault();
    }

    destroy() {
      this.observer.disconnect();
      if (this.u) this.u.destroy();
      this.element.replaceChildren();
      live.delete(this);
    }
  }

  const repaint = () => live.forEach((figure) => figure.u && figure.u.redraw(true));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  new MutationObserver(repaint).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });

  function draw(element, chart, options = {}) {
    return new Figure(element, chart, options);
  }

  function drawAll(root = document) {
    return [...root.querySelectorAll("[data-chart]")].map((element) =>
      draw(element, JSON.parse(document.getElementById(element.dataset.chart).textContent)),
    );
  }

  return { draw, drawAll, written };
})();
