import { t } from "./i18n";
import { Dialog } from "./parts/Dialog";
import { route } from "./route";

const SEARCH = ["/", "J K", "↑ ↓", "A C S M", "1 … 5", "drag", "Esc", "?"] as const;
const REVIEW = ["J, K", "A", "E", "Ctrl Enter", "Esc (review)", "R", "U", "1 … 5", "↑ ↓", "?"] as const;

export function HelpDialog({ onClose }: { onClose: () => void }) {
  const keys = route.value.view === "review" ? REVIEW : SEARCH;
  return (
    <Dialog id="help" title={t("help.title")} onClose={onClose}>
      <dl id="help-keys" class="help-keys">
        {keys.map((key) => <div key={key}><dt><kbd>{key.replace(" (review)", "")}</kbd></dt><dd>{t(`key.${key}`)}</dd></div>)}
      </dl>
      <p class="muted small-text">{t("help.text")}</p>
      <p class="small-text"><a href="/licences.md" target="_blank" rel="noreferrer">{t("help.licences")}</a></p>
      <div class="row end"><button id="help-close" class="quiet" type="button" data-first onClick={onClose}>{t("app.close")}</button></div>
    </Dialog>
  );
}
