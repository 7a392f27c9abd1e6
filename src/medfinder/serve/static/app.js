// The page: query, filters, results, and which study is open.
// The URL's hash holds what is looked at (study, plane, slice, window), never what was asked.

import { annotate, defaultWindow, Failure, facts, findingChips, findingLabel, folded, get, make, post, sentenceSpans, sliceUrl, termSpans, unitOffsets, upload } from "./api.js";
import { dropped, zipped } from "./archive.js";
import { Viewer } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const PAGE = 12; // hits at first, and how many more each time
const EXAMPLES = ["lung mass in a patient with cancer", "left pleural effusion without pneumothorax", "derrame pleural bilateral"];
const FACET_TITLES = { sex: "Sex", age: "Age", findings: "Findings", body_part: "Body part", manufacturer: "Scanner", source: "Source", split: "Split", language: "Report language" };
const SEX = { F: "women", M: "men" };

const state = {
  status: null,
  vocabulary: [],
  keywords: [],
  query: null, // {kind: "words" | "similar" | "volume", …}: what the results answer
  filters: {},
  k: PAGE,
  hits: [],
  thumbs: "auto",
  abort: null,
  facetAbort: null,
};

let viewer;

// ---- start ------------------------------------------------------------------

async function start() {
  listen();
  try {
    const [status, findings] = await Promise.all([get("/v1/status"), get("/v1/findings")]);
    state.status = status;
    state.vocabulary = findings.findings;
  } catch (error) {
    showError(error);
    return;
  }
  const { status } = state;
  $("facts").textContent = `${status.n_studies.toLocaleString("en")} studies`;
  $("choose").hidden = !("volume" in status.encoders);
  viewer = new Viewer($("viewer"), {
    windows: status.windows,
    onClose: closeStudy,
    onSimilar: (study) => moreLike(study.study_id),
    onState: writeHash,
    why: (id) => state.hits.find((h) => h.study_id === id)?.why,
    parts: (id) => {
      const hit = state.hits.find((h) => h.study_id === id);
      return hit ? partsOf(hit, bestParts(state.hits)) : null;
    },
  });
  $("thumb-window").append(...["auto", ...Object.keys(status.windows)].map((n) => make("option", { value: n }, n)));
  showExamples();
  refreshFacets();
  readHash();
}

function showExamples() {
  const counts = new Map(state.vocabulary.map((f) => [f.name, f.n_studies]));
  const common = [...counts].filter(([, n]) => n > 0).sort((a, b) => b[1] - a[1]).slice(0, 6);
  const button = (label, act) => make("li", {}, make("button.example", { type: "button", onclick: act }, label));
  $("examples").replaceChildren(...EXAMPLES.map((text) => button(`“${text}”`, () => {
    $("text").value = text;
    grow();
    searchWords();
  })));
  $("common").replaceChildren(...common.map(([name, n]) => button(`+ ${name} (${n})`, () => addKeyword(name))));
}

// ---- searching --------------------------------------------------------------

function searchWords() {
  const text = $("text").value.trim();
  const findings = state.filters.findings ?? [];
  if (!text && !state.keywords.length && !findings.length) {
    $("text").focus();
    return;
  }
  const words = {};
  // A pasted report has lines, or is longer than anybody writes into a search box.
  if (text) words[text.includes("\n") || text.length > 300 ? "report" : "text"] = text;
  if (state.keywords.length) words.keywords = [...state.keywords];
  else if (!text) words.keywords = [...findings];
  state.query = { kind: "words", words };
  state.k = PAGE;
  run();
}

function moreLike(studyId) {
  state.query = { kind: "similar", studyId };
  state.k = PAGE;
  run();
}

const MAX_FILES = 20000;

async function searchVolume(files) {
  if (!files.length || !state.status || !("volume" in state.status.encoders)) return;
  const size = files.reduce((sum, file) => sum + file.size, 0);
  if (size > Math.min(state.status.max_upload_bytes, 2 ** 32 - 1) || files.length > MAX_FILES) {
    showError(new Failure("That is more than this service takes at once.", `At most ${Math.round(state.status.max_upload_bytes / 2 ** 20)} MiB. Send one series.`));
    return;
  }
  const name = files.length === 1 ? files[0].name : `${files.length} files`;
  let file = files[0];
  if (files.length > 1) {
    hideError();
    busy("Gathering the slices");
    try {
      file = await zipped(files);
    } catch {
      idle();
      showError(new Failure("The files cannot be read.", "Are they still where they were?"));
      return;
    }
  }
  state.query = { kind: "volume", file, name };
  state.k = PAGE;
  run();
}

async function run() {
  const { query } = state;
  if (!query) return;
  state.abort?.abort();
  const abort = (state.abort = new AbortController());
  const options = { filters: state.filters, k: Math.min(state.k, state.status.max_k) };
  hideError();
  busy(query.kind === "volume" ? "Uploading the CT" : "Searching");
  try {
    let answer;
    if (query.kind === "words") answer = await post("/v1/search", { ...query.words, ...options }, abort.signal);
    else if (query.kind === "similar") answer = await post("/v1/search", { study_id: query.studyId, ...options }, abort.signal);
    else answer = await upload(query.file, options, (share) => busy(share < 1 ? "Uploading the CT" : "Reading the CT and comparing", share < 1 ? share : null), abort.signal);
    state.hits = answer.hits;
    showHits(answer);
  } catch (error) {
    if (error.name !== "AbortError") showError(error);
  } finally {
    if (state.abort === abort) {
      state.abort = null;
      idle();
    }
  }
}

function busy(text, share = null) {
  $("progress").hidden = false;
  $("progress-text").textContent = text;
  if (share === null) $("progress-bar").removeAttribute("value");
  else $("progress-bar").value = share;
  $("main").setAttribute("aria-busy", "true");
  if (!state.hits.length && $("found").hidden) {
    $("start").hidden = true;
    $("found").hidden = false;
    $("summary").textContent = "";
    $("hits").replaceChildren(...Array.from({ length: 4 }, () => make("li.card.skeleton", { "aria-hidden": "true" }, make("div.thumb"), make("div.lines"))));
  }
  $("hits").classList.add("stale");
}

function idle() {
  $("progress").hidden = true;
  $("main").removeAttribute("aria-busy");
  $("hits").classList.remove("stale");
  if (!state.hits.length && $("hits").querySelector(".skeleton")) {
    $("hits").replaceChildren();
    $("found").hidden = true;
    $("start").hidden = false;
  }
}

// ---- results ----------------------------------------------------------------

function showHits(answer) {
  $("start").hidden = true;
  $("found").hidden = false;
  const n = answer.hits.length;
  $("summary").textContent = n ? `${n}${n === state.k ? " best" : ""} ${n === 1 ? "study" : "studies"}` : "Nothing found";
  const { query } = state;
  const asked = $("asked");
  asked.hidden = query.kind === "words" && n > 0;
  if (query.kind === "similar") asked.replaceChildren("More like ", make("strong", {}, query.studyId), ". The same patient is left out.");
  else if (query.kind === "volume") asked.replaceChildren("Studies whose CT looks like ", make("strong", {}, query.name), ".");
  else asked.textContent = n ? "" : "Try fewer filters, another word, or one finding.";
  const best = bestParts(answer.hits);
  $("hits").replaceChildren(...answer.hits.map((hit) => card(hit, best)));
  $("more-hits").hidden = n < state.k || state.k >= state.status.max_k;
  markOpen();
}

function card(hit, best) {
  const { study } = hit;
  const open = () => openStudy(study.study_id);
  const image = make("img", { alt: `Key slice of ${study.study_id}`, loading: "lazy", decoding: "async", src: thumbUrl(study), width: 176, height: 176 });
  image.onerror = () => image.replaceWith(make("span.no-image", {}, "CT not available"));
  const title = make("button.title", { type: "button", onclick: open }, study.study_id);
  const body = make("div.card-body", {},
    make("div.card-head", {}, make("span.rank", { "aria-label": `rank ${hit.rank}` }, String(hit.rank)), title, make("span.score", { title: "Score; comparable within this list only" }, hit.score.toFixed(3))),
    make("p.facts", {}, facts(study).join(" · ")));
  const chips = findingChips(study.findings);
  if (chips.length) body.append(make("div.chips", { "aria-label": "Findings" }, ...chips.slice(0, 8), chips.length > 8 ? make("span.muted", {}, `+ ${chips.length - 8}`) : null));
  if (study.report) body.append(reportOf(hit));
  body.append(make("div.card-foot", {}, partsOf(hit, best),
    make("button.quiet.small", { type: "button", onclick: () => moreLike(study.study_id), "aria-label": `More like ${study.study_id}` }, "More like this")));
  const element = make("li.card", { "data-study": study.study_id }, make("button.thumb", { type: "button", onclick: open, "aria-label": `Open ${study.study_id}`, tabindex: -1 }, image), body);
  return element;
}

function thumbUrl(study) {
  return sliceUrl(study.study_id, "axial", "key", `window=${state.thumbs === "auto" ? defaultWindow(study) : state.thumbs}`);
}

function reportOf(hit) {
  const { text, language } = hit.study.report;
  const { sentences, terms } = hit.why;
  const short = make("p.excerpt", { lang: language });
  if (sentences.length) {
    // In the order of the report, which is the order in which one reads.
    const ordered = [...sentences].sort((a, b) => text.indexOf(a) - text.indexOf(b));
    ordered.forEach((sentence, i) => {
      if (i) short.append(make("span.gap", {}, " … "));
      short.append(make("mark", {}, annotate(sentence, termSpans(sentence, terms))));
    });
  } else short.append(text.length > 220 ? `${text.slice(0, 220)} …` : text);
  const unit = unitOffsets(text);
  const details = make("details", {}, make("summary", {}, "Whole report"));
  details.ontoggle = () => {
    if (details.childElementCount > 1) return;
    const spans = hit.study.findings.filter((f) => f.end > f.start).map((f) => ({ start: unit(f.start), end: unit(f.end), kind: f.status, title: `${f.status}: ${findingLabel(f)}` }));
    details.append(make("p.report", { lang: language }, annotate(text, [...spans, ...sentenceSpans(text, sentences), ...termSpans(text, terms)])));
  };
  return make("div.card-report", {}, short, text.length > 220 || sentences.length ? details : null);
}

const PART_NAMES = { bm25: "words", report: "report meaning", volume: "CT likeness", joint: "CT to report", findings: "findings" };

function partsOf(hit, best) {
  const rows = Object.entries(hit.why.parts).map(([part, value]) => {
    const share = best[part] > 0 ? Math.max(0, value / best[part]) : 0;
    const bar = make("meter", { min: 0, max: 1, value: share.toFixed(3), "aria-hidden": "true" });
    return make("li", { title: `${part} = ${value.toFixed(4)}` }, make("span", {}, PART_NAMES[part] ?? part), bar, make("span.value", {}, value.toFixed(2)));
  });
  return make("ul.parts", { "aria-label": "Why: parts of the score" }, ...rows);
}

function bestParts(hits) {
  const best = {};
  for (const hit of hits) for (const [part, value] of Object.entries(hit.why.parts)) best[part] = Math.max(best[part] ?? 0, value);
  return best;
}

function markOpen() {
  for (const element of $("hits").children) {
    const isOpen = viewer.isOpen && element.dataset.study === viewer.study.study_id;
    element.classList.toggle("open", isOpen);
    if (isOpen) element.setAttribute("aria-current", "true");
    else element.removeAttribute("aria-current");
  }
}

// ---- studies and the URL ----------------------------------------------------

async function openStudy(studyId, place = {}, push = true) {
  hideError();
  let study = state.hits.find((h) => h.study_id === studyId)?.study;
  try {
    study ??= await get(`/v1/studies/${encodeURIComponent(studyId)}`);
  } catch (error) {
    showError(error);
    return;
  }
  if (push) history.pushState(null, "", `#/study/${encodeURIComponent(studyId)}`);
  $("viewer").hidden = false;
  $("shell").classList.add("with-viewer");
  document.title = `${studyId} · MedFinder`;
  viewer.open(study, place);
  markOpen();
  $("viewer").querySelector("h2").focus({ preventScroll: true });
  $("hits").querySelector(".open")?.scrollIntoView({ block: "nearest" });
}

function hideStudy() {
  const id = viewer.study?.study_id;
  viewer.close();
  $("viewer").hidden = true;
  $("shell").classList.remove("with-viewer");
  document.title = "MedFinder";
  markOpen();
  if (id) $("hits").querySelector(`[data-study="${CSS.escape(id)}"] .title`)?.focus();
}

function closeStudy() {
  history.pushState(null, "", "#/");
  hideStudy();
}

let hashTimer;
function writeHash({ study_id, plane, index, window: preset }) {
  clearTimeout(hashTimer);
  hashTimer = setTimeout(() => {
    if (viewer.study?.study_id !== study_id) return;
    const query = preset ? `?window=${preset}` : "";
    history.replaceState(null, "", `#/study/${encodeURIComponent(study_id)}/${plane}/${index}${query}`);
  }, 150);
}

function readHash() {
  const found = /^#\/study\/([^/?]+)(?:\/([a-z]+))?(?:\/(\d+))?(?:\?window=([a-z]+))?$/.exec(location.hash);
  if (!found) {
    if (viewer.isOpen) hideStudy();
    return;
  }
  let id;
  try {
    id = decodeURIComponent(found[1]);
  } catch {
    return;
  }
  const place = { plane: found[2], index: found[3] === undefined ? undefined : Number(found[3]), window: found[4] };
  openStudy(id, place, false);
}

function nextStudy(step) {
  if (!state.hits.length) return;
  const now = state.hits.findIndex((h) => h.study_id === viewer.study?.study_id);
  const next = state.hits[now < 0 ? 0 : now + step];
  if (next) openStudy(next.study_id);
}

// ---- filters ----------------------------------------------------------------

async function refreshFacets() {
  state.facetAbort?.abort();
  const abort = (state.facetAbort = new AbortController());
  try {
    const [all, now] = await Promise.all([
      state.allFacets ?? get("/v1/facets", abort.signal),
      Object.keys(state.filters).length ? post("/v1/facets", { filters: state.filters }, abort.signal) : null,
    ]);
    state.allFacets = all;
    showFacets(all, now ?? all);
  } catch (error) {
    if (error.name !== "AbortError") showError(error);
  }
}

function showFacets(all, now) {
  const focused = document.activeElement?.id;
  const groups = [];
  for (const [name, values] of Object.entries(all.facets)) {
    const entries = Object.entries(values);
    if (!entries.length) continue;
    if (name === "age") groups.push(ageFacet(values));
    else if (entries.length > 1 || name === "sex" || name === "findings") groups.push(listFacet(name, entries, now.facets[name] ?? {}));
  }
  const isOn = Object.keys(state.filters).length > 0;
  $("facets").replaceChildren(
    make("p.count", { role: "status" }, isOn ? `${now.n_studies} of ${all.n_studies} studies` : `All ${all.n_studies} studies`),
    ...groups);
  $("clear-filters").hidden = !isOn;
  if (focused) $(focused)?.focus();
}

function listFacet(name, entries, counts) {
  const chosen = state.filters[name] ?? [];
  const long = entries.length > 9;
  entries.sort((a, b) => chosen.includes(b[0]) - chosen.includes(a[0]) || b[1] - a[1] || a[0].localeCompare(b[0]));
  const list = make("ul");
  const fill = (word) => {
    const shown = entries.filter(([v]) => v.toLowerCase().includes(word.toLowerCase())).slice(0, 9);
    list.replaceChildren(...shown.map(([value]) => {
      const id = `f-${name}-${value.replace(/\W+/g, "-")}`;
      const box = make("input", { type: "checkbox", id, checked: chosen.includes(value) });
      box.onchange = () => toggle(name, value, box.checked);
      const n = counts[value] ?? 0;
      return make("li", { class: n ? null : "none" }, box, make("label", { for: id }, name === "sex" ? SEX[value] ?? value : value), make("span.n", {}, String(n)));
    }));
  };
  fill("");
  const find = long ? make("input.find", { type: "search", placeholder: `Find among ${entries.length}`, "aria-label": `Find in ${FACET_TITLES[name]}` }) : null;
  if (find) find.oninput = () => fill(find.value);
  return make("fieldset", { "data-facet": name }, make("legend", {}, FACET_TITLES[name]), find, list);
}

function ageFacet(values) {
  const bins = Array(10).fill(0);
  for (const [age, n] of Object.entries(values)) bins[Math.min(9, Math.floor(Number(age) / 10))] += n;
  const most = Math.max(...bins, 1);
  const bars = make("div.bars", { "aria-hidden": "true" }, ...bins.map((n, i) => {
    const bar = make("span", { title: `${i * 10} to ${i * 10 + 9} years: ${n}` });
    bar.style.height = `${n ? 8 + (92 * n) / most : 2}%`;
    return bar;
  }));
  const end = (key, label, hint) => {
    const input = make("input", { id: `f-${key}`, type: "number", min: 0, max: 120, placeholder: hint, "aria-label": label, value: state.filters[key] });
    input.onchange = () => {
      if (input.value === "" || !input.checkValidity()) delete state.filters[key];
      else state.filters[key] = Number(input.value);
      filtersChanged();
    };
    return input;
  };
  return make("fieldset", { "data-facet": "age" }, make("legend", {}, "Age"), bars,
    make("div.range", {}, end("age_min", "Youngest, years", "0"), make("span", {}, "to"), end("age_max", "Oldest, years", "100"), make("span", {}, "years")));
}

function toggle(name, value, isOn) {
  const chosen = new Set(state.filters[name] ?? []);
  if (isOn) chosen.add(value);
  else chosen.delete(value);
  if (chosen.size) state.filters[name] = [...chosen];
  else delete state.filters[name];
  filtersChanged();
}

function filtersChanged() {
  state.k = PAGE;
  refreshFacets();
  if (state.query) run();
  else if (state.filters.findings?.length) searchWords();
}

// ---- keywords with completion -----------------------------------------------

function suggestions(word) {
  const low = folded(word);
  const scored = [];
  for (const entry of state.vocabulary) {
    if (state.keywords.includes(entry.name)) continue;
    const names = [entry.name, ...entry.synonyms];
    let best = Infinity;
    let as = entry.name;
    for (const name of names) {
      const at = folded(name).indexOf(low);
      if (at < 0) continue;
      const cost = (at === 0 ? 0 : name[at - 1] === " " ? 1 : 2) + (name === entry.name ? 0 : 0.5);
      if (cost < best) [best, as] = [cost, name];
    }
    if (best < Infinity) scored.push({ entry, as, best });
  }
  return scored.sort((a, b) => a.best - b.best || b.entry.n_studies - a.entry.n_studies || a.entry.name.length - b.entry.name.length || a.entry.name.localeCompare(b.entry.name)).slice(0, 8);
}

let marked = -1;

function suggest() {
  const word = $("keyword").value.trim();
  const found = word ? suggestions(word) : [];
  marked = found.length ? 0 : -1;
  $("suggestions").replaceChildren(...found.map(({ entry, as }, i) => {
    const item = make("li", { role: "option", id: `s-${i}`, "aria-selected": String(i === marked), "data-name": entry.name, class: entry.n_studies ? null : "none" },
      make("span", {}, entry.name), as !== entry.name ? make("span.muted", {}, as) : null, make("span.n", {}, String(entry.n_studies)));
    item.onpointerdown = (event) => { event.preventDefault(); addKeyword(entry.name); };
    return item;
  }));
  const none = word && !found.length;
  if (none) $("suggestions").append(make("li.muted", { role: "option", "aria-disabled": true }, "No such finding in the vocabulary"));
  const isOpen = found.length > 0 || Boolean(none);
  $("suggestions").hidden = !isOpen;
  $("keyword").setAttribute("aria-expanded", isOpen);
  point(marked);
}

function point(to) {
  marked = to;
  const items = [...$("suggestions").children];
  items.forEach((item, i) => item.setAttribute("aria-selected", i === to));
  if (to >= 0) $("keyword").setAttribute("aria-activedescendant", `s-${to}`);
  else $("keyword").removeAttribute("aria-activedescendant");
}

function addKeyword(name) {
  if (!state.keywords.includes(name)) state.keywords.push(name);
  $("keyword").value = "";
  suggest();
  showKeywords();
  searchWords();
}

function showKeywords() {
  $("keyword-chips").replaceChildren(...state.keywords.map((name) =>
    make("span.chip.present", {}, name, make("button", { type: "button", "aria-label": `Remove ${name}`, onclick: () => {
      state.keywords = state.keywords.filter((k) => k !== name);
      showKeywords();
      if ($("text").value.trim() || state.keywords.length) searchWords();
    } }, "×"))));
}

// ---- errors, theme, events --------------------------------------------------

function showError(error) {
  const id = error.requestId ? make("code", {}, `request ${error.requestId}`) : null;
  $("error").replaceChildren(make("strong", {}, error.message ?? "Something failed."), error.hint ? ` ${error.hint} ` : " ", id ?? "",
    make("button.quiet.small", { type: "button", "aria-label": "Dismiss", onclick: hideError }, "✕"));
  $("error").hidden = false;
}

function hideError() {
  $("error").hidden = true;
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  try {
    if (theme) localStorage.setItem("theme", theme);
  } catch {
    // a browser that keeps nothing still shows the page
  }
}

function grow() {
  const box = $("text");
  box.style.height = "auto";
  box.style.height = `${Math.min(220, box.scrollHeight + 2)}px`;
}

function listen() {
  try {
    setTheme(localStorage.getItem("theme"));
  } catch {
    setTheme(null);
  }
  $("theme").onclick = () => {
    const isDark = getComputedStyle(document.documentElement).getPropertyValue("--is-dark").trim() === "1";
    setTheme(isDark ? "light" : "dark");
  };
  $("query").onsubmit = (event) => {
    event.preventDefault();
    searchWords();
  };
  $("text").oninput = grow;
  new ResizeObserver(grow).observe($("query"));
  $("text").onkeydown = (event) => {
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      searchWords();
    }
  };
  $("keyword").oninput = suggest;
  $("keyword").onfocus = suggest;
  $("keyword").onblur = () => {
    $("suggestions").hidden = true;
    $("keyword").setAttribute("aria-expanded", false);
  };
  $("keyword").onkeydown = (event) => {
    const items = [...$("suggestions").children].filter((i) => i.dataset.name);
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (items.length) point((marked + (event.key === "ArrowDown" ? 1 : items.length - 1)) % items.length);
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (items[marked]) addKeyword(items[marked].dataset.name);
      else if (!$("keyword").value) searchWords();
    } else if (event.key === "Escape") {
      $("keyword").value = "";
      suggest();
      event.stopPropagation();
    } else if (event.key === "Backspace" && !$("keyword").value && state.keywords.length) {
      state.keywords.pop();
      showKeywords();
    }
  };
  $("choose").onclick = () => $("file").click();
  $("file").onchange = () => {
    searchVolume([...$("file").files]);
    $("file").value = "";
  };
  $("cancel").onclick = () => state.abort?.abort();
  $("clear-filters").onclick = () => {
    state.filters = {};
    filtersChanged();
  };
  $("more-hits").onclick = () => {
    state.k += PAGE;
    run();
  };
  $("thumb-window").onchange = () => {
    state.thumbs = $("thumb-window").value;
    for (const hit of state.hits) {
      const image = $("hits").querySelector(`[data-study="${CSS.escape(hit.study_id)}"] img`);
      if (image) image.src = thumbUrl(hit.study);
    }
  };
  let depth = 0;
  const hasFile = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => {
    if (!hasFile(event)) return;
    depth += 1;
    $("drop").hidden = false;
  });
  addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    if (!depth) $("drop").hidden = true;
  });
  addEventListener("dragover", (event) => {
    if (hasFile(event)) event.preventDefault();
  });
  addEventListener("drop", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    depth = 0;
    $("drop").hidden = true;
    dropped(event.dataTransfer).then(searchVolume, showError);
  });
  addEventListener("hashchange", readHash);
  addEventListener("popstate", readHash);
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) && !["range", "checkbox"].includes(event.target.type);
    if (event.key === "Escape" && viewer?.isOpen) closeStudy();
    if (typing) return;
    if (event.key === "/") {
      event.preventDefault();
      $("text").focus();
    } else if (event.key === "j") nextStudy(1);
    else if (event.key === "k") nextStudy(-1);
    else if (viewer?.isOpen && viewer.onKey(event)) event.preventDefault();
  });
}

start();
