"""All networks by name: importing this fills `volume_networks` and `text_networks`."""

import medfinder.model.text_sentences
import medfinder.model.text_transformers
import medfinder.model.volume_patch  # noqa: F401
