// A CT may be dropped anywhere on the page: a file, a zip, the files of a series or their folder.

import { useEffect, useState } from "preact/hooks";
import { show, status } from "../state";
import { dropped } from "../archive";
import { t } from "../i18n";
import { searchFiles } from "../search/search";

const hasFile = (event: DragEvent): boolean => event.dataTransfer?.types.includes("Files") ?? false;

export function Drop() {
  const [depth, setDepth] = useState(0);
  useEffect(() => {
    const abort = new AbortController();
    const on = (name: "dragenter" | "dragleave" | "dragover" | "drop", act: (event: DragEvent) => void) => addEventListener(name, act, { signal: abort.signal });
    on("dragenter", (event) => hasFile(event) && setDepth((d) => d + 1));
    on("dragleave", () => setDepth((d) => Math.max(0, d - 1)));
    on("dragover", (event) => hasFile(event) && event.preventDefault());
    on("drop", (event) => {
      if (!hasFile(event)) return;
      event.preventDefault();
      setDepth(0);
      dropped(event.dataTransfer!).then(searchFiles, show);
    });
    return () => abort.abort();
  }, []);
  if (!depth || !status.value || !("volume" in status.value.encoders)) return null;
  return <div id="drop" class="drop" aria-hidden="true"><p>{t("drop.text")}</p></div>;
}
