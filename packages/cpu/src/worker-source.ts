/**
 * The script of a team's worker, as text: it runs from a string in Node and from a Blob in a browser.
 * `install` brings this thread's function table up to the modules that the main thread has published in the control page.
 */
export const workerSource = `
const makeInstall = (memory, store, table, control) => {
  let installed = 0;
  return (count, scratch) => {
    for (; installed < count; installed++) {
      const words = new Uint32Array(memory.buffer);
      const [address, length, firstSlot] = words.subarray(control.modules / 4 + installed * 4);
      const module = new WebAssembly.Module(new Uint8Array(memory.buffer, address, length).slice());
      const exported = new WebAssembly.Instance(module, { e: { memory, store, table } }).exports;
      WebAssembly.Module.exports(module).forEach(({ name }, i) => table.set(firstSlot + i, exported[name]));
    }
    new Int32Array(memory.buffer)[(scratch - 64) / 4] = installed;
  };
};
const start = ({ memory, store, loop, scratch, number, control }, ready) => {
  try {
    const table = new WebAssembly.Table({ element: 'anyfunc', initial: control.slots });
    const install = makeInstall(memory, store, table, control);
    const { worker } = new WebAssembly.Instance(loop, { e: { memory, table, install } }).exports;
    ready();
    worker(scratch);
  } catch (error) {
    const text = new TextEncoder().encode(String(error && error.message || error)).slice(0, 200);
    const bytes = new Uint8Array(memory.buffer);
    bytes.set(text, control.failureText);
    bytes[control.failureText + text.length] = 0;
    const words = new Int32Array(memory.buffer);
    Atomics.compareExchange(words, control.failed / 4, 0, number);
    Atomics.notify(words, control.done / 4);
    throw error;
  }
};
if (typeof require === 'function') {
  const { parentPort, workerData } = require('node:worker_threads');
  start(workerData, () => parentPort.postMessage('ready'));
} else {
  onmessage = ({ data }) => { start(data, () => postMessage('ready')); close(); };
}`;
