/** The gpu.js backend: ops lowered to gpu.js kernels, a second implementation that shares no kernel with the others. */
export { GpuJsBackend, type GpuJsMode, type GpuJsOptions, gpujs, gpujsModes } from './backend.ts';
