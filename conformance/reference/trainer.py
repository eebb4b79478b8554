"""Sixty steps of TRL's SFTTrainer with PEFT on a tiny Phi-3, over the same chats in the same order: the loss curve that ours must be.

Plain, accumulated, packed (bfd), completion-only, assistant-only, with NEFTune, with LoRA's dropout; and an evaluation.
"""

import math

import torch

from recording import Recording
from sft_run import build_model, config_json, record_run
from threefry import random_key, uniforms


def turn(role: str, content: str) -> dict:
    return {"role": role, "content": content}


# Short, of unequal length, in several scripts; some of two turns, some with a system's word.
CHATS = [
    [turn("user", "What does a parrot say?"), turn("assistant", "What it heard.")],
    [turn("user", "안녕?"), turn("assistant", "네 😀"), turn("user", "또 봐"), turn("assistant", "안녕!")],
    [turn("system", "Be brief."), turn("user", "Name two birds."), turn("assistant", "Lory and macaw.")],
    [turn("user", "2 + 3?"), turn("assistant", "5")],
    [turn("user", "Why do birds sing in the morning?"), turn("assistant", "To say that a place is taken, and that they are well.")],
    [turn("user", "こんにちは"), turn("assistant", "はい")],
    [turn("user", "Spell lory."), turn("assistant", "l o r y"), turn("user", "Backwards?"), turn("assistant", "y r o l")],
    [turn("user", "مرحبا"), turn("assistant", "أهلا")],
    [turn("user", "Is the sky green?"), turn("assistant", "No, it is blue.")],
    [turn("system", "Answer with one word."), turn("user", "Is a lorikeet a bird?"), turn("assistant", "Yes.")],
    [turn("user", "List colours of a lorikeet, please."), turn("assistant", "- blue\n- green\n- red")],
    [turn("user", "7 * 6?"), turn("assistant", "42")],
    [turn("user", "Say it again."), turn("assistant", "It again.")],
]
MESSAGES = [{"messages": chat} for chat in CHATS]
PROMPTS = [{"prompt": chat[:-1], "completion": chat[-1:]} for chat in CHATS]
TRAINING = {"max_length": 96, "max_steps": 60, "per_device_train_batch_size": 4, "learning_rate": 5e-3, "warmup_steps": 6,
            "lr_scheduler_type": "linear", "weight_decay": 0.01, "max_grad_norm": 1.0}
BASE = {"rows": MESSAGES, "split": None, "lossOn": None, "model": {}, "startB": 0.0, "training": TRAINING,
        "peft": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear"}}
RUNS = {
    "plain": {},
    "accumulated": {"training": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "lr_scheduler_type": "cosine"}},
    "packed bfd": {"training": {"packing": True, "per_device_train_batch_size": 2}},
    "completion only": {"rows": PROMPTS, "lossOn": "completion"},
    "assistant only": {"lossOn": "assistant"},
    "NEFTune": {"training": {"neftune_noise_alpha": 5.0}},
    "packed with NEFTune": {"lossOn": "assistant", "training": {"packing": True, "per_device_train_batch_size": 1, "neftune_noise_alpha": 8.0}},
    "LoRA dropout": {"peft": {"lora_dropout": 0.2}, "lossOn": "assistant", "training": {"gradient_accumulation_steps": 2}},
}


def record_evaluation(r: Recording) -> None:
    """Loss and perplexity of a model over batches of unequal weight: every token counts the same."""
    config = {"seed": r.seed, "model": {"num_hidden_layers": 1}}
    model = build_model(config).eval()
    lengths, nll, count, hits = [9, 1, 17, 4, 30], 0.0, 0, 0
    ids, labels = [], []
    for row, length in enumerate(lengths):
        drawn = torch.from_numpy(uniforms(random_key(r.seed, "evaluation", row), 2 * length))
        row_ids = (3 + drawn[:length] * 573).long()
        row_labels = torch.where(drawn[length:] < 0.6, row_ids, -100)
        logits = model(input_ids=row_ids[None], use_cache=False).logits[0, :-1].double()
        targets = row_labels[1:]
        nll += torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum").item()
        count += int((targets != -100).sum())
        hits += int((logits.argmax(-1) == targets).sum())
        ids.append(row_ids)
        labels.append(row_labels)
    inputs = {"ids": r.store("evaluation/ids", torch.cat(ids)), "labels": r.store("evaluation/labels", torch.cat(labels)),
              "lengths": r.store("evaluation/lengths", torch.tensor(lengths))}
    values = {"evalLoss": nll / count, "perplexity": math.exp(nll / count), "tokenAccuracy": hits / count, "tokens": float(count)}
    outputs = {k: r.store(f"evaluation/{k}", torch.tensor([v], dtype=torch.float64)) for k, v in values.items()}
    r.cases.append({"name": "evaluation", "op": "evaluate", "attributes": {**config, "model": config_json(config)}, "inputs": inputs, "outputs": outputs})


def record(r: Recording) -> None:
    for name, changes in RUNS.items():
        merged = {k: {**v, **changes.get(k, {})} if isinstance(v, dict) else changes.get(k, v) for k, v in BASE.items()}
        record_run(r, name, {"seed": r.seed, **merged})
    record_evaluation(r)
