"""Published checkpoints at a small size: the tensors' names and shapes, filled with a pattern.

The names and shapes are written down here, not taken from our networks, so that loading proves that
both agree. The pattern has no random numbers: outputs of the packages that published the networks
can be compared with ours on any machine.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers.implementations import BertWordPieceTokenizer
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "left", "right", "pleural", "effusion", "no",
    "nodule", "##s", "in", "the", "upper", "lobe", "small", "large", "heart", "is", "normal",
    "mass", "of", "lung", ".", ",", "2", "cm", "and", "&", "<", "a"
]  # fmt: skip


def linear(name: str, n_out: int, n_in: int) -> Shapes:
    return {f"{name}.weight": (n_out, n_in), f"{name}.bias": (n_out,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def bert(prefix: str = "", width: int = 24, depth: int = 2, inner: int = 48) -> Shapes:
    shapes: Shapes = {
        "embeddings.word_embeddings.weight": (len(WORDS), width),
        "embeddings.position_embeddings.weight": (512, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        **norm("embeddings.LayerNorm", width),
    }
    for i in range(depth):
        layer = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            shapes |= linear(f"{layer}.attention.self.{part}", width, width)
        shapes |= linear(f"{layer}.attention.output.dense", width, width)
        shapes |= norm(f"{layer}.attention.output.LayerNorm", width)
        shapes |= linear(f"{layer}.intermediate.dense", inner, width)
        shapes |= linear(f"{layer}.output.dense", width, inner)
        shapes |= norm(f"{layer}.output.LayerNorm", width)
    return {prefix + k: v for k, v in shapes.items()}


def biomedclip(width: int = 24, depth: int = 2, dim: int = 12) -> Shapes:
    """Slices of 32 x 32 in patches of 16; text of 24 features."""
    shapes: Shapes = {
        "logit_scale": (),
        "visual.trunk.cls_token": (1, 1, width),
        "visual.trunk.pos_embed": (1, 5, width),
        "visual.trunk.patch_embed.proj.weight": (width, 3, 16, 16),
        "visual.trunk.patch_embed.proj.bias": (width,),
        **norm("visual.trunk.norm", width),
        "visual.head.proj.weight": (dim, width),
        "text.proj.0.weight": (18, 24),
        "text.proj.2.weight": (dim, 18),
        **bert("text.transformer."),
    }
    for i in range(depth):
        block = f"visual.trunk.blocks.{i}"
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= linear(f"{block}.attn.qkv", 3 * width, width)
        shapes |= linear(f"{block}.attn.proj", width, width)
        shapes |= linear(f"{block}.mlp.fc1", 4 * width, width)
        shapes |= linear(f"{block}.mlp.fc2", width, 4 * width)
    return shapes


def colipri(width: int = 144, depth: int = 2, dim: int = 24, inner: int = 384) -> Shapes:
    """Cells of 8 voxels; text of 24 features."""
    image, text = "image_encoder", "text_encoder"
    shapes: Shapes = {
        "softmax_temperature": (),
        f"{image}.backbone.mask_token": (1, 1, width),
        f"{image}.backbone.down_projection.proj.weight": (width, 1, 8, 8, 8),
        f"{image}.backbone.down_projection.proj.bias": (width,),
        **norm(f"{image}.backbone.eva.norm", width),
        f"{image}.projector.weight": (dim, width, 1, 1, 1),
        f"{image}.projector.bias": (dim,),
        **bert(f"{text}.backbone.", dim),
    }
    for side in (image, text):
        shapes |= linear(f"{side}.pooler.attn.out_proj", dim, dim)
        shapes[f"{side}.pooler.attn.in_proj_weight"] = (3 * dim, dim)
        shapes[f"{side}.pooler.attn.in_proj_bias"] = (3 * dim,)
    for i in range(depth):
        block = f"{image}.backbone.eva.blocks.{i}"
        shapes |= {f"{block}.gamma_1": (width,), f"{block}.gamma_2": (width,)}
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= norm(f"{block}.attn.norm", width) | norm(f"{block}.mlp.norm", inner)
        shapes |= linear(f"{block}.attn.q_proj", width, width)
        shapes |= linear(f"{block}.attn.v_proj", width, width)
        shapes |= linear(f"{block}.attn.proj", width, width)
        shapes[f"{block}.attn.k_proj.weight"] = (width, width)
        shapes |= linear(f"{block}.mlp.fc1_g", inner, width)
        shapes |= linear(f"{block}.mlp.fc1_x", inner, width)
        shapes |= linear(f"{block}.mlp.fc2", width, inner)
    return shapes


def patterned(shapes: Shapes) -> dict[str, Tensor]:
    """Fill tensors with sines; scales of normalisations lie about 1, everything else about 0."""
    tensors = {}
    for i, (name, shape) in enumerate(sorted(shapes.items())):
        n = torch.Size(shape).numel()
        values = 0.2 * torch.sin(1.7 * torch.arange(n, dtype=torch.float64) + i)
        if name.endswith(".weight") and len(shape) == 1:
            values += 1
        tensors[name] = values.float().reshape(shape)
    return tensors


def pattern(*shape: int) -> Tensor:
    """An input between -1 and 1."""
    n = torch.Size(shape).numel()
    return torch.sin(0.37 * torch.arange(n, dtype=torch.float64)).float().reshape(shape)


def write_vocabulary(folder: Path) -> Path:
    """Write ``vocab.txt`` of an uncased BERT."""
    file = folder / "vocab.txt"
    file.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return file


def write_tokenizer(folder: Path) -> Path:
    """Write ``tokenizer.json`` of an uncased BERT."""
    pieces = BertWordPieceTokenizer({word: i for i, word in enumerate(WORDS)}, lowercase=True)
    file = folder / "tokenizer.json"
    pieces.save(str(file))
    return file


def write_tensors(file: Path, tensors: dict[str, Tensor]) -> Path:
    """Write a checkpoint in the format that the file's name says."""
    if file.suffix == ".safetensors":
        save_file(tensors, file)
    else:
        torch.save(tensors, file)
    return file


def write_open_clip_config(folder: Path, **changed: object) -> Path:
    """Write BiomedCLIP's ``open_clip_config.json``; `changed` replaces parts of ``text_cfg``."""
    bert_name = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
    config = {
        "model_cfg": {
            "embed_dim": 512,
            "vision_cfg": {
                "timm_model_name": "vit_base_patch16_224",
                "timm_model_pretrained": False,
                "timm_pool": "",
                "timm_proj": "linear",
                "image_size": 224,
            },
            "text_cfg": {
                "hf_model_name": bert_name,
                "hf_tokenizer_name": bert_name,
                "hf_proj_type": "mlp",
                "hf_pooler_type": "cls_last_hidden_state_pooler",
                "context_length": 256,
                **changed,
            },
        },
        "preprocess_cfg": {
            "mean": [0.48145466, 0.4578275, 0.40821073],
            "std": [0.26862954, 0.26130258, 0.27577711],
        },
    }
    file = folder / "open_clip_config.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    return file
