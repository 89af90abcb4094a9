// Hocuspocus' own providers as the load: URL, people, seconds, rounds, and the name of a file with the draft, in which
// "·place·" stands where the number goes. Each person has two providers on one document, each on a socket of its own; one
// sets the text, and sets the next when the other has it. Prints one line of JSON: an object for each round.
//
// With 0 people: the document that is named in their place is read by one provider, and its text printed.

import { readFileSync } from "node:fs";
import { HocuspocusProvider, HocuspocusProviderWebsocket } from "@hocuspocus/provider";
import WebSocket from "ws";
import * as Y from "yjs";

const [url, people, seconds, rounds, file, named] = process.argv.slice(1);

function open(name) {
  return new Promise((resolve, reject) => {
    const websocketProvider = new HocuspocusProviderWebsocket({ url, WebSocketPolyfill: WebSocket });
    const provider = new HocuspocusProvider({
      websocketProvider,
      name,
      token: "bench",
      document: new Y.Doc(),
      onSynced: () => resolve(provider),
      onAuthenticationFailed: ({ reason }) => reject(new Error(reason)),
    });
    provider.attach();
  });
}

const drafts = (provider) => provider.document.getMap("drafts");

if (people === "0") {
  console.log(JSON.stringify(drafts(await open(named)).get("text")));
  process.exit(0);
}

const [before, after] = readFileSync(file, "utf8").split("·place·");
const pairs = [];
for (let number = 0; number < Number(people); number += 1) {
  const name = `providers-${people}-${number}`;
  pairs.push((await Promise.all([open(name), open(name)])).map(drafts));
}

let count = 0;
function edit([one, two], until, latencies) {
  return new Promise((resolve) => {
    let text;
    let started;
    const next = () => {
      count += 1;
      text = before + count + after;
      started = performance.now();
      one.set("text", text);
    };
    const seen = () => {
      if (two.get("text") !== text) return;
      latencies.push(performance.now() - started);
      if (performance.now() < until) {
        next();
      } else {
        two.unobserve(seen);
        resolve();
      }
    };
    two.observe(seen);
    next();
  });
}

async function round(length) {
  const latencies = [];
  const used = process.cpuUsage();
  const began = performance.now();
  await Promise.all(pairs.map((pair) => edit(pair, began + length * 1e3, latencies)));
  const wall = (performance.now() - began) / 1e3;
  const { user, system } = process.cpuUsage(used);
  latencies.sort((one, other) => one - other);
  const at = (share) => latencies[Math.min(latencies.length - 1, Math.floor(latencies.length * share))] / 1e3;
  return { rate: latencies.length / wall, p50: at(0.5), p99: at(0.99), generator: (user + system) / 1e6 / wall };
}

await round(Number(seconds) / 4);
const found = [];
for (let number = 0; number < Number(rounds); number += 1) found.push(await round(Number(seconds)));
console.log(JSON.stringify(found));
process.exit(0);
