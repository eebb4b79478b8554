/** What a run could do with less, each change priced by a dry run of its own. */
import { qloraConfig } from '@lorikeet/lora';
import { type Batch, collate, type MemoryChange } from '@lorikeet/trainer';
import { type Checkpointing, type DryRunInput, dryRun } from './dry-run.ts';
import type { PreparedRun } from './prepare-run.ts';

/** The first half of a batch's sequences; null where there is one only. */
function halfOf(batch: Batch): Batch | null {
  if (batch.lengths.length < 2) return null;
  const sequences = Math.ceil(batch.lengths.length / 2);
  let start = 0;
  const examples = batch.lengths.slice(0, sequences).map((length, i) => {
    const [from, to] = [start, (start += length)];
    return { ids: batch.ids.subarray(from, to), labels: batch.labels.subarray(from, to), line: batch.lines[i]! };
  });
  return collate(examples);
}

interface Candidate {
  readonly change: string;
  readonly dry?: Partial<DryRunInput>;
  readonly checkpointing?: Partial<Checkpointing>;
}

function candidatesFor({ config, dry, checkpointing }: PreparedRun): Candidate[] {
  const { perDeviceTrainBatchSize: size, gradientAccumulationSteps: steps } = config.training;
  const list: Candidate[] = [];
  if (!checkpointing.gradientCheckpointing)
    list.push({
      change: 'set training.gradientCheckpointing: true',
      checkpointing: { gradientCheckpointing: true },
    });
  if (checkpointing.activationStorage === 'f32')
    list.push({
      change: `set ${checkpointing.gradientCheckpointing ? '' : 'training.gradientCheckpointing: true and '}training.activationStorage: bf16`,
      checkpointing: { gradientCheckpointing: true, activationStorage: 'bf16' },
    });
  if (!dry.quantization)
    list.push({ change: 'set quantization.loadIn4bit: true (QLoRA)', dry: { quantization: qloraConfig } });
  if (dry.options.optim.startsWith('adamw_torch'))
    list.push({ change: 'set training.optim: adamw_8bit', dry: { options: { ...dry.options, optim: 'adamw_8bit' } } });
  const half = halfOf(dry.batch);
  if (half && size > 1)
    list.push({
      change: `set training.perDeviceTrainBatchSize: ${Math.ceil(size / 2)} and training.gradientAccumulationSteps: ${steps * 2}`,
      dry: { batch: half, options: { ...dry.options, gradientAccumulationSteps: steps * 2 } },
    });
  if (dry.lora.r !== undefined && dry.lora.r > 1)
    list.push({
      change: `set peft.r: ${Math.ceil(dry.lora.r / 2)}`,
      dry: { lora: { ...dry.lora, r: Math.ceil(dry.lora.r / 2) } },
    });
  return list;
}

/** Savings below this part of the peak change nothing. */
const least = 0.01;

/** Every change that helps, with the bytes it gives back at the peak, the best first. */
export async function memoryChanges(run: PreparedRun): Promise<MemoryChange[]> {
  const { dry, checkpointing, facts } = run;
  const changes: MemoryChange[] = [];
  for (const { change, dry: other, checkpointing: otherwise } of candidatesFor(run)) {
    const { peakBytes } = await dryRun({ ...dry, ...other }, { ...checkpointing, ...otherwise });
    changes.push({ change, savesBytes: facts.memory.peakBytes - peakBytes });
  }
  return changes
    .filter(({ savesBytes }) => savesBytes > least * facts.memory.peakBytes)
    .sort((a, b) => b.savesBytes - a.savesBytes);
}
