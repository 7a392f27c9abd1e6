// The shell: what is always there, and the view that the address names.

import { useEffect, useRef, useState } from "preact/hooks";
import { AccountDialog } from "./access/AccountDialog";
import { AccountsView, AuditView } from "./access/AdminViews";
import { Lost, Refused, SignIn } from "./access/SignIn";
import { hideFailure, isDark, may, mustSignIn, pages, session, show, signOut, status, switchTheme } from "./state";
import { AddView } from "./AddView";
import { AddTo } from "./collections/AddTo";
import { CollectionsView } from "./collections/CollectionsView";
import { CollectionView } from "./collections/CollectionView";
import { DocumentView } from "./DocumentView";
import { HelpDialog } from "./HelpDialog";
import { language, setLanguage, t } from "./i18n";
import { Drop } from "./parts/Drop";
import { Menu, type Item } from "./parts/Menu";
import { Failed, Told } from "./parts/messages";
import { ReviewView } from "./review/ReviewView";
import { closeStudy, href, route, type View } from "./route";
import { nextStudy } from "./search/search";
import { SearchView } from "./search/SearchView";
import { ViewerPane } from "./ViewerPane";
import type { Role } from "./types";

const NEEDS: Partial<Record<View, Role>> = { review: "reviewer", add: "curator", accounts: "admin", audit: "admin" };

export function App() {
  const { view, study } = route.value;
  const [dialog, setDialog] = useState<"help" | "account" | null>(null);
  useEffect(() => {
    document.documentElement.lang = language.value;
  }, [language.value]);
  useEffect(() => {
    const title = study ?? (view === "search" ? "" : t(`nav.${view === "collection" ? "collections" : view}` as "nav.review"));
    document.title = title ? `${title} · MedFinder` : "MedFinder";
  }, [view, study, language.value]);
  const isFirst = useRef(true);
  useEffect(() => {
    if (!isFirst.current) hideFailure(); // it was about another view
    isFirst.current = false;
    document.querySelector<HTMLElement>("#main h1[tabindex]")?.focus({ preventScroll: true });
  }, [view, route.value.id]);
  useKeys(() => setDialog("help"));
  const isIn = session.value?.account != null;
  const need = NEEDS[view];
  const isRefused = isIn && need !== undefined && !may(need);
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); (document.getElementById("text") ?? document.querySelector<HTMLElement>("#main h1, #main"))?.focus(); }}>{t("app.skip")}</a>
      <Header onAccount={() => setDialog("account")} onHelp={() => setDialog("help")} />
      <div id="shell" class={`shell view-${view}${study && !isRefused ? " with-viewer" : ""}`}>
        {session.value === null ? <Waiting /> : mustSignIn.value ? <SignIn /> : isRefused ? <Refused /> : status.value === null && view !== "lost" ? <Waiting /> : <ViewOf view={view} />}
        {isIn && status.value && study && !isRefused && <ViewerPane key={study} id={study} />}
      </div>
      <AddTo />
      {dialog === "help" && <HelpDialog onClose={() => setDialog(null)} />}
      {dialog === "account" && isIn && <AccountDialog onClose={() => setDialog(null)} />}
      <Told />
      {isIn && <Drop />}
    </>
  );
}

function ViewOf({ view }: { view: View }) {
  if (view === "search") return <SearchView />;
  if (view === "collections") return pages.value.collections ? <CollectionsView /> : <Lost />;
  if (view === "collection") return pages.value.collections ? <CollectionView id={route.value.id ?? ""} /> : <Lost />;
  if (view === "review") return pages.value.review ? <ReviewView /> : <Lost />;
  if (view === "card" || view === "benchmark") return pages.value[view] ? <DocumentView name={view} /> : <Lost />;
  if (view === "add") return pages.value.ingest ? <AddView /> : <Lost />;
  if (view === "accounts") return <AccountsView />;
  if (view === "audit") return <AuditView />;
  return <Lost />;
}

function Waiting() {
  return (
    <main id="main" class="page" aria-busy="true">
      <Failed />
    </main>
  );
}

function Header({ onAccount, onHelp }: { onAccount: () => void; onHelp: () => void }) {
  const { view } = route.value;
  const now = session.value;
  const isIn = now?.account != null;
  const links: { view: View; text: string; isOn: boolean }[] = !isIn ? [] : [
    { view: "search", text: t("nav.search"), isOn: true },
    { view: "collections", text: t("nav.collections"), isOn: pages.value.collections },
    { view: "review", text: t("nav.review"), isOn: pages.value.review && may("reviewer") },
    { view: "add", text: t("nav.add"), isOn: pages.value.ingest && may("curator") },
    { view: "card", text: t("nav.card"), isOn: pages.value.card },
    { view: "benchmark", text: t("nav.benchmark"), isOn: pages.value.benchmark },
    { view: "accounts", text: t("nav.accounts"), isOn: now.access === "required" && may("admin") },
    { view: "audit", text: t("nav.audit"), isOn: now.access === "required" && may("admin") },
  ];
  const shown = links.filter((link) => link.isOn);
  const items: Item[] = [{ label: t("account.open"), act: onAccount }, { label: t("account.out"), act: () => void signOut().catch(show) }];
  return (
    <header class="top">
      {view === "search" && isIn && <h1 class="visually-hidden">{t("nav.search")}</h1>}
      <a class="brand" href="#/" aria-label={t("app.home")}><img src="/icon.svg" alt="" width="26" height="26" /><span>MedFinder</span></a>
      {shown.length > 1 && (
        <nav aria-label={t("nav.label")}>
          {shown.map((link) => <a key={link.view} href={href({ view: link.view })} aria-current={view === link.view || (view === "collection" && link.view === "collections") ? "page" : undefined}>{link.text}</a>)}
        </nav>
      )}
      {isIn && status.value && view === "search" && <p id="facts" class="facts top-facts">{t("app.studies", { n: status.value.n_studies.toLocaleString(language.value) })}</p>}
      <p class="notice" role="note">{t("app.notice")}</p>
      <div class="top-tools">
        <button id="language" class="icon" type="button" lang={language.value === "en" ? "es" : "en"} aria-label={t("app.language")} title={t("app.language")} onClick={() => setLanguage(language.value === "en" ? "es" : "en")}>{language.value === "en" ? "ES" : "EN"}</button>
        <button id="theme" class="icon" type="button" aria-label={t("app.theme")} title={t("app.theme")} aria-pressed={isDark()} onClick={switchTheme}>◐</button>
        <button id="help-button" class="icon" type="button" aria-label={t("help.title")} title={`${t("help.title")} (?)`} onClick={onHelp}>?</button>
        {isIn && now.access === "required" && <Menu id="account" class="quiet small" label={t("account.menu", { name: now.account!.name })} items={items}>{now.account!.name} ▾</Menu>}
      </div>
    </header>
  );
}

const isTyping = (target: EventTarget | null): boolean =>
  target instanceof HTMLElement && /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName) && !["range", "checkbox"].includes((target as HTMLInputElement).type);

// Keys of the whole page; those of slices are the viewer's, those of the review its own.
function useKeys(onHelp: () => void): void {
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || document.querySelector("dialog[open]")) return;
      if (event.key === "Escape" && route.value.study) closeStudy();
      if (isTyping(event.target) || route.value.view === "review") return;
      if (event.key === "/") document.getElementById("text")?.focus();
      else if (event.key === "j") nextStudy(1);
      else if (event.key === "k") nextStudy(-1);
      else if (event.key === "?") onHelp();
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
}
