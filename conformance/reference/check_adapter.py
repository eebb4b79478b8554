"""Loads an adapter and a merged model that this project wrote with PEFT and transformers, and compares logits.

    node conformance/write-adapter.ts DIR
    python conformance/reference/check_adapter.py DIR

DIR holds `base/` (a model folder), `adapter/` (adapter_config.json, adapter_model.safetensors), `merged/` (a model
folder that this project wrote) and `logits.safetensors` with `ids` (i32 [t]) and `logits` (f32 [t, v]) as this project computed them.
Exit status 1 when the logits differ by more than 1e-4.
"""

import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import Phi3ForCausalLM


LIMIT = 1e-4


def load(folder: Path) -> Phi3ForCausalLM:
    return Phi3ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def main(folder: Path) -> int:
    torch.set_num_threads(1)
    ours = load_file(folder / "logits.safetensors")
    ids = ours["ids"].long()[None]
    base = load(folder / "base")
    with torch.no_grad():
        plain = base(input_ids=ids).logits[0]
        logits = {
            "adapter": PeftModel.from_pretrained(base, folder / "adapter").eval()(input_ids=ids).logits[0],
            "merged": load(folder / "merged")(input_ids=ids).logits[0],
        }
    passed = True
    for name, tuned in logits.items():
        worst, moved = (tuned - ours["logits"]).abs().max().item(), (tuned - plain).abs().max().item()
        good = worst <= LIMIT and moved > 100 * LIMIT
        passed &= good
        print(f"{name}: logits differ by at most {worst:.1e} (limit {LIMIT}), from the base by {moved:.1e}: {'passed' if good else 'FAILED'}")
    return 0 if passed else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
