import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef } from "preact/hooks";
import { t } from "../i18n";

interface Props {
  title: string;
  onClose(): void;
  id?: string;
  isWide?: boolean;
  children: ComponentChildren;
}

// A modal dialog: the browser keeps the focus inside, closes it on Escape and gives the focus back.
export function Dialog({ title, onClose, id, isWide, children }: Props) {
  const ref = useRef<HTMLDialogElement>(null);
  const name = useId();
  useEffect(() => {
    const dialog = ref.current!;
    const before = document.activeElement;
    dialog.showModal();
    (dialog.querySelector<HTMLElement>("[data-first]") ?? dialog.querySelector<HTMLElement>("input, textarea, select"))?.focus();
    return () => {
      dialog.close();
      if (before instanceof HTMLElement && before.isConnected) before.focus();
    };
  }, []);
  return (
    <dialog ref={ref} id={id} class={isWide ? "wide" : undefined} aria-labelledby={name} onCancel={(event) => { event.preventDefault(); onClose(); }} onClick={(event) => event.target === ref.current && onClose()}>
      <div class="dialog-body">
        <header class="dialog-head">
          <h2 id={name}>{title}</h2>
          <button class="icon" type="button" aria-label={t("app.close")} onClick={onClose}>✕</button>
        </header>
        {children}
      </div>
    </dialog>
  );
}
