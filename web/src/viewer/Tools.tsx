// The viewer's controls.

import type { ComponentChildren } from "preact";
import { named, t, type Key } from "../i18n";
import { PROJECTIONS, TOOLS, type Desk, type Layout, type Projection, type Tool } from "./desk";
import { RAMP_CSS } from "./heat";
import { MATERIALS, materialKey, type Material } from "./Solid";

const LAYOUTS: [Layout, string][] = [["axial", "A"], ["coronal", "C"], ["sagittal", "S"], ["all", "M"], ["3d", "V"]];
export const TOOL_KEYS: Record<Tool, string> = { window: "W", pan: "P", length: "L", angle: "N", roi: "O", region: "R" };

const SHAPES: Record<Tool, ComponentChildren> = {
  window: <><circle cx="8" cy="8" r="5.5" /><path d="M8 2.5a5.5 5.5 0 0 1 0 11z" fill="currentColor" /></>,
  pan: <path d="M8 1.5v13M1.5 8h13M8 1.5 6 3.5M8 1.5l2 2M8 14.5l-2-2M8 14.5l2-2M1.5 8l2-2M1.5 8l2 2M14.5 8l-2-2M14.5 8l-2 2" />,
  length: <path d="M3 13 13 3M1.5 11.5l3 3M11.5 1.5l3 3" />,
  angle: <path d="M14 13.5H2L11 3M7.2 13.5a5 5 0 0 0-1.9-3.9" />,
  roi: <ellipse cx="8" cy="8" rx="6.5" ry="4.5" />,
  region: <><path d="M2 5V2h3M11 2h3v3M14 11v3h-3M5 14H2v-3" /><circle cx="8" cy="8" r="2.2" /></>,
};

function Icon({ tool }: { tool: Tool }) {
  return (
    <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true" fill="none" stroke="currentColor" stroke-width="1.5" stroke-linejoin="round" stroke-linecap="round">
      {SHAPES[tool]}
    </svg>
  );
}

function Number_({ label, name, value, step, onChange }: { label: string; name: string; value: number; step: number; onChange(value: number): void }) {
  return (
    <label>
      <span aria-hidden="true">{name}</span>
      <input type="number" step={step} value={Math.round(value)} aria-label={label} onChange={(event) => event.currentTarget.value !== "" && onChange(Number(event.currentTarget.value))} />
    </label>
  );
}

interface ToolsProps {
  desk: Desk;
  isBare: boolean;
  material: Material;
  cut: number;
  onMaterial(material: Material): void;
  onCut(cut: number): void;
}

export function Tools({ desk, isBare, material, cut, onMaterial, onCut }: ToolsProps) {
  const layout = desk.layout.value;
  const grey = desk.active.value.grey.value;
  const states = desk.panes.map((pane) => pane.heatState.value);
  const heat = states.includes("ready") ? "ready" : states.includes("loading") ? "loading" : (states.find((s) => s !== "none") ?? "none");
  const isFlat = layout !== "3d";
  return (
    <div class="toolbar" role="group" aria-label={t("viewer.tools")}>
      <div class="group" role="group" aria-label={t("viewer.planes")}>
        {LAYOUTS.map(([name, key]) => (
          <button key={name} type="button" data-layout={name} aria-pressed={layout === name} title={`${t(`viewer.plane.${name}` as Key)} (${key})`} onClick={() => desk.setLayout(name)}>
            {t(`viewer.plane.${name}` as Key)}
          </button>
        ))}
      </div>
      {isFlat && (
        <>
          <div class="group" role="group" aria-label={t("viewer.window")}>
            {Object.keys(desk.windows).map((name, i) => (
              <button key={name} type="button" data-window={name} aria-pressed={grey.name === name} title={t("viewer.window.title", { name: named("viewer.window", name), key: i + 1 })} onClick={() => desk.setWindow(name)}>
                {named("viewer.window", name)}
              </button>
            ))}
          </div>
          <div class="numbers">
            <Number_ name="L" label={t("viewer.level")} step={10} value={grey.level} onChange={(level) => desk.setLevels(desk.active.value, level, grey.width)} />
            <Number_ name="W" label={t("viewer.width")} step={10} value={grey.width} onChange={(width) => desk.setLevels(desk.active.value, grey.level, width)} />
          </div>
          <div class="group icons" role="group" aria-label={t("viewer.mouse")}>
            {TOOLS.filter((tool) => !isBare || tool !== "region").map((tool) => (
              <button key={tool} type="button" data-tool={tool} aria-pressed={desk.tool.value === tool} aria-label={t(`viewer.tool.${tool}`)} title={`${t(`viewer.tool.${tool}`)} (${TOOL_KEYS[tool]})`} onClick={() => desk.setTool(tool)}>
                <Icon tool={tool} />
              </button>
            ))}
          </div>
          <div class="numbers slab-of">
            <label>
              <span>{t("viewer.slab")}</span>
              <select
                data-control="projection" value={desk.projection.value ?? "off"} title={`${t("viewer.slab.title")} (T)`}
                onChange={(event) => desk.setProjection(event.currentTarget.value === "off" ? null : (event.currentTarget.value as Projection))}
              >
                <option value="off">{t("viewer.slab.off")}</option>
                {PROJECTIONS.map((projection) => (
                  <option key={projection} value={projection}>{t(`viewer.slab.${projection}`)}</option>
                ))}
              </select>
            </label>
            {desk.projection.value && <Number_ name="mm" label={t("viewer.slab.mm")} step={5} value={desk.slabMm.value} onChange={(mm) => desk.setSlabMm(mm)} />}
          </div>
          <button type="button" class="quiet small" data-control="cine" aria-label={t("viewer.cine")} aria-pressed={desk.isPlaying.value} title={`${t("viewer.cine")} (␣)`} onClick={() => (desk.isPlaying.value = !desk.isPlaying.value)}>
            {desk.isPlaying.value ? "❚❚" : "▶"}
          </button>
          {heat !== "none" && (
            <div class="heat" data-heat={heat}>
              {heat === "ready" ? (
                <>
                  <button type="button" class="quiet small" data-control="heat" aria-pressed={desk.isHeatOn.value} title={`${t("viewer.heat.title")} (H)`} onClick={() => desk.toggleHeat()}>
                    {t("viewer.heat")}
                  </button>
                  {desk.isHeatOn.value && (
                    <>
                      <span class="ramp" style={{ background: RAMP_CSS }} role="img" aria-label={t("viewer.heat.ramp")} />
                      <input type="range" data-control="heat-share" min={0} max={1} step={0.05} value={desk.heatShare.value} aria-label={t("viewer.heat.share")} onInput={(event) => (desk.heatShare.value = Number(event.currentTarget.value))} />
                    </>
                  )}
                  <button type="button" class="secondary small" data-control="match" title={`${t("viewer.match")} (G)`} onClick={() => desk.goToMatch(desk.active.value.heat.value ? desk.active.value : (desk.panes.find((pane) => pane.heat.value) ?? desk.main))}>
                    {t("viewer.match")}
                  </button>
                </>
              ) : (
                <span class="muted">{t(`viewer.heat.${heat}`)}</span>
              )}
            </div>
          )}
        </>
      )}
      {!isFlat && (
        <>
          <div class="group" role="group" aria-label={t("viewer.material")}>
            {(Object.keys(MATERIALS) as Material[]).map((name) => (
              <button key={name} type="button" data-material={name} aria-pressed={material === name} onClick={() => onMaterial(name)}>
                {t(materialKey(name))}
              </button>
            ))}
          </div>
          <div class="numbers">
            <label>
              <span>{t("viewer.cut")}</span>
              <input type="range" data-control="cut" min={0} max={1} step={0.02} value={cut} onInput={(event) => onCut(Number(event.currentTarget.value))} />
            </label>
          </div>
        </>
      )}
      {desk.beside.value && (
        <button type="button" class="quiet small" data-control="sync" aria-pressed={desk.isSynced.value} title={`${t("viewer.sync.title")} (Y)`} onClick={() => desk.setSynced(!desk.isSynced.value)}>
          {t(desk.isSynced.value ? "viewer.sync.is" : "viewer.sync.not")}
        </button>
      )}
    </div>
  );
}
