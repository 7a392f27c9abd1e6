// Searches that are kept under a name.

import { signal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import { get, send } from "../api";
import { pages, show, tell } from "../state";
import { askFromParams, askToParams } from "../ask";
import { t } from "../i18n";
import { Dialog } from "../parts/Dialog";
import { ask, askFor } from "../route";
import type { SavedSearch } from "../types";

const saved = signal<SavedSearch[] | null>(null);

async function load(): Promise<void> {
  saved.value = (await get<{ searches: SavedSearch[] }>("/v1/saved-searches")).searches;
}

export function SavedSearches() {
  useEffect(() => {
    if (pages.value.collections) void load().catch(show);
  }, []);
  if (!saved.value?.length) return null;
  const remove = async (one: SavedSearch) => {
    try {
      await send("DELETE", `/v1/saved-searches/${encodeURIComponent(one.search_id)}`);
      saved.value = saved.value!.filter((s) => s.search_id !== one.search_id);
    } catch (error) {
      show(error);
    }
  };
  return (
    <section class="saved" aria-labelledby="saved-title">
      <h2 id="saved-title">{t("saved.title")}</h2>
      <ul>
        {saved.value.map((one) => (
          <li key={one.search_id}>
            <button class="example" type="button" onClick={() => askFor(askFromParams(new URLSearchParams(String(one.query.hash ?? ""))))}>{one.name}</button>
            <button class="icon" type="button" aria-label={t("saved.remove", { name: one.name })} onClick={() => void remove(one)}>✕</button>
          </li>
        ))}
      </ul>
    </section>
  );
}

export function SaveSearch() {
  const [isOpen, setOpen] = useState(false);
  const [name, setName] = useState("");
  const save = async () => {
    try {
      await send("POST", "/v1/saved-searches", { name: name.trim(), query: { hash: askToParams(ask.value).toString() } });
      setOpen(false);
      tell(t("saved.done", { name: name.trim() }));
      await load();
    } catch (error) {
      setOpen(false);
      show(error);
    }
  };
  return (
    <>
      <button id="save-search" class="quiet small" type="button" onClick={() => { setName(ask.value.base?.kind === "text" ? ask.value.base.text : ask.value.keywords.join(", ")); setOpen(true); }}>{t("saved.save")}</button>
      {isOpen && (
        <Dialog id="save-dialog" title={t("saved.save")} onClose={() => setOpen(false)}>
          <form class="stack" onSubmit={(event) => { event.preventDefault(); void save(); }}>
            <label class="field">{t("app.name")}<input type="text" required maxLength={120} value={name} onInput={(event) => setName(event.currentTarget.value)} /></label>
            <div class="row end"><button class="quiet" type="button" onClick={() => setOpen(false)}>{t("app.cancel")}</button><button class="primary" type="submit">{t("app.save")}</button></div>
          </form>
        </Dialog>
      )}
    </>
  );
}
