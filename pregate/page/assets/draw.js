"use strict";
/* Pictures: a map of winners with lines of equal value, and a step of a timeline, each on a canvas. */

/** A number in a unit people read, three digits, as the command line prints it. */
function si(value, unit) {
  if (!Number.isFinite(value)) return "-";
  if (unit === "tokens/s") return three(value, 4) + " tokens/s";
  const scales = unit === "s" ? [[1, "s"], [1e-3, "ms"], [1e-6, "us"]] : [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1, "B"]];
  for (const [factor, name] of scales) {
    const shown = Math.abs(Number((value / factor).toPrecision(3)));  // 0.9996 is shown as 1
    if (shown >= 1 || factor === 1e-6) {
      if (!value) return `0 ${unit}`;
      const text = shown < 1000 ? three(value / factor, 3) : Number((value / factor).toPrecision(3)).toLocaleString("en-US");
      return `${text} ${name}${unit.slice(1)}`;
    }
  }
  return `0 ${unit}`;
}

/** As Python's %.3g. */
function three(value, digits) {
  const text = value.toPrecision(digits);
  const [number, exponent] = text.split("e");
  const short = number.includes(".") ? number.replace(/\.?0+$/, "") : number;
  if (exponent === undefined) return short;
  return `${short}e${exponent[0]}${exponent.slice(1).padStart(2, "0")}`;
}

/** A canvas made sharp, cleared, with its size in CSS pixels and the colours of the page. */
function begin(canvas) {
  const ratio = window.devicePixelRatio || 1, box = canvas.getBoundingClientRect();
  canvas.width = Math.max(1, Math.round(box.width * ratio));
  canvas.height = Math.max(1, Math.round(box.height * ratio));
  const pen = canvas.getContext("2d"), colours = getComputedStyle(document.documentElement);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.font = "12px system-ui, sans-serif";
  const of = (name) => colours.getPropertyValue(name).trim();
  return {pen, width: box.width, height: box.height, ink: of("--ink"), soft: of("--soft"), line: of("--line"), paper: of("--paper")};
}

const MAP = {left: 92, right: 14, top: 8, bottom: 40};

/** Where stop `i` of the link lies across the map, and its inverse; stops are even in the logarithm. */
function across(links, width) {
  const low = Math.log(links[0]), high = Math.log(links[links.length - 1]), span = width - MAP.left - MAP.right;
  return (value) => MAP.left + (Math.log(value) - low) / (high - low) * span;
}

/** Strokes of a hatch in a tile of eight by eight, by the number that a design has; those that grey tells apart have none. */
const HATCHES = [[], [[0, 8, 8, 0]], [[0, 0, 8, 8]], [[0, 4, 8, 4]], [[4, 0, 4, 8]], [[0, 0, 8, 8], [0, 8, 8, 0]], [[0, 4, 8, 4], [4, 0, 4, 8]]];

/** The same hatches as angles of stripes, for marks of a legend. */
const ANGLES = [[], [-45], [45], [0], [90], [45, -45], [0, 90]];

/** A tile of a colour with its hatch. */
function tileOf(colour, hatch) {
  const tile = document.createElement("canvas"), pen = tile.getContext("2d");
  tile.width = tile.height = 8;
  pen.fillStyle = colour;
  pen.fillRect(0, 0, 8, 8);
  pen.strokeStyle = "#ffffffb0";
  for (const [x, y, toX, toY] of HATCHES[hatch] || []) {
    pen.beginPath();
    pen.moveTo(x, y);
    pen.lineTo(toX, toY);
    pen.stroke();
  }
  return tile;
}

/** Who wins at each stop of the link (across) and of another slider (upwards).
    `rows`: {name, labels, cubes: per row [design][stop], here}; `here` a stop of the link. */
function drawMap(canvas, links, rows, tiles, metric, unit, here, ranked) {
  const {pen, width, height, ink, soft, paper} = begin(canvas), x = across(links, width);
  const tall = (height - MAP.top - MAP.bottom) / rows.labels.length, top = (row) => height - MAP.bottom - (row + 1) * tall;
  const best = rows.cubes.map((cube) => Array.from(links, (_, i) => bestOf(cube.map((line) => line && line[i]), metric, ranked)));
  const edge = (i) => i <= 0 ? x(links[0]) : i >= links.length ? x(links[links.length - 1]) : (x(links[i - 1]) + x(links[i])) / 2;
  const areas = tiles.map((tile) => pen.createPattern(tile, "repeat"));
  rows.labels.forEach((label, row) => {
    best[row].forEach((design, i) => {
      pen.fillStyle = design < 0 ? paper : areas[design];
      pen.fillRect(edge(i), top(row), edge(i + 1) - edge(i) + 1, tall - 1);
    });
    pen.fillStyle = ink;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    pen.fillText(label, MAP.left - 8, top(row) + tall / 2);
  });
  const value = (row, i) => best[row][i] < 0 ? NaN : rows.cubes[row][best[row][i]][i];
  const circle = {px: x(links[here]), py: top(rows.here) + tall / 2};
  drawLines(pen, {x, top, tall, links, n: rows.labels.length, value, unit, ink, paper, width, circle});
  pen.fillStyle = soft;
  pen.textAlign = "center";
  pen.textBaseline = "top";
  const numbers = [];
  for (const gb of [1, 2, 5, 10, 20, 50, 100, 200, 500]) {
    if (gb * 1e9 < links[0] || gb * 1e9 > links[links.length - 1]) continue;
    if (hasRoom(pen, numbers, String(gb), x(gb * 1e9), height - MAP.bottom + 4)) pen.fillText(String(gb), x(gb * 1e9), height - MAP.bottom + 4);
  }
  pen.fillText("link, GB/s", (MAP.left + width - MAP.right) / 2, height - 18);
  ring(pen, circle, ink, paper);
  return best;
}

/** Whether a text at a place stands clear of those in `taken`, which it then joins; as `pen` aligns it. */
function hasRoom(pen, taken, text, px, py) {
  const wide = pen.measureText(text).width, shift = {left: 0, center: wide / 2, right: wide}[pen.textAlign];
  const box = [px - shift - 4, px - shift + wide + 4, py - 8, py + 8];
  if (taken.some((other) => box[0] < other[1] && other[0] < box[1] && box[2] < other[3] && other[2] < box[3])) return false;
  taken.push(box);
  return true;
}

/** Lines of equal value of the winner: through each row where the link crosses it, halfway between rows where it does not.
    A line's number stands on its right where a row has room beside other numbers and the ring, else on its left, `circle`. */
function drawLines(pen, map) {
  const {x, top, tall, links, n, value, unit, ink, paper, circle} = map, levels = levelsOf(n, links.length, value);
  const taken = [[circle.px - RING - 3, circle.px + RING + 3, circle.py - RING - 3, circle.py + RING + 3]];
  for (const level of levels) {
    const places = [];
    for (let row = 0; row < n; row++) {
      for (let i = 0; i + 1 < links.length; i++) {
        const a = value(row, i), b = value(row, i + 1);
        if (!(Math.min(a, b) <= level && level < Math.max(a, b))) continue;
        const share = (Math.log(level) - Math.log(a)) / (Math.log(b) - Math.log(a));
        places.push([x(links[i]) + share * (x(links[i + 1]) - x(links[i])), top(row) + tall / 2]);
        break;
      }
    }
    if (!places.length) continue;
    for (const [colour, thick] of [[paper, 3.5], [ink, 1.3]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = thick;
      pen.beginPath();
      if (places.length === 1) { pen.moveTo(places[0][0], places[0][1] - tall / 2); pen.lineTo(places[0][0], places[0][1] + tall / 2); }
      places.forEach(([px, py], i) => i ? pen.lineTo(px, py) : pen.moveTo(px, py));
      pen.stroke();
    }
    const text = si(level, unit), wide = pen.measureText(text).width;
    places.reverse();
    const beside = [...places.map(([px, py]) => [px + 5, py, "left"]), ...places.map(([px, py]) => [px - 5, py, "right"])];
    const free = beside.find(([px, py, side]) => {
      const left = side === "left" ? px : px - wide;
      pen.textAlign = side;
      return left > MAP.left && left + wide < map.width - MAP.right && hasRoom(pen, taken, text, px, py);
    });
    if (free === undefined) continue;
    pen.textBaseline = "middle";
    pen.lineWidth = 3.5;
    pen.strokeStyle = paper;
    pen.strokeText(text, free[0], free[1]);
    pen.fillStyle = ink;
    pen.fillText(text, free[0], free[1]);
  }
}

/** Up to six round values between the least and the most. */
function levelsOf(n, stops, value) {
  let least = Infinity, most = 0;
  for (let row = 0; row < n; row++) for (let i = 0; i < stops; i++) {
    const here = value(row, i);
    if (here > 0) { least = Math.min(least, here); most = Math.max(most, here); }
  }
  const round = [];
  for (let e = Math.floor(Math.log10(least)); e <= Math.log10(most); e++) for (const d of [1, 2, 5]) {
    const level = Number(`${d}e${e}`);
    if (level > least && level < most) round.push(level);
  }
  const every = Math.max(1, Math.ceil(round.length / 6));
  return round.filter((_, i) => i % every === 0);
}

const RING = 7;

function ring(pen, {px, py}, ink, paper) {
  for (const [colour, thick] of [[paper, 5], [ink, 2]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = thick;
    pen.beginPath();
    pen.arc(px, py, RING, 0, 2 * Math.PI);
    pen.stroke();
  }
}

/** One forward pass of a run, lane by lane; returns the families drawn, with their colours, and each lane's busy share. */
function drawTimeline(canvas, page, answer, step) {
  const {pen, width, height, ink, soft, line} = begin(canvas), {schedule, run} = answer;
  const mine = [];
  for (let i = 0; i < schedule.step.length; i++) if (schedule.step[i] === step) mine.push(i);
  const ends = schedule.step_ends, at = Array.from(ends).findIndex((op) => schedule.step[op] === step);
  const from = at > 0 ? run.end[ends[at - 1]] : 0, until = run.end[ends[at]], span = until - from;
  const lanes = page.lanes.map((_, lane) => lane).filter((lane) => mine.some((i) => schedule.lane[i] === lane));
  const tall = (height - 30) / lanes.length, left = 104, x = (time) => left + (time - from) / span * (width - left - 10);
  const families = new Map(), busy = {};
  lanes.forEach((lane, row) => {
    const y = row * tall + 4;
    pen.fillStyle = ink;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    pen.fillText(page.lanes[lane], left - 8, y + tall / 2);
    pen.strokeStyle = line;
    pen.lineWidth = 1;
    pen.strokeRect(left, y, width - left - 10, tall - 5);
    let used = 0;
    for (const i of mine) {
      if (schedule.lane[i] !== lane || run.end[i] <= from || run.start[i] >= until || run.end[i] === run.start[i]) continue;
      const kind = page.kinds[schedule.kind[i]], a = Math.max(run.start[i], from), b = Math.min(run.end[i], until);
      used += b - a;
      families.set(kind.family, kind.colour);
      pen.fillStyle = kind.colour;
      pen.fillRect(x(a), y + 1, Math.max(x(b) - x(a), 0.3), tall - 7);
    }
    busy[page.lanes[lane]] = span ? used / span : 0;
  });
  pen.fillStyle = soft;
  pen.textBaseline = "top";
  const times = [];
  for (const i of [0, 4, 2, 1, 3]) {  // ends first: they stay where the width is small
    pen.textAlign = i === 4 ? "right" : i === 0 ? "left" : "center";
    const text = si(span * i / 4, "s"), px = x(from + span * i / 4);
    if (hasRoom(pen, times, text, px, height - 20)) pen.fillText(text, px, height - 20);
  }
  return {families, busy, span};
}
