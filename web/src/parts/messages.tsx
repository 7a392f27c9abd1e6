import { failure, hideFailure, told } from "../state";
import { t } from "../i18n";

// What went wrong and what to do, until it is dismissed or something goes right.
export function Failed() {
  const error = failure.value;
  return (
    <div id="error" class="error" role="alert" hidden={!error}>
      {error && (
        <>
          <strong>{error.message}</strong> {error.hint} {error.requestId && <code>{t("error.request", { id: error.requestId })}</code>}
          <button class="icon" type="button" aria-label={t("app.dismiss")} onClick={hideFailure}>✕</button>
        </>
      )}
    </div>
  );
}

export function Told() {
  return <p id="toast" class="toast" role="status" data-on={told.value ? "" : undefined}>{told.value}</p>;
}

export function Progress({ text, share, onCancel }: { text: string; share: number | null; onCancel: () => void }) {
  return (
    <div id="progress" class="progress" role="status">
      <span>{text}</span>
      <progress max={1} value={share ?? undefined} aria-label={text} />
      <button id="cancel" class="quiet small" type="button" onClick={onCancel}>{t("app.cancel")}</button>
    </div>
  );
}
