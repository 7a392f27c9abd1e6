// Studies are added: a CT and its report go up, and what becomes of them is followed as it happens.

import { signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { get, send, uploadTo } from "./api";
import { zipped } from "./archive";
import { t } from "./i18n";
import { Failed, Progress } from "./parts/messages";
import { href } from "./route";
import { show } from "./state";
import type { Job } from "./types";

const ACTIVE = ["queued", "running"];
const jobs = signal<Job[]>([]);
const followed = new Set<string>();

function put(job: Job): void {
  const isKnown = jobs.value.some((j) => j.job_id === job.job_id);
  jobs.value = isKnown ? jobs.value.map((j) => (j.job_id === job.job_id ? job : j)) : [job, ...jobs.value];
  if (ACTIVE.includes(job.state)) follow(job.job_id);
}

function follow(id: string): void {
  if (followed.has(id)) return;
  followed.add(id);
  const source = new EventSource(`/v1/jobs/${encodeURIComponent(id)}/events`);
  const end = () => {
    source.close();
    followed.delete(id);
  };
  source.addEventListener("progress", (event) => put(JSON.parse(event.data)));
  for (const kind of ["done", "failed"]) {
    source.addEventListener(kind, (event) => {
      end();
      put(JSON.parse((event as MessageEvent<string>).data));
    });
  }
  source.onerror = end;
}

export function AddView() {
  const [files, setFiles] = useState<File[]>([]);
  const [work, setWork] = useState<number | null | undefined>(undefined);
  const abort = useRef<AbortController | null>(null);
  const form = useRef<HTMLFormElement>(null);
  useEffect(() => {
    get<{ jobs: Job[] }>("/v1/jobs").then((answer) => {
      jobs.value = answer.jobs;
      answer.jobs.filter((j) => ACTIVE.includes(j.state)).forEach((j) => follow(j.job_id));
    }, show);
  }, []);
  const submit = async () => {
    const own = (abort.current = new AbortController());
    setWork(null);
    try {
      const body = files.length > 1 ? await zipped(files, own.signal) : files[0]!;
      const data = new FormData();
      for (const [name, value] of new FormData(form.current!)) if (typeof value === "string" && value.trim()) data.append(name, value.trim());
      data.append("file", body, "volume"); // the file's own name may tell who the patient is
      put(await uploadTo<Job>("/v1/ingest", data, (share) => setWork(share < 1 ? share : null), own.signal));
      form.current?.reset();
      setFiles([]);
    } catch (error) {
      show(error);
    } finally {
      setWork(undefined);
    }
  };
  return (
    <main id="main" class="page">
      <header class="page-head"><div><h1 tabIndex={-1}>{t("nav.add")}</h1><p class="muted">{t("add.text")}</p></div></header>
      <Failed />
      <form id="add" ref={form} class="stack box wide" onSubmit={(event) => { event.preventDefault(); void submit(); }}>
        <label class="field">{t("add.file")}<input id="add-file" type="file" multiple required onChange={(event) => setFiles([...(event.currentTarget.files ?? [])])} /></label>
        <label class="field">{t("add.report")}<textarea name="report" rows={6} maxLength={50000} /></label>
        <div class="row wrap">
          <label class="field">{t("facet.sex")}<select name="sex"><option value="">–</option><option value="F">{t("sex.F")}</option><option value="M">{t("sex.M")}</option></select></label>
          <label class="field">{t("facet.age")}<input name="age" type="number" min={0} max={120} /></label>
          <label class="field">{t("facet.year")}<input name="study_date" type="date" /></label>
          <label class="field">{t("facet.body_part")}<input name="body_part" type="text" maxLength={64} /></label>
          <label class="field">{t("facet.source")}<input name="source" type="text" maxLength={64} pattern="[A-Za-z0-9._\\-]+" /></label>
        </div>
        <div class="row end"><button class="primary" type="submit" disabled={!files.length || work !== undefined}>{t("add.go")}</button></div>
        {work !== undefined && <Progress text={t("upload.send")} share={work} onCancel={() => abort.current?.abort()} />}
      </form>
      <h2 class="jobs-title">{t("add.jobs")}</h2>
      <ul id="jobs" class="rows" aria-live="polite">
        {jobs.value.map((job) => <JobRow key={job.job_id} job={job} />)}
        {!jobs.value.length && <li class="muted">{t("add.none")}</li>}
      </ul>
    </main>
  );
}

function JobRow({ job }: { job: Job }) {
  const isActive = ACTIVE.includes(job.state);
  const cancel = () => send<Job>("DELETE", `/v1/jobs/${encodeURIComponent(job.job_id)}`).then(put, show);
  const why = job.error?.message ?? job.rejections.map((r) => r.reason).join(" ");
  return (
    <li data-job={job.job_id} data-state={job.state}>
      <span>
        {job.studies.length ? job.studies.map((id) => <a key={id} href={href({ study: id })}>{id}</a>) : t(`add.stage.${job.stage}`)} {why && <span class="muted">{why}</span>}
      </span>
      {isActive ? <progress max={job.total} value={job.done} aria-label={t(`add.stage.${job.stage}`)} /> : <span class="muted">{t(`add.state.${job.state}`)}</span>}
      {isActive && <button class="quiet small" type="button" onClick={() => void cancel()}>{t("app.cancel")}</button>}
    </li>
  );
}
