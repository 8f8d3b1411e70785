"use strict";
/* The dialog in which each act is asked for once, with what it would come to; service.js stands before it, ask.html has its parts. */

const asking = { act: null, trying: null };

/* Say what would happen, and have it done if that is wanted. Of the act:
   would, path: where it is asked what it would come to, and where it is done. body: what both are sent.
   title, yes: where the service does not say them. spaced: each line of what it says is a paragraph. doing: said while it is done. done: called with what the service then says.
   after: called then, done or not. */
async function ask(act) {
  asking.act = act;
  asking.trying?.abort();
  const mine = asking.trying = new AbortController();
  at("ask-title").textContent = act.title || "…";
  at("ask-yes").textContent = act.yes || "Do it";
  at("ask-says").textContent = "Finding out what it would come to …";
  at("ask-wrong").textContent = "";
  at("ask-yes").disabled = true;
  at("ask").showModal();
  at("ask-no").focus();
  try {
    const told = await post(act.would, act.body, mine.signal);
    if (mine !== asking.trying) return;
    at("ask-title").textContent = act.title || told.title;
    at("ask-yes").textContent = act.yes || told.yes;
    at("ask-says").textContent = act.spaced ? told.says.replaceAll("\n", "\n\n") : told.says;
    at("ask-yes").disabled = false;
  } catch (error) {
    if (mine !== asking.trying || mine.signal.aborted) return;
    at("ask-title").textContent = act.title || "It cannot be done";
    at("ask-says").textContent = "";
    at("ask-wrong").textContent = error.message;
  }
}

async function doIt() {
  const { path, body, doing, done, after } = asking.act;
  at("ask-yes").disabled = true;
  at("ask-wrong").textContent = "";
  const said = at("ask-says").textContent;
  if (doing) at("ask-says").textContent = doing;
  try {
    const answer = await post(path, body);
    at("ask").close();
    tell(answer.said || "");
    done?.(answer);
  } catch (error) {
    if (doing) at("ask-says").textContent = said;
    at(at("ask").open ? "ask-wrong" : "wrong").textContent = error.message;
  }
  after?.();
}

at("ask-yes").addEventListener("click", doIt);
at("ask-no").addEventListener("click", () => at("ask").close());
at("ask").addEventListener("close", () => { if (!at("ask").open) asking.trying?.abort(); }); // it comes late: another may be open by then
