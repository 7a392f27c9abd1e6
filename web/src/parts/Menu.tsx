import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

export interface Item {
  label: string;
  act?: () => void;
  href?: string;
  download?: boolean;
  isOn?: boolean;
}

interface Props {
  label: string; // of the button, for those who do not see it
  class?: string;
  items: Item[];
  children: ComponentChildren; // what the button shows
  id?: string;
}

// A button with a menu: arrows move, Escape closes and returns to the button.
export function Menu({ label, items, children, id, class: look = "quiet small" }: Props) {
  const [isOpen, setOpen] = useState(false);
  const ref = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (!isOpen) return;
    const list = ref.current!.querySelector<HTMLElement>("[role=menu]")!;
    // Near the right edge it opens to the left.
    list.classList.toggle("to-left", list.getBoundingClientRect().right > innerWidth - 8);
    list.querySelector<HTMLElement>("[role=menuitem]")?.focus();
    const away = (event: Event) => ref.current?.contains(event.target as Node) || setOpen(false);
    addEventListener("pointerdown", away);
    return () => removeEventListener("pointerdown", away);
  }, [isOpen]);
  const close = () => {
    setOpen(false);
    ref.current?.querySelector("button")?.focus();
  };
  const onKey = (event: KeyboardEvent) => {
    if (!isOpen) return;
    const all = [...ref.current!.querySelectorAll<HTMLElement>("[role=menuitem]")];
    const at = all.indexOf(document.activeElement as HTMLElement);
    const to = { ArrowDown: (at + 1) % all.length, ArrowUp: (at + all.length - 1) % all.length, Home: 0, End: all.length - 1 }[event.key];
    if (event.key === "Escape") close();
    else if (event.key === "Tab") return setOpen(false);
    else if (to !== undefined) all[to]?.focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return (
    <div class="menu" ref={ref} onKeyDown={onKey}>
      <button type="button" id={id} class={look} aria-label={label} title={label} aria-haspopup="menu" aria-expanded={isOpen} onClick={() => setOpen(!isOpen)}>{children}</button>
      {isOpen && (
        <ul role="menu" aria-label={label}>
          {items.map((item) => (
            <li role="none" key={item.label}>
              {item.href ? (
                <a role="menuitem" tabIndex={-1} href={item.href} download={item.download} onClick={() => setOpen(false)}>{item.label}</a>
              ) : (
                <button role="menuitem" tabIndex={-1} type="button" aria-current={item.isOn || undefined} onClick={() => { close(); item.act?.(); }}>{item.label}</button>
              )}
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}
