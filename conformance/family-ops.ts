import { openScope, type Tensor, zeros } from '@lorikeet/tensor';
import type { Magnitude } from './compare.ts';
import { type CaseContext, type Finding, numbersOf, SkipCase, tensorFinding, upload, verdict } from './findings.ts';
import { opCall } from './ops.ts';
import { decisiveDType, type Limit, opLimit, type Quantity } from './tolerances.ts';

/** One op: its outputs, and the gradient of every recorded input from loss = sum(output * cotangent). */
export async function runOpCase({ recording, testCase, backend }: CaseContext): Promise<Finding[]> {
  using tensors = openScope();
  const { inputs, numbers, integers } = tensors.run(() => readInputs({ recording, testCase, backend }));
  if (testCase.error !== undefined && isQueued(backend.name) && /out of (?:bounds|range)/.test(testCase.error))
    throw new SkipCase('the value of an index is checked when the op runs, on a queue after the call returned');
  if (testCase.error !== undefined)
    return [
      tensors.run(() =>
        refusal(testCase, () => opCall(testCase.op)(inputs, testCase.attributes, { numbers, integers })),
      ),
    ];
  const { outputs, gradients } = tensors.run(() => {
    const result = opCall(testCase.op)(inputs, testCase.attributes, { numbers, integers });
    const outputs: Readonly<Record<string, Tensor>> = 'backend' in result ? { out: result as Tensor } : result;
    return { outputs, gradients: differentiate({ recording, testCase, backend }, inputs, outputs) };
  });
  const findings: Finding[] = [];
  const check = async (quantity: Quantity, name: string, actual: Tensor, key: string): Promise<void> => {
    const magnitude = magnitudeOf({ recording, testCase, backend }, name);
    const expected = recording.tensor(key);
    const result = recording.tensor(Object.values(testCase.outputs)[0]!).dtype;
    const dtype = decisiveDType(testCase.op, quantity, expected.dtype, result);
    const limit: Limit = testCase.tolerance
      ? { kind: 'each', ...testCase.tolerance }
      : opLimit(testCase.op, quantity, dtype, backend.name, magnitude && (magnitude.rounded ? 'rounded' : 'products'));
    const what = quantity === 'gradient' ? `gradient of ${name}` : name;
    const torchError = testCase.torchErrors?.[name];
    const found = await tensorFinding(what, actual, expected, limit, magnitude);
    findings.push(torchError === undefined ? found : { ...found, torchError });
  };
  for (const [name, key] of Object.entries(testCase.outputs)) await check('output', name, outputs[name]!, key);
  for (const [name, key] of Object.entries(testCase.gradients ?? {}))
    await check('gradient', name, gradients[name]!, key);
  return findings;
}

const isQueued = (backend: string): boolean => backend === 'hostile' || backend === 'webgpu';

/** PyTorch refuses this call: so must we, with an error that names the op. */
function refusal({ op, error }: CaseContext['testCase'], call: () => unknown): Finding {
  try {
    call();
  } catch (refused) {
    // Ours say `op: what must hold: what was given`; JavaScript's own mean that nobody looked at the arguments.
    const isOurs = refused instanceof Error && /^\w+: .*: .*\.$/s.test(refused.message);
    return verdict('refusal', isOurs, `threw ${refused}`);
  }
  return verdict('refusal', false, `${op} was computed; PyTorch says: ${error}`);
}

function readInputs({ recording, testCase, backend }: CaseContext) {
  const inputs: Record<string, Tensor> = {};
  const numbers: Record<string, number> = {};
  const integers: Record<string, Int32Array> = {};
  for (const [name, value] of Object.entries(testCase.inputs)) {
    if (typeof value === 'number') {
      numbers[name] = value;
      continue;
    }
    const stored = recording.tensor(value);
    inputs[name] = upload(stored, backend, name in (testCase.gradients ?? {}));
    if (stored.dtype === 'i32') integers[name] = numbersOf(stored) as Int32Array;
  }
  return { inputs, numbers, integers };
}

function differentiate(
  { recording, testCase, backend }: CaseContext,
  inputs: Readonly<Record<string, Tensor>>,
  outputs: Readonly<Record<string, Tensor>>,
): Record<string, Tensor> {
  const names = Object.keys(testCase.gradients ?? {});
  if (names.length === 0) return {};
  const terms = Object.entries(testCase.cotangents ?? {}).map(([name, key]) =>
    outputs[name]!.mul(upload(recording.tensor(key), backend)).sum(),
  );
  const gradients = terms.reduce((total, term) => total.add(term)).backward();
  return Object.fromEntries(
    names.map((name) => {
      const input = inputs[name]!;
      return [name, gradients.has(input) ? gradients.of(input) : zeros(input.shape, { backend })];
    }),
  );
}

function magnitudeOf({ recording, testCase }: CaseContext, name: string): Magnitude | undefined {
  const found = testCase.magnitudes?.[name];
  return found && { sums: numbersOf(recording.tensor(found.key)), terms: found.terms, rounded: found.rounded };
}
