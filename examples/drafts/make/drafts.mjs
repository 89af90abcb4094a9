// The drafts: for each file what is typed, and into which editor. Nothing here depends on time or chance.

import { Typist } from "./typist.mjs";

const ZWJ = "\u200d";
const RLM = "\u200f";
const LRM = "\u200e";

function empty() {
  return new Typist(["plain"]);
}

function short() {
  return new Typist(["plain"]).type("Can somebody look at the export before noon? It stops at row 4,812.");
}

function lists() {
  return new Typist(["plain", "tasks"])
    .line("For the move on Saturday:")
    .line("- Boxes")
    .press("Tab")
    .line("books, heavy ones at the bottom")
    .line("kitchen")
    .press("Tab")
    .line("glasses in *two* layers of paper")
    .press("Shift-Tab", "Shift-Tab")
    .line("Van: back by 18:00, **full tank**")
    .press("Enter")
    .line("In this order:")
    .line("3. Bedroom")
    .line("Living room")
    .press("Tab")
    .line("the piano needs four people")
    .press("Shift-Tab")
    .line("Everything else")
    .press("Enter")
    .line("Still open:")
    .line("[x] keys from the agent")
    .line("ask Jana about the dog")
    .press("Tab")
    .line("food, lead")
    .press("Shift-Tab")
    .type("read the ~~gas~~ electricity meter");
}

function code() {
  return new Typist(["plain"])
    .line("The **second** call *loses* the ~~lock~~ lease, because `renew()` returns `None` and nobody looks:")
    .line("```python")
    .line('async def renew(self, lease: Lease, note: str = "{[\\"") -> Lease | None:')
    .line('\tif lease.fence < self._fence:  # C:\\temp isn\'t "safe"')
    .line("\t    return None")
    .press("Enter")
    .type('RegEx: /^[{}\\[\\]"]+$/')
    .press("Ctrl-Enter")
    .line("And what the client shows:")
    .line("```")
    .line("Traceback (most recent call last):")
    .type("LeaseLost: fence 41 < 42")
    .press("Ctrl-Enter")
    .line("> See https://example.org/issues?q=lease&state=open#41 for the rest.")
    .press("Enter")
    .run("toggleUnderline")
    .type("Not urgent")
    .run("toggleUnderline")
    .type(".")
    .press("Shift-Enter")
    .type("Tomorrow is fine.");
}

function mentions() {
  return new Typist(["plain", "mentions"])
    .mention("8c1f3a52-64a0-4d0e-9a53-0f6b2d7c9e11", "Anneliese Müller")
    .type(" and ")
    .mention("0d94e1b7-51c8-4b43-8f0a-3c2e6a7f5d20", "بدر الدين")
    .type(", please answer ")
    .mention("team-7", null)
    .type(" in ")
    .mention("a41b77c0_2f0e8d1c-77aa-4c39-9f5e-6b1d3a90cc42", 'release "4.2" {draft}', "#")
    .press("Enter")
    .run("toggleBulletList")
    .type("**who** signs: ")
    .mention("5e7d20aa-9c11-4f6d-b1c7-d20e8f3b6a94", "Zoë O'Brien")
    .press("Enter")
    .mention("c3b9f4d1-2a6e-4e85-87d3-91f0a5b7e6c8", "山田 太郎")
    .type(" has the keys");
}

function emoji() {
  return new Typist(["plain"])
    .line("One each: 🎉 👀 ☕ ✅ ❤️ ☎︎ ©️ 1️⃣ #️⃣")
    .line(`Families: 👨${ZWJ}👩${ZWJ}👧${ZWJ}👦 👩${ZWJ}❤️${ZWJ}💋${ZWJ}👩 🧑🏾${ZWJ}🤝${ZWJ}🧑🏻`)
    .line(`At work: 👩🏽${ZWJ}🚀 👨${ZWJ}💻 🧑🏿${ZWJ}🏫 🐻${ZWJ}❄️`)
    .line(`Flags: 🇩🇪 🇮🇱 🇯🇵 🏳️${ZWJ}🌈 🏴${ZWJ}☠️ 🏴\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f}`)
    .line("Skin: 👍 👍🏻 👍🏼 👍🏽 👍🏾 👍🏿")
    .line("Composed and not: caf\u00e9 cafe\u0301 \u212b A\u030a \u1112\u1161\u11ab 한 Z\u0351\u036b\u0343algo")
    .type(`In marks: **👩🏽${ZWJ}🚀 lift-off** and \`🧪 --dry-run\``);
}

function emojiNodes() {
  return new Typist(["plain", "emoji"])
    .line("Shipped :tada: and it holds :rocket:")
    .type("Thanks ")
    .run("setEmoji", "family_man_woman_girl_boy")
    .type(" **all** ")
    .run("setEmoji", "+1")
    .type(" see you on Monday 🌞");
}

function rtl() {
  return new Typist(["plain", "align"], { textDirection: "auto" })
    .run("setTextAlign", "right")
    .line("שלום לכולם, הפגישה נדחתה ליום ג׳ בשעה 14:30.")
    .line(`הקובץ ${LRM}report_v2 (final).pdf${LRM} מחכה בתיקייה ${LRM}C:\\shared${LRM}, ראו **עמוד 7**.`)
    .line(`مرحبًا بالجميع، تأجّل الاجتماع إلى الثلاثاء الساعة ١٤:٣٠${RLM}.`)
    .run("setTextDirection", "rtl")
    .line("الرابط: https://example.org/ar?q=1&lang=ar والنسخة `sidecar==0.1`")
    .run("unsetTextAlign")
    .run("setTextDirection", "ltr")
    .line("The Arabic for “draft” is \u2067مسودّة\u2069, the Hebrew \u2067טיוטה\u2069; both run right to left.")
    .run("setTextDirection", "rtl")
    .line("- פריט ראשון")
    .type(`البند الثاني ${RLM}(2)${RLM}`);
}

function table() {
  const typist = new Typist(["plain", "align", "table"])
    .line("# Who brings what")
    .run("insertTable", { rows: 4, cols: 3, withHeaderRow: true });
  const cells = [
    ["Who", "What", "How much"],
    ["Ines", "`bread`, **fresh**", "2 kg"],
    ["Олег", "чай | кофе", "½ l"],
    ["together", "", "1,024 €"],
  ];
  const last = cells.length * cells[0].length - 1;
  cells.flat().forEach((text, number) => {
    typist.type(text);
    if (number % 3 === 2) typist.run("setTextAlign", "right");
    if (number < last) typist.run("goToNextCell");
  });
  // In the last row the first two cells become one.
  const [anchorCell, headCell] = rowsOf(typist.editor).at(-1);
  return typist.run("setCellSelection", { anchorCell, headCell }).run("mergeCells");
}

/** The position of each cell, row by row. */
function rowsOf(editor) {
  const rows = [];
  editor.state.doc.descendants((node, position) => {
    if (node.type.name === "tableRow") rows.push([]);
    if (node.type.spec.tableRole?.endsWith("cell")) rows.at(-1).push(position);
  });
  return rows;
}

// A long draft of the kind that people do write in a chat: minutes, one section for each topic.
const topics = [
  ["Import", "the importer", "Ines", "rows with an empty date"],
  ["Search", "the search index", "Олег", "words with a soft hyphen"],
  ["Billing", "the invoice job", "Noor", "the tax of the smaller islands"],
  ["Mobile", "the phone app", "Jana", "drafts that were written in the tunnel"],
  ["Backups", "the nightly backup", "Mateo", "the files over 2 GB"],
  ["Access", "the role of the guests", "太郎", "links that were passed on"],
  ["Translations", "the Portuguese texts", "Zoë", "plurals in the reminders"],
  ["Archive", "the old archive", "נועה", "scans without any text"],
];

function long() {
  const typist = new Typist(["plain", "tasks", "align"]).line("# Minutes, second quarter");
  typist.line("Everything that we said, in the order of the agenda. Please correct what I got wrong **before Friday**.");
  topics.forEach(([title, thing, who, detail], at) => {
    typist
      .line(`## ${at + 1}. ${title}`)
      .line(
        `${who} showed where *${thing}* stands: the ${at + 2} open points of last time are done, and what remains is ${detail}. ` +
          `Nobody had expected that this would take ${at + 3} days, but it turned out that half of the cases were never written down anywhere.`,
      )
      .line(
        `We talked for a while about whether ${thing} should wait for the release or go out alone. ` +
          `Against waiting: people ask for it **every week**. For waiting: ${detail} would have to be explained twice.`,
      )
      .line(`- ${who} writes down the cases, with one example each`)
      .press("Tab")
      .line(`first of all ${detail}`)
      .line(`then whatever support has heard about \`${title.toLowerCase()}\` since March`)
      .press("Shift-Tab")
      .line(`two of us try ${thing} on a copy of the real data`)
      .press("Enter")
      .line(`> “If ${detail} are the worst that we find, I am content,” said ${who}.`)
      .press("Enter")
      .line(`[${at % 2 ? "x" : " "}] a test that shows ${detail}`)
      .line(`tell the others, see https://example.org/minutes/${at + 1} for the notes`)
      .press("Enter");
  });
  return typist.type("Next time: **the 14th**, same place.");
}

function draft2kb() {
  return new Typist(["plain", "mentions"])
    .type("Hi ")
    .mention("8c1f3a52-64a0-4d0e-9a53-0f6b2d7c9e11", "Anneliese Müller")
    .line(", I went through the failed imports of last night 👀 and most of them are **one** bug:")
    .line("- the file has a byte order mark, so the first column is called `\\ufeffdate`")
    .line("we then read no date and fall back to today")
    .line("the report counts these rows twice, see https://example.org/runs/4812 for the log")
    .press("Enter")
    .line("The smallest change that I can think of:")
    .line("```python")
    .line('with open(path, encoding="utf-8-sig", newline="") as file:')
    .type("    rows = list(csv.DictReader(file))")
    .press("Ctrl-Enter")
    .line("Before we ship it:")
    .line("1. run it over the files of May")
    .line("ask Олег whether the old client still sends UTF-16")
    .press("Enter")
    .line("> An import must never guess a date.")
    .press("Enter")
    .type("I take the first one, you the second 🙏🏽");
}

/** File name → what makes it. */
export const drafts = {
  "empty.json": empty,
  "short.json": short,
  "lists.json": lists,
  "code.json": code,
  "mentions.json": mentions,
  "emoji.json": emoji,
  "emoji_nodes.json": emojiNodes,
  "rtl.json": rtl,
  "table.json": table,
  "long.json": long,
  "draft_2kb.json": draft2kb,
};

/** Least and most bytes, for the files whose size is part of their purpose. */
export const sizes = {
  "long.json": [18_000, 24_000],
  "draft_2kb.json": [1_900, 2_200],
};
