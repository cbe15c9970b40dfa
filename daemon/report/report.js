'use strict';
// Everything but the single step, which report_step.js draws. Text from the trace goes into the
// page as text only.

function fail(text) {
  document.getElementById('errors').textContent += text + '\n';
  document.body.dataset.state = 'error';
}
window.addEventListener('error', event => fail(event.message));
window.addEventListener('unhandledrejection', event => fail(String(event.reason)));

const DATA = JSON.parse(document.getElementById('data').textContent);
const {head: HEAD, summary: SUMMARY, bins: BINS, layers: LAYERS, heat: HEAT} = DATA;
const PLOTS = [];  // redrawn when the colours change

const byId = id => document.getElementById(id);
const colour = name =>
    getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim();
const count = n => Math.round(n).toLocaleString('en-US');
const fixed = (n, digits = 3) => Number(n).toFixed(digits);

function short(n) {
  for (const [size, unit] of [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e4, 'k']])
    if (Math.abs(n) >= size) return (n / (unit === 'k' ? 1e3 : size)).toPrecision(3) + ' ' + unit;
  return count(n);
}

function element(name, className, text) {
  const out = document.createElement(name);
  if (className) out.className = className;
  if (text !== undefined) out.textContent = text;
  return out;
}

function tile(parent, name, value, more, warn) {
  const out = element('div', 'tile' + (warn ? ' warn' : ''));
  out.append(
      element('div', 'name', name), element('div', 'value', value),
      element('div', 'more', more || '\u00a0'));
  parent.append(out);
}

function table(id, columns, rows, classOf) {
  const out = byId(id);
  out.replaceChildren();
  const headRow = element('tr');
  for (const column of columns)
    headRow.append(element('th', column.word ? 'word' : '', column.name));
  const top = element('thead');
  top.append(headRow);
  const body = element('tbody');
  for (const row of rows) {
    const line = element('tr', classOf ? classOf(row) : '');
    columns.forEach((column, i) => line.append(element('td', column.word ? 'word' : '', row[i])));
    body.append(line);
  }
  out.append(top, body);
}

// Cells that came as 16 bits each; NaN where there was nothing.
function decode(means) {
  const text = atob(means.b64);
  const out = new Float32Array(text.length / 2);
  for (let i = 0; i < out.length; ++i) {
    const cell = text.charCodeAt(2 * i) | text.charCodeAt(2 * i + 1) << 8;
    out[i] = cell === 65535 ? NaN : cell / 65534 * means.max;
  }
  return out;
}

// ---- plots

function layoutOf(node, extra) {
  const axis = {
    gridcolor: colour('grid'),
    linecolor: colour('line'),
    zerolinecolor: colour('line'),
    ticks: 'outside',
    tickcolor: colour('line'),
    automargin: true,
    title: {standoff: 8},
  };
  const layout = {
    height: Number(node.dataset.height),
    margin: {l: 56, r: 12, t: 30, b: 44},
    paper_bgcolor: colour('page'),
    plot_bgcolor: colour('page'),
    font: {
      family: 'system-ui, "Segoe UI", "DejaVu Sans", sans-serif',
      size: 12,
      color: colour('text')
    },
    hoverlabel:
        {bgcolor: colour('panel'), bordercolor: colour('line'), font: {color: colour('text')}},
    legend: {orientation: 'h', x: 0, y: 1.02, yanchor: 'bottom'},
    hovermode: 'closest',
    ...extra,
  };
  if (layout.title) layout.title = {text: layout.title, x: 0.01, xanchor: 'left', font: {size: 13}};
  for (const name of new Set(
           ['xaxis', 'yaxis', ...Object.keys(layout).filter(k => /^[xy]axis/.test(k))])) {
    const {title, whole, ...given} = layout[name] || {};
    layout[name] = {...axis, ...given, title: {...axis.title, text: title || ''}};
    if (whole) Object.assign(layout[name], {tickformat: 'd', ...(whole <= 12 ? {dtick: 1} : {})});
  }
  return layout;
}

// `make` gives [traces, layout]; it is called again when the colours change.
function plot(id, make) {
  const node = byId(id);
  const entry = PLOTS.find(p => p.node === node) || PLOTS[PLOTS.push({node}) - 1];
  entry.draw = () => {
    const [traces, layout] = make();
    return Plotly.react(
        node, traces, layoutOf(node, layout),
        {responsive: true, displaylogo: false, modeBarButtons: [['toImage', 'resetScale2d']]});
  };
  return entry.draw();
}

const BIN_FIRST = [];  // first step of every bin
BINS.steps.reduce((sum, n) => (BIN_FIRST.push(sum), sum + n), 0);
const HEAT_FIRST =
    Array.from({length: HEAT.bins}, (_, i) => Math.ceil(i * SUMMARY.steps / HEAT.bins));

function line(name, y, color, extra) {
  const binned = SUMMARY.steps > BINS.count;
  return {
    type: 'scatter',
    mode: 'lines',
    name,
    x: BIN_FIRST,
    y,
    line: {color: colour(color), width: 1.5},
    customdata: BINS.seconds,
    hovertemplate: `${name}: %{y:.4~f}<br>${
        binned ? 'from step' : 'step'} %{x}, %{customdata} s<extra></extra>`,
    ...extra,
  };
}

function pair(key, name, color) {
  const thin = {line: {color: colour(color), width: 0.7}, opacity: 0.55};
  const mean = line(`${name}`, BINS[key].mean, color);
  return SUMMARY.steps > BINS.count ? [line(`${name}, highest`, BINS[key].max, color, thin), mean] :
                                      [mean];
}

function drawImbalance() {
  return plot(
      'imbalance-time',
      () => [
          [
            ...pair('before', 'before', 'before'), ...pair('after', 'after', 'after'),
            line(
                'floor', BINS.floor.mean, 'floor',
                {line: {color: colour('floor'), width: 1.2, dash: 'dot'}})
          ],
          {xaxis: {title: 'recorded step'}, yaxis: {title: 'imbalance (max / mean)'}},
  ]);
}

function heatmap(id, title, z, x, y, names, options = {}) {
  return plot(
      id,
      () => [
          [{
            type: 'heatmap',
            z,
            x,
            y,
            zmin: options.min,
            zmax: options.max,
            zmid: options.mid,
            colorscale: options.diverging ?
                [[0, '#2b6cb0'], [0.5, colour('middle')], [1, '#c2570c']] :
                'Cividis',
            colorbar:
                {title: {text: names[2], side: 'right'}, thickness: 10, outlinewidth: 0, len: 1.05},
            hovertemplate:
                `${names[0]} %{x}<br>${names[1]} %{y}<br>${names[2]} %{z:.3f}<extra></extra>`,
          }],
          {
            title,
            xaxis: {title: names[0]},
            yaxis: {title: names[1], whole: y.length},
            margin: {l: 56, r: 8, t: 32, b: 44}
          }]);
}

function rows(cells, height, width) {
  return Array.from({length: height}, (_, i) => cells.subarray(i * width, (i + 1) * width));
}

// The value that so many of the cells stay below: one hot cell must not take all colours.
function quantile(cells, part) {
  const sorted = Float32Array.from(cells).filter(v => !isNaN(v)).sort();
  return sorted.length ? sorted[Math.floor(part * (sorted.length - 1))] : 1;
}

function drawLayers() {
  if (LAYERS.number.length < 2) {
    byId('layers-section').hidden = true;
    return [];
  }
  const names = LAYERS.number.map(String);
  const dots = (name, y, color, symbol) => ({
    type: 'scatter',
    mode: 'lines+markers',
    name,
    x: LAYERS.number,
    y,
    line: {color: colour(color), width: 1, dash: symbol === 'circle' ? 'solid' : 'dot'},
    marker: {size: 5, symbol, color: colour(color)},
    hovertemplate: `${name}: %{y:.3f}<br>layer %{x}<extra></extra>`,
  });
  const before = decode(HEAT.layer_before), after = decode(HEAT.layer_after);
  const scale = {min: 1, max: quantile(before, 0.995)};
  const words = ['recorded step', 'layer', 'imbalance'];
  return [
    plot(
        'imbalance-layer',
        () => [
            [
              dots('before, mean', LAYERS.before_mean, 'before', 'circle'),
              dots('before, p99', LAYERS.before_p99, 'before', 'triangle-up'),
              dots('after, mean', LAYERS.after_mean, 'after', 'circle'),
              dots('after, p99', LAYERS.after_p99, 'after', 'triangle-up')
            ],
            {
              xaxis: {title: 'layer', whole: LAYERS.number.length},
              yaxis: {title: 'imbalance (max / mean)'}
            }]),
    heatmap(
        'layer-before', 'Imbalance before', rows(before, names.length, HEAT.bins), HEAT_FIRST,
        LAYERS.number, words, scale),
    heatmap(
        'layer-after', 'Imbalance after', rows(after, names.length, HEAT.bins), HEAT_FIRST,
        LAYERS.number, words, scale),
  ];
}

// One layer of a [layers][bins][width] cube, or the mean of all, turned to [width][bins].
function slice(cells, layer, width) {
  const out = Array.from({length: width}, () => new Float32Array(HEAT.bins).fill(NaN));
  const from = layer < 0 ? [...HEAT.layers.keys()] : [layer];
  for (let i = 0; i < width; ++i) {
    for (let b = 0; b < HEAT.bins; ++b) {
      let sum = 0, n = 0;
      for (const l of from) {
        const value = cells[(l * HEAT.bins + b) * width + i];
        if (!isNaN(value)) sum += value, ++n;
      }
      if (n) out[i][b] = sum / n;
    }
  }
  return out;
}

const CUBES = {};

function drawLoad(layer) {
  const ranks = HEAD.ranks, experts = HEAD.experts;
  for (const name of ['rank_before', 'rank_after', 'expert']) CUBES[name] ||= decode(HEAT[name]);
  const before = slice(CUBES.rank_before, layer, ranks),
        after = slice(CUBES.rank_after, layer, ranks);
  const flat = Float32Array.from(before.flatMap(row => [...row]));
  const far = Math.max(0.02, quantile(flat.map(v => Math.abs(v - 1)), 0.99));
  const scale = {min: 1 - far, max: 1 + far, mid: 1, diverging: true};
  const index = n => Array.from({length: n}, (_, i) => i);
  const load = slice(CUBES.expert, layer, experts);
  const words = ['recorded step', 'rank', 'load'];
  const top = {min: 0, max: quantile(Float32Array.from(load.flatMap(row => [...row])), 0.997)};
  return [
    heatmap('rank-before', 'Ranks before', before, HEAT_FIRST, index(ranks), words, scale),
    heatmap('rank-after', 'Ranks after', after, HEAT_FIRST, index(ranks), words, scale),
    heatmap(
        'expert-time', 'Experts over time', load, HEAT_FIRST, index(experts),
        ['recorded step', 'expert', 'load'], top),
  ];
}

function drawExperts() {
  const experts = HEAD.experts, layers = LAYERS.number.length;
  const load = decode(HEAT.layer_expert), copies = decode(HEAT.layer_replicas);
  const index = Array.from({length: experts}, (_, i) => i);
  const bars = (id, title, y, name, color) => plot(
      id,
      () => [
          [{
            type: 'bar',
            x: index,
            y,
            marker: {color: colour(color)},
            hovertemplate: `expert %{x}<br>${name} %{y:.3f}<extra></extra>`
          }],
          {title, bargap: 0.1, xaxis: {title: 'expert'}, yaxis: {title: name}}]);
  if (layers < 2)
    return [
      bars('expert-layer', 'Experts, mean of all steps', load, 'load', 'main-1'),
      bars('replicas-expert', 'Replicas of every expert', copies, 'replicas per step', 'copy-1')
    ];
  return [
    heatmap(
        'expert-layer', 'Experts by layer, mean of all steps', rows(load, layers, experts), index,
        LAYERS.number, ['expert', 'layer', 'load'], {min: 0, max: quantile(load, 0.997)}),
    heatmap(
        'replicas-expert', 'Replicas of every expert, mean per step', rows(copies, layers, experts),
        index, LAYERS.number, ['expert', 'layer', 'replicas'],
        {min: 0, max: quantile(copies, 0.999)}),
  ];
}

function drawTransfer() {
  const bytes = HEAD.expert_bytes;
  const axis = title => ({title, rangemode: 'tozero'});
  const most = 1.08 * Math.max(1, ...BINS.transfer.max);
  const second = bytes ? {
    yaxis2: {
      title: 'MB',
      overlaying: 'y',
      side: 'right',
      showgrid: false,
      range: [0, most * bytes / 1e6]
    }
  } :
                         {};
  const unseen = {
    type: 'scatter',
    x: [0],
    y: [0],
    yaxis: 'y2',
    opacity: 0,
    showlegend: false,
    hoverinfo: 'skip'
  };
  return [
    plot('replicas-time', () => [pair('replicas', 'replicas', 'copy-1'), {
                            title: 'Replicas per step',
                            showlegend: false,
                            xaxis: {title: 'recorded step'},
                            yaxis: axis('replicas')
                          }]),
    plot(
        'transfer-time',
        () => [[...pair('transfer', 'expert-times', 'after'), ...(bytes ? [unseen] : [])], {
          title: 'Weights through the busiest link, per step',
          showlegend: false,
          xaxis: {title: 'recorded step'},
          yaxis: {title: 'expert-times', range: [0, most]},
          margin: {l: 56, r: bytes ? 56 : 12, t: 30, b: 44},
          ...second
        }]),
  ];
}

function drawPlanners() {
  const all = DATA.planners.rows;
  if (!all.length) {
    byId('planners-section').hidden = true;
    return [];
  }
  byId('planners-note').textContent =
      `${
          count(DATA.planners
                    .steps)} steps, evenly spaced. The others are emulations, written from their ` +
      'descriptions and given the exact load. Transfer: experts through the busiest link when copies are ' +
      'relayed; direct: when every home sends them all. Gap: peak above the proven bound.';
  table(
      'planners',
      [
        {name: 'planner', word: true}, {name: 'imbalance'}, {name: 'worst'}, {name: 'gap'},
        {name: 'replicas'}, {name: 'of one expert'}, {name: 'transfer'}, {name: 'direct'},
        {name: 'solve p50'}, {name: 'what it does', word: true}
      ],
      all.map(
          r =>
              [r.name, fixed(r.after), fixed(r.worst), fixed(100 * r.gap, 2) + ' %',
               fixed(r.replicas, 1), fixed(r.most, 1), fixed(r.transfer, 2), fixed(r.direct, 2),
               r.name === 'none' ? '' : fixed(r.solve_us, 1) + ' us', r.about]),
      row => row[0] === 'ultraep' ? 'ours' : '');
  const down = [...all].reverse();
  const bar = (name, key, color) => ({
    type: 'bar',
    orientation: 'h',
    name,
    y: down.map(r => r.name),
    x: down.map(r => r[key] - 1),
    base: 1,
    marker: {color: colour(color)},
    customdata: down.map(r => r[key]),
    hovertemplate: `%{y}<br>${name} %{customdata:.3f}<extra></extra>`
  });
  return [plot(
      'planners-plot', () => [[bar('worst', 'worst', 'copy-2'), bar('mean', 'after', 'after')], {
                         barmode: 'group',
                         bargap: 0.25,
                         xaxis: {title: 'imbalance (max / mean)'},
                         yaxis: {},
                         margin: {l: 120, r: 12, t: 30, b: 44}
                       }])];
}

// ---- text

function fillHead() {
  const h = HEAD, s = SUMMARY;
  byId('subtitle').textContent = [
    h.group && `group ${h.group}`, h.source, h.started, `${h.ranks} ranks`, `${h.experts} experts`,
    `${h.slots} slots per rank`, h.domain_size && `domains of ${h.domain_size} ranks`,
    `${LAYERS.number.length} layer${LAYERS.number.length > 1 ? 's' : ''}`, `epsilon ${h.epsilon}`,
    h.training && 'training', h.replanned && 'plans made for this report'
  ].filter(Boolean).join(' \u00b7 ');
  const tiles = byId('tiles');
  tile(
      tiles, 'imbalance, mean', `${fixed(s.before.mean)} \u2192 ${fixed(s.after.mean)}`,
      `floor ${fixed(s.floor.mean)}, gap ${fixed(100 * s.gap, 2)} %`);
  tile(
      tiles, 'imbalance, p99', `${fixed(s.before.p99)} \u2192 ${fixed(s.after.p99)}`,
      `p50 ${fixed(s.before.p50)} \u2192 ${fixed(s.after.p50)}`);
  tile(
      tiles, 'imbalance, worst', `${fixed(s.before.worst)} \u2192 ${fixed(s.after.worst)}`,
      `steps ${count(s.before.worst_step)}, ${count(s.after.worst_step)}`);
  tile(
      tiles, 'tokens avoided', short(s.avoided),
      `${fixed(100 * s.avoided / Math.max(1, s.peak_before), 1)} % of the fullest ranks' work`);
  tile(
      tiles, 'steps', count(s.steps),
      s.seconds ? `in ${fixed(s.seconds, 1)} s, ${s.generations} generation${
                      s.generations > 1 ? 's' : ''}` :
                  'no times recorded');
  tile(
      tiles, 'fallbacks', count(s.fallback),
      ['', 'deadline', 'order', 'bad row']
              .map((n, i) => s.fallback_by_reason[i] ? `${n} ${s.fallback_by_reason[i]}` : '')
              .filter(Boolean)
              .join(', ') ||
          `${count(s.planned)} planned`,
      s.fallback > 0);
  tile(
      tiles, 'replicas per step', fixed(s.replicas / s.steps, 1), `most ${count(s.most_replicas)}`);
  tile(tiles, 'solve', `${fixed(s.solve_p50_us, 1)} us`, `p99 ${fixed(s.solve_p99_us, 1)} us`);
  tile(tiles, 'steps missed', count(h.dropped), 'the recorder was too slow', h.dropped > 0);
  const per = s.steps / BINS.count;
  byId('bin-note').textContent = per > 1 ?
      `Each point stands for ${
          fixed(per, 1)} steps: their mean, and their highest as a thin line.` :
      '';
  byId('footer').textContent =
      `Made by ultraepctl ${h.version}. ${count(s.steps)} steps are in the lines (${
          BINS.count} points) and heat maps ` +
      `(${HEAT.bins} columns over time), which hold means. ${
          count(DATA.details.count)} steps are held in full: ` +
      `the worst, an even sample of ${count(DATA.details.sample)}` +
      (DATA.details.wanted[1] ?
           ` and steps ${DATA.details.wanted[0]} to ${DATA.details.wanted[2] - 1}` :
           '') +
      `. Plotly.js ${Plotly.version}.`;
}

function fillLayerChoice() {
  const choice = byId('layer');
  choice.append(new Option('all', -1));
  HEAT.layers.forEach((layer, i) => choice.append(new Option(LAYERS.number[layer], i)));
  choice.addEventListener('change', () => drawLoad(Number(choice.value)));
  choice.parentElement.hidden = LAYERS.number.length < 2;
  if (HEAT.layers.length < LAYERS.number.length)
    byId('layer-note').textContent = `${HEAT.layers.length} of ${
        LAYERS.number.length} layers are held over time; a larger --max-mib holds more.`;
}
