// One box: a sentence, findings that are completed as one types, a pasted report, a CT.

import { signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { status, vocabulary } from "../state";
import { isAsked, isReport, isUploaded, keepReport, reportOf, type Base } from "../ask";
import { count, named, t } from "../i18n";
import { Dialog } from "../parts/Dialog";
import { Menu } from "../parts/Menu";
import { ask, askFor } from "../route";
import { folded } from "../text";
import type { FindingName } from "../types";
import { again, searchFiles, uploadName } from "./search";

interface Suggestion {
  entry: FindingName;
  as: string;
  tail: number; // how many of the typed words it replaces
}

const MOST = 8;

// The last words that begin a finding's name, or stand inside one; the longest run of words wins.
export function suggestions(typed: string, taken: string[]): Suggestion[] {
  const words = typed.trimStart().split(/\s+/);
  for (let tail = Math.min(4, words.length); tail > 0; tail--) {
    const word = folded(words.slice(-tail).join(" "));
    if (word.length < 2) continue;
    const scored: (Suggestion & { cost: number })[] = [];
    for (const entry of vocabulary.value) {
      if (taken.includes(entry.name)) continue;
      let best = Infinity;
      let as = entry.name;
      for (const name of [entry.name, ...entry.synonyms]) {
        const at = folded(name).indexOf(word);
        if (at < 0) continue;
        const cost = (at === 0 ? 0 : name[at - 1] === " " ? 1 : 2) + (name === entry.name ? 0 : 0.5);
        if (cost < best) [best, as] = [cost, name];
      }
      if (best < (tail === words.length ? Infinity : 2)) scored.push({ entry, as, tail, cost: best });
    }
    if (scored.length) {
      return scored
        .sort((a, b) => a.cost - b.cost || b.entry.n_studies - a.entry.n_studies || a.entry.name.length - b.entry.name.length || a.entry.name.localeCompare(b.entry.name))
        .slice(0, MOST);
    }
  }
  return [];
}

// What stands in the box but has not been asked; views may put words there.
export const draft = signal("");

export function AskBox() {
  const { base, keywords, without, like, unlike } = ask.value;
  const [at, setAt] = useState(-1);
  const [isOpen, setOpen] = useState(false);
  const [isEditing, setEditing] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  const files = useRef<HTMLInputElement>(null);
  const folder = useRef<HTMLInputElement>(null);
  const text = base?.kind === "text" ? base.text : "";
  useEffect(() => {
    draft.value = text;
    setOpen(false);
  }, [text]);
  const list = isOpen ? suggestions(draft.value, [...keywords, ...without]) : [];
  const hasVolume = Boolean(status.value && "volume" in status.value.encoders);

  const submit = () => {
    const typed = draft.value.trim();
    setOpen(false);
    if (typed && (isReport(typed) ? askFor({ base: keepReport(typed) }) : askFor({ base: { kind: "text", text: typed } }))) return;
    if (typed) again();
    else if (base?.kind === "text") askFor({ base: null });
    else if (!isAsked(ask.value)) input.current?.focus();
  };

  const accept = ({ entry, tail }: Suggestion, isNegated = false) => {
    const left = draft.value.trimStart().split(/\s+/).slice(0, -tail).join(" ");
    setOpen(false);
    setAt(-1);
    // A sentence that was not asked yet is asked along with the finding. A finding takes the place of
    // the sentence that it was written over; one that is left out needs something to be left out of.
    const own: Base | null = left ? { kind: "text", text: left } : base?.kind === "text" && !isNegated ? null : base;
    draft.value = own?.kind === "text" ? own.text : "";
    askFor({ base: own, ...(isNegated ? { without: [...without, entry.name] } : { keywords: [...keywords, entry.name] }) });
    input.current?.focus();
  };

  const onKey = (event: KeyboardEvent) => {
    const n = list.length;
    if ((event.key === "ArrowDown" || event.key === "ArrowUp") && n) {
      setAt((now) => (event.key === "ArrowDown" ? (now + 1) % n : now <= 0 ? n - 1 : now - 1));
    } else if (event.key === "Enter") {
      if (list[at]) accept(list[at], event.shiftKey);
      else submit();
    } else if (event.key === "Escape" && n) {
      setOpen(false);
      event.stopPropagation();
    } else if (event.key === "Backspace" && !draft.value) {
      if (keywords.length) askFor({ keywords: keywords.slice(0, -1) });
      else if (base && base.kind !== "text") askFor({ base: null });
      else return;
    } else return;
    event.preventDefault();
  };

  const onPaste = (event: ClipboardEvent) => {
    const pasted = event.clipboardData?.getData("text/plain") ?? "";
    if (!isReport(pasted)) return;
    event.preventDefault();
    draft.value = "";
    askFor({ base: keepReport(pasted.trim()) });
  };

  const take = (element: HTMLInputElement) => {
    void searchFiles([...(element.files ?? [])]);
    element.value = "";
  };

  return (
    <form id="query" role="search" aria-label={t("ask.form")} onSubmit={(event) => { event.preventDefault(); submit(); }}>
      <div class="ask">
        <div class="ask-in" onPointerDown={(event) => { if (event.target === event.currentTarget) { event.preventDefault(); input.current?.focus(); } }}>
          <BaseChip base={base} onEdit={() => setEditing(true)} />
          {keywords.map((name) => <Chip key={`+${name}`} kind="with" text={`+ ${name}`} name={name} onRemove={() => askFor({ keywords: keywords.filter((k) => k !== name) })} />)}
          {without.map((name) => <Chip key={`-${name}`} kind="without" text={`− ${name}`} name={name} onRemove={() => askFor({ without: without.filter((k) => k !== name) })} />)}
          {like.map((id) => <Chip key={`l${id}`} kind="with" text={t("refine.like.chip", { id })} name={id} onRemove={() => askFor({ like: like.filter((k) => k !== id) })} />)}
          {unlike.map((id) => <Chip key={`u${id}`} kind="without" text={t("refine.unlike.chip", { id })} name={id} onRemove={() => askFor({ unlike: unlike.filter((k) => k !== id) })} />)}
          <input
            id="text" ref={input} type="text" autocomplete="off" spellcheck={false} maxLength={4000}
            role="combobox" aria-expanded={list.length > 0} aria-controls="suggestions" aria-autocomplete="list"
            aria-activedescendant={list[at] ? `s-${at}` : undefined}
            aria-label={t("ask.label")} placeholder={base && base.kind !== "text" || keywords.length ? t("ask.more") : t("ask.placeholder")}
            value={draft.value}
            onInput={(event) => { draft.value = event.currentTarget.value; setOpen(true); setAt(-1); }}
            onBlur={() => setOpen(false)} onKeyDown={onKey} onPaste={onPaste}
          />
        </div>
        {hasVolume && (
          <Menu id="choose" class="quiet" label={t("ask.ct")} items={[
            { label: t("ask.ct.file"), act: () => files.current?.click() },
            { label: t("ask.ct.folder"), act: () => folder.current?.click() },
          ]}><span aria-hidden="true">⬆</span> <span class="wide-only">{t("ask.ct")}</span></Menu>
        )}
        <button id="go" class="primary" type="submit">{t("ask.go")}</button>
        <ul id="suggestions" role="listbox" aria-label={t("ask.findings")} hidden={!list.length}>
          {list.map((s, i) => (
            <li key={s.entry.name} id={`s-${i}`} role="option" aria-selected={i === at} data-name={s.entry.name} class={s.entry.n_studies ? undefined : "none"}
              onPointerDown={(event) => { event.preventDefault(); accept(s, event.shiftKey); }}>
              <span>{named("finding.name", s.entry.name)}</span>
              {s.as !== s.entry.name && <span class="muted">{s.as}</span>}
              <span class="n">{s.entry.n_studies}</span>
            </li>
          ))}
          {list.length > 0 && <li class="hint" role="presentation"><kbd>↓</kbd> <kbd>⏎</kbd> {t("ask.hint.with")} · <kbd>⇧⏎</kbd> {t("ask.hint.without")}</li>}
        </ul>
      </div>
      <input id="file" ref={files} type="file" multiple hidden tabIndex={-1} aria-label={t("ask.ct.file")} onChange={(event) => take(event.currentTarget)} />
      <input id="folder" ref={folder} type="file" multiple hidden tabIndex={-1} aria-label={t("ask.ct.folder")} {...{ webkitdirectory: true }} onChange={(event) => take(event.currentTarget)} />
      {isEditing && base?.kind === "report" && <ReportDialog text={reportOf(base.key) ?? ""} onClose={() => setEditing(false)} />}
    </form>
  );
}

function Chip({ kind, text, name, onRemove }: { kind: string; text: string; name: string; onRemove: () => void }) {
  return (
    <span class={`chip ${kind}`} data-name={name}>
      {text}
      <button type="button" aria-label={t("ask.remove", { name })} onClick={onRemove}>×</button>
    </span>
  );
}

// What stands for a base that is no sentence.
function BaseChip({ base, onEdit }: { base: Base | null; onEdit: () => void }) {
  if (!base || base.kind === "text") return null;
  const remove = () => askFor({ base: null });
  if (base.kind === "report") {
    const lines = (reportOf(base.key) ?? "").split("\n").filter((line) => line.trim()).length;
    return (
      <span class="chip base" data-base="report">
        <button class="link" type="button" onClick={onEdit}>{t("ask.report")} · {count("ask.lines", lines)}</button>
        <button type="button" aria-label={t("ask.remove", { name: t("ask.report") })} onClick={remove}>×</button>
      </span>
    );
  }
  const id = base.kind === "region" ? base.region.study_id : base.id;
  const name = isUploaded(id) ? uploadName.value || t("ask.uploaded") : id;
  const text = base.kind === "region" ? t("ask.region", { id: name, plane: t(`plane.${base.region.plane}`), n: base.region.index + 1 }) : isUploaded(id) ? t("ask.looks", { name }) : t("ask.like", { name });
  return <Chip kind="base" text={text} name={name} onRemove={remove} />;
}

function ReportDialog({ text, onClose }: { text: string; onClose: () => void }) {
  const [now, setNow] = useState(text);
  const send = () => {
    onClose();
    askFor({ base: now.trim() ? keepReport(now.trim()) : null });
  };
  return (
    <Dialog id="report-dialog" title={t("ask.report")} onClose={onClose} isWide>
      <form class="stack" onSubmit={(event) => { event.preventDefault(); send(); }}>
        <textarea rows={16} maxLength={50000} aria-label={t("ask.report")} value={now} onInput={(event) => setNow(event.currentTarget.value)} />
        <p class="muted small-text">{t("ask.report.note")}</p>
        <div class="row end"><button class="quiet" type="button" onClick={onClose}>{t("app.cancel")}</button><button class="primary" type="submit">{t("ask.go")}</button></div>
      </form>
    </Dialog>
  );
}
