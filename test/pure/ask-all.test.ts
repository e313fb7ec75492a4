/** Asking a remote model about many items: one wrong address must not cost a retry per item. */
import { expect, test } from 'vitest';
import { askAll, hopeless } from '../../lib/remote/chat.js';

const items = Array.from({ length: 200 }, (_, i) => i);

test('gives up after so many failures in a row; the rest is counted, not asked', async () => {
  const asked: number[] = [];
  const told: number[] = [];
  const { failed, gaveUp } = await askAll(
    items,
    8,
    async (item) => {
      asked.push(item);
      await Promise.resolve();
      if (item >= 20) throw new Error('nobody there');
    },
    (item) => told.push(item),
  );
  expect({ failed, gaveUp }).toEqual({ failed: 180, gaveUp: true });
  expect(asked.length).toBeGreaterThanOrEqual(20 + hopeless);
  expect(asked.length).toBeLessThan(20 + hopeless + 8); // those under way
  expect(told.length).toBe(asked.length - 20);
});

test('failures between answers are only failures', async () => {
  const asked: number[] = [];
  const { failed, gaveUp } = await askAll(
    items,
    1,
    async (item) => {
      asked.push(item);
      if (item % hopeless !== 0) throw new Error('overloaded');
    },
    () => {},
  );
  expect(asked).toEqual(items);
  expect({ failed, gaveUp }).toEqual({ failed: 200 - 13, gaveUp: false });
});

test('what the caller will not count as a failure ends it', async () => {
  const fault = new TypeError('a mistake of ours');
  const rethrow = (_: number, cause: unknown): void => {
    throw cause;
  };
  await expect(askAll(items, 4, () => Promise.reject(fault), rethrow)).rejects.toBe(fault);
});
