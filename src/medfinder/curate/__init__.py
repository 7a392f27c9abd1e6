"""Raw CTs and reports → `curate.curate` → studies, and a reason for everything left out."""
