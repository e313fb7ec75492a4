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
  /** Ends the current bar or prints the last line. */
  finish(): void;
  /** A line for people, above the bar. */
  note(text: string): void;
}

export const silent: ProgressDisplay = { start() {}, update() {}, finish() {}, note() {} };

const lineEveryMs = 4000;

/** @param stream where it is shown; a terminal gets a bar. */
export function showProgress(stream: NodeJS.WriteStream = process.stderr): ProgressDisplay {
  return stream.isTTY ? bars(stream) : lines(stream);
}

function details({ failed = 0, skipped = 0 }: ProgressState): string {
  const parts = [skipped > 0 ? `${skipped} from the ledger` : '', failed > 0 ? `${failed} failed` : ''].filter(Boolean);
  return parts.length > 0 ? ` (${parts.join(', ')})` : '';
}

function bars(stream: NodeJS.WriteStream): ProgressDisplay {
  let bar: SingleBar | undefined;
  const stop = (): void => {
    bar?.stop();
    bar = undefined;
  };
  return {
    start(title, total) {
      stop();
      bar = new cliProgress.SingleBar({
        stream,
        format: `${title.padEnd(14)} {bar} {value}/{total} · {duration_formatted} · about {eta_formatted} left{details}`,
        barsize: 28,
        barCompleteChar: '█',
        barIncompleteChar: '░',
        hideCursor: true,
        gracefulExit: false, // SIGINT is the run's: it finishes the batch under way
      });
      bar.start(total, 0, { details: '' });
    },
    update(state) {
      bar?.update(state.done, { details: details(state) });
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
  let last: ProgressState | undefined;
  const print = (state: ProgressState): void => {
    const seconds = (Date.now() - startMs) / 1000;
    stream.write(`${title}: ${state.done}/${total} after ${seconds.toFixed(1)} s${details(state)}\n`);
    lastMs = Date.now();
    last = undefined;
  };
  return {
    start(newTitle, newTotal) {
      title = newTitle;
      total = newTotal;
      startMs = Date.now();
      lastMs = startMs;
      last = undefined;
    },
    update(state) {
      last = state;
      if (Date.now() - lastMs >= lineEveryMs) print(state);
    },
    finish() {
      if (last) print(last);
    },
    note(text) {
      stream.write(`${text}\n`);
    },
  };
}
