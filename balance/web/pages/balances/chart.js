// One chart: stepped lines of one asset by Plotly, with exact digits, by mouse and by keyboard, and the same as a table.

import { now } from './api.js';
import { find, formatTime, make } from './elements.js';
import { LEDGERS } from './model.js';
import { bounds, isLive, toIso } from './view.js';

const LEGEND_LINES_MAX = 12;
const TABLE_ROWS_MAX = 200;
const LARGE = 1e9; // from which the axis has units such as G
const SHAPES_MAX = 100;
const DASHES = ['solid', 'dash', 'dot'];

let loading;

// Loads Plotly once; the page shows the balances before.
export function loadPlotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = make('script', { src: find('charts').dataset.plotly, async: true });
    script.addEventListener('load', () => resolve(window.Plotly));
    script.addEventListener('error', () => {
      loading = undefined; // the next drawing tries again
      script.remove();
      reject(new TypeError('the charts cannot be loaded'));
    });
    document.head.append(script);
  });
  return loading;
}

// Returns the colours of the style sheet, for the scheme of the browser or for paper.
export function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    text: read('text'),
    quiet: read('quiet'),
    line: read('line'),
    back: read('card'),
    colours: Array.from({ length: 8 }, (_, i) => read(`series-${i + 1}`)),
  };
}

export class Chart {
  #asset;
  #plot = make('div', { className: 'plot', ariaHidden: 'true' });
  #handle;
  #table = make('details', { className: 'table' });
  #traces = [];
  #cursor = -1;
  #mouse; // its last event over the chart
  #isDragging = false; // a drawing would end the drag
  #isDrawn = false; // before, Plotly can neither show nor hide a label
  #data;
  isVisible = false;

  // `onRange(from, to)` is called with what a user has marked, in milliseconds, and with nothing to go back.
  constructor(asset, onRange) {
    this.#asset = asset;
    const label = `${asset.asset} ${LEDGERS[asset.ledger].toLowerCase()}`;
    const slider = { role: 'slider', ariaLabel: `${label}: arrow keys move in time`, ariaValueNow: '0' };
    this.#handle = make('div', { className: 'handle', tabIndex: 0, ...slider }, this.#plot);
    this.#handle.addEventListener('keydown', (event) => this.#onKey(event, onRange));
    this.#handle.addEventListener('blur', () => {
      if (this.#isDrawn) window.Plotly.Fx.unhover(this.#plot);
    });
    this.#table.append(make('summary', { textContent: 'Table', ariaLabel: `Table of ${label}` }));
    this.#table.addEventListener('toggle', () => this.#fillTable());
    const heading = make('h3', {}, asset.asset, ' ', make('small', { textContent: LEDGERS[asset.ledger].toLowerCase() }));
    this.element = make('figure', { className: 'card', dataset: { asset: asset.name } }, heading, this.#handle, this.#table);
    this.onRange = onRange;
  }

  // Draws; `data` has lines (Lines), view and theme. It costs some 10 ms, so that a chart out of sight is not drawn.
  async draw(data) {
    this.#data = data;
    const plotly = await loadPlotly();
    if (data !== this.#data || this.#isDragging) return;
    this.#traces = this.#makeTraces();
    const config = { displayModeBar: false, responsive: true, doubleClick: false, showTips: false };
    await plotly.react(this.#plot, this.#traces, this.#layout(), config);
    if (!this.#isDrawn) this.#listen();
    this.#isDrawn = true;
    if (this.#mouse) plotly.Fx.hover(this.#plot, this.#mouse, 'xy'); // a new drawing has no label
    this.#describe();
    this.#fillTable();
  }

  #listen() {
    this.#plot.on('plotly_relayout', (change) => {
      const [from, to] = [change['xaxis.range[0]'], change['xaxis.range[1]']];
      if (from !== undefined && to !== undefined) this.onRange(fromPlotly(from), fromPlotly(to));
    });
    this.#plot.addEventListener('mousemove', (event) => {
      this.#mouse = event.buttons ? undefined : event;
    });
    this.#plot.addEventListener('mousedown', () => {
      this.#isDragging = true;
    });
    addEventListener('mouseup', () => {
      this.#isDragging = false;
    });
    this.#plot.addEventListener('mouseleave', () => {
      this.#mouse = undefined;
    });
    this.#plot.on('plotly_doubleclick', () => this.onRange());
  }

  #makeTraces() {
    const { lines, view, theme } = this.#data;
    const end = toIso(now());
    return lines.lines
      .filter((line) => line.amounts.has(this.#asset.name))
      .map((line, i) => {
        const texts = [...line.amounts.get(this.#asset.name)];
        const times = [...line.times];
        if (isLive(view) && texts.length && times.at(-1) < end) {
          times.push(end);
          texts.push(texts.at(-1)); // what is in force is so until now
        }
        const toY = (text) => (text === null || (view.scale === 'log' && Number(text) === 0) ? null : Number(text));
        return {
          type: 'scatter',
          mode: 'lines',
          name: line.name,
          x: times,
          y: texts.map(toY),
          customdata: texts,
          connectgaps: false,
          line: { shape: 'hv', width: 1.75, color: theme.colours[i % theme.colours.length], dash: DASHES[Math.floor(i / theme.colours.length) % DASHES.length] },
          hovertemplate: line.name ? '%{customdata}' : '%{customdata}<extra></extra>',
        };
      });
  }

  #layout() {
    const { lines, view, theme } = this.#data;
    const axis = { gridcolor: theme.line, linecolor: theme.line, zeroline: false, color: theme.quiet, automargin: true };
    const range = bounds(view).map(toIso);
    const isNarrow = matchMedia('(pointer: coarse)').matches;
    return {
      height: 240 + (this.#hasLegend ? 40 : 0),
      margin: { l: 56, r: 12, t: 20, b: 32 },
      paper_bgcolor: 'rgba(0,0,0,0)',
      plot_bgcolor: 'rgba(0,0,0,0)',
      font: { family: 'system-ui, sans-serif', size: 12, color: theme.quiet },
      xaxis: { ...axis, type: 'date', range, showgrid: false, hoverformat: '%Y-%m-%d %H:%M:%S', nticks: 6 },
      yaxis: { ...axis, type: view.scale, fixedrange: true, nticks: 5, separatethousands: true, exponentformat: this.#isLarge ? 'SI' : 'none' },
      hovermode: this.#traces.length > LEGEND_LINES_MAX ? 'closest' : 'x unified',
      hoverlabel: { bgcolor: theme.back, bordercolor: theme.line, font: { color: theme.text, size: 12 }, namelength: -1 },
      dragmode: isNarrow ? false : 'zoom', // on a touch screen a drag scrolls the page; the buttons zoom
      showlegend: this.#hasLegend,
      legend: { orientation: 'h', x: 0, y: -0.18, yanchor: 'top', font: { color: theme.text } },
      shapes: [...this.#gapShapes(lines, theme), ...this.#epochShapes(lines, theme)],
      annotations: lines.epochs.slice(-SHAPES_MAX).map(({ beganAt }) => ({
        x: beganAt,
        y: 1,
        yref: 'paper',
        yanchor: 'bottom',
        xanchor: 2 * Date.parse(beganAt) > bounds(view)[0] + bounds(view)[1] ? 'right' : 'left',
        showarrow: false,
        text: 'epoch',
        hovertext: `a new epoch of the feed began at ${formatTime(beganAt)} UTC`,
        font: { size: 10, color: theme.quiet },
      })),
    };
  }

  get #isLarge() {
    return this.#traces.some(({ y }) => y.some((value) => value >= LARGE));
  }

  get #hasLegend() {
    return this.#data.view.lines === 'pids' && this.#traces.length <= LEGEND_LINES_MAX;
  }

  #gapShapes(lines, theme) {
    const shape = { type: 'rect', yref: 'paper', y0: 0, y1: 1, line: { width: 0 }, fillcolor: theme.line, opacity: 0.35, layer: 'below' };
    return lines.gaps.slice(-SHAPES_MAX).map(([x0, x1]) => ({ ...shape, x0, x1 }));
  }

  #epochShapes(lines, theme) {
    const shape = { type: 'line', yref: 'paper', y0: 0, y1: 1, line: { width: 1, dash: 'dot', color: theme.quiet } };
    return lines.epochs.slice(-SHAPES_MAX).map(({ beganAt }) => ({ ...shape, x0: beganAt, x1: beganAt }));
  }

  #onKey(event, onRange) {
    const last = (this.#traces[0]?.x.length ?? 0) - 1;
    const step = event.shiftKey ? 10 : 1;
    const at = this.#cursor < 0 ? last : Math.min(this.#cursor, last);
    const moved = { ArrowLeft: at - step, ArrowRight: at + step, Home: 0, End: last }[event.key];
    if (event.key === 'Escape') onRange();
    else if (moved === undefined || last < 0 || !this.#isDrawn) return;
    else {
      this.#cursor = Math.max(0, Math.min(last, moved));
      const { x, y } = this.#traces[0];
      window.Plotly.Fx.hover(this.#plot, { xval: Date.parse(x[this.#cursor]), yval: y[this.#cursor] ?? 0 }, 'xy');
      this.#describe();
    }
    event.preventDefault();
  }

  // Describes in words what is at the cursor, or at the end.
  #describe() {
    const last = (this.#traces[0]?.x.length ?? 0) - 1;
    const at = this.#cursor < 0 ? last : Math.min(this.#cursor, last);
    const amounts = this.#traces.map(({ name, customdata }) => `${name ? `${name}: ` : ''}${customdata[at] ?? 'no balance'}`);
    const text = at < 0 ? 'no balance in this range' : `${formatTime(this.#traces[0].x[at])} UTC, ${amounts.join(', ')}`;
    const values = { ariaValueMin: '0', ariaValueMax: `${Math.max(last, 0)}`, ariaValueNow: `${Math.max(at, 0)}`, ariaValueText: text };
    Object.assign(this.#handle, values);
  }

  // Fills the table with the changes, the newest first.
  #fillTable() {
    if (!this.#table.open || !this.#data) return;
    const label = `${this.#asset.asset} ${LEDGERS[this.#asset.ledger].toLowerCase()}`;
    const several = this.#traces.length > 1;
    const rows = this.#traces.flatMap(({ name, x, customdata }) =>
      customdata
        .map((text, i) => ({ name, time: x[i], text, isChange: i === 0 ? text !== null : text !== customdata[i - 1] }))
        .filter(({ isChange }) => isChange),
    );
    rows.sort((a, b) => Date.parse(b.time) - Date.parse(a.time));
    const cells = ({ name, time, text }) => [
      make('td', { textContent: formatTime(time) }),
      ...(several ? [make('td', { textContent: name })] : []),
      make('td', { className: 'number', textContent: text ?? 'gap' }),
    ];
    const head = ['time, UTC', ...(several ? ['bot'] : []), 'amount'].map((textContent) => make('th', { scope: 'col', textContent }));
    const table = make('table', {}, make('caption', { textContent: `${label}: the last ${Math.min(rows.length, TABLE_ROWS_MAX)} changes` }));
    table.createTHead().append(make('tr', {}, ...head));
    table.createTBody().append(...rows.slice(0, TABLE_ROWS_MAX).map((row) => make('tr', {}, ...cells(row))));
    const scroll = make('div', { className: 'scroll', tabIndex: 0, role: 'region', ariaLabel: `Table of ${label}` }, table);
    this.#table.replaceChildren(this.#table.firstElementChild, scroll);
  }
}

// Plotly has times without a zone; those of this page are UTC.
const fromPlotly = (time) => Date.parse(typeof time === 'number' ? toIso(time) : `${String(time).replace(' ', 'T')}${/Z$/.test(time) ? '' : 'Z'}`);
