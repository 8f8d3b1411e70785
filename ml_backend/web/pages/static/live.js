"use strict";
/* What happens, told by the service while the page is in sight: an EventSource that sends who calls in a header. service.js stands before it. */

class Happenings extends EventTarget {
  constructor(url) {
    super();
    Object.assign(this, { url, readyState: EventSource.CONNECTING, onopen: null, onerror: null, pause: 1_000, missed: false });
    this.seen = () => (document.hidden ? this.leave() : this.read());
    document.addEventListener("visibilitychange", this.seen);
    this.seen();
  }

  /* Out of sight it is left: a browser keeps six connections to a service, for all its tabs together. */
  leave() {
    clearTimeout(this.timer);
    this.missed = true;
    this.reading?.abort();
    this.reading = null;
  }

  close() {
    document.removeEventListener("visibilitychange", this.seen);
    this.leave();
    this.readyState = EventSource.CLOSED;
  }

  async read() {
    if (this.reading || this.readyState === EventSource.CLOSED) return;
    const mine = this.reading = new AbortController();
    try {
      const answer = await call(this.url, { signal: mine.signal });
      this.readyState = EventSource.OPEN;
      this.pause = 1_000;
      this.onopen?.(new Event("open"));
      if (this.missed) for (const name of ["turn", "labels", "served", "settings", "acts"]) this.dispatchEvent(new MessageEvent(name));
      this.missed = true;
      await this.take(answer.body.getReader());
    } catch (error) {
      if (mine.signal.aborted) return;
      this.missed = true;
      if (error.status === 401 || error.status === 403) {
        this.close();
        return complain(error); // else the page would look as if nothing happened any more
      }
    }
    this.readyState = EventSource.CONNECTING;
    this.reading = null;
    this.timer = setTimeout(() => { if (!document.hidden) this.read(); }, this.pause);
    this.pause = Math.min(2 * this.pause, 15_000);
  }

  async take(reader) {
    const decoder = new TextDecoder();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += decoder.decode(value, { stream: true });
      const blocks = text.split("\n\n");
      text = blocks.pop();
      for (const block of blocks) {
        const name = /^event: (.*)$/m.exec(block);
        if (name) this.dispatchEvent(new MessageEvent(name[1]));
      }
    }
  }
}

htmx.createEventSource = (url) => new Happenings(url);
