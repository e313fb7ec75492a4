/** The model families this build can run: one row each. */
import type { JsonObject } from '../checkpoint/json-file.js';
import { GalvaniError } from '../errors.js';
import type { ModelConfig, ModelFamily } from './family.js';
import { qwen25Vl } from './qwen2_5_vl.js';

export const families: readonly ModelFamily[] = [qwen25Vl];

/** The family of a config.json. @throws UNSUPPORTED naming the model type and the known ones. */
export function familyOfConfig(config: JsonObject, where: string): ModelFamily {
  const type = config.model_type;
  const family = families.find((row) => row.modelTypes.includes(String(type)));
  if (family) return family;
  const known = families.flatMap((row) => row.modelTypes).join(', ');
  throw new GalvaniError(
    'UNSUPPORTED',
    `${where}: model_type ${JSON.stringify(type)} is not a family galvani runs; expected one of: ${known}`,
    { details: { modelType: type } },
  );
}

export function familyByName(name: ModelConfig['family']): ModelFamily {
  return families.find((row) => row.name === name)!;
}
