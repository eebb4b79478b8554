/** Edit distance (Levenshtein) with early rows kept only. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++)
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    row = next;
  }
  return row[b.length]!;
}

/** The name most like `text`, if one is like it at all; spelling of words together or apart does not count. */
export function nearest(text: string, names: Iterable<string>): string | undefined {
  const fold = (name: string): string => name.toLowerCase().replace(/[_-]/g, '').slice(0, 60);
  let best: { name: string; cost: number } | undefined;
  for (const name of names) {
    const cost = distance(fold(text), fold(name));
    if (!best || cost < best.cost) best = { name, cost };
  }
  return best && best.cost <= Math.max(2, Math.floor(fold(text).length / 2)) ? best.name : undefined;
}
