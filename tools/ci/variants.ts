/**
 * `node tools/ci/variants.ts [--all]`: the CPU engine's tests with the switches of LORIKEET_CPU, one variant after the other;
 * with --all in more combinations, and the tests of the packages that compute on it too (minutes a variant). Prints `passed failed skipped`.
 * Chromium's variants (page and worker, isolated or not) are packages/cpu/src/browser.test.ts.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sumUp } from './vitest-sums.ts';

/** Every switch alone or with others in few runs, for each push. */
const few = ['revec,threads=1', 'threads=4', 'revec,norelaxed', 'norevec,norelaxed,nomem64,threads=1'];
/** Revectorization on and off, without relaxed multiply-add, without the 64-bit store, on 1, 2 and 4 threads. */
const many = [...few, 'revec,threads=2', 'revec,threads=4', 'norevec,threads=1', 'norevec,norelaxed', 'revec,nomem64'];
const all = process.argv.includes('--all');
const engine = ['packages/cpu'];
const onIt = ['packages/nn', 'packages/phi3', 'packages/lora', 'packages/trainer'];
/** They choose switches themselves, in processes of their own; and what the store's tests test is not there without it. */
const excludedFrom = (variant: string) => [
  ...['features', 'paired', 'same-bits', 'browser', 'team'],
  ...(variant.includes('nomem64') ? ['placement'] : []),
];

const folder = mkdtempSync(join(tmpdir(), 'lorikeet-variants-'));
const total = { passed: 0, failed: 0, skipped: 0 };
try {
  for (const variant of all ? many : few) {
    const report = join(folder, 'report.json');
    const paths = all ? [...engine, ...onIt] : engine;
    const excluded = excludedFrom(variant).map((name) => `--exclude=**/${name}.test.ts`);
    const args = [
      'node_modules/.bin/vitest',
      'run',
      ...paths,
      ...excluded,
      '--reporter=json',
      `--outputFile=${report}`,
    ];
    const started = performance.now();
    const env = { ...process.env, LORIKEET_CPU: variant };
    const { status } = spawnSync(args[0]!, args.slice(1), { env, stdio: ['ignore', 'ignore', 'inherit'] });
    const { passed, failed, skipped, failures } = sumUp(JSON.parse(readFileSync(report, 'utf8')));
    rmSync(report);
    for (const failure of failures) console.error(`failed with LORIKEET_CPU=${variant}: ${failure}`);
    const seconds = ((performance.now() - started) / 1e3).toFixed(0);
    console.error(`LORIKEET_CPU=${variant}: ${passed} passed, ${failed} failed, ${skipped} skipped in ${seconds} s`);
    total.passed += passed;
    total.failed += failed + (status !== 0 && failed === 0 ? 1 : 0);
    total.skipped += skipped;
  }
} finally {
  rmSync(folder, { recursive: true });
}
console.log(total.passed, total.failed, total.skipped);
