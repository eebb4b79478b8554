"""PEFT adapters on a tiny Phi-3 with every option that this project has, adapters of ours in PEFT, and loralib's layers.

`base/` is the model, `<adapter>/` the folder PEFT wrote: logits, gradients of the adapter, merged weights. `written/` is
what this project wrote while recording, accepted by PEFT.
"""

import loralib
import torch
from peft import LoraConfig, get_peft_model

from lora_inits import record_inits
from lora_module import record_biases
from lora_peft import save_adapter, set_aside_base
from lora_quantized import record_quantized
from lora_written import record_written
from recording import Recording
from tiny_phi3 import random_batch, store_batch, token_loss, trained_tokens

ALL = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]


def drawn_adapters(r: Recording) -> dict:
    """Every form of every option; ranks, alphas and the layer that is meant are drawn."""
    rank = lambda: int(r.integers(1, low=1, high=7))  # noqa: E731
    alpha = lambda: int(r.integers(1, low=1, high=17))  # noqa: E731
    layer = int(r.integers(1, high=2))
    return {
        "fused-linears": {"r": rank(), "lora_alpha": alpha(), "target_modules": ALL},
        "all-linear-rslora": {"r": rank(), "lora_alpha": alpha(), "target_modules": "all-linear", "use_rslora": True},
        "one-layer": {"r": rank(), "lora_alpha": alpha(), "target_modules": rf"model\.layers\.{layer}\..*qkv_proj"},
        "patterns": {"r": rank(), "lora_alpha": alpha(), "target_modules": ["qkv_proj", "o_proj", "down_proj"],
                     "rank_pattern": {"o_proj": rank()}, "alpha_pattern": {rf"layers\.{layer}\.mlp\.down_proj": 32},
                     "use_rslora": True},
        "saved-head": {"r": rank(), "lora_alpha": alpha(), "target_modules": ["o_proj"], "modules_to_save": ["lm_head"]},
        "saved-embedding": {"r": rank(), "lora_alpha": alpha(), "target_modules": "all-linear", "modules_to_save": ["embed_tokens"]},
        "bf16-base": {"r": rank(), "lora_alpha": alpha(), "target_modules": ["qkv_proj", "down_proj"]},
        "one-index": {"r": rank(), "lora_alpha": alpha(), "target_modules": ["o_proj", "gate_up_proj"], "layers_to_transform": [layer]},
        "index-in-list": {"r": rank(), "lora_alpha": alpha(), "target_modules": ["o_proj"], "layers_to_transform": layer,
                          "layers_pattern": "layers"},
        "whole-path": {"r": rank(), "lora_alpha": alpha(), "target_modules": [f"model.layers.{layer}.mlp.down_proj", "o_proj"]},
        "excluded": {"r": rank(), "lora_alpha": alpha(), "target_modules": ALL, "exclude_modules": ["o_proj", f"{layer}.mlp.down_proj"]},
        "excluded-by-expression": {"r": rank(), "lora_alpha": alpha(), "target_modules": "all-linear",
                                   "exclude_modules": rf".*layers\.{layer}\.mlp.*"},
        "names-that-match-nothing": {"r": rank(), "lora_alpha": alpha(), "target_modules": ["q_proj", "o_proj", "down_proj"], "bias": "all"},
        "gaussian": {"r": rank(), "lora_alpha": alpha(), "target_modules": ["gate_up_proj"], "init_lora_weights": "gaussian", "bias": "lora_only"},
    }


def record_adapter(r: Recording, label: str, options: dict) -> None:
    folder = "base-bf16" if label == "bf16-base" else "base"
    base = set_aside_base(r, folder)
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
    for label, options in drawn_adapters(r).items():
        record_adapter(r, label, options)
    record_inits(r)
    record_quantized(r)
    record_biases(r)
    record_written(r)
    record_loralib(r)
