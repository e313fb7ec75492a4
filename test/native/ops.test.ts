/** Every CPU op under every instruction set of this machine, by the native executables of native/ops. */
import { beforeAll, describe, expect, it } from 'vitest';
import { availableIsas, buildNativeTests, hasCmake, runNativeTest } from '../support/native-executable.js';

const executables = ['matmul_test', 'attention_test', 'small_ops_test'];
if (!hasCmake()) console.warn('native op tests skipped: cmake is not installed');

describe.skipIf(!hasCmake())('native ops', () => {
  beforeAll(() => buildNativeTests(executables), 300_000);

  for (const isa of availableIsas())
    for (const name of executables)
      it(`${name} on ${isa}`, () => {
        const { passed, failed, output } = runNativeTest(name, { GALVANI_ISA: isa });
        expect(failed, output).toBe(0);
        expect(passed).toBeGreaterThan(50);
        expect(output).toContain(`, ${isa}\n`);
      });
});
