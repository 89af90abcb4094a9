// A Tiptap editor in a DOM without a browser, and somebody who types into it.

import { Window } from "happy-dom";

// Tiptap looks for these when its modules are loaded, so they stand before the imports below.
const window = new Window({ url: "https://chat.example.org/" });
for (const name of ["window", "document", "navigator", "Node", "Element", "HTMLElement", "MutationObserver"]) {
  Object.defineProperty(globalThis, name, { value: name === "window" ? window : window[name], configurable: true });
}
globalThis.getComputedStyle = window.getComputedStyle.bind(window);

const { Editor } = await import("@tiptap/core");
const { StarterKit } = await import("@tiptap/starter-kit");
const { TaskItem, TaskList } = await import("@tiptap/extension-list");
const { Mention } = await import("@tiptap/extension-mention");
const { Emoji } = await import("@tiptap/extension-emoji");
const { TableKit } = await import("@tiptap/extension-table");
const { TextAlign } = await import("@tiptap/extension-text-align");
const { PluginKey } = await import("@tiptap/pm/state");

const noPopup = (char, key) => ({ char, pluginKey: new PluginKey(key), items: () => [] });

/** What an editor of ours may be made of; a draft names the ones it wants. */
export const parts = {
  plain: () => StarterKit,
  tasks: () => [TaskList, TaskItem.configure({ nested: true })],
  mentions: () => Mention.configure({ suggestions: [noPopup("@", "people"), noPopup("#", "chats")] }),
  emoji: () => Emoji.configure({ suggestion: noPopup(":", "emoji") }),
  table: () => TableKit.configure({ table: { resizable: false } }),
  align: () => TextAlign.configure({ types: ["heading", "paragraph"] }),
};

const letters = new Intl.Segmenter("en", { granularity: "grapheme" });

/** Types as a person does: letter by letter, so that Tiptap's own input rules make lists, code and marks of it. */
export class Typist {
  constructor(names, options = {}) {
    this.editor = new Editor({
      element: window.document.createElement("div"),
      extensions: names.flatMap((name) => parts[name]()),
      ...options,
    });
  }

  type(text) {
    const { view } = this.editor;
    for (const { segment } of letters.segment(text)) {
      const { from, to } = view.state.selection;
      const insert = () => view.state.tr.insertText(segment, from, to);
      // The order of prosemirror-view itself: input rules first, the plain letter if none wanted it.
      if (!view.someProp("handleTextInput", (handle) => handle(view, from, to, segment, insert))) view.dispatch(insert());
    }
    return this;
  }

  /** Keys such as "Tab" or "Shift-Enter"; one that no extension wants is a mistake in the draft. */
  press(...keys) {
    const { view } = this.editor;
    for (const each of keys) {
      const held = each.split("-");
      const key = held.pop();
      const event = new window.KeyboardEvent("keydown", { key, shiftKey: held.includes("Shift"), ctrlKey: held.includes("Ctrl") });
      if (!view.someProp("handleKeyDown", (handle) => handle(view, event))) throw new Error(`nobody wanted ${each}`);
    }
    return this;
  }

  /** Types a line and ends it. */
  line(text) {
    return this.type(text).press("Enter");
  }

  /** A command of the editor; one that does nothing is a mistake in the draft. */
  run(command, ...values) {
    if (!this.editor.commands[command](...values)) throw new Error(`the editor refused ${command}`);
    return this;
  }

  mention(id, label, mentionSuggestionChar = "@") {
    return this.run("insertContent", { type: "mention", attrs: { id, label, mentionSuggestionChar } });
  }

  /** The document, after Tiptap's schema has agreed that it is one of its own. */
  take() {
    const tree = this.editor.getJSON();
    this.editor.schema.nodeFromJSON(tree).check();
    this.editor.destroy();
    return tree;
  }
}

/** Lets go of the DOM, whose timers would keep the process alive. */
export async function close() {
  await window.happyDOM.close();
}
