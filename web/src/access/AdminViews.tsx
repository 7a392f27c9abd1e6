// What an admin sees: who has an account, and what was done.

import { useEffect, useState } from "preact/hooks";
import { get, send } from "../api";
import { session, show, tell } from "../state";
import { language, t } from "../i18n";
import { Dialog } from "../parts/Dialog";
import { Failed } from "../parts/messages";
import type { AccountOut, AuditEntry, Role } from "../types";

const ROLES: Role[] = ["viewer", "reviewer", "curator", "admin"];
const sourcesOf = (text: string): string[] | null => {
  const names = text.split(",").map((s) => s.trim()).filter(Boolean);
  return names.length ? names : null;
};

export function AccountsView() {
  const [all, setAll] = useState<AccountOut[]>([]);
  const [isNew, setNew] = useState(false);
  const load = () => get<{ accounts: AccountOut[] }>("/v1/accounts").then((answer) => setAll(answer.accounts), show);
  useEffect(() => void load(), []);
  const act = async (method: string, name: string, body?: unknown) => {
    try {
      await send(method, `/v1/accounts/${encodeURIComponent(name)}`, body);
      await load();
    } catch (error) {
      show(error);
    }
  };
  return (
    <main id="main" class="page">
      <header class="page-head"><h1 tabIndex={-1}>{t("nav.accounts")}</h1><button id="new-account" class="primary" type="button" onClick={() => setNew(true)}>{t("accounts.new")}</button></header>
      <Failed />
      <div class="table-wrap" tabIndex={0} role="region" aria-label={t("nav.accounts")}>
        <table id="accounts" class="table">
          <thead><tr><th scope="col">{t("app.name")}</th><th scope="col">{t("accounts.role")}</th><th scope="col">{t("accounts.sources")}</th><th scope="col"><span class="visually-hidden">{t("app.delete")}</span></th></tr></thead>
          <tbody>
            {all.map((account) => (
              <tr key={account.name}>
                <th scope="row">{account.name}</th>
                <td><select aria-label={t("accounts.role.of", { name: account.name })} value={account.role} onChange={(event) => void act("PATCH", account.name, { role: event.currentTarget.value })}>{ROLES.map((role) => <option key={role} value={role}>{t(`role.${role}`)}</option>)}</select></td>
                <td><input type="text" aria-label={t("accounts.sources.of", { name: account.name })} placeholder={t("accounts.all")} value={account.sources?.join(", ") ?? ""} onChange={(event) => void act("PATCH", account.name, { sources: sourcesOf(event.currentTarget.value) })} /></td>
                <td>{account.name !== session.value?.account?.name && <button class="icon" type="button" aria-label={t("accounts.delete", { name: account.name })} onClick={() => void act("DELETE", account.name)}>✕</button>}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {isNew && <NewAccount onClose={() => setNew(false)} onDone={load} />}
    </main>
  );
}

function NewAccount({ onClose, onDone }: { onClose: () => void; onDone: () => void }) {
  const [name, setName] = useState("");
  const [password, setPassword] = useState("");
  const [role, setRole] = useState<Role>("viewer");
  const [sources, setSources] = useState("");
  const save = async () => {
    try {
      await send("POST", "/v1/accounts", { name: name.trim(), password, role, sources: sourcesOf(sources) });
      tell(t("accounts.made", { name: name.trim() }));
      onDone();
    } catch (error) {
      show(error);
    }
    onClose();
  };
  return (
    <Dialog id="account-new" title={t("accounts.new")} onClose={onClose}>
      <form class="stack" onSubmit={(event) => { event.preventDefault(); void save(); }}>
        <label class="field">{t("signin.name")}<input id="account-name" type="text" required maxLength={120} autocomplete="off" value={name} onInput={(event) => setName(event.currentTarget.value)} /></label>
        <label class="field">{t("signin.password")}<input id="account-password" type="password" required minLength={8} maxLength={1000} autocomplete="new-password" value={password} onInput={(event) => setPassword(event.currentTarget.value)} /></label>
        <label class="field">{t("accounts.role")}<select value={role} onChange={(event) => setRole(event.currentTarget.value as Role)}>{ROLES.map((r) => <option key={r} value={r}>{t(`role.${r}`)}</option>)}</select></label>
        <label class="field">{t("accounts.sources")}<input type="text" placeholder={t("accounts.all")} value={sources} onInput={(event) => setSources(event.currentTarget.value)} /></label>
        <div class="row end"><button class="quiet" type="button" onClick={onClose}>{t("app.cancel")}</button><button class="primary" type="submit">{t("app.save")}</button></div>
      </form>
    </Dialog>
  );
}

const PAGE = 100;

export function AuditView() {
  const [entries, setEntries] = useState<AuditEntry[]>([]);
  const [n, setN] = useState(0);
  const [account, setAccount] = useState("");
  const [action, setAction] = useState("");
  const load = async (offset: number) => {
    const query = new URLSearchParams({ offset: String(offset), limit: String(PAGE) });
    if (account) query.set("account", account);
    if (action) query.set("action", action);
    try {
      const answer = await get<{ entries: AuditEntry[]; n_entries: number }>(`/v1/audit?${query}`);
      setEntries((before) => (offset ? [...before, ...answer.entries] : answer.entries));
      setN(answer.n_entries);
    } catch (error) {
      show(error);
    }
  };
  useEffect(() => void load(0), [account, action]);
  const verify = async () => {
    try {
      const answer = await get<{ is_intact: boolean; n_entries: number; first_bad: number | null }>("/v1/audit/verify");
      tell(answer.is_intact ? t("audit.intact", { n: answer.n_entries }) : t("audit.broken", { n: answer.first_bad ?? "?" }));
    } catch (error) {
      show(error);
    }
  };
  return (
    <main id="main" class="page">
      <header class="page-head">
        <div><h1 tabIndex={-1}>{t("nav.audit")}</h1><p class="muted">{t("audit.text")}</p></div>
        <div class="row"><button id="verify" class="quiet" type="button" onClick={() => void verify()}>{t("audit.verify")}</button><a class="button quiet" href="/v1/audit/export" download>{t("audit.export")}</a></div>
      </header>
      <Failed />
      <div class="row wrap">
        <label class="field">{t("audit.account")}<input type="search" value={account} onChange={(event) => setAccount(event.currentTarget.value.trim())} /></label>
        <label class="field">{t("audit.action")}<input type="search" value={action} onChange={(event) => setAction(event.currentTarget.value.trim())} /></label>
      </div>
      <div class="table-wrap" tabIndex={0} role="region" aria-label={t("nav.audit")}>
        <table id="audit" class="table">
          <thead><tr><th scope="col">#</th><th scope="col">{t("audit.at")}</th><th scope="col">{t("audit.account")}</th><th scope="col">{t("audit.action")}</th><th scope="col">{t("audit.objects")}</th></tr></thead>
          <tbody>
            {entries.map((entry) => (
              <tr key={entry.seq}><td class="n">{entry.seq}</td><td>{new Date(entry.at).toLocaleString(language.value)}</td><td>{entry.account}</td><td>{entry.action}</td><td class="objects">{entry.objects.join(", ")}</td></tr>
            ))}
          </tbody>
        </table>
      </div>
      {entries.length < n && <button class="quiet" type="button" onClick={() => void load(entries.length)}>{t("found.more")}</button>}
    </main>
  );
}
