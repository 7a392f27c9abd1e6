// One collection: its studies with notes, who else sees it, and its way out as files.

import { useEffect, useState } from "preact/hooks";
import { get, send, sliceUrl } from "../api";
import { session, show, tell } from "../state";
import { count, t } from "../i18n";
import { Dialog } from "../parts/Dialog";
import { Menu } from "../parts/Menu";
import { Failed } from "../parts/messages";
import { go, href, openStudy, route } from "../route";
import { chipText, day, defaultWindow, distinctFindings, facts } from "../text";
import type { CollectionFull, CollectionStudy } from "../types";
import { collectionUrl } from "./AddTo";
import { EditDialog } from "./CollectionsView";

const FORMATS = ["csv", "json", "pdf", "nifti", "dicom"] as const;

export function CollectionView({ id }: { id: string }) {
  const [it, setIt] = useState<CollectionFull | null>(null);
  const [dialog, setDialog] = useState<"edit" | "share" | "delete" | null>(null);
  const load = () => get<CollectionFull>(collectionUrl(id)).then(setIt, show);
  useEffect(() => {
    setIt(null);
    void load();
  }, [id]);
  const isOwner = it?.permission === "owner";
  const mayWrite = isOwner || it?.permission === "write";
  const act = async (method: string, what: string, body?: unknown) => {
    try {
      await send(method, collectionUrl(id, what), body);
      await load();
    } catch (error) {
      show(error);
    }
  };
  const remove = async () => {
    try {
      await send("DELETE", collectionUrl(id));
      tell(t("collection.deleted", { name: it?.name ?? "" }));
      go({ view: "collections", id: null, study: null });
    } catch (error) {
      setDialog(null);
      show(error);
    }
  };
  return (
    <main id="main" class="page">
      <p class="crumb"><a href={href({ view: "collections" })}>← {t("nav.collections")}</a></p>
      <Failed />
      {it && (
        <>
          <header class="page-head">
            <div>
              <h1 tabIndex={-1}>{it.name}</h1>
              {it.description && <p>{it.description}</p>}
              <p class="muted small-text">{count("collections.studies", it.studies.length)} · {t(`permission.${it.permission}`)}{!isOwner && ` · ${it.owner}`} · {t("collection.changed", { day: day(it.changed) })}</p>
            </div>
            <div class="row">
              <Menu id="export" class="secondary" label={t("collection.export")} items={FORMATS.map((format) => ({ label: t(`export.${format}`), href: `${collectionUrl(id)}/export?format=${format}`, download: true }))}>{t("collection.export")} ▾</Menu>
              {isOwner && session.value?.access === "required" && <button id="share" class="quiet" type="button" onClick={() => setDialog("share")}>{t("collection.share")}</button>}
              {mayWrite && <button id="edit-collection" class="quiet" type="button" onClick={() => setDialog("edit")}>{t("app.edit")}</button>}
              {isOwner && <button id="delete-collection" class="quiet bad" type="button" onClick={() => setDialog("delete")}>{t("app.delete")}</button>}
            </div>
          </header>
          <p class="muted small-text">{t("collection.anonymous")}</p>
          {it.studies.length === 0 && <p class="empty">{t("collection.none")}</p>}
          <ol id="collected" class="hits">
            {it.studies.map((one) => (
              <Collected key={one.study_id} one={one} mayWrite={mayWrite} onNote={(note) => void act("PUT", `/studies/${encodeURIComponent(one.study_id)}`, { note })} onRemove={() => void act("DELETE", `/studies/${encodeURIComponent(one.study_id)}`)} />
            ))}
          </ol>
          {dialog === "edit" && <EditDialog given={it} onClose={() => setDialog(null)} onDone={() => void load()} />}
          {dialog === "share" && <ShareDialog it={it} act={act} onClose={() => setDialog(null)} />}
          {dialog === "delete" && (
            <Dialog id="delete-dialog" title={t("collection.delete", { name: it.name })} onClose={() => setDialog(null)}>
              <p>{t("collection.delete.text")}</p>
              <div class="row end"><button class="quiet" type="button" data-first onClick={() => setDialog(null)}>{t("app.cancel")}</button><button id="do-delete" class="primary danger" type="button" onClick={() => void remove()}>{t("app.delete")}</button></div>
            </Dialog>
          )}
        </>
      )}
    </main>
  );
}

function Collected({ one, mayWrite, onNote, onRemove }: { one: CollectionStudy; mayWrite: boolean; onNote: (note: string) => void; onRemove: () => void }) {
  const { study } = one;
  const isOpen = route.value.study === one.study_id;
  const [note, setNote] = useState(one.note);
  useEffect(() => setNote(one.note), [one.note]);
  return (
    <li class={`card${isOpen ? " open" : ""}`} data-study={one.study_id}>
      <button class="thumb" type="button" tabIndex={-1} aria-label={t("card.open", { id: one.study_id })} disabled={!study} onClick={() => openStudy(one.study_id)}>
        {study ? <span class="thumb-in" style={study.planes.axial ? { aspectRatio: `${study.planes.axial.width} / ${study.planes.axial.height}` } : undefined}><img src={sliceUrl(one.study_id, "axial", "key", `window=${defaultWindow(study)}`)} alt={t("card.slice", { id: one.study_id })} loading="lazy" /></span> : <span class="no-image">{t("collection.gone")}</span>}
      </button>
      <div class="card-body">
        <div class="card-head">
          <h3>{study ? <button class="title" type="button" onClick={() => openStudy(one.study_id)}>{one.study_id}</button> : <span class="title">{one.study_id}</span>}</h3>
          {study && <p class="facts">{facts(study).join(" · ")}</p>}
          {mayWrite && <button class="icon" type="button" aria-label={t("collection.remove", { id: one.study_id })} title={t("collection.remove", { id: one.study_id })} onClick={onRemove}>✕</button>}
        </div>
        {study && <ul class="chips" aria-label={t("card.findings")}>{distinctFindings(study.findings).slice(0, 7).map((f) => <li key={chipText(f)} class={`chip ${f.status}`}>{chipText(f)}</li>)}</ul>}
        {mayWrite ? (
          <label class="note-field"><span class="visually-hidden">{t("collect.note")}</span>
            <textarea class="note" rows={2} maxLength={2000} placeholder={t("collect.note")} value={note} onInput={(event) => setNote(event.currentTarget.value)} onBlur={() => note !== one.note && onNote(note)} />
          </label>
        ) : one.note && <p class="note-text">{one.note}</p>}
      </div>
    </li>
  );
}

function ShareDialog({ it, act, onClose }: { it: CollectionFull; act: (method: string, what: string, body?: unknown) => Promise<void>; onClose: () => void }) {
  const [name, setName] = useState("");
  const [permission, setPermission] = useState<"read" | "write">("read");
  return (
    <Dialog id="share-dialog" title={t("collection.share")} onClose={onClose}>
      <Failed />
      <ul class="rows" id="shares">
        {it.shares.map((share) => (
          <li key={share.account}>
            <span>{share.account}</span><span class="muted">{t(`permission.${share.permission}`)}</span>
            <button class="icon" type="button" aria-label={t("share.remove", { name: share.account })} onClick={() => void act("DELETE", `/shares/${encodeURIComponent(share.account)}`)}>✕</button>
          </li>
        ))}
      </ul>
      <form class="row wrap" onSubmit={(event) => { event.preventDefault(); void act("PUT", `/shares/${encodeURIComponent(name.trim())}`, { permission }).then(() => setName("")); }}>
        <label class="field grow">{t("share.account")}<input id="share-name" type="text" required maxLength={120} autocomplete="off" value={name} onInput={(event) => setName(event.currentTarget.value)} /></label>
        <label class="field">{t("share.may")}<select value={permission} onChange={(event) => setPermission(event.currentTarget.value as "read" | "write")}><option value="read">{t("permission.read")}</option><option value="write">{t("permission.write")}</option></select></label>
        <button class="primary" type="submit">{t("collection.share")}</button>
      </form>
    </Dialog>
  );
}
