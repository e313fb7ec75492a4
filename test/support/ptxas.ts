/** What ptxas -v says about the kernels of a compilation. */

export interface KernelReport {
  readonly kernel: string;
  readonly arch: string;
  readonly registers: number;
  /** Bytes of stack frame, spill stores and spill loads together. */
  readonly stack: number;
}

/** The readable part of a mangled kernel name, with its template arguments: attn_mma_kernel<128,1,0>. */
export function kernelName(mangled: string): string {
  // <length><name>: digits before the length belong to something else.
  const at = [...mangled.matchAll(/(?=(\d+)([a-z]\w*?_kernel)((?:I(?:L[a-z]\d+E)+E)?))/g)].find(
    ([, length, name]) => Number(length) === name!.length,
  );
  if (!at) return mangled;
  const args = [...at[3]!.matchAll(/L[a-z](\d+)E/g)].map(([, value]) => value);
  return args.length > 0 ? `${at[2]}<${args.join(',')}>` : at[2]!;
}

/** Every kernel of the log, and every line that is neither a report nor known to be harmless. */
export function readPtxas(log: string): { readonly kernels: KernelReport[]; readonly complaints: string[] } {
  const kernels: KernelReport[] = [];
  const complaints: string[] = [];
  let current: { kernel: string; arch: string; stack: number } | undefined;
  for (const line of log.split('\n')) {
    const entry = /Compiling entry function '(\S+)' for '(\S+)'/.exec(line);
    const frame = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line);
    const used = /Used (\d+) registers/.exec(line);
    if (entry) current = { kernel: kernelName(entry[1]!), arch: entry[2]!, stack: 0 };
    else if (frame && current) current.stack = Number(frame[1]) + Number(frame[2]) + Number(frame[3]);
    else if (used && current) kernels.push({ ...current, registers: Number(used[1]) });
    // C75xx: ptxas had to serialise wgmma or could not use the registers it was given.
    else if (/warning|error|\bC75\d\d\b|fatal/i.test(line)) complaints.push(line.trim());
  }
  return { kernels, complaints };
}
