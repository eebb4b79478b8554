import type { Outcome, Problem } from './report.ts';
import type { Workspace } from './workspace.ts';

/** Holds the Korean README to the English one: the same headings, level by level, once both exist. */
export function checkReadmeHeadings(workspace: Workspace): Outcome {
  const textOf = (path: string) => workspace.files.find((file) => file.path === path)?.text;
  const english = textOf('README.md');
  const korean = textOf('README.ko.md');
  if (english === undefined || korean === undefined) return { problems: [], detail: 'one of the two is absent' };
  const [ours, theirs] = [headings(english), headings(korean)];
  const detail = `${ours.length} headings`;
  const at = ours.findIndex(({ level }, index) => theirs[index]?.level !== level);
  if (at === -1 && ours.length === theirs.length) return { problems: [], detail };
  const problem: Problem = {
    path: 'README.ko.md',
    message:
      at === -1
        ? `has ${theirs.length} headings, README.md has ${ours.length}: keep both the same`
        : `heading ${at + 1} should translate '${ours[at]!.title}', found '${theirs[at]?.title ?? 'nothing'}'`,
  };
  return { problems: [problem], detail };
}

function headings(markdown: string): { level: number; title: string }[] {
  const withoutCode = markdown.replace(/^(```+|~~~+).*\n[\s\S]*?^\1/gm, '');
  return [...withoutCode.matchAll(/^(#{1,6}) +(.+)$/gm)].map(([, marks, title]) => {
    return { level: marks!.length, title: title! };
  });
}
