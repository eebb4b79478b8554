"""QLoRA on a tiny Phi-3: transformers, PEFT and bitsandbytes together, and folders that go both ways.

`dense/` is the 16-bit model, `<label>/` what save_pretrained writes of it quantized, `<label>-adapter/` an adapter on it.
"""

import copy
import json
import shutil
import subprocess
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from safetensors.torch import load_file
from transformers import BitsAndBytesConfig, Phi3ForCausalLM

from lora_peft import save_adapter
from recording import Recording
from tiny_phi3 import build, random_batch, save, store_batch, token_loss, trained_tokens

CONFIGS = {
    "nf4-double": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4-skipping": {"load_in_4bit": True, "llm_int8_skip_modules": ["lm_head", "o_proj"]},
    "int8": {"load_in_8bit": True},
}


def load(folder: Path, dtype: torch.dtype, **options) -> Phi3ForCausalLM:
    model = Phi3ForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager", **options).eval()
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def logits_of(model, sequences) -> torch.Tensor:
    return torch.cat([model(input_ids=ids[None]).logits[0] for ids, _ in sequences])


def save_quantized(model, folder: Path) -> None:
    """As save_pretrained writes it, but for what changes from version to version."""
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    config.pop("transformers_version", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def check_ours(r: Recording, label: str, options: dict) -> None:
    """`lorikeet quantize` writes the folder that transformers writes, and transformers loads it: the way back of the promise."""
    root = Path(__file__).resolve().parents[2]
    place = r.directory / f"{label}-ours"
    kind = ["--int8"] if options.get("load_in_8bit") else ["--quant-type", options.get("bnb_4bit_quant_type", "fp4")]
    double = [] if options.get("bnb_4bit_use_double_quant") or "load_in_8bit" in options else ["--no-double-quant"]
    skip = [part for name in options.get("llm_int8_skip_modules", []) for part in ("--skip", name)]
    command = [str(root / "node_modules/.bin/node"), str(root / "packages/cli/src/main.ts"), "quantize",
               "--model", str(r.directory / "dense"), "--out", str(place), *kind, *double, *skip]
    subprocess.run(command, check=True, capture_output=True)
    ours, theirs = load_file(place / "model.safetensors"), load_file(r.directory / label / "model.safetensors")
    different = [k for k in sorted(set(ours) | set(theirs)) if k not in ours or k not in theirs or not torch.equal(ours[k], theirs[k])]
    if different:
        raise AssertionError(f"{label}: lorikeet quantize must write what transformers writes: {different[:4]} differ")
    sequences = random_batch(r, [6])
    a, b = (logits_of(load(folder, torch.bfloat16), sequences) for folder in (place, r.directory / label))
    if not torch.equal(a, b):
        raise AssertionError(f"{label}: transformers must load our folder as its own")
    shutil.rmtree(place)


def record_model(r: Recording, label: str, options: dict) -> None:
    in_bf16 = BitsAndBytesConfig(**options, bnb_4bit_compute_dtype=torch.bfloat16)
    quantized = load(r.directory / "dense", torch.bfloat16, quantization_config=in_bf16)
    save_quantized(quantized, r.directory / label)
    check_ours(r, label, options)
    # Weights that were bf16 are multiplied as bf16 only in bf16 arithmetic; QLoRA in f32 stands on f32 weights.
    model = load(r.directory / "dense-f32", torch.float32, quantization_config=BitsAndBytesConfig(**options))
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=0.05, target_modules="all-linear")).eval()
    for _, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            parameter.data = r.normal(*parameter.shape, std=0.1)
    model.peft_config["default"].base_model_name_or_path = "dense-f32"  # not the folder it was recorded in
    save_adapter(model, r.directory / f"{label}-adapter")
    sequences = random_batch(r, [7, 5])
    logits = logits_of(model, sequences)
    loss = sum(token_loss(model, ids, labels) for ids, labels in sequences) / trained_tokens(sequences)
    loss.backward()
    gradients = {n.replace(".default", ""): p.grad for n, p in model.named_parameters() if p.requires_grad}
    r.cases.append({
        "name": f"qlora {label}", "op": "qlora",
        "attributes": {"dense": "dense", "denseF32": "dense-f32", "quantized": label, "adapter": f"{label}-adapter", "config": options},
        "inputs": store_batch(r, label, sequences),
        "outputs": {"logits": r.store(f"{label}/logits", logits), "loss": r.store(f"{label}/loss", loss)},
        "gradients": {n: r.store(f"{label}/gradient/{n}", g) for n, g in gradients.items()},
    })


def record_models(r: Recording) -> None:
    # Widths in whole blocks of 64: bitsandbytes' native dequantizer begins a block at each row.
    model = build(r, hidden_size=64, intermediate_size=64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    save(model, r.directory / "dense-f32")
    save(copy.deepcopy(model).to(torch.bfloat16), r.directory / "dense")
    for label, options in CONFIGS.items():
        record_model(r, label, options)
