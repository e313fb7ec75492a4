/** The device layer and the emulator, by the native executables of native/ops/gpu. */
import { beforeAll, describe, expect, it } from 'vitest';
import { buildNativeTests, hasCmake, runNativeTest } from '../support/native-executable.js';

const executables = ['tile_test', 'emu_test'];
if (!hasCmake()) console.warn('tests of the GPU kernels in emulation skipped: cmake is not installed');

describe.skipIf(!hasCmake())('GPU kernels in emulation', () => {
  beforeAll(() => buildNativeTests(executables), 600_000);

  for (const name of executables)
    it(name, () => {
      const { passed, failed, output } = runNativeTest(name);
      expect(failed, output).toBe(0);
      expect(passed).toBeGreaterThan(50);
    });
});
