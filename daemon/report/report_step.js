// ---- one step in full

const STEPS = DATA.details.steps;
const HELD = Object.keys(STEPS).map(Number).sort((a, b) => a - b);
const REASONS = ['', 'solve deadline', 'order mismatch', 'bad row'];
const SEGMENTS = 12;  // of a rank's bar; the rest is one

function nearest(number) {
  const after = HELD.findIndex(n => n >= number);
  if (after < 0) return HELD.length - 1;
  return after > 0 && number - HELD[after - 1] <= HELD[after] - number ? after - 1 : after;
}

function replicasOf(step) {
  const out = [];
  for (let i = 0; i < step.replicas.length; i += 5) {
    const [expert, rank, slot, parent, tokens] = step.replicas.slice(i, i + 5);
    out.push({expert, rank, slot, parent, tokens, home: homeOf(expert)});
  }
  for (const r of out) r.from = r.parent < 0 ? r.home : out[r.parent].rank;
  return out;
}

function homeOf(expert) {
  return Math.floor(expert / (HEAD.experts / HEAD.ranks));
}

// Instances of every rank with their tokens, most first: [{expert, tokens, copy}]
function instancesOf(step, replicas) {
  const left = step.experts.slice();
  const ranks = Array.from({length: HEAD.ranks}, () => []);
  for (const r of replicas) {
    left[r.expert] -= r.tokens;
    ranks[r.rank].push({expert: r.expert, tokens: r.tokens, copy: true});
  }
  left.forEach((tokens, expert) => {
    if (tokens) ranks[homeOf(expert)].push({expert, tokens, copy: false});
  });
  for (const rank of ranks) {
    rank.sort((a, b) => a.copy - b.copy || b.tokens - a.tokens);
    const mains = rank.filter(i => !i.copy), copies = rank.filter(i => i.copy);
    for (const part of [mains, copies]) {
      if (part.length <= SEGMENTS) continue;
      const rest = part.splice(SEGMENTS - 1);
      part.push({
        expert: `${rest.length} others`,
        tokens: rest.reduce((s, i) => s + i.tokens, 0),
        copy: part === copies
      });
    }
    rank.splice(0, rank.length, ...mains, ...copies);
  }
  return ranks;
}

function drawRanks(id, title, step, replicas, top) {
  const ranks = instancesOf(step, replicas);
  const mean = step.tokens / HEAD.ranks;
  const across = (y, name, color, dash) => ({
    type: 'scatter',
    mode: 'lines',
    name,
    x: [-0.5, HEAD.ranks - 0.5],
    y: [y, y],
    line: {color: colour(color), width: 1.3, dash},
    hovertemplate: `${name} ${count(y)}<extra></extra>`
  });
  return plot(id, () => {
    const traces = [];
    const deepest = Math.max(...ranks.map(r => r.length), 1);
    for (let j = 0; j < deepest; ++j) {
      const of = ranks.map(r => r[j] || {tokens: 0, expert: '', copy: false});
      traces.push({
        type: 'bar',
        x: ranks.map((_, r) => r),
        y: of.map(i => i.tokens),
        showlegend: false,
        marker: {color: of.map(i => colour((i.copy ? 'copy-' : 'main-') + (1 + j % 2)))},
        text: of.map(i => `expert ${i.expert}${i.copy ? ', replica' : ''}`),
        textposition: 'none',
        hovertemplate: 'rank %{x}<br>%{text}<br>%{y:,} tokens<extra></extra>',
      });
    }
    for (const [name, color] of [['main copies', 'main-1'], ['replicas', 'copy-1']])
      traces.push({type: 'bar', name, x: [null], y: [null], marker: {color: colour(color)}});
    traces.push(across(mean, 'mean', 'text', 'dot'));
    return [
      traces, {
        title,
        barmode: 'stack',
        bargap: 0.15,
        legend: {orientation: 'h', x: 1, xanchor: 'right', y: 1.02, yanchor: 'bottom'},
        xaxis: {title: 'rank', whole: HEAD.ranks, range: [-0.6, HEAD.ranks - 0.4]},
        yaxis: {title: 'tokens', range: [0, top]}
      }
    ];
  });
}

function drawExpertBars(step, replicas) {
  const copies = new Map();
  for (const r of replicas) copies.set(r.expert, (copies.get(r.expert) || 0) + 1);
  return plot(
      'step-experts',
      () => [
          [{
            type: 'bar',
            x: step.experts.map((_, e) => e),
            y: step.experts,
            marker:
                {color: step.experts.map((_, e) => colour(copies.has(e) ? 'copy-1' : 'main-1'))},
            customdata: step.experts.map(
                (_, e) => `home rank ${homeOf(e)}, ${copies.get(e) || 0} replicas`),
            hovertemplate: 'expert %{x}<br>%{y:,} tokens<br>%{customdata}<extra></extra>'
          }],
          {
            title: 'Tokens of every expert (orange: it has replicas)',
            bargap: 0.1,
            xaxis: {title: 'expert'},
            yaxis: {title: 'tokens'}
          }]);
}

function fillStep(number, step, replicas) {
  const tiles = byId('step-tiles');
  tiles.replaceChildren();
  const imbalance = peak => step.tokens ? peak * HEAD.ranks / step.tokens : 1;
  const verdict = step.verdict === 1 ? 'plan' :
      step.verdict === 2             ? 'fallback' :
      step.verdict === 0             ? 'none' :
                                       'failed';
  tile(
      tiles, 'sequence', count(step.sequence),
      `layer ${step.layer}, microbatch ${step.microbatch}`);
  tile(
      tiles, 'verdict', verdict, REASONS[step.reason] || `generation ${step.generation}`,
      step.verdict > 1);
  tile(
      tiles, 'imbalance',
      `${fixed(imbalance(step.peak_before))} \u2192 ${fixed(imbalance(step.peak))}`,
      `floor ${fixed(imbalance(step.bound))}`);
  tile(
      tiles, 'fullest rank', `${count(step.peak_before)} \u2192 ${count(step.peak)}`,
      `mean ${count(step.tokens / HEAD.ranks)} tokens`);
  tile(
      tiles, 'lower bound', count(step.bound),
      step.bound ? `gap ${fixed(100 * (step.peak / step.bound - 1), 2)} %` : 'not known');
  tile(
      tiles, 'replicas', count(replicas.length),
      `${step.transfer} expert-times` +
          (HEAD.expert_bytes ? `, ${fixed(step.transfer * HEAD.expert_bytes / 1e6, 1)} MB` : ''));
  tile(
      tiles, 'sent by a rank',
      `${short(Math.min(...step.sources))} to ${short(Math.max(...step.sources))}`,
      'tokens of one source');
  tile(
      tiles, 'solve', `${fixed(step.solve_ns / 1e3, 1)} us`,
      step.time_ns ? new Date(step.time_ns / 1e6).toISOString().slice(0, 23).replace('T', ' ') :
                     'no time');
  const most = 400;
  table(
      'step-replicas',
      [
        {name: 'transfer'}, {name: 'expert'}, {name: 'home'}, {name: 'from'}, {name: 'to rank'},
        {name: 'slot'}, {name: 'tokens'}, {name: 'of the expert'}
      ],
      replicas.slice(0, most).map(
          (r, i) =>
              [i, r.expert, r.home, r.from, r.rank, r.slot, count(r.tokens),
               fixed(100 * r.tokens / step.experts[r.expert], 1) + ' %']));
  return replicas.length > most ? `The table shows ${most} of ${replicas.length} replicas.` : '';
}

function notHeld(number) {
  byId('step-body').hidden = true;
  const note = byId('step-note');
  note.replaceChildren();
  if (!Number.isInteger(number) || number < 0 || number >= SUMMARY.steps) {
    note.textContent = `There are steps 0 to ${SUMMARY.steps - 1}.`;
    return;
  }
  note.append(`Step ${number} is not held in full on this page: --steps ${number}-${
      number} holds it. The nearest: `);
  const at = nearest(number);
  for (const n of HELD.slice(Math.max(0, at - 1), at + 2)) {
    const link = element('a', '', n);
    link.href = `#step=${n}`;
    note.append(link, ' ');
  }
}

function showStep(number) {
  document.body.dataset.step = number;
  byId('step').value = number;
  const step = STEPS[number];
  if (!step) {
    notHeld(number);
    return [];
  }
  byId('step-body').hidden = false;
  const replicas = replicasOf(step);
  byId('step-note').textContent = fillStep(number, step, replicas);
  const top = 1.06 * Math.max(step.peak_before, 1);
  return [
    drawRanks('step-before', 'Tokens of every rank before', step, [], top),
    drawRanks('step-after', 'Tokens of every rank after', step, replicas, top),
    drawExpertBars(step, replicas)
  ];
}

function goTo(number) {
  const hash = `#step=${number}`;
  if (location.hash === hash)
    showStep(number);
  else
    location.hash = hash;
}

function stepOfHash() {
  const found = /^#step=(\d+)$/.exec(location.hash);
  return found ? Number(found[1]) : null;
}

function listenToSteps() {
  window.addEventListener('hashchange', () => {
    const number = stepOfHash();
    if (number !== null) showStep(number);
  });
  byId('step-form').addEventListener('submit', event => {
    event.preventDefault();
    goTo(Number(byId('step').value));
  });
  const move = by => () => {
    const now = Number(byId('step').value);
    const next = by > 0 ? HELD.find(n => n > now) : HELD.filter(n => n < now).pop();
    if (next !== undefined) goTo(next);
  };
  byId('step-previous').addEventListener('click', move(-1));
  byId('step-next').addEventListener('click', move(1));
  for (const stage of ['before', 'after']) {
    const choice = byId('worst-' + stage);
    choice.append(new Option('', ''));
    for (const n of DATA.details.worst[stage].filter(n => STEPS[n]))
      choice.append(new Option(n, n));
    choice.addEventListener('change', () => choice.value !== '' && goTo(Number(choice.value)));
  }
  byId('imbalance-time').on('plotly_click', event => {
    const first = event.points[0].x;
    const end = first + BINS.steps[BIN_FIRST.indexOf(first)];
    const inside = HELD.find(n => n >= first && n < end);
    goTo(inside !== undefined ? inside : SUMMARY.steps > BINS.count ? HELD[nearest(first)] : first);
    byId('step-section').scrollIntoView({behavior: 'smooth'});
  });
}

async function main() {
  fillHead();
  fillLayerChoice();
  const given = stepOfHash();
  const first = given !== null ? given : HELD.length ? HELD[nearest(SUMMARY.before.worst_step)] : 0;
  await Promise.all([
    drawImbalance(), ...drawLayers(), ...drawLoad(-1), ...drawExperts(), ...drawTransfer(),
    ...drawPlanners(), ...showStep(first)
  ]);
  listenToSteps();
  window.matchMedia('(prefers-color-scheme: dark)')
      .addEventListener('change', () => PLOTS.forEach(p => p.draw()));
  document.body.dataset.plots = PLOTS.filter(p => p.node.querySelector('.main-svg')).length;
  if (document.body.dataset.state === 'loading') document.body.dataset.state = 'ready';
  if (given !== null) byId('step-section').scrollIntoView();
}

main().catch(error => fail(String(error && error.stack || error)));
