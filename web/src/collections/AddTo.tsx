// Puts studies into a collection, from a card or from the viewer.

import { signal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import { get, send } from "../api";
import { show, tell } from "../state";
import { t } from "../i18n";
import { Dialog } from "../parts/Dialog";
import type { Collection } from "../types";

export const collecting = signal<string[] | null>(null); // study ids, while the dialog is open

export const collectionUrl = (id: string, what = ""): string => `/v1/collections/${encodeURIComponent(id)}${what}`;

export function AddTo() {
  const ids = collecting.value;
  return ids && <AddDialog ids={ids} />;
}

function AddDialog({ ids }: { ids: string[] }) {
  const [all, setAll] = useState<Collection[] | null>(null);
  const [chosen, setChosen] = useState("");
  const [name, setName] = useState("");
  const [note, setNote] = useState("");
  const close = () => {
    collecting.value = null;
  };
  useEffect(() => {
    get<{ collections: Collection[] }>("/v1/collections").then(({ collections }) => {
      const own = collections.filter((c) => c.permission !== "read");
      setAll(own);
      setChosen(own[0]?.collection_id ?? "");
    }, (error) => { close(); show(error); });
  }, []);
  const save = async () => {
    try {
      const isNew = !chosen;
      const id = chosen || (await send<Collection>("POST", "/v1/collections", { name: name.trim(), description: "" })).collection_id;
      for (const study of ids) await send("PUT", collectionUrl(id, `/studies/${encodeURIComponent(study)}`), { note: note.trim() });
      tell(t("collect.done", { name: isNew ? name.trim() : (all?.find((c) => c.collection_id === id)?.name ?? "") }));
      close();
    } catch (error) {
      close();
      show(error);
    }
  };
  return (
    <Dialog id="collect-dialog" title={t("collect.add")} onClose={close}>
      <p class="muted">{ids.join(", ")}</p>
      {all === null ? <p class="muted" role="status">{t("app.loading")}</p> : (
        <form class="stack" onSubmit={(event) => { event.preventDefault(); void save(); }}>
          <label class="field">{t("collect.which")}
            <select id="collect-which" data-first value={chosen} onChange={(event) => setChosen(event.currentTarget.value)}>
              {all.map((c) => <option key={c.collection_id} value={c.collection_id}>{c.name}</option>)}
              <option value="">{t("collect.new")}</option>
            </select>
          </label>
          {!chosen && <label class="field">{t("app.name")}<input id="collect-name" type="text" required maxLength={120} value={name} onInput={(event) => setName(event.currentTarget.value)} /></label>}
          <label class="field">{t("collect.note")}<textarea id="collect-note" rows={2} maxLength={2000} value={note} onInput={(event) => setNote(event.currentTarget.value)} /></label>
          <div class="row end"><button class="quiet" type="button" onClick={close}>{t("app.cancel")}</button><button class="primary" type="submit">{t("collect.put")}</button></div>
        </form>
      )}
    </Dialog>
  );
}
