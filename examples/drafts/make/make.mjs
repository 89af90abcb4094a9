// Writes examples/drafts/*.json; with --check only compares them, and exits 1 where one differs.

import { readFile, writeFile } from "node:fs/promises";
import { drafts, sizes } from "./drafts.mjs";
import { close } from "./typist.mjs";

const folder = new URL("../", import.meta.url);
const check = process.argv.includes("--check");

for (const [name, make] of Object.entries(drafts)) {
  const text = JSON.stringify(make().take());
  const bytes = Buffer.byteLength(text);
  const [least, most] = sizes[name] ?? [0, Infinity];
  if (bytes < least || bytes > most) throw new Error(`${name} has ${bytes} bytes; it must have ${least} to ${most}`);
  const file = new URL(name, folder);
  if (!check) {
    await writeFile(file, `${text}\n`);
  } else if ((await readFile(file, "utf8")) !== `${text}\n`) {
    console.error(`${name} differs from what Tiptap makes now; run: npm run make`);
    process.exitCode = 1;
  }
  console.log(`${String(bytes).padStart(6)} bytes  ${name}`);
}
await close();
