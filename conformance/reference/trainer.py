"""A LoRA fine-tuning run of twenty optimizer steps: PEFT, torch.optim.AdamW and a plain loop.

Each optimizer step accumulates two micro-batches. The loss of a step is the sum over all trained tokens of both,
divided by how many there are: a token counts the same wherever it lies. Then clipping, AdamW, linear schedule with warm-up.
The adapter starts as PEFT starts it (A random, B zero): `adapter/` is that start, `base/` the frozen model.
"""

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.utils import clip_grad_norm_
from transformers import get_linear_schedule_with_warmup

from lora_peft import save_adapter
from recording import Recording
from tiny_phi3 import build, random_batch, save, store_batch, token_loss, trained_tokens

OPTIONS = {"steps": 20, "accumulation": 2, "learningRate": 1e-2, "warmupSteps": 3, "weightDecay": 0.01, "maxGradNorm": 1.0,
           "r": 4, "loraAlpha": 8, "targetModules": "all-linear"}


def record(r: Recording) -> None:
    base = build(r)
    save(base, r.directory / "base")
    torch.manual_seed(r.seed)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear"))
    save_adapter(model, r.directory / "adapter")
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=OPTIONS["learningRate"], weight_decay=OPTIONS["weightDecay"])
    schedule = get_linear_schedule_with_warmup(optimizer, OPTIONS["warmupSteps"], OPTIONS["steps"])
    # Micro-batches of unequal size, three windows again and again, so that the loss falls.
    windows = [[random_batch(r, lengths) for lengths in window] for window in ([[9, 4], [3]], [[12], [5, 2, 6]], [[7, 7], [15]])]
    inputs = {}
    for w, window in enumerate(windows):
        for m, batch in enumerate(window):
            key = f"window{w}/batch{m}"
            inputs |= {f"{key}/{k}": v for k, v in store_batch(r, key, batch).items()}
    seen = {"loss": [], "gradNorm": [], "learningRate": [], "trainedTokens": []}
    for step in range(OPTIONS["steps"]):
        window = windows[step % len(windows)]
        tokens = sum(trained_tokens(batch) for batch in window)
        optimizer.zero_grad()
        total = 0.0
        for batch in window:
            loss = sum(token_loss(model, ids, labels) for ids, labels in batch) / tokens
            loss.backward()
            total += loss.item()
        seen["gradNorm"].append(clip_grad_norm_(parameters, OPTIONS["maxGradNorm"]).item())
        seen["loss"].append(total)
        seen["learningRate"].append(schedule.get_last_lr()[0])
        seen["trainedTokens"].append(float(tokens))
        optimizer.step()
        schedule.step()
    outputs = {k: r.store(k, torch.tensor(v)) for k, v in seen.items()}
    outputs |= {f"parameter/{k}": r.store(f"parameter/{k}", p) for k, p in
                ((k.replace(".default", ""), p) for k, p in model.named_parameters() if p.requires_grad)}
    r.cases.append({"name": "lora run", "op": "train", "attributes": {"model": "base", "adapter": "adapter", "windows": len(windows), **OPTIONS},
                    "inputs": inputs, "outputs": outputs})
