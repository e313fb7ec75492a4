/** Conversations of the fixtures, with images as paths. */
import type { PromptMessage } from '../../lib/processor/prompt.js';
import { fixturePath, type ParityCase } from './fixture.js';

export function parityMessages({ messages }: Pick<ParityCase, 'messages'>): PromptMessage[] {
  return messages.map(({ role, content }) => ({
    role,
    content:
      typeof content === 'string'
        ? content
        : content.map((part) =>
            part.type === 'image' ? { type: 'image' as const, image: fixturePath(`images/${part.image}`) } : part,
          ),
  }));
}
