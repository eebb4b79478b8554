/** How far a long run is: a bar that draws over itself on a terminal, plain lines elsewhere. */
import { formatDuration } from './format.ts';
import { renderSparkline } from './plot.ts';
import { displayWidth, truncateToWidth } from './width.ts';

/** What a step tells. */
export interface StepProgress {
  readonly step: number;
  readonly totalSteps: number;
  readonly loss: number;
  readonly learningRate: number;
  readonly tokensPerSecond: number;
  /** Whether a plain line is due (every loggingSteps). */
  readonly logged: boolean;
}

export interface ProgressOptions {
  readonly stream: NodeJS.WriteStream;
  /** Clock in milliseconds, for tests. */
  readonly now?: () => number;
}

const barColumns = 24;
const redrawMs = 100;

/** Milliseconds that the steps left will take at the speed so far. */
export function timeLeftMs(elapsedMs: number, doneSteps: number, leftSteps: number): number {
  return doneSteps === 0 ? Number.POSITIVE_INFINITY : (elapsedMs / doneSteps) * leftSteps;
}

export class StepsProgress {
  readonly #stream: NodeJS.WriteStream;
  readonly #now: () => number;
  readonly #bar: boolean;
  readonly #losses: number[] = [];
  #startedAt: number | undefined;
  #firstStep = 0;
  #drawnAt = Number.NEGATIVE_INFINITY;

  constructor({ stream, now = () => performance.now() }: ProgressOptions) {
    this.#stream = stream;
    this.#now = now;
    this.#bar = stream.isTTY === true && process.env.TERM !== 'dumb';
  }

  /** Begins to count; steps before `firstStep` were done earlier. */
  start(firstStep: number): void {
    this.#startedAt = this.#now();
    this.#firstStep = firstStep;
  }

  step(event: StepProgress): void {
    this.#startedAt ??= this.#now();
    this.#losses.push(event.loss);
    const { step, totalSteps, logged } = event;
    if (this.#bar) {
      if (this.#now() - this.#drawnAt >= redrawMs || step === totalSteps) this.#draw(event);
    } else if (logged) this.#stream.write(`${this.#line(event)}\n`);
  }

  /** A line above the bar. */
  line(text: string): void {
    this.clear();
    this.#stream.write(`${text}\n`);
  }

  /** Takes the bar off the screen. */
  clear(): void {
    if (this.#bar && this.#drawnAt >= 0) this.#stream.write('\r\u001b[K');
    this.#drawnAt = Number.NEGATIVE_INFINITY;
  }

  #draw(event: StepProgress): void {
    const full = Math.round((event.step / event.totalSteps) * barColumns);
    const bar = `${'█'.repeat(full)}${'░'.repeat(barColumns - full)}`;
    const columns = (this.#stream.columns || 100) - 1;
    const text = `${bar} ${this.#line(event)}`;
    const room = columns - displayWidth(text) - 2;
    const trend = room >= 8 ? `  ${renderSparkline(this.#losses, Math.min(24, room))}` : '';
    this.#stream.write(`\r${truncateToWidth(text + trend, columns)}\u001b[K`);
    this.#drawnAt = this.#now();
  }

  #line({ step, totalSteps, loss, learningRate, tokensPerSecond }: StepProgress): string {
    const left = timeLeftMs(this.#now() - this.#startedAt!, step - this.#firstStep + 1, totalSteps - step);
    return `step ${step}/${totalSteps}  loss ${loss.toFixed(4)}  lr ${learningRate.toExponential(2)}  ${Math.round(tokensPerSecond)} tokens/s  ${formatDuration(left)} left`;
  }
}
