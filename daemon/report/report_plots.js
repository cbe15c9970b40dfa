// ---- all steps

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

// Crosses where steps fell back.
function fallbacks() {
  const bins = [...BINS.fallbacks.keys()].filter(i => BINS.fallbacks[i]);
  if (!bins.length) return [];
  return [{
    type: 'scatter',
    mode: 'markers',
    name: 'fallbacks',
    x: bins.map(i => BIN_FIRST[i]),
    y: bins.map(i => BINS.after.max[i]),
    customdata: bins.map(i => BINS.fallbacks[i]),
    marker: {symbol: 'x', size: 7, color: colour('warn')},
    hovertemplate: '%{customdata} fallbacks from step %{x} on<extra></extra>',
  }];
}

function drawImbalance() {
  return plot(
      'imbalance-time',
      () => [
          [
            ...pair('before', 'before', 'before'), ...pair('after', 'after', 'after'),
            line(
                'floor', BINS.floor.mean, 'floor',
                {line: {color: colour('floor'), width: 1.2, dash: 'dot'}}),
            ...fallbacks()
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
            colorbar: {title: {text: names[2], side: 'top'}, thickness: 10, outlinewidth: 0},
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
