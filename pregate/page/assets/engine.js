"use strict";
/* The recurrence of pregate on a schedule of the page: the same maxima and sums in the same order as
   simulator/recurrence.py, in the same 64-bit numbers. Knows no document: it runs without a browser too. */

const HOST = -2, NOTHING = -1, N_LANES = 6;

/** Arrays of a page by their place in its block of bytes: [type, first byte, length]. */
function arrayOf(buffer, place) {
  const types = {Uint8Array, Uint16Array, Uint32Array, Int32Array, Float32Array, Float64Array};
  return new types[place[0]](buffer, place[1], place[2]);
}

/** A schedule with its columns as arrays, and where the dependencies of each op end. */
function readSchedule(buffer, stored) {
  const read = {};
  for (const [name, value] of Object.entries(stored)) read[name] = Array.isArray(value) ? arrayOf(buffer, value) : value;
  return read;
}

/** Prices of a schedule on a machine with its link at stop `link`: {issue, duration, parts}, by work. */
function pricesAt(buffer, stored, link) {
  const duration = arrayOf(buffer, stored.duration).slice(), moved = arrayOf(buffer, stored.moved);
  const stops = arrayOf(buffer, stored.moved_duration), n = moved.length ? stops.length / moved.length : 0;
  for (let i = 0; i < moved.length; i++) duration[moved[i]] = stops[i * n + link];
  return {issue: arrayOf(buffer, stored.issue), duration, moved, parts: arrayOf(buffer, stored.parts)};
}

/** Start and end of every op in seconds, and what its start waited for: an op, HOST or NOTHING. */
function walk(schedule, prices) {
  const {lane, cost, n_deps, back} = schedule, {issue, duration} = prices, n = lane.length;
  const start = new Float64Array(n), end = new Float64Array(n), bound = new Int32Array(n);
  const free = new Float64Array(N_LANES), last = new Int32Array(N_LANES).fill(NOTHING);
  for (let i = 0, next = 0; i < n; i++) {
    const here = lane[i], work = cost[i];
    if (here !== 0) free[0] += issue[work];
    let time = free[here], by = last[here];
    if (here === 0 || free[0] > time) { time = free[0]; by = HOST; }
    for (const stop = next + n_deps[i]; next < stop; next++) {
      const waited = i - back[next];
      if (end[waited] > time) { time = end[waited]; by = waited; }
    }
    start[i] = time;
    bound[i] = by;
    time += duration[work];
    end[i] = free[here] = time;
    last[here] = i;
  }
  return {start, end, bound};
}

/** The metrics of a run, as offload/metrics/run_metrics.py defines them, in seconds and tokens a second. */
function metricsOf(schedule, run) {
  const {step_ends, gap_from, gap_to, layer_first, layer_last} = schedule, {start, end} = run;
  let first = Infinity, gaps = 0, layers = 0, makespan = 0;
  for (const op of step_ends) first = Math.min(first, end[op]);
  for (let i = 0; i < gap_to.length; i++) gaps += end[step_ends[gap_to[i]]] - end[step_ends[gap_from[i]]];
  for (let i = 0; i < layer_first.length; i++) layers += end[layer_last[i]] - start[layer_first[i]];
  for (let i = 0; i < end.length; i++) if (end[i] > makespan) makespan = end[i];
  return {
    tpot_s: gap_to.length ? gaps / gap_to.length : 0,
    ttft_s: step_ends.length ? first : 0,
    moe_layer_latency_s: layer_first.length ? layers / layer_first.length : 0,
    tokens_per_s: schedule.n_output_tokens / makespan,
    makespan_s: makespan,
  };
}

/** How much each start and end counts in a metric that is a sum of them, and in makespan for tokens a second. */
function weightsOf(schedule, run, metric) {
  const {step_ends, gap_from, gap_to, layer_first, layer_last} = schedule, {end} = run;
  const atStart = new Float64Array(end.length), atEnd = new Float64Array(end.length);
  if (metric === "tpot_s") {
    for (let i = 0; i < gap_to.length; i++) {
      atEnd[step_ends[gap_to[i]]] += 1 / gap_to.length;
      atEnd[step_ends[gap_from[i]]] -= 1 / gap_to.length;
    }
  } else if (metric === "ttft_s") {
    atEnd[step_ends[0]] = 1;
  } else if (metric === "moe_layer_latency_s") {
    for (let i = 0; i < layer_first.length; i++) {
      atEnd[layer_last[i]] += 1 / layer_last.length;
      atStart[layer_first[i]] -= 1 / layer_first.length;
    }
  } else {
    let latest = 0;
    for (let i = 1; i < end.length; i++) if (end[i] > end[latest]) latest = i;
    atEnd[latest] = 1;
  }
  return {atStart, atEnd};
}

/** Share of a metric by what it is spent on: {part: share, ..., issue: share}; what is 1 % slower by 1 % of a part. */
function sharesOf(schedule, prices, run, metric, partNames) {
  const {lane, cost} = schedule, {start, end, bound} = run, {issue, duration, moved, parts} = prices;
  const {atStart, atEnd} = weightsOf(schedule, run, metric), n = partNames.length;
  let value = 0, atHost = 0;
  for (let i = 0; i < lane.length; i++) value += atEnd[i] * end[i] + atStart[i] * start[i];
  const seconds = new Float64Array(n + 1), isMoved = new Uint8Array(duration.length);
  for (const work of moved) isMoved[work] = 1;
  for (let i = lane.length - 1; i >= 0; i--) {
    if (lane[i] === 0) { atEnd[i] += atHost; atHost = 0; }
    const weight = atStart[i] + atEnd[i], work = cost[i];
    if (bound[i] === HOST) atHost += weight;
    else if (bound[i] >= 0) atEnd[bound[i]] += weight;
    if (lane[i] !== 0) seconds[n] += atHost * issue[work];
    if (!atEnd[i]) continue;
    let rest = duration[work];
    for (let p = 0; p < n; p++) {
      if (isMoved[work] && partNames[p] === "link") continue;
      seconds[p] += atEnd[i] * parts[work * n + p];
      rest -= parts[work * n + p];
    }
    if (isMoved[work]) seconds[partNames.indexOf("link")] += atEnd[i] * rest;
  }
  const shares = {};
  for (let p = 0; p <= n; p++) shares[p < n ? partNames[p] : "issue"] = value ? seconds[p] / value : 0;
  return shares;
}

/** The place of a point in a machine's list: batch, prompt and active experts as stops, HBM fastest. */
function pointOf(page, state) {
  const actives = page.models[state.model].actives.length, levels = page.machines[state.machine].hbm.length;
  return ((state.batch * page.prompts.length + state.prompt) * actives + state.active) * levels + state.hbm;
}

/** The answers of all designs at a point of the sliders: {design, reason} or {design, schedule, prices, run, metrics}. */
function answersAt(page, buffer, state) {
  const entries = page.models[state.model].points[state.machine][pointOf(page, state)];
  return entries.map((entry, i) => {
    if (entry.reason) return {design: page.designs[i], reason: entry.reason};
    const stored = page.schedules[entry.schedule], schedule = readSchedule(buffer, stored);
    const prices = pricesAt(buffer, stored.prices[state.machine], state.link), run = walk(schedule, prices);
    const own = state.link === page.machines[state.machine].own_link;
    const ends = own ? arrayOf(buffer, entry.ends) : null, alike = own ? entry.alike : null;
    return {design: page.designs[i], schedule, prices, run, metrics: metricsOf(schedule, run), ends, alike};
  });
}

/** A metric of every design at every stop of the link, [design][stop]; null where it does not fit. */
function cubeAt(page, buffer, state, metric) {
  const entries = page.models[state.model].points[state.machine][pointOf(page, state)];
  return entries.map((entry) => {
    if (entry.reason) return null;
    const all = arrayOf(buffer, entry.cube), n = all.length / page.metrics.length, at = page.metrics.indexOf(metric);
    return all.subarray(at * n, (at + 1) * n);
  });
}

/** Which of `values` is best, nulls and NaN left out; -1 when none is. */
function bestOf(values, metric, ranked) {
  let best = -1;
  for (let i = 0; i < values.length; i++) {
    if (!ranked[i] || values[i] === null || Number.isNaN(values[i])) continue;
    if (best < 0 || (metric === "tokens_per_s" ? values[i] > values[best] : values[i] < values[best])) best = i;
  }
  return best;
}
