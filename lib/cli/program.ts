/** The command table, and the one place where errors become messages and exit codes. */
import { Command, CommanderError } from 'commander';
import { type ErrorCode, GalvaniError } from '../errors.js';
import { packageVersion } from '../run/package.js';
import { attendCommand } from './attend.js';
import { characterizeCommand } from './characterize.js';
import { describeCommand } from './describe.js';
import { doctorCommand } from './doctor.js';
import { extractLoraCommand } from './extract-lora.js';
import { freezeCommand } from './freeze.js';
import { generateCommand } from './generate.js';
import { initCommand } from './init.js';
import { inspectCommand } from './inspect.js';
import { localizeCommand } from './localize.js';
import { mergeCommand } from './merge.js';
import { planCommand } from './plan.js';
import { regradeCommand } from './regrade.js';
import { reportCommand } from './report.js';
import { studyCommand } from './study.js';
import { transferCommand } from './transfer.js';

const commands: readonly (() => Command)[] = [
  generateCommand,
  localizeCommand,
  attendCommand,
  characterizeCommand,
  transferCommand,
  mergeCommand,
  extractLoraCommand,
  freezeCommand,
  initCommand,
  planCommand,
  describeCommand,
  studyCommand,
  reportCommand,
  regradeCommand,
  inspectCommand,
  doctorCommand,
];

export function program(): Command {
  const root = new Command('galvani')
    .description('What did post-training change inside a vision-language model?')
    .version(packageVersion());
  for (const make of commands) root.addCommand(make());
  return settle(root);
}

/** Errors are thrown, not exited on, in subcommands as well. */
function settle(command: Command): Command {
  command.commands.forEach(settle);
  return command.exitOverride().showHelpAfterError('(add --help for all options)');
}

/** 1: something the user can act on. 2: a fault of ours. 130: stopped by Ctrl-C. */
function exitCodeOf(code: ErrorCode): number {
  if (code === 'INTERNAL') return 2;
  return code === 'ABORTED' ? 130 : 1;
}

/** Runs one command line (`argv` as process.argv) and returns its exit code; never throws. */
export async function run(argv: readonly string[]): Promise<number> {
  try {
    process.exitCode = 0;
    await program().parseAsync([...argv]);
    return process.exitCode; // a command may have found something wrong and said so
  } catch (cause) {
    if (cause instanceof CommanderError) return cause.exitCode === 0 ? 0 : 1;
    if (cause instanceof GalvaniError) {
      process.stderr.write(`galvani: ${cause.message} [${cause.code}]\n`);
      if (cause.code === 'INTERNAL' && cause.stack) process.stderr.write(`${cause.stack}\n`);
      return exitCodeOf(cause.code);
    }
    process.stderr.write(
      `galvani: unexpected fault: ${cause instanceof Error ? (cause.stack ?? cause.message) : String(cause)}\n`,
    );
    return 2;
  }
}
