// Collections: teaching files, studies of a talk, a day's worklist.

import { useEffect, useState } from "preact/hooks";
import { get, send } from "../api";
import { show } from "../state";
import { count, t } from "../i18n";
import { Dialog } from "../parts/Dialog";
import { Failed } from "../parts/messages";
import { go, href } from "../route";
import { day } from "../text";
import type { Collection } from "../types";

export function CollectionsView() {
  const [all, setAll] = useState<Collection[] | null>(null);
  const [isNew, setNew] = useState(false);
  useEffect(() => {
    get<{ collections: Collection[] }>("/v1/collections").then((answer) => setAll(answer.collections), show);
  }, []);
  return (
    <main id="main" class="page">
      <header class="page-head">
        <div><h1 tabIndex={-1}>{t("nav.collections")}</h1><p class="muted">{t("collections.text")}</p></div>
        <button id="new-collection" class="primary" type="button" onClick={() => setNew(true)}>{t("collections.new")}</button>
      </header>
      <Failed />
      {all?.length === 0 && <p class="empty">{t("collections.none")}</p>}
      <ul id="collections" class="tiles" aria-busy={all === null}>
        {(all ?? []).map((c) => (
          <li key={c.collection_id}>
            <a class="tile" href={href({ view: "collection", id: c.collection_id })} data-collection={c.collection_id}>
              <strong>{c.name}</strong>
              {c.description && <span class="muted">{c.description}</span>}
              <span class="muted small-text">{count("collections.studies", c.n_studies)} · {t(`permission.${c.permission}`)}{c.permission !== "owner" && ` · ${c.owner}`} · {day(c.changed)}</span>
            </a>
          </li>
        ))}
      </ul>
      {isNew && <EditDialog onClose={() => setNew(false)} onDone={(made) => go({ view: "collection", id: made.collection_id, study: null })} />}
    </main>
  );
}

export function EditDialog({ given, onClose, onDone }: { given?: Collection; onClose: () => void; onDone: (collection: Collection) => void }) {
  const [name, setName] = useState(given?.name ?? "");
  const [description, setDescription] = useState(given?.description ?? "");
  const save = async () => {
    try {
      const body = { name: name.trim(), description: description.trim() };
      const path = given ? `/v1/collections/${encodeURIComponent(given.collection_id)}` : "/v1/collections";
      onDone(await send<Collection>(given ? "PATCH" : "POST", path, body));
    } catch (error) {
      show(error);
    }
    onClose();
  };
  return (
    <Dialog id="collection-dialog" title={t(given ? "collection.edit" : "collections.new")} onClose={onClose}>
      <form class="stack" onSubmit={(event) => { event.preventDefault(); void save(); }}>
        <label class="field">{t("app.name")}<input id="collection-name" type="text" required maxLength={120} value={name} onInput={(event) => setName(event.currentTarget.value)} /></label>
        <label class="field">{t("collections.description")}<textarea rows={3} maxLength={2000} value={description} onInput={(event) => setDescription(event.currentTarget.value)} /></label>
        <div class="row end"><button class="quiet" type="button" onClick={onClose}>{t("app.cancel")}</button><button class="primary" type="submit">{t("app.save")}</button></div>
      </form>
    </Dialog>
  );
}
