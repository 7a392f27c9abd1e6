// A study: its slices in three planes, its report and its findings.

import { annotate, defaultWindow, facts, findingChips, findingLabel, get, getImage, make, sentenceSpans, sliceUrl, termSpans, unitOffsets } from "./api.js";

const PLANES = ["axial", "coronal", "sagittal"];
const AHEAD = 6; // slices fetched before they are asked for, each way
const KEEP = 160; // bitmaps of one view
const AT_ONCE = 4;

// One plane on one canvas: fetches slices, the wanted one first, and draws the nearest it has.
class SliceView {
  constructor(study, plane, viewer) {
    this.study = study;
    this.plane = plane;
    this.viewer = viewer;
    this.geometry = study.planes[plane];
    this.bitmaps = new Map();
    this.pending = new Map();
    this.generation = 0;
    this.direction = -1;
    this.zoom = 1;
    this.pan = [0, 0];
    const g = this.geometry;
    this.canvas = make("canvas", {
      tabindex: 0,
      role: "img",
      "data-plane": plane,
      "aria-label": `${plane} slices; arrow keys scroll`,
    });
    this.number = make("span.number", { "aria-live": "off" });
    this.grey = make("span.grey");
    this.failed = make("p.failed", { role: "alert", hidden: true });
    this.bar = make("span.bar", { title: "50 mm" }, "50 mm");
    this.slider = make("input.slider", {
      type: "range", min: 0, max: g.n_slices - 1, step: 1, "aria-label": `${plane} slice`,
    });
    this.stage = make(
      "div.stage", { "data-plane": plane },
      this.canvas,
      make("span.edge.at-left", { "aria-hidden": "true" }, g.left),
      make("span.edge.at-right", { "aria-hidden": "true" }, g.right),
      make("span.edge.at-top", { "aria-hidden": "true" }, g.top),
      make("span.edge.at-bottom", { "aria-hidden": "true" }, g.bottom),
      this.number, this.grey, this.bar, this.failed,
    );
    this.element = make("div.view", { "data-plane": plane }, this.stage, this.slider);
    this.slider.addEventListener("input", () => this.viewer.move(plane, Number(this.slider.value)));
    this.listen();
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.stage);
  }

  listen() {
    let wheeled = 0;
    this.stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (event.ctrlKey) return this.zoomBy(event.deltaY < 0 ? 1.15 : 1 / 1.15, event);
      wheeled += event.deltaMode === 0 ? event.deltaY : event.deltaY * 40;
      const steps = Math.trunc(wheeled / 40);
      if (steps) {
        wheeled -= steps * 40;
        this.viewer.step(this.plane, -Math.sign(steps) * Math.min(Math.abs(steps), 3));
      }
    }, { passive: false });
    this.canvas.addEventListener("keydown", (event) => {
      const steps = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 }[event.key];
      if (steps) this.viewer.step(this.plane, steps);
      else if (event.key === "Home") this.viewer.move(this.plane, this.geometry.n_slices - 1);
      else if (event.key === "End") this.viewer.move(this.plane, 0);
      else if (event.key === "+" || event.key === "=") this.zoomBy(1.25);
      else if (event.key === "-") this.zoomBy(0.8);
      else if (event.key === "0") this.reset();
      else return;
      event.preventDefault();
    });
    let from = null;
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      from = { x: event.clientX, y: event.clientY, moved: false, window: this.viewer.levels(), pan: [...this.pan], pans: event.shiftKey || event.button === 1 };
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!from) return;
      const [dx, dy] = [event.clientX - from.x, event.clientY - from.y];
      if (Math.hypot(dx, dy) > 3) from.moved = true;
      if (!from.moved) return;
      if (from.pans) {
        this.pan = [from.pan[0] + dx, from.pan[1] + dy];
        this.draw();
      } else {
        const speed = Math.max(1, from.window.width / 400);
        this.viewer.setLevels(from.window.level + dy * speed, from.window.width + dx * speed);
      }
    });
    this.canvas.addEventListener("pointerup", (event) => {
      if (from && !from.moved) this.viewer.point(this.plane, ...this.fraction(event));
      from = null;
    });
    this.canvas.addEventListener("pointercancel", () => (from = null));
    this.canvas.addEventListener("dblclick", () => this.reset());
  }

  zoomBy(factor, event) {
    const old = this.zoom;
    this.zoom = Math.min(12, Math.max(1, this.zoom * factor));
    const box = this.canvas.getBoundingClientRect();
    const at = event ? [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2] : [0, 0];
    const scale = this.zoom / old;
    this.pan = this.zoom === 1 ? [0, 0] : this.pan.map((p, i) => at[i] - (at[i] - p) * scale);
    this.draw();
  }

  reset() {
    this.zoom = 1;
    this.pan = [0, 0];
    this.draw();
  }

  // Where the slice lies on the stage, in CSS pixels.
  place() {
    const { clientWidth: w, clientHeight: h } = this.stage;
    const g = this.geometry;
    const scale = Math.min(w / g.width, h / g.height) * this.zoom;
    const [width, height] = [g.width * scale, g.height * scale];
    return { scale, width, height, left: (w - width) / 2 + this.pan[0], top: (h - height) / 2 + this.pan[1] };
  }

  fraction(event) {
    const box = this.canvas.getBoundingClientRect();
    const p = this.place();
    return [(event.clientX - box.left - p.left) / p.width, (event.clientY - box.top - p.top) / p.height];
  }

  get index() {
    return this.viewer.indices[this.plane];
  }

  // Another window: what was fetched shows until the new slice is there.
  forget() {
    this.generation += 1;
    for (const { abort } of this.pending.values()) abort.abort();
    this.pending.clear();
    this.last = this.bitmaps.get(this.index) ?? this.last;
    this.bitmaps.clear();
    this.want();
  }

  moved(direction) {
    if (direction) this.direction = Math.sign(direction);
    this.want();
    this.draw();
  }

  wanted() {
    const order = [this.index];
    for (let i = 1; i <= AHEAD; i++) order.push(this.index + i * this.direction);
    for (let i = 1; i <= AHEAD / 2; i++) order.push(this.index - i * this.direction);
    return order.filter((i) => i >= 0 && i < this.geometry.n_slices);
  }

  want() {
    const wanted = this.wanted();
    for (const [index, { abort }] of this.pending) {
      if (!wanted.includes(index)) {
        abort.abort();
        this.pending.delete(index);
      }
    }
    for (const index of wanted) {
      if (this.pending.size >= AT_ONCE) break;
      if (!this.bitmaps.has(index) && !this.pending.has(index)) this.fetch(index);
      if (!this.bitmaps.has(this.index)) break; // what is seen comes before what may be
    }
  }

  async fetch(index) {
    const abort = new AbortController();
    const generation = this.generation;
    this.pending.set(index, { abort });
    try {
      const bitmap = await getImage(sliceUrl(this.study.study_id, this.plane, index, this.viewer.windowQuery()), abort.signal);
      if (generation !== this.generation) return;
      this.bitmaps.set(index, bitmap);
      if (this.bitmaps.size > KEEP) {
        const far = [...this.bitmaps.keys()].sort((a, b) => Math.abs(b - this.index) - Math.abs(a - this.index))[0];
        this.bitmaps.delete(far);
      }
      this.failed.hidden = true;
      if (index === this.index) this.draw();
    } catch (error) {
      if (error.name === "AbortError") return;
      this.failed.replaceChildren(error.message, make("br"), error.hint ?? "");
      this.failed.hidden = false;
      this.stage.dataset.state = "failed";
      return; // one message, not one for each slice ahead
    } finally {
      if (generation === this.generation) this.pending.delete(index);
    }
    this.want();
  }

  draw() {
    const { clientWidth: w, clientHeight: h } = this.stage;
    if (!w || !h) return;
    const ratio = window.devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(w * ratio) || this.canvas.height !== Math.round(h * ratio)) {
      this.canvas.width = Math.round(w * ratio);
      this.canvas.height = Math.round(h * ratio);
    }
    const pen = this.canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, w, h);
    const bitmap = this.bitmaps.get(this.index);
    const shown = bitmap ?? this.last;
    const p = this.place();
    if (shown) {
      pen.imageSmoothingQuality = "high";
      pen.drawImage(shown, p.left, p.top, p.width, p.height);
    }
    if (bitmap) this.last = bitmap;
    if (this.stage.dataset.state !== "failed" || bitmap) this.stage.dataset.state = bitmap ? "drawn" : "loading";
    this.stage.dataset.index = this.index;
    if (this.viewer.layout === "all") this.crosshair(pen, p);
    const n = this.geometry.n_slices;
    this.number.textContent = `${this.plane} ${this.index + 1} / ${n}`;
    this.slider.value = this.index;
    this.slider.setAttribute("aria-valuetext", `slice ${this.index + 1} of ${n}`);
    const { level, width } = this.viewer.levels();
    this.grey.textContent = `L ${Math.round(level)}  W ${Math.round(width)}`;
    this.bar.style.width = `${(50 / this.geometry.pixel_mm) * p.scale}px`;
    this.canvas.setAttribute("aria-label", `${this.plane} slice ${this.index + 1} of ${n}; arrow keys scroll`);
  }

  crosshair(pen, p) {
    const [x, y] = this.viewer.crossing(this.plane);
    pen.strokeStyle = "rgba(45, 212, 191, .55)";
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(p.left + x * p.width, p.top);
    pen.lineTo(p.left + x * p.width, p.top + p.height);
    pen.moveTo(p.left, p.top + y * p.height);
    pen.lineTo(p.left + p.width, p.top + y * p.height);
    pen.stroke();
  }

  close() {
    this.generation += 1;
    this.observer.disconnect();
    for (const { abort } of this.pending.values()) abort.abort();
  }
}

export class Viewer {
  // hooks: {windows, onClose, onSimilar, onState, why(studyId), parts(studyId)}
  constructor(root, hooks) {
    this.root = root;
    this.hooks = hooks;
    this.study = null;
    this.views = [];
    this.layout = "axial";
    this.window = { name: "lung" };
  }

  get isOpen() {
    return this.study !== null;
  }

  // state: {plane, index, window} from the URL; each may be missing
  async open(study, state = {}) {
    this.close();
    this.study = study;
    this.layout = [...PLANES, "all"].includes(state.plane) ? state.plane : this.layout;
    if (state.window && this.hooks.windows[state.window]) this.window = { name: state.window };
    else this.window = { name: defaultWindow(study) };
    this.indices = Object.fromEntries(PLANES.map((p) => [p, Math.floor(study.planes[p].n_slices / 2)]));
    const onePlane = PLANES.includes(this.layout) ? this.layout : "axial";
    if (Number.isInteger(state.index)) this.indices[onePlane] = clamp(state.index, study.planes[onePlane].n_slices);
    this.build();
    if (!Number.isInteger(state.index) || onePlane !== "axial") {
      try {
        const key = await get(`/v1/studies/${encodeURIComponent(study.study_id)}/key-slice`);
        if (this.study === study && !this.touched) this.move("axial", key.index, true);
      } catch {
        // the view itself says that there are no slices
      }
    }
  }

  close() {
    for (const view of this.views) view.close();
    this.views = [];
    this.study = null;
    this.touched = false;
    this.root.replaceChildren();
  }

  build() {
    const study = this.study;
    this.stages = make("div.stages");
    this.windowButtons = Object.keys(this.hooks.windows).map((name, i) =>
      make("button", { type: "button", "data-window": name, title: `${name} window (${i + 1})`, onclick: () => this.setWindow(name) }, name));
    this.planeButtons = [...PLANES, "all"].map((plane) =>
      make("button", { type: "button", "data-layout": plane, title: `${plane === "all" ? "all three planes (M)" : `${plane} (${plane[0].toUpperCase()})`}`, onclick: () => this.setLayout(plane) }, plane === "all" ? "3 planes" : plane));
    const number = (label, name) => {
      const input = make("input", { type: "number", step: 10, "aria-label": `${label}, HU` });
      input.addEventListener("change", () => {
        const now = this.levels();
        now[name] = Number(input.value);
        this.setLevels(now.level, now.width);
      });
      return input;
    };
    this.levelInput = number("Window level", "level");
    this.widthInput = number("Window width", "width");
    const toolbar = make(
      "div.toolbar", { role: "toolbar", "aria-label": "Viewer" },
      make("div.group", { role: "group", "aria-label": "Plane" }, ...this.planeButtons),
      make("div.group", { role: "group", "aria-label": "Window" }, ...this.windowButtons),
      make("div.numbers", {}, make("label", {}, "L", this.levelInput), make("label", {}, "W", this.widthInput)),
    );
    this.report = make("div.report-pane", { tabindex: 0, "aria-label": "Report" });
    this.root.replaceChildren(
      make("header.viewer-head", {},
        make("div", {}, make("h2", { tabindex: -1 }, study.study_id), make("p.facts", {}, facts(study).join(" · "))),
        make("div.actions", {},
          make("button.secondary", { type: "button", onclick: () => this.hooks.onSimilar(study) }, "More like this"),
          make("button.quiet", { type: "button", "aria-label": "Close the study", title: "Close (Esc)", onclick: () => this.hooks.onClose() }, "✕"))),
      toolbar,
      make("div.viewer-body", {}, this.stages, this.report),
    );
    this.fillReport();
    this.setLayout(this.layout);
    this.showWindow();
  }

  fillReport() {
    const { study } = this;
    const why = this.hooks.why(study.study_id);
    const spacing = study.spacing_mm.map((v) => v.toFixed(2)).join(" × ");
    const parts = [];
    const chips = findingChips(study.findings, { absent: true });
    if (chips.length) parts.push(make("div.chips", { "aria-label": "Findings" }, ...chips));
    if (study.report) {
      const text = study.report.text;
      const unit = unitOffsets(text);
      const spans = study.findings
        .filter((f) => f.end > f.start)
        .map((f) => ({ start: unit(f.start), end: unit(f.end), kind: f.status, title: `${f.status}: ${findingLabel(f)}` }));
      if (why) spans.push(...sentenceSpans(text, why.sentences), ...termSpans(text, why.terms));
      parts.push(make("h3", {}, "Report", why?.sentences.length ? make("span.legend", {}, "matching sentences marked") : null), make("p.report", { lang: study.report.language }, annotate(text, spans)));
    } else {
      parts.push(make("p.muted", {}, "This study has no report."));
    }
    const scores = this.hooks.parts(study.study_id);
    if (scores) parts.push(make("h3", {}, "Why it was found"), scores);
    parts.push(
      make("h3", {}, "Acquisition"),
      make("p.muted", {}, `${study.shape.join(" × ")} voxels, ${spacing} mm (D × H × W) · ${[study.source, study.split].filter(Boolean).join(" · ")}`));
    this.report.replaceChildren(...parts);
  }

  setLayout(layout, quiet = false) {
    this.layout = layout;
    for (const view of this.views) view.close();
    const planes = layout === "all" ? PLANES : [layout];
    this.views = planes.map((plane) => new SliceView(this.study, plane, this));
    this.stages.dataset.layout = layout === "all" ? "all" : "one";
    this.stages.replaceChildren(...this.views.map((v) => v.element));
    for (const button of this.planeButtons) button.setAttribute("aria-pressed", button.dataset.layout === layout);
    for (const view of this.views) view.moved();
    if (!quiet) this.tell();
  }

  setWindow(name) {
    this.window = { name };
    this.showWindow();
    for (const view of this.views) view.forget();
    this.tell();
  }

  setLevels(level, width) {
    this.window = { level: clampTo(Math.round(level), -2000, 4000), width: clampTo(Math.round(width), 1, 8000) };
    this.showWindow();
    if (this.waiting) return;
    this.waiting = true; // one picture a frame is enough while the mouse moves
    requestAnimationFrame(() => {
      this.waiting = false;
      for (const view of this.views) {
        view.forget();
        view.draw();
      }
    });
  }

  levels() {
    const preset = this.window.name ? this.hooks.windows[this.window.name] : this.window;
    return { level: preset.level, width: preset.width };
  }

  windowQuery() {
    return this.window.name ? `window=${this.window.name}` : `level=${this.window.level}&width=${this.window.width}`;
  }

  showWindow() {
    const { level, width } = this.levels();
    this.levelInput.value = level;
    this.widthInput.value = width;
    for (const button of this.windowButtons) button.setAttribute("aria-pressed", button.dataset.window === this.window.name);
  }

  step(plane, steps) {
    this.move(plane, this.indices[plane] + steps);
  }

  move(plane, index, own = false) {
    const target = clamp(index, this.study.planes[plane].n_slices);
    const direction = target - this.indices[plane];
    if (!own) this.touched = true;
    if (!direction) return;
    this.indices[plane] = target;
    for (const view of this.views) {
      if (view.plane === plane) view.moved(direction);
      else view.draw();
    }
    this.tell();
  }

  // Where the other two planes cut this one, as fractions of its width and height.
  crossing(plane) {
    const [d, h, w] = this.study.shape;
    const x = 1 - (this.indices.sagittal + 0.5) / w;
    const front = 1 - (this.indices.coronal + 0.5) / h;
    const z = 1 - (this.indices.axial + 0.5) / d;
    return { axial: [x, front], coronal: [x, z], sagittal: [front, z] }[plane];
  }

  // A click with all three planes shown: the other two go through that point.
  point(plane, fx, fy) {
    if (this.layout !== "all" || fx < 0 || fy < 0 || fx >= 1 || fy >= 1) return;
    const [d, h, w] = this.study.shape;
    const at = (fraction, n) => n - 1 - Math.floor(fraction * n);
    if (plane !== "sagittal") this.move("sagittal", at(fx, w));
    if (plane !== "coronal") this.move("coronal", plane === "axial" ? at(fy, h) : at(fx, h));
    if (plane !== "axial") this.move("axial", at(fy, d));
  }

  tell() {
    const plane = this.layout === "all" ? "axial" : this.layout;
    this.hooks.onState({ study_id: this.study.study_id, plane: this.layout, index: this.indices[plane], window: this.window.name ?? null });
  }

  onKey(event) {
    const layout = { a: "axial", c: "coronal", s: "sagittal", m: "all" }[event.key.toLowerCase()];
    if (layout) this.setLayout(layout);
    else if (/^[1-9]$/.test(event.key)) {
      const name = Object.keys(this.hooks.windows)[Number(event.key) - 1];
      if (!name) return false;
      this.setWindow(name);
    } else if (["ArrowUp", "ArrowDown", "PageUp", "PageDown"].includes(event.key) && document.activeElement === document.body) {
      this.views[0].canvas.focus();
      this.step(this.views[0].plane, { ArrowUp: 1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[event.key]);
    } else return false;
    return true;
  }
}

const clamp = (index, n) => Math.min(n - 1, Math.max(0, index));
const clampTo = (value, low, high) => Math.min(high, Math.max(low, value));
