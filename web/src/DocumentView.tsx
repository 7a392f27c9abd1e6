import { t } from "./i18n";

// The dataset card and the benchmark's page are documents of their own: framed, they run nothing.
export function DocumentView({ name }: { name: "card" | "benchmark" }) {
  return (
    <main id="main" class="document">
      <h1 class="visually-hidden" tabIndex={-1}>{t(`nav.${name}`)}</h1>
      <iframe src={`/v1/pages/${name}`} title={t(`nav.${name}`)} sandbox="" />
    </main>
  );
}
