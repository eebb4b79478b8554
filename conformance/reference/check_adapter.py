"""Loads an adapter that this project wrote with Python's PEFT and compares logits.

    node conformance/write-adapter.ts DIR
    python conformance/reference/check_adapter.py DIR

DIR holds `base/` (a model folder), `adapter/` (adapter_config.json, adapter_model.safetensors) and
`logits.safetensors` with `ids` (i32 [t]) and `logits` (f32 [t, v]) as this project computed them.
Exit status 1 when the logits differ by more than 1e-4.
"""

import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import Phi3ForCausalLM


def main(folder: Path) -> int:
    torch.set_num_threads(1)
    base = Phi3ForCausalLM.from_pretrained(folder / "base", dtype=torch.float32, attn_implementation="eager")
    ours = load_file(folder / "logits.safetensors")
    ids = ours["ids"].long()[None]
    with torch.no_grad():
        plain = base(input_ids=ids).logits[0]
        model = PeftModel.from_pretrained(base, folder / "adapter").eval()
        tuned = model(input_ids=ids).logits[0]
    worst, moved = (tuned - ours["logits"]).abs().max().item(), (tuned - plain).abs().max().item()
    passed = worst <= 1e-4 and moved > 1e-2
    print(f"worst difference of logits {worst:.2e} (limit 1e-4); the adapter moves them by {moved:.2e}: {'passed' if passed else 'FAILED'}")
    return 0 if passed else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
