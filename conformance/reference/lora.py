"""PEFT adapters on a tiny Phi-3, and loralib's layers.

`base/` is the model, `<adapter>/` the folder PEFT wrote: logits, gradients of the adapter, merged weights.
"""

import loralib
import torch
from peft import LoraConfig, get_peft_model

from lora_peft import save_adapter
from recording import Recording
from tiny_phi3 import build, random_batch, save, save_bf16, store_batch, token_loss, trained_tokens

ADAPTERS = {
    "fused-linears": {"r": 4, "lora_alpha": 8, "target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]},
    "all-linear-rslora": {"r": 3, "lora_alpha": 6, "target_modules": "all-linear", "use_rslora": True},
    "one-layer": {"r": 2, "lora_alpha": 16, "target_modules": r"model\.layers\.1\..*qkv_proj"},
    "patterns": {"r": 4, "lora_alpha": 8, "target_modules": ["qkv_proj", "o_proj", "down_proj"],
                 "rank_pattern": {"o_proj": 2}, "alpha_pattern": {r"layers\.1\.mlp\.down_proj": 32}},
    "saved-head": {"r": 2, "lora_alpha": 4, "target_modules": ["o_proj"], "modules_to_save": ["lm_head"]},
    "bf16-base": {"r": 4, "lora_alpha": 8, "target_modules": ["qkv_proj", "down_proj"]},
    "one-index": {"r": 2, "lora_alpha": 4, "target_modules": ["o_proj", "gate_up_proj"], "layers_to_transform": [1]},
}


def base_model(r: Recording, folder: str):
    """The model that adapters share, its folder written at the first call."""
    seed = r.random.get_state()
    r.random.manual_seed(r.seed)
    model = build(r)
    r.random.set_state(seed)
    if not (r.directory / folder).exists():
        (save_bf16 if folder == "base-bf16" else save)(model, r.directory / folder)
    return model


def record_adapter(r: Recording, label: str, options: dict) -> None:
    folder = "base-bf16" if label == "bf16-base" else "base"
    base = base_model(r, folder)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.05, **options)).eval()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = r.normal(*parameter.shape, std=0.2)
    save_adapter(model, r.directory / label)
    sequences = random_batch(r, [7, 5])
    logits = torch.cat([model(input_ids=ids[None]).logits[0] for ids, _ in sequences])
    loss = sum(token_loss(model, ids, labels) for ids, labels in sequences) / trained_tokens(sequences)
    loss.backward()
    plain = lambda name: name.replace(".modules_to_save", "").replace(".default", "")  # noqa: E731  (as the adapter file spells it)
    gradients = {plain(k): r.store(f"{label}/gradient/{plain(k)}", p.grad) for k, p in model.named_parameters() if p.requires_grad}
    outputs = {"logits": r.store(f"{label}/logits", logits), "loss": r.store(f"{label}/loss", loss)}
    targeted = {k.removeprefix("base_model.model.").rsplit(".lora_", 1)[0] + ".weight" for k in gradients if ".lora_" in k}
    if folder == "base-bf16":
        # PEFT merges into bf16 weights: the sum in f32, rounded once. The adapter itself stays f32.
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
    merged = model.merge_and_unload().state_dict()
    # The first targeted weight in full is enough: the logits depend on all of them.
    name = sorted(targeted)[0]
    outputs[f"merged/{name}"] = r.store(f"{label}/merged/{name}", merged[name])
    r.cases.append({"name": f"peft {label}", "op": "peft", "attributes": {"model": folder, "adapter": label},
                    "inputs": store_batch(r, label, sequences), "outputs": outputs, "gradients": gradients})


def record_layer(r: Recording, label: str, op: str, layer: torch.nn.Module, x: torch.Tensor, attributes: dict) -> None:
    """One loralib layer with random parameters: output, gradients of adapter and input, and the weight that eval() merges."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(r.normal(*parameter.shape, std=0.5))
    layer.train()
    state = {k: r.store(f"{label}/state/{k}", v) for k, v in layer.state_dict().items()}
    if x.is_floating_point():
        x = x.requires_grad_()
    out = layer(x)
    cotangent = r.normal(*out.shape)
    (out * cotangent).sum().backward()
    grads = {k: p.grad for k, p in layer.named_parameters() if p.grad is not None}
    grads |= {"x": x.grad} if x.is_floating_point() else {}
    layer.eval()
    merged = next(v for k, v in layer.state_dict().items() if k in ("weight", "conv.weight"))
    r.cases.append({
        "name": f"loralib {label}", "op": op, "attributes": attributes,
        "inputs": {"x": r.store(f"{label}/x", x), **{f"state/{k}": v for k, v in state.items()}},
        "outputs": {"out": r.store(f"{label}/out", out), "merged": r.store(f"{label}/merged", merged)},
        "cotangents": {"out": r.store(f"{label}/cotangent", cotangent)},
        "gradients": {k: r.store(f"{label}/gradient/{k}", g) for k, g in grads.items()},
    })


def record_loralib(r: Recording) -> None:
    record_layer(r, "linear", "lora.Linear", loralib.Linear(7, 5, r=2, lora_alpha=3), r.normal(4, 7),
                 {"inFeatures": 7, "outFeatures": 5, "r": 2, "loraAlpha": 3})
    record_layer(r, "linear without bias", "lora.Linear", loralib.Linear(6, 3, r=4, lora_alpha=2, bias=False), r.normal(5, 6),
                 {"inFeatures": 6, "outFeatures": 3, "r": 4, "loraAlpha": 2, "bias": False})
    record_layer(r, "embedding", "lora.Embedding", loralib.Embedding(9, 4, r=2, lora_alpha=5), torch.tensor([3, 0, 3, 8, 1]),
                 {"numEmbeddings": 9, "embeddingDim": 4, "r": 2, "loraAlpha": 5})
    for label, groups, options in [("conv2d", 1, {"stride": 1, "padding": 1}), ("conv2d grouped", 2, {"stride": 2, "padding": 0})]:
        layer = loralib.Conv2d(4, 6, 3, r=2, lora_alpha=4, groups=groups, **options)
        record_layer(r, label, "lora.Conv2d", layer, r.normal(2, 4, 6, 5),
                     {"inChannels": 4, "outChannels": 6, "kernelSize": 3, "r": 2, "loraAlpha": 4, "groups": groups, **options})
    for label, enabled in [("merged q and v", [True, False, True]), ("merged all", [True, True]), ("merged k", [False, True, False])]:
        layer = loralib.MergedLinear(5, 12, r=2, lora_alpha=3, enable_lora=enabled)
        record_layer(r, label, "lora.MergedLinear", layer, r.normal(4, 5),
                     {"inFeatures": 5, "outFeatures": 12, "r": 2, "loraAlpha": 3, "enableLora": enabled})


def record(r: Recording) -> None:
    for label, options in ADAPTERS.items():
        record_adapter(r, label, options)
    record_loralib(r)
