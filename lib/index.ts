/** The public names of galvani, listed by hand. The experiments are the commands of `npx galvani`. */
export { type Blend, type BlendComponent, type BlendRegion, describeBlend, regionBlend } from './checkpoint/blend.js';
export { readFolder } from './checkpoint/folder.js';
export {
  blockGraft,
  type Cuts,
  defaultCuts,
  describeGraft,
  type Graft,
  type NonLayerPolicy,
  paperGrafts,
  regions,
} from './checkpoint/graft.js';
export { type Checkpoint, openCheckpoint, writeSafetensors } from './checkpoint/safetensors.js';
export {
  Engine,
  type EngineOptions,
  type ModelInfo,
  type RunOptions,
  type RunResult,
  type TrialOutcome,
  type TrialRunner,
} from './engine.js';
export { type ErrorCode, errorCodes, GalvaniError } from './errors.js';
export { extract } from './grading/extract.js';
export { grade, match, sameAnswer, type Verdict } from './grading/match.js';
export {
  captureEntropy,
  captureKeyMass,
  captureLogits,
  captureMass,
  capturePattern,
  captureResidual,
  captureTopKeys,
  knockout,
  layerRange,
  meanAblate,
  patch,
  resample,
  type SwapMode,
  scale,
  skipLayer,
  steer,
  swapImage,
  swapModes,
  zeroAblate,
} from './hooks/interventions.js';
export type { ModelConfig } from './models/family.js';
export { blackImage, noiseImage, shuffledImage } from './processor/decode.js';
export { loadProcessor, type Processor } from './processor/processor.js';
export { buildPrompt, type PromptMessage, type PromptOptions, type Question } from './processor/prompt.js';
export { benjaminiHochberg, holm } from './stats/corrections.js';
export { mcnemar, pairedBootstrap, pairedDifference, transitionTable } from './stats/paired.js';
export { minimumDetectableDifference } from './stats/power.js';
export { rate, wilson } from './stats/rates.js';
export type {
  AttentionMeasure,
  Capture,
  GenerationOptions,
  Intervention,
  MatchRule,
  Op,
  Phase,
  PixelPatches,
  Prompt,
  Range,
  Rate,
  RunStats,
  ScoreOptions,
  Site,
  SpanRef,
  Tower,
  Trial,
  TrialResult,
  TrialSource,
} from './types.js';
