"use strict";
/* Files to take away; service.js and project.js stand before it. The service makes one, which is told here; the browser then streams it to disk.
   In a block: another script of the page may have the same names. */

{
  let fetching = "";

  const rest = (ms) => new Promise((done) => setTimeout(done, ms));

  function fileSaid(text, wrong = false) {
    const line = at("file-said");
    if (!line) return;
    line.textContent = text;
    line.classList.toggle("wrong", wrong);
  }

  /* Hand the file over to the browser: an address that is good for one time. */
  function save(name, address) {
    const link = Object.assign(document.createElement("a"), { href: address, download: "" });
    document.body.append(link);
    link.click();
    link.remove();
    fileSaid(`${name} is on its way.`);
  }

  /* What is wrong with it comes first; then it is saved all the same, or not. */
  function warn(name, warnings) {
    const box = at("file-warnings"), list = document.createElement("ul"), button = document.createElement("button");
    for (const warning of warnings) list.append(Object.assign(document.createElement("li"), { textContent: warning }));
    Object.assign(button, { type: "button", id: "file-save", className: "main", textContent: `Save ${name}` });
    button.addEventListener("click", () => { box.hidden = true; bring(name, true); });
    box.replaceChildren(list, button);
    box.hidden = false;
    fileSaid(`${name} is ready. Read this first:`);
    button.focus();
  }

  async function bring(name, agreed = false) {
    if (fetching) return fileSaid(`${fetching} is being made: one at a time.`);
    fetching = name;
    at("file-warnings").hidden = true;
    try {
      const address = `files/${name}${agreed ? "?same=true" : ""}`;
      let told = await post(address, {});
      for (; told.state === "making"; told = await post(address, {})) {
        fileSaid(`Making ${name}: ${told.said} …`);
        await rest(1_000);
      }
      if (told.warnings.length && !agreed) warn(name, told.warnings);
      else save(name, told.address);
    } catch (error) {
      fileSaid(error.message, true);
    } finally {
      fetching = "";
    }
  }

  at("work").addEventListener("click", (event) => {
    const button = event.target.closest("button[data-file]");
    if (button) bring(button.dataset.file);
  });
}
