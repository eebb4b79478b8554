"""The way back: adapters that this project writes, loaded by PEFT, and models that `lorikeet merge` writes, by transformers.

`written/<label>/` is what ../write-adapter.ts wrote on `base/`; PEFT's logits on it are recorded, so that the runner can see that
what it writes today is what PEFT accepted.
"""

import json
import shutil
import subprocess
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import Phi3ForCausalLM

from recording import Recording
from tiny_phi3 import random_batch, store_batch

ROOT = Path(__file__).resolve().parents[2]
NODE = str(ROOT / "node_modules/.bin/node")
LIMIT = 1e-4


def drawn_configs(r: Recording) -> dict:
    rank = lambda: int(r.integers(1, low=1, high=5))  # noqa: E731
    layer = int(r.integers(1, high=2))
    return {
        "all-linear": {"r": rank(), "loraAlpha": 7, "loraDropout": 0.1, "targetModules": "all-linear", "useRslora": True},
        "patterns": {"r": rank(), "loraAlpha": 6, "targetModules": ["qkv_proj", "down_proj"], "rankPattern": {"down_proj": rank()},
                     "alphaPattern": {f"{layer}\\.self_attn\\.qkv_proj": 3}},
        "some-layers": {"r": rank(), "loraAlpha": 4, "targetModules": "all-linear", "layersToTransform": layer, "excludeModules": ["down_proj"]},
        "head": {"r": rank(), "loraAlpha": 4, "targetModules": r"model\.layers\.\d\.mlp\.gate_up_proj", "modulesToSave": ["lm_head"]},
        "pissa": {"r": 2 * rank(), "loraAlpha": 5, "targetModules": "all-linear", "initLoraWeights": "pissa"},
        "olora-rslora": {"r": rank(), "loraAlpha": 5, "targetModules": ["qkv_proj", "down_proj"], "initLoraWeights": "olora", "useRslora": True,
                         "rankPattern": {"down_proj": rank()}},
    }


def load(folder: Path) -> Phi3ForCausalLM:
    return Phi3ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def run(*command: str) -> None:
    done = subprocess.run([NODE, *command], capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} failed:\n{done.stderr}")


def require_close(what: str, ours: torch.Tensor, theirs: torch.Tensor, limit: float = LIMIT) -> None:
    worst = (ours - theirs).abs().max().item()
    if worst > limit:
        raise AssertionError(f"{what}: logits must be equal to {limit}: they differ by {worst:.1e}")


def record_written(r: Recording) -> None:
    configs = drawn_configs(r)
    place = r.directory / "written"
    place.mkdir(parents=True)
    sequences = random_batch(r, [9, 3])
    ids = [ids.tolist() for ids, _ in sequences]
    (place / "configs.json").write_text(json.dumps({"seed": r.seed, "sequences": ids, "configs": configs}))
    run(str(ROOT / "conformance/write-adapter.ts"), str(r.directory / "base"), str(place))
    ours = load_file(place / "logits.safetensors")
    plain = load(r.directory / "base")
    with torch.no_grad():
        untouched = torch.cat([plain(input_ids=s[None]).logits[0] for s, _ in sequences])
        for label, config in configs.items():
            model = PeftModel.from_pretrained(load(r.directory / "base"), place / label).eval()
            logits = torch.cat([model(input_ids=s[None]).logits[0] for s, _ in sequences])
            require_close(f"PEFT with our adapter {label}", logits, ours[label])
            if (logits - untouched).abs().max() < 100 * LIMIT:
                raise AssertionError(f"our adapter {label} must change the logits: it does not")
            # The command line merges it, and transformers loads that.
            run(str(ROOT / "packages/cli/src/main.ts"), "merge", "--model", str(r.directory / "base"), "--adapter", str(place / label),
                "--out", str(place / "merged"), "--no-compare", "--threads", "1")
            tuned = load(place / "merged")
            require_close(f"transformers with {label} merged by lorikeet", torch.cat([tuned(input_ids=s[None]).logits[0] for s, _ in sequences]), logits)
            shutil.rmtree(place / "merged")
            for extra in ("README.md", "MANIFEST.json"):
                (place / label / extra).unlink()
            r.cases.append({"name": f"written {label}", "op": "written", "attributes": {"model": "base", "adapter": f"written/{label}", "config": config, "seed": r.seed},
                            "inputs": store_batch(r, f"written/{label}", sequences), "outputs": {"logits": r.store(f"written/{label}/logits", logits)}})
    for name in ("configs.json", "logits.safetensors"):
        (place / name).unlink()
