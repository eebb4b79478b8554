"""Writing PEFT's folder so that two recordings of one seed are the same bytes."""

import json
from pathlib import Path


def save_adapter(model, folder: Path) -> None:
    """adapter_config.json and adapter_model.safetensors as PEFT writes them; the model card is left out."""
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    # PEFT keeps target modules in a set, whose order changes from process to process.
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
