"""Networks that turn preprocessed volumes or text into vectors, and the registry of encoders.

Importing this registers the encoders that come with MedFinder; it imports no torch and reads no
weights.
"""

import medfinder.model.hub
import medfinder.model.pretrained.astra
import medfinder.model.pretrained.astra_slices
import medfinder.model.pretrained.biomedclip_slices
import medfinder.model.pretrained.colipri
import medfinder.model.pretrained.ct_clip
import medfinder.model.pretrained.merlin
import medfinder.model.pretrained.minilm  # noqa: F401
