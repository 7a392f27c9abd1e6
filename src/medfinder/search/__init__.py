"""Studies → `build` → an index; a query → `finder` → hits, each with its reasons (`explain`)."""
