import { describeRun, type MemoryChange, type RunEstimate, showBytes } from '@lorikeet/trainer';
import type { Command } from 'commander';
import { type Begin, collect, type DeviceOptions, makeCommand, wholeNumber, withDevice } from '../command.ts';
import { loadConfig } from '../config/load-config.ts';
import { withBackend } from '../model/open-backend.ts';
import { formatCount, formatDuration } from '../terminal/format.ts';
import { renderFields, renderTable } from '../terminal/table.ts';
import { type PlannedRun, planRun } from '../training/plan-run.ts';
import { describeSharing } from '../training/prefix-sharing.ts';

interface PlanFlags extends DeviceOptions {
  readonly config: string;
  readonly set: readonly string[];
  readonly maxSteps?: number;
  readonly outputDir?: string;
  readonly probe: boolean;
}

/** `lorikeet plan`: what a run will take, and what to change where it does not fit. Nothing is loaded or written. */
export function planCommand(begin: Begin): Command {
  return withDevice(makeCommand('plan', 'memory, time and disk of a run, before anything is loaded'))
    .requiredOption('-c, --config <file>', 'YAML configuration; lorikeet init writes one')
    .option('--set <section.key=value>', 'override a key; may be repeated', collect, [])
    .option('--max-steps <n>', 'optimizer steps in all', wholeNumber(1))
    .option('--output-dir <dir>', 'where checkpoints would go, instead of training.outputDir')
    .option('--no-probe', 'leave out the ten seconds that time a step on this machine')
    .action(async (flags: PlanFlags) => {
      const { files, output } = begin({ ...flags });
      const overrides = [
        ...flags.set,
        ...(flags.maxSteps === undefined ? [] : [`training.maxSteps=${flags.maxSteps}`]),
        ...(flags.outputDir === undefined ? [] : [`training.outputDir=${JSON.stringify(flags.outputDir)}`]),
      ];
      const { config, notes } = await loadConfig(files, flags.config, overrides);
      for (const note of notes) output.note(note);
      const planned = await withBackend(flags, (backend) =>
        planRun(config, { files, output, backend, probe: flags.probe }),
      );
      output.result({ command: 'plan', ...resultOf(planned) });
      output.print(describe(planned));
    });
}

function resultOf({ run, estimate, bases, changes, speed, room, fits }: PlannedRun) {
  const { memory, peakBytes, checkpointBytes, diskBytes, tokens, hours } = estimate;
  const { totalSteps, tokensPerStep, trainableParameters } = run.facts;
  return {
    fits,
    memory,
    peakBytes,
    bases,
    ...run.checkpointing,
    checkpointBytes,
    diskBytes,
    tokens,
    totalSteps,
    tokensPerStep,
    trainableParameters,
    largestBatchTokens: run.dry.batch.ids.length,
    sharedTokensPart: run.sharing.obstacle === null ? run.sharing.part : 0,
    secondsPerStep: speed ? tokensPerStep / speed.tokensPerSecond : null,
    tokensPerSecond: speed?.tokensPerSecond ?? null,
    hours,
    probe: speed ?? null,
    room,
    changes,
  };
}

function describe(planned: PlannedRun): string {
  const { estimate, changes, speed, room, fits, run } = planned;
  const blocks = [
    memoryTable(planned),
    renderFields([
      ['steps', `${formatCount(run.facts.totalSteps)} of ${formatCount(run.facts.tokensPerStep)} tokens on average`],
      ['time', timeOf(planned)],
      [
        'disk',
        `${showBytes(estimate.diskBytes)} for checkpoints of ${showBytes(estimate.checkpointBytes)}${room.diskBytes === undefined ? '' : `; ${showBytes(room.diskBytes)} are free`}`,
      ],
    ]),
    fits ? `It fits: ${describeRun(estimate)}.` : `It does not fit: ${shortages(estimate, planned).join('; ')}.`,
  ];
  const sharing = describeSharing(run.sharing);
  if (sharing) blocks.push(`${sharing}.`);
  if (changes.length > 0) blocks.push(changeTable(changes, fits));
  if (!speed) blocks.push('Without --no-probe, ten seconds of its own kernels tell how long the run takes here.');
  return blocks.join('\n\n');
}

function memoryTable({ estimate, bases, run, room }: PlannedRun): string {
  const { memory: m, peakBytes } = estimate;
  const { gradientCheckpointing, activationStorage } = run.checkpointing;
  const kept = gradientCheckpointing ? `recomputed, kept in ${activationStorage}` : 'all kept';
  const tokens = formatCount(run.dry.batch.ids.length);
  const rows: (readonly [string, number, string])[] = [
    ['base weights', m.weights, bases.map(({ name, bytes }) => `${name} ${showBytes(bytes)}`).join(', ')],
    ['adapter', m.adapter, `${formatCount(run.facts.trainableParameters)} parameters`],
    ['gradients', m.gradients, ''],
    ['optimizer', m.optimizer, run.options.optim],
    ['activations', m.activations, `${tokens} tokens, ${kept}; logits ${showBytes(m.logits)} of it at most`],
    ['process', m.process, 'runtime, code, rows'],
    ['peak', peakBytes, room.memoryBytes === undefined ? '' : `${showBytes(room.memoryBytes)} can be had`],
  ];
  return renderTable(
    [{ title: 'memory' }, { title: 'bytes', align: 'right' }, { title: '', maxColumns: 72 }],
    rows.map(([name, bytes, text]) => [name, showBytes(bytes), text]),
  );
}

function timeOf({ run, speed, estimate }: PlannedRun): string {
  if (!speed) return 'not probed';
  const { tokensPerStep } = run.facts;
  const step = formatDuration((1000 * tokensPerStep) / speed.tokensPerSecond);
  return `${step} a step (${speed.tokensPerSecond.toPrecision(3)} tokens a second on this machine), ${formatDuration(estimate.hours! * 3600_000)} in all`;
}

function shortages({ peakBytes, memory: m, diskBytes }: RunEstimate, { room }: PlannedRun): string[] {
  const work = m.peakBytes - m.weights + (m.weightsInWork ?? 0);
  const lacks: (readonly [string, number, number | undefined])[] = [
    ['memory', peakBytes, room.memoryBytes],
    ['memory that this device computes in', work, room.workBytes],
    ['disk', diskBytes, room.diskBytes],
  ];
  return lacks.flatMap(([name, need, have]) =>
    have !== undefined && need > have
      ? [`${showBytes(need)} of ${name} are needed and ${showBytes(have)} are free`]
      : [],
  );
}

function changeTable(changes: readonly MemoryChange[], fits: boolean): string {
  return renderTable(
    [
      { title: fits ? 'to need less' : 'what to change', maxColumns: 72 },
      { title: 'saves', align: 'right' },
    ],
    changes.map(({ change, savesBytes }) => [change, showBytes(savesBytes)]),
  );
}
