"""Tiny Phi-3 models with random weights, and folders of them as transformers writes a checkpoint."""

import copy
import json
from pathlib import Path

import torch
from transformers import Phi3Config, Phi3ForCausalLM

from recording import Recording

BASE = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "original_max_position_embeddings": 64,
    "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "sliding_window": None,
}


def build(recording: Recording, **changes) -> Phi3ForCausalLM:
    """A model whose norms, projections and embeddings all matter: larger weights than an initializer gives, norms not 1."""
    config = Phi3Config(**{**BASE, **changes})
    config._attn_implementation = "eager"
    model = Phi3ForCausalLM(config).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(recording.uniform(*parameter.shape, low=0.7, high=1.3))
            else:
                parameter.copy_(recording.normal(*parameter.shape, std=parameter.shape[-1] ** -0.5))
    return model.eval()


def save(model: Phi3ForCausalLM, folder: Path, old_spelling: bool = False) -> None:
    """config.json and model.safetensors. `old_spelling` writes the rope keys as Phi-3.5-mini has them."""
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    if old_spelling:
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope["rope_theta"]
        config["partial_rotary_factor"] = rope["partial_rotary_factor"]
        scaled = rope["rope_type"] == "longrope"
        config["rope_scaling"] = {k: rope[k] for k in ("short_factor", "long_factor")} | {"type": "longrope"} if scaled else None
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def save_bf16(model: Phi3ForCausalLM, folder: Path) -> None:
    """Saves the weights in bf16 and leaves the same rounded values in the f32 model: arithmetic stays f32, as in ours."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    save(copy.deepcopy(model).to(torch.bfloat16), folder)


def token_loss(model, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum over one sequence of -log p(labels[i + 1] | ids[..i]); labels of -100 count nothing."""
    logits = model(input_ids=ids[None], use_cache=False).logits[0]
    return torch.nn.functional.cross_entropy(logits[:-1].float(), labels[1:], ignore_index=-100, reduction="sum")


def random_batch(recording: Recording, lengths: list[int], masked: float = 0.3, vocab: int = BASE["vocab_size"]):
    """Sequences of ids (never padding) and labels where a part, and always the first token, is masked with -100."""
    sequences = []
    for length in lengths:
        ids = recording.integers(length, low=1, high=vocab)
        keep = recording.uniform(length, low=0, high=1) > masked
        keep[0], keep[-1] = False, True
        sequences.append((ids, torch.where(keep, ids, -100)))
    return sequences


def store_batch(recording: Recording, key: str, sequences) -> dict:
    """Padding-free: ids and labels end to end, lengths beside them."""
    return {
        "ids": recording.store(f"{key}/ids", torch.cat([ids for ids, _ in sequences])),
        "labels": recording.store(f"{key}/labels", torch.cat([labels for _, labels in sequences])),
        "lengths": recording.store(f"{key}/lengths", torch.tensor([len(ids) for ids, _ in sequences])),
    }


def trained_tokens(sequences) -> int:
    return int(sum((labels[1:] != -100).sum() for _, labels in sequences))
