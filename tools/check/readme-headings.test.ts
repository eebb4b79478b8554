import { expect, test } from 'vitest';
import { checkReadmeHeadings } from './readme-headings.ts';
import { workspaceOf } from './workspace.ts';

const messages = (english: string, korean: string) =>
  checkReadmeHeadings(workspaceOf({ 'README.md': english, 'README.ko.md': korean })).problems.map((x) => x.message);

test('a missing, a surplus and a moved heading fail', () => {
  expect(messages('# A\n## B\n', '# 가\n')).toEqual(["heading 2 should translate 'B', found 'nothing'"]);
  expect(messages('# A\n', '# 가\n## 나\n')).toEqual(['has 2 headings, README.md has 1: keep both the same']);
  expect(messages('# A\n## B\n', '# 가\n### 나\n')).toEqual(["heading 2 should translate 'B', found '나'"]);
});

test('comments in code blocks are no headings', () => {
  expect(messages('# A\n```sh\n# run\n```\n', '# 가\n')).toEqual([]);
});

test('one README alone passes', () => {
  expect(checkReadmeHeadings(workspaceOf({ 'README.md': '# A' })).problems).toEqual([]);
});
