/** The study file's JSON Schema, for editors: completion, checks as one types, and what every field means. */
import { z } from 'zod';
import { studySchema } from './study-file.js';

/**
 * What a field means, by its path in the file; '*' stands for a name of the user's, '[]' for an entry of a list.
 * Shown by editors and checked to be complete by a test.
 */
const meanings: Readonly<Record<string, string>> = {
  name: 'Title of the report.',
  description: 'One line under the title.',
  models: 'Checkpoint folders (Hugging Face format, Qwen2.5-VL) by name; paths are relative to this file.',
  data: 'The questions, and how answers are graded.',
  'data.items': 'Questions. Needed by all experiments but localize.vision and characterize.',
  'data.items.preset': 'A known data set, by name; with path, that file read in its way.',
  'data.items.path': 'JSONL or Parquet file, or a folder of images; relative to this file.',
  'data.items.hub': 'A file of a data set on the Hugging Face Hub, kept after the first download.',
  'data.items.hub.repo': 'owner/name.',
  'data.items.hub.file': 'Path in the repository.',
  'data.items.hub.revision': 'Branch, tag or commit. Default: main.',
  'data.items.map':
    'Which field is what: a dotted path ("metadata.task"), or a text with paths in braces. Default: the preset’s, else our own fields.',
  'data.items.map.id': 'What names the item; unique.',
  'data.items.map.question': 'The question.',
  'data.items.map.answer': 'The gold answer.',
  'data.items.map.task': 'The task. Default: the data set’s name.',
  'data.items.map.images': 'One image or a list: paths relative to the file, bytes, or {bytes, path}.',
  'data.items.map.choices': 'The options, a list.',
  'data.items.map.description': 'A text that can take the image’s place.',
  'data.items.map.answerAfter': 'Only what follows this in the answer counts, such as "####".',
  'data.items.map.answerType': 'The field whose value names the rule in `rules`.',
  'data.items.map.rules': 'Grading rule by value of answerType; choices, where a row has some, win.',
  'data.items.map.rule': 'Grading rule of every row without one from answerType.',
  'data.items.map.precision': 'Decimals gold is given with: a number is then right when it rounds to gold.',
  'data.items.map.unit': 'Unit of gold, for numbers.',
  'data.items.map.where': 'Path → the value, or one of the values, a row must have.',
  'data.items.where': 'As in map, added to it: which rows are read.',
  'data.descriptions':
    'Where texts that take an image’s place come from, for items that have none: {file}, {model} of this study, or {endpoint}.',
  'data.descriptions.file': 'JSON lines with id and description.',
  'data.descriptions.model': 'The model of this study that writes them.',
  'data.descriptions.endpoint': 'An OpenAI-compatible endpoint that writes them.',
  'data.descriptions.endpoint.url': 'Its base address, such as http://localhost:8000/v1.',
  'data.descriptions.endpoint.model': 'The name it knows the model by.',
  'data.descriptions.endpoint.keyEnv': 'Environment variable that holds the key.',
  'data.descriptions.prompt': 'What is asked about the image.',
  'data.descriptions.maxTokens': 'Longest description in tokens.',
  'data.descriptions.tasks': 'Tasks whose images are described. Default: data.groups.visualReasoning.',
  'data.pairs': 'Image pairs for swapping. Needed by localize.vision.',
  'data.rules': 'Grading rule by task, over the data’s own.',
  'data.groups': 'Which tasks ask for what. Default: by whether the items have an image and a description.',
  'data.groups.vision': 'Tasks that ask for seeing: M_vis.',
  'data.groups.visualReasoning': 'Tasks that ask for reasoning over an image: M_v2r.',
  'data.groups.textReasoning': 'Tasks without an image: M_rea.',
  protocol: 'How every question is put, the same for all models.',
  'protocol.preset': 'Texts of a published recipe; what is written beside it wins.',
  'protocol.system': 'System prompt. Default: the chat template’s own.',
  'protocol.prefix': 'Put before every question.',
  'protocol.suffix': 'Put after every question, such as the answer format.',
  'protocol.described': 'How a description takes the image’s place: a text with {description} and {question}.',
  'protocol.choices': 'letters: a question with choices lists them as A., B., …; none: they only grade.',
  'protocol.maxTokens': 'Longest answer in tokens; longer ones are cut off and counted apart.',
  seed: 'Of everything drawn: items, noise, bootstrap, permutations, random controls.',
  controls: 'Runs that show what the instrument does by itself; they stand in every figure they apply to.',
  'controls.self': 'Patch runs with their own values: must change nothing.',
  'controls.random':
    'Random sets of as many layers beside every swap, ablation and graft; for grafts, this many. 0: none.',
  cuts: 'First layers of mid and late. Default: thirds ⌊L/3⌋ and ⌊2L/3⌋.',
  output: 'Run directory; --out overrides it.',
  experiments: 'What is measured; at least one.',
  'experiments.localize': 'Where the image is read, and which layers reasoning needs.',
  'experiments.localize.vision': 'Swap keys and values of the image rows with those of another image, layer by layer.',
  'experiments.localize.vision.modes':
    'suffix: layer l and all after it; single: l alone; window: l … l+width−1; prefix: up to l.',
  'experiments.localize.vision.width': 'Layers of a window.',
  'experiments.localize.vision.heads': 'KV heads that are swapped. Default: all.',
  'experiments.localize.vision.resize':
    'Images of unequal size: refuse the pair, or render the source at the target’s grid.',
  'experiments.localize.reasoning': 'Set what a layer adds to zero and ask again.',
  'experiments.localize.reasoning.parts': 'The whole layer, what its attention adds, or what its MLP adds.',
  'experiments.localize.reasoning.width': 'Neighbouring layers left out together.',
  'experiments.attend': 'Attention of reasoning and answer tokens to the image and the other spans.',
  'experiments.attend.writer': 'Whose text all models read in the same-text comparison.',
  'experiments.attend.pictures':
    'Items, drawn by the seed, whose attention is shown patch by patch over their picture. Default 4.',
  'experiments.characterize': 'What each step of training changed in the weights.',
  'experiments.characterize.control': 'Another continuation of the last but one model, such as more SFT.',
  'experiments.characterize.spectra':
    "Singular values, ranks and their rounding floor: true, false, or 'top' for the leading ones only.",
  'experiments.characterize.subspace': 'Dimension of the leading singular subspaces that are compared; 0: none.',
  'experiments.characterize.device':
    'Where sums and Gram matrices are computed; cuda copies every tensor there once. Never run on hardware yet.',
  'experiments.transfer': 'Blocks of RL layers grafted into IN and the other way round.',
  'experiments.transfer.in': 'The model before RL.',
  'experiments.transfer.rl': 'The model after RL.',
  'experiments.transfer.policy': 'Donor of the weights outside the decoder layers; a list makes it a factor.',
  'experiments.transfer.also': 'Further models, measured by the same measures.',
  'experiments.transfer.conditions':
    'What can be seen, beside what the measures need: image, black, none, description, noise, shuffled.',
  'experiments.transfer.interpolate':
    'Models between IN and RL: a region moves by α, all else is IN’s. {} takes the defaults.',
  'experiments.transfer.interpolate.alphas':
    'Shares of RL, finite; beyond 0 … 1 they extrapolate. 0 and 1 are always there. Default: 0.25, 0.5, 0.75.',
  'experiments.transfer.interpolate.regions':
    'early, mid, late; layers: all decoder layers; whole: every weight. Default: early, mid, late.',
  'experiments.transfer.interpolate.components':
    'all: whole layers; attn, mlp: their attention or their MLP, each with the norm before it. Default: all.',
  'experiments.transfer.interpolate.tasks': 'Some of the tasks of transfer. Default: all of them.',
  'experiments.transfer.interpolate.itemsPerTask': 'Some of the items of transfer, by task. Default: all of them.',
  'experiments.freeze': 'Runs that held a region fixed during RL, checked and measured.',
  'experiments.freeze.before': 'The checkpoint RL started from.',
  'experiments.freeze.full': 'The run that trained everything.',
  'experiments.freeze.controls': 'Other continuations of `before`, measured beside.',
  'experiments.freeze.frozen': 'Model name → the region its training held fixed.',
  'experiments.reference': 'The published protocol on the same data, deviation by deviation.',
  'experiments.reference.swap':
    'Model whose swaps are repeated with the published decode, which appends the image at every step.',
  'experiments.reference.prompts':
    'Ask the grafts by name, too, as the published scripts do; {} takes the styles’ defaults.',
  'experiments.reference.prompts.boxed': 'What the boxed style puts around a question.',
  'experiments.reference.prompts.reasoner': 'What the reasoner style puts around a question.',
  'experiments.reference.deviations': 'Which of them; default: all.',
};
/** Fields that several experiments share. */
const shared: Readonly<Record<string, string>> = {
  models: 'Names from `models`, in the order of training.',
  tasks: 'Tasks asked. Default: all that fit.',
  itemsPerTask: 'Items of every task, drawn with the seed; a larger number only adds items. Default: all.',
  maxTokens: 'Longest answer; overrides the protocol’s.',
};

interface Node {
  [key: string]: unknown;
  properties?: Record<string, Node>;
  anyOf?: Node[];
  items?: Node;
}

/** Paths of the schema without a meaning; empty when the table above is complete. */
export const undescribed: string[] = [];

/** JSON Schema (2020-12) of a study file, with descriptions. */
export function studyJsonSchema(): object {
  undescribed.length = 0;
  const schema = z.toJSONSchema(studySchema, { io: 'input' }) as Node;
  describe(schema, '');
  return { ...schema, title: 'galvani study', description: 'What to measure on which checkpoints; see docs/study.md.' };
}

function describe(node: Node, path: string): void {
  for (const option of [...(node.anyOf ?? []), ...(node.items ? [node.items] : [])]) describe(option, path);
  for (const [name, child] of Object.entries(node.properties ?? {})) {
    const at = path === '' ? name : `${path}.${name}`;
    const meaning =
      meanings[at] ?? (path.startsWith('experiments.') ? (shared[name] ?? meanings[`protocol.${name}`]) : undefined);
    if (meaning === undefined) undescribed.push(at);
    else child.description = meaning;
    describe(child, at);
  }
}
