import { cpu } from '@lorikeet/cpu';
import { expect, it } from 'vitest';
import { main } from './autograd.ts';

it('examples/autograd.ts: gradients agree with differences, sin is learned, nothing is left alive', async () => {
  const backend = await cpu();
  const lines: string[] = [];
  const { byBackward, byDifference, losses, liveTensors } = await main(backend, (line) => lines.push(line));
  expect(byBackward[0]![0]).toBeCloseTo(byDifference, 3);
  const slope = (z: number): number => {
    const s = 1 / (1 + Math.exp(-z));
    return s * (1 + z * (1 - s));
  };
  const [z0, z1] = [0.5 * 1 - 3, 0.5 * 2 - 4];
  [[0.5 * slope(z0), 0.5 * slope(z1)], [-slope(z0), -slope(z1)]].forEach((row, i) =>
    row.forEach((v, j) => expect(byBackward[i]![j]).toBeCloseTo(v, 5)),
  ); // biome-ignore format: d/dw of sum(silu(x w))
  expect(losses.at(-1)).toBeLessThan(losses[0]! / 50);
  expect(liveTensors).toBe(0);
  expect(lines[0]).toMatch(/^gradient: \[\[/);
  await backend.close();
});
