import { expect, test } from 'vitest';
import { shimWorkers } from './web-worker.ts';

interface WebWorker {
  onmessage: ((event: { data: unknown }) => void) | null;
  postMessage(message: unknown): void;
}

test('a Worker from a blob answers, and knows postMessage and onmessage', async () => {
  shimWorkers(3);
  expect(navigator.hardwareConcurrency).toBe(3);
  const { Worker } = globalThis as unknown as { Worker: new (url: string) => WebWorker };
  const text = 'self.onmessage = (event) => postMessage(event.data * 2);';
  const worker = new Worker(URL.createObjectURL(new Blob([text])));
  const answer = new Promise((resolve) => {
    worker.onmessage = ({ data }) => resolve(data);
  });
  worker.postMessage(21);
  expect(await answer).toBe(42);
  expect(() => new Worker('file:///nowhere.js')).toThrow('must come from a blob');
});
