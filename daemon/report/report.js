'use strict';
// What all parts of the page use, and its head; report_plots.js and report_step.js follow. Text
// from the trace goes into the page as text only.

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

// ---- text

function fillHead() {
  const h = HEAD, s = SUMMARY;
  byId('subtitle').textContent = [
    h.group && `group ${h.group}`, h.source, h.started, `${h.ranks} ranks`, `${h.experts} experts`,
    `${h.slots} slots per rank`, h.domain_size && `domains of ${h.domain_size} ranks`,
    `${LAYERS.number.length} layer${LAYERS.number.length > 1 ? 's' : ''}`, `epsilon ${h.epsilon}`,
    h.training && 'training', s.generations > 1 && `${s.generations} generations`,
    h.replanned && 'plans made for this report'
  ].filter(Boolean).join(' \u00b7 ');
  const tiles = byId('tiles');
  tile(
      tiles, 'imbalance, mean', `${fixed(s.before.mean)} \u2192 ${fixed(s.after.mean)}`,
      `floor ${fixed(s.floor.mean)}, gap ${fixed(100 * s.gap, 1)} %`);
  tile(
      tiles, 'imbalance, p99', `${fixed(s.before.p99)} \u2192 ${fixed(s.after.p99)}`,
      `p50 ${fixed(s.before.p50)} \u2192 ${fixed(s.after.p50)}`);
  tile(
      tiles, 'imbalance, worst', `${fixed(s.before.worst)} \u2192 ${fixed(s.after.worst)}`,
      `steps ${count(s.before.worst_step)}, ${count(s.after.worst_step)}`);
  tile(
      tiles, 'tokens avoided', short(s.avoided),
      `${fixed(100 * s.avoided / Math.max(1, s.peak_before), 1)} % of all peaks`);
  tile(
      tiles, 'steps', count(s.steps),
      (s.seconds ? `in ${fixed(s.seconds, 1)} s, ` : '') + `${count(h.dropped)} missed` +
          (h.steps_lost ? `, ${count(h.steps_lost)} not whole` : ''),
      h.dropped + h.steps_lost > 0);
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
