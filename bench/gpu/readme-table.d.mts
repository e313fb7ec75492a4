// biome-ignore lint/suspicious/noExplicitAny: reports are whatever check.sh wrote
type Report = Record<string, any>;
export const notRun: string;
export const markers: readonly [string, string];
export const kernels: readonly (readonly [name: string, what: string, speed: (report: Report) => string | undefined])[];
export function readReports(folder?: string): Report[];
export function table(reports: readonly Report[]): string;
export function renewed(readme: string, reports: readonly Report[]): string;
