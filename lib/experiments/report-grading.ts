/** The report's section on grading: by which rules, where the answers stood, and what a judge says to it. */
import type { Section } from '../report/document.js';
import type { GradingResult } from './grading.js';
import { asRate, column, prose, tableBlock } from './report-parts.js';

export function gradingSection({ cells, judge, replaced }: GradingResult): Section {
  return {
    id: 'grading',
    title: 'How the answers were graded',
    blocks: [
      tableBlock(
        'grading-answers',
        'Finished answers by experiment and task',
        'Not parsed: no answer of the rule’s kind, counted as wrong. Not decided: the comparison took too long, counted as missing.',
        {
          columns: [
            column('experiment', 'Experiment'),
            column('task', 'Task'),
            column('rule', 'Rule'),
            column('n', 'Answers', 'number'),
            column('correct', 'Correct', 'number'),
            column('wrong', 'Wrong', 'number'),
            column('unparsed', 'Not parsed', 'number'),
            column('undecided', 'Not decided', 'number'),
            column('how', 'Read from'),
          ],
          rows: cells.map(({ how, ...cell }) => ({
            ...cell,
            how: how.map(({ source, count }) => `${source} ${count}`).join(', '),
          })),
        },
      ),
      ...(replaced.length > 0 ? [prose(`Rules given after the run: ${replaced.join(', ')}.`)] : []),
      ...(judge
        ? [
            prose(
              `Judge ${judge.model} (${judge.url}): kappa with the rules ${judge.kappa === null ? 'undefined' : judge.kappa.toFixed(2)}; ` +
                `right by the rules only ${judge.onlyRules}, by the judge only ${judge.onlyJudge}. ` +
                (judge.decides
                  ? 'This report counts the judge’s verdicts; what it did not grade is missing data.'
                  : 'This report counts the rules’ verdicts.'),
              judge.decides ? 'caution' : 'note',
            ),
            tableBlock('grading-judge', 'Agreement of rules and judge', 'On answers that both graded.', {
              columns: [column('judge', 'Judge'), column('agreement', 'Same verdict', 'rate')],
              rows: [{ judge: judge.model, agreement: asRate(judge.agreement) }],
            }),
            tableBlock('grading-disagreements', 'Where they differ', 'At most twenty.', {
              columns: [
                column('label', 'Answer of'),
                column('gold', 'Gold'),
                column('answer', 'Read'),
                column('verdict', 'Rules'),
                column('judge', 'Judge'),
              ],
              rows: judge.disagreements.map((row) => ({ ...row })),
            }),
          ]
        : []),
      prose('`galvani regrade RUN` writes every verdict to verdicts.jsonl, and grades by other rules without a model.'),
    ],
  };
}
