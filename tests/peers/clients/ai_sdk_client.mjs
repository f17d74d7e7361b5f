// Vercel's AI SDK at /v1, one line of JSON for each thing that it did.
//
//     node ai_sdk_client.mjs PLAN FOLDER_OF_NODE_MODULES

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [text, folder] = process.argv.slice(2);
const { url, key, wrong } = JSON.parse(text);
const require = createRequire(`${folder}/`);
const load = (name) => import(pathToFileURL(require.resolve(name)));

const { generateText, isStepCount, jsonSchema, streamText, tool } = await load("ai");
const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");
const sexton = createOpenAICompatible({ name: "sexton", baseURL: url, apiKey: key, includeUsage: true });
const model = sexton("sexton");
const maxRetries = 0;
const say = (step) => process.stdout.write(JSON.stringify(step) + "\n");
const failure = (error) => ({ status: error.statusCode, message: error.message, retryable: error.isRetryable });

const places = [];
const weather = tool({
  description: "The weather of a place.",
  inputSchema: jsonSchema({ type: "object", properties: { place: { type: "string" } }, required: ["place"] }),
  execute: async ({ place }) => {
    places.push(place);
    return `rain in ${place}`;
  },
});

const whole = await generateText({ model, prompt: "what does it say?", maxRetries });
say({ text: whole.text, reason: whole.finishReason, tokens: whole.usage.totalTokens });

const stream = streamText({ model, prompt: "and in pieces?", maxRetries });
const pieces = [];
for await (const piece of stream.textStream) pieces.push(piece);
say({ pieces, reason: await stream.finishReason, tokens: (await stream.usage).totalTokens });

const withTools = { model, tools: { weather }, prompt: "the weather?", stopWhen: isStepCount(3), maxRetries };
const called = await generateText(withTools);
say({ text: called.text, places: places.splice(0), steps: called.steps.map((step) => step.finishReason) });

const streamed = streamText(withTools);
await streamed.consumeStream();
say({ text: await streamed.text, places, steps: (await streamed.steps).map((step) => step.finishReason) });

for (const asked of [sexton("nobody"), createOpenAICompatible({ name: "x", baseURL: url, apiKey: wrong })("sexton")]) {
  await generateText({ model: asked, prompt: "x", maxRetries }).catch((error) => say(failure(error)));
}
const errors = [];
const broken = streamText({ model, prompt: "it breaks", maxRetries, onError: ({ error }) => errors.push(error) });
const heard = [];
for await (const piece of broken.textStream) heard.push(piece);
say({ heard, errors: errors.map((error) => String(error.message ?? error)) });
