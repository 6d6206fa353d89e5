"use strict";
/* The page: sliders to state, state to answers, answers to what is seen; the state is in the address. */

const TITLES = {tpot_s: "time per output token", ttft_s: "time to first token", moe_layer_latency_s: "MoE layer latency", tokens_per_s: "tokens a second"};
const PARTS = {fixed: "launches and latencies", compute: "arithmetic", hbm: "HBM traffic", link: "bytes over the link", disk: "storage", dram: "host memory", issue: "issuing on the host"};
const ROWS = {hbm: "HBM", batch: "batch", prompt: "prompt", active: "active experts"};
const STRUCTURE = ["model", "machine", "batch", "prompt", "active", "hbm", "link"];
const page = JSON.parse(byId("document").textContent);
const unitOf = (metric) => metric === "tokens_per_s" ? "tokens/s" : "s";
const tiles = page.colours.map((colour, i) => tileOf(colour, page.hatches[i]));
const marks = page.colours.map((colour, i) => [...ANGLES[page.hatches[i]].map((angle) => `repeating-linear-gradient(${angle}deg, #ffffffb0 0 1px, transparent 1px 4px)`), colour].join(", "));
let buffer = null, state = null;

function byId(id) { return document.getElementById(id); }

/** The block of the page, inflated. */
async function inflated(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

/** The 95 % interval of the metric that is judged by, in words; "" where there is none, as on another link. */
function intervalOf(answer) {
  const at = page.metrics.indexOf(state.metric), ends = answer.ends && answer.ends.subarray(2 * at, 2 * at + 2);
  if (!ends || Number.isNaN(ends[0])) return "";
  const [low, high] = Array.from(ends, (end) => state.metric === "tokens_per_s" ? three(end, 3) : si(end, "s"));
  return `${low} to ${high}`;
}

function linksOf(machine) { return arrayOf(buffer, page.machines[machine].links); }

/** Labels of the stops of a slider, as they are where `at` stands. */
function labelsOf(name, at) {
  switch (name) {
    case "link": return Array.from(linksOf(at.machine), (value) => si(value, "B/s"));
    case "hbm": return page.machines[at.machine].hbm.map((value) => si(value, "B"));
    case "batch": return page.batches.map(String);
    case "prompt": return page.prompts.map((n) => `${n} tokens`);
    case "active": return page.models[at.model].actives.map((n) => n ? String(n) : "as routed");
    case "model": return page.models.map((model) => model.name);
    default: return page.machines.map((machine) => `${machine.name} (${machine.stack})`);
  }
}

function startState() {
  const own = page.machines[0].own_hbm;
  return {model: 0, machine: 0, batch: 0, prompt: 0, active: 0, hbm: own, link: page.machines[0].own_link, metric: "tpot_s", rows: "hbm", design: ""};
}

/** The state that the address tells, every number within its slider. */
function readAddress() {
  const read = startState(), said = new URLSearchParams(location.hash.slice(1));
  for (const name of STRUCTURE) {
    if (name === "link" && !said.has("link")) read.link = page.machines[read.machine].own_link;
    const value = Number(said.get(name));
    if (said.has(name) && Number.isInteger(value)) read[name] = Math.min(Math.max(value, 0), labelsOf(name, read).length - 1);
  }
  if (page.metrics.includes(said.get("metric"))) read.metric = said.get("metric");
  if (said.get("rows") in ROWS) read.rows = said.get("rows");
  if (page.designs.includes(said.get("design"))) read.design = said.get("design");
  return read;
}

function writeAddress() {
  const said = new URLSearchParams(Object.entries(state).filter(([, value]) => value !== ""));
  history.replaceState(null, "", `#${said}`);
}

/** The best design, by how much, and from which link on another one wins. */
function verdictOf(answers, cube) {
  const values = answers.map((answer) => answer.reason ? null : answer.metrics[state.metric]), best = bestOf(values, state.metric, page.ranked);
  const why = answers.find((answer, i) => answer.reason && page.ranked[i]);
  if (best < 0) return {best, text: [`No answer here: ${why.reason}.`, ...page.told_apart].join(" ")};
  const isSame = (answer, i) => i === best || (!answer.reason && page.ranked[i] && page.metrics.every((one) => answer.metrics[one] === answers[best].metrics[one]));
  const alike = answers.map(isSame), others = values.map((value, i) => alike[i] ? null : value), next = bestOf(others, state.metric, page.ranked);
  const more = state.metric === "tokens_per_s", name = page.designs[best];
  const same = page.designs.filter((_, i) => alike[i] && i !== best), near = rivalsOf(answers[best], values, more).filter((i) => !alike[i]).map((i) => page.designs[i]);
  const andMore = (names) => `${names[0]}${names.length > 1 ? ` and ${names.length - 1} more` : ""}`;
  let text = `${name} ${near.length ? "leads" : "wins"}: ${si(values[best], unitOf(state.metric))} ${more ? "" : TITLES[state.metric]}`.trim();
  const interval = intervalOf(answers[best]);
  if (interval) text += ` (95 %: ${interval})`;
  if (next >= 0) {
    const ratio = more ? values[best] / values[next] : values[next] / values[best];
    text += ratio < 1.0005 ? `, as fast as ${page.designs[next]}` : `, ${three(ratio, 3)} times as fast as ${page.designs[next]}`;
  }
  if (same.length) text += `; ${andMore(same)} ${same.length > 1 ? "do" : "does"} the very same here`;
  if (near.length) text += `; too close to tell from ${andMore(near)}`;
  return {best, text: [`${text}.`, crossing(cube, best), ...page.told_apart].join(" ")};
}

/** The ranked designs that the best cannot be told from on the machine's own link, the nearest first. */
function rivalsOf(answer, values, more) {
  const alike = answer.alike ? answer.alike[page.metrics.indexOf(state.metric)].filter((i) => page.ranked[i]) : [];
  return alike.sort((a, b) => more ? values[b] - values[a] : values[a] - values[b]);
}

/** In words: the nearest link at which another design wins. */
function crossing(cube, best) {
  const links = linksOf(state.machine), found = [];
  for (const side of [1, -1]) {
    for (let i = state.link + side; i >= 0 && i < links.length; i += side) {
      const winner = bestOf(cube.map((line) => line && line[i]), state.metric, page.ranked), now = cube[best][i];
      if (winner < 0 || winner === best || Math.abs(cube[winner][i] / now - 1) < 1e-6) continue;
      found.push([Math.abs(i - state.link), `${page.designs[winner]} from ${si(links[i], "B/s")} ${side > 0 ? "up" : "down"}`]);
      break;
    }
  }
  if (!found.length) return `No other design wins at any link from ${si(links[0], "B/s")} to ${si(links[links.length - 1], "B/s")}.`;
  return `On another link: ${found.sort((a, b) => a[0] - b[0]).map((entry) => entry[1]).join("; ")}.`;
}

function cellOf(text, tag = "td", style = "") {
  const cell = document.createElement(tag);
  cell.textContent = text;
  if (tag === "td") cell.setAttribute("role", "cell");
  if (style) cell.className = style;
  return cell;
}

function swatch(colour, text) {
  const item = document.createElement("span"), mark = document.createElement("i");
  mark.style.background = colour;
  item.append(mark, text);
  return item;
}

function showDesigns(answers, best) {
  const rows = answers.map((answer, i) => {
    const row = document.createElement("tr"), head = cellOf("", "th", "text");
    row.setAttribute("role", "row");  // narrow screens lay rows out as grids, which takes their meaning away
    head.setAttribute("role", "rowheader");
    head.scope = "row";
    head.append(swatch(marks[i], answer.design));
    row.append(head);
    if (answer.reason) {
      const reason = cellOf(answer.reason, "td", "reason");
      reason.colSpan = 6;
      row.append(reason);
      return row;
    }
    const {tpot_s, ttft_s, moe_layer_latency_s, tokens_per_s} = answer.metrics, value = answer.metrics[state.metric];
    const least = best < 0 ? NaN : answers[best].metrics[state.metric], ratio = state.metric === "tokens_per_s" ? least / value : value / least;
    row.append(cellOf(si(tpot_s, "s")), cellOf(si(ttft_s, "s")), cellOf(si(moe_layer_latency_s, "s")), cellOf(three(tokens_per_s, 4)));
    row.append(cellOf(i === best ? "best" : best < 0 ? "" : `x ${ratio < 10 ? ratio.toFixed(2) : three(ratio, 3)}`), cellOf(intervalOf(answer), "td", "interval"));
    if (i === best) row.className = "best";
    return row;
  });
  byId("designs").tBodies[0].replaceChildren(...rows);
}

function showMap() {
  const name = state.rows, labels = labelsOf(name, state);
  const cubes = labels.map((_, i) => cubeAt(page, buffer, {...state, [name]: i}, state.metric));
  const best = drawMap(byId("map"), linksOf(state.machine), {labels, cubes, here: state[name]}, tiles, state.metric, unitOf(state.metric), state.link, page.ranked);
  const seen = [...new Set(best.flat())].filter((design) => design >= 0);
  byId("map-legend").replaceChildren(...seen.map((design) => swatch(marks[design], page.designs[design])));
  if (best.flat().includes(-1)) byId("map-legend").append(swatch("transparent", "empty: none"));
  const said = labels.map((label, row) => `${ROWS[name]} ${label}: ${[...new Set(best[row])].map((design) => design < 0 ? "none fits" : page.designs[design]).join(", then ")}`);
  byId("map").setAttribute("aria-label", `Best design by ${TITLES[state.metric]} from slow to fast link. ${said.join(". ")}.`);
}

function showBars(answer) {
  const shares = sharesOf(answer.schedule, answer.prices, answer.run, state.metric, page.parts);
  const rows = Object.entries(shares).filter(([, share]) => Math.abs(share) > 0.0005).sort((a, b) => b[1] - a[1]).map(([part, share]) => {
    const row = document.createElement("div"), bar = document.createElement("div"), track = document.createElement("span");
    row.className = "bar";
    bar.style.width = `${Math.min(Math.max(share, 0), 1) * 100}%`;
    track.append(bar);
    row.append(cellOf(PARTS[part], "span"), track, cellOf(`${(100 * share).toFixed(1)}\u00a0%`, "span"));
    return row;
  });
  byId("bars").replaceChildren(...rows);
}

function showTimeline(answer) {
  const ends = answer.schedule.step_ends, step = answer.schedule.step[ends[Math.floor(ends.length / 2)]];
  const {families, busy, span} = drawTimeline(byId("timeline"), page, answer, step);
  byId("timeline-legend").replaceChildren(...[...families].map(([family, colour]) => swatch(colour, family)));
  const said = Object.entries(busy).map(([lane, share]) => `${lane} ${Math.round(100 * share)} % busy`).join(", ");
  byId("timeline").setAttribute("aria-label", `${answer.design}: one decode step of ${si(span, "s")}; ${said}.`);
}

function showSliders() {
  for (const name of ["model", "machine"]) byId(name).value = String(state[name]);
  for (const name of ["link", "hbm", "batch", "prompt", "active"]) {
    const labels = labelsOf(name, state), input = byId(name);
    input.max = String(labels.length - 1);
    input.value = String(state[name]);
    input.disabled = labels.length === 1;
    input.setAttribute("aria-valuetext", labels[state[name]]);
    byId(`${name}-value`).textContent = labels[state[name]];
  }
  byId("metric").value = state.metric;
  byId("rows").value = state.rows;
}

/** Everything that is seen, from the state alone; notes how long it took. */
function redraw() {
  const begun = performance.now(), answers = answersAt(page, buffer, state), cube = cubeAt(page, buffer, state, state.metric);
  const {best, text} = verdictOf(answers, cube);
  showSliders();
  byId("verdict").textContent = text;
  showDesigns(answers, best);
  showMap();
  const fits = answers.filter((answer) => !answer.reason), shown = fits.find((answer) => answer.design === state.design) || answers[best];
  byId("design").replaceChildren(...fits.map((answer) => option(answer.design, answer.design)));
  if (shown) {
    byId("design").value = shown.design;
    showBars(shown);
    showTimeline(shown);
  } else {
    byId("bars").replaceChildren();
    byId("timeline-legend").replaceChildren();
    begin(byId("timeline"));  // clears it
    byId("timeline").setAttribute("aria-label", "No design fits: no step to show.");
  }
  const machine = page.machines[state.machine];
  byId("origin").textContent = `pregate ${page.pregate}. Machine constants: ${machine.calibration}. Routing: made up, seed ${page.seed}; ${page.output_tokens} tokens generated a sequence. Tokens a second count the prompt's time. Intervals are of what it is judged by, on the machine's own link.`;
  writeAddress();
  window.answers = answers;
  window.redrawMs = performance.now() - begun;
}

function option(value, text) {
  const item = document.createElement("option");
  item.value = value;
  item.textContent = text;
  return item;
}

/** Take one slider to a stop; a machine brings its own link. */
function move(changes) {
  state = {...state, ...changes};
  if ("machine" in changes) state.link = page.machines[state.machine].own_link;
  for (const name of STRUCTURE) state[name] = Math.min(state[name], labelsOf(name, state).length - 1);
  redraw();
}

function listen() {
  for (const name of ["model", "machine"]) byId(name).append(...labelsOf(name, state).map((label, i) => option(String(i), label)));
  byId("metric").append(...page.metrics.map((metric) => option(metric, TITLES[metric])));
  byId("rows").append(...Object.entries(ROWS).map(([name, title]) => option(name, title)));
  for (const name of STRUCTURE) byId(name).addEventListener("input", (event) => move({[name]: Number(event.target.value)}));
  for (const name of ["metric", "rows", "design"]) byId(name).addEventListener("input", (event) => move({[name]: event.target.value}));
  byId("reset").addEventListener("click", () => { state = startState(); redraw(); });
  byId("map").addEventListener("click", (event) => {
    const box = event.target.getBoundingClientRect(), x = across(linksOf(state.machine), box.width), labels = labelsOf(state.rows, state);
    const apart = Array.from(linksOf(state.machine), (value) => Math.abs(x(value) - (event.clientX - box.left)));
    const row = Math.floor((box.height - MAP.bottom - (event.clientY - box.top)) / ((box.height - MAP.top - MAP.bottom) / labels.length));
    move({link: apart.indexOf(Math.min(...apart)), [state.rows]: Math.min(Math.max(row, 0), labels.length - 1)});
  });
  window.addEventListener("hashchange", () => { state = readAddress(); redraw(); });
  window.addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

inflated(page.block).then((block) => {
  buffer = block;
  state = readAddress();
  listen();
  redraw();
});
