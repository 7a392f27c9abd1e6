import { useEffect, useRef, useState } from "preact/hooks";
import { named, t } from "../i18n";
import { Dialog } from "../parts/Dialog";
import { Failed } from "../parts/messages";
import { session, show } from "../state";
import { ReportText } from "../text";
import type { Place } from "../types";
import { Viewer } from "../viewer/Viewer";
import {
  accept, begin, canDecide, change, decide, draft, findingNames, hasEnglish, hasFailedCt, isUnread, item, items, knownReader, leaveEdit, list, LISTS, loadItems, nItems, open,
  pendingLabel, progress, reader, reopen, said, saveEdit, startEdit, step, study, type Agreement, type Decision, type Item, type List,
} from "./review";
import "./review.css";

const number = (value: number | null): string => (value === null ? "–" : value.toFixed(2));

type Why = { title: string; button: string; act: (reason: string) => void };

export function ReviewView() {
  const [isAsking, setAsking] = useState(false);
  const [why, setWhy] = useState<Why | null>(null);
  const start = async (name: string) => setAsking(!(await begin(name)));
  const askReject = () => {
    if (canDecide.value && !draft.value) setWhy({ title: t("review.reject.title"), button: t("review.reject"), act: (reason) => void decide({ verdict: "reject", reason }) });
  };
  const askReopen = () => {
    if (item.value?.state === "settled") setWhy({ title: t("review.reopen.title"), button: t("review.reopen"), act: (reason) => void reopen(reason) });
  };
  useEffect(() => {
    const known = knownReader();
    if (known) void start(known);
    else setAsking(true);
  }, []);
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (document.querySelector("dialog[open]") || event.defaultPrevented) return;
      const target = event.target as HTMLElement;
      const isTyping = /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName) && (target as HTMLInputElement).type !== "range";
      if (draft.value && event.key === "Escape") leaveEdit();
      else if (draft.value && event.key === "Enter" && (event.ctrlKey || event.metaKey)) saveEdit();
      else if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
      else {
        const key = event.key.toLowerCase();
        const act = { j: () => step(1), k: () => step(-1), a: accept, e: startEdit, r: askReject, u: askReopen, "?": () => document.getElementById("help-button")?.click() }[key];
        if (!act) return;
        if (!("aeru".includes(key) && isUnread())) act();
      }
      event.preventDefault();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
  const p = progress.value?.progress;
  return (
    <div class="review-shell">
      <aside class="queue" aria-label={t("review.queue")}>
        <div class="queue-head">
          <h1>{t("review.queue")}</h1>
          <label><span class="visually-hidden">{t("review.which")}</span>
            <select id="which" value={list.value} onChange={(event) => { list.value = event.currentTarget.value as List; loadItems().catch(show); }}>
              {(Object.keys(LISTS) as List[]).map((name) => <option key={name} value={name}>{t(`review.list.${name}`)}</option>)}
            </select>
          </label>
        </div>
        <p id="facts" class="facts" role="status">{p && t("review.facts", { settled: p.n_settled, items: p.n_items, disputed: p.n_disputed, started: p.n_started })}</p>
        <progress id="progress" max={1} value={p?.n_items ? p.n_settled / p.n_items : 0} aria-label={t("review.progress")} />
        <Agreements />
        <ol id="items" class="items">
          {items.value.map((i) => <QueueRow key={i.study_id} id={i.study_id} state={i.state} rules={i.rules} />)}
          {!items.value.length && <li class="muted">{t("review.empty")}</li>}
        </ol>
        {items.value.length < nItems.value && <button id="more" class="quiet small" type="button" onClick={() => loadItems(true).catch(show)}>{t("found.more")}</button>}
        {reader.value && (
          session.value?.access === "required" ? <p id="reader" class="muted small-text">{t("review.reader", { name: reader.value })}</p>
            : <button id="reader" class="quiet small" type="button" title={t("review.reader.change")} onClick={() => setAsking(true)}>{t("review.reader", { name: reader.value })}</button>
        )}
      </aside>
      <main id="main" tabIndex={-1}>
        <Failed />
        <p id="told" class="told" role="status">{said.value}</p>
        <div id="study">{item.value && <StudyUnderReview key={item.value.study_id} now={item.value} onReject={askReject} onReopen={askReopen} />}</div>
      </main>
      <section class="ct" aria-label={t("review.ct")}><Ct /></section>
      {isAsking && <WhoDialog onName={(name) => { setAsking(false); void start(name); }} onClose={() => reader.value && setAsking(false)} />}
      {why && <WhyDialog why={why} onClose={() => setWhy(null)} />}
    </div>
  );
}

function QueueRow({ id, state, rules }: { id: string; state: Item["state"]; rules: string[] }) {
  const ref = useRef<HTMLButtonElement>(null);
  const isOpen = item.value?.study_id === id;
  useEffect(() => {
    if (isOpen) ref.current?.scrollIntoView({ block: "nearest" });
  }, [isOpen]);
  return (
    <li>
      <button ref={ref} type="button" data-study={id} data-state={state} aria-current={isOpen || undefined} onClick={() => void open(id)}>
        <span class="id">{id}</span><span class="state">{t(`review.state.${state}`)}</span><span class="rules">{rules.join(", ")}</span>
      </button>
    </li>
  );
}

function Agreements() {
  const now = progress.value;
  if (!now) return <details id="agreement" class="agreement"><summary>…</summary></details>;
  const { agreement, agreement_by_finding: byFinding } = now;
  const row = (name: string, a: Agreement) => <tr key={name}><td>{name}</td><td>{number(a.observed)}</td><td>{number(a.kappa)}</td><td>{a.n_items}</td></tr>;
  return (
    <details id="agreement" class="agreement">
      <summary>{agreement.n_items ? t("review.agreement", { kappa: number(agreement.kappa), n: agreement.n_items }) : t("review.agreement.none")}</summary>
      {agreement.n_items > 0 && (
        <table>
          <thead><tr><th scope="col">{t("review.agreement.finding")}</th><th scope="col">{t("review.agreement.agree")}</th><th scope="col">κ</th><th scope="col">n</th></tr></thead>
          <tbody>{row(t("review.agreement.overall"), agreement)}{Object.entries(byFinding).map(([name, a]) => row(name, a))}</tbody>
        </table>
      )}
    </details>
  );
}

function StudyUnderReview({ now, onReject, onReopen }: { now: Item; onReject: () => void; onReopen: () => void }) {
  const heading = useRef<HTMLHeadingElement>(null);
  const isEdited = draft.value !== null;
  useEffect(() => {
    document.getElementById("main")!.scrollTop = 0;
  }, []);
  useEffect(() => {
    if (isEdited) (document.getElementById("english") ?? document.getElementById("label"))?.focus();
    else if (!document.querySelector("dialog[open]")) heading.current?.focus({ preventScroll: true });
  }, [isEdited]);
  const note = { disputed: t("review.note.disputed"), waiting: t("review.note.waiting"), taken: t("review.note.taken"), todo: "", settled: "" }[now.state];
  return (
    <>
      <header class="study-head"><h2 tabIndex={-1} ref={heading}>{now.study_id}</h2><span class="muted">{[t(`review.state.${now.state}`), note].filter(Boolean).join(". ")}</span></header>
      <ul class="doubts" aria-label={t("review.doubts")}>
        {now.doubts.map((doubt) => (
          <li key={doubt.rule + doubt.reason}><meter min={0} max={1} value={doubt.weight} title={doubt.weight.toFixed(2)} aria-label={doubt.weight.toFixed(2)} /><span class="rule">{doubt.rule}</span><p>{doubt.reason}</p></li>
        ))}
      </ul>
      <div class="texts">
        <section>
          {now.original ? <><h3>{t(`review.original.${now.original.language}`)}</h3><ReportText text={now.original.text} language={now.original.language} findings={now.original.findings} /></> : <p class="muted">{t("review.no-report")}</p>}
        </section>
        {hasEnglish.value && <English now={now} />}
      </div>
      <Labels now={now} />
      <Votes now={now} />
      <div class="decide" role="toolbar" aria-label={t("review.votes")}>
        {isEdited ? (
          <>
            <Act look="primary" name="save" keys="Ctrl ⏎" act={saveEdit} />
            <Act look="quiet" name="cancel" keys="Esc" act={leaveEdit} />
          </>
        ) : now.state === "settled" ? <Act look="quiet" name="reopen" keys="U" act={onReopen} /> : canDecide.value && (
          <>
            <Act look="primary" name="accept" keys="A" act={accept} />
            <Act look="secondary" name="edit" keys="E" act={startEdit} />
            <Act look="quiet bad" name="reject" keys="R" act={onReject} />
          </>
        )}
        <span class="spacer" />
        <Act look="quiet" name="previous" keys="K" act={() => step(-1)} />
        <Act look="quiet" name="next" keys="J" act={() => step(1)} />
      </div>
    </>
  );
}

function Act({ look, name, keys, act }: { look: string; name: "save" | "cancel" | "reopen" | "accept" | "edit" | "reject" | "previous" | "next"; keys: string; act: () => void }) {
  return <button class={look} type="button" id={`do-${name}`} onClick={act}>{t(`review.${name}`)}<kbd>{keys}</kbd></button>;
}

function English({ now }: { now: Item }) {
  const text = draft.value;
  return (
    <section>
      <h3>{t("review.english")}{now.is_candidate && <span class="failed-checks">{[t("review.candidate"), ...now.problems].join(" · ")}</span>}</h3>
      {text ? <textarea id="english" lang="en" maxLength={50000} aria-label={t("review.english")} spellcheck value={text.english} onInput={(event) => change({ english: event.currentTarget.value })} />
        : now.english ? <ReportText text={now.english.text} language="en" findings={now.english.findings} /> : <p class="muted">{t("review.no-english")}</p>}
    </section>
  );
}

function Labels({ now }: { now: Item }) {
  const edited = draft.value;
  const names = edited?.labels ?? now.labels;
  return (
    <section class="labels" id="labels">
      <h3>{t("review.labels")}</h3>
      <div class="chips">
        {names.map((name) => (
          <span class="chip" key={name}>{named("finding.name", name)}
            {edited && <button type="button" aria-label={t("ask.remove", { name })} onClick={() => { change({ labels: edited.labels.filter((n) => n !== name) }); document.getElementById("label")?.focus(); }}>×</button>}
          </span>
        ))}
        {edited && (
          <>
            <input id="label" type="text" list="findings" maxLength={200} autocomplete="off" placeholder={t("review.label.add")} aria-label={t("review.label.name")} value={pendingLabel.value}
              onInput={(event) => { pendingLabel.value = event.currentTarget.value; }}
              onKeyDown={(event) => {
                if (event.key !== "Enter" || event.ctrlKey || event.metaKey) return;
                event.preventDefault();
                const name = pendingLabel.value.trim();
                pendingLabel.value = "";
                if (name) change({ labels: [...new Set([...edited.labels, name])] });
              }} />
            <datalist id="findings">{findingNames.value.map((name) => <option key={name} value={name} />)}</datalist>
          </>
        )}
        {!edited && !names.length && <span class="muted">{t("review.labels.none")}</span>}
      </div>
    </section>
  );
}

function Votes({ now }: { now: Item }) {
  if (!now.others.length && !now.mine && !now.outcome) return null;
  return (
    <section class="votes">
      <h3>{t("review.votes")}</h3>
      <ul>
        {now.others.map((vote) => <li key={vote.reader}><strong>{vote.reader}{vote.is_adjudication && ` (${t("review.adjudicator")})`}: </strong><Decided decision={vote.decision} /></li>)}
        {now.mine && <li><strong>{t("review.mine")}: </strong><Decided decision={now.mine} /></li>}
        {now.outcome && <li id="outcome"><strong>{t("review.outcome")}: </strong><Decided decision={now.outcome} /></li>}
      </ul>
    </section>
  );
}

function Decided({ decision }: { decision: Decision }) {
  return (
    <>
      <span class="verdict">{t(`review.verdict.${decision.verdict}`)}</span>
      {decision.reason && ` · ${decision.reason}`}
      {decision.translation !== null && <p><strong>{t("review.english.is")} </strong>{decision.translation || t("review.nothing")}</p>}
      {decision.labels !== null && <p><strong>{t("review.labels.are")} </strong>{decision.labels.join(", ") || t("review.nothing")}</p>}
    </>
  );
}

function Ct() {
  const now = item.value;
  const [place, setPlace] = useState<Place>({ plane: "axial" });
  useEffect(() => setPlace({ plane: "axial" }), [now?.study_id]);
  if (!now) return null;
  if (now.ct !== "indexed" || hasFailedCt.value) return <p id="no-ct" class="no-ct">{t(hasFailedCt.value ? "review.ct.failed" : `review.ct.${now.ct as "none" | "another"}`)}</p>;
  const shown = study.value;
  if (!shown) return null;
  const nothing = () => {};
  return (
    <div class="viewer">
      <Viewer key={shown.study_id} study={shown} compare={null} place={place} question={null} why={null} isBare onPlace={setPlace} onClose={nothing} onSimilar={nothing} onRegion={nothing} onCompare={nothing} />
    </div>
  );
}

function WhoDialog({ onName, onClose }: { onName: (name: string) => void; onClose: () => void }) {
  const [name, setName] = useState(reader.value);
  return (
    <Dialog id="who" title={t("review.who")} onClose={onClose}>
      <form id="who-form" class="stack" onSubmit={(event) => { event.preventDefault(); if (name.trim()) onName(name.trim()); }}>
        <p class="muted">{t("review.who.note")}</p>
        <label class="field">{t("review.who.label")}<input id="name" type="text" maxLength={80} autocomplete="off" required value={name} onInput={(event) => setName(event.currentTarget.value)} /></label>
        <button class="primary" type="submit">{t("review.begin")}</button>
      </form>
    </Dialog>
  );
}

function WhyDialog({ why, onClose }: { why: Why; onClose: () => void }) {
  const [reason, setReason] = useState("");
  const send = () => {
    if (!reason.trim()) return;
    onClose();
    why.act(reason.trim());
  };
  return (
    <Dialog id="why" title={why.title} onClose={onClose}>
      <form id="why-form" class="stack" onSubmit={(event) => { event.preventDefault(); send(); }}>
        <label class="field">{t("review.reason")}
          <textarea id="reason" rows={3} maxLength={2000} required value={reason} onInput={(event) => setReason(event.currentTarget.value)} onKeyDown={(event) => { if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); send(); } }} />
        </label>
        <div class="row"><button class="primary" type="submit" id="why-send">{why.button}</button><button class="quiet" type="button" id="why-cancel" onClick={onClose}>{t("app.cancel")}</button></div>
      </form>
    </Dialog>
  );
}
