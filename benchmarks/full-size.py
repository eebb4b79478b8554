"""The rehearsal's job in Python: transformers + PEFT + bitsandbytes, NF4 with double quantization, bf16 compute,
gradient checkpointing, r = 16 on all linears, AdamW. Prints one JSON object with seconds and tokens a second.

    python benchmarks/full-size.py --dir DIR [--steps 2] [--tokens 512] [--threads 2] [--generate 32]
"""

import argparse
import json
import re
import time

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, set_seed


def status_bytes(name: str) -> int:
    """VmHWM counts the pages of mapped shards too; RssAnon is what the process itself holds."""
    with open("/proc/self/status") as status:
        return int(re.search(name + r":\s+(\d+) kB", status.read()).group(1)) * 1024


def peak_bytes() -> int:
    return status_bytes("VmHWM")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", required=True)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--generate", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    set_seed(0)

    start = time.perf_counter()
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        options.dir, quantization_config=quantization, dtype=torch.bfloat16, device_map={"": "cpu"}, attn_implementation="sdpa"
    )
    load_seconds = time.perf_counter() - start
    load_peak = peak_bytes()

    model.config.use_cache = True
    generate_rate = None
    if options.generate > 1:
        prompt = torch.tensor([[3 + (i * 7919) % 30000 for i in range(16)]])
        with torch.no_grad():
            settings = dict(do_sample=False, min_new_tokens=1, pad_token_id=0)
            model.generate(prompt, max_new_tokens=1, **settings)
            start = time.perf_counter()
            model.generate(prompt, max_new_tokens=1, **settings)
            first = time.perf_counter() - start
            start = time.perf_counter()
            settings["min_new_tokens"] = options.generate
            model.generate(prompt, max_new_tokens=options.generate, **settings)
            generate_rate = (options.generate - 1) / (time.perf_counter() - start - first)

    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False})
    model.config.use_cache = False
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4)
    seconds, losses, anonymous = [], [], 0
    for step in range(options.steps):
        ids = torch.randint(3, 30000, (1, options.tokens), generator=torch.Generator().manual_seed(step))
        start = time.perf_counter()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        anonymous = max(anonymous, status_bytes("RssAnon"))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
        losses.append(loss.item())
    # As in our runs: from the second step on, where there is one.
    counted = sorted(seconds[1:] or seconds)
    result = {
        "loadSeconds": load_seconds,
        "loadPeakBytes": load_peak,
        "stepSeconds": seconds,
        "tokensPerSecond": options.tokens / counted[len(counted) // 2],
        "generateTokensPerSecond": generate_rate,
        "losses": losses,
        "peakBytes": peak_bytes(),
        "anonymousBytes": anonymous,
        "torch": torch.__version__,
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
