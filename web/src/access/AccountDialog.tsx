// One's own account: password and tokens for programs.

import { useEffect, useState } from "preact/hooks";
import { get, send } from "../api";
import { session, show, tell } from "../state";
import { t } from "../i18n";
import { Dialog } from "../parts/Dialog";
import { Failed } from "../parts/messages";
import { day } from "../text";
import type { Token } from "../types";

export function AccountDialog({ onClose }: { onClose: () => void }) {
  const account = session.value!.account!;
  const [tokens, setTokens] = useState<Token[]>([]);
  const [made, setMade] = useState<string | null>(null);
  const [tokenName, setTokenName] = useState("");
  const [old, setOld] = useState("");
  const [next, setNext] = useState("");
  const load = () => get<{ tokens: Token[] }>("/v1/tokens").then((answer) => setTokens(answer.tokens), show);
  useEffect(() => void load(), []);
  const change = async () => {
    try {
      await send("PUT", "/v1/session/password", { old, new: next });
      tell(t("account.changed"));
      onClose();
    } catch (error) {
      show(error);
    }
  };
  const make = async () => {
    try {
      const token = await send<Token>("POST", "/v1/tokens", { name: tokenName.trim(), role: account.role });
      setMade(token.token ?? null);
      setTokenName("");
      await load();
    } catch (error) {
      show(error);
    }
  };
  const revoke = async (id: string) => {
    try {
      await send("DELETE", `/v1/tokens/${encodeURIComponent(id)}`);
      await load();
    } catch (error) {
      show(error);
    }
  };
  return (
    <Dialog id="account-dialog" title={account.name} onClose={onClose} isWide>
      <p class="muted">{t(`role.${account.role}`)}{account.sources && ` · ${account.sources.join(", ")}`}</p>
      <Failed />
      {session.value!.has_password !== false && <>
      <h3>{t("account.password")}</h3>
      <form id="password-form" class="row wrap" onSubmit={(event) => { event.preventDefault(); void change(); }}>
        <label class="field grow">{t("account.old")}<input type="password" required autocomplete="current-password" value={old} onInput={(event) => setOld(event.currentTarget.value)} /></label>
        <label class="field grow">{t("account.new")}<input type="password" required minLength={8} maxLength={1000} autocomplete="new-password" value={next} onInput={(event) => setNext(event.currentTarget.value)} /></label>
        <button class="quiet" type="submit">{t("account.change")}</button>
      </form>
      </>}
      <h3>{t("account.tokens")}</h3>
      <p class="muted small-text">{t("account.tokens.text")}</p>
      <ul id="tokens" class="rows">
        {tokens.filter((token) => !token.revoked).map((token) => (
          <li key={token.token_id}><span>{token.name}</span><span class="muted">{token.expires ? t("account.until", { day: day(token.expires) }) : day(token.created)}</span><button class="icon" type="button" aria-label={t("account.revoke", { name: token.name })} onClick={() => void revoke(token.token_id)}>✕</button></li>
        ))}
      </ul>
      {made && <p class="made" role="status">{t("account.made")} <code id="made-token">{made}</code></p>}
      <form class="row wrap" onSubmit={(event) => { event.preventDefault(); void make(); }}>
        <label class="field grow">{t("account.token.name")}<input id="token-name" type="text" required maxLength={120} value={tokenName} onInput={(event) => setTokenName(event.currentTarget.value)} /></label>
        <button class="quiet" type="submit">{t("account.token.make")}</button>
      </form>
    </Dialog>
  );
}
