// A question to the person before something is lost.

import { button, make } from "./dom.js";

// `answers`: pairs of a button's text and what it means. Gives the meaning of the one that is pressed, null for none.
export function ask(dialog, text, answers) {
  return new Promise((answer) => {
    const close = (meaning) => {
      dialog.onclose = null;
      dialog.close();
      answer(meaning);
    };
    dialog.onclose = () => answer(null); // by Esc
    const choices = answers.map(([words, meaning], place) => button(words, "", () => close(meaning), { className: place ? "" : "main" }));
    // Enter, which segments elsewhere, is no answer that loses something
    const cancel = button("Cancel", "Nothing changes (Esc)", () => close(null), { autofocus: true });
    dialog.replaceChildren(make("p", {}, text), make("div", { className: "buttons" }, ...choices, cancel));
    dialog.showModal();
  });
}
