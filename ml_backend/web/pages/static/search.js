"use strict";
/* The search; service.js and found.js stand before it. `?like=7` and `?name=cat` are looked for at once. */

async function begin() {
  showKnown(await (await call("map/state")).json());
  const wanted = new URLSearchParams(location.search);
  if (/^[0-9]+$/.test(wanted.get("like") || "")) await find({ like: Number(wanted.get("like")) });
  else if (wanted.get("name")) {
    at("name").value = wanted.get("name");
    at("find").requestSubmit();
  } else at("name").focus();
}

signIn(() => { showSignedIn(true); begin().catch(complain); });
