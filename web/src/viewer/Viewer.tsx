// A study: its slices, its report and its findings.

import type { Place, Question, Region, Study, Why } from "../types";

export interface ViewerProps {
  study: Study;
  compare: Study | null; // shown beside it, synchronised
  place: Place;
  question: Question | null; // for the heat map
  why: Why | null;
  onPlace(place: Place): void;
  onClose(): void;
  onSimilar(study: Study): void;
  onRegion(region: Region): void;
  onCompare(study: Study | null): void;
}

export function Viewer({ study }: ViewerProps) {
  return <h2>{study.study_id}</h2>;
}
