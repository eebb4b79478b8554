import { execFileSync, spawn } from 'node:child_process';
import { tensor } from '@lorikeet/tensor';
import { afterEach, expect, test } from 'vitest';
import { argument, ModuleBuilder } from './assembler.ts';
import { coreCount } from './features.ts';
import { type CpuBackend, cpu } from './index.ts';
import { i32, store } from './instructions.ts';
import { LinearMemory } from './memory.ts';
import { Team } from './team.ts';
import { control } from './team-module.ts';

const teams: Team[] = [];
afterEach(async () => {
  for (const team of teams.splice(0)) await team.close();
});

/** A task that adds 1 to the chunk's own counter, after some work. */
async function counting(threads: number) {
  const memory = new LinearMemory({ shared: true });
  const team = await Team.start(memory, threads);
  teams.push(team);
  const m = new ModuleBuilder(memory.shape);
  m.task('count', (f, args, chunk) => {
    const at = f.int(i32.add(argument(args, 0), i32.shl(chunk, 2)));
    f.for(0, argument(args, 1), 1, () => {});
    f.emit(store.i32(at, i32.add(i32.load(at), 1)));
  });
  m.task('trap', (f, args, chunk) => {
    f.if(i32.eq(chunk, argument(args, 0)), () => f.drop(i32.load(-8)));
  });
  return { memory, team, tasks: team.install(m) };
}

test.each([1, 2, 4])('every chunk runs exactly once on %i threads, job after job', async (threads) => {
  const { memory, team, tasks } = await counting(threads);
  const at = memory.allocate(400);
  memory.bytes.fill(0, at, at + 400);
  const expected = new Int32Array(100);
  for (let job = 0; job < 3000; job++) {
    const chunks = 1 + (job % 100);
    team.run(tasks.count!, [at, job % 500], chunks);
    for (let i = 0; i < chunks; i++) expected[i]!++;
  }
  expect(new Int32Array(memory.memory.buffer, at, 100)).toEqual(expected);
});

test('of two teams only the one that worked last spins, and none that has more threads than cores', async () => {
  const [first, second, crowd] = [await counting(2), await counting(2), await counting(coreCount() + 1)];
  const work = ({ memory, team, tasks }: typeof first) => {
    const at = memory.allocate(400);
    team.run(tasks.count!, [at, 10], 100);
    memory.release(at);
  };
  const spins = ({ memory }: typeof first) => Atomics.load(new Int32Array(memory.memory.buffer), control.spins / 4);
  const full = coreCount() > 1 ? 1000 : 1;
  for (const [working, resting] of [
    [first, second],
    [second, first],
    [first, second],
  ] as const) {
    work(working);
    expect(spins(working)).toBeGreaterThanOrEqual(full);
    expect(spins(resting)).toBe(1);
  }
  work(crowd);
  expect([first, second, crowd].map(spins)).toEqual([1, 1, 1]);
});

test('memory that grows between jobs is seen by every worker', async () => {
  const { memory, team, tasks } = await counting(3);
  for (let job = 0; job < 20; job++) {
    const at = memory.allocate(12_000_000);
    memory.bytes.fill(0, at + 11_999_000, at + 12_000_000);
    team.run(tasks.count!, [at + 11_999_000, 1000], 100);
    expect(new Int32Array(memory.memory.buffer, at + 11_999_000, 100).every((n) => n === 1)).toBe(true);
  }
});

test('a kernel that traps stops the team with a message, at once and ever after', async () => {
  const { team, tasks } = await counting(2);
  expect(() => {
    for (let i = 0; i < 200; i++) team.run(tasks.trap!, [i % 40], 40);
  }).toThrow(/worker 1 stopped: .*out of bounds|kernel stopped: .*out of bounds/);
  expect(() => team.run(tasks.count!, [0, 0], 1)).toThrow(/worker 1 stopped|kernel stopped/);
});

test('await using closes the backend; later calls say so', async () => {
  let kept: CpuBackend;
  {
    await using backend = await cpu({ threads: 2 });
    kept = backend;
    expect(await tensor([1, 2], { backend }).sum().item()).toBe(3);
  }
  expect(() => tensor([1, 2], { backend: kept }).exp()).toThrow('cpu: the backend must be open: it was closed.');
});

test('a worker that dies rejects the next flush by name', async () => {
  const backend: CpuBackend = await cpu({ threads: 3 });
  const x = tensor([1, 2, 3], { backend });
  backend.team.workers[1]!.terminate();
  await new Promise((resolve) => setTimeout(resolve, 300));
  await expect(x.data()).rejects.toThrow('worker 2 of the cpu team ended');
  expect(() => x.exp()).toThrow('worker 2 of the cpu team ended');
  await backend.close();
});

const index = new URL('./index.ts', import.meta.url).href;
const program = (body: string) => [
  '--input-type=module',
  '-e',
  `import { cpu } from ${JSON.stringify(index)}; const backend = await cpu({ threads: 2 }); ${body}`,
];

test.each([
  ['after close', 'await backend.close(); console.log("end");'],
  ['without close', 'console.log("end");'],
])('the process ends by itself %s', (_, body) => {
  expect(execFileSync(process.execPath, program(body), { encoding: 'utf8', timeout: 20_000 })).toBe('end\n');
});

test('close waits until the workers have ended', async () => {
  const body =
    'await backend.close(); const { getActiveResourcesInfo: r } = process; console.log(r().filter((n) => n.includes("Message")).length);';
  const child = spawn(process.execPath, program(body));
  let text = '';
  child.stdout.on('data', (data) => {
    text += data;
  });
  const code = await new Promise((resolve) => child.on('exit', resolve));
  expect([code, text]).toEqual([0, '0\n']);
});

test('idle teams use no processor time', () => {
  const body = `
    const more = await cpu({ threads: 4 });
    await new Promise((r) => setTimeout(r, 300));
    const before = process.cpuUsage();
    await new Promise((r) => setTimeout(r, 2000));
    const { user, system } = process.cpuUsage(before);
    console.log((user + system) / 1000);`;
  const ms = Number(execFileSync(process.execPath, program(body), { encoding: 'utf8', timeout: 20_000 }));
  expect(ms).toBeLessThan(60);
});

test('importing starts nothing', () => {
  const body = `import ${JSON.stringify(index)}; console.log(process.getActiveResourcesInfo().length);`;
  const ends = execFileSync(process.execPath, ['--input-type=module', '-e', body], { encoding: 'utf8' });
  expect(Number(ends)).toBe(0);
});
