// All charts. Those in sight are drawn, at most four times a second, whatever arrives.

import { Chart, loadPlotly, readTheme } from './chart.js';
import { find, make } from './elements.js';

const DRAW_MS_MIN = 250;
const RETRY_MS = 3000;
const BUSY_SHARE_MAX = 3; // a machine that draws slowly rests for three times as long as it drew

export class Charts {
  #charts = new Map();
  #data;
  #timer;
  #isDrawing = false;
  #notBefore = 0;
  #onRange;
  #onDrawn;
  #sight = new IntersectionObserver((entries) => this.#onSight(entries), { rootMargin: '200px' });

  constructor(onRange, onDrawn) {
    this.#onRange = onRange;
    this.#onDrawn = onDrawn;
  }

  // Shows lines in a view, at once if the view is another one.
  show(lines, view) {
    const isUrgent = this.#data?.view !== view;
    this.#data = { lines, view };
    this.#arrange(lines.assets);
    if (isUrgent && !this.#isDrawing) {
      clearTimeout(this.#timer);
      this.#timer = undefined;
      this.#notBefore = 0;
    }
    this.schedule();
  }

  schedule() {
    if (!this.#data) return;
    this.#timer ??= setTimeout(() => this.#draw(), Math.max(0, this.#notBefore - performance.now()));
  }

  // Draws all charts now, for paper.
  async drawAll() {
    const data = { ...this.#data, theme: readTheme() };
    await Promise.all([...this.#charts.values()].map((chart) => chart.draw(data)));
  }

  async #draw() {
    this.#isDrawing = true;
    let began = performance.now();
    let data = this.#data;
    try {
      await loadPlotly();
      began = performance.now();
      data = this.#data;
      const drawn = { ...data, theme: readTheme() };
      for (const chart of this.#charts.values()) if (chart.isVisible) await chart.draw(drawn);
      this.#onDrawn();
    } catch (error) {
      this.#onDrawn(error);
      setTimeout(() => this.schedule(), RETRY_MS);
    }
    this.#isDrawing = false;
    this.#timer = undefined;
    const isOther = this.#data.view !== data.view;
    const took = performance.now() - began;
    this.#notBefore = isOther ? 0 : began + Math.max(DRAW_MS_MIN, BUSY_SHARE_MAX * took);
    if (this.#data !== data) this.schedule();
  }

  #arrange(assets) {
    if (!assets.length) {
      this.#charts.clear();
      find('charts').replaceChildren(make('p', { className: 'empty', textContent: 'No balances in this range.' }));
      return;
    }
    if (assets.length === this.#charts.size && assets.every(({ name }) => this.#charts.has(name))) return;
    const old = this.#charts;
    this.#charts = new Map(assets.map((asset) => [asset.name, old.get(asset.name) ?? new Chart(asset, this.#onRange)]));
    find('charts').replaceChildren(...[...this.#charts.values()].map(({ element }) => element));
    this.#sight.disconnect();
    this.#charts.forEach(({ element }) => this.#sight.observe(element));
  }

  #onSight(entries) {
    for (const { target, isIntersecting } of entries) {
      const chart = this.#charts.get(target.dataset.asset);
      if (chart) chart.isVisible = isIntersecting;
    }
    this.schedule();
  }
}
