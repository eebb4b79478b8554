"""Writes the tokenizers that tests of packages use: packages/tokenizer/src/recordings/{llama,phi4}-like.json.

They are those of the family `tokenizer`. Usage, from the repository root: python conformance/reference/fixture_tokenizers.py
"""

import json
from pathlib import Path

from tokenizer_made import llama_like, phi4_like

FIXTURES = Path(__file__).resolve().parents[2] / "packages/tokenizer/src/recordings"

for name, tokenizer in [("llama-like", llama_like()), ("phi4-like", phi4_like())]:
    fixture = {"tokenizerJson": json.loads(tokenizer.to_str())}
    (FIXTURES / f"{name}.json").write_text(json.dumps(fixture, ensure_ascii=True, indent=2) + "\n")
