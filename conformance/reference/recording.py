"""What every family shares: seeded inputs, cases, and the two files of a recording.

A recording is `recording.safetensors` (every tensor) and `recording.json` (what they mean):

    family, seed, generatorSha256, packageVersions,
    tolerances: { name: { rtol, atol, reason } },         what single cases ask for instead of ../tolerances.ts
    cases: [{ name, op, attributes,
              inputs:     { name: tensor key, or a number },
              outputs:    { name: tensor key },
              cotangents: { output name: tensor key },      d(loss)/d(output); the loss is sum(output * cotangent)
              gradients:  { input name: tensor key },
              magnitudes: { "out" or input name: { key, terms } },   sums of |a||b| and how many terms, for error bounds
              torchErrors: { output or input name: number },  largest error of PyTorch's own f32 there, against f64
              error:      PyTorch's message,                  the call must be refused; nothing else is recorded
              tolerance:  name of a tolerance }]            only where ../tolerances.ts does not fit

Outputs and gradients of ops are computed in f64 from the stored inputs and rounded once.
"""

import hashlib
import json
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
EXACT = {"name": "exact", "rtol": 0, "atol": 0, "reason": "one right answer: integers, comparisons, roundings, moved bits"}


def sources_of(family: str) -> list[Path]:
    """Every program that decides a family's numbers: FAMILY.py, FAMILY_*.py and what they import from this folder, by name."""
    found: dict[str, Path] = {}
    waiting = [p.stem for p in [HERE / f"{family}.py", *HERE.glob(f"{family}_*.py")]]
    while waiting:
        name = waiting.pop()
        path = HERE / f"{name}.py"
        if name in found or not path.exists():
            continue
        found[name] = path
        waiting += re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return [found[name] for name in sorted(found)]


def generator_sha256(family: str) -> str:
    """Hash of `sources_of(family)`. ../recording.ts computes it the same way. Versions are compared with requirements.txt."""
    digest = hashlib.sha256()
    for source in sources_of(family):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def package_versions(family: str) -> dict[str, str]:
    """Versions of the pinned packages that the family's programs import. Refuses any other version than the pinned one."""
    lines = (HERE / "requirements.txt").read_text(encoding="utf-8").split()
    pins = dict(line.split("==") for line in lines)
    imported = set(re.findall(r"^\s*(?:from|import) (\w+)", "".join(p.read_text(encoding="utf-8") for p in sources_of(family)), re.MULTILINE))
    used = {name: pin for name, pin in pins.items() if name.replace("-", "_") in imported}
    for name, pin in used.items():
        # A build of the pinned version, such as 2.15.0+cpu, is that version.
        if version(name).split("+")[0] != pin:
            raise RuntimeError(f"{name} must have the pinned version {pin}: {version(name)} is installed. Install requirements.txt.")
    return used


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

    def __init__(self, family: str, seed: int, out: Path, runs: int = 10):
        self.family, self.seed, self.runs = family, seed, runs
        # Written beside its place and moved there when complete: a generator that fails leaves the old recording alone.
        self.place = out / family
        self.directory = out / f".{family}.new"
        shutil.rmtree(self.directory, ignore_errors=True)
        self.random = torch.Generator().manual_seed(seed)
        self.tensors: dict[str, torch.Tensor] = {}
        self.cases: list[dict] = []
        self.tolerances: dict[str, dict] = {}

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
        `tolerance` is { name, rtol, atol, reason }, such as EXACT.
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
        case |= self._tolerance(tolerance)
        errors = self._torch_errors(compute, inputs, frozen, outputs, gradients, cotangents)
        if errors:
            case["torchErrors"] = errors
        self.cases.append(case)

    def record_error(self, op: str, label: str, inputs: dict, message: str, attributes: dict | None = None) -> None:
        """A call that PyTorch refuses with `message`: it must be refused here too."""
        name = f"{op}/{label}"
        stored = {k: self.store(f"{name}/{k}", v) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
        self.cases.append({"name": name, "op": op, "attributes": attributes or {}, "inputs": stored, "outputs": {}, "error": message})

    def _tolerance(self, tolerance: dict | None) -> dict:
        """The field of a case, and its entry in the manifest."""
        if not tolerance:
            return {}
        name = tolerance["name"]
        entry = {k: tolerance[k] for k in ("rtol", "atol", "reason")}
        if self.tolerances.setdefault(name, entry) != entry:
            raise ValueError(f"{self.family}: two tolerances named {name}")
        return {"tolerance": name}

    def _torch_errors(self, compute, inputs, frozen, outputs, gradients, cotangents) -> dict[str, float]:
        """How far PyTorch's own f32 is from its f64, by output and input: the yardstick beside our error."""
        if not any(v.dtype == torch.float64 for v in outputs.values()):
            return {}
        single, single_gradients, _ = self._differentiate(compute, inputs, frozen, absolute=False, cotangents=cotangents, dtype=torch.float32)
        pairs = [(k, v, single[k]) for k, v in outputs.items()] + [(k, v, single_gradients[k]) for k, v in gradients.items()]
        errors = {}
        for name, exact, rounded in pairs:
            difference = (rounded.double() - exact.double()).abs()
            finite = difference[difference.isfinite()]
            if exact.dtype == torch.float64 and finite.numel():
                errors[name] = float(f"{finite.max().item():.3g}")
        return errors

    def _differentiate(self, compute, inputs, frozen, absolute, cotangents=None, dtype=torch.float64):
        """Outputs, gradients and cotangents in `dtype`. `absolute`: of |inputs|, which gives the sums of |a||b|."""
        wide = {}
        for k, v in inputs.items():
            if isinstance(v, torch.Tensor) and v.is_floating_point():
                v = v.to(dtype)
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
        loss = sum((v * (c.abs() if absolute else c).to(dtype)).sum() for v, c in zip(floats.values(), cotangents.values()))
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
            "packageVersions": package_versions(self.family),
            "tolerances": self.tolerances,
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
