/** Test helpers for ops and backends: the suite every backend passes, gradient checks, and the hostile backend. */
import '../methods.ts'; // whoever imports this entry alone has tensors with methods too

export { expectClose, type Tolerance, toleranceOf } from './close.ts';
export { drawTensor, drawValues } from './draw.ts';
export { gradcheck } from './gradcheck.ts';
export { type HostileBackend, hostileBackend } from './hostile-backend.ts';
export { gradientInputs, type TestedOp, testedOps } from './op-cases.ts';
export { type Framework, type OpSuiteOptions, opSuite, runSample } from './op-suite.ts';
export { type Coverage, opTable, type RanReference } from './op-table.ts';
export { type PropertySuiteOptions, propertySuite } from './property-suite.ts';
