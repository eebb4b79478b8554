/** The WebGPU backend. */
export { type WebGpuOptions, WebGpuUnavailableError } from './acquire.ts';
export { WebGpuBackend, webgpu } from './backend.ts';
export { KernelError } from './faults.ts';
export { type SelfTestResult, selfTest } from './self-test.ts';
