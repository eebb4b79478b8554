import type { CompleteLoraConfig } from '../peft/lora-config.ts';
import type { LoraTarget } from '../peft/target-matching.ts';

/** A name as a YAML scalar: JSON strings are YAML. */
const yaml = (text: string): string => JSON.stringify(text);

/** README.md of an adapter folder: the front matter that model hubs read, what the adapter is, and how to use it. */
export function modelCard(config: CompleteLoraConfig, targets: readonly LoraTarget[]): string {
  const base = config.baseModelNameOrPath;
  const names = [...new Set(targets.map(({ path }) => path.slice(path.lastIndexOf('.') + 1)))];
  return `---
${base ? `base_model: ${yaml(base)}\n` : ''}library_name: peft
pipeline_tag: text-generation
tags:
- lora
- lorikeet
---

# LoRA adapter

${base ? `For \`${base}\`. ` : ''}Rank ${config.r}, alpha ${config.loraAlpha}${config.useRslora ? ' (rank-stabilized)' : ''}, dropout ${config.loraDropout}; ${targets.length} adapted layers (${names.join(', ')}).

In Python:

\`\`\`python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(${JSON.stringify(base ?? 'BASE')})
model = PeftModel.from_pretrained(model, "THIS_FOLDER")
\`\`\`

On the command line: \`lorikeet chat --model BASE --adapter THIS_FOLDER\`.
`;
}
