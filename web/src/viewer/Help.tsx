// Which keys do what.

import { useEffect, useRef } from "preact/hooks";
import { t, type Key } from "../i18n";

const ROWS: [string[], Key][] = [
  [["↑", "↓"], "viewer.keys.scroll"],
  [["PgUp", "PgDn"], "viewer.keys.page"],
  [["Home", "End"], "viewer.keys.ends"],
  [["A", "C", "S"], "viewer.keys.planes"],
  [["M", "V"], "viewer.keys.all"],
  [["1", "…", "9"], "viewer.keys.windows"],
  [["+", "−", "0"], "viewer.keys.zoom"],
  [["␣"], "viewer.keys.cine"],
  [["W", "P"], "viewer.keys.tools"],
  [["L", "N", "O"], "viewer.keys.measure"],
  [["R"], "viewer.keys.region"],
  [["← ↑ ↓ →", "Enter"], "viewer.keys.draw"],
  [["Del"], "viewer.keys.remove"],
  [["T", "[", "]"], "viewer.keys.slab"],
  [["H", "G"], "viewer.keys.heat"],
  [["Y"], "viewer.keys.sync"],
  [["Tab"], "viewer.keys.tab"],
  [["?", "Esc"], "viewer.keys.help"],
];

export function Help({ onClose }: { onClose(): void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const from = document.activeElement as HTMLElement | null;
    dialog.current?.showModal();
    return () => from?.focus?.();
  }, []);
  return (
    <dialog class="viewer-help" ref={dialog} aria-labelledby="viewer-help-title" onClose={onClose} onClick={(event) => event.target === dialog.current && onClose()}>
      <div class="help-head">
        <h2 id="viewer-help-title">{t("viewer.help")}</h2>
        <button type="button" class="quiet" aria-label={t("viewer.help.close")} onClick={onClose}>✕</button>
      </div>
      <dl>
        {ROWS.map(([keys, what]) => (
          <div key={what}>
            <dt>{keys.map((key) => (key === "…" ? key : <kbd key={key}>{key}</kbd>))}</dt>
            <dd>{t(what)}</dd>
          </div>
        ))}
      </dl>
      <p class="muted">{t("viewer.help.mouse")}</p>
    </dialog>
  );
}
