// Hostler's own script: clocks that tick, the filter box, rows that do not jump, and the word on whether the page is live.
// Every page works without it; htmx and its SSE extension bring the changes in.
(() => {
  'use strict';
  const $ = (id) => document.getElementById(id);
  const all = (root, selector) => root.querySelectorAll(selector);
  const stream = $('stream'), live = $('live'), stale = $('stale'), rows = $('rows'), resort = $('resort'), box = $('q');

  // Clocks. The server wrote the moment; its own clock may differ from ours, so we count from when the page arrived.
  const skew = (() => {
    const sent = performance.getEntriesByType('navigation')[0]?.serverTiming?.find((t) => t.name === 'now');
    return sent ? Number(sent.description) - (performance.timeOrigin + performance.getEntriesByType('navigation')[0].responseStart) : 0;
  })();
  const now = () => Date.now() + skew;
  const spoken = (s) => s < 60 ? `${s} s`
    : s < 3600 ? `${Math.floor(s / 60)} min ${s % 60} s`
    : s < 86400 ? `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min`
    : `${Math.floor(s / 86400)} d ${Math.floor(s % 86400 / 3600)} h`;
  const left = (s) => s <= 0 ? 'any moment now' : s <= 10 ? 'a few seconds left'
    : s < 90 ? `about ${Math.ceil(s / 10) * 10} s left` : s < 5400 ? `about ${Math.floor((s + 30) / 60)} min left` : `about ${Math.floor((s + 1800) / 3600)} h left`;
  const set = (node, text) => { if (node.textContent !== text) node.textContent = text; };
  const tick = () => {
    const t = now();
    for (const e of all(document, 'time[data-ago]')) set(e, spoken(Math.max(0, Math.floor((t - e.dataset.ago / 1000) / 1000))));
    for (const e of all(document, 'time[data-left]')) set(e, left(Math.ceil((e.dataset.left / 1000 - t) / 1000)));
    for (const e of all(document, 'rect[data-grow]')) {
      const part = Math.min(0.9, Math.max(0, (t - e.dataset.since / 1000) / e.dataset.usual));
      e.setAttribute('width', Math.round(e.dataset.grow * part));
    }
  };
  tick();
  setInterval(tick, 1000);

  // The filter box hides rows at once; Enter asks the server, which looks through every page of the list.
  const words = () => box.value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (row, wanted) => wanted.every((w) => {
    const [field, value] = [w.slice(0, w.indexOf(':')), w.slice(w.indexOf(':') + 1)];
    if (field === 'state') return row.dataset.group === value || row.dataset.hay.split(' ').includes(value);
    if (field === 'rack') return (row.querySelector('.c-place')?.textContent.toLowerCase() ?? '').split('/')[0] === value;
    if (field === 'image') return row.dataset.hay.split(' ').includes(value);
    return row.dataset.hay.includes(w);
  });
  const filter = () => {
    if (!rows || !box) return;
    const wanted = words();
    let shown = 0;
    for (const row of rows.children) {
      const hide = !fits(row, wanted);
      if (row.hidden !== hide) row.hidden = hide;
      if (!hide) shown++;
    }
    const none = $('nomatch');
    if (none) none.hidden = shown > 0 || rows.children.length === 0;
  };
  box?.addEventListener('input', filter);
  document.addEventListener('keydown', (e) => {
    if (e.key === '/' && box && !e.ctrlKey && !e.metaKey && !e.altKey && !/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) {
      e.preventDefault();
      box.focus();
      box.select();
    }
  });

  // Order. A row moves only while nobody points at the list, reads in it with the keyboard, or has just touched it.
  let touched = -1e9;
  addEventListener('touchstart', () => { touched = performance.now(); }, {passive: true});
  addEventListener('scroll', () => { touched = performance.now(); }, {passive: true});
  const busy = () => rows.matches(':hover') || rows.contains(document.activeElement) || performance.now() - touched < 8000;
  const sorted = () => [...rows.children].sort((a, b) => a.dataset.rank < b.dataset.rank ? -1 : a.dataset.rank > b.dataset.rank ? 1 : 0);
  const sort = (force) => {
    if (!rows) return;
    const want = sorted();
    const same = want.every((row, i) => rows.children[i] === row);
    if (same) { resort.hidden = true; return; }
    if (!force && busy()) { resort.hidden = false; return; }
    resort.hidden = true;
    want.forEach((row, i) => { if (rows.children[i] !== row) rows.insertBefore(row, rows.children[i]); });
  };
  resort?.addEventListener('click', () => { sort(true); scrollTo({top: 0}); });
  if (rows) setInterval(() => sort(false), 3000);

  // A row that is not here yet goes to the end, where it pushes nothing away.
  document.addEventListener('htmx:before:swap', (e) => {
    for (const task of e.detail.tasks ?? []) {
      const row = task.fragment?.firstElementChild;
      if (!rows || task.target || task.swapSpec?.add === false || !row?.classList.contains('row')) continue;
      row.classList.add('fresh');
      rows.append(row);
      $('machines').hidden = false;
    }
  });
  document.addEventListener('htmx:after:swap', () => {
    tick();
    filter();
    sort(false);
    const log = document.querySelector('.log');
    if (log && log.dataset.end === '1') log.scrollTop = log.scrollHeight;
  });
  // The log follows its end while the reader is at its end.
  const follow = () => {
    const log = document.querySelector('.log');
    if (!log) return;
    log.dataset.end = log.scrollHeight - log.scrollTop - log.clientHeight < 30 ? '1' : '0';
  };
  document.addEventListener('scroll', (e) => { if (e.target.classList?.contains('log')) follow(); }, {capture: true, passive: true});
  const log = document.querySelector('.log');
  if (log) { log.scrollTop = log.scrollHeight; follow(); }

  // Live or not. The server beats every few seconds; silence is not health.
  if (stream) {
    let heard = performance.now(), since = now();
    const show = (ok) => {
      live.hidden = false;
      live.classList.toggle('paused', !ok);
      set(live.querySelector('.word'), ok ? 'Live' : 'Paused');
      stale.hidden = ok;
      if (!ok) set(stale, `Live updates paused: data as of ${new Date(since - skew).toLocaleTimeString()}. Reconnecting…`);
    };
    const hear = () => { heard = performance.now(); since = now(); show(true); };
    for (const name of ['htmx:sse:after:connection', 'htmx:sse:before:message', 'beat']) stream.addEventListener(name, hear);
    stream.addEventListener('htmx:sse:error', (e) => { if (e.detail.status === 401 || e.detail.status === 404) location.reload(); });
    stream.addEventListener('anew', () => location.reload());
    setInterval(() => { if (!document.hidden && performance.now() - heard > 12000) show(false); }, 1000);
    document.addEventListener('visibilitychange', () => { if (!document.hidden) heard = performance.now(); });
  }
})();
