"""What every family shares: seeded inputs, cases, and the two files of a recording.

A recording is `recording.safetensors` (every tensor) and `recording.json` (what they mean):

    family, seed, generatorSha256, packageVersions,
    cases: [{ name, op, attributes,
              inputs:     { name: tensor key, or a number },
              outputs:    { name: tensor key },
              cotangents: { output name: tensor key },      d(loss)/d(output); the loss is sum(output * cotangent)
              gradients:  { input name: tensor key },
              magnitudes: { "out" or input name: { key, terms } },   sums of |a||b| and how many terms, for error bounds
              tolerance:  { rtol, atol } }]                 only where the family's own does not fit

Outputs and gradients of ops are computed in f64 from the stored inputs and rounded once.
"""

import hashlib
import json
import shutil
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
PACKAGES = ("torch", "transformers", "peft", "loralib", "safetensors")


def generator_sha256(family: str) -> str:
    """Hash of every source that decides a family's numbers: its own files, the shared ones and the pinned versions."""
    sources = sorted(HERE.glob(f"{family}*.py")) + [HERE / name for name in ("recording.py", "requirements.txt", "tiny_phi3.py")]
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_text(encoding="utf-8").encode("utf-8"))
    return digest.hexdigest()


def storable(tensor: torch.Tensor) -> torch.Tensor:
    """f64 becomes f32 (rounded once), int64 becomes i32, bool becomes u8: the dtypes the package has."""
    tensor = tensor.detach()
    if tensor.dtype == torch.float64:
        tensor = tensor.to(torch.float32)
    if tensor.dtype == torch.int64:
        tensor = tensor.to(torch.int32)
    if tensor.dtype == torch.bool:
        tensor = tensor.to(torch.uint8)
    return tensor.contiguous().clone()


class Recording:
    """Collects tensors and cases of one family; `save` writes both files."""

    def __init__(self, family: str, seed: int, out: Path):
        self.family, self.seed = family, seed
        # Written beside its place and moved there when complete: a generator that fails leaves the old recording alone.
        self.place = out / family
        self.directory = out / f".{family}.new"
        shutil.rmtree(self.directory, ignore_errors=True)
        self.random = torch.Generator().manual_seed(seed)
        self.tensors: dict[str, torch.Tensor] = {}
        self.cases: list[dict] = []

    # Inputs: f32 values, drawn from one stream so that `--seed` changes all of them.

    def uniform(self, *shape: int, low: float = -2.0, high: float = 2.0) -> torch.Tensor:
        return torch.rand(shape, generator=self.random) * (high - low) + low

    def normal(self, *shape: int, std: float = 1.0) -> torch.Tensor:
        return torch.randn(shape, generator=self.random) * std

    def integers(self, *shape: int, low: int = 0, high: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=self.random)

    def store(self, key: str, tensor: torch.Tensor) -> str:
        if key in self.tensors:
            raise ValueError(f"{self.family}: two tensors named {key}")
        self.tensors[key] = storable(tensor)
        return key

    def record(self, op: str, label: str, inputs: dict, compute, attributes: dict | None = None,
               frozen: tuple = (), products: dict | None = None, tolerance: dict | None = None) -> None:
        """Records one call of `compute(**inputs)`, which returns a tensor or a dict of tensors.

        Every f32 input not named in `frozen` gets its gradient recorded. `products` names, for outputs and inputs whose
        value (or gradient) is a sum of products, how many terms each element sums: their magnitudes are recorded too.
        """
        name = f"{op}/{label}"
        expected = self._differentiate(compute, inputs, frozen, absolute=False)
        outputs, gradients, cotangents = expected
        case = {"name": name, "op": op, "attributes": attributes or {}}
        case["inputs"] = {
            k: self.store(f"{name}/{k}", v) if isinstance(v, torch.Tensor) else v for k, v in inputs.items() if v is not None
        }
        case["outputs"] = {k: self.store(f"{name}/{k}", v) for k, v in outputs.items()}
        if gradients:
            case["cotangents"] = {k: self.store(f"{name}/cotangent/{k}", v) for k, v in cotangents.items()}
            case["gradients"] = {k: self.store(f"{name}/gradient/{k}", v) for k, v in gradients.items()}
        if products:
            sums, sum_gradients, _ = self._differentiate(compute, inputs, frozen, absolute=True, cotangents=cotangents)
            case["magnitudes"] = {
                k: {"key": self.store(f"{name}/magnitude/{k}", sums[k] if k in sums else sum_gradients[k]), "terms": terms}
                for k, terms in products.items()
            }
        if tolerance:
            case["tolerance"] = tolerance
        self.cases.append(case)

    def _differentiate(self, compute, inputs, frozen, absolute, cotangents=None):
        """Outputs, gradients and cotangents in f64. `absolute`: of |inputs|, which gives the sums of |a||b|."""
        wide = {}
        for k, v in inputs.items():
            if isinstance(v, torch.Tensor) and v.is_floating_point():
                v = v.to(torch.float64)
                v = (v.abs() if absolute else v).requires_grad_(k not in frozen)
            wide[k] = v
        result = compute(**wide)
        outputs = result if isinstance(result, dict) else {"out": result}
        floats = {k: v for k, v in outputs.items() if v.requires_grad}
        trained = {k: v for k, v in wide.items() if isinstance(v, torch.Tensor) and v.requires_grad}
        if not floats:
            return outputs, {}, {}
        if cotangents is None:
            cotangents = {k: self.normal(*v.shape) for k, v in floats.items()}
        loss = sum((v * (c.abs() if absolute else c).double()).sum() for v, c in zip(floats.values(), cotangents.values()))
        values = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        gradients = {k: torch.zeros_like(v) if g is None else g for (k, v), g in zip(trained.items(), values)}
        return outputs, gradients, cotangents

    def save(self) -> None:
        """Writes both files and puts the folder in the place of the old one."""
        self.directory.mkdir(parents=True, exist_ok=True)
        save_file(self.tensors, self.directory / "recording.safetensors")
        for file in self.directory.rglob("*.safetensors"):
            file.chmod(0o644)
        manifest = {
            "family": self.family,
            "seed": self.seed,
            "generatorSha256": generator_sha256(self.family),
            "packageVersions": {p: version(p) for p in PACKAGES},
            "cases": self.cases,
        }
        lines = [f'  "{k}": {json.dumps(v)}' for k, v in manifest.items() if k != "cases"]
        lines.append('  "cases": [\n' + ",\n".join(f"    {json.dumps(c)}" for c in self.cases) + "\n  ]")
        text = "{\n" + ",\n".join(lines) + "\n}\n"
        (self.directory / "recording.json").write_text(text, encoding="utf-8")
        shutil.rmtree(self.place, ignore_errors=True)
        self.directory.rename(self.place)
        size = sum(f.stat().st_size for f in self.place.rglob("*") if f.is_file())
        print(f"{self.family}: {len(self.cases)} cases, {len(self.tensors)} tensors, {size / 1024:.0f} KiB in {self.place}")
