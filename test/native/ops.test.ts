/** Every CPU op under every instruction set of this machine, by the native executables of native/ops. */
import { beforeAll, describe, expect, it } from 'vitest';
import {
  availableIsas,
  buildNativeTests,
  hasCmake,
  runNativeTest,
  weakSymbolsOf,
} from '../support/native-executable.js';

const executables = ['matmul_test', 'attention_test', 'attention_hooks_test', 'small_ops_test', 'eigen_test'];
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

  // A weak symbol of such a file may be the copy that the linker keeps for everyone: AVX code on a CPU without AVX.
  it('no file compiled for AVX2 or AVX-512 shares functions with portable ones', () => {
    const symbols = weakSymbolsOf(/native\/ops\/\w+_avx(2|512)\.cc\.o$/);
    expect(Object.keys(symbols).length).toBeGreaterThanOrEqual(6);
    expect(Object.values(symbols).flat()).toEqual([]);
  });
});
