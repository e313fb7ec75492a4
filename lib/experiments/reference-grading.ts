/**
 * How the published evaluation reads and compares an answer, bugs included, for the section that shows what they do. The
 * right way is lib/grading; nothing else uses this.
 */

export interface PublishedGrading {
  /** A character, a separator and the rest are taken for "A) text": "3.14" becomes "14". */
  readonly mangle: boolean;
  /** Numbers within 1 % count as equal: 2005 for 2004. */
  readonly onePercent: boolean;
}

/** The text in <answer>, else in the last \boxed{}, else the last number that ends a line, else the last line. */
export function publishedExtract(text: string, { mangle }: PublishedGrading): string {
  const tagged = [...text.matchAll(/<answer>([\s\S]*?)<\/answer>/gi)].at(-1)?.[1];
  const boxed = [...text.matchAll(/\\boxed\{([^{}]*)\}/g)].at(-1)?.[1];
  const lines = text.trim().split('\n');
  const number = [...text.matchAll(/(-?\d+(?:\.\d+)?)\s*$/gm)].at(-1)?.[1];
  const answer = (tagged ?? boxed ?? number ?? lines.at(-1) ?? '').trim();
  // The rule for "B) seven" also fires on decimals, ratios and differences.
  const option = mangle ? /^([A-Ha-h0-9])\s*[.):-]\s*(.+)$/s.exec(answer) : null;
  return option ? option[2]!.trim() : answer;
}

export function publishedCorrect(text: string, gold: string, rule: PublishedGrading): boolean {
  const answer = publishedExtract(text, rule).toLowerCase();
  const want = gold.trim().toLowerCase();
  if (answer === want) return true;
  const [a, b] = [asNumber(answer), asNumber(want)];
  if (a === null || b === null) return false;
  return rule.onePercent ? Math.abs(a - b) <= 0.01 * Math.abs(b) : a === b;
}

function asNumber(text: string): number | null {
  const value = Number(text.replaceAll(',', ''));
  return text.trim() === '' || !Number.isFinite(value) ? null : value;
}
