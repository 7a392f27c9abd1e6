// The review's page: a queue of doubted studies, one study at a time, and what a reader decides.
// The URL never holds who reads or what was decided; the name stays in this tab.

import { annotate, Failure, findingLabel, get, make, unitOffsets } from "./api.js";
import { Viewer } from "./viewer.js";

// Every word of the page that a reader sees, in one place.
const TEXT = {
  title: "Review · MedFinder",
  skip: "Skip to the study",
  home: "MedFinder, search page",
  help: "Keys (?)",
  theme: "Switch between light and dark",
  queue: "Queue",
  which: "Which studies are listed",
  progress: "Share of the studies that are settled",
  more: "Show more",
  ct: "CT",
  whoTitle: "Who reads?",
  whoNote: "Your name stands beside each of your decisions. It is no sign-in, and stays in this tab only.",
  whoLabel: "Your name",
  begin: "Begin",
  reason: "Reason",
  cancel: "Cancel",
  close: "Close",
  helpTitle: "Keys",
  lists: { work: "To do", waiting: "Decided by me", settled: "Settled", all: "All" },
  states: { todo: "", waiting: "decided", disputed: "disputed", taken: "taken", settled: "settled" },
  verdicts: { accept: "accepted", edit: "edited", reject: "rejected" },
  original: { es: "Spanish, as reported", en: "English, as reported" },
  english: "English, translated",
  candidate: "failed its checks",
  noEnglish: "There is no English text.",
  noReport: "This study has no report.",
  doubts: "Doubts",
  labels: "Labels",
  noLabels: "No labels",
  addLabel: "+ finding",
  addLabelName: "Add a finding",
  remove: (name) => `Remove ${name}`,
  votes: "Decisions",
  outcome: "Settled",
  mine: "My decision",
  adjudicator: "adjudicator",
  englishIs: "English:",
  labelsAre: "Labels:",
  nothing: "none",
  accept: "Accept",
  edit: "Edit",
  reject: "Reject",
  reopen: "Reopen",
  save: "Save",
  next: "Next",
  previous: "Previous",
  rejectTitle: "Reject this study?",
  reopenTitle: "Reopen this study?",
  disputedNote: "Two readers disagree. Your decision settles it.",
  waitingNote: "You have decided. A new decision corrects the earlier one; both are kept.",
  takenNote: "Enough readers are at work on this study.",
  recorded: (verdict, id) => `${id}: ${verdict}.`,
  reopened: (id) => `${id}: reopened.`,
  empty: "Nothing to do here.",
  allDone: "Nothing is left to do for you.",
  noCt: {
    none: "The CT of this study is not in the index that is served.",
    another: "The index holds another CT under this study's id, so none is shown.",
    failed: "The CT cannot be shown.",
  },
  facts: (p) => `${p.n_settled} of ${p.n_items} settled · ${p.n_disputed} disputed · ${p.n_started} with one decision`,
  agreement: (a) => (a.n_items ? `Agreement: κ ${number(a.kappa)} over ${a.n_items}` : "Agreement: nothing decided twice yet"),
  agreementHead: ["Finding", "agree", "κ", "n"],
  overall: "accept, edit, reject",
  reader: (name) => `Reader: ${name}`,
  readerName: "Change the reader",
  failed: "Something failed.",
  dismiss: "Dismiss",
  request: "request",
  keys: [
    ["J, K", "next, previous study"],
    ["A", "accept all that is shown"],
    ["E", "edit English and labels"],
    ["Ctrl Enter", "save the edit"],
    ["Esc", "leave the edit; it is kept until the page closes"],
    ["R", "reject, with a reason"],
    ["U", "reopen a settled study"],
    ["1 … 5", "window presets of the CT"],
    ["↑ ↓", "scroll slices"],
    ["?", "this list"],
  ],
};

const $ = (id) => document.getElementById(id);
const PAGE = 200;
const UNREAD_MS = 250; // a key that bounces must not decide on a study that nobody has seen
const LISTS = { work: ["todo", "disputed"], waiting: ["waiting"], settled: ["settled"], all: [] };
const number = (value) => (value === null ? "–" : value.toFixed(2));

const state = {
  reader: "",
  items: [],
  nItems: 0,
  list: "work",
  item: null, // the study that is open
  draft: null, // {english, labels} while it is edited
  drafts: new Map(), // study_id → draft: leaving a study loses no edit
  vocabulary: [],
  turn: 0,
  since: 0, // when the study came up
  busy: false,
};
let viewer = null;

// ---- talking to the service ---------------------------------------------------

// A header holds Latin letters only: the name goes percent-encoded.
async function call(method, path, body) {
  const headers = { "x-reader": encodeURIComponent(state.reader) };
  if (body) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(`/v1/review/${path}`, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Failure("The service does not answer.", "Is 'medfinder serve' still running?");
  }
  let answer = null;
  try {
    answer = await response.json();
  } catch {
    // told below
  }
  if (response.ok && answer) return answer;
  throw new Failure(answer?.error?.message ?? `The service answered ${response.status}.`, answer?.error?.hint ?? "", response.status, answer?.request_id ?? "");
}

const at = (id, what) => `items/${encodeURIComponent(id)}${what ? `/${what}` : ""}`;

// ---- the queue ------------------------------------------------------------------

async function loadItems(more = false) {
  const query = new URLSearchParams({ limit: PAGE, offset: more ? state.items.length : 0 });
  for (const name of LISTS[state.list]) query.append("state", name);
  const answer = await call("GET", `items?${query}`);
  const known = new Set(more ? state.items.map((i) => i.study_id) : []);
  state.items = more ? [...state.items, ...answer.items.filter((i) => !known.has(i.study_id))] : answer.items;
  state.nItems = answer.n_items;
  showItems();
}

function showItems() {
  const rows = state.items.map((item) =>
    make("li", {},
      make("button", { type: "button", "data-study": item.study_id, "data-state": item.state, onclick: () => open(item.study_id) },
        make("span.id", {}, item.study_id),
        make("span.state", {}, TEXT.states[item.state]),
        make("span.rules", {}, item.rules.join(", ")))));
  $("items").replaceChildren(...rows);
  if (!rows.length) $("items").replaceChildren(make("li.muted", {}, TEXT.empty));
  $("more").hidden = state.items.length >= state.nItems;
  markOpen();
}

function markOpen() {
  for (const button of $("items").querySelectorAll("button")) {
    const isOpen = button.dataset.study === state.item?.study_id;
    if (isOpen) {
      button.setAttribute("aria-current", "true");
      button.scrollIntoView({ block: "nearest" });
    } else button.removeAttribute("aria-current");
  }
}

function setState(id, now) {
  const item = state.items.find((i) => i.study_id === id);
  if (item) item.state = now;
  const button = $("items").querySelector(`[data-study="${CSS.escape(id)}"]`);
  if (!button) return;
  button.dataset.state = now;
  button.querySelector(".state").textContent = TEXT.states[now];
}

async function loadStatus() {
  const { progress, agreement, agreement_by_finding: byFinding } = await call("GET", "status");
  $("facts").textContent = TEXT.facts(progress);
  $("progress").value = progress.n_items ? progress.n_settled / progress.n_items : 0;
  const row = (name, a) => make("tr", {}, make("td", {}, name), make("td", {}, number(a.observed)), make("td", {}, number(a.kappa)), make("td", {}, String(a.n_items)));
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...TEXT.agreementHead.map((h) => make("th", { scope: "col" }, h)))),
    make("tbody", {}, row(TEXT.overall, agreement), ...Object.entries(byFinding).map(([name, a]) => row(name, a))));
  $("agreement").replaceChildren(make("summary", {}, TEXT.agreement(agreement)), ...(agreement.n_items ? [table] : []));
}

// ---- one study --------------------------------------------------------------------

async function open(id) {
  keepDraft();
  const turn = ++state.turn;
  hideError();
  let item;
  try {
    item = await call("POST", at(id, "lease"));
  } catch (error) {
    if (turn !== state.turn) return;
    if (error.status !== 409) return showError(error);
    setState(id, "taken"); // others were faster; it can still be looked at
    try {
      item = await call("GET", at(id));
    } catch (again) {
      return showError(again);
    }
  }
  if (turn !== state.turn) return; // another was opened meanwhile
  state.item = item;
  state.since = performance.now();
  state.draft = null;
  if (state.drafts.has(id) && canDecide()) state.draft = state.drafts.get(id);
  setState(id, item.state);
  showStudy();
  markOpen();
  $("study").querySelector("h2").focus({ preventScroll: true });
  $("main").scrollTop = 0;
  showCt(item, turn);
}

const canDecide = () => ["todo", "disputed", "waiting"].includes(state.item?.state);
const hasEnglish = () => state.item.original !== null && state.item.original.language !== "en";

function showStudy() {
  const { item } = state;
  if (!item) return $("study").replaceChildren();
  const note = { disputed: TEXT.disputedNote, waiting: TEXT.waitingNote, taken: TEXT.takenNote }[item.state];
  const parts = [
    make("header.study-head", {}, make("h2", { tabindex: -1 }, item.study_id), make("span.muted", {}, [TEXT.states[item.state], note].filter(Boolean).join(". "))),
    make("ul.doubts", { "aria-label": TEXT.doubts }, ...item.doubts.map((doubt) =>
      make("li", {}, make("meter", { min: 0, max: 1, value: doubt.weight, title: doubt.weight.toFixed(2), "aria-label": doubt.weight.toFixed(2) }), make("span.rule", {}, doubt.rule), make("p", {}, doubt.reason)))),
    make("div.texts", {}, originalOf(item), hasEnglish() ? englishOf(item) : null),
    labelsOf(item),
    votesOf(item),
    actionsOf(item),
  ];
  $("study").replaceChildren(...parts.filter(Boolean)); // a null would be written out
}

function report({ text, language, findings }) {
  const unit = unitOffsets(text);
  const spans = findings.filter((f) => f.end > f.start).map((f) => ({ start: unit(f.start), end: unit(f.end), kind: f.status, title: `${f.status}: ${findingLabel(f)}` }));
  return make("p.report", { lang: language }, annotate(text, spans));
}

function originalOf(item) {
  if (!item.original) return make("section", {}, make("p.muted", {}, TEXT.noReport));
  return make("section", {}, make("h3", {}, TEXT.original[item.original.language]), report(item.original));
}

function englishOf(item) {
  const failed = item.is_candidate ? make("span.failed-checks", {}, [TEXT.candidate, ...item.problems].join(" · ")) : null;
  const section = make("section", {}, make("h3", {}, TEXT.english, failed));
  if (state.draft) {
    const box = make("textarea", { id: "english", lang: "en", maxlength: 50000, "aria-label": TEXT.english, spellcheck: "true" });
    box.value = state.draft.english;
    box.oninput = () => (state.draft.english = box.value);
    section.append(box);
  } else if (item.english) section.append(report(item.english));
  else section.append(make("p.muted", {}, TEXT.noEnglish));
  return section;
}

function labelsOf(item) {
  const names = state.draft ? state.draft.labels : item.labels;
  const chips = names.map((name) => make("span.chip", {}, name,
    state.draft ? make("button", { type: "button", "aria-label": TEXT.remove(name), onclick: () => changeLabels(state.draft.labels.filter((n) => n !== name)) }, "×") : null));
  if (state.draft) {
    const input = make("input", { id: "label", type: "text", list: "findings", maxlength: 200, autocomplete: "off", placeholder: TEXT.addLabel, "aria-label": TEXT.addLabelName });
    input.onkeydown = (event) => {
      if (event.key !== "Enter" || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      const name = input.value.trim();
      if (name) changeLabels([...new Set([...state.draft.labels, name])]);
    };
    chips.push(input, make("datalist", { id: "findings" }, ...state.vocabulary.map((name) => make("option", { value: name }))));
  } else if (!chips.length) chips.push(make("span.muted", {}, TEXT.noLabels));
  return make("section.labels", { id: "labels" }, make("h3", {}, TEXT.labels), make("div.chips", {}, ...chips));
}

function changeLabels(names) {
  state.draft.labels = names;
  $("labels").replaceWith(labelsOf(state.item));
  $("label").focus();
}

function decisionOf(decision) {
  const parts = [make("span.verdict", {}, TEXT.verdicts[decision.verdict])];
  if (decision.reason) parts.push(` · ${decision.reason}`);
  if (decision.translation !== null) parts.push(make("p", {}, make("strong", {}, `${TEXT.englishIs} `), decision.translation || TEXT.nothing));
  if (decision.labels !== null) parts.push(make("p", {}, make("strong", {}, `${TEXT.labelsAre} `), decision.labels.join(", ") || TEXT.nothing));
  return parts;
}

function votesOf(item) {
  const rows = item.others.map((vote) => make("li", {}, make("strong", {}, `${vote.reader}${vote.is_adjudication ? ` (${TEXT.adjudicator})` : ""}: `), ...decisionOf(vote.decision)));
  if (item.mine) rows.push(make("li", {}, make("strong", {}, `${TEXT.mine}: `), ...decisionOf(item.mine)));
  if (item.outcome) rows.push(make("li", { id: "outcome" }, make("strong", {}, `${TEXT.outcome}: `), ...decisionOf(item.outcome)));
  return rows.length ? make("section.votes", {}, make("h3", {}, TEXT.votes), make("ul", {}, ...rows)) : null;
}

function actionsOf(item) {
  const button = (kind, name, key, act) => make(`button.${kind}`, { type: "button", id: `do-${name}`, onclick: act }, TEXT[name], make("kbd", {}, key));
  const buttons = [];
  if (state.draft) buttons.push(button("primary", "save", "Ctrl ⏎", saveEdit), button("quiet", "cancel", "Esc", leaveEdit));
  else if (item.state === "settled") buttons.push(button("quiet", "reopen", "U", askReopen));
  else if (canDecide()) buttons.push(button("primary", "accept", "A", accept), button("secondary", "edit", "E", startEdit), button("bad", "reject", "R", askReject));
  return make("div.decide", { role: "toolbar", "aria-label": TEXT.votes }, ...buttons, make("span.spacer"),
    button("quiet", "previous", "K", () => step(-1)), button("quiet", "next", "J", () => step(1)));
}

// ---- deciding -----------------------------------------------------------------------

// One thing at a time, up to the next study: a key that is pressed twice decides once.
async function once(work) {
  if (state.busy) return;
  state.busy = true;
  try {
    await work();
  } finally {
    state.busy = false;
  }
}

async function send(what, body, told) {
  const { study_id: id } = state.item;
  hideError();
  try {
    const item = await call("POST", at(id, what), body);
    state.drafts.delete(id);
    state.draft = null;
    setState(id, item.state);
    $("told").textContent = told(id);
    if (state.item?.study_id === id) state.item = item;
    await loadStatus();
    return true;
  } catch (error) {
    showError(error);
    return false;
  }
}

const decide = (decision) => once(() => record(decision));

async function record(decision) {
  const { source_hash } = state.item;
  const verdict = TEXT.verdicts[decision.verdict];
  const before = state.item.study_id;
  if (!(await send("decision", { ...decision, source_hash }, (id) => TEXT.recorded(verdict, id)))) return;
  if (state.item.study_id !== before) return;
  const next = nextToDo();
  if (next) await open(next);
  else {
    showStudy();
    $("told").textContent += ` ${TEXT.allDone}`;
  }
}

function accept() {
  if (canDecide() && !state.draft) decide({ verdict: "accept" });
}

function startEdit() {
  if (!canDecide() || state.draft) return;
  const mine = state.item.mine?.verdict === "edit" ? state.item.mine : null;
  state.draft = {
    english: mine?.translation ?? state.item.english?.text ?? "",
    labels: [...(mine?.labels ?? state.item.labels)],
  };
  showStudy();
  ($("english") ?? $("label")).focus();
}

function keepDraft() {
  if (state.draft && state.item) state.drafts.set(state.item.study_id, state.draft);
}

function leaveEdit() {
  keepDraft();
  state.draft = null;
  showStudy();
  $("study").querySelector("h2").focus();
}

function saveEdit() {
  if (!state.draft) return;
  const { english, labels } = state.draft;
  const { item } = state;
  const pending = $("label")?.value.trim(); // typed, but not yet entered
  const names = pending ? [...new Set([...labels, pending])] : labels;
  const same = names.length === item.labels.length && names.every((name) => item.labels.includes(name));
  const changed = hasEnglish() && english.trim() !== (item.english?.text ?? "").trim();
  decide({ verdict: "edit", translation: changed ? english : null, labels: same ? null : names });
}

// A reason is asked for in a dialog; Enter sends it.
let sendReason = null;
function askReason(title, button, act) {
  $("why-title").textContent = title;
  $("why-send").textContent = button;
  $("reason").value = "";
  sendReason = act;
  $("why").showModal();
  $("reason").focus();
}

function askReject() {
  if (!canDecide() || state.draft) return;
  askReason(TEXT.rejectTitle, TEXT.reject, (reason) => decide({ verdict: "reject", reason }));
}

function askReopen() {
  if (state.item?.state !== "settled") return;
  askReason(TEXT.reopenTitle, TEXT.reopen, (reason) =>
    once(async () => {
      if (await send("reopen", { reason }, TEXT.reopened)) showStudy();
    }));
}

// ---- moving on ------------------------------------------------------------------------

function nextToDo() {
  const here = state.items.findIndex((i) => i.study_id === state.item?.study_id);
  const order = [...state.items.slice(here + 1), ...state.items.slice(0, Math.max(here, 0))];
  return order.find((i) => i.state === "todo" || i.state === "disputed")?.study_id;
}

function step(by) {
  const here = state.items.findIndex((i) => i.study_id === state.item?.study_id);
  const to = state.items[here < 0 ? 0 : here + by];
  if (to) open(to.study_id);
}

// ---- the CT -----------------------------------------------------------------------------

async function showCt(item, turn) {
  viewer?.close();
  $("viewer").hidden = true;
  $("no-ct").hidden = item.ct === "indexed";
  if (item.ct !== "indexed") {
    $("no-ct").textContent = TEXT.noCt[item.ct];
    return;
  }
  try {
    const study = await get(`/v1/studies/${encodeURIComponent(item.study_id)}`);
    if (turn !== state.turn || !viewer) return;
    $("viewer").hidden = false;
    await viewer.open(study);
  } catch {
    if (turn !== state.turn) return;
    $("no-ct").textContent = TEXT.noCt.failed;
    $("no-ct").hidden = false;
  }
}

// ---- errors, theme, keys ----------------------------------------------------------------

function showError(error) {
  const id = error.requestId ? make("code", {}, `${TEXT.request} ${error.requestId}`) : "";
  $("error").replaceChildren(make("strong", {}, error.message ?? TEXT.failed), error.hint ? ` ${error.hint} ` : " ", id,
    make("button.quiet.small", { type: "button", "aria-label": TEXT.dismiss, onclick: hideError }, "✕"));
  $("error").hidden = false;
}

function hideError() {
  $("error").hidden = true;
}

// A browser that keeps nothing still shows the page.
function kept(storage, name, value) {
  try {
    if (value !== undefined) storage.setItem(name, value);
    return storage.getItem(name);
  } catch {
    return null;
  }
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
}

function words() {
  document.title = TEXT.title;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = TEXT[element.dataset.text];
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", TEXT[element.dataset.label]);
  $("which").append(...Object.entries(TEXT.lists).map(([value, text]) => make("option", { value }, text)));
  $("help-keys").append(...TEXT.keys.map(([key, what]) => make("div", {}, make("dt", {}, make("kbd", {}, key)), make("dd", {}, what))));
}

function onKey(event) {
  const isTyping = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) && event.target.type !== "range";
  if (document.querySelector("dialog[open]")) return;
  if (state.draft && event.key === "Escape") leaveEdit();
  else if (state.draft && event.key === "Enter" && (event.ctrlKey || event.metaKey)) saveEdit();
  else if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  else {
    const act = { j: () => step(1), k: () => step(-1), a: accept, e: startEdit, r: askReject, u: askReopen, "?": () => $("help").showModal() }[event.key.toLowerCase()];
    const decides = "aeru".includes(event.key.toLowerCase());
    if (decides && performance.now() - state.since < UNREAD_MS) return event.preventDefault();
    if (act) act();
    else if (!(/^[1-9]$|^Arrow(Up|Down)$|^Page(Up|Down)$/.test(event.key) && viewer?.isOpen && viewer.onKey(event))) return;
  }
  event.preventDefault();
}

function listen() {
  setTheme(kept(localStorage, "theme"));
  $("theme").onclick = () => {
    const isDark = getComputedStyle(document.documentElement).getPropertyValue("--is-dark").trim() === "1";
    setTheme(isDark ? "light" : "dark");
    kept(localStorage, "theme", isDark ? "light" : "dark");
  };
  $("help-button").onclick = () => $("help").showModal();
  $("help-close").onclick = () => $("help").close();
  $("reader").onclick = askReader;
  $("who-form").onsubmit = (event) => {
    event.preventDefault();
    const name = $("name").value.trim();
    if (!name) return;
    $("who").close();
    begin(name);
  };
  $("why-form").onsubmit = (event) => {
    event.preventDefault();
    const reason = $("reason").value.trim();
    if (!reason) return;
    $("why").close();
    sendReason(reason);
  };
  $("reason").onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    $("why-form").requestSubmit();
  };
  $("why-cancel").onclick = () => $("why").close();
  $("which").onchange = () => {
    state.list = $("which").value;
    loadItems().catch(showError);
  };
  $("more").onclick = () => loadItems(true).catch(showError);
  // Without a name nothing can be read: the dialog stays.
  $("who").oncancel = (event) => {
    if (!state.reader) event.preventDefault();
  };
  addEventListener("keydown", onKey);
}

function askReader() {
  $("name").value = state.reader;
  $("who").showModal();
  $("name").focus();
}

async function begin(name) {
  state.reader = name;
  kept(sessionStorage, "reader", name);
  $("reader").hidden = false;
  $("reader").textContent = TEXT.reader(name);
  $("reader").title = TEXT.readerName;
  state.item = null;
  state.draft = null;
  state.drafts.clear(); // another reader's edits are not this one's
  hideError();
  showStudy();
  try {
    if (!viewer) {
      const [status, findings] = await Promise.all([get("/v1/status"), get("/v1/findings")]);
      state.vocabulary = findings.findings.map((f) => f.name);
      viewer = new Viewer($("viewer"), { windows: status.windows, onClose() {}, onSimilar() {}, onState() {}, why: () => undefined, parts: () => null });
    }
    await Promise.all([loadStatus(), loadItems()]);
    const first = nextToDo();
    if (first) await open(first);
    else $("told").textContent = TEXT.allDone;
  } catch (error) {
    showError(error);
    if (error.status === 422) askReader(); // the name is no name
  }
}

words();
listen();
const reader = kept(sessionStorage, "reader");
if (reader) begin(reader);
else askReader();
