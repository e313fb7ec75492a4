/** The report's section on necessity: runs that held a region fixed. */
import type { Answer, Section } from '../report/document.js';
import { formatValue } from '../report/format.js';
import { type PointRangeSpec, pointRange } from '../report/point-range.js';
import { pointTable } from '../report/tables.js';
import { type AccuracyCell, type TaskGroup, taskGroups } from './answers.js';
import type { FreezeResult } from './freeze.js';
import { isSignificant } from './measure.js';
import { accuracyMap, groupText } from './report-accuracy.js';
import { answer, chart, column, prose, rateText, tableBlock, testText } from './report-parts.js';

export function freezeSection(result: FreezeResult): Section {
  const groups = taskGroups.filter((group) => result.againstFull.some((cell) => cell.group === group));
  const whole = (cells: readonly AccuracyCell[], group: TaskGroup, model: string) => {
    const own = cells.filter((cell) => cell.group === group && cell.model === model);
    return own.find(({ task }) => task === null) ?? own[0];
  };
  const spec = (
    cells: readonly AccuracyCell[],
    id: string,
    title: string,
    models: readonly string[],
  ): PointRangeSpec => ({
    id,
    title,
    rows: models.flatMap((model) =>
      groups.map((group) => {
        const test = whole(cells, group, model)?.test;
        return {
          label: model,
          group: groupText[group],
          estimate: test?.difference ?? null,
          low: test?.low ?? null,
          high: test?.high ?? null,
          n: test?.n ?? null,
        };
      }),
    ),
    value: { label: 'Difference of accuracy, points', format: 'difference' },
    reference: { value: 0 },
  });
  const frozen = result.frozen.map(({ model }) => model);
  const toFull = spec(result.againstFull, 'freeze-full', `Accuracy minus that of ${result.full}`, frozen);
  const toBefore = spec(result.againstBefore, 'freeze-before', `Accuracy minus that of ${result.before}`, [
    ...result.controls,
    result.full,
    ...frozen,
  ]);
  return {
    id: 'freezing',
    title: 'Was a region necessary',
    lead:
      `Runs that held a third of the decoder layers fixed during RL, beside the run that trained everything (\`${result.full}\`) ` +
      `and the checkpoint it started from (\`${result.before}\`).`,
    blocks: [
      ...(result.checks.length + result.failedChecks.length > 0
        ? [
            tableBlock(
              'freeze-checks',
              'Did the freeze hold',
              'Stored bytes compared: every tensor of the frozen region must be equal, and only those need be.',
              {
                columns: [
                  column('model', 'Run'),
                  column('region', 'Frozen region'),
                  column('frozen', 'Tensors in it', 'number'),
                  column('changed', 'of those changed', 'number'),
                  column('free', 'Tensors outside', 'number'),
                  column('unchanged', 'of those unchanged', 'number'),
                  column('verdict', 'Verdict'),
                ],
                rows: [
                  ...result.checks.map((check) => ({
                    model: check.model,
                    region: check.region,
                    frozen: check.frozen,
                    changed: check.changedInside.length,
                    free: check.free,
                    unchanged: check.unchangedOutside.length,
                    verdict: check.changedInside.length === 0 ? 'held: Δ = 0 there' : 'did not hold',
                  })),
                  ...result.failedChecks.map(({ model, error }) => ({
                    model,
                    region: null,
                    verdict: `not checked: ${error}`,
                  })),
                ],
              },
            ),
          ]
        : []),
      ...(frozen.length > 0
        ? [
            chart(
              'freeze-full',
              `Against ${result.full}`,
              'Paired differences with 95 % intervals (Newcombe).',
              pointRange(toFull),
              pointTable(toFull),
            ),
          ]
        : []),
      chart(
        'freeze-before',
        `Against ${result.before}`,
        'Paired differences with 95 % intervals (Newcombe).',
        pointRange(toBefore),
        pointTable(toBefore),
      ),
      accuracyMap(
        'freeze-accuracy',
        'Accuracy by task',
        `The numbers behind it hold the tests against \`${result.full}\` on the same items (exact McNemar, Holm over the models of one task).`,
        result.againstFull,
      ),
      prose(
        'Intervals and tests are over test items of one training run each. Two seeds of the same recipe also differ; ' +
          'a claim about freezing needs several seeds. Freezing also removes the region’s share of trainable weights.',
        'caution',
      ),
    ],
  };
}

export function freezeFindings(result: FreezeResult): Answer[] {
  const answers: Answer[] = [];
  for (const check of result.checks) {
    if (check.changedInside.length > 0) {
      answers.push(
        answer(
          `The freeze of \`${check.model}\` did not hold: ${check.changedInside.length} of ${check.frozen} tensors of its ${check.region} region changed.`,
          null,
        ),
      );
    }
  }
  const held = result.checks.filter(({ changedInside }) => changedInside.length === 0);
  if (held.length > 0) {
    const elsewhere = held.map(({ unchangedOutside }) => unchangedOutside.length);
    answers.push(
      answer(
        `The freezes held: in ${held.map(({ model }) => `\`${model}\``).join(', ')} every tensor of the frozen region is bit for bit that of \`${result.before}\`` +
          `${elsewhere.every((n) => n === 0) ? ', and every other tensor changed' : ` (and outside it ${elsewhere.join(', ')} tensors are unchanged too)`}.`,
        null,
      ),
    );
  }
  const group = (['visualReasoning', 'textReasoning', 'vision'] as const).find((one) =>
    result.againstBefore.some((cell) => cell.group === one),
  );
  if (!group) return answers;
  const of = (cells: readonly AccuracyCell[], model: string) => {
    const own = cells.filter((cell) => cell.group === group && cell.model === model);
    return own.find(({ task }) => task === null) ?? own[0];
  };
  const [before, full] = [of(result.againstBefore, result.before), of(result.againstBefore, result.full)];
  if (before && full?.test) {
    const controls = result.controls.flatMap((control) => {
      const cell = of(result.againstBefore, control);
      return cell?.test ? [`the control \`${control}\` ${rateText(cell.accuracy)} (${testText(cell.test)})`] : [];
    });
    answers.unshift(
      answer(
        `In ${groupText[group]}, \`${result.before}\` is right on ${rateText(before.accuracy)} and \`${result.full}\` on ${rateText(full.accuracy)}: ${testText(full.test)}` +
          `${controls.length > 0 ? `; ${controls.join('; ')}` : ''}.`,
        isSignificant(full.test),
      ),
    );
  }
  for (const { model, region } of result.frozen) {
    const cell = of(result.againstFull, model);
    if (!cell?.test) continue;
    const significant = isSignificant(cell.test);
    const direction = (cell.test.difference ?? 0) < 0 ? 'costs' : 'does not cost';
    answers.push(
      answer(
        `Holding the ${region} region fixed ${significant ? direction : 'makes no significant difference to'} ${significant ? '' : 'RL in '}${groupText[group]}` +
          `${significant ? ` accuracy` : ''}: ${rateText(cell.accuracy)} against ${of(result.againstFull, result.full) ? rateText(of(result.againstFull, result.full)!.accuracy) : '–'} (${testText(cell.test)})` +
          `${significant ? '' : `; a difference below ${formatValue(cell.test.detectable, 'percent').replace('%', ' points')} would have been missed`}.`,
        significant,
      ),
    );
  }
  return answers;
}
