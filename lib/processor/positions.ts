/** M-RoPE positions (Wang et al. 2024, arXiv 2409.12191, section 2.1). */

/** Image tokens [start, start + count) of a prompt, in a grid of tokens (time, height, width). */
export interface ImageRows {
  readonly start: number;
  readonly count: number;
  readonly tokenGrid: readonly [time: number, height: number, width: number];
}

/**
 * Positions [3, rows] of a prompt and the position of the next token. Text counts on in all three axes; an image's
 * tokens share the offset of its first and spread over its grid; the text after it continues from the largest side.
 */
export function mropePositions(
  rows: number,
  images: readonly ImageRows[],
): { positions: Int32Array; nextPosition: number } {
  const positions = new Int32Array(3 * rows);
  let row = 0;
  let position = 0;
  const text = (end: number) => {
    for (; row < end; row++, position++) {
      positions[row] = position;
      positions[rows + row] = position;
      positions[2 * rows + row] = position;
    }
  };
  for (const { start, tokenGrid } of images) {
    text(start);
    const [times, heights, widths] = tokenGrid;
    for (let t = 0; t < times; t++) {
      for (let h = 0; h < heights; h++) {
        for (let w = 0; w < widths; w++, row++) {
          positions[row] = position + t;
          positions[rows + row] = position + h;
          positions[2 * rows + row] = position + w;
        }
      }
    }
    position += Math.max(heights, widths);
  }
  text(rows);
  return { positions, nextPosition: position };
}
