import { resolve } from 'node:path';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';
import type { Budgets } from './line-budgets.ts';
import type { Outcome, Problem } from './report.ts';

/** Bundles each package of the table for a browser, minified, and holds its gzipped size to the budget. */
export async function checkBundleBudgets(root: string, { maxBundleGzipBytes }: Budgets): Promise<Outcome> {
  const sizes = await Promise.all(
    Object.entries(maxBundleGzipBytes).map(async ([folder, most]) => {
      return { folder, most, ...(await bundleSize(resolve(root, folder, 'src/index.ts'))) };
    }),
  );
  const problems = sizes.flatMap(({ folder, most, gzipBytes, error }): Problem[] => {
    const path = `${folder}/src/index.ts`;
    if (error !== undefined) return [{ path, message: `does not bundle for a browser: ${error}` }];
    if (gzipBytes <= most) return [];
    return [{ path, message: `the bundle has ${gzipBytes} bytes gzipped, its budget is ${most}: cut, or raise` }];
  });
  return { problems, detail: sizes.map(({ folder, gzipBytes }) => `${folder} ${gzipBytes} bytes gzipped`).join(', ') };
}

async function bundleSize(entry: string): Promise<{ gzipBytes: number; error?: string }> {
  try {
    const { outputFiles } = await build({
      entryPoints: [entry],
      bundle: true,
      minify: true,
      format: 'esm',
      platform: 'browser',
      target: 'esnext',
      write: false,
      logLevel: 'silent',
    });
    return { gzipBytes: gzipSync(outputFiles[0]!.contents, { level: 9 }).length };
  } catch (error) {
    return { gzipBytes: 0, error: (error as Error).message };
  }
}
