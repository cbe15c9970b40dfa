'use strict';
// Asks for status.json once a second and shows what came in between: rates and latencies over the last
// ten seconds, imbalance over the last two minutes. What a group is called is its owner's choice: names
// reach the page through textContent only.

const POLL_MS = 1000, WINDOW = 10, HISTORY = 120, STALE_MS = 3000, ANSWER_MS = 4000;
const STAGES = [
  ['collect', 'rows collected', 'from the first row of a step to the last: how far the ranks are apart'],
  ['solve', 'solve', "the planner's search alone"],
  ['plan', 'plan', 'from the last row to the verdict: solve, check, record'],
  ['verdict', 'submit to verdict', 'per rank, waits for stragglers included'],
  ['route', 'route', 'logical to physical ids of one step, per rank'],
  ['stream', 'weights', 'from issue to the slots being complete, per rank with replicas'],
  ['reduce', 'gradients', 'from issue to the main gradients being complete, per rank'],
];
const REASONS = {
  deadline: "the plan came after the ranks' solve deadline: give the planner a CPU of its own, or the ranks a longer solve_deadline",
  order_mismatch: 'ranks came with different layers or microbatches: the job does not call in the same order everywhere',
  bad_row: "a rank's row contradicts its header: damaged memory or mixed releases",
};

const byId = (id) => document.getElementById(id);
const groups = new Map();  // key -> {samples, history, card, fields}
let lastAnswer = null;     // performance.now() of it
let lastJson = null;
let failure = '';

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// --- numbers for people ---------------------------------------------------------------------------
function short(value) {
  if (value === null || !isFinite(value)) return '\u2013';
  for (const [unit, size] of [['T', 1e12], ['G', 1e9], ['M', 1e6], ['k', 1e4]])
    if (Math.abs(value) >= size) return (value / (unit === 'k' ? 1e3 : size)).toPrecision(3) + ' ' + unit;
  return value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString('en') : value.toPrecision(2);
}
const count = (value) => (value === null ? '\u2013' : value.toLocaleString('en'));
const ratio = (value) => (value === null ? '\u2013' : value.toFixed(3));
const percent = (value) => (value === null ? '\u2013' : (100 * value).toFixed(value < 0.1 ? 1 : 0) + ' %');
function time(ns) {
  if (ns === null) return '\u2013';
  for (const [unit, size] of [['s', 1e9], ['ms', 1e6], ['\u00b5s', 1e3]])
    if (ns >= size) return (ns / size).toPrecision(3) + ' ' + unit;
  return ns ? Math.round(ns) + ' ns' : '0';
}
function bytes(value) {
  for (const [unit, size] of [['TiB', 2 ** 40], ['GiB', 2 ** 30], ['MiB', 2 ** 20], ['KiB', 2 ** 10]])
    if (value >= size) return (value / size).toPrecision(3) + ' ' + unit;
  return value + ' B';
}
function duration(seconds) {
  if (seconds < 120) return seconds.toFixed(0) + ' s';
  if (seconds < 7200) return (seconds / 60).toFixed(0) + ' min';
  return seconds < 172800 ? (seconds / 3600).toFixed(1) + ' h' : (seconds / 86400).toFixed(1) + ' days';
}
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString('en-GB');

// --- what came between two readings -------------------------------------------------------------
const since = (now, before) => now.map((n, i) => n - (before ? before[i] : 0));

// As protocol/latency.h has it: linear within a bucket, the last bound for what is above.
function quantile(buckets, bounds, wanted) {
  const total = buckets.reduce((a, b) => a + b, 0);
  if (!total) return null;
  let below = 0;
  for (let i = 0; i < bounds.length; ++i) {
    const low = i ? bounds[i - 1] : 0;
    if (buckets[i] && below + buckets[i] >= wanted * total)
      return low + (bounds[i] - low) * (wanted * total - below) / buckets[i];
    below += buckets[i];
  }
  return bounds[bounds.length - 1];
}

function sample(json, group) {
  const weights = group.transfers.weights, gradients = group.transfers.gradients;
  return {
    at: json.time, ranks: group.ranks, steps: group.steps_planned, fallbacks: group.steps_fallback,
    tokens: group.tokens, before: group.sums.peak_before, after: group.sums.peak,
    bound: group.sums.lower_bound, replicas: group.replicas, plan: group.histograms.plan.sum_ns / 1e9,
    copy: weights.copy_seconds + gradients.add_seconds,
    wait: weights.wait_seconds + gradients.wait_seconds,
    bytes: weights.bytes + gradients.bytes, histograms: group.histograms,
  };
}

// {seconds, steps, ...}: null `from` means since the group's start.
function difference(to, from) {
  const d = {seconds: from ? to.at - from.at : null};
  for (const name of ['steps', 'fallbacks', 'tokens', 'before', 'after', 'bound', 'replicas', 'plan', 'copy', 'wait', 'bytes'])
    d[name] = to[name] - (from ? from[name] : 0);
  d.buckets = {};
  for (const [stage] of STAGES)
    d.buckets[stage] = since(to.histograms[stage].buckets, from && from.histograms[stage].buckets);
  d.mean = d.tokens / to.ranks;
  return d;
}
const imbalance = (peak, mean) => (mean > 0 ? peak / mean : null);
const perSecond = (d, value) => (d.seconds ? value / d.seconds : null);

// --- a group's card ---------------------------------------------------------------------------------
function makeCard() {
  const f = {};
  const field = (name, tag = 'span', attributes = {}) =>
    (f[name] = el(tag, {'data-field': name, ...attributes}));
  const row = (label, name, title = '') =>
    el('tr', {title}, el('th', {}, label), field(name, 'td', {class: 'n'}));
  const chart = el('div', {class: 'chart'});
  chart.innerHTML = '<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" ' +
    'aria-label="imbalance over the last two minutes"><path class="before"/><path class="after"/></svg>';
  f.paths = chart.querySelectorAll('path');
  chart.append(field('top', 'span', {class: 'top'}), el('span', {class: 'low'}, '1.0'),
    field('past', 'span', {class: 'past'}), el('span', {class: 'age'}, 'now'));
  const latencies = el('tbody');
  f.latencies = {};
  for (const [stage, label, title] of STAGES) {
    const cells = ['p50', 'p99', 'rate'].map((q) => el('td', {class: 'n', 'data-field': stage + '_' + q}));
    latencies.append(el('tr', {title}, el('th', {}, label), ...cells));
    f.latencies[stage] = cells;
  }
  const card = el('section', {class: 'card group'},
    el('div', {class: 'head'}, field('gate', 'span', {class: 'pill'}), field('name', 'h2'),
      field('shape', 'span', {class: 'shape'})),
    el('div', {class: 'columns'},
      el('div', {}, el('h3', {}, field('window')),
        el('div', {class: 'big'}, field('before', 'span', {class: 'before'}), ' \u2192 ',
          field('after', 'span', {class: 'after'})),
        field('floor', 'div', {class: 'note'}), chart,
        field('ranks', 'div', {class: 'ranks'})),
      el('div', {}, el('h3', {}, 'Steps'), el('table', {}, el('tbody', {},
        row('planned per second', 'rate'), row('planned', 'planned'),
        row('fallen back', 'fallback', 'main copies only, although the group was open'),
        row('declined', 'declined', 'per rank: no daemon or a member was missing; main copies'),
        row('failed', 'failed', 'per rank: it could not follow a plan'),
        row('replicas per step', 'replicas'), row('slots', 'slots', 'of all ranks, for one plan'),
        row('lives of the group', 'generations', 'each loss or return of a rank begins a new one'),
        row('oldest heartbeat', 'heartbeat')))),
      el('div', {}, el('h3', {}, 'Latency'), el('table', {}, el('thead', {}, el('tr', {}, el('th'),
        el('th', {class: 'n'}, 'p50'), el('th', {class: 'n'}, 'p99'), el('th', {class: 'n'}, 'per s'))), latencies)),
      el('div', {}, el('h3', {}, 'Won and spent'), el('table', {}, el('tbody', {},
        row('tokens off the fullest rank, per s', 'avoided'),
        row('fullest rank\u2019s work less by', 'shorter', 'tokens of the fullest rank with plans / without'),
        row('time won per s', 'won', 'needs --cost_token_ns'),
        row('planning per s', 'planning', 'from the last row to the verdict'),
        row('copying per s', 'copying', 'weights and gradients, summed over threads and ranks'),
        row('waiting for peers per s', 'waiting', 'of copying threads, summed'),
        row('moved per s', 'moved', 'weights and gradients')))),
    ),
    el('details', {}, el('summary', {}, 'last steps'), el('div', {class: 'scroll'},
      el('table', {class: 'list'}, el('thead', {}, el('tr', {},
        ...['time', 'step', 'layer', 'microbatch', 'before', 'after', 'replicas', 'solve', 'verdict'].map(
          (head, i) => el('th', i > 0 && i < 8 ? {class: 'n'} : {}, head)))), field('last', 'tbody')))));
  return {card, f};
}

function drawLines(f, history) {
  const values = history.flatMap((h) => (h.before === null ? [] : [h.before]));
  const top = Math.max(1.1, ...values);
  const shown = Math.max(history.length, 30);  // polls; it fills up from the right
  set(f.top, values.length ? top.toFixed(2) : '');
  set(f.past, `${duration(shown * POLL_MS / 1000)} ago`);
  ['before', 'after'].forEach((name, which) => {
    let path = '', drawing = false;
    history.forEach((h, i) => {
      const x = (100 * (shown - history.length + i) / (shown - 1)).toFixed(2);
      if (h[name] === null) { drawing = false; return; }
      const y = (98 - 96 * (h[name] - 1) / (top - 1)).toFixed(1);
      path += drawing ? `L${x} ${y}` : `M${x} ${y}h0.3`;
      drawing = true;
    });
    f.paths[which].setAttribute('d', path);
  });
}

function drawRanks(f, group, lease) {
  const states = {};
  for (const state of group.members) states[state] = (states[state] || 0) + 1;
  const key = group.gate + group.members.join();
  if (f.ranks.dataset.key !== key) {
    f.ranks.dataset.key = key;
    f.ranks.replaceChildren(
        ...group.members.map(
            (state, rank) => el('i', {class: state, title: `rank ${rank}: ${state}`})),
        el('span', {},
           Object.entries(states).map(([state, n]) => `${n} ${state}`).join(', ') +
               (group.gate === 'open' ? '' : ': main copies until all are ready')));
  }
  const age = group.heartbeat_age_seconds;
  set(f.heartbeat, `${age.toFixed(1)} of ${lease.toFixed(1)} s`);
}

function drawLast(f, verdicts, ranks) {
  f.last.replaceChildren(...verdicts.map((v) => {
    const planned = v.verdict === 'plan', cell = (text) => el('td', {class: 'n'}, text);
    const at = (peak) => (planned ? ratio(v.tokens ? peak * ranks / v.tokens : 1) : '');
    return el('tr', {}, el('td', {}, clock(v.unix_seconds)), cell(count(v.step)), cell(count(v.layer)),
      cell(count(v.microbatch)), cell(at(v.peak_before)), cell(at(v.peak)),
      cell(planned ? count(v.replicas) : ''), cell(planned ? time(v.solve_us * 1e3) : ''),
      el('td', {}, planned ? 'plan' : 'fallback: ' + v.reason));
  }));
}

function setCount(node, value) {
  set(node, count(value));
  node.classList.toggle('zero', !value);
}

function drawGroup(entry, group, json) {
  const {f, samples} = entry, now = samples[samples.length - 1];
  const recent = samples.length > 1 ? difference(now, samples[0]) : null;
  const idle = !recent || !recent.steps;
  const shown = idle ? difference(now, null) : recent;  // imbalance and latencies
  const gate = group.gate;
  f.gate.className = 'pill ' + (gate === 'open' ? 'good' : gate === 'closed' ? 'warn' : 'bad');
  set(f.gate, gate);
  set(f.name, group.name);
  set(f.shape,
      `${group.ranks} ranks, ${group.experts} experts, ${group.layers} layers, ${group.slots} ` +
          `slot${group.slots === 1 ? '' : 's'} per rank, ${
              group.training ? 'training' :
                               'serving'}, uid ${group.uid}, ${bytes(group.memory_bytes)}` +
          (group.device ? `, slots ${group.slots_in}: ${bytes(group.device_bytes_per_rank)} of each ${group.device}` : ''));
  set(f.window, 'Imbalance, fullest rank / mean, ' + (idle
    ? (recent ? `since its start; no step in the last ${recent.seconds.toFixed(0)} s` : 'since its start')
    : `last ${recent.seconds.toFixed(0)} s`));
  set(f.before, ratio(imbalance(shown.before, shown.mean)));
  set(f.after, ratio(imbalance(shown.after, shown.mean)));
  set(f.floor, shown.bound ? `best possible ${ratio(imbalance(shown.bound, shown.mean))}, ` +
    `gap to it ${percent(shown.after / shown.bound - 1)}` : 'no step planned yet');
  drawLines(f, entry.history);
  drawRanks(f, group, json.daemon.lease_seconds);

  const rate = (value) => (recent ? perSecond(recent, value) : null);
  set(f.rate, short(rate(recent && recent.steps)));
  setCount(f.planned, group.steps_planned);
  setCount(f.fallback, group.steps_fallback);
  setCount(f.declined, group.rank_steps.declined);
  setCount(f.failed, group.rank_steps.failed);
  set(f.replicas, shown.steps ? (shown.replicas / shown.steps).toFixed(1) : '\u2013');
  set(f.slots, count(group.ranks * group.slots));
  set(f.generations, count(group.generations));
  for (const [stage] of STAGES) {
    const [p50, p99, perS] = f.latencies[stage], buckets = shown.buckets[stage];
    set(p50, time(quantile(buckets, json.latency_bounds_ns, 0.5)));
    set(p99, time(quantile(buckets, json.latency_bounds_ns, 0.99)));
    set(perS, idle ? '\u2013' : short(rate(buckets.reduce((a, b) => a + b, 0))));
  }
  const avoided = recent ? recent.before - recent.after : 0, cost = json.daemon.cost_token_ns;
  const spent = (name) => (recent ? time(1e9 * rate(recent[name])) : '\u2013');
  set(f.avoided, short(rate(avoided)));
  set(f.shorter, shown.before ? percent(1 - shown.after / shown.before) : '\u2013');
  set(f.won, cost && recent ? time(rate(avoided) * cost) : '\u2013');
  set(f.planning, spent('plan'));
  set(f.copying, spent('copy'));
  set(f.waiting, spent('wait'));
  set(f.moved, recent ? bytes(Math.round(rate(recent.bytes))) : '\u2013');
  drawLast(f, json.recent.filter((v) => v.group === group.name), group.ranks);
  return recent;
}

// --- the page ---------------------------------------------------------------------------------------
function takeGroup(json, group, key) {
  let entry = groups.get(key);
  const now = sample(json, group), last = entry && entry.samples[entry.samples.length - 1];
  if (!entry || now.steps < last.steps || now.tokens < last.tokens || now.ranks !== last.ranks) {
    if (entry) entry.card.remove();
    entry = {samples: [], history: [], ...makeCard()};
    groups.set(key, entry);
  }
  if (entry.samples.length) {
    const step = difference(now, entry.samples[entry.samples.length - 1]);
    entry.history.push({before: imbalance(step.before, step.mean), after: imbalance(step.after, step.mean)});
    if (entry.history.length > HISTORY) entry.history.shift();
  }
  entry.samples.push(now);
  if (entry.samples.length > WINDOW + 1) entry.samples.shift();
  return entry;
}

function drawGroups(json) {
  const seen = new Map(), nodes = [], recents = [];
  for (const group of json.groups) {
    let key = `${group.uid}/${group.name}`;  // another job of the same user may use the same name
    for (let i = 2; seen.has(key); ++i) key = `${group.uid}/${group.name}/${i}`;
    const entry = takeGroup(json, group, key);
    seen.set(key, entry);
    const recent = drawGroup(entry, group, json);
    if (recent) recents.push(recent);
    nodes.push(entry.card);
  }
  for (const key of [...groups.keys()]) if (!seen.has(key)) groups.delete(key);
  const box = byId('groups');
  if (nodes.length !== box.children.length || nodes.some((n, i) => n !== box.children[i])) box.replaceChildren(...nodes);
  byId('none').hidden = nodes.length > 0;
  drawTotals(json, recents);
}

function drawTotals(json, recents) {
  const sum = (value) => recents.reduce((all, r) => all + value(r), 0);
  const rate = (value) => (recents.length ? sum((r) => value(r) / (r.seconds || 1)) : null);
  const mean = sum((r) => r.mean), members = json.groups.flatMap((g) => g.members);
  const plan = recents.reduce((all, r) => r.buckets.plan.map((n, i) => n + all[i]),
    new Array(json.latency_bounds_ns.length + 1).fill(0));
  const tiles = [
    ['groups', `${json.groups.filter((g) => g.gate === 'open').length} of ${json.groups.length}`, 'groups open'],
    ['ready', `${members.filter((m) => m === 'ready').length} of ${members.length}`, 'ranks ready'],
    ['steps', short(rate((r) => r.steps)), 'steps planned per s'],
    ['imbalance', mean ? `${ratio(sum((r) => r.before) / mean)} \u2192 ${ratio(sum((r) => r.after) / mean)}` : '\u2013', 'imbalance before, after'],
    ['avoided', short(rate((r) => r.before - r.after)), 'tokens off fullest ranks per s'],
    ['p99', time(quantile(plan, json.latency_bounds_ns, 0.99)), 'plan p99, last row to verdict'],
    ['fallbacks', count(json.groups.reduce((all, g) => all + g.steps_fallback, 0)), 'steps fallen back, in all'],
  ];
  const box = byId('totals');
  if (!box.children.length)
    box.append(...tiles.map(([name]) => el('div', {'data-field': name}, el('b'), el('span'))));
  tiles.forEach(([, value, label], i) => {
    set(box.children[i].firstChild, value);
    set(box.children[i].lastChild, label);
  });
}

function drawFallbacks(json) {
  const box = byId('fallbacks');
  box.querySelector('tbody').replaceChildren(...json.fallbacks.map((v) => {
    const n = (value) => el('td', {class: 'n'}, count(value));
    return el('tr', {}, el('td', {title: new Date(v.unix_seconds * 1000).toISOString()}, clock(v.unix_seconds)),
      el('td', {}, v.group), n(v.step), n(v.layer), n(v.microbatch), el('td', {}, v.reason),
      el('td', {}, REASONS[v.reason] || ''));
  }));
  box.querySelector('table').hidden = !json.fallbacks.length;
  box.querySelector('.empty').hidden = json.fallbacks.length > 0;
}

function drawDaemon(json) {
  const d = json.daemon;
  const refused = Object.entries(d.refused_by_kind).filter(([, n]) => n).map(([kind, n]) => `${count(n)} ${kind}`);
  const rows = {
    'shared memory':
        bytes(d.memory_bytes) + (d.memory_limit_bytes ? ' of ' + bytes(d.memory_limit_bytes) : ''),
    'GPUs': d.cuda.found,
    'connections': `${count(d.connections)} of ${count(d.max_connections)}`,
    'refused': refused.join(', ') || 'none',
    'lease': d.lease_seconds + ' s',
    'planner spins': d.spin_us ? d.spin_us + ' \u00b5s' : 'no',
    'recordings': count(d.traces) + (d.trace_dropped ? `, ${count(d.trace_dropped)} steps missed` : ''),
    'events missed by readers': count(d.events_dropped),
    'cost of a token': d.cost_token_ns ? d.cost_token_ns + ' ns' : 'not set (--cost_token_ns)',
  };
  byId('daemon').querySelector('dl').replaceChildren(...Object.entries(rows).map(([name, value]) =>
    el('div', {}, el('dt', {}, name), el('dd', {'data-field': name}, value))));
  set(byId('about'), `${d.version}, pid ${d.pid}, up ${duration(d.uptime_seconds)}, as of ${clock(json.time)}`);
}

function drawState() {
  const old = lastAnswer === null ? null : performance.now() - lastAnswer;
  const stale = failure !== '' && (old === null || old > STALE_MS);
  const wrong = !stale && lastJson ? lastJson.health || lastJson.readiness : '';
  const pill = byId('state'), banner = byId('banner');
  pill.className = 'pill ' + (stale ? 'bad' : wrong ? 'warn' : lastJson ? 'good' : 'wait');
  set(pill, stale ? 'no answer' : wrong ? 'unwell' : lastJson ? 'live' : 'connecting');
  byId('main').className = stale ? 'stale' : '';
  banner.hidden = !stale && !wrong;
  set(banner, stale
    ? (old === null ? 'No answer from ultraepd' : `No answer from ultraepd for ${duration(old / 1000)}; ` +
      'what you see is old') + `: ${failure}. It was stopped, restarts, or its node cannot be reached; ` +
      'without it ranks go on with main copies.'
    : wrong ? `ultraepd says: ${wrong}` : '');
}

async function poll() {
  try {
    const answer = await fetch('status.json', {cache: 'no-store', signal: AbortSignal.timeout(ANSWER_MS)});
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const json = await answer.json();
    if (lastJson && lastJson.daemon.pid !== json.daemon.pid) groups.clear();  // another daemon
    lastAnswer = performance.now();
    lastJson = json;
    failure = '';
    drawGroups(json);
    drawFallbacks(json);
    drawDaemon(json);
  } catch (error) {
    failure = String(error.message || error);
  }
  drawState();
  setTimeout(poll, POLL_MS);
}

setInterval(drawState, 500);
poll();
