// Whole answers: choices, stop strings, log-probabilities, and a completion of a prompt.
import { client, messages, print } from "./client.mjs";

const asked = { model: "echo", messages, n: 2, stop: ["three"], logprobs: true, top_logprobs: 2, seed: 7 };
const { data: answer, request_id } = await client.chat.completions.create(asked).withResponse();
const completion = await client.completions.create({ model: "echo", prompt: ["a b", "c"], echo: true });
const models = await client.models.list();

print({
  texts: answer.choices.map((choice) => choice.message.content),
  ends: answer.choices.map((choice) => choice.finish_reason),
  tokens: answer.choices[1].logprobs.content.map((each) => [each.token, each.top_logprobs.length]),
  usage: answer.usage,
  completed: completion.choices.map((choice) => choice.text),
  models: models.data.map((model) => model.id),
  request_id,
});
