/** Finding what a misspelt or re-laid-out name was meant to be. */

/** Edit distance (Levenshtein 1966): insertions, deletions, substitutions. */
function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitute = previous[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(substitute, previous[j]! + 1, row[j - 1]! + 1));
    }
    previous = row;
  }
  return previous[b.length]!;
}

/** The existing name nearest to any of the wanted ones; undefined when there are no names. */
export function closest(wanted: readonly string[], existing: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestDistance = Number.POSITIVE_INFINITY;
  for (const name of existing) {
    for (const want of wanted) {
      if (Math.abs(name.length - want.length) >= bestDistance) continue;
      const distance = editDistance(want, name);
      if (distance < bestDistance) {
        best = name;
        bestDistance = distance;
      }
    }
  }
  return best;
}
