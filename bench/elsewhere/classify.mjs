// node classify.mjs PARENT NAME TEXTS.json OPTIONS.json -> {version, labels} of the model in PARENT/NAME
import {readFileSync} from 'node:fs';
import {env, pipeline} from '@huggingface/transformers';

const [parent, name, texts, options] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = parent;
const classify = await pipeline('text-classification', name, JSON.parse(options));
const labels = [];
for (const text of JSON.parse(readFileSync(texts, 'utf8'))) labels.push((await classify(text))[0].label);
console.log(JSON.stringify({version: env.version, labels}));
