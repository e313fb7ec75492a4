/** Opened checkpoints: the public face of the native reader. */
import { type NativeCheckpoint, native, type TensorBytes } from '../native.js';

/** A Hugging Face checkpoint's tensors, mapped, not read. */
export type Checkpoint = NativeCheckpoint;

/**
 * Opens a folder (model.safetensors, or the shards of model.safetensors.index.json) or one .safetensors file.
 * Errors: FILE_NOT_FOUND (also a missing shard), BAD_FILE (damaged or hostile header, naming file and tensor),
 * UNSUPPORTED (element types outside DType), IO.
 */
export function openCheckpoint(path: string): Checkpoint {
  return native().openCheckpoint(path);
}

/** Writes one safetensors file: complete or not at all, equal bytes for equal input. Errors: BAD_ARGUMENT, IO. */
export function writeSafetensors(
  path: string,
  tensors: readonly TensorBytes[],
  metadata: Readonly<Record<string, string>> = {},
): void {
  native().writeSafetensors(path, tensors, metadata);
}
