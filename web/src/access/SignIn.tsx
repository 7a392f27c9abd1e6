import { useEffect, useRef, useState } from "preact/hooks";
import { Failure } from "../api";
import { session, signIn } from "../state";
import { t } from "../i18n";

// Who is here? Nothing of the index is shown before.
export function SignIn() {
  const [name, setName] = useState("");
  const [password, setPassword] = useState("");
  const [wrong, setWrong] = useState<Failure | null>(null);
  const [isBusy, setBusy] = useState(false);
  const first = useRef<HTMLInputElement>(null);
  useEffect(() => first.current?.focus(), []);
  const submit = async () => {
    setBusy(true);
    setWrong(null);
    try {
      await signIn(name.trim(), password);
    } catch (error) {
      setWrong(error instanceof Failure ? error : new Failure(String(error)));
      setPassword("");
      setBusy(false);
      first.current?.focus();
    }
  };
  return (
    <main id="main" class="gate">
      <form id="sign-in" class="stack box" onSubmit={(event) => { event.preventDefault(); void submit(); }}>
        <h1>{t("signin.title")}</h1>
        <label class="field">{t("signin.name")}<input id="name" ref={first} type="text" required maxLength={120} autocomplete="username" autocapitalize="none" spellcheck={false} value={name} onInput={(event) => setName(event.currentTarget.value)} /></label>
        <label class="field">{t("signin.password")}<input id="password" type="password" required maxLength={1000} autocomplete="current-password" value={password} onInput={(event) => setPassword(event.currentTarget.value)} /></label>
        {wrong && <p id="wrong" class="error" role="alert"><strong>{wrong.message}</strong> {wrong.hint}</p>}
        <button class="primary" type="submit" disabled={isBusy}>{t("signin.go")}</button>
        {session.value?.oidc && <a id="oidc" class="secondary button" href="/v1/session/oidc">{t("signin.oidc")}</a>}
      </form>
    </main>
  );
}

// A view that this account may not see.
export function Refused() {
  return (
    <main id="main" class="gate">
      <section id="refused" class="box stack">
        <h1 tabIndex={-1}>{t("refused.title")}</h1>
        <p>{t("refused.text", { role: t(`role.${session.value?.account?.role ?? "viewer"}`) })}</p>
        <a class="button quiet" href="#/">{t("lost.back")}</a>
      </section>
    </main>
  );
}

export function Lost() {
  return (
    <main id="main" class="gate">
      <section class="box stack">
        <h1 tabIndex={-1}>{t("lost.title")}</h1>
        <p>{t("lost.text")}</p>
        <a class="button quiet" href="#/">{t("lost.back")}</a>
      </section>
    </main>
  );
}
