"""Writing PEFT's folder so that two recordings of one seed are the same bytes, and the base that adapters share."""

import json
from pathlib import Path

from recording import Recording
from tiny_phi3 import build, save, save_bf16


def save_adapter(model, folder: Path, **options) -> None:
    """adapter_config.json and adapter_model.safetensors as PEFT writes them; the model card is left out."""
    model.save_pretrained(folder, **options)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    # PEFT keeps names in sets, whose order changes from process to process.
    for key in ("target_modules", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def set_aside_base(r: Recording, folder: str, **changes):
    """The model that adapters share, its folder written at the first call; draws nothing from the recording's stream."""
    seed = r.random.get_state()
    r.random.manual_seed(r.seed)
    model = build(r, **changes)
    r.random.set_state(seed)
    if not (r.directory / folder).exists():
        (save_bf16 if folder == "base-bf16" else save)(model, r.directory / folder)
    return model
