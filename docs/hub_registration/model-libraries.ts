// The entry for packages/tasks/src/model-libraries.ts of huggingface.js: paste it between `nemo` and
// the next key. `repoUrl` (required) is not here: add the address of the public source repository.
	neuronsteer: {
		prettyLabel: "neuronsteer",
		repoName: "neuronsteer",
		snippets: snippets.neuronsteer,
		filter: false,
		countDownloads: `path:"adapter_config.json" OR path:"stats.json"`,
	},
