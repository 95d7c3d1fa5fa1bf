// The function for packages/tasks/src/model-libraries-snippets.ts of huggingface.js. `ModelData` and
// `get_base_diffusers_model` are there already.
export const neuronsteer = (model: ModelData): string[] => {
	if (model.tags.includes("neuron-statistics")) {
		return [
			`# pip install neuronsteer
import neuronsteer as ns

stats = ns.Stats.from_pretrained("${model.id}")
print(stats)`,
		];
	}
	return [
		`# pip install neuronsteer
import neuronsteer as ns
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("${get_base_diffusers_model(model)}")
tokenizer = AutoTokenizer.from_pretrained("${get_base_diffusers_model(model)}")
neurons = ns.NeuronSet.from_pretrained("${model.id}")

label = max(neurons.counts, key=neurons.counts.get)  # or another one of neurons.labels
with ns.attach(model, neurons, tokenizer=tokenizer) as steer:
    steer.to(label)
    ids = model.generate(**tokenizer("Hello", return_tensors="pt"), max_new_tokens=40)
print(tokenizer.decode(ids[0]))`,
	];
};
