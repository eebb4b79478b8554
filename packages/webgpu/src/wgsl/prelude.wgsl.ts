import { divideWgsl } from './divide.wgsl.ts';
import { dtypesWgsl } from './dtypes.wgsl.ts';
import { mathWgsl, threefryWgsl } from './math.wgsl.ts';

/** Functions every kernel may call. */
export const preludeWgsl = [mathWgsl, divideWgsl, dtypesWgsl, threefryWgsl].join('\n');

/** Opens `main`: `linear` numbers the workgroups, `lane` the invocations of one. */
export const mainWgsl = (workgroupSize: number, body: string): string => `
@compute @workgroup_size(${workgroupSize})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let linear = group.x + group.y * groups.x;
${body}
}`;
