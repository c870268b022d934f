// What the scripts of this folder share: node SCRIPT.mjs URL prints what the client gave, as JSON.
import OpenAI from "openai";

export const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });

export const messages = [{ role: "user", content: "one two three" }];

/** The `metadata` that tells the echo engine what to say. */
export const script = (told) => ({ echo: JSON.stringify(told) });

export const print = (value) => console.log(JSON.stringify(value));
