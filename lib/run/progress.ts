/** Progress on stderr: a bar on a terminal, a plain line every few seconds elsewhere. stdout stays free for results. */
import { default as cliProgress, type SingleBar } from 'cli-progress';

export interface ProgressState {
  readonly done: number;
  readonly failed?: number;
  readonly skipped?: number;
}

export interface ProgressDisplay {
  start(title: string, total: number): void;
  update(state: ProgressState): void;
  /** Where the request under way is: "prefill", 0.4. */
  within(stage: string, share: number): void;
  /** Ends the current bar or prints the last line. */
  finish(): void;
  /** A line for people, above the bar. */
  note(text: string): void;
}

export const silent: ProgressDisplay = { start() {}, update() {}, within() {}, finish() {}, note() {} };

const lineEveryMs = 4000;

/** @param stream where it is shown; a terminal gets a bar. */
export function showProgress(stream: NodeJS.WriteStream = process.stderr): ProgressDisplay {
  return stream.isTTY ? bars(stream) : lines(stream);
}

function details({ failed = 0, skipped = 0 }: ProgressState): string {
  const parts = [skipped > 0 ? `${skipped} done before` : '', failed > 0 ? `${failed} failed` : ''].filter(Boolean);
  return parts.length > 0 ? ` (${parts.join(', ')})` : '';
}

/** From the pace of what was computed, not of what the ledger already had. */
function timeLeft({ done, skipped = 0 }: ProgressState, total: number, startMs: number): string {
  if (done <= skipped || done >= total) return '';
  const seconds = ((Date.now() - startMs) / 1000 / (done - skipped)) * (total - done);
  return ` · about ${seconds < 90 ? `${Math.ceil(seconds)} s` : `${Math.ceil(seconds / 60)} min`} left`;
}

const stageText = (stage: string, share: number): string => ` · ${stage} ${Math.round(100 * share)} %`;

function bars(stream: NodeJS.WriteStream): ProgressDisplay {
  let bar: SingleBar | undefined;
  let total = 0;
  let startMs = 0;
  const stop = (): void => {
    bar?.stop();
    bar = undefined;
  };
  return {
    start(title, newTotal) {
      stop();
      total = newTotal;
      startMs = Date.now();
      bar = new cliProgress.SingleBar({
        stream,
        format: `${title.padEnd(14)} {bar} {value}/{total} · {duration_formatted}{left}{details}{stage}`,
        barsize: 28,
        barCompleteChar: '█',
        barIncompleteChar: '░',
        hideCursor: true,
        gracefulExit: false, // SIGINT is the run's: it finishes the batch under way
      });
      bar.start(total, 0, { left: '', details: '', stage: '' });
    },
    update(state) {
      bar?.update(state.done, { left: timeLeft(state, total, startMs), details: details(state), stage: '' });
    },
    within(stage, share) {
      bar?.update({ stage: stageText(stage, share) });
    },
    finish: stop,
    note(text) {
      stream.write(`${bar ? '\n' : ''}${text}\n`);
    },
  };
}

function lines(stream: NodeJS.WriteStream): ProgressDisplay {
  let title = '';
  let total = 0;
  let startMs = 0;
  let lastMs = 0;
  let state: ProgressState = { done: 0 };
  let isPrinted = true;
  const print = (stage = ''): void => {
    const seconds = (Date.now() - startMs) / 1000;
    stream.write(
      `${title}: ${state.done}/${total} after ${seconds.toFixed(1)} s${timeLeft(state, total, startMs)}${details(state)}${stage}\n`,
    );
    lastMs = Date.now();
    isPrinted = true;
  };
  return {
    start(newTitle, newTotal) {
      title = newTitle;
      total = newTotal;
      startMs = Date.now();
      lastMs = startMs;
      state = { done: 0 };
      isPrinted = true;
    },
    update(next) {
      state = next;
      isPrinted = false;
      if (Date.now() - lastMs >= lineEveryMs) print();
    },
    within(stage, share) {
      if (Date.now() - lastMs >= lineEveryMs) print(stageText(stage, share));
    },
    finish() {
      if (!isPrinted) print();
    },
    note(text) {
      stream.write(`${text}\n`);
    },
  };
}
